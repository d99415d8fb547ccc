"""A varied simulation and the nominal one reweighted to it, generated event by generated event.

Nominal and varied simulations are made from the same generated events, so most of their fluctuations are common and
cancel in a comparison. Errors are therefore those of a sum over generated events: with a_e the share of the reweighted
event e, which is at x_e, and b_e that of the varied one, at x'_e, the difference of two means of f is

    sum_e [ b_e f(x'_e) - a_e f(x_e) ],      and its variance      sum_e [ b_e (f(x'_e) - F') - a_e (f(x_e) - F) ]^2,

F and F' being the two means: shares are normalised, so that a common factor of all weights is no fluctuation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.closure import cells_between, quantile_edges
from nuratio.checks.factor import ShapeFactor
from nuratio.checks.reweighting import half_of
from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.data.varied import Term, VariedSample
from nuratio.ratios.shape import ShapeEstimator
from nuratio.training.linking import LinkedEvents, link
from nuratio.workspace.train import Trained

__all__ = ["LinkedPart", "Pair", "Simulated", "binned_difference", "in_bins"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MOST = 200_000  # generated events of a part
_SEED = 0x11E
_BINS, _PER_BIN = 20, 100


@dataclass(frozen=True, eq=False)
class Simulated:
    """A varied simulation of n generated events, as shares of it.

    Attributes
    ----------
    stay, moved : ndarray, shape (n,)
        What is where the nominal event is, and elsewhere; together they sum to 1.
    row : ndarray of int, shape (n,)
        Where that is: a row of the part.
    """

    stay: Floats
    moved: Floats
    row: Ints

    @property
    def shares(self) -> Floats:
        """Wherever the events are; shape (n,)."""
        return self.stay + self.moved


@dataclass(frozen=True, eq=False)
class Pair:
    """n generated events: nominal, reweighted to a point, and simulated there.

    Attributes
    ----------
    nominal, learned : ndarray, shape (n,)
        Shares of the nominal simulation, and of it reweighted; each sums to 1.
    base : ndarray of int, shape (n,)
        The row of each nominal event.
    varied : Simulated
    """

    nominal: Floats
    learned: Floats
    base: Ints
    varied: Simulated

    def of(self, rows: Ints | slice) -> "Pair":
        """Some of the events, as shares of their own."""
        nominal, learned, varied = self.nominal[rows], self.learned[rows], self.varied
        total = varied.shares[rows].sum()
        some = Simulated(varied.stay[rows] / total, varied.moved[rows] / total, varied.row[rows])
        return Pair(nominal / nominal.sum(), learned / learned.sum(), self.base[rows], some)

    def reweighted(self, learned: Floats) -> "Pair":
        """The same with other weights, shape (n,), in place of the learned ones."""
        return replace(self, learned=learned / learned.sum())

    @property
    def there(self) -> Ints:
        """The m events that the variation has elsewhere."""
        return np.flatnonzero(self.varied.moved)

    def difference(self, source: Floats, at_base: Floats, at_row: Floats) -> tuple[Floats, Floats]:
        """Mean of h functions in the varied simulation minus that over ``source``, and its fluctuations.

        Parameters
        ----------
        source : ndarray, shape (n,)
            ``nominal`` or ``learned``.
        at_base : ndarray, shape (n, h)
            The functions where the events are nominally.
        at_row : ndarray, shape (m, h)
            Where those of ``there`` moved.

        Returns
        -------
        ndarray, shape (h,)
        ndarray, shape (n, h)
            What each event adds to it, centred: the covariance of the first is the product of these.
        """
        stay, there = self.varied.stay, self.there
        moved = self.varied.moved[there]
        over_source = source @ at_base
        over_varied = stay @ at_base + moved @ at_row
        each = (stay - source)[:, None] * at_base
        each[there] += moved[:, None] * at_row
        each -= np.outer(self.varied.shares, over_varied) - np.outer(source, over_source)
        return over_varied - over_source, each


def in_bins(at: Ints, weights: Floats, bins: int) -> Floats:
    """Sums of weights in bins, shape (bins,)."""
    return np.bincount(at, weights, bins).astype(np.float64)


def binned_difference(pair: Pair, source: Floats, at: Ints, to: Ints, bins: int) -> tuple[Floats, Floats, Floats]:
    """Shares in bins of ``source`` and of the varied simulation, and the covariance of their difference.

    `Pair.difference` of the indicators of the bins, without a matrix of them.

    Parameters
    ----------
    pair : Pair
        n events.
    source : ndarray, shape (n,)
        Its ``nominal`` or its ``learned``.
    at, to : ndarray of int, shape (n,)
        The bin of each event nominally, and where it moves.
    bins : int
        B.

    Returns
    -------
    ndarray, shape (B,)
    ndarray, shape (B,)
    ndarray, shape (B, B)
    """
    stay, m, c = pair.varied.stay, pair.varied.moved, pair.varied.shares

    s, t = in_bins(at, source, bins), in_bins(at, stay, bins) + in_bins(to, m, bins)
    p = stay - source  # an event contributes p to its bin, and m to the one it moves to
    mixed = in_bins(at * bins + to, p * m, bins * bins).reshape(bins, bins)
    covariance = np.diag(in_bins(at, p * p, bins) + in_bins(to, m * m, bins)) + mixed + mixed.T
    for mean, share, sign in ((t, c, 1.0), (s, source, -1.0)):
        shift = sign * np.outer(in_bins(at, p * share, bins) + in_bins(to, m * share, bins), mean)
        covariance -= shift + shift.T
    both = (source @ c) * np.outer(s, t)
    covariance += (c @ c) * np.outer(t, t) + (source @ source) * np.outer(s, s) - both - both.T
    return s, t, covariance


@dataclass(frozen=True, eq=False)
class LinkedPart:
    """A part, its varied simulations and its learned shapes, linked by generated event.

    Attributes
    ----------
    name : str
    nominal : EventSample
    points : tuple of VariedSample
    shape : ShapeEstimator
    events : LinkedEvents
        n generated events with r rows.
    d : dict
        Term -> D at the nominal row of each event, shape (n,), by networks that have not seen the event. An event that
        is in variations only has the row of one of them, and no weight.
    factor : ShapeFactor
    expected : float
        Expected events of the part, absolute.
    """

    name: str
    nominal: EventSample
    points: tuple[VariedSample, ...]
    shape: ShapeEstimator
    events: LinkedEvents
    d: Mapping[Term, Floats]
    factor: ShapeFactor
    expected: float

    @classmethod
    def of(cls, trained: Trained, part: str) -> "LinkedPart":
        """A part with shapes; of very many generated events some."""
        nominal = next(events for p, events in trained.parts.items() if p.name == part)
        shape, points = trained.shapes[part], tuple(trained.varied[part])
        thin, expected = -(-len(nominal) // _MOST), abs(nominal.total)
        if thin > 1:
            nominal = nominal.select(fold_of(nominal.ids, thin, _SEED) == 0)
            kept = [p.events.select(fold_of(p.events.ids, thin, _SEED) == 0) for p in points]
            points = tuple(VariedSample(p.alpha, k) for p, k in zip(points, kept, strict=True))
        events = link(nominal, [p.events for p in points])
        base = events.first_row[:-1].numpy()
        d = shape.coefficients(events.x.numpy()[base], event_ids=events.ids)
        weights = events.nominal.double().numpy()
        return cls(part, nominal, points, shape, events, d, ShapeFactor.of(trained, part, d, weights), expected)

    @cached_property
    def x(self) -> NDArray[np.float32]:
        """Features of all rows, shape (r, d)."""
        return np.asarray(self.events.x.numpy())

    @cached_property
    def binned(self) -> list[tuple[str, Floats, Ints]]:
        """Features between quantiles of the nominal events: name, edges, and the bin of each row, shape (r,)."""
        nominal = self.nominal.features.astype(np.float64)
        found = []
        for j, name in enumerate(self.nominal.names):
            edges = self.edges(nominal[:, j])
            found.append((name, edges, cells_between(edges, [self.x[:, j].astype(np.float64)])[0][0]))
        return found

    def edges(self, values: Floats) -> Floats:
        """Quantiles of the nominal events' values; a value that many of them share is a bin of its own.

        Twenty bins, or so few that a hundred events are left for each.
        """
        bins = int(np.clip(len(values) // _PER_BIN, 2, _BINS))
        return quantile_edges(values, bins)

    @cached_property
    def base(self) -> Ints:
        """Row of each event's nominal version, shape (n,)."""
        return np.asarray(self.events.first_row[:-1].numpy())

    @cached_property
    def weights(self) -> Floats:
        """Shares of the nominal simulation, shape (n,)."""
        w = self.events.nominal.double().numpy()
        return np.asarray(w / w.sum())

    @cached_property
    def groups(self) -> list[Ints]:
        """Events of each half of each fold, 2 x fold + half."""
        options, ids = self.shape.options, self.events.ids
        group = 2 * fold_of(ids, options.folds, options.fold_seed) + half_of(ids)
        return [np.flatnonzero(group == g) for g in range(2 * options.folds)]

    @cached_property
    def folds(self) -> list[Ints]:
        """Events of each fold."""
        return [np.sort(np.concatenate(pair)) for pair in zip(self.groups[::2], self.groups[1::2], strict=True)]

    @cached_property
    def _changes(self) -> tuple[Ints, Ints, Floats, list[Ints]]:
        """Owner, row and change of all changes, and which of them belong to each point."""
        events = self.events
        owner = np.repeat(np.arange(len(events)), np.diff(events.first_change.numpy()))
        point = events.point.numpy()
        order = np.argsort(point, kind="stable")
        of_point = np.split(order, np.searchsorted(point[order], np.arange(1, len(self.points))))
        return owner, events.row.numpy(), events.change.double().numpy(), of_point

    def simulated(self, v: int) -> "Simulated":
        """The events of the v-th point."""
        owner, row, change, of_point = self._changes
        mine, n = of_point[v], len(self.events)
        owner, row, change = owner[mine], row[mine], change[mine]
        here = row == self.base[owner]
        stay = self.events.nominal.double().numpy() + np.bincount(owner[here], change[here], n)
        moved, to = np.zeros(n), self.base.copy()
        moved[owner[~here]], to[owner[~here]] = change[~here], row[~here]
        total = stay.sum() + moved.sum()
        return Simulated(stay / total, moved / total, to)

    def pair(self, v: int) -> Pair:
        """The v-th point."""
        varied = self.simulated(v)
        learned = self.weights * self.factor.at(self.d, self.points[v].alpha)
        return Pair(self.weights, learned / learned.sum(), self.base, varied)

    def moved(self, pair: Pair) -> dict[Term, Floats]:
        """D where those of `Pair.there` moved, shape (m,), by networks that have not seen the event."""
        there = pair.there
        return self.shape.coefficients(self.x[pair.varied.row[there]], event_ids=self.events.ids[there])
