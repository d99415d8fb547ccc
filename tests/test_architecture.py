"""Imports go one way: a room knows only the rooms before it."""

import ast
from pathlib import Path

import pytest

ROOMS = [
    "errors",
    "parallel",
    "data",
    "ratios",
    "training",
    "workspace",
    "model",
    "infer",
    "checks",
    "interop",
    "plots",
    "demo",
    "cli",
]
SOURCE = Path(__file__).parents[1] / "src" / "nuratio"


def imports_at_load(path):
    """The nuratio rooms a module imports when it is loaded: not inside functions, not for type checking only."""
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        match node:
            case ast.ImportFrom(module=str() as module) if module.startswith("nuratio."):
                yield module.split(".")[1]
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                pending += orelse
            case ast.If(body=body, orelse=orelse) | ast.Try(body=body, orelse=orelse):
                pending += body + orelse


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    parts = path.relative_to(SOURCE).parts
    if len(parts) == 1:
        return  # the package's own front door
    room = ROOMS.index(parts[0])
    assert all(ROOMS.index(name) <= room for name in imports_at_load(path))
