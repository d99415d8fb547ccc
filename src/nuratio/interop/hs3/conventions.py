"""What writing and reading HS3 documents agree on: names, interpolations, parameters as a measurement sets them."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from nuratio.model.companion import pyhf_model
from nuratio.model.parameters import Config, Parameters
from nuratio.workspace.validate import core
from nuratio.workspace.workspace import DEFAULT_SETTINGS

__all__ = [
    "DATA",
    "EVENTS",
    "INTERPOLATIONS",
    "MODEL",
    "OBSERVED",
    "PER_BIN",
    "configure",
    "hs3_expression",
    "hs3_names",
    "is_default_axis",
    "settings",
    "strings",
]

JSON = dict[str, Any]

MODEL, DATA = "model_", "obsData_"  # what stands before a channel's name, as in documents written by ROOT
EVENTS, OBSERVED = "events_", "obsEvents_"  # and for the events of an unbinned one

PER_BIN = ("staterror", "shapesys", "shapefactor")

# Modifier type -> pyhf's code -> how documents spell it. The standard has names (lin, log, parabolic, poly6) and none
# for code4, which is the default of every package; pyhs3 has pyhf's names; ROOT has integers or [type, in, out].
INTERPOLATIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "normsys": {
        "code1": ("code1", "log", "exp", 1, ["mult", "exp", None]),
        "code4": ("code4", None, 4, 5, ["mult", "poly6", "exp"]),
    },
    "histosys": {
        "code0": ("code0", "lin", 0, ["add", "poly1", None]),
        "code2": ("code2", "parabolic", 2, 3, ["add", "poly2", "poly1"]),
        "code4p": ("code4p", None, "poly6", 4, ["add", "poly6", "poly1"]),
    },
}


def settings(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The interpolation codes of a workspace."""
    found: Mapping[str, Any] = spec.get("unbinned", {}).get("modifier_settings", DEFAULT_SETTINGS)
    return found


def configure(spec: Mapping[str, Any], measurement: Mapping[str, Any]) -> Config:
    """The parameters of a workspace as a measurement sets them, expressions left out; no POI is set.

    Raises
    ------
    InvalidWorkspace
        pyhf cannot build the counting version of the model.
    """
    counting = core(spec) | {"measurements": [measurement]}
    companion = pyhf_model(counting, measurement["name"], settings(spec), poi_name=None)
    declared = spec.get("unbinned", {}).get("parameters", [])
    return Config(companion.config, Parameters.build(companion.config, declared), declared, {}, None)


def hs3_names(config: Config) -> Iterator[tuple[str, list[str]]]:
    """Each parameter set with the names of its parameters in HS3: its own, or ``name_0``, ``name_1``, ... per bin."""
    for name in config.par_order:
        paramset = config.param_set(name)
        yield name, [name] if paramset.is_scalar else [f"{name}_{i}" for i in range(paramset.n_parameters)]


def is_default_axis(axis: Mapping[str, Any]) -> bool:
    """Whether an axis merely counts bins, 0 to n."""
    return "edges" not in axis and (axis.get("min"), axis.get("max")) == (0, axis.get("nbins"))


def strings(item: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(item, str):
        yield item
    elif isinstance(item, Mapping):
        for value in item.values():
            yield from strings(value)
    elif isinstance(item, list):
        for value in item:
            yield from strings(value)


def hs3_expression(text: str) -> str:
    """A parameter's expression in the language of the standard, powers as ``pow`` (which all readers know)."""
    return _spelled(ast.parse(text.strip(), mode="eval").body)


_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def _spelled(node: ast.expr) -> str:
    match node:
        case ast.BinOp(left, ast.Pow(), right):
            return f"pow({_spelled(left)}, {_spelled(right)})"
        case ast.BinOp(left, operator, right):
            return f"({_spelled(left)} {_OPERATORS[type(operator)]} {_spelled(right)})"
        case ast.UnaryOp(operator, operand):
            return f"({'-' if isinstance(operator, ast.USub) else '+'}{_spelled(operand)})"
        case ast.Call(ast.Name(function), arguments):
            return f"{function}({', '.join(map(_spelled, arguments))})"
    return ast.unparse(node)
