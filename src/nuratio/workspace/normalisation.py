"""Shapes stay normalised at every nuisance value: the cumulant form of ln Z, and its measured error.

    ln Z(alpha) = ln E_p[ exp(phi.D) ] = phi.m + phi.Sigma.phi / 2 + ...,   phi = (alpha, alpha^2),

with m and Sigma the mean and covariance of the columns D = (D1, D2) under the sample's density p. What the series
leaves out is measured against the exact pool integral.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cumulants", "cumulants"]

Floats = NDArray[np.float64]

_RANDOM_POINTS = 50


@dataclass(frozen=True)
class Cumulants:
    """Mean (2K,), covariance (2K, 2K), and the largest error of ln Z found up to two standard deviations."""

    mean: Floats
    covariance: Floats
    error: float


def cumulants(d1: Floats, d2: Floats, weights: Floats, *, reach: float = 2.0) -> Cumulants:
    """Cumulant normalisation of exp(sum_k alpha_k d1_k + alpha_k^2 d2_k).

    Parameters
    ----------
    d1, d2 : ndarray, shape (K, n)
        Columns at the pool events.
    weights : ndarray, shape (n,)
        The sample's density at them (reference weight x ratio), any normalisation.
    reach : float
        Half-width of the cube of alpha in which the error is measured: single nuisances at +-reach, random points,
        and (up to four nuisances) all corners.
    """
    p = weights / weights.sum()
    columns = np.concatenate([d1, d2])
    mean = columns @ p
    centred = columns - mean[:, None]
    covariance = (centred * p) @ centred.T
    k = len(d1)
    points = [side * reach * row for row in np.eye(k) for side in (-1, 1)]
    points += list(np.random.default_rng(0).uniform(-reach, reach, (_RANDOM_POINTS, k)))
    if 1 < k <= 4:
        points += [reach * np.array(corner) for corner in product((-1, 1), repeat=k)]
    error = 0.0
    for alpha in points:
        phi = np.concatenate([alpha, alpha**2])
        exact = float(np.log(p @ np.exp(phi @ centred)))
        error = max(error, abs(float(phi @ covariance @ phi) / 2 - exact))
    return Cumulants(mean, covariance, error)
