"""Parameters given as smooth functions of other parameters, with exact first and second derivatives.

An expression such as ``"mu - sqrt(mu)"`` or ``"kappa**2"`` is parsed over a short list of allowed operations (nothing
is executed), and evaluated with second-order forward differentiation: each sub-expression carries its value, gradient
and Hessian with respect to all parameters.
"""

import ast
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel, did_you_mean

__all__ = ["FUNCTIONS", "Dual", "Expression"]

Floats = NDArray[np.float64]

_LONGEST = 1000  # characters


@dataclass(frozen=True)
class Dual:
    """A number with its gradient (n,) and Hessian (n, n) with respect to n parameters."""

    value: float
    gradient: Floats
    hessian: Floats

    @classmethod
    def constant(cls, value: float, n: int) -> "Dual":
        """A number that depends on nothing."""
        return cls(value, np.zeros(n), np.zeros((n, n)))

    @classmethod
    def parameter(cls, value: float, index: int, n: int) -> "Dual":
        """Parameter number ``index`` of n."""
        return cls(value, np.eye(n)[index], np.zeros((n, n)))

    def chain(self, f: float, f1: float, f2: float) -> "Dual":
        """f(self), given f and its first and second derivative at the value."""
        outer = _outer(self.gradient, self.gradient)
        return Dual(f, _scaled(f1, self.gradient), _scaled(f2, outer) + _scaled(f1, self.hessian))

    def __add__(self, other: "Dual") -> "Dual":
        return Dual(self.value + other.value, self.gradient + other.gradient, self.hessian + other.hessian)

    def __neg__(self) -> "Dual":
        return Dual(-self.value, -self.gradient, -self.hessian)

    def __sub__(self, other: "Dual") -> "Dual":
        return self + (-other)

    def __mul__(self, other: "Dual") -> "Dual":
        cross = _outer(self.gradient, other.gradient)
        return Dual(
            self.value * other.value,
            _scaled(self.value, other.gradient) + _scaled(other.value, self.gradient),
            _scaled(self.value, other.hessian) + _scaled(other.value, self.hessian) + cross + cross.T,
        )

    def __truediv__(self, other: "Dual") -> "Dual":
        x = other.value
        return self * other.chain(1 / x, -1 / x**2, 2 / x**3)

    def __pow__(self, other: "Dual") -> "Dual":
        if not (np.any(other.gradient) or np.any(other.hessian)):
            x, p = self.value, other.value
            if p == 0:
                return Dual.constant(1.0, len(self.gradient))
            if p == 1:
                return self
            if x < 0 and p != int(p):
                raise ValueError(f"{x:.6g} to the power {p:.6g}")
            return self.chain(x**p, _monomial(p, x, p - 1), _monomial(p * (p - 1), x, p - 2))
        return FUNCTIONS["exp"](other * FUNCTIONS["log"](self))


def _monomial(factor: float, x: float, p: float) -> float:
    """factor x**p, infinite at x = 0 for a negative power: a slope there, as of a square root."""
    return math.copysign(math.inf, factor) if x == 0 and p < 0 else factor * x**p


def _scaled(factor: float, derivatives: Floats) -> Floats:
    """factor x derivatives; where a parameter does not enter (derivative 0) it stays 0 for an infinite factor too."""
    with np.errstate(invalid="ignore"):
        return np.where(derivatives == 0, 0.0, factor * derivatives)


def _outer(a: Floats, b: Floats) -> Floats:
    """Outer product, 0 where either parameter does not enter."""
    return np.where((a == 0)[:, None] | (b == 0), 0.0, np.outer(np.where(a == 0, 1, a), np.where(b == 0, 1, b)))


def _sqrt(u: Dual) -> Dual:
    if u.value == 0:
        return u.chain(0.0, math.inf, -math.inf)
    root = math.sqrt(u.value)
    return u.chain(root, 0.5 / root, -0.25 / root**3)


