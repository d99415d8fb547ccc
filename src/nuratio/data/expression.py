"""Expressions over the branches of an event, as features, cuts, weights and event ids are written.

They are Python expressions, in the spirit of uproot's own::

    log(mll)                                      branches, numbers, + - * / // % ** and elementwise functions
    (400 < mll < 3000) & (njet >= 2)              comparisons chain; & | ~ (or: and, or, not) combine them
    where(njet > 0, jet_pt, -1)                   elementwise choice; minimum(a, b), maximum(a, b) likewise
    first(Jet_pt, 0)                              jagged branches, reduced to one number per event
    count(Jet_pt[Jet_pt > 30])                    a mask in brackets selects within a jagged branch
    evt.met                                       the branch ``evt.met`` or ``evt/met``, or the field of a struct
    get("b-tag weight")                           any other branch name

A text that is exactly the name of a branch is that branch. Reductions (`REDUCTIONS`) act on the innermost lists. The
text is parsed and translated, never executed as Python: nothing but the above can happen. All arithmetic is done in
float64 and int64.
"""

import ast
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import count
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidData, did_you_mean

__all__ = ["FUNCTIONS", "REDUCTIONS", "Expression", "as_column", "compile_expression"]

# A column is a flat ndarray (one entry per event) or, for a jagged branch, an ak.Array.
Columns = Mapping[str, Any]
_Term = Callable[[Columns], Any]

_LARGEST = 10_000  # operations, with aliases written out
_LONGEST_LIST = 1 << 31


@dataclass(frozen=True)
class Expression:
    """An expression bound to the branches of a tree: call it with their columns.

    Attributes
    ----------
    text : str
        As it was written.
    branches : frozenset of str
        The branches it reads.
    term : callable
        The translation: columns to a value.
    """

    text: str
    branches: frozenset[str]
    term: _Term = field(repr=False)

    def __call__(self, columns: Columns) -> NDArray[Any]:
        """One number (or boolean) per event, shape (n,), from columns made by `as_column`.

        Raises
        ------
        InvalidData
            A jagged result, too few entries in a reduction without a default, operands that do not go together.
        """
        try:
            with np.errstate(all="ignore"):  # NaN and infinities are looked for where events are kept
                value = self.term(columns)
            if isinstance(value, ak.Array):
                raise InvalidData(
                    "the result is jagged (several entries per event); reduce it to one number with "
                    f"{', '.join(REDUCTIONS)}, for example first({self.text}, 0)"
                )
            result = np.asarray(value)
            n = len(next(iter(columns.values())))
            if result.dtype.kind not in "biuf" or result.shape != (n,):
                raise InvalidData(
                    f"the result must be one number per event, got {result.dtype} of shape {result.shape} "
                    f"for {n} events; text can only be compared with text"
                )
            return result
        except InvalidData as error:
            raise InvalidData(f"expression {self.text!r}: {error}") from error.__cause__
        except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError, AssertionError) as error:
            # of numpy and awkward, for operands that do not go together; a RecursionError is a RuntimeError
            reason = str(error).partition("\n")[0] or "its operands do not go together"
            raise InvalidData(f"expression {self.text!r} cannot be evaluated: {reason}") from error


def compile_expression(
    text: str,
    branches: Collection[str],
    aliases: Mapping[str, str] | None = None,
    replaced: Mapping[str, str] | None = None,
) -> Expression:
    """Parse ``text`` and bind its names to ``branches``.

    Parameters
    ----------
    text : str
        The expression.
    branches : collection of str
        Names of the branches there are.
    aliases : mapping of str to str, optional
        Names that stand for expressions, in ``text`` and in each other.
    replaced : mapping of str to str, optional
        Branches that stand for expressions of the branches as they are: ``{"pt": "1.01 * pt"}``.

    Raises
    ------
    InvalidData
        Text that does not parse (with the position), a construct or function outside the language, an unknown branch
        (with the close matches), an alias that refers to itself or is a branch, an expression that reads no branch.
    """
    if not isinstance(text, str):
        raise InvalidData(f"an expression must be text, got {text!r}; a constant factor on the weights is 'scale'")
    clashing = sorted(set(aliases or ()) & set(branches))
    if clashing:
        raise InvalidData(f"alias {clashing[0]!r} is also a branch; give the alias another name")
    for name in replaced or ():
        if name not in branches:
            raise InvalidData(f"no branch {name!r} to replace; {did_you_mean(name, branches, 'branches')}")
    used: set[str] = set()
    try:
        term = _Compiler(text, branches, aliases or {}, replaced or {}, used).compile()
    except (RecursionError, MemoryError) as error:
        raise InvalidData(f"expression {text[:60]!r}... is nested too deeply") from error
    if not used:
        raise InvalidData(f"expression {text!r} names no branch, so it is not a number per event")
    return Expression(text, frozenset(used), term)


