"""Gaussian processes with derivatives: a positive function of a few nuisances that does not factorise.

Use it where `nuratio check` says that the product of one-nuisance responses misses the simulation off the axes: an
acceptance with a cut on missing momentum, say, where two jet energy scales act on one vector sum. A few simulations at
points nu, better with gradients there (per-event weights have them), fix a smooth surface with errors; it says where to
simulate next, and becomes a normfactor of a fit, or coefficients of per-event log ratios.

What is modelled is f(nu) = ln y(nu), with a constant mean of flat prior, and the squared exponential kernel
s^2 exp(-sum_k d_k^2 / (2 l_k^2)); for more than four nuisances its mean over all pairs of nuisances. Amplitude s and
lengths l maximise the marginal likelihood times a prior, ln l ~ N(ln 3, 1): nuisances are in units of their sigma.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from nuratio.errors import InvalidData

__all__ = ["NextPoint", "Surface", "fit_surface", "interpolate"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_JITTER = 1e-10  # variance of every observation, in units of the prior's
_ENOUGH = 0.005  # of the yield: a smaller error of the surface is beside the point
_MOST_JOINT = 4  # nuisances in one kernel; above it, pairs
_LENGTH, _SPREAD = 3.0, 1.0  # the prior of lengths
_LENGTHS, _AMPLITUDES = (0.1, 100.0), (1e-6, 100.0)  # where they are searched
_CANDIDATES = 4000


@dataclass(frozen=True)
class NextPoint:
    """Where a surface is known least.

    Attributes
    ----------
    nu : ndarray, shape (K,)
    sd : float
        Of ln y there, that is relative to the yield.
    enough : bool
        Whether ``sd`` is below the tolerance, so that no further simulation is needed.
    """

    nu: Floats
    sd: float
    enough: bool


@dataclass(frozen=True, eq=False)
class Surface:
    """A positive function y of K nuisances, conditioned on what is known of it at n points.

    Attributes
    ----------
    points : ndarray, shape (n, K)
    observations : ndarray, shape (n, C)
        ln y at each point and, where C = 1 + K, its K derivatives; NaN for a derivative that is not known.
    errors : ndarray, shape (n, C)
        Standard deviations of ``observations``, independent.
    amplitude : float
        s, of ln y.
    lengths : ndarray, shape (K,)
    """

    points: Floats
    observations: Floats
    errors: Floats
    amplitude: float
    lengths: Floats

    def at(self, nu: ArrayLike) -> tuple[Floats, Floats]:
        """The function and its standard deviation at ``nu``, shape (m, K): exp of the posterior mean; shapes (m,)."""
        nu, solved = self._asked(nu), self._solved
        k = self._kernel(nu)
        value = np.exp(solved.mean + k @ solved.alpha)
        return value, value * np.sqrt(self._variance(k))

    def gradient(self, nu: ArrayLike) -> Floats:
        """Derivatives of the function, dy/dnu, at ``nu`` of shape (m, K); shape (m, K)."""
        nu = self._asked(nu)
        slopes = [self._kernel(nu, axis) @ self._solved.alpha for axis in range(nu.shape[1])]
        return self.at(nu)[0][:, None] * np.stack(slopes, axis=1)

    def next_point(
        self, candidates: ArrayLike | None = None, *, reach: float = 2.0, tolerance: float = _ENOUGH
    ) -> NextPoint:
        """The candidate of the largest posterior variance of ln y: the point to simulate next.

        Parameters
        ----------
        candidates : array_like, shape (m, K), optional
            By default a grid of about 4000 points in the cube abs(nu_k) <= ``reach``, corners included.
        reach : float
        tolerance : float
            Relative error of the yield that is good enough.
        """
        if candidates is None:
            axes = self.points.shape[1]
            levels = max(2, int(_CANDIDATES ** (1 / axes) + 1e-9))
            candidates = np.array(list(product(np.linspace(-reach, reach, levels), repeat=axes)))
        nu = self._asked(candidates)
        variance = self._variance(self._kernel(nu))
        best = int(np.argmax(variance))
        sd = float(np.sqrt(variance[best]))
        return NextPoint(nu[best], sd, sd < tolerance)

    def weights(self, nu: ArrayLike) -> Floats:
        """Coefficients c of the observations in ln y(nu) - ln y(0) = sum_v c_v(nu) y_v, which is linear in them.

        Anything known at the same points as well as ln y is interpolated by the same c: see `interpolate`.

        Parameters
        ----------
        nu : array_like, shape (m, K)

        Returns
        -------
        ndarray, shape (m, n, C)
            Zero at nu = 0, and for what was not observed. Coefficients of values sum to 0.
        """
        nu, solved = self._asked(nu), self._solved
        difference = self._kernel(nu) - self._kernel(np.zeros((1, nu.shape[1])))
        out = np.zeros((len(nu), *self.observations.shape))
        out[:, np.isfinite(self.observations)] = difference @ solved.projection
        return out

    def expression(self, names: Sequence[str]) -> str:
        """y(nu) / y(0) as an expression of parameters, for a normfactor in ``unbinned.parameters`` of a workspace.

        Parameters
        ----------
        names : sequence of str
            The K nuisances' names in the workspace, in order.

        Raises
        ------
        InvalidData
            Not K names.
        """
        points, lengths = self.points, self.lengths
        if len(names) != points.shape[1]:
            raise InvalidData(f"{len(names)} names for a surface of {points.shape[1]} nuisances: {list(names)}")
        groups = _groups(len(names))
        alpha = np.zeros((len(points), 1 + len(names)))
        alpha[:, : self.observations.shape[1]][np.isfinite(self.observations)] = self._solved.alpha
        alpha *= self.amplitude**2 / len(groups)
        terms = [_number(-float((self._kernel(np.zeros((1, len(names)))) @ self._solved.alpha)[0]))]
        for (point, row), group in product(zip(points, alpha, strict=True), groups):
            shifted = {k: f"({names[k]}{_number(-point[k])})" if point[k] else names[k] for k in group}
            bell = "".join(f"{_number(-0.5 / lengths[k] ** 2)}*{shifted[k]}**2" for k in group)
            slopes = (f"{_number(row[1 + k] / lengths[k] ** 2)}*{shifted[k]}" for k in group if row[1 + k])
            terms.append(f"+exp({bell})*({_number(row[0])}{''.join(slopes)})")
        return f"exp({''.join(terms)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON; a derivative that is not known is None."""
        known = np.isfinite(self.observations)
        return {
            "points": self.points.tolist(),
            "observations": np.where(known, self.observations, np.array(None)).tolist(),
            "errors": self.errors.tolist(),
            "amplitude": self.amplitude,
            "lengths": self.lengths.tolist(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Surface":
        """What `to_dict` wrote."""
        points, observations, errors, lengths = (
            np.array(document[name], dtype=np.float64) for name in ("points", "observations", "errors", "lengths")
        )
        return cls(points, observations, errors, float(document["amplitude"]), lengths)

    def _asked(self, nu: ArrayLike) -> Floats:
        asked = np.array(nu, dtype=np.float64)
        if asked.ndim != 2 or asked.shape[1] != self.points.shape[1]:
            raise InvalidData(
                f"nu of shape {asked.shape} for a surface of {self.points.shape[1]} nuisances: give (m, K)"
            )
        _refuse("nu", ~np.isfinite(asked), asked, "is not finite")
        return asked

    @cached_property
    def _solved(self) -> "_Solved":
        rows = _Rows.of(self.points, self.observations)
        return _Solved.of(rows, self.observations, self.errors, self.amplitude, self.lengths)

    def _kernel(self, nu: Floats, axis: int | None = None) -> Floats:
        """Covariance (m, N) of the function, or of its derivative along an axis, with the N observations."""
        orders = np.zeros(nu.shape, dtype=bool)
        if axis is not None:
            orders[:, axis] = True
        rows = _Rows.of(self.points, self.observations)
        return self.amplitude**2 * _correlation(_Rows(nu, orders), rows, self.lengths)

    def _variance(self, k: Floats) -> Floats:
        """Posterior variance of ln y (m,), that of the constant mean included."""
        solved = self._solved
        half = solve_triangular(solved.root, k.T, lower=True)
        rest = 1 - k @ solved.pull
        variance = self.amplitude**2 - (half**2).sum(0) + rest**2 * solved.mean_variance
        return np.asarray(np.maximum(variance, 0.0))  # rounding, of order 1e-16 s^2


def fit_surface(
    points: ArrayLike,
    values: ArrayLike,
    errors: ArrayLike | None = None,
    gradients: ArrayLike | None = None,
    gradient_errors: ArrayLike | None = None,
) -> Surface:
    """Fit a positive function y of a few nuisances: a Gaussian process for ln y, with amplitude and lengths fitted.

    Parameters
    ----------
    points : array_like, shape (n, K)
        Nuisances, in units of their sigma.
    values : array_like, shape (n,)
        y > 0 there: a yield, an efficiency, a density ratio.
    errors : array_like, shape (n,) or a number, optional
        Standard deviations of ``values``, taken as independent; by default none.
    gradients : array_like, shape (n, K), optional
        dy/dnu at the points; NaN where it is not known.
    gradient_errors : array_like, shape (n, K) or a number, optional
        Standard deviations of ``gradients``, taken as independent of each other and of those of ``values``.

    Raises
    ------
    InvalidData
        Shapes that do not fit, fewer than two points, values that are not positive and finite, negative errors.

    References
    ----------
    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), eqs. 2.30, 5.9 and 9.4 (derivatives) and
    section 2.7 (the mean's flat prior).
    """
    x, y = np.array(points, dtype=np.float64), np.array(values, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] == 0 or y.shape != x.shape[:1]:
        raise InvalidData(
            f"points of shape {x.shape} and values of shape {y.shape}: a surface needs (n, K) and (n,), with n >= 2"
        )
    _refuse("points", ~np.isfinite(x), x, "is not finite")
    _refuse("values", ~(np.isfinite(y) & (y > 0)), y, "is not positive, but ln y is modelled: merge bins or samples")
    columns, sds = [np.log(y)], [_sd("errors", errors, y.shape) / y]
    if gradients is not None:
        slopes = np.array(gradients, dtype=np.float64)
        if slopes.shape != x.shape:
            raise InvalidData(f"gradients of shape {slopes.shape} at points of shape {x.shape}: they must be the same")
        _refuse("gradients", np.isinf(slopes), slopes, "is infinite")
        columns += list((slopes / y[:, None]).T)
        sds += list((_sd("gradient_errors", gradient_errors, x.shape) / y[:, None]).T)
    elif gradient_errors is not None:
        raise InvalidData("gradient_errors without gradients: give both, or none")
    observations, noise = np.stack(columns, axis=1), np.stack(sds, axis=1)
    amplitude, lengths = _most_likely(_Rows.of(x, observations), observations, noise)
    return Surface(x, observations, noise, amplitude, lengths)


def interpolate(surface: Surface, observations: ArrayLike, nu: ArrayLike) -> Floats:
    """Per-event ln S(x|nu), 0 at nu = 0, from per-event logarithms at the points of a surface.

    Parameters
    ----------
    surface : Surface
        Fitted to the yields at the same points: its lengths are used for every event.
    observations : array_like, shape (n, C, events)
        y_v(x) = ln of the density (or of its ratio to anything fixed) at point v, and its derivatives by nu where the
        surface has them. What the surface has not observed is not looked at.
    nu : array_like, shape (K,)

    Raises
    ------
    InvalidData
        Another shape; a used entry that is not finite.
    """
    table = np.array(observations, dtype=np.float64)
    if table.ndim != 3 or table.shape[:2] != surface.observations.shape:
        raise InvalidData(
            f"observations of shape {table.shape} for a surface of {surface.observations.shape}: "
            "axes are points, (value, derivatives) and events"
        )
    known = np.isfinite(surface.observations)
    _refuse("observations", ~np.isfinite(table) & known[..., None], table, "is not finite")
    return np.asarray(surface.weights(np.array(nu)[None])[0][known] @ table[known])


# --- the kernel


@dataclass(frozen=True)
class _Rows:
    """What is observed or asked for: at ``points`` (N, K) the function or, where ``orders`` (N, K), a derivative."""

    points: Floats
    orders: Bools

    @classmethod
    def of(cls, points: Floats, observations: Floats) -> "_Rows":
        """The rows of a table (n, C) that are observed."""
        orders = np.eye(1 + points.shape[1], dtype=bool)[: observations.shape[1], 1:]  # none, then one of each
        point, column = np.nonzero(np.isfinite(observations))
        return cls(points[point], orders[column])

    def jitter(self, lengths: Floats) -> Floats:
        """Variances (N,) that keep the covariance invertible, for unit amplitude."""
        return np.array(_JITTER * np.where(self.orders, lengths**-2, 1.0).prod(axis=1), dtype=np.float64)

    @property
    def values(self) -> Floats:
        """1 for the function itself, 0 for a derivative: the column of a constant mean."""
        return np.asarray(~self.orders.any(axis=1), dtype=np.float64)


def _groups(nuisances: int) -> list[tuple[int, ...]]:
    """The nuisances in each term of the kernel."""
    return list(combinations(range(nuisances), 2 if nuisances > _MOST_JOINT else nuisances))


def _factors(a: _Rows, b: _Rows, lengths: Floats) -> tuple[Floats, Floats]:
    """Each nuisance's factor of the covariance (N, M, K), and its derivative by ln l_k.

    With d = (x - z) / l these are exp(-d^2 / 2) times 1, -d / l (derivative by x), d / l (by z), (1 - d^2) / l^2.
    """
    d = (a.points[:, None] - b.points) / lengths
    x, z = a.orders[:, None], b.orders[None]
    cases = [x & z, x & ~z, z & ~x]
    bell, d2 = np.exp(-0.5 * d**2), d**2
    factor = np.select(cases, [(1 - d2) / lengths**2, -d / lengths, d / lengths], 1.0)
    slope = np.select(cases, [(5 * d2 - d2**2 - 2) / lengths**2, -d * (d2 - 2) / lengths, d * (d2 - 2) / lengths], d2)
    return bell * factor, bell * slope


def _correlation(a: _Rows, b: _Rows, lengths: Floats) -> Floats:
    """Covariance (N, M) of rows with rows for unit amplitude."""
    factors = _factors(a, b, lengths)[0]
    terms = [_inside(a, b, group) * factors[..., group].prod(-1) for group in _groups(len(lengths))]
    return np.asarray(np.mean(terms, axis=0))


def _correlation_slopes(rows: _Rows, lengths: Floats) -> list[Floats]:
    """Derivatives of the correlation (N, N) of rows with themselves by each ln l_k."""
    factors, slopes = _factors(rows, rows, lengths)
    groups = _groups(len(lengths))
    out = [np.zeros(factors.shape[:2]) for _ in lengths]
    for group in groups:
        inside = _inside(rows, rows, group) / len(groups)
        for k in group:
            out[k] += inside * slopes[..., k] * factors[..., [j for j in group if j != k]].prod(-1)
    return out


def _inside(a: _Rows, b: _Rows, group: tuple[int, ...]) -> Bools:
    """Where (N, M) no derivative is along a nuisance that a term of the kernel does not depend on."""
    others = [k for k in range(a.orders.shape[1]) if k not in group]
    outside, of_b = (np.asarray(rows.orders[:, others].any(axis=1)) for rows in (a, b))
    return np.asarray(~(outside[:, None] | of_b))


# --- conditioning and the marginal likelihood


@dataclass(frozen=True)
class _Solved:
    """The linear algebra of N observations: posterior mean(nu) = mean + k(nu) alpha = mean + k(nu) projection y."""

    root: Floats  # lower Cholesky factor of their covariance
    pull: Floats  # covariance^-1 1
    mean_variance: float
    projection: Floats  # (N, N)
    mean: float
    alpha: Floats

    @classmethod
    def of(cls, rows: _Rows, observations: Floats, errors: Floats, amplitude: float, lengths: Floats) -> "_Solved":
        known = np.isfinite(observations)
        y, noise = observations[known], errors[known]
        correlation = _correlation(rows, rows, lengths) + np.diag(rows.jitter(lengths))
        covariance = amplitude**2 * correlation + np.diag(noise**2)
        root = cholesky(covariance, lower=True)
        pull = cho_solve((root, True), rows.values)
        variance = 1 / float(rows.values @ pull)
        projection = cho_solve((root, True), np.eye(len(y))) - variance * np.outer(pull, pull)
        mean = variance * float(pull @ y)
        return cls(root, pull, variance, projection, mean, cho_solve((root, True), y - mean * rows.values))


def _most_likely(rows: _Rows, observations: Floats, errors: Floats) -> tuple[float, Floats]:
    """Amplitude and lengths of the largest marginal likelihood times prior, from three starts."""
    nuisances = rows.points.shape[1]

    def objective(theta: Floats) -> tuple[float, Floats]:
        amplitude, lengths = float(np.exp(theta[0])), np.exp(theta[1:])
        solved = _Solved.of(rows, observations, errors, amplitude, lengths)
        y = observations[np.isfinite(observations)]
        pulls = (theta[1:] - np.log(_LENGTH)) / _SPREAD
        value = 0.5 * float((y - solved.mean * rows.values) @ solved.alpha) + float(np.log(np.diag(solved.root)).sum())
        value += -0.5 * np.log(solved.mean_variance) + 0.5 * float(pulls @ pulls)
        force = 0.5 * amplitude**2 * (solved.projection - np.outer(solved.alpha, solved.alpha))
        jitter = rows.jitter(lengths)
        slopes = [2 * (_correlation(rows, rows, lengths) + np.diag(jitter))]
        for k, slope in enumerate(_correlation_slopes(rows, lengths)):
            slopes.append(slope - 2 * np.diag(np.where(rows.orders[:, k], jitter, 0.0)))
        gradient = np.array([float((force * slope).sum()) for slope in slopes])
        gradient[1:] += pulls / _SPREAD
        return value, gradient

    scale = max(float(np.ptp(observations[:, 0])), 10 * _AMPLITUDES[0])
    bounds = [tuple(np.log(_AMPLITUDES)), *[tuple(np.log(_LENGTHS))] * nuisances]
    starts = [np.log([np.clip(scale, *_AMPLITUDES), *[length] * nuisances]) for length in (1.0, 3.0, 9.0)]
    found = [minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in starts]
    best = np.exp(min(found, key=lambda result: float(result.fun)).x)
    return float(best[0]), best[1:]


# --- input and output


def _sd(name: str, errors: ArrayLike | None, shape: tuple[int, ...]) -> Floats:
    sd = np.array(0.0 if errors is None else errors, dtype=np.float64)
    if sd.shape not in ((), shape):
        raise InvalidData(f"{name} of shape {sd.shape}: one number, or shape {shape}")
    _refuse(name, ~(np.isfinite(sd) & (sd >= 0)), sd, "is no standard deviation")
    return np.broadcast_to(sd, shape)


def _refuse(name: str, wrong: Bools, values: Floats, why: str) -> None:
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InvalidData(f"{name}{list(where) if where else ''} = {values[where]:.6g} {why}")


def _number(x: float) -> str:
    """A number with its sign and all its digits."""
    text = repr(float(x)).removesuffix(".0")
    return text if text.startswith("-") else f"+{text}"