FUNCTIONS: dict[str, Callable[[Dual], Dual]] = {
    "sqrt": _sqrt,
    "exp": lambda u: u.chain(math.exp(u.value), math.exp(u.value), math.exp(u.value)),
    "log": lambda u: u.chain(math.log(u.value), 1 / u.value, -1 / u.value**2),
    "sin": lambda u: u.chain(math.sin(u.value), math.cos(u.value), -math.sin(u.value)),
    "cos": lambda u: u.chain(math.cos(u.value), -math.sin(u.value), -math.cos(u.value)),
}

_OPERATORS: dict[type[ast.operator], Callable[[Dual, Dual], Dual]] = {
    ast.Add: Dual.__add__,
    ast.Sub: Dual.__sub__,
    ast.Mult: Dual.__mul__,
    ast.Div: Dual.__truediv__,
    ast.Pow: Dual.__pow__,
}


@dataclass(frozen=True)
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
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> "Expression":
        """Parse numbers, parameter names, ``+ - * / **``, parentheses and the functions of `FUNCTIONS`.

        Raises
        ------
        InvalidModel
            Anything else, with the text and the part that is not understood; a text of more than 1000 characters.
        """
        if len(text) > _LONGEST:
            raise InvalidModel(f"expression of {len(text)} characters: {text[:50]!r}...; the limit is {_LONGEST}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InvalidModel(f"expression {text!r} does not parse: {error or 'nested too deeply'}") from error
        names: set[str] = set()
        try:
            _check(tree, text, names)
        except RecursionError as error:
            raise InvalidModel(f"expression of {len(text)} characters is nested too deeply") from error
        return cls(text, tuple(sorted(names)), tree)

    def __call__(self, values: Mapping[str, Dual]) -> Dual:
        """Value, gradient and Hessian at the given parameters.

        Raises
        ------
        InvalidModel
            Where the expression is undefined (the square root of a negative number, a division by zero) or infinite.
        """
        n = len(next(iter(values.values())).gradient) if values else 0
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # slopes may be infinite, the value not
                result = _evaluate(self._tree, values, n)
            if not math.isfinite(result.value):
                raise OverflowError(f"the result is {result.value}")
            return result
        except (ValueError, ZeroDivisionError, OverflowError, RecursionError) as error:
            at = ", ".join(f"{name} = {values[name].value:.6g}" for name in self.names)
            raise InvalidModel(
                f"expression {self.text!r} is undefined at {at}: {error}; restrict the bounds"
            ) from error


def _check(node: ast.expr, text: str, names: set[str]) -> None:
    match node:
        case ast.Constant(value=bool()):
            allowed = False
        case ast.Constant(value=int() | float() as value):
            allowed = value <= sys.float_info.max
        case ast.Name(id=name):
            names.add(name)
            allowed = True
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, text, names)
            allowed = True
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _check(left, text, names)
            _check(right, text, names)
            allowed = True
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            if name not in FUNCTIONS:
                raise InvalidModel(
                    f"expression {text!r}: no function {name!r}; {did_you_mean(name, FUNCTIONS, 'functions')}"
                )
            _check(argument, text, names)
            allowed = True
        case _:
            allowed = False
    if not allowed:
        raise InvalidModel(
            f"expression {text!r}: {ast.unparse(node)!r} is not allowed; use numbers, parameter names, + - * / ** and "
            f"{', '.join(FUNCTIONS)}"
        )


def _evaluate(node: ast.expr, values: Mapping[str, Dual], n: int) -> Dual:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Dual.constant(float(value), n)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            u = _evaluate(operand, values, n)
            return -u if isinstance(op, ast.USub) else u
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluate(left, values, n), _evaluate(right, values, n))
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return FUNCTIONS[name](_evaluate(argument, values, n))
    raise InvalidModel(f"cannot evaluate {ast.unparse(node)!r}")