def as_column(array: ak.Array, branch: str) -> Any:
    """A branch as expressions take it: ndarray, or ak.Array where it is jagged; float64, int64, bool or text.

    Missing numbers (nulls) become NaN, which is reported if it reaches a kept event; missing text becomes empty.

    Raises
    ------
    InvalidData
        A branch of another type, or with missing lists.
    """
    if array.ndim > 1:
        missing = int(ak.sum(ak.is_none(array)))
        if missing:
            raise InvalidData(f"branch {branch!r} has {missing} missing (null) lists; write empty lists instead")
        content = as_column(ak.flatten(array, axis=1), branch)
        if not isinstance(content, ak.Array) and content.dtype.kind == "U":
            raise InvalidData(f"branch {branch!r} is a list of text; only numbers can be jagged")
        return ak.unflatten(content, ak.to_numpy(ak.num(array, axis=1)))
    try:
        values = ak.to_numpy(array)
    except ValueError:
        values = np.empty(0, dtype=object)
    kind = values.dtype.kind
    if kind not in "biufU":
        raise InvalidData(f"branch {branch!r} has type {array.type.content}; use numbers, booleans, text or a field")
    if np.ma.is_masked(values):
        return values.filled("") if kind == "U" else values.astype(np.float64).filled(np.nan)
    values = np.asarray(values)
    if kind == "f":
        return values.astype(np.float64)
    too_large = kind == "u" and values.max(initial=0) > np.iinfo(np.int64).max
    return values.astype(np.int64) if kind in "iu" and not too_large else values


