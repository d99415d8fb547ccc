"""Arrays that are memory maps of a file: they travel to a process on the same files as the file's name.

A table larger than memory is mapped, not read; what a worker needs of it is the same map. Whether a file is still the
one that was mapped is checked on both sides: by its inode before it is named, by size and time when it is opened.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidData

__all__ = ["FileRange", "file_range"]

_MAPS = Path("/proc/self/maps")


@dataclass(frozen=True)
class FileRange:
    """An array in a file.

    Attributes
    ----------
    path : str
        Absolute.
    offset : int
        Bytes before its first number.
    dtype : str
    shape : tuple of int
    size, modified : int
        Of the file: bytes and time (ns).
    """

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    size: int
    modified: int

    def open(self) -> NDArray[Any]:
        """The array, mapped read-only.

        Raises
        ------
        InvalidData
            The file is not there, or another one.
        """
        try:
            stat = Path(self.path).stat()
            if (stat.st_size, stat.st_mtime_ns) != (self.size, self.modified):
                raise InvalidData(f"{self.path} was changed while it was in use; load the workspace again")
            return np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape).view(np.ndarray)
        except OSError as error:
            raise InvalidData(
                f"a worker cannot read {self.path} ({error.strerror}); tables go by their file's name only where all "
                "workers see the same files"
            ) from error


def file_range(array: NDArray[Any]) -> FileRange | None:
    """Where the numbers of a contiguous array lie in a file that is mapped read-only; None if they do not."""
    mapped: Any = array
    while isinstance(mapped, np.ndarray) and not isinstance(mapped, np.memmap):
        mapped = mapped.base
    buffer = getattr(mapped, "_mmap", None)
    if not isinstance(mapped, np.memmap) or mapped.mode != "r" or buffer is None:
        return None
    if mapped.filename is None or not array.flags.c_contiguous or not array.size or array.dtype.hasobject:
        return None
    path, address = Path(mapped.filename).absolute(), array.__array_interface__["data"][0]
    start = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    try:
        stat = path.stat()
        if _inode(start) != stat.st_ino:
            return None
    except OSError:
        return None
    offset = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY + address - start
    return FileRange(str(path), offset, array.dtype.str, array.shape, stat.st_size, stat.st_mtime_ns)


def _inode(address: int) -> int | None:
    """Of the file that is mapped at an address of this process; None where the system does not tell."""
    if not _MAPS.exists():
        return None
    for line in _MAPS.read_text().splitlines():
        span, _, _, _, inode, *_ = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            return int(inode)
    return None
