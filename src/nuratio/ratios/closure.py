"""Distances between samples of signed weights: is a reweighted source the target?

`closure_chi2` and `tsallis_distance` compare histograms of one quantity, `sliced_wasserstein` all features at once,
without bins. None of them drops a negative bin: signed sums are what the densities are made of.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidData

__all__ = ["Weighted", "closure_chi2", "common_edges", "sliced_distances", "sliced_wasserstein", "tsallis_distance"]

Floats = NDArray[np.float64]

_FINE = 1 << 15  # bins of a projection: positions are rounded to 3e-5 of its range


@dataclass(frozen=True, init=False, eq=False)
class Weighted:
    """Values with signed weights.

    Parameters
    ----------
    values : array_like, shape (n,) or (n, d)
    weights : array_like, shape (n,), optional
        1 by default.

    Raises
    ------
    InvalidData
        Shapes that do not fit, entries that are not finite, weights with the sum zero.
    """

    values: Floats
    weights: Floats

    def __init__(self, values: ArrayLike, weights: ArrayLike | None = None) -> None:
        x = np.asarray(values)
        w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
        if w.shape != (len(x),):
            raise InvalidData(f"{len(x)} values need as many weights, got an array of shape {w.shape}")
        if not (np.isfinite(x).all() and np.isfinite(w).all()):
            raise InvalidData("values and weights must be finite numbers")
        if w.sum() == 0:
            raise InvalidData("the weights cancel: a sample without net yield has no density to compare")
        object.__setattr__(self, "values", x)
        object.__setattr__(self, "weights", w)

    def histogram(self, edges: Floats) -> tuple[Floats, Floats]:
        """Sums of weights and of their squares, shape (b,)."""
        return (
            np.histogram(self.values, edges, weights=self.weights)[0],
            np.histogram(self.values, edges, weights=self.weights**2)[0],
        )


def common_edges(a: Weighted, b: Weighted, *, bins: int = 99, range: tuple[float, float] = (0.1, 99.99)) -> Floats:
    """Equal bins from the smaller of the lower percentiles of the (unweighted) values to the larger upper one."""
    low, high = np.array([np.percentile(s.values, range) for s in (a, b)]).T
    return np.linspace(low.min(), high.max(), bins + 1)


def closure_chi2(
    source: Weighted, target: Weighted, edges: ArrayLike, *, training: ArrayLike = 0.0
) -> tuple[float, int]:
    """Chi2 between two histograms of unknown relative normalisation, and its degrees of freedom.

    sum_i (W0 w1_i - W1 w0_i)^2 / (W0^2 v1_i + W1^2 v0_i + W0^2 W1^2 t_i), with w and v the sums of weights and of
    squared weights in a bin and W their totals; empty bins are skipped.

    Parameters
    ----------
    source, target : Weighted
        One value per event.
    edges : array_like, shape (b + 1,)
    training : array_like, shape (b,)
        t: variance of the source's share w0_i / W0 that its events do not tell, such as that of a learned ratio between
        trainings.
    """
    bounds = np.asarray(edges, dtype=np.float64)
    (w0, v0), (w1, v1) = source.histogram(bounds), target.histogram(bounds)
    total0, total1 = w0.sum(), w1.sum()
    variance = total0**2 * v1 + total1**2 * v0 + (total0 * total1) ** 2 * np.asarray(training)
    used = variance > 0
    chi2 = (total0 * w1[used] - total1 * w0[used]) ** 2 / variance[used]
    return float(chi2.sum()), int(used.sum()) - 1


def tsallis_distance(source: Weighted, target: Weighted, edges: ArrayLike) -> float:
    """Tsallis relative entropy of order 2, |sum_i t_i^2 / s_i - t_i|, of unit-normalised histograms.

    It is the chi2 distance sum_i (t_i - s_i)^2 / s_i, and as unstable where s_i is near zero.
    """
    bounds = np.asarray(edges, dtype=np.float64)
    s, t = (sample.histogram(bounds)[0] for sample in (source, target))
    s, t = s / s.sum(), t / t.sum()
    used = np.abs(s) > 1e-12
    return float(abs((t[used] ** 2 / s[used] - t[used]).sum()))


def sliced_wasserstein(
    source: Weighted, target: Weighted, *, projections: int = 50, rng: np.random.Generator | None = None
) -> tuple[float, float]:
    """Extended sliced Wasserstein distance of signed samples, and its spread over random directions (arXiv:2512.19913).

    The negative part of each sample is moved to the other side, and both sides have the total M; the W1 distance along
    a direction is then the integral of |F_source - F_target| / M, F being the signed distribution functions.

    Parameters
    ----------
    source, target : Weighted
        Values of shape (n, d).
    projections : int
        Random directions.
    rng : Generator, optional
        Of the directions; seed 0 by default.

    Returns
    -------
    (float, float)
        Mean over the directions, and the standard error of that mean.
    """
    if source.values.ndim != 2 or source.values.shape[1:] != target.values.shape[1:]:
        raise InvalidData(f"events of the same features are needed, got {source.values.shape}, {target.values.shape}")
    x = np.concatenate([source.values, target.values], dtype=np.float32)
    s, t = source.weights / source.weights.sum(), target.weights / target.weights.sum()
    mass = s[s > 0].sum() - t[t < 0].sum()
    random = np.random.default_rng(0) if rng is None else rng
    distances = sliced_distances(x, np.concatenate([s, -t])[None], projections=projections, rng=random)[0] / mass
    return float(distances.mean()), float(distances.std() / np.sqrt(projections))


def sliced_distances(
    x: NDArray[np.floating], measures: Floats, *, projections: int, rng: np.random.Generator
) -> Floats:
    """Integrals of |F| along random directions, F being the distribution function of signed weights with sum zero.

    Parameters
    ----------
    x : ndarray, shape (n, d)
    measures : ndarray, shape (k, n)
        Differences of normalised weights of two samples.
    projections : int
    rng : Generator
        Of the directions.

    Returns
    -------
    ndarray, shape (k, projections)
    """
    directions = rng.normal(size=(x.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    distances = np.empty((len(measures), projections))
    along = directions.astype(np.float32).T @ x.astype(np.float32, copy=False).T  # each projection in one piece
    for j, values in enumerate(along):
        low, high = float(values.min()), float(values.max())
        step = (high - low) / (_FINE - 1) or 1.0
        index = ((values - low) * np.float32(1 / step) + np.float32(0.5)).astype(np.int32)
        for k, measure in enumerate(measures):
            distances[k, j] = step * np.abs(np.cumsum(np.bincount(index, measure, _FINE))).sum()
    return distances
