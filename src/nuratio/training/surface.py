"""Gaussian processes with derivatives: a positive function of a few nuisances that does not factorise.

Use it where the product of one-nuisance responses misses the simulation off the axes: an acceptance with a cut on
missing momentum, say, where two jet energy scales act on one vector sum. A few simulations at
points nu, better with gradients there (per-event weights have them), fix a smooth surface with errors; it says where to
simulate next, and becomes a normfactor of a fit. `nuratio.training.event_surface` is the same for ratios per event.

What is modelled is ln y(nu), by `nuratio.training.gaussian_process`; amplitude and lengths are fitted to the points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from keyword import iskeyword
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidData
from nuratio.training.gaussian_process import Conditioned, Rows, groups, most_likely

__all__ = ["NextPoint", "Surface", "fit_surface", "grid", "refuse", "require_different"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ENOUGH = 0.005  # of the yield: a smaller error of the surface is beside the point
_CANDIDATES = 4000
_TERMS = 8  # of a sum before it is nested: parsers recurse into long ones


@dataclass(frozen=True, eq=False)
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
        Prior standard deviation of ln y.
    lengths : ndarray, shape (K,)
        On which it varies, in units of the nuisances.
    """

    points: Floats
    observations: Floats
    errors: Floats
    amplitude: float
    lengths: Floats

    @property
    def known(self) -> Bools:
        """What was observed, shape (n, C)."""
        return np.isfinite(self.observations)

    def at(self, nu: ArrayLike) -> tuple[Floats, Floats]:
        """The function and its standard deviation at ``nu``, shape (m, K): exp of the posterior mean; shapes (m,)."""
        k = self._solved.covariance(Rows.at(self._asked(nu)))
        value = np.exp(self._mean + k @ self._alpha)
        return value, value * np.sqrt(self._solved.variance(k))

    def gradient(self, nu: ArrayLike) -> Floats:
        """Derivatives of the function, dy/dnu, at ``nu`` of shape (m, K); shape (m, K)."""
        asked = self._asked(nu)
        slopes = [self._solved.covariance(Rows.at(asked, axis)) @ self._alpha for axis in range(asked.shape[1])]
        return self.at(asked)[0][:, None] * np.stack(slopes, axis=1)

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

        Raises
        ------
        InvalidData
            More than twelve nuisances without candidates; candidates of another shape, or none.
        """
        if candidates is None:
            candidates = grid(self.points.shape[1], reach, _CANDIDATES)
        nu = self._asked(candidates)
        variance = self._solved.variance(self._solved.covariance(Rows.at(nu)))
        best = int(np.argmax(variance))
        sd = float(np.sqrt(variance[best]))
        return NextPoint(nu[best], sd, sd < tolerance)

    def weights(self, nu: ArrayLike) -> Floats:
        """Coefficients c of the observations in ln y(nu) - ln y(0) = sum_v c_v(nu) y_v, which is linear in them.

        Anything known at the same points as well as ln y is interpolated by the same c.

        Parameters
        ----------
        nu : array_like, shape (m, K)

        Returns
        -------
        ndarray, shape (m, n, C)
            Zero at nu = 0, and for what was not observed. Coefficients of values sum to 0.
        """
        asked, solved = self._asked(nu), self._solved
        difference = solved.covariance(Rows.at(asked)) - solved.covariance(Rows.at(np.zeros((1, asked.shape[1]))))
        out = np.zeros((len(asked), *self.observations.shape))
        out[:, self.known] = solved.project(difference.T).T
        return out

    def expression(self, names: Sequence[str]) -> str:
        """y(nu) / y(0) as an expression of parameters, for a normfactor in ``unbinned.parameters`` of a workspace.

        About 60 characters for each point and nuisance, twice that with gradients; a workspace takes 20000.

        Parameters
        ----------
        names : sequence of str
            The K nuisances' names in the workspace, in order.

        Raises
        ------
        InvalidData
            Not K different names, or one that an expression cannot spell.
        """
        nuisances = self.points.shape[1]
        if len(names) != nuisances or len(set(names)) != nuisances:
            raise InvalidData(f"names {list(names)} for a surface of {nuisances} nuisances: give each of them one")
        wrong = [name for name in names if not name.isidentifier() or iskeyword(name)]
        if wrong:
            raise InvalidData(
                f"an expression cannot spell {wrong[0]!r}: there a name has only letters, digits and underscores; "
                "rename the nuisance"
            )
        alpha = np.zeros((len(self.points), 1 + nuisances))
        alpha[:, : self.observations.shape[1]][self.known] = self._alpha
        alpha *= self.amplitude**2 / len(groups(nuisances))
        at_zero = self._solved.covariance(Rows.at(np.zeros((1, nuisances)))) @ self._alpha
        terms = [_number(-float(at_zero[0]))]
        for group in groups(nuisances):
            centres, where = np.unique(self.points[:, group], axis=0, return_inverse=True)
            coefficients = np.zeros((len(centres), 1 + len(group)))
            np.add.at(coefficients, where.reshape(-1), alpha[:, [0, *(1 + k for k in group)]])
            scales = [float(self.lengths[k]) for k in group]
            for centre, row in zip(centres, coefficients, strict=True):
                shifted = [
                    f"({names[k]}{_number(-c)})" if c else names[k] for k, c in zip(group, centre.tolist(), strict=True)
                ]
                bell = "".join(f"{_number(-0.5 / s**2)}*{d}**2" for s, d in zip(scales, shifted, strict=True))
                slopes = zip(row[1:].tolist(), scales, shifted, strict=True)
                factor = "".join(f"{_number(a / s**2)}*{d}" for a, s, d in slopes if a)
                terms.append(f"+exp({bell})*({_number(float(row[0]))}{factor})")
        return f"exp({_sum(terms)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON; a derivative that is not known is None."""
        return {
            "points": self.points.tolist(),
            "observations": np.where(self.known, self.observations, np.array(None)).tolist(),
            "errors": self.errors.tolist(),
            "amplitude": self.amplitude,
            "lengths": self.lengths.tolist(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Surface":
        """What `to_dict` wrote.

        Raises
        ------
        InvalidData
            A part is missing.
        """
        missing = {"points", "observations", "errors", "amplitude", "lengths"} - document.keys()
        if missing:
            raise InvalidData(f"no surface without {', '.join(sorted(missing))}: give what to_dict wrote")
        points, observations, errors, lengths = (
            np.array(document[name], dtype=np.float64) for name in ("points", "observations", "errors", "lengths")
        )
        return cls(points, observations, errors, float(document["amplitude"]), lengths)

    def _asked(self, nu: ArrayLike) -> Floats:
        asked = np.array(nu, dtype=np.float64)
        if asked.ndim != 2 or asked.shape[1] != self.points.shape[1] or len(asked) == 0:
            raise InvalidData(
                f"nu of shape {asked.shape} for a surface of {self.points.shape[1]} nuisances: give (m, K), m >= 1"
            )
        refuse("nu", ~np.isfinite(asked), asked, "is not finite")
        return asked

    @cached_property
    def _solved(self) -> Conditioned:
        rows = Rows.of(self.points, self.known)
        return Conditioned.on(rows, self.errors[self.known], self.amplitude, self.lengths)

    @cached_property
    def _alpha(self) -> Floats:
        y = self.observations[self.known]
        return self._solved.project(y - self.observations[:, 0].mean() * self._solved.rows.values)  # digits

    @cached_property
    def _mean(self) -> float:
        return self._solved.mean(self.observations[self.known])


def fit_surface(
    points: ArrayLike,
    values: ArrayLike,
    errors: ArrayLike | None = None,
    gradients: ArrayLike | None = None,
    gradient_errors: ArrayLike | None = None,
) -> Surface:
    """Fit a positive function y of a few nuisances.

    Parameters
    ----------
    points : array_like, shape (n, K)
        Nuisances, in units of their sigma.
    values : array_like, shape (n,)
        y > 0 there: a yield, an efficiency.
    errors : array_like, shape (n,) or a number, optional
        Standard deviations of ``values``, taken as independent; by default none, as for variations of the same events,
        whose common fluctuation is no error of the ratio to the nominal.
    gradients : array_like, shape (n, K), optional
        dy/dnu at the points; NaN where it is not known.
    gradient_errors : array_like, shape (n, K) or a number, optional
        Standard deviations of ``gradients``, taken as independent of each other and of those of ``values``.

    Raises
    ------
    InvalidData
        Shapes that do not fit, fewer than two points, one of them twice without errors, values that are not positive
        and finite, negative errors.
    """
    x, y = np.array(points, dtype=np.float64), np.array(values, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] == 0 or y.shape != x.shape[:1]:
        raise InvalidData(
            f"points of shape {x.shape} and values of shape {y.shape}: a surface needs (n, K) and (n,), with n >= 2"
        )
    refuse("points", ~np.isfinite(x), x, "is not finite")
    refuse("values", ~(np.isfinite(y) & (y > 0)), y, "is not positive, but ln y is modelled: merge bins or samples")
    columns, sds = [np.log(y)], [_sd("errors", errors, y.shape) / y]
    if gradients is not None:
        slopes = np.array(gradients, dtype=np.float64)
        if slopes.shape != x.shape:
            raise InvalidData(f"gradients of shape {slopes.shape} at points of shape {x.shape}: they must be the same")
        refuse("gradients", np.isinf(slopes), slopes, "is infinite: give NaN where it is not known")
        columns += list((slopes / y[:, None]).T)
        sds += list((_sd("gradient_errors", gradient_errors, x.shape) / y[:, None]).T)
    elif gradient_errors is not None:
        raise InvalidData("gradient_errors without gradients: give both, or none")
    observations, noise = np.stack(columns, axis=1), np.stack(sds, axis=1)
    require_different(x[noise[:, 0] == 0])
    known = np.isfinite(observations)
    amplitude, lengths = most_likely(Rows.of(x, known), observations[known][:, None], noise[known])
    return Surface(x, observations, noise, amplitude, lengths)


def grid(nuisances: int, reach: float, size: int) -> Floats:
    """About ``size`` points (m, K) of the cube abs(nu_k) <= ``reach``, corners included.

    Raises
    ------
    InvalidData
        So many nuisances that the corners alone are more than twice as many.
    """
    levels = max(2, int(size ** (1 / nuisances) + 1e-9))
    if levels**nuisances > 2 * size:
        raise InvalidData(
            f"a cube of {nuisances} nuisances has {levels**nuisances} corners, more than {2 * size}: fit a surface of "
            "the few nuisances that do not factorise, or give candidates"
        )
    return np.array(list(product(np.linspace(-reach, reach, levels), repeat=nuisances)))


def require_different(points: Floats) -> None:
    """Raise `InvalidData` if one of the points (n, K), which have no errors, occurs twice."""
    different, counts = np.unique(points, axis=0, return_counts=True)
    if (counts > 1).any():
        raise InvalidData(f"the point {different[counts > 1][0].tolist()} occurs twice: give errors, or one average")


def refuse(name: str, wrong: Bools, values: Floats, why: str) -> None:
    """Raise `InvalidData` for the first of the ``values`` that is wrong."""
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InvalidData(f"{name}{list(where) if where else ''} = {values[where]:.6g} {why}")


def _sd(name: str, errors: ArrayLike | None, shape: tuple[int, ...]) -> Floats:
    sd = np.array(0.0 if errors is None else errors, dtype=np.float64)
    if sd.shape not in ((), shape):
        raise InvalidData(f"{name} of shape {sd.shape}: give one number, or shape {shape}")
    refuse(name, ~(np.isfinite(sd) & (sd >= 0)), sd, "is no standard deviation: give 0 or more")
    return np.broadcast_to(sd, shape)


def _sum(terms: Sequence[str]) -> str:
    """Terms that carry their signs, nested so that none is deep inside."""
    while len(terms) > _TERMS:
        terms = [f"+({''.join(terms[i : i + _TERMS])})" for i in range(0, len(terms), _TERMS)]
    return "".join(terms)


def _number(x: float) -> str:
    """A number with its sign and all its digits."""
    text = repr(float(x)).removesuffix(".0")
    return text if text.startswith("-") else f"+{text}"
