"""Hypothesis tests and limits with p-values counted in toys, where the asymptotic formulas of `hypotest` do not hold.

`toy_hypotest` tests one value of the POI, `toy_limit` finds the CLs upper limit on a grid of values, `toy_significance`
is for discovery. Toys of a hypothesis are drawn at the conditional best fit of the nuisances to the data.

A statistic of zero (best fit above the tested value) says nothing against the hypothesis: the p-value counted in toys
is then 1, where the asymptotic formulas say about one half.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from nuratio.errors import InvalidModel
from nuratio.infer.fitting.fit import Fitter, own_model, require_poi
from nuratio.infer.hypotheses.limits import require_level, upper_limit
from nuratio.infer.hypotheses.test_statistics import Profile
from nuratio.infer.results import _number, _Result
from nuratio.infer.toys.file import file_in
from nuratio.infer.toys.result import ToyResult, share_reaching
from nuratio.infer.toys.toys import toys

__all__ = [
    "ToyHypotestResult",
    "ToyLimitResult",
    "ToySignificanceResult",
    "toy_hypotest",
    "toy_limit",
    "toy_significance",
]

Floats = NDArray[np.float64]

_SIGMAS = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class ToyHypotestResult(_Result):
    """A test of one POI value, p-values counted in toys.

    Attributes
    ----------
    poi, poi_value : str, float
    test_stat : str
        ``qtilde`` or ``q``.
    statistic : float
        Observed.
    CLs, CLsb, CLb : float
        CLsb and CLb: shares of toys of the tested and of the background-only hypothesis with a statistic at least as
        large; CLs: their ratio.
    CLs_error, CLsb_error, CLb_error : float
        Binomial.
    CLs_expected, CLs_expected_error : tuple of 5 float
        With the background alone, at -2, -1, 0, 1, 2 sigma of the statistic, in the order of `HypotestResult`.
    toys : tuple of int
        Valid toys of the tested and of the background-only hypothesis.
    valid : bool
        The fits to the data are, and no more than one in a hundred toys failed.
    message : str
        What is wrong; failed toys are left out of the counts and told here.
    """

    kind: ClassVar[str] = "toy_hypotest"

    poi: str
    poi_value: float
    test_stat: str
    statistic: float
    CLs: float
    CLs_error: float
    CLsb: float
    CLsb_error: float
    CLb: float
    CLb_error: float
    CLs_expected: tuple[float, ...]
    CLs_expected_error: tuple[float, ...]
    toys: tuple[int, int]
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in ("CLs_expected", "CLs_expected_error"):
            values[key] = tuple(_number(v) for v in values[key])
        for key in ("poi_value", "statistic", "CLs", "CLs_error", "CLsb", "CLsb_error", "CLb", "CLb_error"):
            values[key] = _number(values[key])
        return values | {"toys": tuple(values["toys"])}


@dataclass(frozen=True)
class ToySignificanceResult(_Result):
    """Discovery significance with p0 counted in toys of the background-only hypothesis.

    Attributes
    ----------
    poi : str
    statistic : float
        q0 of the data.
    p0, p0_error : float
        With its binomial error.
    significance : float
        Of p0; where no toy reaches the data, that of one toy doing so: a lower limit, and ``message`` says so.
    asymptotic_significance : float
        The square root of q0.
    toys : int
        Valid ones.
    valid : bool
    message : str
    """

    kind: ClassVar[str] = "toy_significance"

    poi: str
    statistic: float
    p0: float
    p0_error: float
    significance: float
    asymptotic_significance: float
    toys: int
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        floats = ("statistic", "p0", "p0_error", "significance", "asymptotic_significance")
        return values | {k: _number(values[k]) for k in floats}


@dataclass(frozen=True)
class ToyLimitResult(_Result):
    """CLs upper limit with p-values counted in toys.

    Attributes
    ----------
    poi, test_stat : str
    level : float
        1 - confidence level.
    observed, observed_error : float
        Limit, and its error from the number of toys.
    expected, expected_error : tuple of 5 float
        At -2, -1, 0, 1, 2 sigma, background only; NaN for one of the outer four that is not within the tested values,
        as when toys are few.
    scan : tuple of ToyHypotestResult
        The tested values, in increasing order.
    valid : bool
    message : str
    """

    kind: ClassVar[str] = "toy_limit"

    poi: str
    test_stat: str
    level: float
    observed: float
    observed_error: float
    expected: tuple[float, ...]
    expected_error: tuple[float, ...]
    scan: tuple[ToyHypotestResult, ...] = field(repr=False)
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in ("observed", "observed_error", "level"):
            values[key] = _number(values[key])
        for key in ("expected", "expected_error"):
            values[key] = tuple(_number(v) for v in values[key])
        return values | {"scan": tuple(ToyHypotestResult.from_dict(v) for v in values["scan"])}


def toy_hypotest(
    model: Any, data: ArrayLike, poi_value: float, *, test_stat: str = "qtilde", **options: Any
) -> ToyHypotestResult:
    """Test one value of the POI with toys of both hypotheses.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    poi_value : float
    test_stat : str
        ``qtilde`` or ``q``.
    **options
        Those of `toy_limit` but for its ``level`` and ``values``.

    Raises
    ------
    InvalidModel
        No POI, another test statistic, a value outside the bounds; no toy is left to count.
    """
    return _tests(model, data, [float(poi_value)], test_stat=test_stat, **options)[0]


def toy_limit(
    model: Any,
    data: ArrayLike,
    *,
    values: Sequence[float] | None = None,
    level: float = 0.05,
    test_stat: str = "qtilde",
    n: int = 1000,
    n_background: int | None = None,
    seed: int = 1,
    nuisances: str = "fixed",
    executor: Executor | None = None,
    output: str | Path | None = None,
    progress: bool | None = None,
) -> ToyLimitResult:
    """CLs upper limit: on a grid of POI values, toys at each; between two values ln CLs is interpolated.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    values : sequence of float, optional
        Tested values; by default nine that cover the asymptotic limits.
    level : float
        1 - confidence level.
    test_stat : str
        ``qtilde`` or ``q``.
    n, n_background : int
        Toys at each value, and of the background alone, which serve for all values (by default as many as ``n``).
    seed : int
    nuisances : str
        See `toys`.
    executor : concurrent.futures.Executor, optional
        See `toys`.
    output : str or Path, optional
        Folder in which the toys are kept, a file for each hypothesis; a run that was killed goes on from there.
    progress : bool, optional

    Raises
    ------
    InvalidModel
        No POI; CLs (observed or the median expected) is above or below the level at all values; a level outside (0, 1).
    """
    require_level(level)
    model = own_model(model)
    if values is None:
        guess = upper_limit(model, data, level=level, test_stat=test_stat, points=2, asymptotics="force")
        low, high = 0.6 * min(guess.observed, *guess.expected), 1.3 * max(guess.observed, *guess.expected)
        bound = model.config.suggested_bounds()[model.config.poi_index][1]
        values = np.linspace(low, min(high, bound), 9).tolist()
    scan = _tests(
        model,
        data,
        sorted(float(v) for v in values),
        test_stat=test_stat,
        n=n,
        n_background=n_background,
        seed=seed,
        nuisances=nuisances,
        executor=executor,
        output=output,
        progress=progress,
    )
    limits, notes = [], []
    for which in range(6):
        try:
            limits.append(_crossing(scan, level, which))
        except InvalidModel as error:
            if which in (0, 3):  # observed, median
                raise
            limits.append((float("nan"), float("nan")))
            notes.append(str(error))
    problems = [r.message for r in scan if not r.valid]
    told = problems or [r.message for r in scan if r.message]
    return ToyLimitResult(
        poi=scan[0].poi,
        test_stat=test_stat,
        level=level,
        observed=limits[0][0],
        observed_error=limits[0][1],
        expected=tuple(v for v, _ in limits[1:]),
        expected_error=tuple(e for _, e in limits[1:]),
        scan=tuple(scan),
        valid=not problems,
        message="; ".join([*told[:1], *notes]),
    )


def toy_significance(
    model: Any,
    data: ArrayLike,
    *,
    n: int = 1000,
    seed: int = 1,
    nuisances: str = "fixed",
    executor: Executor | None = None,
    output: str | Path | None = None,
    progress: bool | None = None,
) -> ToySignificanceResult:
    """Discovery significance, p0 counted in toys without signal; parameters as for `toys`.

    Raises
    ------
    InvalidModel
        No POI, or 0 is outside its bounds; no toy is left to count.
    """
    model = own_model(model)
    poi = require_poi(model)
    observed = Profile(Fitter(model, data), poi)
    statistic = observed.statistic(0.0, "q0")
    drawn = toys(
        model,
        observed.at(0.0).theta,
        n,
        data=data,
        tests=[("q0", 0.0)],
        seed=seed,
        nuisances=nuisances,
        executor=executor,
        output=output,
        progress=progress,
    )
    p0, error = drawn.p_value("q0", 0.0, statistic)
    count = int(drawn.good.sum())
    problems = [f"data: {line}" for line in observed.wrong]
    notes = [drawn.message] if drawn.message else []
    if p0 == 0:
        notes.append(f"no toy of {count} reaches the data: the significance is a lower limit, that of one toy")
    return ToySignificanceResult(
        poi=poi,
        statistic=statistic,
        p0=p0,
        p0_error=error,
        significance=float(norm.isf(p0 if p0 > 0 else 1 / count)),
        asymptotic_significance=float(np.sqrt(statistic)),
        toys=count,
        valid=not problems and drawn.valid,
        message="; ".join([*problems, *notes]),
    )


def _tests(
    model: Any,
    data: ArrayLike,
    values: Sequence[float],
    *,
    test_stat: str,
    n: int = 1000,
    n_background: int | None = None,
    seed: int = 1,
    nuisances: str = "fixed",
    executor: Executor | None = None,
    output: str | Path | None = None,
    progress: bool | None = None,
) -> list[ToyHypotestResult]:
    if test_stat not in ("qtilde", "q"):
        raise InvalidModel(f"CLs needs the test statistic 'qtilde' or 'q', not {test_stat!r}")
    model = own_model(model)
    poi = require_poi(model)
    observed = Profile(Fitter(model, data), poi)
    observed.prepare([0.0, *values])
    common: dict[str, Any] = {"data": data, "nuisances": nuisances, "executor": executor, "progress": progress}

    def draw(value: float, count: int, tested: Sequence[float], stream: int) -> ToyResult:
        tests = [(test_stat, v) for v in tested]
        path = file_in(output, {poi: value} if stream else "background")
        return toys(model, observed.at(value).theta, count, tests=tests, seed=[seed, stream], output=path, **common)

    background = draw(0.0, n if n_background is None else n_background, values, 0)
    found = []
    for number, value in enumerate(values):
        signal = draw(value, n, [value], number + 1)
        statistic = observed.statistic(value, test_stat)
        found.append(_result(poi, value, test_stat, statistic, signal, background, observed.wrong))
    return found


def _result(
    poi: str,
    value: float,
    test_stat: str,
    statistic: float,
    signal: ToyResult,
    background: ToyResult,
    wrong: Sequence[str],
) -> ToyHypotestResult:
    q_signal, q_background = signal.statistic(test_stat, value), background.statistic(test_stat, value)
    observed = _cls(q_signal, q_background, statistic)
    expected = [_cls(q_signal, q_background, _quantile(q_background, float(norm.cdf(s)))) for s in _SIGMAS]
    problems = [f"data: {line}" for line in wrong]
    notes = [t.message for t in (signal, background) if t.message]
    return ToyHypotestResult(
        poi=poi,
        poi_value=value,
        test_stat=test_stat,
        statistic=float(statistic),
        CLs=observed[0],
        CLs_error=observed[1],
        CLsb=observed[2],
        CLsb_error=observed[3],
        CLb=observed[4],
        CLb_error=observed[5],
        CLs_expected=tuple(e[0] for e in expected),
        CLs_expected_error=tuple(e[1] for e in expected),
        toys=(len(q_signal), len(q_background)),
        valid=not problems and signal.valid and background.valid,
        message="; ".join([*problems, *notes]),
    )


def _quantile(q: Floats, p: float) -> float:
    """The value that a share p of the toys reaches or exceeds."""
    return float(np.quantile(q, 1 - p, method="inverted_cdf"))


def _cls(signal: Floats, background: Floats, q: float) -> tuple[float, float, float, float, float, float]:
    """CLs, CLsb and CLb at a value of the statistic, each with its error."""
    sb, sb_error = share_reaching(signal, q)
    b, b_error = share_reaching(background, q)
    if b == 0:
        return float("nan"), float("nan"), sb, sb_error, b, b_error
    return sb / b, float(np.hypot(sb_error / b, sb * b_error / b**2)), sb, sb_error, b, b_error


def _crossing(scan: Sequence[ToyHypotestResult], level: float, which: int) -> tuple[float, float]:
    """Where CLs (0: observed, 1 to 5: expected) falls through the level, ln CLs interpolated; and its error."""
    values = np.array([r.poi_value for r in scan])
    cls = np.array([(r.CLs, *r.CLs_expected)[which] for r in scan])
    errors = np.array([(r.CLs_error, *r.CLs_expected_error)[which] for r in scan])
    name = "observed" if which == 0 else f"expected at {_SIGMAS[which - 1]:+d} sigma"
    above = np.flatnonzero(cls > level)
    if not len(above) or above[-1] == len(values) - 1:
        side = "below" if not len(above) else "above"
        raise InvalidModel(
            f"CLs ({name}) is {side} {level:g} at all tested values from {values[0]:.4g} to {values[-1]:.4g}; "
            f"test {'smaller' if side == 'below' else 'larger'} ones, or make more toys"
        )
    i = above[-1]
    floor = 0.5 / min(min(r.toys) for r in scan)  # of a CLs that no toy of the tested hypothesis reached
    a, b = np.log(max(cls[i], floor)), np.log(max(cls[i + 1], floor))
    t = (a - np.log(level)) / (a - b)
    slope = (b - a) / (values[i + 1] - values[i])
    error = np.hypot((1 - t) * errors[i], t * errors[i + 1]) / level
    return float(values[i] + t * (values[i + 1] - values[i])), float(error / abs(slope))
