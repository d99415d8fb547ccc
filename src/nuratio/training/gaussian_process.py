"""Gaussian processes observed in values and derivatives: the numbers behind `nuratio.training.surface`.

A function f of K nuisances has an unknown constant mean (flat prior) and the squared exponential covariance
s^2 exp(-sum_k d_k^2 / 2), d = (x - z) / l; with more than four nuisances the mean of this over all pairs of them, which
is a sum of functions of two nuisances. Observations are rows: the value, or one derivative, at a point.

References
----------
Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), eqs. 2.30, 5.9, 9.4 and section 2.7.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky
from scipy.linalg.lapack import dtrtri
from scipy.optimize import minimize

__all__ = ["Conditioned", "Rows", "correlation", "groups", "log_posterior", "most_likely"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_JITTER = 1e-10  # variance of every observation, in units of the prior's
_MOST_JOINT = 4  # nuisances in one kernel; above it, pairs
_LENGTH, _SPREAD = 3.0, 1.0  # the prior of lengths, ln l ~ N(ln 3, 1): nuisances are in units of their sigma
_LENGTHS, _AMPLITUDES = (0.1, 100.0), (1e-6, 100.0)  # where they are searched
_STARTS = (1.0, 3.0, 9.0)  # lengths


@dataclass(frozen=True, eq=False)
class Rows:
    """What is observed or asked for.

    Attributes
    ----------
    points : ndarray, shape (N, K)
    orders : ndarray of bool, shape (N, K)
        Along which nuisance a row is the derivative; along none where it is the function itself.
    """

    points: Floats
    orders: Bools

    @classmethod
    def of(cls, points: Floats, known: Bools) -> "Rows":
        """Those of a table (n, C) of value and derivatives at n points, where they are known."""
        orders = np.eye(1 + points.shape[1], dtype=bool)[: known.shape[1], 1:]
        point, column = np.nonzero(known)
        return cls(points[point], orders[column])

    @classmethod
    def at(cls, points: Floats, axis: int | None = None) -> "Rows":
        """The function, or its derivative along an axis, at points (N, K)."""
        orders = np.zeros(points.shape, dtype=bool)
        if axis is not None:
            orders[:, axis] = True
        return cls(points, orders)

    @cached_property
    def values(self) -> Floats:
        """1 for the function itself, 0 for a derivative: how a constant mean enters."""
        return np.asarray(~self.orders.any(axis=1), dtype=np.float64)

    def jitter(self, lengths: Floats) -> Floats:
        """Variances (N,) that keep the covariance of unit amplitude invertible."""
        return np.asarray(_JITTER * np.where(self.orders, lengths**-2, 1.0).prod(axis=1))


def groups(nuisances: int) -> list[tuple[int, ...]]:
    """The nuisances in each term of the covariance, whose mean over the terms it is."""
    return list(combinations(range(nuisances), 2 if nuisances > _MOST_JOINT else nuisances))


def correlation(a: Rows, b: Rows, lengths: Floats) -> Floats:
    """Covariance (N, M) of rows with rows for unit amplitude."""
    factors = _factors(a, b, lengths)[0]
    return np.asarray(
        np.mean([_inside(a, b, group) * factors[..., group].prod(-1) for group in groups(len(lengths))], 0)
    )


def _with_slopes(rows: Rows, lengths: Floats) -> tuple[Floats, list[Floats]]:
    """The correlation (N, N) of rows with themselves, jitter included, and its derivatives by each ln l_k."""
    factors, slopes = _factors(rows, rows, lengths)
    terms, jitter = groups(len(lengths)), rows.jitter(lengths)
    out = np.diag(jitter)
    by_length = [np.diag(np.where(rows.orders[:, k], -2 * jitter, 0.0)) for k in range(len(lengths))]
    for group in terms:
        inside = _inside(rows, rows, group) / len(terms)
        out += inside * factors[..., group].prod(-1)
        for k in group:
            by_length[k] += inside * slopes[..., k] * factors[..., [j for j in group if j != k]].prod(-1)
    return out, by_length


def _factors(a: Rows, b: Rows, lengths: Floats) -> tuple[Floats, Floats]:
    """Each nuisance's factor of the covariance (N, M, K), and its derivative by ln l_k.

    exp(-d^2 / 2) times 1, -d / l (derivative by x), d / l (by z) or (1 - d^2) / l^2 (by both).
    """
    d = (a.points[:, None] - b.points) / lengths
    x, z = a.orders[:, None], b.orders[None]
    cases = [x & z, x & ~z, z & ~x]
    bell, d2 = np.exp(-0.5 * d**2), d**2
    factor = np.select(cases, [(1 - d2) / lengths**2, -d / lengths, d / lengths], 1.0)
    slope = np.select(cases, [(5 * d2 - d2**2 - 2) / lengths**2, -d * (d2 - 2) / lengths, d * (d2 - 2) / lengths], d2)
    return bell * factor, bell * slope


def _inside(a: Rows, b: Rows, group: tuple[int, ...]) -> Bools:
    """Where (N, M) no derivative is along a nuisance that a term of the covariance does not depend on."""
    others = [k for k in range(a.orders.shape[1]) if k not in group]
    of_a, of_b = (np.asarray(rows.orders[:, others].any(axis=1)) for rows in (a, b))
    return np.asarray(~(of_a[:, None] | of_b))


@dataclass(frozen=True, eq=False)
class Conditioned:
    """N observations with covariance C, whatever their values y: the linear algebra of the posterior.

    Its mean is m + k(nu) P y, with m = v 1.C^-1 y the mean's estimate, v = 1 / (1.C^-1 1) its variance and
    P = C^-1 - v C^-1 1 1.C^-1, which maps a constant to 0.

    Attributes
    ----------
    rows : Rows
    amplitude : float
    lengths : ndarray, shape (K,)
    inverse : ndarray, shape (N, N)
        Of the lower Cholesky factor of C: C^-1 is its transpose times itself. Products with it are several times
        faster than solving, and stay so where other programs keep the cores busy.
    pull : ndarray, shape (N,)
        C^-1 1.
    mean_variance : float
    """

    rows: Rows
    amplitude: float
    lengths: Floats
    inverse: Floats
    pull: Floats
    mean_variance: float

    @classmethod
    def on(cls, rows: Rows, noise: Floats, amplitude: float, lengths: Floats) -> "Conditioned":
        """Observations with independent errors of standard deviation ``noise``, shape (N,)."""
        unit = correlation(rows, rows, lengths) + np.diag(rows.jitter(lengths))
        return cls._of(unit, rows, noise, amplitude, lengths)

    @classmethod
    def _of(cls, unit: Floats, rows: Rows, noise: Floats, amplitude: float, lengths: Floats) -> "Conditioned":
        root = cholesky(amplitude**2 * unit + np.diag(noise**2), lower=True)
        inverse = np.asarray(dtrtri(root, lower=1)[0])
        pull = inverse.T @ (inverse @ rows.values)
        return cls(rows, amplitude, lengths, inverse, pull, 1 / float(rows.values @ pull))

    def project(self, y: Floats) -> Floats:
        """P y for observations y of shape (N,) or (N, F)."""
        solved = self.inverse.T @ (self.inverse @ y)
        return np.asarray(solved - self.mean_variance * np.multiply.outer(self.pull, self.pull @ y))

    @property
    def projection(self) -> Floats:
        """P itself, shape (N, N)."""
        return np.asarray(self.inverse.T @ self.inverse - self.mean_variance * np.outer(self.pull, self.pull))

    def mean(self, y: Floats) -> float:
        """The estimate m of the constant mean from observations (N,)."""
        return self.mean_variance * float(self.pull @ y)

    def covariance(self, rows: Rows) -> Floats:
        """k: covariance (M, N) of other rows with the observations."""
        return self.amplitude**2 * correlation(rows, self.rows, self.lengths)

    def variance(self, k: Floats) -> Floats:
        """Posterior variance (M,) of the function, that of the mean included, where its covariance is k (M, N)."""
        missing = 1 - k @ self.pull
        variance = self.amplitude**2 - ((self.inverse @ k.T) ** 2).sum(0) + missing**2 * self.mean_variance
        return np.asarray(np.maximum(variance, 0.0))  # rounding: 1e-15 of the amplitude squared


def log_posterior(theta: Floats, rows: Rows, y: Floats, noise: Floats) -> tuple[float, Floats]:
    """Minus ln of marginal likelihood times prior, up to a constant, and its gradient.

    Parameters
    ----------
    theta : ndarray, shape (1 + K,)
        ln of the amplitude and of the lengths.
    rows : Rows
        N of them.
    y : ndarray, shape (N, F)
        Observations of F functions, whose squares are summed: what one function's would be that is as large as all.
    noise : ndarray, shape (N,)
    """
    amplitude, lengths = float(np.exp(theta[0])), np.exp(theta[1:])
    unit, slopes = _with_slopes(rows, lengths)
    solved = Conditioned._of(unit, rows, noise, amplitude, lengths)
    alpha, prior = solved.project(y), (theta[1:] - np.log(_LENGTH)) / _SPREAD
    value = 0.5 * float((y * alpha).sum()) - float(np.log(np.diag(solved.inverse)).sum())
    value += -0.5 * np.log(solved.mean_variance) + 0.5 * float(prior @ prior)
    force = 0.5 * amplitude**2 * (solved.projection - alpha @ alpha.T)
    gradient = np.array([float((force * slope).sum()) for slope in (2 * unit, *slopes)])
    gradient[1:] += prior / _SPREAD
    return value, gradient


def most_likely(rows: Rows, y: Floats, noise: Floats) -> tuple[float, Floats]:
    """Amplitude and lengths (K,) that maximise marginal likelihood times prior: see `log_posterior`."""
    own = rows.values > 0
    y = y - np.where(own[:, None], y[own].mean(axis=0), 0.0)  # digits
    scale = float(np.linalg.norm(np.ptp(y[own], axis=0)))
    bounds = [tuple(np.log(_AMPLITUDES)), *[tuple(np.log(_LENGTHS))] * rows.points.shape[1]]
    found = []
    for length in _STARTS:
        start = np.log([np.clip(scale, 10 * _AMPLITUDES[0], _AMPLITUDES[1]), *[length] * rows.points.shape[1]])
        found.append(minimize(log_posterior, start, (rows, y, noise), jac=True, method="L-BFGS-B", bounds=bounds))
    best = np.exp(min(found, key=lambda result: float(result.fun)).x)
    return float(best[0]), np.asarray(best[1:])
