"""Workspaces from workspaces: combine, prune, rename, sort, patch, and a digest of what one means.

The counting part is what pyhf's operation of the same name makes of it; the unbinned part follows. Nothing changes in
place, and event tables are shared, never copied. Of the results only a patched workspace is validated at once, the
others when they are saved: a pruned POI, say, is an error only if it is not patched before.
"""

import ast
import copy
import hashlib
import keyword
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import jsonpatch
import numpy as np
import pyhf

from nuratio.data.varied import Term
from nuratio.errors import InvalidWorkspace, UnknownName, did_you_mean
from nuratio.ratios.table import RatioTable
from nuratio.workspace.exponent import cross_term, exponent_terms
from nuratio.workspace.validate import modifier_names, schema_problems
from nuratio.workspace.workspace import DEFAULT_SETTINGS, Workspace

__all__ = ["JOINS", "combine", "digest", "patch", "prune", "rename", "sorted_workspace"]

JSON = dict[str, Any]

JOINS = ("none", "outer", "left outer", "right outer")


# --- combine


def combine(left: Workspace, right: Workspace, join: str = "none", merge_channels: bool = False) -> Workspace:
    """Both analyses in one; parameters of the same name are the same parameter.

    Parameters
    ----------
    left, right : Workspace
    join : str
        As in pyhf. ``none``: no channel and no measurement in common; ``outer``: what both have must be equal;
        ``left outer``, ``right outer``: what both have is taken from that side.
    merge_channels : bool
        Join the samples of channels that both have; binned channels only.

    Returns
    -------
    Workspace
        A file id that stands for different tables on the two sides is numbered (``pool.2``) for one of them.

    Raises
    ------
    UnknownName
        No such ``join``.
    InvalidWorkspace
        What both have does not agree: channels, measurements, declared parameters, interpolation codes, or the POI;
        or channels of the two sides have a per-bin uncertainty of the same name.
    """
    if join not in JOINS:
        raise UnknownName(f"no join {join!r}; {did_you_mean(join, JOINS, 'joins')}")
    with _pyhf_refuses():
        counting = dict(pyhf.Workspace.combine(_counting(left), _counting(right), join, merge_channels))
    _require_own_bins(left, right)
    if "unbinned" not in left.spec and "unbinned" not in right.spec:
        return Workspace(counting)
    _require_agreement(left, right, join, merge_channels)
    first, second = (right, left) if join == "right outer" else (left, right)
    mine, theirs = _extension(first), _extension(second)
    _drop_channels(theirs, first.channels)
    _drop_parameters(theirs, modifier_names(second.spec) - modifier_names(counting))

    tables = {f["id"]: _table(first, f["id"]) for f in mine["files"]}
    uris = {f["uri"] for f in mine["files"]}
    renamed = {}
    for entry in theirs["files"]:
        name, table = entry["id"], _table(second, entry["id"])
        if name in tables and _same(tables[name], table):
            continue
        entry |= {"id": _free(name, tables), "uri": _free(entry["uri"], uris)}
        renamed[name] = entry["id"]
        tables[entry["id"]] = table
        uris.add(entry["uri"])
        mine["files"].append(entry)
    for events, role in _files(theirs["channels"]):
        events[role] = renamed.get(events[role], events[role])

    declared = {p["name"] for p in mine.get("parameters", [])}
    theirs["parameters"] = [p for p in theirs.get("parameters", []) if p["name"] not in declared]
    for key in ("channels", "parameters", "axes"):
        if mine.get(key) or theirs.get(key):
            mine[key] = mine.get(key, []) + theirs.get(key, [])
    for key in ("poi", "modifier_settings"):
        if key in theirs:
            mine.setdefault(key, theirs[key])
    histories = [w.spec["unbinned"]["provenance"] for w in (left, right) if "provenance" in w.spec.get("unbinned", {})]
    if histories:
        same = all(h == histories[0] for h in histories)
        mine["provenance"] = copy.deepcopy(histories[0] if same else {"combined": histories})
    return Workspace(counting | {"unbinned": mine}, tables)


