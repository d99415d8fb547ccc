"""Event tables on disk: plain ``.npy`` files in the blocks of a `RatioTable`, read without a copy and never unpickled.

A table written by other means may also be a two-dimensional array, one row per column (an entry without ``block``).
"""

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidWorkspace
from nuratio.ratios.table import RatioTable

__all__ = ["Store", "file_entry", "write_workspace"]

_CHUNK = 1 << 18  # events checked at a time


class Store:
    """Where a workspace's files lie: a directory (tables are memory-mapped) or a zip of one (read into memory)."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InvalidWorkspace(f"no workspace at {path}: there is no such file or directory")
        self.path = path
        self.zip = None if path.is_dir() else _open_zip(path)

    def json(self) -> Any:
        """The content of workspace.json."""
        try:
            if self.zip is None:
                return json.loads((self.path / "workspace.json").read_text())
            return json.loads(self.zip.read("workspace.json"))
        except (FileNotFoundError, KeyError):
            raise InvalidWorkspace(f"no workspace.json in {self.path}") from None
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidWorkspace(f"{self.path}: workspace.json is not JSON: {error}") from error

    def table(self, entry: Mapping[str, Any], *, verify: bool) -> tuple[RatioTable | None, list[str]]:
        """The table of one entry of ``unbinned.files`` and what is wrong with it (None if it cannot be read)."""
        where = f"file {entry['id']!r} ({entry['uri']})"
        uri = PurePosixPath(entry["uri"])
        if uri.is_absolute() or ".." in uri.parts or "\\" in entry["uri"] or ":" in uri.parts[0]:
            return None, [f"{where}: the path must be relative and stay inside the workspace"]
        try:
            values, digest = self._read(uri, verify=verify)
        except FileNotFoundError:
            return None, [f"{where}: no such file in the workspace"]
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            return None, [f"{where}: not a readable .npy table: {error}"]
        columns, events = tuple(entry["columns"]), entry["events"]
        block = entry.get("block")
        shape = (len(columns), events) if block is None else (-(-events // block), len(columns), block)
        if values.shape != shape or values.dtype != np.dtype(entry["dtype"]) or not values.flags.c_contiguous:
            return None, [
                f"{where}: holds {values.dtype}{list(values.shape)}, declared is {entry['dtype']}{list(shape)}"
            ]
        problems = []
        if verify and digest != entry["sha256"]:
            problems.append(f"{where}: checksum {digest[:12]}... differs from the declared {entry['sha256'][:12]}...")
        table = RatioTable(columns, values, events)
        bad = _not_finite(table)
        problems += [f"{where}: column {n!r} is NaN or infinite at {k} events (first: {i})" for n, k, i in bad]
        return table, problems

    def _read(self, uri: PurePosixPath, *, verify: bool) -> tuple[NDArray[np.floating], str]:
        if self.zip is not None:
            try:
                content = self.zip.read(str(uri))
            except KeyError:
                raise FileNotFoundError(uri) from None
            values = np.load(io.BytesIO(content), allow_pickle=False)
            return values, hashlib.sha256(content).hexdigest() if verify else ""
        path = self.path / uri
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ValueError("a link leads out of the workspace")
        values = np.load(path, allow_pickle=False, mmap_mode="r" if path.stat().st_size > 1024 else None)
        return values, _sha256(path) if verify else ""


def _not_finite(table: RatioTable) -> list[tuple[str, int, int]]:
    """Columns with NaN or infinite numbers: name, how many, and the first event."""
    count, first = np.zeros(len(table.names), dtype=np.int64), np.full(len(table.names), len(table))
    for events, piece in table.pieces(_CHUNK):
        wrong = ~np.isfinite(piece)
        if wrong.any():
            count += wrong.sum(1)
            first = np.where(wrong.any(1), np.minimum(first, events.start + wrong.argmax(1)), first)
    return [(n, int(k), int(i)) for n, k, i in zip(table.names, count, first, strict=True) if k]


def file_entry(name: str, table: RatioTable) -> dict[str, Any]:
    """The entry of ``unbinned.files`` for a table; its checksum is known when it is written."""
    return {
        "id": name,
        "uri": f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in name)}.npy",
        "format": "npy",
        "sha256": "0" * 64,
        "dtype": str(table.blocks.dtype),
        "columns": list(table.names),
        "events": len(table),
        "block": table.size,
    }


def write_workspace(spec: Mapping[str, Any], tables: Mapping[str, RatioTable], path: Path, *, overwrite: bool) -> None:
    """Write workspace.json and the tables to a directory, or to a zip if the name ends so; all of it or nothing.

    Raises
    ------
    InvalidWorkspace
        Something is there already and ``overwrite`` is false, or it is no workspace.
    """
    if path.exists():
        if not overwrite:
            raise InvalidWorkspace(f"{path} exists; choose another name or overwrite it explicitly")
        if path.is_dir() and any(path.iterdir()) and not (path / "workspace.json").exists():
            raise InvalidWorkspace(f"{path} is a directory but no workspace; nothing was overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        for entry in spec.get("unbinned", {}).get("files", []):
            target = new / entry["uri"]
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, tables[entry["id"]].blocks, allow_pickle=False)
            entry |= {"sha256": _sha256(target), "block": tables[entry["id"]].size}
        (new / "workspace.json").write_text(json.dumps(spec, indent=1, allow_nan=False))
        if path.suffix == ".zip":
            packed = Path(scratch) / "packed.zip"
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
                for file in sorted(new.rglob("*")):
                    if file.is_file():
                        archive.write(file, file.relative_to(new))
            packed.replace(path)
        else:
            if path.exists():
                path.rename(Path(scratch) / "old")
            new.rename(path)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InvalidWorkspace(f"{path} is neither a directory nor a zip: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
