"""Where the asymptotic formulas of `hypotest`, `upper_limit`, `significance` and intervals do not hold, and why.

The formulas need many events, one minimum away from bounds, and parameters that the data know (Wilks, Wald). Each
departure from that is a `Concern` with what to do instead; functions that use the formulas warn with them. The numbers
stay as they are.

Few events: a Poisson process with expected events w_i and scores s_i = d ln lambda_i / d mu has a total score whose
excess kurtosis is

    sum_i w_i s_i^4 / (sum_i w_i s_i^2)^2 = 1 / n,

with n events of equal score. So n is the number of events that the information on mu comes from: all events of a
counting experiment, those under the peak of a search for one, whatever the bins. Scores are taken along the profile,
so that events which only fix the nuisances do not count.

References
----------
S. Wilks, Ann. Math. Statist. 9 (1938) 60. H. Chernoff, Ann. Math. Statist. 25 (1954) 573 (bounds). R. Davies,
Biometrika 64 (1977) 247 (parameters unidentified under the null). arXiv:1007.1727.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import AsymptoticsWarning, InvalidModel
from nuratio.infer.fitting.minimum import Minimum
from nuratio.model.unbinned import EventCell, Events

if TYPE_CHECKING:
    from nuratio.infer.fitting.fit import Fitter
    from nuratio.infer.hypotheses.test_statistics import Profile
    from nuratio.infer.profiles.curve import Curve

__all__ = [
    "FEWEST",
    "Concern",
    "asymptotics_option",
    "check_asymptotics",
    "fit_concerns",
    "informative_events",
    "interval_concerns",
    "test_concerns",
    "warn",
    "warn_or_refuse",
]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FEWEST = 5.0  # events that the information is to come from
_FLAT = 1e-6  # 2 Delta ln L over the whole range of a parameter: the data do not know it
_POOL = 100_000  # pool events that are enough to count
_OPTIONS = ("check", "force")
_REMEDIES = {
    "test": "count in toys instead: nuratio.toy_hypotest, toy_limit, toy_significance (--toys)",
    "interval": "use the Neyman construction, nuratio.neyman, and check the coverage, nuratio.coverage",
}


@dataclass(frozen=True)
class Concern:
    """One reason why asymptotic formulas do not hold.

    Attributes
    ----------
    reason : str
        ``few events``, ``unidentified``, ``boundary``, ``nuisance at a bound`` or ``several minima``.
    text : str
        In words, with numbers.
    remedy : str
        What to do.
    """

    reason: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}; {self.remedy}"


def check_asymptotics(
    model: Any, data: ArrayLike, poi_value: float = 1.0, *, test_stat: str = "qtilde"
) -> tuple[Concern, ...]:
    """What speaks against asymptotic formulas for a test of one POI value; empty if nothing does.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    poi_value : float
        The tested value; for ``q0`` the signal that is looked for.
    test_stat : str
        ``qtilde``, ``q`` or ``q0``.

    Raises
    ------
    InvalidModel
        No POI; a value outside its bounds.
    """
    from nuratio.infer.fitting.fit import Fitter, require_poi
    from nuratio.infer.hypotheses.test_statistics import Profile

    profile = Profile(Fitter(model, data), require_poi(model))
    profile.at(0.0 if test_stat == "q0" else poi_value)
    return tuple(test_concerns(profile, poi_value, test_stat))


def asymptotics_option(value: str) -> bool:
    """Whether ``asymptotics=`` asks for a look at all.

    Raises
    ------
    InvalidModel
        Neither ``check`` nor ``force``.
    """
    if value not in _OPTIONS:
        raise InvalidModel(f"asymptotics is 'check' or 'force', not {value!r}")
    return value == "check"


def warn(concerns: Iterable[Concern], *, stacklevel: int) -> None:
    """An `AsymptoticsWarning` for each concern."""
    for concern in concerns:
        warnings.warn(f"asymptotic formulas may not hold. {concern}", AsymptoticsWarning, stacklevel=stacklevel + 1)


def test_concerns(profile: "Profile", value: float, test_stat: str) -> Iterator[Concern]:
    """Those of a hypothesis test.

    Parameters
    ----------
    profile : Profile
        Of the data, with the fits that were made.
    value : float
        The tested value (of a limit: the limit); for ``q0`` the signal that is looked for.
    test_stat : str
    """
    fitter, k, remedy = profile.fitter, profile.k, _REMEDIES["test"]
    low, high = fitter.bounds[k]
    if low <= 0 <= high:
        names = unidentified(fitter, profile.at(0.0), k)
        if names:
            yield Concern(
                "unidentified",
                f"without signal ({profile.poi} = 0) the data do not depend on {names}",
                "hold it fixed and scan it, nuratio.global_significance, or count in toys; "
                "asymptotics='force' computes with the formulas all the same",
            )
    at_zero = profile.conditional.get(0.0)
    tested = at_zero if test_stat == "q0" else profile.conditional.get(value)
    if tested is None:
        tested = profile.at(value)
    at = tested.theta.copy()
    if test_stat == "q0":
        at[k] = min(max(value, low), high)
    yield from _few_events(fitter, at, tested, k, remedy)
    best = float(profile.free.theta[k])
    handled = best == low == 0 and test_stat in ("qtilde", "q0")
    if best in (low, high) and not handled:
        text = f"the best fit of {profile.poi} is at its bound {best:.6g}"
        yield Concern("boundary", f"{text}, and {test_stat} expects it beyond" if best == low else text, remedy)
    yield from _irregular(fitter, tested.theta, k, remedy)
    yield from _at_bounds(fitter, profile.free, k, remedy)
    hills = [v for v, m in profile.conditional.items() if _beyond_a_hill(m, profile.free, k)]
    if hills:
        yield Concern(
            "several minima",
            f"at {profile.poi} = {min(hills):.4g} the profile falls away from the best fit {best:.4g}",
            f"{remedy}, with starts= for both minima",
        )


def warn_or_refuse(concerns: Iterable[Concern], *, stacklevel: int) -> None:
    """`warn` of all concerns; a parameter that is unidentified is an error.

    Raises
    ------
    InvalidModel
    """
    found = list(concerns)
    for concern in found:
        if concern.reason == "unidentified":
            raise InvalidModel(f"asymptotic formulas do not hold. {concern}")
    warn(found, stacklevel=stacklevel + 1)


test_concerns.__test__ = False  # type: ignore[attr-defined]  # not one for pytest


def interval_concerns(curve: "Curve", height: float) -> Iterator[Concern]:
    """Those of the intervals of one parameter, up to a height in 2 Delta ln L."""
    fitter, k, best, remedy = curve.fitter, curve.k, curve.valleys.best, _REMEDIES["interval"]
    low = [m for m in curve.valleys.in_order() if curve.valleys.rise(m) <= height]
    if len(low) > 1:
        values = ", ".join(f"{m.theta[k]:.4g}" for m in low)
        yield Concern("several minima", f"the profile of {curve.parameter} has minima at {values}", remedy)
    yield from fit_concerns(fitter, best, k, remedy=remedy, handled=False)


def fit_concerns(
    fitter: "Fitter", best: Minimum, k: int, *, remedy: str = _REMEDIES["interval"], handled: bool = True
) -> Iterator[Concern]:
    """Those of an interval around one minimum.

    Parameters
    ----------
    fitter : Fitter
    best : Minimum
    k : int
        The parameter.
    remedy : str
    handled : bool
        A best fit of zero at a bound at zero is a matter of course, and its interval one-sided.
    """
    name, at, bounds = fitter.names[k], float(best.theta[k]), fitter.bounds[k]
    if at in bounds and not (handled and at == bounds[0] == 0):
        yield Concern("boundary", f"the best fit of {name} is at its bound {at:.6g}", remedy)
    if at not in bounds:
        yield from _few_events(fitter, best.theta, best, k, remedy)
    yield from _irregular(fitter, best.theta, k, remedy)
    yield from _at_bounds(fitter, best, k, remedy)


def unidentified(fitter: "Fitter", null: Minimum, k: int) -> str:
    """Names of the nuisances that -2 ln L does not depend on at a conditional minimum, joined; empty if there are none.

    A nuisance counts if it has no constraint, and a direction of its own along which -2 ln L is flat over its range.
    """
    free = ~fitter.fixed & ~null.at_kink
    free[k] = False
    low, high = np.array(fitter.bounds).T
    width = np.where(np.isnan(fitter.constraints[1]), np.minimum(high - low, 1e3), fitter.constraints[1])
    where = np.flatnonzero(free)
    if not np.isnan(fitter.constraints[1][where]).any():
        return ""
    hessian = fitter.likelihood.derivatives(null.theta, hessian=True)[2]
    where = where[np.isfinite(hessian[np.ix_(where, where)]).all(axis=1)]  # not a square root at its bound
    values, vectors = np.linalg.eigh(hessian[np.ix_(where, where)] * np.outer(width[where], width[where]))
    flat = np.abs(values) < _FLAT
    names = [
        fitter.names[j] for j, part in zip(where, vectors[:, flat], strict=True) if np.abs(part).max(initial=0) > 0.3
    ]
    return " and ".join(repr(name) for name in names)


def informative_events(model: Any, theta: Floats, direction: Floats) -> float:
    """Number of expected events that the information along a direction comes from; NaN if there is none.

    Parameters
    ----------
    model : Model
    theta : ndarray, shape (P,)
        Where events are expected.
    direction : ndarray, shape (P,)
        In the space of the parameters: the tangent of the profile.
    """
    expansion = model.parameters.expand(theta)
    full = expansion.values
    jacobian = np.eye(len(full)) if expansion.jacobian is None else expansion.jacobian
    with np.errstate(invalid="ignore"):
        along = np.where(direction == 0, 0.0, jacobian * direction).sum(1)
    if not np.isfinite(along).all():
        return float("nan")
    rates = model.rates.rates(full)
    change = rates.jacobian @ along
    second, fourth = 0.0, 0.0
    for name in model.config.channels:
        where = model.rates.cells(name)
        if name not in model.unbinned:
            bins = model.rates.channels[name][2]
            w, slope = rates.nu[where].reshape(-1, bins).sum(0), change[where].reshape(-1, bins).sum(0)
            score = np.divide(slope, w, out=np.zeros_like(w), where=w > 0)
            second, fourth = second + float(w @ score**2), fourth + float(w @ score**4)
            continue
        for cell in model.unbinned[name].cells:
            cells = model.rates.cells(name, cell.bin)
            for w, score in _pool_scores(cell, rates.nu[cells], change[cells], along, full):
                second, fourth = second + float(w @ score**2), fourth + float(w @ score**4)
    return second**2 / fourth if fourth > 0 else float("nan")


def _pool_scores(
    cell: EventCell, nu: Floats, change: Floats, along: Floats, full: Floats
) -> Iterator[tuple[Floats, Floats]]:
    """Expected events at pool events of a cell and their scores along a direction, some at a time.

    Of a large pool, evenly spaced events stand for all.
    """
    step = max(1, len(cell.pool) // _POOL)
    pool, weights = cell.pool, step * cell.pool_weights[::step]
    if step > 1:
        index = np.arange(len(pool)) if pool.index is None else pool.index
        pool = Events(pool.table, index[::step])
    for some, t, slopes in cell.evaluate(pool, full):
        density, slope = nu @ t, change @ t
        for n, sample, first in zip(nu, cell.samples, slopes, strict=True):
            if sample.par:
                slope = slope + n * (along[list(sample.par)] @ first)
        good = density > 0
        yield weights[some][good] * density[good], slope[good] / density[good]


def _few_events(fitter: "Fitter", theta: Floats, near: Minimum, k: int, remedy: str) -> Iterator[Concern]:
    if not hasattr(fitter.model, "rates"):
        return
    n = informative_events(fitter.model, theta, _tangent(fitter, near, k))
    if n < FEWEST:
        yield Concern(
            "few events",
            f"what is known of {fitter.names[k]} at {theta[k]:.4g} comes from {n:.2g} expected events, "
            f"fewer than {FEWEST:g}",
            remedy,
        )


def _tangent(fitter: "Fitter", near: Minimum, k: int) -> Floats:
    """How the nuisances follow parameter k along the profile, itself 1; shape (P,)."""
    direction = np.zeros(len(fitter.names))
    direction[k] = 1.0
    free = ~fitter.fixed & ~near.at_bound & ~near.at_kink
    free[k] = False
    block, column = near.curvature[np.ix_(free, free)], near.curvature[free, k]
    if np.isfinite(block).all() and np.isfinite(column).all():
        direction[free] = -np.linalg.lstsq(block, column, rcond=1e-12)[0]
    return direction


def _irregular(fitter: "Fitter", theta: Floats, k: int, remedy: str) -> Iterator[Concern]:
    """A parameter of expressions at a point where none of them depends on it to first order, or infinitely strongly."""
    parameters = getattr(fitter.model, "parameters", None)
    jacobian = None if parameters is None else parameters.expand(theta).jacobian
    if jacobian is None:
        return
    name, slopes = fitter.names[k], jacobian[:, k]
    if not np.isfinite(slopes).all():
        yield Concern("boundary", f"yields change infinitely fast with {name} at {theta[k]:.6g}", remedy)
    elif not slopes.any():
        yield Concern("boundary", f"yields do not change with {name} at {theta[k]:.6g}, to first order", remedy)


def _at_bounds(fitter: "Fitter", best: Minimum, k: int, remedy: str) -> Iterator[Concern]:
    there = [repr(name) for j, name in enumerate(fitter.names) if best.at_bound[j] and j != k]
    if there:
        names = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        yield Concern("nuisance at a bound", f"{names} in the best fit", f"widen the bounds, or {remedy}")


def _beyond_a_hill(conditional: Minimum, free: Minimum, k: int) -> bool:
    """Whether the profile falls away from the best fit at a conditional minimum."""
    away = conditional.theta[k] - free.theta[k]
    slope = conditional.gradient[k] * away
    return bool(conditional.valid and np.isfinite(slope) and slope < -1e-3 and conditional.value > free.value + 1e-3)
