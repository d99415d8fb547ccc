"""The parameters a user sees, and how they make the companion's.

pyhf owns names, order, bounds and constraints. A normfactor declared as an expression of other parameters leaves the
list of free parameters; a parameter that occurs only in expressions joins it at the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyhf.parameters.paramsets import unconstrained

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.model.expression import Dual, Expression

__all__ = ["NO_SATURATED_MODEL", "Config", "Expansion", "Parameters"]

Floats = NDArray[np.float64]

NO_SATURATED_MODEL = (
    "unbinned channels have no saturated model, which cabinetry's goodness of fit compares with: use "
    "nuratio.goodness_of_fit(model, data, fit, {'channel': ('feature', bins)})"
)


@dataclass(frozen=True)
class Expansion:
    """The companion's parameters as functions of the P free ones, to second order.

    Attributes
    ----------
    values : ndarray, shape (F,)
        The companion's parameters.
    jacobian : ndarray, shape (F, P), or None
        Their derivatives; None where there are no expressions and the two are the same.
    hessians : tuple of (int, ndarray of shape (P, P))
        Second derivatives of the parameters that are expressions.
    """

    values: Floats
    jacobian: Floats | None
    hessians: tuple[tuple[int, Floats], ...]

    def pull_gradient(self, gradient: Floats) -> Floats:
        """A gradient (or several: rows) in the companion's parameters, in the free ones."""
        if self.jacobian is None:
            return gradient
        with np.errstate(invalid="ignore"):  # infinite slopes (a square root at 0) stay in their own parameter's entry
            return np.asarray(gradient @ self.jacobian)

    def pull_hessian(self, gradient: Floats, hessian: Floats) -> Floats:
        """A Hessian in the companion's parameters, in the free ones (needs the gradient too)."""
        if self.jacobian is None:
            return hessian
        with np.errstate(invalid="ignore"):
            h = self.jacobian.T @ hessian @ self.jacobian
            for index, second in self.hessians:
                h = h + np.where(second == 0, 0.0, gradient[index] * second)
        return np.asarray(h)


@dataclass(frozen=True)
class Parameters:
    """Free parameters and expressions of a model.

    Attributes
    ----------
    names : tuple of str
        The P free parameters, in order: the companion's that are no expression, then the declared ones.
    expressions : tuple of (int, Expression)
        Index in the companion and formula of each expression, in an order in which they can be evaluated.
    own : tuple of int
        Index in the companion of each free parameter that it has.
    """

    names: tuple[str, ...]
    expressions: tuple[tuple[int, Expression], ...]
    own: tuple[int, ...]
    _companion: tuple[str, ...]

    @classmethod
    def build(cls, config: Any, declared: Sequence[Mapping[str, Any]]) -> "Parameters":
        """From a pyhf ``config`` and the workspace's ``unbinned.parameters``.

        Raises
        ------
        InvalidModel
            An expression for a parameter that is no unconstrained normfactor; a cycle; a declared free parameter that
            pyhf already has, or that no expression uses.
        UnknownName
            An expression of a parameter that does not exist.
        """
        companion = tuple(config.par_names)
        formulas: dict[str, Expression] = {}
        extra: list[str] = []
        for entry in declared:
            name = entry["name"]
            if "expression" not in entry:
                extra.append(name)
                if name in companion:
                    raise InvalidModel(
                        f"parameter {name!r} is declared free in unbinned.parameters, but a modifier of the companion "
                        "already makes it; set its bounds in the measurement"
                    )
                continue
            if name not in companion:
                raise UnknownName(
                    f"parameter {name!r} is given by an expression, but no normfactor is called so; "
                    f"{did_you_mean(name, companion, 'parameters')}"
                )
            if name not in config.par_map or config.param_set(name).constrained or not config.param_set(name).is_scalar:
                raise InvalidModel(f"parameter {name!r} cannot be an expression: only a normfactor can")
            formulas[name] = Expression.parse(entry["expression"])
        known = [n for n in companion if n not in formulas] + extra
        for name, formula in formulas.items():
            for used in formula.names:
                if used not in known and used not in formulas:
                    raise UnknownName(
                        f"parameter {name!r} = {formula} uses {used!r}, which is no parameter; "
                        f"{did_you_mean(used, known, 'parameters')}. If it is new, declare it in unbinned.parameters"
                    )
        unused = [n for n in extra if not any(n in f.names for f in formulas.values())]
        if unused:
            raise InvalidModel(f"parameters {unused} are declared but occur in no expression and on no sample")
        try:
            order = list(
                TopologicalSorter({n: set(f.names) & set(formulas) for n, f in formulas.items()}).static_order()
            )
        except CycleError as error:
            raise InvalidModel(f"expressions depend on each other in a cycle: {' -> '.join(error.args[1])}") from error
        own = tuple(i for i, n in enumerate(companion) if n not in formulas)
        return cls(tuple(known), tuple((companion.index(n), formulas[n]) for n in order), own, companion)

    def expand(self, theta: Floats) -> Expansion:
        """The companion's parameters at free parameters ``theta``, shape (P,)."""
        if not self.expressions:
            return Expansion(theta, None, ())
        used = self._used
        values, jacobian = np.empty(len(self._companion)), np.zeros((len(self._companion), len(self.names)))
        own = list(self.own)
        values[own] = theta[: len(own)]
        jacobian[own, np.arange(len(own))] = 1.0
        hessians: list[tuple[int, Floats]] = []
        duals = {self.names[j]: Dual.parameter(float(theta[j]), k, len(used)) for k, j in enumerate(used)}
        for index, expression in self.expressions:
            dual = duals[self._companion[index]] = expression(duals)
            values[index], jacobian[index, used] = dual.value, dual.gradient
            second = np.zeros((len(self.names),) * 2)
            second[np.ix_(used, used)] = dual.hessian
            hessians.append((index, second))
        return Expansion(values, jacobian, tuple(hessians))

    @cached_property
    def _used(self) -> list[int]:
        """The free parameters that occur in expressions: derivatives by all others are 0."""
        return [j for j, name in enumerate(self.names) if any(name in e.names for _, e in self.expressions)]

    def select(self, companion: Floats) -> Floats:
        """One number per companion parameter (shape (F,)) -> one per free parameter, NaN for those declared here."""
        out = np.full(len(self.names), np.nan)
        out[: len(self.own)] = companion[list(self.own)]
        return out

    def values(self, theta: Floats) -> Floats:
        """The companion's parameters alone, shape (F,)."""
        if not self.expressions:
            return theta
        values = np.empty(len(self._companion))
        values[list(self.own)] = theta[: len(self.own)]
        plain = {self.names[j]: Dual.constant(float(theta[j]), 0) for j in self._used}
        for index, expression in self.expressions:
            plain[self._companion[index]] = expression(plain)
            values[index] = plain[self._companion[index]].value
        return values


