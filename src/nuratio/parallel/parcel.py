"""An object on its way to workers: its pickle, and its arrays beside it, never copied into it.

A parcel lies in memory (it goes over a network) or in files (processes of one machine map them, so that there is one
copy of the arrays for all). A worker opens a parcel once and remembers what was in it; arrays come out read-only.
"""

import hashlib
import io
import mmap
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import cloudpickle
import numpy as np

from nuratio.errors import InvalidData
from nuratio.parallel.mapped import FileRange, file_range

__all__ = ["Contents", "FileParcel", "Parcel", "pack"]

_ALIGNED = 64  # bytes
_REMEMBERED = 2  # opened parcels of a process


class Contents:
    """What is in a parcel that never left the process."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def open(self, *, remember: bool = True) -> Any:
        """The object itself."""
        return self.thing


@dataclass(frozen=True, eq=False)
class Parcel:
    """A pickled object in memory.

    Attributes
    ----------
    key : str
        Checksum of all the rest.
    pickled : bytes
    buffers : tuple of bytes-like
        The numbers of its arrays.
    """

    key: str
    pickled: bytes
    buffers: tuple[Any, ...]

    def open(self, *, remember: bool = True) -> Any:
        """The object; with ``remember`` the same one every time in this process."""
        return _opened(self.key, self._load) if remember else self._load()

    def _load(self) -> Any:
        return pickle.loads(self.pickled, buffers=[_aligned(b) for b in self.buffers])

    def __reduce__(self) -> Any:
        return Parcel, (self.key, self.pickled, tuple(pickle.PickleBuffer(b) for b in self.buffers))

    def __sizeof__(self) -> int:
        return len(self.pickled) + sum(memoryview(b).nbytes for b in self.buffers)

    def write(self, folder: Path) -> "FileParcel":
        """The same in files of a new folder."""
        folder.mkdir()
        (folder / "pickle").write_bytes(self.pickled)
        with (folder / "buffers").open("xb") as file:
            for buffer in self.buffers:
                file.write(buffer)
                file.write(bytes(-file.tell() % _ALIGNED))
        return FileParcel(self.key, str(folder), tuple(memoryview(b).nbytes for b in self.buffers))


@dataclass(frozen=True)
class FileParcel:
    """A pickled object in two files, one of them the numbers of its arrays.

    Attributes
    ----------
    key : str
        Checksum of what is in them.
    folder : str
    sizes : tuple of int
        Bytes of each array.
    """

    key: str
    folder: str
    sizes: tuple[int, ...]

    def open(self, *, remember: bool = True) -> Any:
        """The object, its arrays mapped read-only; with ``remember`` the same one every time in this process."""
        return _opened(self.key, self._load) if remember else self._load()

    def _load(self) -> Any:
        try:
            pickled = Path(self.folder, "pickle").read_bytes()
            with Path(self.folder, "buffers").open("rb") as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if any(self.sizes) else b"")
        except OSError as error:
            raise InvalidData(
                f"a worker cannot read {self.folder} ({error.strerror}); set TMPDIR to a folder that all workers see"
            ) from error
        buffers, start = [], 0
        for size in self.sizes:
            buffers.append(mapped[start : start + size])
            start += size + -size % _ALIGNED
        return pickle.loads(pickled, buffers=buffers)


def pack(thing: Any, *, same_files: bool) -> Parcel:
    """An object as a parcel; its arrays are not copied.

    Parameters
    ----------
    thing : object
        Anything that cloudpickle can pickle.
    same_files : bool
        The workers see the same files: arrays that are mapped from one go by its name.
    """
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _Packer(stream, same_files, buffers).dump(thing)
    views = tuple(b.raw() for b in buffers)
    return Parcel(_checksum(stream.getbuffer(), views), stream.getvalue(), views)


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, stream: io.BytesIO, same_files: bool, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(stream, protocol=5, buffer_callback=buffers.append)
        self._same_files = same_files

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            where = file_range(obj) if self._same_files else None
            if where is not None:
                return FileRange.open, (where,)
            if isinstance(obj, np.memmap):  # numpy pickles its subclasses the slow way
                return obj.view(np.ndarray).__reduce_ex__(5)
        return super().reducer_override(obj)


def _checksum(pickled: memoryview, buffers: Sequence[memoryview]) -> str:
    digest = hashlib.sha256(pickled)
    for buffer in buffers:
        digest.update(len(buffer).to_bytes(8, "little"))
        digest.update(buffer)
    return digest.hexdigest()


def _aligned(buffer: Any) -> Any:
    """Read-only, and where an array may begin: a network hands over bytes at any address."""
    view = memoryview(buffer).toreadonly()
    if not view.nbytes or np.frombuffer(view, np.uint8).__array_interface__["data"][0] % 16 == 0:
        return view
    room = np.empty(view.nbytes + 16, np.uint8)
    start = -room.__array_interface__["data"][0] % 16
    copy = room[start : start + view.nbytes]
    copy[:] = np.frombuffer(view, np.uint8)
    return copy.data.toreadonly()


_kept: OrderedDict[str, Any] = OrderedDict()
_lock = Lock()


def _opened(key: str, load: Callable[[], Any]) -> Any:
    with _lock:
        if key not in _kept:
            while len(_kept) >= _REMEMBERED:
                _kept.popitem(last=False)
            _kept[key] = load()
        _kept.move_to_end(key)
        return _kept[key]
