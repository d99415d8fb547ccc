"""The waist of nuratio: numbers per event. Networks end here; everything after is arithmetic.

A `RatioTable` holds named columns over one list of events: density ratios, shape coefficients, reference weights.
Analytic ratios make one as well as trained ones do, so every likelihood test can use exact numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidData, UnknownName, did_you_mean

__all__ = ["RatioTable"]


@dataclass(frozen=True, eq=False)
class RatioTable:
    """Named columns over n events, stored event-fastest.

    Parameters
    ----------
    names : tuple of str
        Column names.
    values : ndarray, shape (len(names), n), float32 or float64
        One row per column, so that each column is contiguous; may be memory-mapped.
    """

    names: tuple[str, ...]
    values: NDArray[np.floating]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[0] != len(self.names):
            raise InvalidData(f"{len(self.names)} column names for a table of shape {self.values.shape}")
        if len(set(self.names)) != len(self.names):
            raise InvalidData(f"column names repeat: {list(self.names)}")

    @classmethod
    def from_columns(cls, columns: Mapping[str, ArrayLike], dtype: type[np.floating] = np.float32) -> "RatioTable":
        """A table of the given columns, each of shape (n,).

        Raises
        ------
        InvalidData
            Columns of unequal length, or entries that are NaN or infinite.
        """
        arrays = {name: np.asarray(c, dtype=dtype) for name, c in columns.items()}
        lengths = {name: a.shape for name, a in arrays.items()}
        if len(set(lengths.values())) > 1 or any(len(s) != 1 for s in lengths.values()):
            raise InvalidData(f"columns must all have the same shape (events,), got {lengths}")
        for name, a in arrays.items():
            bad = np.flatnonzero(~np.isfinite(a))
            if bad.size:
                raise InvalidData(f"column {name!r} is NaN or infinite for {bad.size} events (first: event {bad[0]})")
        return cls(tuple(arrays), np.stack(list(arrays.values())) if arrays else np.empty((0, 0), dtype))

    def __len__(self) -> int:
        return int(self.values.shape[1])

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> NDArray[np.floating]:
        if name not in self.names:
            raise UnknownName(f"no column {name!r}; {did_you_mean(name, self.names, 'columns')}")
        column: NDArray[np.floating] = self.values[self.names.index(name)]
        return column

    def select(self, names: Sequence[str]) -> "RatioTable":
        """The named columns, in that order; a view where they are neighbours, so that a memory map stays one."""
        rows = []
        for name in names:
            if name not in self.names:
                raise UnknownName(f"no column {name!r}; {did_you_mean(name, self.names, 'columns')}")
            rows.append(self.names.index(name))
        if rows and rows == list(range(rows[0], rows[0] + len(rows))):
            return RatioTable(tuple(names), self.values[rows[0] : rows[-1] + 1])
        return RatioTable(tuple(names), self.values[rows])

    def head(self, n: int) -> "RatioTable":
        """The first ``n`` events."""
        return RatioTable(self.names, self.values[:, :n])
