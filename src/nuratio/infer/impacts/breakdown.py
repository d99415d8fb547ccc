"""Breakdown of the uncertainty of the parameter of interest: statistics, groups of nuisances, simulation.

Use `breakdown` for the table of uncertainties of a result. There are four methods, which answer two questions.

Which fluctuations make the uncertainty? Squares of the components add up to that of the total, and components can be
handed on to combinations (A. Pinto et al., arXiv:2307.04007):

- ``covariance``: to first order. With H the Hessian of -ln L and C its inverse, a group of auxiliary measurements a
  contributes sum_a (C s_a)^2, s_a being what one standard deviation of a adds to the score, and the data the rest.
- ``auxdata``: each auxiliary measurement is changed by plus and minus one standard deviation and everything is fitted
  again; half the difference is its component.

The data contribute C H_data C, H_data being H without the constraint terms (``statistics="hessian"``): to first order
the total is the uncertainty of the fit, exactly. Or C S C (``"score"``), S being the variance of the score of all
events and bins (`nuratio.infer.impacts.fluctuations`): it cannot be negative, tells the channels apart, and stays a
variance where the data are not distributed like the model. The two are the same on Asimov data, up to the statistics of
a pool. On observed ones they differ by fluctuations of second derivatives: little for many events or a linear model,
more where signals interfere (0.22 and 0.20 for kappa of ``workspaces/zprime``, where toys scatter by 0.23). A third way
are ``bootstraps``, fits to resampled data, which have the variance of ``"score"`` without the linear approximation.

By how much would the uncertainty shrink if a group were known? That is the usual table of grouped impacts. Squares do
not add up to that of the total where groups are correlated; the result has the remainder:

- ``freeze``: each group by itself is held at its best fit, and the other parameters are fitted again; the component is
  what is lost in quadrature. Statistics are what is left with all others held.
- ``cumulative``: the groups are held one after the other, and stay held. Squares add up, but depend on the order.

A fit with parameters held at their best fit ends where it started, so the last two need the covariance alone: with the
block C_GG of the group, it loses C_mG C_GG^-1 C_Gm of the variance C_mm.

Parameters without an auxiliary measurement (normalisation factors) are measured by the data: they are a group of their
own where parameters are held, and part of the statistics in the other two methods.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.impacts.fluctuations import score_variances
from nuratio.infer.impacts.influence import simulation_covariance
from nuratio.infer.impacts.ranking import by_auxdata
from nuratio.infer.impacts.refits import Refits, Shift, answers
from nuratio.infer.results import FitResult, _number, _Result

__all__ = ["BreakdownResult", "breakdown"]

Floats = NDArray[np.float64]
Found = tuple[dict[str, float], dict[str, float], list[str]]  # components, channels, what is wrong

_ROUNDING = 1e-12  # of the variance
STATISTICS, SIMULATION, NETWORKS = "statistics", "simulation", "network statistics"
FACTORS = "normalisation factors"
OF_TYPE = {"lumi": "luminosity", "staterror": "MC statistics", "shapesys": "uncorrelated shapes"}


@dataclass(frozen=True)
class BreakdownResult(_Result):
    """Where the uncertainty of the parameter of interest comes from.

    Attributes
    ----------
    poi, method : str
        The parameter of interest; ``covariance``, ``auxdata``, ``freeze`` or ``cumulative``.
    value, uncertainty : float
        Of the parameter of interest, in the fit.
    components : dict
        ``statistics``, then each group, then ``simulation`` (the statistics of the simulation behind unbinned channels,
        which the fit's uncertainty does not contain) where it is known: all one standard deviation, in units of the
        parameter.
    members : dict
        Group -> its parameters.
    channels : dict
        Channel -> its part of the statistics by ``score``, whose square is their sum of squares; empty otherwise.
    total : float
        By ``covariance`` and ``auxdata`` the sum of all components in quadrature; else the fit's uncertainty and the
        simulation's in quadrature.
    remainder : float
        What is missing in the sum of the components: sign(r) sqrt(|r|), r = total^2 - sum of squares. Negative where
        components overlap; 0 where they add up.
    valid : bool
        The fit and all refits are valid.
    message : str
        What is wrong if not, and what is not included.
    """

    kind: ClassVar[str] = "breakdown"

    poi: str
    method: str
    value: float
    uncertainty: float
    components: dict[str, float]
    members: dict[str, tuple[str, ...]]
    channels: dict[str, float]
    total: float
    remainder: float
    valid: bool
    message: str

    def __getitem__(self, component: str) -> float:
        if component not in self.components:
            raise UnknownName(f"no component {component!r}; {did_you_mean(component, self.components, 'components')}")
        return self.components[component]

    def __str__(self) -> str:
        """One line for each component, and the total."""
        rows = [*self.components.items(), ("total", self.total)]
        if self.remainder:
            rows.insert(-1, ("remainder", self.remainder))
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"{self.poi} = {self.value:.4g}", *(f"{name:{width}}  {value:.3g}" for name, value in rows)])

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        numbers = {k: _number(values[k]) for k in ("value", "uncertainty", "total", "remainder")}
        shares = {k: {n: _number(v) for n, v in values[k].items()} for k in ("components", "channels")}
        return values | numbers | shares | {"members": {k: tuple(v) for k, v in values["members"].items()}}


def breakdown(
    model: Any,
    data: ArrayLike,
    groups: Mapping[str, Sequence[str]] | None = None,
    poi: str | None = None,
    *,
    method: Literal["covariance", "auxdata", "freeze", "cumulative"] = "covariance",
    statistics: Literal["hessian", "score"] = "hessian",
    fit: FitResult | None = None,
    bootstraps: int = 0,
    seed: int = 1,
    executor: Any = None,
) -> BreakdownResult:
    """Break the uncertainty of the parameter of interest down.

    Parameters
    ----------
    model : Model or pyhf.Model
    data : array_like
        Flat data vector, observed or Asimov.
    groups : mapping of str to sequence of str, optional
        Name of a group -> names or glob patterns of parameters: ``{"leptons": ["lep_*"]}``. ``"stat"`` and ``"stat*"``
        mean all of ``stat[0]``, ``stat[1]``, ... What no group has is in one by its type: ``luminosity``, ``MC
        statistics`` (staterror), ``uncorrelated shapes`` (shapesys), ``network statistics`` (directions),
        ``simulation`` (a nuisance of that name), ``normalisation factors``, and for the rest ``other``, or
        ``systematics`` where no groups are given.
    poi : str, optional
        Any parameter; the model's parameter of interest by default.
    method : {"covariance", "auxdata", "freeze", "cumulative"}
        See `nuratio.infer.impacts.breakdown`. ``cumulative`` holds groups in their order here, then those by type.
    statistics : {"hessian", "score"}
        What the data contribute, for ``covariance`` and ``auxdata``.
    fit : FitResult, optional
        Of this model to these data, with its covariance; made here by default.
    bootstraps : int
        For ``auxdata``, in place of ``statistics``: so many fits to data with Poisson-distributed weights and counts
        around the observed ones, which tell it to 1 / sqrt(2 bootstraps).
    seed : int
        Of the bootstraps.
    executor : optional
        Runs the refits: a `concurrent.futures.Executor`, or one of Dask.

    Returns
    -------
    BreakdownResult
        A refit that failed is reported there, not raised.

    Raises
    ------
    InvalidModel
        No such method or statistics; a parameter in two groups, or a group with a reserved name; bootstraps in another
        method.
    UnknownName
        A pattern that no free parameter matches; no such parameter of interest.
    InvalidData
        A fit that is not of these data, that has no covariance, or in which the parameter of interest was held or ended
        on a bound.
    """
    if method not in METHODS:
        raise InvalidModel(f"no method {method!r} of a breakdown; {did_you_mean(method, METHODS, 'methods')}")
    if statistics not in STATISTICS_BY:
        raise InvalidModel(f"no statistics {statistics!r}; {did_you_mean(statistics, STATISTICS_BY, 'ways')}")
    if bootstraps and (method != "auxdata" or bootstraps < 2):
        raise InvalidModel(
            f"{bootstraps} bootstraps by method {method!r}: they tell the statistics of 'auxdata', two of them or more"
        )
    refits = Refits.around(model, data, poi, fit)
    best, k = refits.fit, refits.k
    adds_up = method in ("covariance", "auxdata")
    members, unmeasured = _members(refits, groups or {}, measured_only=adds_up)
    split = _Split(refits, members, statistics)
    components, channels, notes = METHODS[method](split, bootstraps, seed, executor)
    valid = best.valid and not notes
    notes = ([best.message] if best.message else []) + notes
    if unmeasured:
        notes.append(f"without an auxiliary measurement, and so in the statistics: {', '.join(unmeasured)}")
    simulation = float(best.simulation[k])
    if not np.isfinite(simulation) and getattr(refits.model, "unbinned", None):
        simulation = float(np.sqrt(np.maximum(simulation_covariance(refits.model, best)[k, k], 0.0)))
    if np.isfinite(simulation):
        components[SIMULATION] = float(np.hypot(simulation, components.get(SIMULATION, 0.0)))
    elif getattr(refits.model, "unbinned", None) and not {SIMULATION, NETWORKS} & set(split.members):
        notes.append("the error from the statistics of the simulation is unknown, and not included")
    squares = float(np.sum(np.square(list(components.values()))))
    total = best.uncertainty[k] ** 2 + (simulation**2 if np.isfinite(simulation) else 0.0)
    rest = 0.0 if adds_up else total - squares
    return BreakdownResult(
        poi=refits.poi,
        method=method,
        value=float(best.bestfit[k]),
        uncertainty=float(best.uncertainty[k]),
        components=components,
        members=split.members,
        channels=channels,
        total=float(np.sqrt(squares if adds_up else total)),
        remainder=float(np.sign(rest) * np.sqrt(abs(rest))) if abs(rest) > _ROUNDING * total else 0.0,
        valid=valid,
        message="; ".join(notes),
    )


@dataclass(frozen=True)
class _Split:
    """A fit, and the groups that its uncertainty is broken down to."""

    refits: Refits
    members: dict[str, tuple[str, ...]]
    by: str

    def grouped(self, shifts: Mapping[str, float]) -> dict[str, float]:
        """Sums in quadrature over the groups."""
        return {g: float(np.sqrt(sum(shifts[n] ** 2 for n in names))) for g, names in self.members.items()}

    def shifts(self) -> dict[str, float]:
        """Of the parameter of interest by each auxiliary datum, to first order."""
        measured, fit = self.refits.auxiliary, self.refits.fit
        shifts = measured.components(fit.covariance, self.refits.k)
        return dict(zip([fit.names[j] for j in measured.parameter], shifts.tolist(), strict=True))

    def statistics(self) -> Found:
        """What the data contribute."""
        return STATISTICS_BY[self.by](self)

    def by_hessian(self) -> Found:
        """What the auxiliary data leave of the variance: with H = H_data + H_aux it is C H_data C."""
        total = float(self.refits.fit.covariance[self.refits.k, self.refits.k])
        rest = total - sum(s**2 for s in self.shifts().values())
        if rest < -_ROUNDING * total:
            why = f"the curvature that the data have of their own is negative ({rest:.3g}): use statistics='score'"
            return {STATISTICS: float("nan")}, {}, [why]
        return {STATISTICS: float(np.sqrt(max(rest, 0.0)))}, {}, []

    def by_score(self) -> Found:
        """By the variance of the score, of each channel."""
        fit, k = self.refits.fit, self.refits.k
        variances = score_variances(self.refits.model, self.refits.data, fit.bestfit)
        response = fit.covariance[k]
        # A channel that says nothing of the parameter has 0, up to rounding of either sign.
        channels = {c: float(np.sqrt(max(response @ s @ response, 0.0))) for c, s in variances.items()}
        return {STATISTICS: float(np.sqrt(sum(v**2 for v in channels.values())))}, channels, []

    def variance_lost(self, names: Sequence[str]) -> float:
        """What the variance of the parameter of interest loses if these parameters are known."""
        c, k = self.refits.fit.covariance, self.refits.k
        rows = [j for j in map(self.refits.fit.index, names) if c[j, j] > 0]
        scale = np.sqrt(np.diag(c)[rows])
        row = c[k, rows] / scale
        return float(row @ np.linalg.solve(c[np.ix_(rows, rows)] / np.outer(scale, scale), row)) if rows else 0.0


def _covariance(split: _Split, bootstraps: int, seed: int, executor: Any) -> Found:
    data, channels, notes = split.statistics()
    return data | split.grouped(split.shifts()), channels, notes


def _auxdata(split: _Split, bootstraps: int, seed: int, executor: Any) -> Found:
    refits = split.refits
    entries = by_auxdata(refits, executor)
    found = split.grouped({e.name: (e.shifts[0] - e.shifts[1]) / 2 for e in entries})
    notes = [f"{e.name}: {e.message}" for e in entries if e.message]
    if not bootstraps:
        data, channels, why = split.statistics()
        return data | found, channels, notes + why
    moved = answers(_resampled, refits, [(seed, j) for j in range(bootstraps)], executor)
    good = [shift for shift, why in moved if not why]
    if len(good) < bootstraps:
        first = next(why for _, why in moved if why)
        notes.append(f"{bootstraps - len(good)} of {bootstraps} bootstraps are not valid, the first because {first}")
    scatter = float(np.std(good, ddof=1)) if len(good) > 1 else float("nan")
    return {STATISTICS: scatter} | found, {}, notes


def _resampled(refits: Refits, task: tuple[int, int]) -> Shift:
    main = refits.data[: refits.model.config.nmaindata]
    return refits.with_main_data(np.random.default_rng(task).poisson(main).astype(np.float64))


def _freeze(split: _Split, bootstraps: int, seed: int, executor: Any) -> Found:
    lost = {g: split.variance_lost(names) for g, names in split.members.items()}
    return _statistics_left(split) | {g: float(np.sqrt(v)) for g, v in lost.items()}, {}, []


def _cumulative(split: _Split, bootstraps: int, seed: int, executor: Any) -> Found:
    held: list[str] = []
    lost, components = 0.0, _statistics_left(split)
    for group, names in split.members.items():
        held += names
        before, lost = lost, split.variance_lost(held)
        components[group] = float(np.sqrt(max(lost - before, 0.0)))  # it cannot fall, but by rounding
    return components, {}, []


def _statistics_left(split: _Split) -> dict[str, float]:
    """With everything held but the parameter of interest."""
    fit, k = split.refits.fit, split.refits.k
    everything = [n for names in split.members.values() for n in names]
    return {STATISTICS: float(np.sqrt(max(fit.covariance[k, k] - split.variance_lost(everything), 0.0)))}


METHODS: dict[str, Callable[[_Split, int, int, Any], Found]] = {
    "covariance": _covariance,
    "auxdata": _auxdata,
    "freeze": _freeze,
    "cumulative": _cumulative,
}


STATISTICS_BY: dict[str, Callable[[_Split], Found]] = {"hessian": _Split.by_hessian, "score": _Split.by_score}


def _members(
    refits: Refits, groups: Mapping[str, Sequence[str]], *, measured_only: bool
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The parameters of every group, and those that a group names although they are in none.

    ``measured_only``: those with an auxiliary measurement, the parameter of interest among them if it has one.
    """
    fit = refits.fit
    free = [n for n, fixed in zip(fit.names, fit.fixed, strict=True) if not fixed]
    measured = {n for n, width in zip(fit.names, fit.constraint_width, strict=True) if width > 0}
    home: dict[str, str] = {}
    for group, patterns in groups.items():
        if group == STATISTICS:
            raise InvalidModel(f"a group cannot be called {group!r}, which is what the data contribute: rename it")
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matched = [n for n in free if n != refits.poi and _matches(n, pattern)]
            if not matched:
                names = [n for n in free if n != refits.poi]
                raise UnknownName(
                    f"group {group!r}: no parameter that was free in the fit matches {pattern!r}; "
                    f"{did_you_mean(pattern, names, 'parameters')}"
                )
            for name in matched:
                if home.setdefault(name, group) != group:
                    raise InvalidModel(
                        f"parameter {name!r} is in the groups {home[name]!r} and {group!r} (pattern {pattern!r}); a "
                        "parameter can be in one: narrow the patterns"
                    )
    rest = "other" if groups else "systematics"
    kept = [n for n in free if (n in measured if measured_only else n != refits.poi)]
    label = {n: home.get(n) or (_by_type(refits.model, n, rest) if n in measured else FACTORS) for n in kept}
    order = dict.fromkeys([*groups, *label.values()])
    return {g: tuple(n for n in kept if label[n] == g) for g in order}, [n for n in home if n not in label]


def _matches(name: str, pattern: str) -> bool:
    base = name.partition("[")[0]
    return pattern in (name, base) or fnmatchcase(name, pattern) or fnmatchcase(base, pattern)


def _by_type(model: Any, name: str, rest: str) -> str:
    base = name.partition("[")[0]
    if any(re.fullmatch(f"network_{re.escape(channel)}_[0-9]+", name) for channel in getattr(model, "unbinned", ())):
        return NETWORKS
    types = {kind for modifier, kind in getattr(model.config, "modifiers", ()) if modifier == base}
    found = [label for kind, label in OF_TYPE.items() if kind in types]
    return found[0] if found else SIMULATION if name == SIMULATION else rest
