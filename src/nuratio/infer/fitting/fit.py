"""Maximum-likelihood fits.

`fit` is the unconditional fit, and with ``fixed={"mu": 1.0}`` the conditional one. Uncertainties come from the exact
Hessian (twice its inverse is the covariance of -2 ln L); MINOS intervals are an option.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.fitting.asymptotics import fit_concerns, warn
from nuratio.infer.fitting.minimize import MAX_CALLS, follow, minimize
from nuratio.infer.fitting.minimum import Minimum, predict_along
from nuratio.infer.impacts.influence import simulation_covariance
from nuratio.infer.profiles.crossing import Height, crossing
from nuratio.infer.results import FitResult

__all__ = ["Fitter", "fit", "fixed_poi_fit"]

Floats = NDArray[np.float64]

_BESIDE = 1e-6  # a kink: where the slopes of its other side are taken


def fit(
    model: Any,
    data: ArrayLike,
    *,
    fixed: Mapping[str, float] | None = None,
    init: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    hesse: bool = True,
    minos: Iterable[str] = (),
    simulation: bool = True,
    max_calls: int = MAX_CALLS,
) -> FitResult:
    """Fit the model to the data.

    Parameters
    ----------
    model : Model or pyhf.Model
    data : array_like
        Flat data vector, [main | auxiliary].
    fixed : mapping of str to float, optional
        Parameters held at a value, besides those the model fixes.
    init, bounds : mapping, optional
        Start values and bounds that replace the model's.
    hesse : bool
        Compute the covariance (one exact Hessian).
    minos : iterable of str
        Parameters to run MINOS on.
    simulation : bool
        Compute the errors from the statistics of the simulation (needs ``hesse``): one pass over the event pools.
    max_calls : int
        Calls of the likelihood before a minimisation is given up as not valid.

    Returns
    -------
    FitResult
        Look at ``.valid`` and ``.message``: a fit that did not converge, or that ends where the density is not
        positive, is reported, not raised.

    Raises
    ------
    UnknownName
        A parameter that does not exist.
    InvalidModel
        A value outside its bounds.

    Warns
    -----
    AsymptoticsWarning
        A MINOS interval that may not have its coverage: see `nuratio.infer.fitting.asymptotics`.
    """
    fitter = Fitter(model, data, bounds=bounds, max_calls=max_calls)
    minimum = fitter.minimum(fixed=fixed, init=init)
    minos = tuple(minos)
    for name in minos:
        warn(fit_concerns(fitter, minimum, fitter.index(name)), stacklevel=2)
    return fitter.result(minimum, fixed=fixed, hesse=hesse, minos=minos, simulation=simulation)


def fixed_poi_fit(poi_value: float, model: Any, data: ArrayLike, **options: Any) -> FitResult:
    """Fit with the parameter of interest held at ``poi_value``; options as for `fit`.

    Raises
    ------
    InvalidModel
        The model has no parameter of interest.
    """
    fixed = dict(options.pop("fixed", None) or {})
    return fit(model, data, fixed=fixed | {require_poi(model): poi_value}, **options)


def require_poi(model: Any) -> str:
    """The model's POI, or an error that says how to choose one."""
    index = model.config.poi_index
    if index is None:
        raise InvalidModel("the model has no parameter of interest; choose one: model.config.set_poi(name)")
    return str(model.config.par_names[index])


def position(name: str, names: Sequence[str]) -> int:
    """Position of a parameter among names; raises `UnknownName`."""
    if name not in names:
        raise UnknownName(f"no parameter {name!r}; {did_you_mean(name, names, 'parameters')}")
    return names.index(name)


def point(model: Any, at: Mapping[str, float] | None) -> Floats:
    """The suggested parameters with some at other values, shape (P,); raises `UnknownName`."""
    theta = np.array(model.config.suggested_init(), dtype=np.float64)
    for name, value in (at or {}).items():
        theta[position(name, model.config.par_names)] = value
    return theta


def own_model(model: Any) -> Any:
    """A pyhf model as nuratio's; any that has a likelihood as it is."""
    if hasattr(model, "likelihood"):
        return model
    from nuratio.model.model import Model

    return Model.from_pyhf(model)


def cancellation(lines: list[str]) -> str:
    """What a fit says that ends where the total density is not positive (lines: one per event or bin)."""
    return f"the total density is not positive at {len(lines)} events or bins: {lines[0]}"