def _require_own_bins(left: Workspace, right: Workspace) -> None:
    """A staterror or shapesys has a parameter per bin of one channel."""
    found = [
        {
            m["name"]: c["name"]
            for c in here.spec["channels"]
            if c["name"] not in there.channels
            for s in c["samples"]
            for m in s["modifiers"]
            if m["type"] in ("staterror", "shapesys")
        }
        for here, there in ((left, right), (right, left))
    ]
    for name in sorted(found[0].keys() & found[1].keys()):
        raise InvalidWorkspace(
            f"the per-bin uncertainty {name!r} is in channel {found[0][name]!r} on the left and in {found[1][name]!r} "
            "on the right, and channels cannot share one; rename it on one side"
        )


def _require_agreement(left: Workspace, right: Workspace, join: str, merge_channels: bool) -> None:
    a, b = _extension(left), _extension(right)
    common = [c for c in left.channels if c in right.channels and (c in left.unbinned or c in right.unbinned)]
    if common and merge_channels:
        raise InvalidWorkspace(
            f"channels {common} are in both workspaces and unbinned: their events have ratios for the samples of one "
            "side only, so they cannot be merged; rename them, or combine without merging"
        )
    if join == "outer":
        for name in common:
            if not _same_channel(name, left, right):
                raise InvalidWorkspace(
                    f"unbinned channel {name!r} is in both workspaces with different content; rename one, or choose a "
                    "side with a left outer or right outer join"
                )
    if join in ("none", "outer"):
        theirs = {p["name"]: p for p in b.get("parameters", [])}
        for p in a.get("parameters", []):
            if theirs.get(p["name"], p) != p:
                raise InvalidWorkspace(
                    f"parameter {p['name']!r} is declared as {p} on the left and as {theirs[p['name']]} on the right; "
                    "rename one, or choose a side with a left outer or right outer join"
                )
    codes = [e.get("modifier_settings", DEFAULT_SETTINGS) for e in (a, b)]
    if codes[0] != codes[1]:
        raise InvalidWorkspace(
            f"the workspaces interpolate differently: {codes[0]} on the left, {codes[1]} on the right"
        )
    pois = {e.get("poi") for w, e in ((left, a), (right, b)) if "poi" in e or _has_poi(w)}
    if len(pois) > 1:
        raise InvalidWorkspace(
            f"unbinned.poi is {a.get('poi')!r} on the left and {b.get('poi')!r} on the right, and a workspace has one; "
            "patch it to agree (with an empty POI in the measurements)"
        )


def _has_poi(workspace: Workspace) -> bool:
    return any(m["config"]["poi"] for m in workspace.spec["measurements"])


def _same_channel(name: str, left: Workspace, right: Workspace) -> bool:
    """Whether both have the same unbinned channel: the same entry, and under its file ids the same tables."""
    entry = left.unbinned.get(name)
    return entry == right.unbinned.get(name) and all(
        _same(_table(left, events[role]), _table(right, events[role]))
        for events, role in _files([entry] if entry else [])
    )


def _free(name: str, taken: Collection[str]) -> str:
    """The name, numbered if it is taken (in any case of letters); a number goes before the ``.npy`` of a path."""
    stem, suffix = (name[:-4], ".npy") if PurePosixPath(name).suffix == ".npy" else (name, "")
    n, free, folded = 1, name, {t.casefold() for t in taken}
    while free.casefold() in folded:
        n += 1
        free = f"{stem}.{n}{suffix}"
    return free


# --- prune


