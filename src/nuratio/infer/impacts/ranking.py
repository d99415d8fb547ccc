"""Ranking of the nuisances by what they do to the parameter of interest, with refits.

Use `ranking` for the final numbers and for the figure; `nuratio.infer.impacts.impacts` gives the linear ones of any
fit without a refit. There are three methods, which answer two questions:

- ``refit``: impacts. The nuisance is held one standard deviation beside its best fit, all else is fitted again, and the
  parameter of interest moves. One standard deviation is the post-fit uncertainty of the nuisance, or the pre-fit one.
- ``covariance``: the same impacts to first order, cov(poi, k) / sigma_k, from the covariance of the fit.
- ``auxdata``: uncertainty components. The auxiliary measurement of the nuisance (the global observable) is changed by
  one standard deviation and everything is fitted again (A. Pinto et al., arXiv:2307.04007).

Impacts say how the parameter of interest is correlated with a nuisance, whatever measures it: their squares do not add
up to a variance. Components say what the fluctuation of one measurement does: their squares, with those of the data
(`nuratio.breakdown`), add up to the variance. For a Gaussian likelihood, with sigma_k the post-fit uncertainty and w_k
the width of the constraint,

    post-fit impact = cov(poi, k) / sigma_k,    pre-fit impact = post-fit w_k / sigma_k,    component = post-fit
    sigma_k / w_k.

A nuisance that the data do not constrain has all three alike.

One standard deviation of an auxiliary datum a is sigma for a ~ N(theta, sigma) (alpha of normsys, histosys and shapes;
lumi; staterror), and sqrt(a) for the counts a ~ Pois(f theta) of a shapesys. Rates that are exponential in alpha have a
log-normal uncertainty: the refits to both sides are asymmetric then, as they should be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidData, InvalidModel, UnknownName, did_you_mean
from nuratio.infer.impacts.refits import Refits, Shift, answers
from nuratio.infer.results import FitResult, _array, _number, _Result

__all__ = ["Entry", "RankingResult", "by_auxdata", "ranking"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankingResult(_Result):
    """What K parameters do to the parameter of interest, the largest shift first.

    Attributes
    ----------
    poi, method : str
        The parameter of interest; ``refit``, ``auxdata`` or ``covariance``.
    value, uncertainty : float
        Of the parameter of interest.
    names : tuple of str
        Parameters that were free to move, but for the parameter of interest; by ``auxdata`` the constrained ones (the
        parameter of interest among them, if it has an auxiliary measurement).
    bestfit, sigma : ndarray, shape (K,)
        Their best fit and post-fit uncertainty, 0 for a parameter that ended on a bound.
    pull, constraint : ndarray, shape (K,)
        (best fit - centre of the constraint) / its width, and post-fit uncertainty / width; NaN for free parameters.
    up, down : ndarray, shape (K,)
        Signed shift of the parameter of interest for the nuisance held at its best fit plus and minus its post-fit
        uncertainty; by ``auxdata`` for its auxiliary datum plus and minus one standard deviation. NaN where a refit
        failed; cut, and said to be not valid, where the parameter of interest ended on a bound.
    prefit_up, prefit_down : ndarray, shape (K,)
        For the nuisance held at its best fit plus and minus the width of its constraint; NaN for free parameters, where
        a refit failed, and by ``auxdata``.
    refits_valid : tuple of bool
        Whether all refits of a parameter are valid.
    messages : tuple of str
        What is wrong with them, if anything.
    valid : bool
        The fit and all refits are valid.
    message : str
        What is wrong if not.
    """

    kind: ClassVar[str] = "ranking"

    poi: str
    method: str
    value: float
    uncertainty: float
    names: tuple[str, ...]
    bestfit: Floats
    sigma: Floats
    pull: Floats
    constraint: Floats
    up: Floats
    down: Floats
    prefit_up: Floats
    prefit_down: Floats
    refits_valid: tuple[bool, ...]
    messages: tuple[str, ...]
    valid: bool
    message: str

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of the parameter ``name`` in the ranking."""
        if name not in self.names:
            raise UnknownName(f"{name!r} is not in this ranking; {did_you_mean(name, self.names, 'parameters')}")
        return self.names.index(name)

    @property
    def largest(self) -> Floats:
        """The larger of |up| and |down|, shape (K,): what the parameters are ordered by; NaN if both are."""
        return np.asarray(np.fmax(np.abs(self.up), np.abs(self.down)))

    def page(self, number: int, size: int) -> "RankingResult":
        """Some parameters: page ``number``, from 1, of ``size`` parameters each.

        Raises
        ------
        InvalidData
            No such page.
        """
        pages = max(-(-len(self) // size), 1) if size > 0 else 0
        if not 1 <= number <= pages:
            raise InvalidData(f"no page {number} of {size} parameters each: the ranking of {len(self)} has {pages}")
        return self._taken(range((number - 1) * size, min(number * size, len(self))))

    def _taken(self, rows: Sequence[int]) -> "RankingResult":
        arrays: dict[str, Any] = {name: getattr(self, name)[list(rows)] for name in _ARRAYS}
        tuples: dict[str, Any] = {name: tuple(getattr(self, name)[r] for r in rows) for name in _TUPLES}
        return replace(self, **arrays, **tuples)

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        numbers = {name: _number(values[name]) for name in ("value", "uncertainty")}
        arrays = {name: _array(values[name]) for name in _ARRAYS}
        return values | numbers | arrays | {name: tuple(values[name]) for name in _TUPLES}


_ARRAYS = ("bestfit", "sigma", "pull", "constraint", "up", "down", "prefit_up", "prefit_down")
_TUPLES = ("names", "refits_valid", "messages")


def ranking(
    model: Any,
    data: ArrayLike,
    poi: str | None = None,
    *,
    method: Literal["refit", "auxdata", "covariance"] = "refit",
    fit: FitResult | None = None,
    executor: Any = None,
) -> RankingResult:
    """What each nuisance does to the parameter of interest.

    Parameters
    ----------
    model : Model or pyhf.Model
    data : array_like
        Flat data vector, observed or Asimov.
    poi : str, optional
        Any parameter; the model's parameter of interest by default.
    method : {"refit", "auxdata", "covariance"}
        See `nuratio.infer.impacts.ranking`.
    fit : FitResult, optional
        Of this model to these data, with its covariance; parameters that it held stay held. Made here by default.
    executor : optional
        Runs the refits: a `concurrent.futures.Executor`, or one of Dask. In this process by default.

    Returns
    -------
    RankingResult
        A refit that failed is reported there, not raised.

    Raises
    ------
    InvalidData
        A fit that is not of these data, that has no covariance, or in which the parameter of interest was held or ended
        on a bound.
    InvalidModel
        No such method; no parameter of interest.
    UnknownName
        No such parameter.
    """
    if method not in METHODS:
        raise InvalidModel(f"no method {method!r} of ranking; {did_you_mean(method, METHODS, 'methods')}")
    refits = Refits.around(model, data, poi, fit)
    best, entries = refits.fit, METHODS[method](refits, executor)
    rows = [best.index(entry.name) for entry in entries]
    width = np.where(best.constraint_width[rows] > 0, best.constraint_width[rows], np.nan)
    failed = [entry.name for entry in entries if entry.message]
    notes = [best.message] if best.message else []
    if failed:
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        notes.append(f"not all refits are valid for {', '.join(failed[:5])}{more}: see their messages")
    shifts = np.array([entry.shifts for entry in entries]).reshape(-1, 4).T
    result = RankingResult(
        poi=refits.poi,
        method=method,
        value=float(best.bestfit[refits.k]),
        uncertainty=float(best.uncertainty[refits.k]),
        names=tuple(entry.name for entry in entries),
        bestfit=best.bestfit[rows],
        sigma=best.uncertainty[rows],
        pull=(best.bestfit[rows] - best.constraint_center[rows]) / width,
        constraint=best.uncertainty[rows] / width,
        up=shifts[0],
        down=shifts[1],
        prefit_up=shifts[2],
        prefit_down=shifts[3],
        refits_valid=tuple(not entry.message for entry in entries),
        messages=tuple(entry.message for entry in entries),
        valid=best.valid and not failed,
        message="; ".join(notes),
    )
    return result._taken(np.argsort(-np.nan_to_num(result.largest, nan=-1.0), kind="stable").tolist())


@dataclass(frozen=True)
class Entry:
    """A parameter's shifts of the POI: up, down, pre-fit up, pre-fit down; NaN where there is none."""

    name: str
    shifts: tuple[float, float, float, float]
    message: str = ""

    @classmethod
    def of(cls, name: str, found: Sequence[tuple[str, Shift]]) -> "Entry":
        """From the refits, each with what was done, as far as there were any of the four."""
        shifts = [shift for _, (shift, _) in found] + [float("nan")] * (4 - len(found))
        failed = [f"{how}: {why}" for how, (_, why) in found if why]
        return cls(name, (shifts[0], shifts[1], shifts[2], shifts[3]), "; ".join(failed))


def _others(refits: Refits) -> list[int]:
    """Parameters that were free to move, but for the parameter of interest."""
    return [j for j, fixed in enumerate(refits.fit.fixed) if not fixed and j != refits.k]


def _by_refits(refits: Refits, executor: Any) -> list[Entry]:
    fit, tasks = refits.fit, []
    for j in _others(refits):
        steps = {"post-fit": float(fit.uncertainty[j])}
        if fit.constraint_width[j] > 0:
            steps["pre-fit"] = float(fit.constraint_width[j])
        ends = {f"{which} {way}": side * step for which, step in steps.items() for way, side in _SIDES}
        tasks.append((fit.names[j], {how: float(fit.bestfit[j]) + offset for how, offset in ends.items()}))
    found = answers(_held, refits, tasks, executor)
    return [
        Entry.of(
            name,
            [(f"{how}, held at {value:.6g}", shift) for (how, value), shift in zip(ends.items(), shifts, strict=True)],
        )
        for (name, ends), shifts in zip(tasks, found, strict=True)
    ]


def _held(refits: Refits, task: tuple[str, dict[str, float]]) -> list[Shift]:
    return refits.held(task[0], list(task[1].values()))


def by_auxdata(refits: Refits, executor: Any) -> list[Entry]:
    """Every auxiliary measurement of a free parameter changed by plus and minus one standard deviation."""
    measured, fit = refits.auxiliary, refits.fit
    rows = [a for a, j in enumerate(measured.parameter) if not fit.fixed[j]]
    tasks = [
        (int(measured.position[a]), float(measured.value[a] + side * measured.sigma[a]), bool(measured.poisson[a]))
        for a in rows
        for _, side in _SIDES
    ]
    found = answers(_with_auxdata, refits, tasks, executor)
    entries = []
    for n, a in enumerate(rows):
        pair = slice(2 * n, 2 * n + 2)
        done = [
            f"{way}, auxiliary datum {value:.6g}" for (way, _), (_, value, _) in zip(_SIDES, tasks[pair], strict=True)
        ]
        entries.append(Entry.of(fit.names[measured.parameter[a]], list(zip(done, found[pair], strict=True))))
    return entries


def _with_auxdata(refits: Refits, task: tuple[int, float, bool]) -> Shift:
    position, value, count = task
    if count and value < 0:
        return float("nan"), "a count cannot be negative"
    return refits.with_auxdata(position, value)


def _by_covariance(refits: Refits, executor: Any) -> list[Entry]:
    fit, entries = refits.fit, []
    for j in _others(refits):
        sigma, width = float(fit.uncertainty[j]), float(fit.constraint_width[j])
        slope = float(fit.covariance[refits.k, j]) / sigma**2 if sigma > 0 else 0.0
        up, prefit = slope * sigma, slope * width
        entries.append(Entry(fit.names[j], (up, -up, prefit, -prefit)))
    return entries


_SIDES = (("up", 1.0), ("down", -1.0))

METHODS: dict[str, Callable[[Refits, Any], list[Entry]]] = {
    "refit": _by_refits,
    "auxdata": by_auxdata,
    "covariance": _by_covariance,
}
