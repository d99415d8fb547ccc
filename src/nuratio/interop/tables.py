"""A workspace's event tables as ROOT trees or Parquet files, for sharing and for looking at them with other tools.

Both hold the numbers as they are (float32 or float64) and are written a part at a time, so a table may be larger than
memory. What a table is (its id and checksum in the workspace, the names of its columns) stands beside the numbers: as
JSON in the object ``nuratio`` of a ROOT file, and under the key ``nuratio`` of a Parquet file's metadata. A name that
is none in ROOT, such as that of the column ``ttbar[+]``, is another one there, ``ttbar___``, and the JSON tells it.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidWorkspace
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace

__all__ = ["to_parquet", "to_root"]

JSON = dict[str, Any]

_CHUNK = 1 << 25  # bytes written at a time: a basket of each branch, or a row group


def to_root(workspace: Workspace, path: str | Path, *, overwrite: bool = False) -> JSON:
    """Write all event tables to one ROOT file, a TTree each; all of it or nothing.

    Parameters
    ----------
    workspace : Workspace
    path : path
        The file.
    overwrite : bool
        Replace a file that exists.

    Returns
    -------
    dict
        Tree -> ``id``, ``events``, ``dtype``, ``sha256`` (of the workspace's file, if it was saved) and ``columns``
        (branch -> column); the JSON in the file's object ``nuratio``.

    Raises
    ------
    InvalidWorkspace
        No event tables, or the file exists.
    """
    import uproot

    path = Path(path)
    described = _describe(workspace)
    _require_free(path, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        new = Path(scratch) / "new.root"
        with uproot.recreate(new) as file:
            for name, entry in described.items():
                table = workspace.tables[entry["id"]]
                branches = list(entry["columns"])
                tree = file.mktree(name, dict.fromkeys(branches, table.blocks.dtype), title=entry["id"])
                for values in _chunks(table):
                    tree.extend(dict(zip(branches, values, strict=True)))
            file["nuratio"] = json.dumps(described)
        new.replace(path)
    return described


def to_parquet(workspace: Workspace, path: str | Path, *, overwrite: bool = False) -> JSON:
    """Write all event tables to a directory, a Parquet file each; all of it or nothing.

    Parameters
    ----------
    workspace : Workspace
    path : path
        The directory.
    overwrite : bool
        Replace a directory of Parquet files.

    Returns
    -------
    dict
        File -> ``id``, ``events``, ``dtype`` and ``sha256`` (of the workspace's file, if it was saved); each is also in
        its file, as JSON under the key ``nuratio`` of the metadata.

    Raises
    ------
    InvalidWorkspace
        No event tables, or the directory exists (with ``overwrite``: and holds other things than Parquet files).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    described = {f"{name}.parquet": entry for name, entry in _describe(workspace).items()}
    _require_free(path, overwrite=overwrite)
    if path.exists() and (not path.is_dir() or any(f.suffix != ".parquet" for f in path.iterdir())):
        raise InvalidWorkspace(f"{path} is no directory of Parquet files; nothing was overwritten")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        for name, entry in described.items():
            table = workspace.tables[entry["id"]]
            del entry["columns"]  # a Parquet file takes any name
            fields = [
                pa.field(column, pa.from_numpy_dtype(table.blocks.dtype), nullable=False) for column in table.names
            ]
            schema = pa.schema(fields, metadata={"nuratio": json.dumps(entry)})
            with pq.ParquetWriter(new / name, schema) as writer:
                for values in _chunks(table):
                    writer.write_batch(pa.record_batch([pa.array(v) for v in values], schema=schema))
        if path.exists():
            path.rename(Path(scratch) / "old")
        new.rename(path)
    return described


def _describe(workspace: Workspace) -> JSON:
    files = workspace.spec.get("unbinned", {}).get("files", [])
    if not files:
        raise InvalidWorkspace("the workspace has no event tables: none of its channels is unbinned")
    names = _identifiers([f["id"] for f in files])
    described = {}
    for name, entry in zip(names, files, strict=True):
        table = workspace.tables[entry["id"]]
        described[name] = {"id": entry["id"], "events": len(table), "dtype": str(table.blocks.dtype)}
        if entry["sha256"].strip("0"):
            described[name]["sha256"] = entry["sha256"]
        described[name]["columns"] = dict(zip(_identifiers(table.names), table.names, strict=True))
    return described


def _identifiers(names: list[str] | tuple[str, ...]) -> list[str]:
    """The names as C++ knows names: letters, digits, underscores; numbered where two become the same."""
    taken: set[str] = {n for n in names if n.isascii() and n.isidentifier()}
    found = []
    for name in names:
        stem = new = name
        if name not in taken:
            stem = new = re.sub(r"^(?=\d)|[^0-9A-Za-z_]", "_", name) or "_"
            k = 1
            while new in taken:
                k += 1
                new = f"{stem}_{k}"
            taken.add(new)
        found.append(new)
    return found


def _chunks(table: RatioTable) -> Iterator[NDArray[np.floating]]:
    """The events, shape (columns, m), some megabytes at a time."""
    rows = max(_CHUNK // max(len(table.names) * table.blocks.itemsize, 1), 1)
    if table.size >= rows:  # one array of all events, made by other tools
        yield from (values for _, values in table.pieces(rows))
        return
    step = rows // table.size
    for first in range(0, len(table.blocks), step):
        values = table.blocks[first : first + step].transpose(1, 0, 2).reshape(len(table.names), -1)
        yield values[:, : len(table) - first * table.size]


def _require_free(path: Path, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InvalidWorkspace(f"{path} exists; choose another name or overwrite it explicitly")
    path.parent.mkdir(parents=True, exist_ok=True)