def prune(
    workspace: Workspace,
    modifiers: Collection[str] = (),
    modifier_types: Collection[str] = (),
    samples: Collection[str] = (),
    channels: Collection[str] = (),
    measurements: Collection[str] = (),
) -> Workspace:
    """The workspace without what is named.

    A modifier goes from rates and shapes alike. The type ``ratiosys`` stands for all per-event modifiers. Tables that
    only pruned channels used go with them, and so do expressions of pruned normfactors with the parameters only they
    use. The reference density stays what it was.

    Raises
    ------
    UnknownName
        Something to prune does not exist.
    InvalidWorkspace
        What is left does not fit together: a channel without samples, an expression of a pruned parameter, a per-event
        modifier whose nuisance is gone.
    """
    _require_names(workspace, modifiers, samples, channels, measurements)
    types = {m["type"] for c in workspace.spec["channels"] for s in c["samples"] for m in s["modifiers"]}
    types |= {m["type"] for c in workspace.unbinned.values() for s in c["samples"] for m in s.get("modifiers", [])}
    _require("modifier type", modifier_types, types)
    own = modifier_names(workspace.spec)
    with _pyhf_refuses():
        counting = dict(
            _counting(workspace).prune(
                [m for m in modifiers if m in own],
                [t for t in modifier_types if t != "ratiosys"],
                list(samples),
                list(channels),
                list(measurements),
            )
        )
    if "unbinned" not in workspace.spec:
        return Workspace(counting)
    for m in counting["measurements"]:  # of a parameter that only expressions use
        m["config"]["parameters"] = [p for p in m["config"]["parameters"] if p["name"] not in modifiers]
    extension = _extension(workspace)
    _drop_channels(extension, channels)
    left = modifier_names(counting)
    _drop_parameters(extension, (own - left) | set(modifiers))
    for channel in extension["channels"]:
        channel["samples"] = [s for s in channel["samples"] if s["name"] not in samples]
        for sample in channel["samples"]:
            names = [m["name"] for m in sample.get("modifiers", [])]
            _drop_shapes(sample, names if "ratiosys" in modifier_types else modifiers)
            for lost in (m["name"] for m in sample.get("modifiers", []) if m["name"] not in left):
                raise InvalidWorkspace(
                    f"channel {channel['name']!r}, sample {sample['name']!r}: nothing left in the rates declares "
                    f"the nuisance {lost!r} of its shape; prune {lost!r} by name, or the type 'ratiosys' too"
                )
    return _with_tables(counting, extension, workspace)


def _drop_channels(extension: JSON, gone: Collection[str]) -> None:
    """Remove unbinned channels, their axes, and the files only they use."""
    before = {events[role] for events, role in _files(extension["channels"])}
    extension["channels"] = [c for c in extension["channels"] if c["name"] not in gone]
    unused = before - {events[role] for events, role in _files(extension["channels"])}
    extension["files"] = [f for f in extension["files"] if f["id"] not in unused]
    if "axes" in extension:
        extension["axes"] = [a for a in extension["axes"] if a["channel"] not in gone]


def _drop_parameters(extension: JSON, gone: Collection[str]) -> None:
    """Remove declared parameters, and those that only removed expressions used."""
    declared = extension.get("parameters", [])
    kept = [p for p in declared if p["name"] not in gone]
    used = {name for p in kept if "expression" in p for name in _names_in(p["expression"])}
    for p in kept:
        lost = [name for name in _names_in(p.get("expression", "0")) if name in gone]
        if lost:
            raise InvalidWorkspace(
                f"parameter {p['name']!r} = {p['expression']!r} uses {lost[0]!r}, which would be gone; prune "
                f"{p['name']!r} too, or patch its expression"
            )
    if len(kept) < len(declared):
        extension["parameters"] = [p for p in kept if "expression" in p or p["name"] in used]