class Fitter:
    """Repeated fits of one model to one data set, with warm starts; `fit` is one call of it."""

    def __init__(
        self,
        model: Any,
        data: ArrayLike,
        *,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        max_calls: int = MAX_CALLS,
    ) -> None:
        self.model = model = own_model(model)
        self.data = np.array(data, dtype=np.float64)
        self.likelihood = model.likelihood(self.data)
        self.names: tuple[str, ...] = tuple(model.config.par_names)
        self.init = np.array(model.config.suggested_init(), dtype=np.float64)
        self.bounds = [(float(low), float(high)) for low, high in model.config.suggested_bounds()]
        for name, (low, high) in (bounds or {}).items():
            self.bounds[self.index(name)] = (float(low), float(high))
        self.fixed = np.array(model.config.suggested_fixed(), dtype=bool)
        self.constraints = self._constraints()
        self._options: dict[str, Any] = {"names": self.names, "widths": self.constraints[1], "max_calls": max_calls}

    def index(self, name: str) -> int:
        """Position of a parameter."""
        return position(name, self.names)

    def minimum(
        self,
        *,
        fixed: Mapping[str, float] | None = None,
        init: Mapping[str, float] | None = None,
        near: Minimum | None = None,
    ) -> Minimum:
        """The minimum with some parameters held; ``near`` is a minimum close by, followed along its tangent."""
        theta, held = self._held(fixed or {}, self.init if near is None else near.theta)
        for name, value in (init or {}).items():
            theta[self.index(name)] = value
        objective = self._holding(held)
        if near is None:
            return self._lowest(minimize(objective, theta, self.bounds, held, **self._options), held, objective)
        theta = near.predict(theta, held, *np.array(self.bounds).T)
        return self._lowest(follow(objective, [(theta, near)], self.bounds, held, **self._options)[0], held, objective)

    def conditional(
        self,
        parameter: str,
        values: Sequence[float],
        known: Sequence[Minimum],
        *,
        fixed: Mapping[str, float] | None = None,
    ) -> list[Minimum]:
        """The minima with one parameter held at each of the values, predicted from those ``known`` along it."""
        k = self.index(parameter)
        starts = []
        for value in values:
            _, held = self._held({**(fixed or {}), parameter: value}, known[0].theta)
            starts.append(predict_along(known, k, value, held, *np.array(self.bounds).T))
        if not starts:
            return []
        return self._followed(starts, held, [k])

    def beside(self, moves: Sequence[tuple[Mapping[str, float], Minimum]]) -> list[Minimum]:
        """The minima with some parameters held, each followed along the tangent of one close by, side by side.

        Parameters
        ----------
        moves : sequence of (mapping, Minimum)
            The values at which parameters are held, the same parameters in all, and the known minimum.
        """
        starts, held = [], self.fixed
        for values, near in moves:
            theta, held = self._held(values, near.theta)
            starts.append((near.predict(theta, held, *np.array(self.bounds).T), near))
        return self._followed(starts, held, [self.index(name) for name in moves[0][0]]) if starts else []

    def _followed(
        self, starts: Sequence[tuple[Floats, Minimum]], held: NDArray[np.bool_], moving: Sequence[int]
    ) -> list[Minimum]:
        """Minima from predicted parameters; of the held ones, some move from one to the next."""
        still = held.copy()
        still[moving] = self.fixed[moving]  # and so do the shapes that depend on them
        objective = self._holding(still)
        found = follow(objective, starts, self.bounds, held, **self._options)
        return [self._lowest(minimum, held, objective) for minimum in found]

    def _lowest(self, found: Minimum, held: NDArray[np.bool_], objective: Any) -> Minimum:
        """The lowest of the minima on both sides of each kink: codes 0 and 1 may leave a valley on either side.

        From the minimum with the parameter at its kink, a slope down on the side where the fit did not end shows one.
        """
        kinks = getattr(self.likelihood, "kinks", np.zeros(len(self.names), dtype=bool))
        if not kinks.any():
            return found
        lower, upper = np.array(self.bounds).T
        calls = Counter(found.calls)
        for k in np.flatnonzero(kinks & ~held & (found.theta != 0) & (lower < 0) & (upper > 0)):
            still, theta = held.copy(), found.theta.copy()
            still[k], theta[k] = True, 0.0
            start = found.predict(theta, still, lower, upper)
            (at_kink,) = follow(self._holding(still), [(start, found)], self.bounds, still, **self._options)
            calls += Counter(at_kink.calls) + Counter(gradient=1)
            theta, side = at_kink.theta.copy(), -np.sign(found.theta[k])
            theta[k] = side * _BESIDE
            if side * objective.derivatives(theta, hessian=False)[1][k] >= 0:
                continue
            theta[k] = np.clip(-found.theta[k], lower[k], upper[k])
            other = minimize(objective, theta, self.bounds, held, **self._options)
            calls += Counter(other.calls)
            if other.valid and (other.value < found.value or not found.valid):
                told = f"{self.names[k]}: another minimum beyond its kink, lower by {found.value - other.value:.3g}"
                found = replace(other, steps=(*found.steps, told, *other.steps))
        return replace(found, calls={kind: calls[kind] for kind in found.calls})

    def _holding(self, held: NDArray[np.bool_]) -> Any:
        """The likelihood, told which parameters stay where they are, if it can use that."""
        return self.likelihood.holding(held) if hasattr(self.likelihood, "holding") else self.likelihood

    def _held(self, fixed: Mapping[str, float], start: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Start values with the fixed ones in place, and which parameters are held."""
        theta, held = start.copy(), self.fixed.copy()
        for name, value in fixed.items():
            k = self.index(name)
            theta[k], held[k] = value, True
            low, high = self.bounds[k]
            if not low <= value <= high:
                raise InvalidModel(
                    f"parameter {name!r} = {value:.6g} is outside its bounds [{low:.6g}, {high:.6g}]; widen them in "
                    f"the measurement or with bounds={{{name!r}: ...}}"
                )
        return theta, held

    def result(
        self,
        minimum: Minimum,
        *,
        fixed: Mapping[str, float] | None = None,
        hesse: bool = True,
        minos: Iterable[str] = (),
        simulation: bool = False,
    ) -> FitResult:
        """The `FitResult` of a minimum."""
        n = len(self.names)
        held = self.fixed | np.isin(self.names, list(fixed or {}))
        messages = [minimum.message] if minimum.message else []
        valid = minimum.valid
        lines = self.likelihood.nonpositive(minimum.theta)
        if lines:
            valid = False
            messages.append(cancellation(lines))
        covariance = np.full((n, n), np.nan)
        if hesse:
            covariance, positive, note = self._covariance(minimum, held)
            valid = valid and positive
            messages += [note] if note else []
        intervals: dict[str, tuple[float, float]] = {}
        for name in minos:
            intervals[name], note = self._minos(name, minimum, held, covariance)
            messages += [note] if note else []
        center, width = self.constraints
        result = FitResult(
            names=self.names,
            bestfit=minimum.theta,
            uncertainty=np.sqrt(np.diag(covariance)),
            covariance=covariance,
            twice_nll=minimum.value,
            valid=valid,
            message="; ".join(messages),
            edm=minimum.edm,
            fixed=tuple(bool(h) for h in held),
            at_bound=tuple(bool(b) for b in minimum.at_bound),
            minos=intervals,
            nonpositive_events=len(lines),
            constraint_center=center,
            constraint_width=width,
            steps=minimum.steps,
            calls=minimum.calls,
        )
        if not simulation:
            return result
        variance = np.diag(simulation_covariance(self.model, result))
        return replace(result, simulation=np.sqrt(np.maximum(variance, 0.0)))

    def _covariance(self, minimum: Minimum, held: NDArray[np.bool_]) -> tuple[Floats, bool, str]:
        """Twice the inverse of the exact Hessian, whether it is one, and what is to be said of it.

        Where it is not positive definite, parameters at a bound (a square root at zero) and then those at a kink count
        as fixed.
        """
        hessian = minimum.hessian
        if hessian is None:
            hessian = self.likelihood.derivatives(minimum.theta, hessian=True)[2]
        covariance = np.zeros_like(hessian)
        outside = held
        for more in (held, minimum.at_bound, minimum.at_kink):
            outside = outside | more
            indices = np.ix_(~outside, ~outside)
            if np.isfinite(hessian[indices]).all() and _positive_definite(hessian[indices]):
                covariance[indices] = 2 * np.linalg.inv(hessian[indices])
                names = [n for n, kink in zip(self.names, outside & minimum.at_kink, strict=True) if kink]
                return (
                    covariance,
                    True,
                    f"HESSE: parameters at a kink count as fixed: {', '.join(names)}" if names else "",
                )
        covariance[np.ix_(~held, ~held)] = np.nan
        return covariance, False, "HESSE: the Hessian is not positive definite"

    def _minos(
        self, name: str, minimum: Minimum, held: NDArray[np.bool_], covariance: Floats
    ) -> tuple[tuple[float, float], str]:
        """Where the profile of -2 ln L has risen by 1 on each side of the minimum; a bound reached first is the end."""
        k = self.index(name)
        if held[k]:
            raise InvalidModel(f"MINOS: parameter {name!r} is fixed")
        kept = {n: float(v) for n, v, h in zip(self.names, minimum.theta, held, strict=True) if h}
        sigma = np.sqrt(covariance[k, k])
        step = sigma if np.isfinite(sigma) and sigma > 0 else 0.1 * max(abs(minimum.theta[k]), 1.0)
        known = [minimum]

        def profile(value: float) -> Height:
            (conditional,) = self.conditional(name, [value], known, fixed=kept)
            known.append(conditional)
            rise = conditional.value - minimum.value if conditional.valid else np.inf
            return Height(value, float(rise), float(conditional.gradient[k]))

        ends = []
        for side, bound in ((-1.0, self.bounds[k][0]), (1.0, self.bounds[k][1])):
            inner = outer = Height(float(minimum.theta[k]), 0.0, 0.0)
            reach = step
            while outer.rise < 1 and outer.at != bound:
                inner, outer = outer, profile(float(np.clip(outer.at + side * reach, *self.bounds[k])))
                reach *= 1.5
            ends.append(outer.at if outer.rise <= 1 else crossing(profile, 1.0, inner, outer))
        note = "" if np.isfinite(ends).all() else f"MINOS: a conditional fit failed on the way to the end for {name!r}"
        return (float(ends[0]), float(ends[1])), note

    def _constraints(self) -> tuple[Floats, Floats]:
        if not hasattr(self.model, "constraint_widths"):
            return np.full(len(self.names), np.nan), np.full(len(self.names), np.nan)
        center, width = self.model.constraint_widths(self.data[self.model.config.nmaindata :])
        return center, width


def _positive_definite(matrix: Floats) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True