class _Compiler:
    """Translates one parsed expression into nested functions of the columns."""

    def __init__(
        self,
        text: str,
        branches: Collection[str],
        aliases: Mapping[str, str],
        replaced: Mapping[str, str],
        used: set[str],
        opened: tuple[str, ...] = (),
        operations: Iterator[int] | None = None,
    ) -> None:
        self.text = " ".join(text.strip().splitlines())
        self.branches, self.aliases, self.replaced = branches, aliases, replaced
        self.used, self.opened = used, opened
        self.operations = count(1) if operations is None else operations

    def compile(self) -> _Term:
        if self.text in self.branches:
            return self.branch(self.text)
        try:
            node = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError) as error:
            position = min(getattr(error, "offset", None) or 1, len(self.text) + 1)
            hint = " (operators are Python's: & | ~ or and, or, not)" if "&&" in self.text or "||" in self.text else ""
            raise InvalidData(
                f"expression {self.text!r} does not parse at character {position}, "
                f"before {self.text[position - 1 :][:20]!r}: {getattr(error, 'msg', error)}{hint}"
            ) from error
        return self.term(node)

    def error(self, node: ast.expr, message: str) -> InvalidData:
        return InvalidData(f"expression {self.text!r}, character {node.col_offset + 1}: {message}")

    def term(self, node: ast.expr) -> _Term:
        if next(self.operations) > _LARGEST:
            raise InvalidData(f"expression {self.text!r} has more than {_LARGEST} operations, aliases written out")
        match node:
            case ast.Constant(value=int() as value) if value >= 2**63:
                raise self.error(node, "an integer of more than 63 bits; write it with a decimal point")
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return lambda columns: value
            case ast.Name(id=name) if name in self.aliases:
                return self.alias(node, name)
            case ast.Name() | ast.Attribute() if path := _dotted(node):
                return self.named(node, path)
            case ast.UnaryOp(op=op, operand=operand):
                f, x = _UNARY[type(op)], self.term(operand)
                return lambda columns: f(x(columns))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                g, a, b = _BINARY[type(op)], self.term(left), self.term(right)
                return lambda columns: g(a(columns), b(columns))
            case ast.BoolOp(op=op, values=values):
                g, terms = (np.logical_and if isinstance(op, ast.And) else np.logical_or), [*map(self.term, values)]
                return lambda columns: reduce(g, [_truth(t(columns)) for t in terms])
            case ast.Compare():
                return self.comparison(node)
            case ast.Call(func=ast.Name(id="get"), args=[ast.Constant(value=str(name))], keywords=[]):
                return self.named(node, name)
            case ast.Call(func=ast.Name(id="get")):
                raise self.error(node, f"get takes a branch name in quotes, not {ast.unparse(node)!r}")
            case ast.Call():
                return self.call(node)
            case ast.Subscript(value=value, slice=ast.Constant() | ast.UnaryOp(op=ast.USub()) | ast.Slice() as index):
                one = f"nth({ast.unparse(value)}, {ast.unparse(index)}, default)"
                raise self.error(node, f"brackets take a mask, not [{ast.unparse(index)}]; one entry is {one}")
            case ast.Subscript(value=value, slice=mask):
                x, m = self.term(value), self.term(mask)
                return lambda columns: _select(x(columns), m(columns))
        raise self.error(
            node,
            f"{ast.unparse(node)!r} is not allowed; write branches, numbers, + - * / // % **, comparisons, & | ~, "
            f"where(...) and functions of {', '.join(REDUCTIONS)}, {', '.join(FUNCTIONS)}",
        )

    def branch(self, name: str) -> _Term:
        if name in self.replaced:
            return self.written_out(self.replaced[name], {}, self.opened)
        self.used.add(name)
        return lambda columns: columns[name]

    def named(self, node: ast.expr, name: str) -> _Term:
        slashed = name.replace(".", "/")
        for candidate in (name, slashed):
            if candidate in self.branches:
                return self.branch(candidate)
        inside = [b for b in self.branches if b.endswith((f"/{name}", f"/{slashed}"))]
        if len(inside) == 1:
            return self.branch(inside[0])
        if inside:
            raise self.error(node, f"{name!r} may be any of the branches {inside}; write get({inside[0]!r})")
        known = [*self.aliases, *self.branches]
        raise self.error(node, f"no branch {name!r}; {did_you_mean(name, known, 'branches')}")

    def alias(self, node: ast.expr, name: str) -> _Term:
        if name in self.opened:
            raise self.error(node, f"alias {name!r} refers to itself: {' -> '.join([*self.opened, name])}")
        return self.written_out(self.aliases[name], self.replaced, (*self.opened, name))

    def written_out(self, text: str, replaced: Mapping[str, str], opened: tuple[str, ...]) -> _Term:
        return _Compiler(text, self.branches, self.aliases, replaced, self.used, opened, self.operations).compile()

    def comparison(self, node: ast.Compare) -> _Term:
        operands = [node.left, *node.comparators]
        for operand in operands:
            self.require_parentheses(operand)
        if unknown := [op for op in node.ops if type(op) not in _COMPARISONS]:
            raise self.error(node, f"{type(unknown[0]).__name__!r} is not a comparison here; use < <= == != >= >")
        comparisons, terms = [_COMPARISONS[type(op)] for op in node.ops], [*map(self.term, operands)]

        def compare(columns: Columns) -> Any:
            values = [t(columns) for t in terms]
            return reduce(np.logical_and, [f(a, b) for f, a, b in zip(comparisons, values, values[1:], strict=False)])

        return compare

    def require_parentheses(self, operand: ast.expr) -> None:
        """Refuse ``a > 1 & b > 2``, which Python reads as ``a > (1 & b) > 2``."""
        if isinstance(operand, ast.BinOp) and isinstance(operand.op, ast.BitAnd | ast.BitOr):
            source = self.text.encode()
            before, after = source[: operand.col_offset].rstrip(), source[operand.end_col_offset :].lstrip()
            if not (before.endswith(b"(") and after.startswith(b")")):
                raise self.error(operand, "& and | bind tighter than comparisons; write (a > 1) & (b > 2)")

    def call(self, node: ast.Call) -> _Term:
        name = _dotted(node.func) or ast.unparse(node.func)
        known = REDUCTIONS | FUNCTIONS
        if name not in known:
            raise self.error(node, f"no function {name!r}; {did_you_mean(name, known, 'functions')}")
        function, least, most = known[name]
        arguments = node.args + [k.value for k in node.keywords if k.arg == "default" and name in REDUCTIONS]
        if len(arguments) != len(node.args) + len(node.keywords) or not least <= len(arguments) <= most:
            count = str(least) if least == most else f"{least} or {most}"
            raise self.error(node, f"{ast.unparse(node)!r} does not fit: {name} takes {count} argument(s)")
        terms = [*map(self.term, arguments)]
        if name in FUNCTIONS:
            return lambda columns: function(*[_number(t(columns)) for t in terms])

        def reduced(columns: Columns) -> Any:
            values = [t(columns) for t in terms]
            if not isinstance(values[0], ak.Array):
                instead = f"; {name}imum(a, b) is elementwise" if name in ("max", "min") else ""
                raise InvalidData(f"{name} reduces a jagged branch, but {ast.unparse(node)!r} has none{instead}")
            return function(*values)

        return reduced


