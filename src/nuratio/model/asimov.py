"""Asimov data on the event pool, calibrated so that the generating point is exactly the best fit.

Pool event i gets the weight a_i = w_i density_i(theta) (w_i: reference weight). On a finite pool the score of these
weights does not vanish: sum_i w_i T_c(x_i) is 1 only up to 1 / sqrt(pool size), and the expected CLs is then wrong by
factors. The calibrated weights are a_i (1 + sum_k lambda_k h_ik) with h_ik the log-derivatives of the density in every
yield and every nuisance, and lambda from one small linear solve, so that every component of the score is zero. The
correction is of the order 1 / sqrt(pool size) and leaves observed results alone.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel, NonPositiveDensity, PoolDensityWarning
from nuratio.model.passes import IN_PROCESS, Passes
from nuratio.model.unbinned import EventCell, UnbinnedChannel

if TYPE_CHECKING:
    from nuratio.model.model import Model

__all__ = ["MAX_NEGATIVE", "expected_main", "pool_weights"]

Floats = NDArray[np.float64]

MAX_NEGATIVE = 1e-3  # share of the expectation that may sit at pool events with a negative density


def expected_main(model: "Model", channels: Mapping[str, UnbinnedChannel], theta: Floats) -> Floats:
    """Expected main data: bin contents, and calibrated weights of the pool events of these unbinned channels.

    Parameters
    ----------
    model : Model
    channels : mapping
        Name -> channel, with the model's samples and events; their pools may have other weights.
    theta : ndarray, shape (F,)
        The companion's parameters.
    """
    nu, main = model.rates.nu(theta), np.zeros(model.config.nmaindata)
    for name, where in model.config.channel_slices.items():
        yields = nu[model.rates.cells(name)].reshape(-1, model.rates.channels[name][2])
        if name in channels:
            first = where.start + len(channels[name].observed)
            passes = model.passes if channels[name] is model.unbinned[name] else IN_PROCESS  # of another pool: here
            main[first : where.stop] = pool_weights(channels[name], yields, theta, passes)
        else:
            main[where] = yields.sum(0)
    return main


def pool_weights(channel: UnbinnedChannel, nu: Floats, theta: Floats, passes: Passes = IN_PROCESS) -> Floats:
    """Expected events at each pool event, calibrated; shape (pool events,).

    Parameters
    ----------
    channel : UnbinnedChannel
    nu : ndarray, shape (samples, cells)
        Yields at the generating point.
    theta : ndarray, shape (F,)
        The companion's parameters there.
    passes : Passes
        What goes over the pool.

    Raises
    ------
    NonPositiveDensity
        More than `MAX_NEGATIVE` of the expectation is at pool events with a negative density.
    InvalidModel
        The pool is too small to be calibrated.

    Warns
    -----
    PoolDensityWarning
        Some pool events have a negative density; they get weight 0, which the calibration makes up for.
    """
    weights = np.zeros(len(channel.pool))
    for cell, yields in zip(channel.cells, nu.T, strict=True):
        where = f"channel {channel.name!r}" + (f", cell {cell.bin}" if len(channel.cells) > 1 else "")
        index = slice(None) if cell.pool.index is None else cell.pool.index
        weights[index] = _calibrated(where, channel.name, cell, yields, theta, passes)
    return weights


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over pool events of a cell, in the C yields and K nuisances: what the calibration needs.

    Attributes
    ----------
    empty, moment : ndarray, shape (C + K,)
        sum q h where the density is zero, and where it is positive.
    gram : ndarray, shape (C + K, C + K)
        sum q h h^T / density.
    lost, kept : float
        The expectation at events with a negative density, and at all others.
    bad, events : int
        Events with a negative density, and all.
    """

    empty: Floats
    moment: Floats
    gram: Floats
    lost: float
    kept: float
    bad: int
    events: int

    @classmethod
    def of(cls, cell: EventCell, nu: Floats, theta: Floats) -> "_Moments":
        size = len(cell.samples) + len(cell.nuisances)
        empty, moment, gram = np.zeros(size), np.zeros(size), np.zeros((size, size))
        expected = np.zeros(len(cell.pool))
        for events, density, h in _scores(cell, nu, theta):
            q = cell.pool_weights[events]
            expected[events] = q * density
            none, good = density == 0, density > 0
            empty += h[:, none] @ q[none]
            moment += h[:, good] @ q[good]
            gram += (h[:, good] * (q[good] / density[good])) @ h[:, good].T
        bad = expected < 0
        return cls(empty, moment, gram, -expected[bad].sum(), expected[~bad].sum(), int(bad.sum()), len(expected))

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def _calibrated(where: str, channel: str, cell: EventCell, nu: Floats, theta: Floats, passes: Passes) -> Floats:
    """The weights of one cell, (pool events of the cell,)."""
    c, size = len(cell.samples), len(cell.samples) + len(cell.nuisances)
    present = cell.normalise(theta)[0] != 0  # a sample without a share in this cell
    target = np.concatenate([present.astype(np.float64), np.zeros(size - c)])
    found = reduce(add, passes.over_pool(channel, cell, _Moments.of, nu, theta))
    target -= found.empty  # nothing is expected there: no weight can stand for what a sample would add
    if found.bad:
        text = (
            f"{where}: the total density is negative at {found.bad} of {found.events} pool events "
            f"({found.lost / found.kept:.2g} of the expectation)"
        )
        if found.lost > MAX_NEGATIVE * found.kept:
            raise NonPositiveDensity(f"{text}; at most {MAX_NEGATIVE:g} is allowed: check the ratios that cancel")
        warnings.warn(f"{text}; they get Asimov weight 0", PoolDensityWarning, stacklevel=4)
    gram = found.gram
    scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
    correction = np.linalg.lstsq(gram / np.outer(scale, scale), (target - found.moment) / scale, rcond=1e-12)[0] / scale
    parts = passes.over_pool(channel, cell, _corrected, nu, theta, correction)
    weights = np.concatenate([part for part, _ in parts])
    residual = np.abs(sum(score for _, score in parts) - target) / (1 + scale)
    if residual.max() > 1e-6 or (weights < 0).any():
        raise InvalidModel(
            f"{where}: the pool of {len(weights)} events is too small for Asimov data at this point "
            f"(remaining score {residual.max():.2g}, {(weights < 0).sum()} negative weights); simulate more events"
        )
    return weights


def _corrected(cell: EventCell, nu: Floats, theta: Floats, correction: Floats) -> tuple[Floats, Floats]:
    """The weights of the pool events, 0 where the density is negative, and their sum of log-derivatives (C + K,)."""
    weights, score = np.zeros(len(cell.pool)), np.zeros(len(correction))
    for events, density, h in _scores(cell, nu, theta):
        direction = np.where(density > 0, h / np.where(density > 0, density, 1.0), 0.0)
        weights[events] = np.maximum(cell.pool_weights[events] * density, 0.0) * (1 + correction @ direction)
        score += direction @ weights[events]
    return weights, score


def _scores(cell: EventCell, nu: Floats, theta: Floats) -> Iterator[tuple[slice, Floats, Floats]]:
    """Pool events some at a time: density (m,) and its derivatives in the C yields and K nuisances (C + K, m)."""
    c = len(cell.samples)
    for events, t, slopes in cell.evaluate(cell.pool, theta):
        h = np.zeros((c + len(cell.nuisances), t.shape[1]))
        h[:c] = t
        for n, sample, slope in zip(nu, cell.samples, slopes, strict=True):
            if sample.par:
                h[c + np.searchsorted(cell.nuisances, sample.par)] += n * slope
        yield events, nu @ t, h