class Config:
    """pyhf's ``config`` for the free parameters and the data layout of a nuratio model.

    Everything not listed here is the companion's own.
    """

    def __init__(
        self,
        companion: Any,
        parameters: Parameters,
        declared: Sequence[Mapping[str, Any]],
        events: Mapping[str, int],
        poi: str | None,
    ) -> None:
        self._companion = companion
        self._unbinned = bool(events)
        hidden = {e["name"] for e in declared if "expression" in e}
        self.par_order = [n for n in companion.par_order if n not in hidden]
        self.par_map: dict[str, dict[str, Any]] = {}
        position = 0
        for name in self.par_order:
            paramset = companion.param_set(name)
            stop = position + paramset.n_parameters
            self.par_map[name] = {"slice": slice(position, stop), "paramset": paramset}
            position = stop
        for entry in declared:
            if "expression" in entry:
                continue
            paramset = unconstrained(
                name=entry["name"],
                n_parameters=1,
                is_scalar=True,
                inits=[float(entry.get("inits", [1.0])[0])],
                bounds=[tuple(entry.get("bounds", [[0.0, 10.0]])[0])],
                fixed=bool(entry.get("fixed", False)),
            )
            self.par_order.append(entry["name"])
            self.par_map[entry["name"]] = {"slice": slice(position, position + 1), "paramset": paramset}
            position += 1
        self.npars = position
        self.parameters = sorted(self.par_map)
        self.channel_nbins = {c: events.get(c, n) for c, n in companion.channel_nbins.items()}
        self.channel_slices: dict[str, slice] = {}
        position = 0
        for channel in companion.channels:
            stop = position + self.channel_nbins[channel]
            self.channel_slices[channel] = slice(position, stop)
            position = stop
        self.nmaindata = position
        self._poi_name: str | None = None
        self.set_poi(poi)
        self._names = parameters.names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._companion, name)

    @property
    def nauxdata(self) -> int:
        """Number of auxiliary data."""
        n = int(self._companion.nauxdata)
        return _NoAuxdata() if self._unbinned and not n else n

    @property
    def poi_name(self) -> str | None:
        """The parameter of interest; None for a background-only model."""
        return self._poi_name

    @property
    def poi_index(self) -> int | None:
        """Its position among the parameters."""
        return None if self._poi_name is None else self.par_map[self._poi_name]["slice"].start

    def set_poi(self, name: str | None) -> None:
        """Choose another parameter of interest; None for none.

        Raises
        ------
        UnknownName
            No scalar parameter is called so.
        """
        scalars = [n for n, p in self.par_map.items() if p["paramset"].n_parameters == 1]
        if name is not None and name not in scalars:
            raise UnknownName(f"no parameter {name!r} to be the POI; {did_you_mean(name, scalars, 'parameters')}")
        self._poi_name = name

    @property
    def par_names(self) -> list[str]:
        """Parameter names, with an index for those with one value per bin."""
        return list(self._names)

    def par_slice(self, name: str) -> slice:
        """Where a parameter set sits among the parameters."""
        where: slice = self.par_map[name]["slice"]
        return where

    def param_set(self, name: str) -> Any:
        """The parameter set of that name (pyhf's type)."""
        return self.par_map[name]["paramset"]

    def suggested_init(self) -> list[float]:
        """Start values."""
        return [v for n in self.par_order for v in self.param_set(n).suggested_init]

    def suggested_bounds(self) -> list[tuple[float, float]]:
        """Bounds."""
        return [v for n in self.par_order for v in self.param_set(n).suggested_bounds]

    def suggested_fixed(self) -> list[bool]:
        """Which parameters are held constant."""
        return [v for n in self.par_order for v in self.param_set(n).suggested_fixed]


class _NoAuxdata(int):
    """The number 0 of a model with unbinned channels.

    Without auxiliary data, ``nauxdata > 0`` is all that cabinetry's goodness of fit asks a model before it takes event
    weights for counts.
    """

    def __gt__(self, other: object) -> bool:
        raise InvalidModel(NO_SATURATED_MODEL)