def _dotted(node: ast.expr) -> str | None:
    """``a.b.c`` of nested attributes of a name."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr) if prefix := _dotted(value):
            return f"{prefix}.{attr}"
    return None


def _kind(value: Any) -> str:
    """numpy's letter for the type of the numbers in a column: b, i, u, f (or U for text)."""
    if not isinstance(value, ak.Array):
        return str(np.asarray(value).dtype.kind)
    leaf = value.type
    while hasattr(leaf, "content"):
        leaf = leaf.content
    if not hasattr(leaf, "primitive"):
        raise InvalidData("lists are mixed with numbers or text; where(...) chooses between things of one kind")
    return str(np.dtype(leaf.primitive).kind)


def _number(value: Any) -> Any:
    """Booleans as 0 and 1, so that their sum counts."""
    return value * 1 if _kind(value) == "b" else value


def _truth(value: Any) -> Any:
    """A condition: booleans, or integer flags that are not zero."""
    kind = _kind(value)
    if kind not in "biu":
        raise InvalidData("a condition is needed where a number is given; compare it with something")
    return value if kind == "b" else value != 0


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: function(_number(a), _number(b))


def _whole_division(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def divide(a: Any, b: Any) -> Any:
        a, b = _number(a), _number(b)
        if np.any(b == 0):
            b = b * 1.0  # integers would give a silent 0, floats give NaN or infinity
        return function(a, b)

    return divide


def _power(a: Any, b: Any) -> Any:
    return np.power(_number(a) * 1.0, _number(b))  # integers have no negative powers


def _logic(bitwise: Callable[[Any, Any], Any], logical: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def combine(a: Any, b: Any) -> Any:
        if "b" in (_kind(a), _kind(b)):
            return logical(_truth(a), _truth(b))
        _truth(a), _truth(b)
        return bitwise(a, b)  # flags & 4

    return combine


def _invert(value: Any) -> Any:
    if _kind(value) != "b":
        raise InvalidData("~ negates a condition; for a flag of another type write flag == 0")
    return np.logical_not(value)


def _select(values: Any, mask: Any) -> Any:
    if not (isinstance(values, ak.Array) and isinstance(mask, ak.Array) and _kind(mask) == "b"):
        raise InvalidData("[...] selects the entries of a jagged branch by a jagged condition; select events with cut")
    if values.ndim != mask.ndim or not ak.all(ak.num(values, axis=-1) == ak.num(mask, axis=-1), axis=None):
        raise InvalidData("a mask must have as many entries in every event as the branch it selects from")
    return values[mask]


def _where(condition: Any, a: Any, b: Any) -> Any:
    choose = ak.where if any(isinstance(v, ak.Array) for v in (condition, a, b)) else np.where
    return choose(_truth(condition), a, b)


def _flat(value: Any) -> Any:
    return ak.to_numpy(value) if isinstance(value, ak.Array) and value.ndim == 1 else value


def _filled(values: Any, default: Any, lack: str) -> Any:
    """``values`` with the missing entries replaced by ``default``."""
    missing = ak.is_none(values, axis=-1)
    if default is None:
        short = int(ak.sum(missing, axis=None))
        if short:
            raise InvalidData(
                f"{short} of {len(missing)} events have {lack}; give a default as the last argument, or cut them away"
            )
        default = 0
    values = ak.fill_none(values, False if _kind(values) == "b" else 0, axis=-1)
    return _where(_flat(missing), default, _flat(values)) if ak.any(missing, axis=None) else _flat(values)


def _nth(x: Any, n: Any, default: Any = None) -> Any:
    if type(n) is not int or n < 0:
        raise InvalidData(f"the second argument of nth is a whole number counted from 0, got {n!r}")
    return _filled(ak.firsts(x[..., min(n, _LONGEST_LIST) :], axis=-1), default, f"fewer than {n + 1} entries")


def _first(x: Any, default: Any = None) -> Any:
    return _nth(x, 0, default)


def _max(x: Any, default: Any = None) -> Any:
    return _filled(ak.max(_number(x), axis=-1), default, "no entries")


def _min(x: Any, default: Any = None) -> Any:
    return _filled(ak.min(_number(x), axis=-1), default, "no entries")


def _count(x: Any) -> Any:
    return _flat(ak.num(x, axis=-1))


def _sum(x: Any) -> Any:
    return _flat(ak.sum(_number(x), axis=-1))


def _any(x: Any) -> Any:
    return _flat(ak.any(_truth(x), axis=-1))


def _all(x: Any) -> Any:
    return _flat(ak.all(_truth(x), axis=-1))


_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: _number,
    ast.USub: lambda x: np.negative(_number(x)),
    ast.Not: lambda x: np.logical_not(_truth(x)),
    ast.Invert: _invert,
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _arithmetic(np.add),
    ast.Sub: _arithmetic(np.subtract),
    ast.Mult: _arithmetic(np.multiply),
    ast.Div: _arithmetic(np.true_divide),
    ast.FloorDiv: _whole_division(np.floor_divide),
    ast.Mod: _whole_division(np.mod),
    ast.Pow: _power,
    ast.BitAnd: _logic(operator.and_, np.logical_and),
    ast.BitOr: _logic(operator.or_, np.logical_or),
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.GtE: np.greater_equal,
    ast.Gt: np.greater,
}

REDUCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "first": (_first, 1, 2),
    "nth": (_nth, 2, 3),
    "count": (_count, 1, 1),
    "sum": (_sum, 1, 1),
    "max": (_max, 1, 2),
    "min": (_min, 1, 2),
    "any": (_any, 1, 1),
    "all": (_all, 1, 1),
}
"""Jagged to one number per event, with the least and most arguments: ``first(x)``, ``first(x, default)``, ..."""

_NUMPY = (
    "abs sign sqrt cbrt square exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan arctan2 "
    "sinh cosh tanh arcsinh arccosh arctanh hypot copysign minimum maximum floor ceil rint trunc isnan isfinite"
)
_SHORT = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "round": "rint"}
_UFUNCS = {name: getattr(np, _SHORT.get(name, name)) for name in [*_NUMPY.split(), *_SHORT]}
FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    **{name: (f, f.nin, f.nin) for name, f in _UFUNCS.items()},
    "where": (_where, 3, 3),
}
"""Elementwise functions (numpy's), with the least and most arguments."""
