"""How far events are from a model in many quantities at once, without bins: Cramer-von Mises along slices.

Along one direction of the space of the events, let F and F_0 be the distribution functions of data and of the model.
The statistic of Cramer and von Mises is N times the integral of (F - F_0)^2 over the share of the reference measure
q; here it is averaged over the axes and over random directions, as the sliced Wasserstein distance and the energy
distance are (which are the same integral over the values in place of the shares). Quantities are made uniform
under q first, one by one, so that units and long tails do not matter.

The space is that of the features the workspace stores for the channel; without them, that of the columns its samples
read: density ratios and coefficients of shapes, all that the likelihood knows of an event.

References
----------
T. Anderson, Ann. Math. Statist. 33 (1962) 1148. G. Szekely, M. Rizzo, J. Stat. Plan. Inference 143 (2013) 1249.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel
from nuratio.infer.binned.binning import quantile_edges
from nuratio.model.unbinned import UnbinnedChannel
from nuratio.ratios.table import RatioTable

__all__ = ["Slices"]

Floats = NDArray[np.float64]

_DIRECTIONS = 30  # random ones, besides the axes
_POSITIONS = 4096  # along a direction, of equal shares of q
_SEED = 0xC3


@dataclass(frozen=True, eq=False)
class Slices:
    """The events of an unbinned channel along m directions.

    Attributes
    ----------
    space : str
        ``features`` or ``ratios``.
    columns : tuple of str
        What the space is made of.
    positions : ndarray of int, shape (m, n)
        Of the observed events, then those of the pool.
    """

    space: str
    columns: tuple[str, ...]
    positions: NDArray[np.uint16]

    @classmethod
    def of(cls, channel: UnbinnedChannel) -> "Slices":
        """Of a channel; the directions are the same for the same number of columns.

        Raises
        ------
        InvalidModel
            The pool is empty.
        """
        if not len(channel.pool):
            raise InvalidModel(f"channel {channel.name!r} has no pool, which stands for the model in a distance")
        has_features = channel.pool_features is not None and (
            channel.observed_features is not None or not len(channel.observed)
        )
        if has_features and channel.pool_features is not None:
            space, pool = "features", channel.pool_features
            seen = channel.observed_features or pool.head(0)
            columns = pool.names
        else:
            space, pool, seen = "ratios", channel.pool, channel.observed
            columns = _read(channel)
        q = np.zeros(len(pool))
        for cell in channel.cells:
            q[slice(None) if cell.pool.index is None else cell.pool.index] = cell.pool_weights
        uniform = np.array([_uniform(seen, pool, name, q) for name in columns])
        positions = [_position(values, q) for values in uniform]
        if len(columns) > 1:
            rng = np.random.default_rng(_SEED)
            for direction in rng.normal(size=(_DIRECTIONS, len(columns))):
                positions.append(_position(direction / np.linalg.norm(direction) @ uniform, q))
        return cls(space, tuple(columns), np.array(positions))

    def distance(self, data: Floats, expected: Floats) -> float:
        """N x mean over the directions of the integral of (F - F_0)^2, for weights of all events, shapes (n,).

        About 1/6 for the right model in the limit of a large pool, if no parameter is fitted and q is the model.

        Raises
        ------
        InvalidModel
            No events, or none expected.
        """
        if not (data.sum() > 0 and expected.sum() > 0):
            raise InvalidModel(
                f"a distance needs events: the data have {data.sum():g}, and {expected.sum():g} are expected"
            )
        difference = data / data.sum() - expected / expected.sum()
        steps = np.array([np.bincount(where, difference, _POSITIONS) for where in self.positions])
        return float(data.sum() * np.mean(np.cumsum(steps, axis=1) ** 2))


def _read(channel: UnbinnedChannel) -> tuple[str, ...]:
    """Columns that the samples read."""
    names: dict[str, None] = {}
    for cell in channel.cells:
        for s in cell.samples:
            anchors = [name for v in (*s.factors, *s.shifts) for name in (v.hi, v.lo)]
            names |= dict.fromkeys([s.ratio, *(m.column for m in s.exponent), *anchors])
    return tuple(names)


def _uniform(seen: RatioTable, pool: RatioTable, name: str, q: Floats) -> Floats:
    """A column at observed and pool events, as positions from 0 to 1."""
    values = np.concatenate([np.asarray(t[name], dtype=np.float64) for t in (seen, pool)])
    return _position(values, q) / _POSITIONS


def _position(values: Floats, q: Floats) -> NDArray[np.uint16]:
    """Which of the intervals of equal shares of q each event lies in; q belongs to the last events."""
    edges = quantile_edges(values[len(values) - len(q) :], q, _POSITIONS)
    shares = np.concatenate([[0.0], np.cumsum(_shares(values[len(values) - len(q) :], q, edges))[:-1]])
    place = np.minimum(shares * _POSITIONS, _POSITIONS - 1).astype(np.uint16)
    return np.asarray(place[np.digitize(values, edges)])


def _shares(values: Floats, q: Floats, edges: Floats) -> Floats:
    """Of q between the edges."""
    sums = np.bincount(np.digitize(values, edges), q, len(edges) + 1)
    return np.asarray(sums / sums.sum())
