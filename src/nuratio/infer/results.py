"""What inference returns: one frozen type per question, with names, values, validity and JSON both ways.

Plots and the command line take these and nothing else. Every type has ``to_json()`` and ``from_json(text)``;
`load_result` reads any of them by its ``kind``.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidData, UnknownName, did_you_mean

__all__ = [
    "Estimate",
    "FitResult",
    "GoodnessOfFit",
    "HypotestResult",
    "LimitResult",
    "Projection",
    "ScanResult",
    "SignificanceResult",
    "load_result",
    "result_of",
]

Floats = NDArray[np.float64]


class _Result:
    """JSON both ways for the frozen dataclasses below; arrays become lists, NaN becomes null."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, with ``kind`` first."""
        return {"kind": self.kind} | {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    def to_json(self, indent: int | None = 1) -> str:
        """The result as JSON text (no NaN: undefined numbers are null)."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if values.get("kind") != cls.kind or set(values) - {"kind"} != known:
            missing = sorted(known - set(values))
            surplus = sorted(set(values) - known - {"kind"})
            raise InvalidData(
                f"not a {cls.kind} result: kind {values.get('kind')!r}, missing {missing}, extra {surplus}"
            )
        return cls(**cls._parse({k: v for k, v in values.items() if k != "kind"}))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values


def _plain(value: Any) -> Any:
    match value:
        case _Result():
            return value.to_dict()
        case np.ndarray() | tuple() | list():
            return [_plain(v) for v in value]
        case dict():
            return {k: _plain(v) for k, v in value.items()}
        case bool() | np.bool_():
            return bool(value)
        case float() | np.floating():
            return float(value) if np.isfinite(value) else None
        case np.integer():
            return int(value)
        case _:
            return value


def _array(values: Any) -> Floats:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class Estimate:
    """One fitted parameter: value, symmetric uncertainty and, where MINOS was asked for, its interval.

    ``lower`` and ``upper`` are the ends of the interval (not offsets); NaN without MINOS. ``simulation`` is the error
    from the statistics of the simulation, which ``uncertainty`` does not contain; NaN where it is unknown.
    """

    name: str
    value: float
    uncertainty: float
    lower: float = float("nan")
    upper: float = float("nan")
    simulation: float = float("nan")

    @property
    def total(self) -> float:
        """Both errors added in quadrature; NaN where one is unknown."""
        return math.hypot(self.uncertainty, self.simulation)

    def __str__(self) -> str:
        """``mu 1.02 +- 0.54 (data) +- 0.31 (simulation), 0.62 in total``, as far as it is known."""
        text = f"{self.name} {self.value:.4g} +- {self.uncertainty:.2g}"
        if math.isnan(self.simulation):
            return text
        return f"{text} (data) +- {self.simulation:.2g} (simulation), {self.total:.2g} in total"

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True, eq=False)
class FitResult(_Result):
    """A maximum-likelihood fit.

    Attributes
    ----------
    names : tuple of str
        Parameter names in the model's order (P of them).
    bestfit, uncertainty : ndarray, shape (P,)
        Best-fit values and symmetric uncertainties (square roots of the covariance's diagonal; 0 for fixed
        parameters, NaN where HESSE was not asked for).
    covariance : ndarray, shape (P, P)
        Inverse Hessian of -ln L; rows of fixed parameters are 0, and, where it would not be positive definite, those of
        parameters at a bound or (the message says so) at a kink; all NaN without HESSE.
    twice_nll : float
        -2 ln L at the best fit.
    valid : bool
        Converged, covariance (if asked for) positive definite, no event with a non-positive density.
    message : str
        Why the fit is not valid; what was done if a fallback was needed; empty otherwise.
    edm : float
        Estimated vertical distance to the minimum, in units of -2 ln L.
    fixed, at_bound : tuple of bool
        Parameters held constant; parameters that ended on a bound.
    minos : dict
        Name -> (lower, upper): the ends of the interval where -2 ln L rises by 1, the others profiled.
    nonpositive_events : int
        Observed events where the total density is not positive at the best fit.
    constraint_center, constraint_width : ndarray, shape (P,)
        Where the auxiliary measurement puts each constrained parameter and its width; NaN for free ones.
    steps : tuple of str
        What the minimisation did, in order: ``("Newton: 6 steps, edm 3e-13", "MIGRAD: agrees, 4 calls")``.
    calls : dict
        Calls of the likelihood: ``value``, ``gradient`` (with the value), ``hessian`` (with both).
    simulation : ndarray, shape (P,)
        Standard deviations of the best-fit values from the statistics of the simulation, which ``uncertainty`` does not
        contain (`nuratio.infer.impacts.influence`); 0 for fixed parameters. NaN where unknown: without HESSE, without
        unbinned channels, and where a sample does not say what simulation is behind it. Missing in results of older
        versions: NaN, too.
    """

    kind: ClassVar[str] = "fit"

    names: tuple[str, ...]
    bestfit: Floats
    uncertainty: Floats
    covariance: Floats
    twice_nll: float
    valid: bool
    message: str
    edm: float
    fixed: tuple[bool, ...]
    at_bound: tuple[bool, ...]
    minos: dict[str, tuple[float, float]]
    nonpositive_events: int
    constraint_center: Floats
    constraint_width: Floats
    steps: tuple[str, ...] = ()
    calls: dict[str, int] = field(default_factory=dict)
    simulation: Floats = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if not len(self.simulation):
            object.__setattr__(self, "simulation", np.full(len(self.names), np.nan))

    def __getitem__(self, name: str) -> Estimate:
        k = self.index(name)
        lower, upper = self.minos.get(name, (float("nan"), float("nan")))
        simulation = float(self.simulation[k])
        return Estimate(name, float(self.bestfit[k]), float(self.uncertainty[k]), lower, upper, simulation)

    def __iter__(self) -> Iterator[Estimate]:
        return (self[name] for name in self.names)

    def index(self, name: str) -> int:
        """Position of the parameter ``name``."""
        if name not in self.names:
            raise UnknownName(f"no parameter {name!r} in this fit; {did_you_mean(name, self.names, 'parameters')}")
        return self.names.index(name)

    @property
    def correlation(self) -> Floats:
        """Correlation matrix, shape (P, P); 0 for fixed parameters."""
        sigma = np.where(self.uncertainty > 0, self.uncertainty, np.inf)
        return np.asarray(self.covariance / np.outer(sigma, sigma))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; results of versions that knew nothing of the simulation can be read."""
        return super().from_dict({"simulation": []} | values)

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in ("bestfit", "uncertainty", "constraint_center", "constraint_width", "simulation"):
            values[key] = _array(values[key])
        n = len(values["names"])
        values["covariance"] = np.array([_array(row) for row in values["covariance"]]).reshape(n, n)
        for key in ("names", "fixed", "at_bound", "steps"):
            values[key] = tuple(values[key])
        values["minos"] = {k: (_number(v[0]), _number(v[1])) for k, v in values["minos"].items()}
        values["twice_nll"], values["edm"] = _number(values["twice_nll"]), _number(values["edm"])
        return values


@dataclass(frozen=True, eq=False)
class ScanResult(_Result):
    """A profile-likelihood scan of one parameter.

    Attributes
    ----------
    parameter : str
        The scanned parameter.
    values, delta_twice_nll : ndarray, shape (m,)
        Scan points and 2 Delta NLL with respect to the best fit, all other parameters profiled.
    valid : tuple of bool
        Whether the conditional fit at each point is valid.
    profiled : ndarray, shape (m, P)
        Conditional best-fit values of all parameters at each point.
    bestfit : FitResult
        The unconditional fit.
    """

    kind: ClassVar[str] = "scan"

    parameter: str
    values: Floats
    delta_twice_nll: Floats
    valid: tuple[bool, ...]
    profiled: Floats
    bestfit: FitResult

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["values"], values["delta_twice_nll"] = _array(values["values"]), _array(values["delta_twice_nll"])
        values["profiled"] = np.array([_array(row) for row in values["profiled"]])
        values["valid"] = tuple(values["valid"])
        values["bestfit"] = FitResult.from_dict(values["bestfit"])
        return values


@dataclass(frozen=True)
class HypotestResult(_Result):
    """A test of one POI value (asymptotic formulas of arXiv:1007.1727).

    Attributes
    ----------
    poi, poi_value : str, float
        The parameter of interest and the tested value.
    test_stat : str
        ``qtilde``, ``q`` or ``q0``.
    statistic, asimov_statistic : float
        The test statistic on the data and on the Asimov data of the alternative hypothesis.
    CLs, CLsb, CLb : float
        Observed. For ``q0``, CLsb is the p-value p0 of the background-only hypothesis.
    CLs_expected : tuple of 5 float
        Expected CLs (``q0``: expected p0) with the alternative true, at -2, -1, 0, 1, 2 sigma of the statistic, in
        pyhf's order.
    valid : bool
        All fits behind it are valid.
    message : str
        What is wrong if not valid.
    """

    kind: ClassVar[str] = "hypotest"

    poi: str
    poi_value: float
    test_stat: str
    statistic: float
    asimov_statistic: float
    CLs: float
    CLsb: float
    CLb: float
    CLs_expected: tuple[float, ...]
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["CLs_expected"] = tuple(_number(v) for v in values["CLs_expected"])
        for key in ("poi_value", "statistic", "asimov_statistic", "CLs", "CLsb", "CLb"):
            values[key] = _number(values[key])
        return values


@dataclass(frozen=True)
class SignificanceResult(_Result):
    """Discovery significance (q0, arXiv:1007.1727 Eq. 12).

    Attributes
    ----------
    poi : str
        The parameter of interest; its background-only value is 0.
    p0, significance : float
        Observed p-value of the background-only hypothesis and its Gaussian significance.
    expected_p0, expected_significance : float
        On Asimov data at ``expected_at``.
    expected_at : float
        The POI value the expectation assumes.
    valid : bool
        All fits behind it are valid.
    message : str
        What is wrong if not valid.
    """

    kind: ClassVar[str] = "significance"

    poi: str
    p0: float
    significance: float
    expected_p0: float
    expected_significance: float
    expected_at: float
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        floats = ("p0", "significance", "expected_p0", "expected_significance", "expected_at")
        return values | {k: _number(values[k]) for k in floats}


@dataclass(frozen=True)
class LimitResult(_Result):
    """CLs upper limit on the POI.

    Attributes
    ----------
    poi, test_stat : str
        The parameter of interest and the test statistic.
    level : float
        1 - confidence level (0.05 for 95% CL).
    observed : float
        Observed upper limit.
    expected : tuple of 5 float
        Expected limits at -2, -1, 0, 1, 2 sigma, background only.
    scan : tuple of HypotestResult
        All tested values in increasing order, enough of them to draw the band.
    valid : bool
        All fits behind it are valid.
    message : str
        What is wrong if not valid.
    """

    kind: ClassVar[str] = "limit"

    poi: str
    test_stat: str
    level: float
    observed: float
    expected: tuple[float, ...]
    scan: tuple[HypotestResult, ...] = field(repr=False)
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["observed"] = _number(values["observed"])
        values["expected"] = tuple(_number(v) for v in values["expected"])
        values["scan"] = tuple(HypotestResult.from_dict(v) for v in values["scan"])
        return values


@dataclass(frozen=True, eq=False)
class Projection(_Result):
    """A channel's data and fitted samples histogrammed in one feature (or a binned channel as it is).

    Attributes
    ----------
    channel, feature : str
        What is drawn.
    edges : ndarray, shape (b + 1,)
        Bin edges.
    data : ndarray, shape (b,)
        Observed counts.
    samples : dict
        Sample name -> expected counts at the fit, shape (b,); parts split by sign are added up; may be negative.
    total, uncertainty : ndarray, shape (b,)
        Sum of the samples, and its post-fit uncertainty from the covariance of the fit (NaN without HESSE).
    """

    kind: ClassVar[str] = "projection"

    channel: str
    feature: str
    edges: Floats
    data: Floats
    samples: dict[str, Floats]
    total: Floats
    uncertainty: Floats

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["samples"] = {k: _array(v) for k, v in values["samples"].items()}
        return values | {k: _array(values[k]) for k in ("edges", "data", "total", "uncertainty")}


@dataclass(frozen=True, eq=False)
class GoodnessOfFit(_Result):
    """A goodness-of-fit test (`nuratio.goodness_of_fit`).

    Attributes
    ----------
    statistic : float
        The sum of ``channels`` and ``constraints``: -2 ln of the likelihood ratio to the saturated model, or the
        distance.
    channels : dict
        Channel -> the part of its bins: where the misfit is.
    constraints : float
        The part of the constraint terms.
    projections : dict
        Unbinned channel -> ``feature`` and ``edges`` of the bins it was tested in (null for an open end); for a
        distance ``space`` and ``columns``.
    bins, free_parameters : int
        Bins of all channels (0 for a distance), and parameters that are neither fixed nor constrained. The statistic of
        bins is about their difference if the model is right: exactly so for many events and binned channels only.
    p_value, p_value_error : float
        Share of data sets with a statistic at least as large, among the toys and the data, and its binomial standard
        error; NaN without toys.
    asymptotic_p_value : float
        From the chi2 distribution with ``bins - free_parameters`` degrees of freedom; NaN with unbinned channels, or
        without degrees of freedom.
    toys : ndarray, shape (valid toys,)
        Their statistics.
    valid : bool
        The fit and those of all toys are valid.
    message : str
        What is wrong if not valid; toys that are not valid are left out of ``toys``.
    test : str
        Which one. Missing in results of older versions: ``projection``.
    """

    kind: ClassVar[str] = "goodness_of_fit"

    statistic: float
    channels: dict[str, float]
    constraints: float
    projections: dict[str, dict[str, Any]]
    bins: int
    free_parameters: int
    p_value: float
    p_value_error: float
    asymptotic_p_value: float
    toys: Floats
    valid: bool
    message: str
    test: str = "projection"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; results of versions that had one test can be read."""
        return super().from_dict({"test": "projection"} | values)

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        floats = ("statistic", "constraints", "p_value", "p_value_error", "asymptotic_p_value")
        return values | {k: _number(values[k]) for k in floats} | {"toys": _array(values["toys"])}


_HOMES = {  # kind -> where its type is
    "breakdown": "impacts.breakdown.BreakdownResult",
    "compare": "binned.compare.CompareResult",
    "compared_analysis": "binned.compare.ComparedAnalysis",
    "contour": "profiles.contour.ContourResult",
    "coverage": "toys.coverage.CoverageResult",
    "coverage_point": "toys.coverage.CoveragePoint",
    "fit": "results.FitResult",
    "global_significance": "hypotheses.look_elsewhere.GlobalSignificance",
    "goodness_of_fit": "results.GoodnessOfFit",
    "hypotest": "results.HypotestResult",
    "impacts": "impacts.impacts.Impacts",
    "injection": "toys.injection.InjectionResult",
    "interval": "profiles.intervals.IntervalResult",
    "limit": "results.LimitResult",
    "neyman": "toys.neyman.NeymanResult",
    "projection": "results.Projection",
    "ranking": "impacts.ranking.RankingResult",
    "report": "report.StatisticalReport",
    "scan": "results.ScanResult",
    "significance": "results.SignificanceResult",
    "significance_scan": "hypotheses.look_elsewhere.SignificanceScan",
    "toy_hypotest": "toys.p_values.ToyHypotestResult",
    "toy_limit": "toys.p_values.ToyLimitResult",
    "toy_significance": "toys.p_values.ToySignificanceResult",
    "toys": "toys.result.ToyResult",
    "yields": "report.Yields",
}


def load_result(source: str | Path) -> Any:
    """Read any result from JSON text or from a JSON file.

    Raises
    ------
    InvalidData
        Not JSON, or of a kind nuratio does not know.
    """
    text = source.read_text() if isinstance(source, Path) else source
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidData(f"not a result: {error}") from error
    return result_of(values)


def result_of(values: Any) -> Any:
    """A result of any kind from its ``to_dict()``.

    Raises
    ------
    InvalidData
        Of a kind nuratio does not know.
    """
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind not in _HOMES:
        raise InvalidData(f"result of unknown kind {kind!r}; {did_you_mean(str(kind), _HOMES, 'kinds')}")
    module, name = _HOMES[kind].rsplit(".", 1)
    return getattr(import_module(f"nuratio.infer.{module}"), name).from_dict(values)
