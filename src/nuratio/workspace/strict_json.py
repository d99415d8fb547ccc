"""JSON as workspaces use it, strictly: no key twice in an object, no NaN or infinity, no text that hides what it says.

`parse_json` reads a document; `json_problems` and `value_problems` list what is wrong in one, from a file or made in
Python; `plain_json` turns arrays and tuples into lists. Places are JSON pointers (RFC 6901): ``/unbinned/channels/0``.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nuratio.errors import InvalidWorkspace

__all__ = [
    "LARGEST",
    "LONGEST_EXPRESSION",
    "Path",
    "json_problems",
    "parse_json",
    "plain_json",
    "pointer",
    "value_problems",
]

Path = tuple[str | int, ...]

LARGEST = 1e100
"""The largest number of a workspace: products of larger ones overflow."""

LONGEST_EXPRESSION = 20_000
"""Characters of a parameter's expression: room for a response surface of some dozens of points."""

_DEPTH = 50  # levels of nesting; a workspace has about ten
_TEXT = 1000  # characters of any other text
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: control, invisible, half a character, line separators
_PARAMETERS: Path = ("unbinned", "parameters")
_FREE_TEXT: Path = ("unbinned", "provenance")  # whatever made the workspace may say there what it likes


def pointer(*path: str | int) -> str:
    """JSON pointer (RFC 6901) of a place, with unprintable characters escaped; ``/`` for the whole document."""
    tokens = (repr(str(part))[1:-1].replace("~", "~0").replace("/", "~1") for part in path)
    return "/" + "/".join(tokens)


def parse_json(content: bytes, where: str) -> Any:
    """The JSON document in ``content`` (UTF-8, perhaps with a byte order mark).

    Raises
    ------
    InvalidWorkspace
        It is not JSON, nested too deeply, or has a key twice in one object; ``where`` names the file.
    """
    repeated: dict[int, list[str]] = {}

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            repeated[id(built)] = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        return built

    try:
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=build)
    except RecursionError as error:
        raise InvalidWorkspace(f"{where} is nested deeper than {_DEPTH} levels") from error
    except ValueError as error:  # also text that is not UTF-8, and a number of thousands of digits
        raise InvalidWorkspace(f"{where} is {'not JSON' if content else 'empty'}: {error}") from error
    if repeated:
        places = [
            pointer(*path, key) for path, node in _nodes(document) if id(node) in repeated for key in repeated[id(node)]
        ]
        raise InvalidWorkspace(f"{where} has keys more than once in one object: {', '.join(places)}; keep one of each")
    return document


def json_problems(document: Any) -> list[str]:
    """What is no JSON in a document made in Python, or nested too deeply; a line each with its JSON pointer."""
    found = []
    for path, node in _nodes(document):
        if len(path) > _DEPTH:
            return [f"{pointer(*path[:5])}: nested deeper than {_DEPTH} levels"]
        if not isinstance(node, dict | list | str | int | float | None):
            kind = type(node).__name__
            found.append(f"{pointer(*path)}: {kind} is not JSON; use a list, a number, text, true, false or null")
        if isinstance(node, dict):
            found += [f"{pointer(*path)}: the key {key!r} is not text" for key in node if not isinstance(key, str)]
    return found


def value_problems(document: Any) -> list[str]:
    """Numbers and texts that are JSON but cannot be meant, a line each with its JSON pointer."""
    return [f"{pointer(*path)}: {wrong}" for path, node in _nodes(document) if (wrong := _wrong(path, node))]


def plain_json(value: Any) -> Any:
    """A copy with dicts for mappings, lists for tuples and arrays, and Python's numbers for numpy's."""
    match value:
        case Mapping():
            return {key: plain_json(item) for key, item in value.items()}
        case list() | tuple():
            return [plain_json(item) for item in value]
        case np.ndarray() | np.generic():
            return value.tolist()
    return value


def _nodes(document: Any) -> Iterator[tuple[Path, Any]]:
    """Every value in a document with its path, in order, nested ones after what they are in."""
    pending: list[tuple[Path, Any]] = [((), document)]
    while pending:
        path, node = pending.pop()
        yield path, node
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        pending += reversed([((*path, key), child) for key, child in children])


def _wrong(path: Path, node: Any) -> str:
    if isinstance(node, float) and not abs(node) <= LARGEST:
        return f"{node} is not a finite number below {LARGEST}"
    if isinstance(node, int) and abs(node) >= 2**63:
        return "an integer of more than 63 bits; write it with a decimal point"
    if path[:2] == _FREE_TEXT:
        return ""
    longest = LONGEST_EXPRESSION if path[:2] == _PARAMETERS and path[3:] == ("expression",) else _TEXT
    texts = [node] if isinstance(node, str) else node if isinstance(node, dict) else ()
    return next(filter(None, (_wrong_text(text, longest) for text in texts)), "")


def _wrong_text(text: str, longest: int) -> str:
    if len(text) > longest:
        return f"a text of {len(text)} characters, more than {longest}: {text[:30]!r}..."
    hidden = [c for c in text if not c.isprintable() and unicodedata.category(c) in _HIDDEN]
    return f"{text[:100]!r} has the unprintable character {hidden[0]!a}; remove it" if hidden else ""
