"""The unbinned term of the likelihood.

    -2 ln L = 2 [ nu_tot(theta) - sum_i w_i ln( sum_c nu_c(theta) T_c(x_i | alpha) ) ]

An unbinned channel is a histogram with one bin per event: its list of events is the observed ones, then the pool of
simulated ones, and a data set is a weight for each. nu_tot belongs to the companion channel (`Model` adds it).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuratio.model.positivity import extended_log
from nuratio.model.shapes import SampleShape
from nuratio.ratios.table import RatioTable

__all__ = ["BLOCK", "EventTerm", "UnbinnedChannel"]

Floats = NDArray[np.float64]

BLOCK = 8192  # events evaluated together: their columns stay in the processor's cache


@dataclass(frozen=True, eq=False)
class UnbinnedChannel:
    """One unbinned channel.

    Attributes
    ----------
    name : str
        Also the companion channel's.
    samples : tuple of SampleShape
        In the companion's order.
    observed, pool : RatioTable
        The two event tables, with the same columns.
    pool_weights : ndarray, shape (pool events,)
        Reference weights of the pool: the measure q(x) dx, summing to 1.
    observed_features, pool_features : RatioTable or None
        Features of the same events, for drawing.
    """

    name: str
    samples: tuple[SampleShape, ...]
    observed: RatioTable
    pool: RatioTable
    pool_weights: Floats
    observed_features: RatioTable | None = None
    pool_features: RatioTable | None = None

    def __len__(self) -> int:
        return len(self.observed) + len(self.pool)

    @property
    def nuisances(self) -> tuple[int, ...]:
        """Nuisances with a shape effect in this channel (companion indices, sorted)."""
        return tuple(sorted({p for s in self.samples for p in s.par}))

    def terms(self, weights: Floats) -> tuple["EventTerm", ...]:
        """The likelihood terms of a data set: one per table with a non-zero weight; weight-zero events are dropped."""
        n = len(self.observed)
        parts = ((self.observed, weights[:n], 0), (self.pool, weights[n:], n))
        return tuple(EventTerm.select(self, t, w, first) for t, w, first in parts if np.any(w))

    def densities(self, table: RatioTable, nu: Floats, theta: Floats) -> Iterator[tuple[slice, Floats]]:
        """Blocks of (events, T of shape (samples, m)) over a table; the total density is nu @ T."""
        for start in range(0, len(table), BLOCK):
            events = slice(start, start + BLOCK)
            block = np.asarray(table.values[:, events], dtype=np.float64)
            yield events, np.array([s.evaluate(block, theta, 0).value for s in self.samples])


@dataclass(frozen=True, eq=False)
class EventTerm:
    """Events of one channel with their weights: -2 sum_i w_i ln(density_i), and its derivatives."""

    channel: UnbinnedChannel
    values: NDArray[np.floating]  # (columns, n)
    weights: Floats  # (n,)
    index: NDArray[np.int64]  # position of each event in the channel's list

    @classmethod
    def select(cls, channel: UnbinnedChannel, table: RatioTable, weights: Floats, first: int) -> "EventTerm":
        """The events of non-zero weight; the table itself, without a copy, if that is all of them."""
        if np.all(weights):
            return cls(channel, table.values, weights, np.arange(first, first + len(weights)))
        index = np.flatnonzero(weights)
        return cls(channel, np.ascontiguousarray(table.values[:, index]), weights[index], index + first)

    def _blocks(self) -> Iterator[tuple[Floats, Floats]]:
        for start in range(0, len(self.weights), BLOCK):
            events = slice(start, start + BLOCK)
            yield np.asarray(self.values[:, events], dtype=np.float64), self.weights[events]

    def value(self, nu: Floats, theta: Floats, threshold: float) -> float:
        """-2 sum w ln density, continued below the threshold (density / reference density, in expected events)."""
        total = 0.0
        for block, w in self._blocks():
            density = sum(n * s.evaluate(block, theta, 0).value for n, s in zip(nu, self.channel.samples, strict=True))
            total -= 2 * float(w @ extended_log(np.asarray(density), threshold)[0])
        return total

    def derivatives(
        self, nu: Floats, theta: Floats, threshold: float, *, hessian: bool
    ) -> tuple[float, Floats, Floats]:
        """Value, gradient (C + K,) and Hessian (C + K, C + K) in the C yields and K nuisances of the channel.

        Without ``hessian`` the last is empty.
        """
        samples, nuisances = self.channel.samples, self.channel.nuisances
        c, k = len(samples), len(nuisances)
        local = [[c + nuisances.index(p) for p in s.par] for s in samples]
        value, gradient = 0.0, np.zeros(c + k)
        second = np.zeros((c + k, c + k) if hessian else (0, 0))
        for block, w in self._blocks():
            shapes = [s.evaluate(block, theta, 2) for s in samples]
            slopes = [s.first() if rows else np.empty((0, len(w))) for s, rows in zip(shapes, local, strict=True)]
            first = np.zeros((c + k, len(w)))  # d density / d (nu, alpha)
            first[:c] = [s.value for s in shapes]
            density = nu @ first[:c]
            for n, rows, slope in zip(nu, local, slopes, strict=True):
                first[rows] += n * slope
            log, log1, log2 = extended_log(density, threshold)
            value -= 2 * float(w @ log)
            gradient -= 2 * (first @ (w * log1))
            if hessian:
                second -= 2 * (first * (w * log2)) @ first.T
                for j, (n, rows, shape, slope) in enumerate(zip(nu, local, shapes, slopes, strict=True)):
                    if rows:
                        second[np.ix_(rows, rows)] -= 2 * n * shape.contract_second(w * log1)
                        mixed = 2 * (slope @ (w * log1))
                        second[j, rows] -= mixed
                        second[rows, j] -= mixed
        return value, gradient, second

    def nonpositive(self, nu: Floats, theta: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Events with a density <= 0: index in the channel, density, and nu_c T_c of each sample (C, events)."""
        found: list[tuple[int, float, Floats]] = []
        for start, (block, _) in zip(range(0, len(self.weights), BLOCK), self._blocks(), strict=True):
            parts = nu[:, None] * np.array([s.evaluate(block, theta, 0).value for s in self.channel.samples])
            density = parts.sum(0)
            found += [(int(self.index[start + i]), density[i], parts[:, i]) for i in np.flatnonzero(~(density > 0))]
        index = np.array([f[0] for f in found], dtype=np.int64)
        return index, np.array([f[1] for f in found]), np.array([f[2] for f in found]).reshape(-1, len(nu)).T
