"""Asimov data on the event pool, calibrated so that the generating point is exactly the best fit.

Pool event i gets the weight a_i = w_i density_i(theta) (w_i: reference weight). On a finite pool the score of these
weights does not vanish: sum_i w_i T_c(x_i) is 1 only up to 1 / sqrt(pool size), and the expected CLs is then wrong by
factors. The calibrated weights are a_i (1 + sum_k lambda_k h_ik) with h_ik the log-derivatives of the density in every
yield and every nuisance, and lambda from one small linear solve, so that every component of the score is zero. The
correction is of the order 1 / sqrt(pool size) and leaves observed results alone.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel, NonPositiveDensity, PoolDensityWarning
from nuratio.model.unbinned import BLOCK, UnbinnedChannel

__all__ = ["MAX_NEGATIVE", "pool_weights"]

Floats = NDArray[np.float64]

MAX_NEGATIVE = 1e-3  # share of the expectation that may sit at pool events with a negative density


def pool_weights(channel: UnbinnedChannel, nu: Floats, theta: Floats) -> Floats:
    """Expected events at each pool event, calibrated; shape (pool events,).

    Parameters
    ----------
    channel : UnbinnedChannel
    nu : ndarray, shape (samples,)
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
    table, samples, nuisances = channel.pool, channel.samples, channel.nuisances
    c, size = len(samples), len(samples) + len(nuisances)
    weights = np.zeros(len(table))
    target = np.concatenate([np.ones(c), np.zeros(len(nuisances))])
    directions = np.zeros((size, len(table)))
    for start in range(0, len(table), BLOCK):
        events = slice(start, start + BLOCK)
        block = np.asarray(table.values[:, events], dtype=np.float64)
        shapes = [s.evaluate(block, theta, 1) for s in samples]
        h = np.zeros((size, block.shape[1]))
        h[:c] = [s.value for s in shapes]
        density = nu @ h[:c]
        for n, sample, shape in zip(nu, samples, shapes, strict=True):
            if sample.par:
                h[[c + nuisances.index(p) for p in sample.par]] += n * shape.first()
        weights[events] = channel.pool_weights[events] * density
        empty = density == 0  # nothing is expected here: no weight can stand for what a sample would add
        target -= h[:, empty] @ channel.pool_weights[events][empty]
        good = density > 0
        directions[:, events] = np.where(good, h / np.where(good, density, 1.0), 0.0)
    bad = weights < 0
    if bad.any():
        lost, kept = -weights[bad].sum(), weights[~bad].sum()
        text = (
            f"channel {channel.name!r}: the total density is negative at {bad.sum()} of {len(table)} pool events "
            f"({lost / kept:.2g} of the expectation)"
        )
        if lost > MAX_NEGATIVE * kept:
            raise NonPositiveDensity(f"{text}; at most {MAX_NEGATIVE:g} is allowed: check the ratios that cancel")
        warnings.warn(f"{text}; they get Asimov weight 0", PoolDensityWarning, stacklevel=3)
        weights[bad] = 0.0
    moment = directions @ weights
    gram = (directions * weights) @ directions.T
    scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
    correction = np.linalg.lstsq(gram / np.outer(scale, scale), (target - moment) / scale, rcond=1e-12)[0] / scale
    calibrated = weights * (1 + correction @ directions)
    residual = np.abs(directions @ calibrated - target) / (1 + scale)
    if residual.max() > 1e-6 or (calibrated < 0).any():
        raise InvalidModel(
            f"channel {channel.name!r}: the pool of {len(table)} events is too small for Asimov data at this point "
            f"(remaining score {residual.max():.2g}, {(calibrated < 0).sum()} negative weights); simulate more events"
        )
    return np.asarray(calibrated)
