"""Asimov data on the event pool, calibrated so that the generating point is exactly the best fit.

Pool event i gets the weight a_i = w_i density_i(theta) (w_i: reference weight). On a finite pool the score of these
weights does not vanish: sum_i w_i T_c(x_i) is 1 only up to 1 / sqrt(pool size), and the expected CLs is then wrong by
factors. The calibrated weights are a_i (1 + sum_k lambda_k h_ik) with h_ik the log-derivatives of the density in every
yield and every nuisance, and lambda from one small linear solve, so that every component of the score is zero. The
correction is of the order 1 / sqrt(pool size) and leaves observed results alone.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel, NonPositiveDensity, PoolDensityWarning
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
            main[first : where.stop] = pool_weights(channels[name], yields, theta)
        else:
            main[where] = yields.sum(0)
    return main


def pool_weights(channel: UnbinnedChannel, nu: Floats, theta: Floats) -> Floats:
    """Expected events at each pool event, calibrated; shape (pool events,).

    Parameters
    ----------
    channel : UnbinnedChannel
    nu : ndarray, shape (samples, cells)
        Yields at the generating point.
    theta : ndarray, shape (F,)
        The companion's parameters there.

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
        weights[slice(None) if cell.pool.index is None else cell.pool.index] = _calibrated(where, cell, yields, theta)
    return weights


def _calibrated(where: str, cell: EventCell, nu: Floats, theta: Floats) -> Floats:
    """The weights of one cell, (pool events of the cell,)."""
    c, size = len(cell.samples), len(cell.samples) + len(cell.nuisances)
    weights = np.zeros(len(cell.pool))
    present = cell.normalise(theta)[0] != 0  # a sample without a share in this cell
    target = np.concatenate([present.astype(np.float64), np.zeros(size - c)])
    moment, gram = np.zeros(size), np.zeros((size, size))
    for events, density, h in _scores(cell, nu, theta):
        q = cell.pool_weights[events]
        weights[events] = q * density
        empty = density == 0  # nothing is expected here: no weight can stand for what a sample would add
        target -= h[:, empty] @ q[empty]
        good = density > 0
        moment += h[:, good] @ q[good]
        gram += (h[:, good] * (q[good] / density[good])) @ h[:, good].T
    bad = weights < 0
    if bad.any():
        lost, kept = -weights[bad].sum(), weights[~bad].sum()
        text = (
            f"{where}: the total density is negative at {bad.sum()} of {len(weights)} pool events "
            f"({lost / kept:.2g} of the expectation)"
        )
        if lost > MAX_NEGATIVE * kept:
            raise NonPositiveDensity(f"{text}; at most {MAX_NEGATIVE:g} is allowed: check the ratios that cancel")
        warnings.warn(f"{text}; they get Asimov weight 0", PoolDensityWarning, stacklevel=4)
        weights[bad] = 0.0
    scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
    correction = np.linalg.lstsq(gram / np.outer(scale, scale), (target - moment) / scale, rcond=1e-12)[0] / scale
    score = -target
    for events, density, h in _scores(cell, nu, theta):
        direction = np.where(density > 0, h / np.where(density > 0, density, 1.0), 0.0)
        weights[events] *= 1 + correction @ direction
        score += direction @ weights[events]
    residual = np.abs(score) / (1 + scale)
    if residual.max() > 1e-6 or (weights < 0).any():
        raise InvalidModel(
            f"{where}: the pool of {len(weights)} events is too small for Asimov data at this point "
            f"(remaining score {residual.max():.2g}, {(weights < 0).sum()} negative weights); simulate more events"
        )
    return weights


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
