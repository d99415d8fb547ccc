"""Shapes stay normalised at every nuisance value: the cumulant form of ln Z, and its measured error.

    ln Z(alpha) = ln E_p[ exp(phi.D) ] = phi.m + phi.Sigma.phi / 2 + ...,

with phi the monomials of the nuisances, such as (alpha, alpha^2), and m and Sigma the mean and covariance of their
columns D under the sample's density p. What the series leaves out is measured against the exact pool integral.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nuratio.data.varied import Term, monomial

__all__ = ["Cumulants", "cumulants"]

Floats = NDArray[np.float64]

_RANDOM_POINTS = 50
_CORNERS = 64  # all of them up to six nuisances
_CHUNK = 65536  # events at a time
_NO_INTEGRAL = 1e3  # error of ln Z where Z is not positive: JSON has no infinity


@dataclass(frozen=True)
class Cumulants:
    """Mean (T,), covariance (T, T), and the largest errors of ln Z found up to two standard deviations.

    Attributes
    ----------
    mean, covariance : ndarray
    error : float
        Anywhere.
    errors : dict
        Nuisance -> with this one alone.
    """

    mean: Floats
    covariance: Floats
    error: float
    errors: Mapping[str, float]


def cumulants(columns: Mapping[Term, Floats], weights: Floats, *, reach: float = 2.0) -> Cumulants:
    """Cumulant normalisation of exp(sum_t phi_t(alpha) D_t).

    Parameters
    ----------
    columns : mapping of Term to ndarray, shape (n,)
        D_t at the pool events.
    weights : ndarray, shape (n,)
        The sample's density at them (reference weight x ratio), any normalisation.
    reach : float
        Half-width of the cube of alpha in which the error is measured: single nuisances at +-reach, 50 random points,
        and corners of the cube, all or 64 of them.
    """
    terms = list(columns)
    names = list(dict.fromkeys(name for term in terms for name, _ in term))
    p = weights / weights.sum()
    d = np.array([columns[term] for term in terms])
    mean = d @ p
    covariance = np.zeros((len(terms), len(terms)))
    alone = [{name: side * reach} for name in names for side in (-1, 1)]
    points = [*alone, *_anywhere(names, reach)]
    phi = np.array([[monomial(term, alpha) for term in terms] for alpha in points])
    integral = np.zeros(len(points))
    for start in range(0, len(p), _CHUNK):
        part = slice(start, start + _CHUNK)
        centred = d[:, part] - mean[:, None]
        covariance += (centred * p[part]) @ centred.T
        integral += np.exp(phi @ centred) @ p[part]
    with np.errstate(divide="ignore", invalid="ignore"):  # far out that of a signed density may not be positive
        errors = np.abs(((phi @ covariance) * phi).sum(1) / 2 - np.log(integral))
    errors[~np.isfinite(errors)] = _NO_INTEGRAL
    of_one = errors[: len(alone)].reshape(-1, 2).max(axis=1)
    return Cumulants(mean, covariance, float(errors.max()), dict(zip(names, of_one.tolist(), strict=True)))


def _anywhere(names: Sequence[str], reach: float) -> list[dict[str, float]]:
    """Random points and corners of the cube."""
    rng, k = np.random.default_rng(0), len(names)
    points = list(rng.uniform(-reach, reach, (_RANDOM_POINTS, k)))
    if k > 1:  # the corners of a single nuisance are points already
        corners = product((-1, 1), repeat=k) if 2**k <= _CORNERS else rng.choice((-1, 1), (_CORNERS, k))
        points += [reach * np.array(corner) for corner in corners]
    return [dict(zip(names, point.tolist(), strict=True)) for point in points]
