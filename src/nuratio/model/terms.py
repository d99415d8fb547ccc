"""The terms of a binned likelihood: Poisson terms of bins, Poisson and Gaussian constraint terms.

Each is -2 ln of its probability relative to the largest one the datum can have, so that sums keep their digits; what
is left out (`saturated`) does not depend on the parameters.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from nuratio.model.compiling import compiler

__all__ = ["add_constraints", "poisson", "poisson_bins", "saturated"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_jit = compiler()


def saturated(n: Floats) -> float:
    """-2 ln Pois(n | n), summed."""
    return 2 * float(np.sum(n - xlogy(n, n) + gammaln(n + 1)))


@_jit
def poisson(rate: float, n: float) -> tuple[float, float, float]:
    """-2 ln [Pois(n | rate) / Pois(n | n)] = 2 (rate - n - n ln(rate / n)), with two derivatives in the rate."""
    if n == 0:
        return 2 * rate, 2.0, 0.0
    return 2 * (rate - n - n * np.log(rate / n)), 2 * (1 - n / rate), 2 * n / (rate * rate)


@_jit
def _continued_poisson(rate: float, n: float, threshold: float) -> tuple[float, float, float]:
    """`poisson`, below the threshold its Taylor polynomial of second order; an empty bin meets a cubic wall at zero.

    The logarithm is continued as by `nuratio.model.positivity.extended_log`.
    """
    if n == 0 and rate < 0:
        wall = rate / threshold
        return 2 * (rate - wall**3), 2 * (1 - 3 * wall * wall / threshold), -12 * wall / (threshold * threshold)
    if n > 0 and rate < threshold:
        value, first, second = poisson(threshold, n)
        step = rate - threshold
        return value + step * (first + step * second / 2), first + step * second, second
    value, first, second = poisson(rate, n)
    return value, first, second


@_jit
def poisson_bins(
    cell_first: Ints, cell: Ints, nu: Floats, bins: Ints, counts: Floats, thresholds: Floats
) -> tuple[float, Floats, Floats]:
    """Poisson terms of n bins, and their derivatives in the rates.

    Parameters
    ----------
    cell_first, cell : ndarray of int
        The cells of bin b are ``cell[cell_first[b] : cell_first[b + 1]]``.
    nu : ndarray, shape (cells,)
        Rates.
    bins : ndarray of int, shape (n,)
        Bins with data.
    counts, thresholds : ndarray, shape (n,)

    Returns
    -------
    value : float
        Sum of the terms.
    first : ndarray, shape (cells,)
        Derivative in the rate of each cell; 0 for the cells of other bins.
    second : ndarray, shape (bins,)
        Second derivative in the rate of each bin; 0 for other bins.
    """
    value = 0.0
    first, second = np.zeros(len(nu)), np.zeros(len(cell_first) - 1)
    for k, b in enumerate(bins):
        cells = cell[cell_first[b] : cell_first[b + 1]]
        rate = 0.0
        for c in cells:
            rate += nu[c]
        term, slope, second[b] = _continued_poisson(rate, counts[k], thresholds[k])
        value += term
        for c in cells:
            first[c] = slope
    return value, first, second


@_jit
def add_constraints(
    gauss_par: Ints,
    gauss_aux: Ints,
    sigma: Floats,
    pois_par: Ints,
    pois_aux: Ints,
    factor: Floats,
    theta: Floats,
    aux: Floats,
    gradient: Floats,
    diagonal: Floats,
) -> float:
    """Constraint terms: Gaussian ((a - theta) / sigma)^2, and Poisson with rate theta x factor.

    Parameters
    ----------
    gauss_par, gauss_aux, sigma, pois_par, pois_aux, factor : ndarray
        Those of `nuratio.model.constraints.Constraints`.
    theta : ndarray, shape (F,)
    aux : ndarray
        Auxiliary data a.
    gradient, diagonal : ndarray, shape (F,)
        The derivatives, and the second ones, are added here.
    """
    value = 0.0
    for k, p in enumerate(gauss_par):
        pull = (theta[p] - aux[gauss_aux[k]]) / sigma[k]
        value += pull * pull
        gradient[p] += 2 * pull / sigma[k]
        diagonal[p] += 2 / (sigma[k] * sigma[k])
    for k, p in enumerate(pois_par):
        term, first, second = poisson(theta[p] * factor[k], aux[pois_aux[k]])
        value += term
        gradient[p] += factor[k] * first
        diagonal[p] += factor[k] * factor[k] * second
    return value
