"""The events of an unbinned channel in bins of a feature, or of any number that each of them has.

What is drawn or tested in bins is filled here: data are sums of event weights, expectations sums of reference weight x
density over the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel
from nuratio.model.unbinned import EventCell, UnbinnedChannel

__all__ = ["EventBins", "whole_sample"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_REMEMBERED = 8  # last shapes, a few numbers each: a change of rates alone costs no pass over the pool


def whole_sample(name: str) -> str:
    """The sample to be drawn for a sample of the model: ``name`` for its parts ``name[+]`` and ``name[-]``."""
    return name.removesuffix("[+]").removesuffix("[-]")


@dataclass(frozen=True, eq=False)
class EventBins:
    """The events of an unbinned channel in bins of a feature, or of any number that each of them has.

    Attributes
    ----------
    channel : UnbinnedChannel
    feature : str
    edges : ndarray, shape (b + 1,)
        Lower edges belong to their bin, as does the last upper one; infinite where nothing is outside.
    observed, pool : ndarray of int
        Bin of each event; b for those outside.
    """

    channel: UnbinnedChannel
    feature: str
    edges: Floats
    observed: Ints
    pool: Ints
    _shares: dict[bytes, Floats] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, channel: UnbinnedChannel, feature: str | None, edges: Sequence[float] | int) -> "EventBins":
        """Bins of a feature that the workspace stores.

        Parameters
        ----------
        channel : UnbinnedChannel
        feature : str or None
            None for the first one.
        edges : sequence of float, or int
            Increasing edges; or a number of equal bins over the range of the observed events.

        Raises
        ------
        UnknownName
            No such feature.
        InvalidModel
            No stored features; edges that do not increase; a number of bins, but no observed events to span.
        """
        tables = channel.observed_features, channel.pool_features
        if tables[1] is None:
            raise InvalidModel(f"channel {channel.name!r}: the workspace stores no features, so none can be drawn")
        name = tables[1].names[0] if feature is None else feature
        observed, pool = (np.asarray((t or tables[1].head(0))[name], dtype=np.float64) for t in tables)
        bounds = _edges(channel.name, edges, observed)
        return cls(channel, name, bounds, _bins(observed, bounds), _bins(pool, bounds))

    @classmethod
    def of_values(
        cls, channel: UnbinnedChannel, name: str, observed: Floats, pool: Floats, inner: Floats
    ) -> "EventBins":
        """Bins of given numbers, one for each event, between ``inner`` edges: the outermost bins are open."""
        edges = np.concatenate([[-np.inf], inner, [np.inf]])
        return cls(channel, name, edges, np.digitize(observed, inner), np.digitize(pool, inner))

    def in_cell(self, cell: EventCell) -> Ints:
        """Bins of the pool events of a cell."""
        return cell.pool.of(self.pool)

    def counts(self, weights: Floats) -> Floats:
        """Sums of the events' weights (observed ones, then the pool), shape (b,)."""
        sums = np.bincount(np.concatenate([self.observed, self.pool]), weights, len(self.edges))
        return sums[:-1].astype(np.float64)

    def expected(self, nu: Floats, theta: Floats) -> Floats:
        """Expected counts of each sample, shape (samples, b).

        Parameters
        ----------
        nu : ndarray, shape (samples, cells)
            Yields.
        theta : ndarray, shape (F,)
            The companion's parameters.
        """
        return np.asarray(np.einsum("cj,cjb->cb", nu, self.shares(theta)))

    def shares(self, theta: Floats) -> Floats:
        """Integrals over the bins of the samples' densities in each cell, shape (samples, cells, b)."""
        key = theta[list(self.channel.nuisances)].tobytes()
        if key not in self._shares:
            self._shares[key] = self._integrate(theta)
            while len(self._shares) > _REMEMBERED:
                del self._shares[next(iter(self._shares))]
        return self._shares[key]

    def with_slopes(self, cell: EventCell, nu: Floats, nu_jacobian: Floats, theta: Floats) -> tuple[Floats, Floats]:
        """Expected counts of a cell (samples, b), and derivatives of their sum in the companion's parameters (b, F).

        Parameters
        ----------
        cell : EventCell
            Of the channel, perhaps with other pool weights.
        nu, nu_jacobian : ndarray, shape (samples,), (samples, F)
            Its yields, and their derivatives.
        theta : ndarray, shape (F,)
            The companion's parameters.
        """
        where, n = self.in_cell(cell), len(self.edges)
        shape, slope = np.zeros((len(nu), n)), np.zeros((n, len(theta)))
        for events, t, slopes in cell.evaluate(cell.pool, theta):
            w, b = cell.pool_weights[events], where[events]
            for c, sample in enumerate(cell.samples):
                shape[c] += np.bincount(b, w * t[c], n)
                for par, first in zip(sample.par, slopes[c], strict=True):
                    slope[:, par] += nu[c] * np.bincount(b, w * first, n)
        counts = nu[:, None] * shape
        return counts[:, :-1], (shape.T @ nu_jacobian + slope)[:-1]

    def _integrate(self, theta: Floats) -> Floats:
        cells = self.channel.cells
        out = np.zeros((len(self.channel.samples), len(cells), len(self.edges)))
        for j, cell in enumerate(cells):
            bins = self.in_cell(cell)
            for events, t, _ in cell.evaluate(cell.pool, theta):
                for c, density in enumerate(t):
                    out[c, j] += np.bincount(bins[events], cell.pool_weights[events] * density, len(self.edges))
        return out[..., :-1]


def _edges(channel: str, edges: Sequence[float] | int, observed: Floats) -> Floats:
    if isinstance(edges, int):
        if edges < 1:
            raise InvalidModel(f"channel {channel!r}: at least one bin is needed, not {edges}")
        if not len(observed):
            raise InvalidModel(f"channel {channel!r}: no observed events to take a range from; give the bin edges")
        return np.linspace(observed.min(), np.nextafter(observed.max(), np.inf), edges + 1)
    bounds = np.asarray(edges, dtype=np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or not np.all(np.diff(bounds) > 0):
        raise InvalidModel(f"channel {channel!r}: bin edges must be two or more increasing numbers, got {list(edges)}")
    return bounds


def _bins(values: Floats, edges: Floats) -> Ints:
    """Bin of each value, or the number of bins for values outside."""
    n = len(edges) - 1
    where = np.digitize(values, edges) - 1
    where[values == edges[-1]] = n - 1
    where[(where < 0) | (where >= n)] = n
    return where.astype(np.int64)