def _drop_shapes(sample: JSON, gone: Collection[str]) -> None:
    """Remove per-event modifiers, their cross terms, and their rows and columns of the normalisation."""
    if not any(m["name"] in gone for m in sample.get("modifiers", [])):
        return
    before = list(exponent_terms(sample))
    sample["modifiers"] = [m for m in sample["modifiers"] if m["name"] not in gone]
    crossed = [c for c in sample.pop("cross", []) if not any(name in gone for name in c["parameters"])]
    if crossed:
        sample["cross"] = crossed
    norm = sample.pop("normalisation", None)
    if norm is None:
        return
    names = [n for n in norm["parameters"] if n not in gone]
    if names or (norm["type"] == "pool" and sample["modifiers"]):
        sample["normalisation"] = norm | {"parameters": names}
        _reorder(sample, before)
        if names != norm["parameters"]:  # was measured with the nuisances that are gone
            sample["normalisation"].pop("error", None)
            sample["normalisation"].pop("errors", None)


def _reorder(sample: JSON, before: list[Term]) -> None:
    """Rows of the normalisation that were those of some terms become those of the sample's terms."""
    norm = sample["normalisation"]
    if norm["type"] == "cumulant":
        rows = [before.index(term) for term in exponent_terms(sample)]
        mean, covariance = np.array(norm["mean"]), np.array(norm["covariance"])  # perhaps with an axis of cells first
        norm |= {"mean": mean[..., rows].tolist(), "covariance": covariance[..., rows, :][..., rows].tolist()}


# --- rename


def rename(
    workspace: Workspace,
    modifiers: Mapping[str, str] | None = None,
    samples: Mapping[str, str] | None = None,
    channels: Mapping[str, str] | None = None,
    measurements: Mapping[str, str] | None = None,
) -> Workspace:
    """The same likelihood under other names, each argument a mapping old -> new.

    Modifiers are renamed wherever they occur: in rates, shapes, expressions, measurements and the POI. As in pyhf, a
    modifier that gets the name of another one becomes the same parameter.

    Raises
    ------
    UnknownName
        Something to rename does not exist.
    InvalidWorkspace
        A new name that an expression cannot spell.
    """
    modifiers, samples, channels, measurements = (dict(m or {}) for m in (modifiers, samples, channels, measurements))
    _require_names(workspace, modifiers, samples, channels, measurements)
    own = modifier_names(workspace.spec)
    with _pyhf_refuses():
        counting = dict(
            _counting(workspace).rename(
                {a: b for a, b in modifiers.items() if a in own}, samples, channels, measurements
            )
        )
    if "unbinned" not in workspace.spec:
        return Workspace(counting)
    for new, old in zip(counting["measurements"], workspace.spec["measurements"], strict=True):
        for p, q in zip(new["config"]["parameters"], old["config"]["parameters"], strict=True):
            p["name"] = modifiers.get(q["name"], q["name"])  # also what only expressions use
    extension = _extension(workspace)
    for channel in extension["channels"]:
        _put(channel, "name", channels)
        if "fractions" in channel.get("reference", {}):
            fractions = channel["reference"]["fractions"]
            channel["reference"]["fractions"] = {samples.get(s, s): f for s, f in fractions.items()}
        for sample in channel["samples"]:
            _put(sample, "name", samples)
            for m in sample.get("modifiers", []):
                _put(m, "name", modifiers)
            for shared in [*sample.get("cross", []), *([sample["normalisation"]] if "normalisation" in sample else [])]:
                shared["parameters"] = [modifiers.get(p, p) for p in shared["parameters"]]
    for axis in extension.get("axes", []):
        _put(axis, "channel", channels)
    for p in extension.get("parameters", []):
        _put(p, "name", modifiers)
        if "expression" in p:
            p["expression"] = _renamed(p["expression"], modifiers)
    _put(extension, "poi", modifiers)
    return _with_tables(counting, extension, workspace)


def _put(item: JSON, key: str, new: Mapping[str, str]) -> None:
    if key in item:
        item[key] = new.get(item[key], item[key])


