"""Maximum-likelihood fits.

`fit` is the unconditional fit, and with ``fixed={"mu": 1.0}`` the conditional one. Uncertainties come from the exact
Hessian (twice its inverse is the covariance of -2 ln L); MINOS intervals are an option.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.minimize import Minimum, minimize
from nuratio.infer.results import FitResult

__all__ = ["Fitter", "fit", "fixed_poi_fit"]

Floats = NDArray[np.float64]


def fit(
    model: Any,
    data: ArrayLike,
    *,
    fixed: Mapping[str, float] | None = None,
    init: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    hesse: bool = True,
    minos: Iterable[str] = (),
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
    """
    fitter = Fitter(model, data, bounds=bounds)
    minimum = fitter.minimum(fixed=fixed, init=init)
    return fitter.result(minimum, fixed=fixed, hesse=hesse, minos=minos)


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
    name = model.config.poi_name
    if name is None:
        raise InvalidModel("the model has no parameter of interest; choose one: model.config.set_poi(name)")
    return str(name)


def cancellation(lines: list[str]) -> str:
    """What a fit says that ends where the total density is not positive (lines: one per event or bin)."""
    return f"the total density is not positive at {len(lines)} events or bins: {lines[0]}"


class Fitter:
    """Repeated fits of one model to one data set, with warm starts; `fit` is one call of it."""

    def __init__(self, model: Any, data: ArrayLike, *, bounds: Mapping[str, tuple[float, float]] | None = None) -> None:
        if not hasattr(model, "likelihood"):
            from nuratio.model.model import Model

            model = Model.from_pyhf(model)
        self.model = model
        self.data = np.array(data, dtype=np.float64)
        self.likelihood = model.likelihood(self.data)
        self.names: tuple[str, ...] = tuple(model.config.par_names)
        self.init = np.array(model.config.suggested_init(), dtype=np.float64)
        self.bounds = [(float(low), float(high)) for low, high in model.config.suggested_bounds()]
        for name, (low, high) in (bounds or {}).items():
            self.bounds[self.index(name)] = (float(low), float(high))
        self.fixed = np.array(model.config.suggested_fixed(), dtype=bool)

    def index(self, name: str) -> int:
        """Position of a parameter."""
        if name not in self.names:
            raise UnknownName(f"no parameter {name!r}; {did_you_mean(name, self.names, 'parameters')}")
        return self.names.index(name)

    def minimum(
        self,
        *,
        fixed: Mapping[str, float] | None = None,
        init: Mapping[str, float] | None = None,
        near: Minimum | None = None,
    ) -> Minimum:
        """The minimum with some parameters held; ``near`` is a minimum close by, followed along its tangent."""
        theta = (self.init if near is None else near.theta).copy()
        held = self.fixed.copy()
        for name, value in (init or {}).items():
            theta[self.index(name)] = value
        for name, value in (fixed or {}).items():
            k = self.index(name)
            theta[k], held[k] = value, True
            low, high = self.bounds[k]
            if not low <= value <= high:
                raise InvalidModel(
                    f"parameter {name!r} = {value:.6g} is outside its bounds [{low:.6g}, {high:.6g}]; widen them in "
                    f"the measurement or with bounds={{{name!r}: ...}}"
                )
        if near is not None:
            theta = near.predict(theta, held)
        return minimize(self.likelihood, theta, self.bounds, held, names=self.names, warm=near is not None)

    def result(
        self,
        minimum: Minimum,
        *,
        fixed: Mapping[str, float] | None = None,
        hesse: bool = True,
        minos: Iterable[str] = (),
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
            covariance = np.zeros((n, n))
            free = np.flatnonzero(~held)
            hessian = minimum.hessian[np.ix_(free, free)]
            try:
                np.linalg.cholesky(hessian)
                covariance[np.ix_(free, free)] = 2 * np.linalg.inv(hessian)
            except np.linalg.LinAlgError:
                valid = False
                covariance[np.ix_(free, free)] = np.nan
                messages.append("HESSE: the Hessian is not positive definite")
        intervals: dict[str, tuple[float, float]] = {}
        for name in minos:
            intervals[name], note = self._minos(name, minimum, held, covariance)
            messages += [note] if note else []
        main = self.model.config.nmaindata
        center, width = self._constraints(self.data[main:])
        return FitResult(
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
        )

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
        near = minimum

        def rise(value: float) -> float:
            nonlocal near
            conditional = self.minimum(fixed=kept | {name: value}, near=near)
            near = conditional if conditional.valid else near
            return conditional.value - minimum.value - 1.0 if conditional.valid else np.nan

        ends = []
        for side, bound in ((-1.0, self.bounds[k][0]), (1.0, self.bounds[k][1])):
            near = minimum
            inner, outer = float(minimum.theta[k]), float(minimum.theta[k])
            height, reach = -1.0, step
            while height < 0 and outer != bound:
                inner, outer = outer, float(np.clip(outer + side * reach, *self.bounds[k]))
                height, reach = rise(outer), 1.5 * reach
            if np.isnan(height):
                ends.append(np.nan)
            else:
                ends.append(outer if height <= 0 else brentq(rise, inner, outer, xtol=1e-6 * step, rtol=1e-10))
        note = "" if np.isfinite(ends).all() else f"MINOS: a conditional fit failed on the way to the end for {name!r}"
        return (float(ends[0]), float(ends[1])), note

    def _constraints(self, aux: Floats) -> tuple[Floats, Floats]:
        n = len(self.names)
        if not hasattr(self.model, "constraint_widths"):
            return np.full(n, np.nan), np.full(n, np.nan)
        center, width = self.model.constraint_widths(aux)
        return center, width
