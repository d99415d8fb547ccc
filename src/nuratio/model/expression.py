"""Parameters given as smooth functions of other parameters, with exact first and second derivatives.

An expression such as ``"mu - sqrt(mu)"`` or ``"kappa**2"`` is parsed over a short list of allowed operations and
becomes a list of instructions for a stack (nothing is executed as Python). A compiled loop runs them with second-order
forward differentiation: each entry of the stack carries its value, gradient and Hessian with respect to all parameters.
"""

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel, did_you_mean
from nuratio.model.compiling import compiler
from nuratio.workspace.strict_json import LONGEST_EXPRESSION

__all__ = ["FUNCTIONS", "Dual", "Expression"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SHOWN = 60  # characters of an expression in a message

# what an instruction does: push a number or a parameter, or replace the last one or two entries of the stack
_NUMBER, _PARAMETER = 0, 1
_NEGATE, _SQRT, _EXP, _LOG, _SIN, _COS = 2, 3, 4, 5, 6, 7
_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE = 8, 9, 10, 11
_POWER, _VARIABLE_POWER = 12, 13  # of an exponent that has no parameter in it; of one that has

FUNCTIONS = {"sqrt": _SQRT, "exp": _EXP, "log": _LOG, "sin": _SIN, "cos": _COS}

_OPERATORS: dict[type[ast.operator], int] = {
    ast.Add: _ADD,
    ast.Sub: _SUBTRACT,
    ast.Mult: _MULTIPLY,
    ast.Div: _DIVIDE,
    ast.Pow: _POWER,
}
_WRITTEN = {code: name for name, code in FUNCTIONS.items()} | {
    _ADD: "+",
    _SUBTRACT: "-",
    _MULTIPLY: "*",
    _DIVIDE: "/",
    _POWER: "**",
    _VARIABLE_POWER: "**",
}


@dataclass(frozen=True)
class Dual:
    """A number with its gradient (n,) and Hessian (n, n) with respect to n parameters."""

    value: float
    gradient: Floats
    hessian: Floats

    @classmethod
    def constant(cls, value: float, n: int) -> "Dual":
        """A number that depends on nothing; with n = 0 a plain number, for a value without derivatives."""
        return cls(value, np.zeros(n), np.zeros((n, n)))

    @classmethod
    def parameter(cls, value: float, index: int, n: int) -> "Dual":
        """Parameter number ``index`` of n."""
        return cls(value, np.eye(n)[index], np.zeros((n, n)))


@dataclass(frozen=True, eq=False)
class Expression:
    """A parsed expression.

    Attributes
    ----------
    text : str
        As written.
    names : tuple of str
        The parameters that occur in it, sorted.
    """

    text: str
    names: tuple[str, ...]
    _codes: Ints
    _operands: Floats  # of an instruction: a number to push, or which of the names

    @classmethod
    def parse(cls, text: str) -> "Expression":
        """Parse numbers, parameter names, ``+ - * / **``, parentheses and the functions of `FUNCTIONS`.

        Raises
        ------
        InvalidModel
            Anything else, with the text and the part that is not understood; a text of more than 20000 characters.
        """
        if len(text) > LONGEST_EXPRESSION:
            raise InvalidModel(
                f"expression of {len(text)} characters: {_shown(text)}; the limit is {LONGEST_EXPRESSION}: "
                "give parts of it names of their own, as further normfactors"
            )
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InvalidModel(
                f"expression {_shown(text)} does not parse: {str(error) or 'nested too deeply'}"
            ) from error
        program: list[tuple[int, float | str]] = []
        try:
            _compile(tree, text, program)
        except RecursionError as error:
            raise InvalidModel(f"expression of {len(text)} characters is nested too deeply") from error
        names = tuple(sorted({operand for _, operand in program if isinstance(operand, str)}))
        place = {name: float(j) for j, name in enumerate(names)}
        operands = [place[operand] if isinstance(operand, str) else operand for _, operand in program]
        return cls(text, names, np.array([code for code, _ in program], dtype=np.int64), np.array(operands))

    def __str__(self) -> str:
        """For messages: its beginning."""
        return _shown(self.text)

    def __call__(self, values: Mapping[str, Dual]) -> Dual:
        """Value, gradient and Hessian at the given parameters, which have derivatives by the same n parameters.

        Raises
        ------
        InvalidModel
            Where the expression is undefined (the square root of a negative number, a division by zero) or infinite.
        """
        used = [values[name] for name in self.names]
        n = len(next(iter(values.values())).gradient) if values else 0
        x = np.array([u.value for u in used])
        first = np.array([u.gradient for u in used]).reshape(len(used), n)
        second = np.array([u.hessian for u in used]).reshape(len(used), n, n)
        value, gradient, hessian, failed, a, b = _run(self._codes, self._operands, x, first, second)
        if failed >= 0:
            code = int(self._codes[failed])
            what = f"{_WRITTEN[code]}({a:.6g})" if code in FUNCTIONS.values() else f"{a:.6g} {_WRITTEN[code]} {b:.6g}"
            at = ", ".join(f"{name} = {u.value:.6g}" for name, u in zip(self.names, used, strict=True))
            raise InvalidModel(f"expression {self} is undefined at {at}: {what} is {value:.6g}; restrict the bounds")
        return Dual(value, gradient, hessian)


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"


def _compile(node: ast.expr, text: str, program: list[tuple[int, float | str]]) -> None:
    """Append the instructions that leave a node's value on the stack."""
    match node:
        case ast.Constant(value=int() | float() as value) if type(value) is not bool and value <= sys.float_info.max:
            program.append((_NUMBER, float(value)))
        case ast.Name(id=name):
            program.append((_PARAMETER, name))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            _compile(operand, text, program)
            if isinstance(sign, ast.USub):
                program.append((_NEGATE, 0.0))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _compile(left, text, program)
            start = len(program)
            _compile(right, text, program)
            varies = any(code == _PARAMETER for code, _ in program[start:])
            program.append((_VARIABLE_POWER if varies and isinstance(op, ast.Pow) else _OPERATORS[type(op)], 0.0))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            if name not in FUNCTIONS:
                raise InvalidModel(
                    f"expression {_shown(text)}: no function {name!r}; {did_you_mean(name, FUNCTIONS, 'functions')}"
                )
            _compile(argument, text, program)
            program.append((FUNCTIONS[name], 0.0))
        case _:
            raise InvalidModel(
                f"expression {_shown(text)}: {ast.unparse(node)!r} is not allowed; use numbers, parameter names, "
                f"+ - * / ** and {', '.join(FUNCTIONS)}"
            )


_jit = compiler()


@_jit
def _times(factor: float, derivative: float) -> float:
    """Their product; where a parameter does not enter (derivative 0) it stays 0 for an infinite factor too."""
    return 0.0 if derivative == 0.0 else factor * derivative


@_jit
def _curve(factor: float, a: float, b: float) -> float:
    """factor x a x b; 0 where the factor, or a parameter's derivative, is 0."""
    return 0.0 if factor == 0.0 or a == 0.0 or b == 0.0 else factor * a * b


@_jit
def _monomial(factor: float, x: float, p: float) -> float:
    """factor x**p, infinite at x = 0 for a negative power: a slope there, as of a square root."""
    return 0.0 if factor == 0.0 else factor * x**p


@_jit
def _function(code: int, x: float) -> tuple[float, float, float]:
    """A function of one number with its first and second derivative."""
    if code == _NEGATE:
        return -x, -1.0, 0.0
    if code == _SQRT:
        root = np.sqrt(x)
        return root, 0.5 / root, -0.25 / root**3
    if code == _EXP:
        e = np.exp(x)
        return e, e, e
    if code == _LOG:
        return np.log(x), 1 / x, -1 / x**2
    if code == _SIN:
        return np.sin(x), np.cos(x), -np.sin(x)
    return np.cos(x), -np.sin(x), -np.cos(x)


@_jit
def _operation(code: int, a: float, b: float) -> tuple[float, float, float, float, float, float]:
    """An operation on two numbers, with its derivatives by a, b, aa, ab, bb."""
    if code == _ADD:
        return a + b, 1.0, 1.0, 0.0, 0.0, 0.0
    if code == _SUBTRACT:
        return a - b, 1.0, -1.0, 0.0, 0.0, 0.0
    if code == _MULTIPLY:
        return a * b, b, a, 0.0, 1.0, 0.0
    if code == _DIVIDE:
        return a / b, 1 / b, -a / b**2, 0.0, -1 / b**2, 2 * a / b**3
    if code == _POWER:
        return a**b, _monomial(b, a, b - 1), 0.0, _monomial(b * (b - 1), a, b - 2), 0.0, 0.0
    log = np.log(a)  # an exponent that varies takes a positive base
    f = np.exp(b * log)
    return f, b * f / a, f * log, b * (b - 1) * f / a**2, f * (1 + b * log) / a, f * log**2


@_jit
def _run(
    codes: Ints, operands: Floats, x: Floats, first: Floats, second: Floats
) -> tuple[float, Floats, Floats, int, float, float]:
    """Run the instructions.

    Parameters
    ----------
    codes, operands : ndarray, shape (instructions,)
    x, first, second : ndarray, shapes (m,), (m, n), (m, n, n)
        The m parameters that occur, with derivatives by n parameters.

    Returns
    -------
    value, gradient, hessian
    failed : int
        The first instruction whose value (then the first result) is not finite, or -1.
    a, b : float
        What it was applied to.
    """
    n, depth, deepest = first.shape[1], 0, 0
    for code in codes:
        depth += 1 if code <= _PARAMETER else -1 if code >= _ADD else 0
        deepest = max(deepest, depth)
    value, gradient, hessian = np.zeros(deepest), np.zeros((deepest, n)), np.zeros((deepest, n, n))
    t = -1  # the top of the stack
    for k in range(len(codes)):
        code = codes[k]
        if code == _NUMBER:
            t += 1
            value[t] = operands[k]
            for i in range(n):
                gradient[t, i] = 0.0
                for j in range(n):
                    hessian[t, i, j] = 0.0
        elif code == _PARAMETER:
            t += 1
            p = int(operands[k])
            value[t] = x[p]
            for i in range(n):
                gradient[t, i] = first[p, i]
                for j in range(n):
                    hessian[t, i, j] = second[p, i, j]
        elif code < _ADD:
            a, b = value[t], 0.0
            f, fa, faa = _function(code, a)
            if not np.isfinite(f):
                return f, gradient[0], hessian[0], k, a, b
            value[t] = f
            for i in range(n):
                for j in range(n):
                    own = _curve(faa, gradient[t, i], gradient[t, j])
                    hessian[t, i, j] = _times(fa, hessian[t, i, j]) + own
            for i in range(n):
                gradient[t, i] = _times(fa, gradient[t, i])
        else:
            t -= 1
            a, b = value[t], value[t + 1]
            f, fa, fb, faa, fab, fbb = _operation(code, a, b)
            if not np.isfinite(f):
                return f, gradient[0], hessian[0], k, a, b
            value[t] = f
            for i in range(n):
                for j in range(n):
                    ai, aj, bi, bj = gradient[t, i], gradient[t, j], gradient[t + 1, i], gradient[t + 1, j]
                    own = _curve(faa, ai, aj) + _curve(fbb, bi, bj)
                    mixed = _curve(fab, ai, bj) + _curve(fab, bi, aj)
                    hessian[t, i, j] = _times(fa, hessian[t, i, j]) + _times(fb, hessian[t + 1, i, j]) + own + mixed
            for i in range(n):
                gradient[t, i] = _times(fa, gradient[t, i]) + _times(fb, gradient[t + 1, i])
    return value[0], gradient[0], hessian[0], -1, 0.0, 0.0
