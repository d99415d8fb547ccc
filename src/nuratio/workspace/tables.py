"""Event tables on disk: plain ``.npy`` files in the blocks of a `RatioTable`, read without a copy and never unpickled.

A table written by other means may also be a two-dimensional array, one row per column (an entry without ``block``).
Nothing is allocated or mapped before the size of a file agrees with its header and with what workspace.json declares.
"""

import ast
import hashlib
import json
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidWorkspace
from nuratio.ratios.table import RatioTable
from nuratio.workspace.strict_json import parse_json

__all__ = ["Store", "file_entry", "write_workspace"]

_JSON = "workspace.json"
_LARGEST_JSON = 1 << 28  # bytes
_LARGEST_HEADER = 1024  # bytes; numpy writes 118
_DENSEST = 100  # how far a zip may compress a large table: numbers of events do not, a bomb does
_LARGE = 1 << 26  # bytes
_DTYPES = {"float32": "<f4", "float64": "<f8"}
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error)


class Store:
    """Where a workspace's files lie: a directory (tables are memory-mapped) or a zip of one (read into memory)."""

    def __init__(self, path: Path) -> None:
        try:
            exists, directory, file = path.exists(), path.is_dir(), path.is_file()
        except (OSError, ValueError) as error:
            raise InvalidWorkspace(f"no workspace at {path}: {error}") from error
        if not exists:
            raise InvalidWorkspace(f"no workspace at {path}: there is no such file or directory")
        if not directory and not file:
            raise InvalidWorkspace(f"{path} is neither a directory nor a zip, but a device or pipe")
        self.path = path
        self.zip = None if directory else _open_zip(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.zip is not None:
            self.zip.close()

    def json(self) -> Any:
        """The content of workspace.json."""
        try:
            with self._open(_JSON) as (stream, size):
                if size > _LARGEST_JSON:
                    raise ValueError(f"it has {size} bytes, the limit is {_LARGEST_JSON}; events belong into tables")
                content = stream.read(size)
        except FileNotFoundError:
            inside = [] if self.zip is None else [n for n in self.zip.namelist() if n.endswith(f"/{_JSON}")]
            hint = f"; {inside[0]!r} is there: zip what is in the directory, not the directory" if inside else ""
            raise InvalidWorkspace(f"no workspace.json in {self.path}{hint}") from None
        except _UNREADABLE as error:
            raise InvalidWorkspace(f"{self.path}: workspace.json cannot be read: {error}") from error
        return parse_json(content, f"{self.path}: workspace.json")

    def table(self, entry: Mapping[str, Any], *, verify: bool) -> tuple[RatioTable | None, list[str]]:
        """The table of one entry of ``unbinned.files`` and what is wrong with it (None if it cannot be read)."""
        where = f"file {entry['id']!r} ({entry['uri']})"
        try:
            values, digest = self._read(entry, verify=verify)
            table = RatioTable(tuple(entry["columns"]), values, int(entry["events"]))
        except FileNotFoundError:
            return None, [f"{where}: no such file in the workspace"]
        except _UNREADABLE as error:
            return None, [f"{where}: {error or type(error).__name__}"]
        if verify and digest != entry["sha256"]:
            return table, [
                f"{where}: checksum {digest[:12]}... differs from the declared {entry['sha256'][:12]}...; the file was "
                "changed or exchanged: copy it again"
            ]
        return table, []

    def _read(self, entry: Mapping[str, Any], *, verify: bool) -> tuple[NDArray[np.floating], str]:
        columns, events = len(entry["columns"]), int(entry["events"])
        block = int(entry.get("block", 0))
        if not columns:
            raise ValueError("it declares no columns")
        shape = (-(-events // block), columns, block) if block else (columns, events)
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        with self._open(entry["uri"]) as (stream, size):
            head = _read_header(stream, shape, entry["dtype"])
            length = math.prod(shape) * dtype.itemsize
            if size != len(head) + length:
                raise ValueError(
                    f"not a readable .npy table: it has {size} bytes, but {dtype.name}{list(shape)} takes "
                    f"{len(head) + length}: it was cut off, or something was added"
                )
            if self.zip is not None:
                content = stream.read(length)
                if len(content) != length:
                    raise EOFError("not a readable .npy table: it ends early")
                digest = hashlib.sha256(head + content).hexdigest() if verify else ""
                return np.frombuffer(content, dtype).reshape(shape), digest
            digest = _sha256(stream) if verify else ""
            if not length:
                return np.empty(shape, dtype), digest
            return np.memmap(stream, dtype, "r", len(head), shape), digest

    @contextmanager
    def _open(self, uri: str) -> Iterator[tuple[IO[bytes], int]]:
        """A file of the workspace to read from, and its size in bytes."""
        if self.zip is not None:
            if uri not in self.zip.namelist():
                raise FileNotFoundError(uri)
            info = self.zip.getinfo(uri)
            if info.flag_bits & 1:
                raise ValueError("it is encrypted; write the zip without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is compressed in an unusual way; write the zip with 'store' or 'deflate'")
            if info.file_size > max(_LARGE, _DENSEST * info.compress_size):
                raise ValueError(
                    f"{info.file_size} bytes are compressed to {info.compress_size}, more than {_DENSEST} to one, as "
                    "in a zip bomb; unpack it yourself if you trust it"
                )
            with self.zip.open(info) as member:
                yield member, info.file_size
            return
        path = self.path / uri
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ValueError("its path, or a link, leads out of the workspace; put the file itself there")
        if path.exists() and not path.is_file():
            raise ValueError("it is a directory, device or pipe, not a file")
        with path.open("rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size


def _read_header(stream: IO[bytes], shape: tuple[int, ...], dtype: str) -> bytes:
    """All bytes before the numbers, if they announce an array of this shape and type in C order.

    Raises
    ------
    ValueError
        They announce something else.
    """
    start = stream.read(8)
    width = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4, b"\x93NUMPY\x03\x00": 4}.get(start)
    if width is None:
        raise ValueError("not a readable .npy table: it does not begin as one")
    size = stream.read(width)
    length = int.from_bytes(size, "little")
    text = stream.read(length) if length <= _LARGEST_HEADER else b""
    if len(text) != length:
        raise ValueError("not a readable .npy table: its header is cut off, or too long")
    try:
        header = ast.literal_eval(text.decode().strip())
        found = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, LookupError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("not a readable .npy table: its header is damaged") from error
    if found != (_DTYPES[dtype], False, shape):
        names = {code: name for name, code in _DTYPES.items()}
        kind = names.get(found[0], repr(found[0])[:60]) if isinstance(found[0], str) else "objects or records"
        sizes = list(found[2]) if isinstance(found[2], tuple) else found[2]
        raise ValueError(
            f"holds {kind}{str(sizes)[:100]}{' in Fortran order' * (found[1] is True)}, declared is "
            f"{dtype}{list(shape)}; write it with numpy.save from a C-contiguous array"
        )
    head = start + size + text
    if len(head) % 8:
        raise ValueError("not a readable .npy table: its numbers are not aligned to 8 bytes; write it with numpy.save")
    return head


def file_entry(name: str, table: RatioTable) -> dict[str, Any]:
    """The entry of ``unbinned.files`` for a table; its checksum is known when it is written."""
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:100]
    if stem != name:  # "a b" and "a_b" are two files
        stem += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return {
        "id": name,
        "uri": f"{stem}.npy",
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
        Something is there already and ``overwrite`` is false, or it is no workspace, or more than one; or it cannot be
        written. What was there is there still.
    """
    try:
        path = path.resolve()
        if path.exists():
            if not overwrite:
                raise InvalidWorkspace(f"{path} exists; choose another name or overwrite it explicitly")
            _require_workspace(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}-", dir=path.parent, ignore_cleanup_errors=True
        ) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            _write(spec, tables, new)
            _put(_packed(new) if path.suffix == ".zip" else new, path, Path(scratch) / "old")
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidWorkspace):
            raise
        raise InvalidWorkspace(f"{path} cannot be written: {error}; what was there is unchanged") from error


def _write(spec: Mapping[str, Any], tables: Mapping[str, RatioTable], new: Path) -> None:
    for entry in spec.get("unbinned", {}).get("files", []):
        target, table = new / entry["uri"], tables[entry["id"]]
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            np.save(file, table.blocks.astype(_DTYPES[entry["dtype"]], copy=False), allow_pickle=False)
        with target.open("rb") as file:
            entry |= {"sha256": _sha256(file), "block": table.size}
    (new / _JSON).write_text(json.dumps(spec, indent=1, allow_nan=False), encoding="utf-8")


def _packed(directory: Path) -> Path:
    packed = directory.with_name("packed.zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(directory))
    return packed


def _put(new: Path, path: Path, old: Path) -> None:
    """Move ``new`` to ``path``; a directory there goes to ``old``, and comes back if that fails."""
    if not path.is_dir():
        new.replace(path)
        return
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise


def _require_workspace(path: Path) -> None:
    """Refuse to overwrite anything but a workspace of the same kind, with nothing else in it."""
    kept = "nothing was overwritten"
    if (path.suffix == ".zip") is path.is_dir():
        raise InvalidWorkspace(f"{path} is a {'directory' if path.is_dir() else 'file'}; {kept}: choose another name")
    if path.is_dir() and not any(path.iterdir()):
        return
    try:
        with Store(path) as store:
            old = store.json()
    except InvalidWorkspace as error:
        raise InvalidWorkspace(f"{path} is no workspace; {kept}: choose another name ({error})") from error
    if not path.is_dir():
        return
    own = {_JSON}
    match old:
        case {"unbinned": {"files": [*entries]}}:
            own |= {entry["uri"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("uri"), str)}
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir()}
    if there - own:
        raise InvalidWorkspace(
            f"{path} holds files that are no part of the workspace ({', '.join(sorted(there - own)[:5])}); {kept}: "
            "move them, or choose another name"
        )


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise InvalidWorkspace(
            f"{path} is neither a directory nor a zip: {error}; a pyhf workspace is read by Workspace.from_pyhf"
        ) from error
    names = archive.namelist()
    twice = [name for name, n in Counter(names).items() if n > 1]
    outside = [n for n in names if PurePosixPath(n).is_absolute() or ".." in PurePosixPath(n).parts or "\\" in n]
    if twice or outside:
        archive.close()
        what = f"two files {twice[0]!r}" if twice else f"a file {outside[0]!r} outside of itself"
        raise InvalidWorkspace(f"{path}: the zip has {what}; write it again")
    return archive


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
