"""The waist of nuratio: numbers per event. Networks end here; everything after is arithmetic.

A `RatioTable` holds named columns over one list of events: density ratios, shape coefficients, reference weights.
Analytic ratios make one as well as trained ones do, so every likelihood test can use exact numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidData, UnknownName, did_you_mean

__all__ = ["RatioTable", "block_size"]

Floats = NDArray[np.float64]

_BLOCK_BYTES = 1 << 20  # of one block: it is read twice per likelihood call, the second time from the core's cache


def block_size(columns: int, itemsize: int = 4) -> int:
    """Events per block: 1024, fewer where there are many columns (a power of two, at least 128)."""
    fit = _BLOCK_BYTES // max(columns * itemsize, 1)
    return min(1024, max(128, 1 << max(fit.bit_length() - 1, 0)))


@dataclass(frozen=True, eq=False)
class RatioTable:
    """Named columns over n events, in blocks of events, event-fastest within a block.

    A pass over all events reads memory from beginning to end, so that a table larger than memory can be a memory map.

    Parameters
    ----------
    names : tuple of str
        Column names.
    blocks : ndarray, shape (blocks, len(names), events per block), float32 or float64
        Event i is ``blocks[i // size, :, i % size]``; read-only. A plain array of shape (len(names), n) is one block.
    events : int, optional
        n; the rest of the last block is padding. All of the blocks by default.
    """

    names: tuple[str, ...]
    blocks: NDArray[np.floating]
    events: int = -1

    def __post_init__(self) -> None:
        blocks = np.asarray(self.blocks)
        if blocks.ndim == 2:
            blocks = blocks[np.newaxis]
        if blocks.ndim != 3 or blocks.shape[1] != len(self.names):
            raise InvalidData(f"{len(self.names)} column names for a table of shape {np.shape(self.blocks)}")
        if len(set(self.names)) != len(self.names):
            raise InvalidData(f"column names repeat: {list(self.names)}")
        room = blocks.shape[0] * blocks.shape[2]
        events = room if self.events < 0 else self.events
        if events > room or (events <= room - blocks.shape[2] and room):
            raise InvalidData(f"{events} events do not fit {blocks.shape[0]} blocks of {blocks.shape[2]} events")
        blocks = np.ascontiguousarray(blocks).view()
        blocks.flags.writeable = False
        object.__setattr__(self, "blocks", blocks)
        object.__setattr__(self, "events", events)

    @classmethod
    def from_columns(cls, columns: Mapping[str, ArrayLike], dtype: type[np.floating] = np.float32) -> "RatioTable":
        """A table of the given columns, each of shape (n,).

        Raises
        ------
        InvalidData
            Columns of unequal length, or entries that are NaN or infinite.
        """
        arrays = {name: np.asarray(c) for name, c in columns.items()}
        lengths = {name: a.shape for name, a in arrays.items()}
        if len(set(lengths.values())) > 1 or any(len(s) != 1 for s in lengths.values()):
            raise InvalidData(f"columns must all have the same shape (events,), got {lengths}")
        n = next(iter(lengths.values()))[0] if lengths else 0
        table = cls._empty(tuple(arrays), n, dtype)
        whole = n // table.size
        for j, (name, a) in enumerate(arrays.items()):
            with np.errstate(over="ignore"):  # reported below
                a = a.astype(dtype, copy=False)
            bad = np.flatnonzero(~np.isfinite(a))
            if bad.size:
                raise InvalidData(f"column {name!r} is NaN or infinite for {bad.size} events (first: event {bad[0]})")
            table.blocks[:whole, j] = a[: whole * table.size].reshape(whole, table.size)
            table.blocks[whole:, j, : n - whole * table.size] = a[whole * table.size :]
        return table._frozen()

    @classmethod
    def _empty(cls, names: tuple[str, ...], n: int, dtype: np.dtype | type) -> "RatioTable":
        """Writeable until `_frozen`."""
        size = max(min(block_size(len(names), np.dtype(dtype).itemsize), n), 1)
        table = cls(names, np.zeros((-(-n // size), len(names), size), dtype), n)
        table.blocks.flags.writeable = True
        return table

    def _frozen(self) -> "RatioTable":
        self.blocks.flags.writeable = False
        return self

    def __len__(self) -> int:
        return self.events

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @property
    def size(self) -> int:
        """Events per block."""
        return int(self.blocks.shape[2])

    @property
    def values(self) -> NDArray[np.floating]:
        """All columns, shape (len(names), n): a copy unless there is a single block."""
        columns = self.blocks.transpose(1, 0, 2).reshape(len(self.names), -1)
        return columns[:, : self.events]

    def row(self, name: str) -> int:
        """Position of a column.

        Raises
        ------
        UnknownName
            There is none of that name.
        """
        if name not in self.names:
            raise UnknownName(f"no column {name!r}; {did_you_mean(name, self.names, 'columns')}")
        return self.names.index(name)

    def __getitem__(self, name: str) -> NDArray[np.floating]:
        """One column, shape (n,); a copy unless there is a single block."""
        return np.asarray(self.blocks[:, self.row(name)].reshape(-1)[: self.events])

    def pieces(self, size: int) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        """Some events at a time as (slice of events, view of shape (columns, m)), m <= ``size``."""
        for first in range(0, self.events, self.size):
            block = self.blocks[first // self.size]
            last = min(self.size, self.events - first)
            for start in range(0, last, size):
                stop = min(start + size, last)
                yield slice(first + start, first + stop), block[:, start:stop]

    def chunks(self, size: int = 1024) -> Iterator[tuple[slice, Floats]]:
        """The same in float64."""
        return ((events, piece.astype(np.float64)) for events, piece in self.pieces(size))

    def select(self, names: Sequence[str]) -> "RatioTable":
        """The named columns, in that order."""
        return RatioTable(tuple(names), self.blocks[:, [self.row(name) for name in names]], self.events)

    def take(self, index: NDArray[np.int64]) -> "RatioTable":
        """The events at ``index`` (shape (m,)), in that order."""
        table = self._empty(self.names, len(index), self.blocks.dtype)
        for b in range(len(table.blocks)):
            i = index[b * table.size : (b + 1) * table.size]
            table.blocks[b, :, : len(i)] = self.blocks[i // self.size, :, i % self.size].T
        return table._frozen()

    def between(self, start: int, stop: int) -> "RatioTable":
        """The events from ``start`` to before ``stop``; without a copy where these are ends of blocks."""
        if start % self.size or (stop % self.size and stop != self.events):
            return self.take(np.arange(start, stop))
        return RatioTable(self.names, self.blocks[start // self.size : -(-stop // self.size)], stop - start)

    def head(self, n: int) -> "RatioTable":
        """The first ``n`` events."""
        return self.take(np.arange(min(n, self.events)))