def _renamed(expression: str, new: Mapping[str, str]) -> str:
    """The expression with other parameter names, otherwise as it was written."""
    text = expression.strip().replace("\n", " ")
    hits = [node for node in _name_nodes(_parse(text)) if node.id in new]
    written = text.encode()
    for node in sorted(hits, key=lambda node: node.col_offset, reverse=True):
        name = new[node.id]
        if not name.isidentifier() or keyword.iskeyword(name):
            raise InvalidWorkspace(
                f"{node.id!r} cannot become {name!r}: the expression {expression[:60]!r} uses it, and there a name has "
                "only letters, digits and underscores, and is no word of Python"
            )
        written = written[: node.col_offset] + name.encode() + written[node.end_col_offset :]
    return written.decode() if hits else expression


def _parse(expression: str) -> ast.Expression:
    try:
        return ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidWorkspace(f"expression {expression!r} does not parse: {error}") from error


def _name_nodes(tree: ast.AST) -> list[ast.Name]:
    """The parameters in an expression: its names but for those of functions."""
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in functions]


def _names_in(expression: str) -> list[str]:
    return [node.id for node in _name_nodes(_parse(expression))]


# --- sort, digest


def sorted_workspace(workspace: Workspace) -> Workspace:
    """The same workspace with everything that has a name in the order of the names."""
    with _pyhf_refuses():
        counting = dict(pyhf.Workspace.sorted(_counting(workspace)))
    if "unbinned" not in workspace.spec:
        return Workspace(counting)
    extension = _extension(workspace)
    for channel in extension["channels"]:
        channel["samples"].sort(key=_name)
        for sample in channel["samples"]:
            sample.get("modifiers", []).sort(key=_name)
            before = list(exponent_terms(sample))
            if "cross" in sample:
                sample["cross"] = sorted(map(_in_order, sample["cross"]), key=cross_term)
            if "normalisation" in sample:
                norm = sample["normalisation"]
                sample["normalisation"] = norm | {"parameters": sorted(norm["parameters"])}
                _reorder(sample, before)
    extension["channels"].sort(key=_name)
    extension["files"].sort(key=lambda f: f["id"])
    extension.get("parameters", []).sort(key=_name)
    extension.get("axes", []).sort(key=lambda a: (a["channel"], a["name"]))
    return _with_tables(counting, extension, workspace)


def _in_order(cross: JSON) -> JSON:
    """A cross term with its parameters in the order of their names."""
    names, powers = zip(*cross_term(cross), strict=True)
    return cross | {"parameters": list(names)} | ({"powers": list(powers)} if "powers" in cross else {})


def _name(item: Mapping[str, Any]) -> str:
    name: str = item["name"]
    return name


def digest(workspace: Workspace, algorithm: str = "sha256") -> str:
    """A checksum (hexadecimal) of what the workspace means, whatever the order of its parts.

    Tables enter by their content (all of it is read), not by file id or path; provenance does not enter. Without an
    unbinned part this is ``pyhf.utils.digest`` of the sorted workspace.

    Raises
    ------
    UnknownName
        No such algorithm in `hashlib`.
    """
    known = sorted(a for a in hashlib.algorithms_guaranteed if not a.startswith("shake"))
    _require("algorithm", [algorithm], known)
    spec = sorted_workspace(workspace).spec
    if "unbinned" in spec:
        extension = spec["unbinned"]
        del extension["files"]
        extension.pop("provenance", None)
        seen: dict[str, JSON] = {}
        for events, role in _files(extension["channels"]):
            name = events[role]
            if name not in seen:
                table = _table(workspace, name)
                seen[name] = {"columns": list(table.names), "events": len(table), "sha256": _checksum(table)}
            events[role] = seen[name]
    result: str = pyhf.utils.digest(spec, algorithm)
    return result


def _checksum(table: RatioTable) -> str:
    """SHA-256 of a table's numbers, however they are laid out: 4096 events at a time, column by column."""
    sha256 = hashlib.sha256(str(table.blocks.dtype).encode())
    buffer, filled = np.empty((len(table.names), 4096), table.blocks.dtype), 0
    for _, piece in table.pieces(4096):
        while piece.shape[1]:
            part, piece = np.split(piece, [4096 - filled], axis=1)
            buffer[:, filled : filled + part.shape[1]] = part
            filled = (filled + part.shape[1]) % 4096
            if filled == 0:
                sha256.update(buffer.tobytes())
    sha256.update(buffer[:, :filled].tobytes())
    return sha256.hexdigest()


def _same(a: RatioTable, b: RatioTable) -> bool:
    return a is b or (a.names == b.names and len(a) == len(b) and _checksum(a) == _checksum(b))


# --- patch


def patch(workspace: Workspace, operations: Iterable[Mapping[str, Any]]) -> Workspace:
    """The workspace after a JSON patch (RFC 6902), validated; also one of a `pyhf.PatchSet`.

    Raises
    ------
    InvalidWorkspace
        A patch that does not apply, that adds or changes an event file, or whose result is not valid.
    """
    try:
        spec = jsonpatch.JsonPatch([dict(o) for o in operations]).apply(copy.deepcopy(workspace.spec))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, ValueError) as error:
        raise InvalidWorkspace(f"the patch does not apply: {error}") from error
    files = [] if schema_problems(spec) else spec.get("unbinned", {}).get("files", [])
    known = workspace.spec.get("unbinned", {}).get("files", [])
    for entry in files:
        if entry not in known:
            raise InvalidWorkspace(
                f"the patch adds or changes the event file {entry['id']!r}, but carries no events; combine with a "
                "workspace that has them"
            )
    new = Workspace(spec, {f["id"]: _table(workspace, f["id"]) for f in files})
    new.validate()
    return new


# --- shared


@contextmanager
def _pyhf_refuses() -> Iterator[None]:
    """pyhf's errors as nuratio's."""
    try:
        yield
    except (pyhf.exceptions.InvalidWorkspaceOperation, pyhf.exceptions.InvalidSpecification, ValueError) as error:
        raise InvalidWorkspace(str(error).splitlines()[0]) from error


def _counting(workspace: Workspace) -> Any:
    return pyhf.Workspace(workspace.counting, validate=False)


def _extension(workspace: Workspace) -> JSON:
    """A copy of the unbinned part, empty if there is none."""
    empty = {"version": "1.0.0", "files": [], "channels": []}
    extension: JSON = copy.deepcopy(workspace.spec.get("unbinned", empty))
    return extension


def _with_tables(counting: JSON, extension: JSON, old: Workspace) -> Workspace:
    tables = {f["id"]: _table(old, f["id"]) for f in extension["files"]}
    return Workspace(counting | {"unbinned": extension}, tables)


def _table(workspace: Workspace, name: str) -> RatioTable:
    if name not in workspace.tables:
        raise InvalidWorkspace(f"no table for file {name!r}; {did_you_mean(name, workspace.tables, 'tables')}")
    return workspace.tables[name]


def _files(channels: Iterable[JSON]) -> Iterator[tuple[JSON, str]]:
    """Each place where a channel names a file: the object and the key in it."""
    for channel in channels:
        for events in channel["events"].values():
            for role in ("file", "features"):
                if role in events:
                    yield events, role


def _require_names(
    workspace: Workspace,
    modifiers: Iterable[str],
    samples: Iterable[str],
    channels: Iterable[str],
    measurements: Iterable[str],
) -> None:
    declared = {p["name"] for p in workspace.spec.get("unbinned", {}).get("parameters", [])}
    _require("modifier", modifiers, modifier_names(workspace.spec) | declared)
    _require("sample", samples, {s["name"] for c in workspace.spec["channels"] for s in c["samples"]})
    _require("channel", channels, workspace.channels)
    _require("measurement", measurements, workspace.measurements)


def _require(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownName(f"no {kind} {name!r}; {did_you_mean(name, sorted(known), f'{kind}s')}")
