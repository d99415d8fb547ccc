"""What the unbinned fit gains over the best binned one, from the same events and networks.

`compare` bins each unbinned channel in the observable that says most about the parameter of interest
(`nuratio.infer.binned.discriminant`), in one bin (a counting experiment), in bins of equal probability, and in the best
bins there are (`nuratio.infer.binned.binning`), and makes ordinary binned workspaces of them
(`nuratio.infer.binned.binned_twin`). All analyses get the same Asimov data, and the same toys: data sets are drawn from
the unbinned model, and their events are binned.

For Asimov data the unbinned uncertainty is never larger than a binned one: the score of a bin is the mean of the scores
of its events, so that the information lost is their variance in the bins. What comes out the other way shows how
far the histosys of the twin are from the shapes of the model.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import FitFailed, InvalidModel, NuratioError, UnknownName, did_you_mean
from nuratio.infer.binned.binned_twin import EventTemplates, Measure, twin_workspace
from nuratio.infer.binned.binning import MEASURES, FineBins, Starts, merged, optimal_bins, quantile_edges
from nuratio.infer.binned.discriminant import discriminant
from nuratio.infer.binned.histogram import EventBins
from nuratio.infer.fitting.fit import fit, point, require_poi
from nuratio.infer.hypotheses.hypotest import significance
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.infer.results import _array, _number, _Result
from nuratio.infer.toys.stream import toy_stream
from nuratio.parallel.tasks import run_tasks
from nuratio.workspace.workspace import Workspace

__all__ = ["CompareResult", "ComparedAnalysis", "ToySpread", "compare"]

Floats = NDArray[np.float64]

_FINE = 400  # fine bins of a channel
_EVENTS_PER_BIN = 20  # of the pool, at least, in a fine bin
_FAILED = 0.01  # share of toys whose failure is reported as one of the comparison


@dataclass(frozen=True, eq=False)
class ComparedAnalysis(_Result):
    """One of the analyses that are compared.

    Attributes
    ----------
    name : str
        ``counting``, ``quantile``, ``optimised`` or ``unbinned``.
    bins : int
        Bins asked for in each unbinned channel; 0 if it is not binned.
    edges : dict
        Unbinned channel -> inner edges of its bins.
    uncertainty : float
        Expected uncertainty of the POI.
    limit, significance : float
        Expected (median) upper limit without signal, and expected discovery significance; NaN where they are not
        defined (a POI that cannot be 0) or not asked for.
    estimates, uncertainties : ndarray, shape (toys,)
        Of the POI; NaN where the fit failed.
    valid : bool
        All fits of expected data are.
    message : str
        What is wrong, if anything.
    """

    kind: ClassVar[str] = "compared_analysis"

    name: str
    bins: int
    edges: dict[str, Floats]
    uncertainty: float
    limit: float
    significance: float
    estimates: Floats
    uncertainties: Floats
    valid: bool
    message: str

    @property
    def title(self) -> str:
        """Name and number of bins, as in ``optimised, 10 bins``."""
        return f"{self.name}, {self.bins} bins" if self.bins > 1 else self.name

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        floats = ("uncertainty", "limit", "significance")
        arrays = {k: _array(values[k]) for k in ("estimates", "uncertainties")}
        edges = {name: _array(inner) for name, inner in values["edges"].items()}
        return values | {k: _number(values[k]) for k in floats} | arrays | {"edges": edges}


@dataclass(frozen=True)
class ToySpread:
    """Best-fit values of an analysis in toys, beside those of the unbinned fit to the same toys.

    Attributes
    ----------
    toys : int
        In which both fits are valid.
    mean, mean_error : float
        Of the best-fit values.
    spread, spread_error : float
        Their standard deviation.
    correlation : float
        With those of the unbinned fit.
    efficiency, efficiency_error : float
        Variance of the unbinned fit over that of this one; its error knows that the toys are the same.
    """

    toys: int
    mean: float
    mean_error: float
    spread: float
    spread_error: float
    correlation: float
    efficiency: float
    efficiency_error: float


@dataclass(frozen=True, eq=False)
class CompareResult(_Result):
    """Binned analyses beside the unbinned one (`nuratio.compare`).

    Attributes
    ----------
    poi : str
    at : dict
        Parameter -> value, for all of them: where expected data and toys are made, and where scores are taken.
    observable : str
        What is binned in.
    measure : str
        What the quantile bins have equal shares of.
    staterror : bool
        Whether the binned analyses have the statistics of the pool as nuisances.
    seed : int
        Of the toys.
    analyses : tuple of ComparedAnalysis
        Counting first, the unbinned one last.
    failures : dict
        Number of a toy, as text -> what went wrong.
    valid : bool
        Fits of expected data are, and no more than one toy in a hundred has failed.
    message : str
        What is wrong if not.
    """

    kind: ClassVar[str] = "compare"

    poi: str
    at: dict[str, float]
    observable: str
    measure: str
    staterror: bool
    seed: int
    analyses: tuple[ComparedAnalysis, ...]
    failures: dict[str, str]
    valid: bool
    message: str

    @property
    def unbinned(self) -> ComparedAnalysis:
        """The analysis without bins."""
        return self.analyses[-1]

    def analysis(self, name: str, bins: int | None = None) -> ComparedAnalysis:
        """One of them, by its name and, where there are several, its number of bins.

        Raises
        ------
        UnknownName
            There is none.
        """
        for a in self.analyses:
            if a.name == name and bins in (None, a.bins):
                return a
        wanted = name if bins is None else f"{name}, {bins} bins"
        titles = [a.title for a in self.analyses]
        raise UnknownName(f"no analysis {wanted!r} here; {did_you_mean(wanted, titles, 'analyses')}")

    def best(self, bins: int | None = None) -> ComparedAnalysis:
        """The binned analysis with the smallest expected uncertainty, among those of at most so many bins."""
        binned = [a for a in self.analyses[:-1] if a.valid and (bins is None or a.bins <= bins)]
        if not binned:
            raise UnknownName(f"no valid binned analysis of at most {bins} bins")
        return min(binned, key=lambda a: a.uncertainty)

    def gain(self, analysis: ComparedAnalysis) -> float:
        """By how much its expected uncertainty is above the unbinned one, in percent."""
        return 100 * (analysis.uncertainty / self.unbinned.uncertainty - 1)

    def limit_gain(self, analysis: ComparedAnalysis) -> float:
        """By how much its expected limit is above the unbinned one, in percent."""
        return 100 * (analysis.limit / self.unbinned.limit - 1)

    def significance_gain(self, analysis: ComparedAnalysis) -> float:
        """By how much the unbinned expected significance is above its own, in percent."""
        return 100 * (self.unbinned.significance / analysis.significance - 1)

    def spread(self, analysis: ComparedAnalysis) -> ToySpread:
        """Toys of an analysis and of the unbinned one.

        The error of the efficiency is that of the ratio of the variances of two normal variables with the correlation
        rho: (1 - rho^2)^(1/2) 2 / (n - 1)^(1/2), relative.

        Raises
        ------
        InvalidModel
            Fewer than three toys with both fits valid.
        """
        both = np.isfinite(analysis.estimates) & np.isfinite(self.unbinned.estimates)
        n, x, y = int(both.sum()), analysis.estimates[both], self.unbinned.estimates[both]
        if n < 3:
            raise InvalidModel(f"{n} toys with valid fits have no spread to compare; draw more (n_toys)")
        a, b = float(x.std(ddof=1)), float(y.std(ddof=1))
        rho = float(np.corrcoef(x, y)[0, 1]) if a * b > 0 else np.nan
        efficiency = b**2 / a**2 if a > 0 else np.nan
        relative = 2 * np.sqrt(max(1 - rho**2, 0.0) / (n - 1))
        return ToySpread(
            toys=n,
            mean=float(x.mean()),
            mean_error=a / np.sqrt(n),
            spread=a,
            spread_error=a / np.sqrt(2 * (n - 1)),
            correlation=rho,
            efficiency=efficiency,
            efficiency_error=float(efficiency * relative),
        )

    def table(self) -> str:
        """The numbers as text, an analysis in each line; gains of the unbinned one in brackets."""
        toys = int(np.isfinite(self.unbinned.estimates).sum()) > 2
        limits = any(np.isfinite([a.limit for a in self.analyses]))
        head = ["", f"sigma({self.poi})", *(("limit", "significance") if limits else ())]
        rows = [head + (["toys: mean", "spread", "efficiency"] if toys else [])]
        for a in self.analyses:
            row = [a.title, f"{a.uncertainty:.4g} ({self.gain(a):+.1f}%)"]
            if limits:
                row += [f"{a.limit:.4g} ({self.limit_gain(a):+.1f}%)"]
                row += [f"{a.significance:.3g} ({self.significance_gain(a):+.1f}%)"]
            if toys:
                s = self.spread(a)
                row += [f"{v:.4g} +- {e:.2g}" for v, e in ((s.mean, s.mean_error), (s.spread, s.spread_error))]
                row += [f"{s.efficiency:.3f} +- {s.efficiency_error:.3f}"]
            rows.append([text.replace("nan (+nan%)", "-").replace("nan", "-") for text in row])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"analyses": tuple(ComparedAnalysis.from_dict(a) for a in values["analyses"])}


def compare(
    workspace: Workspace,
    model: Any = None,
    data: ArrayLike | None = None,
    *,
    measurement: str | None = None,
    bins: Sequence[int] = (2, 5, 10, 20),
    observable: str = "profiled score",
    measure: str = "total",
    at: Mapping[str, float] | None = None,
    staterror: bool = False,
    limits: bool = True,
    n_toys: int = 0,
    seed: int = 1,
    executor: Executor | None = None,
) -> CompareResult:
    """Compare the unbinned analysis of a workspace with binned ones of the same events.

    Parameters
    ----------
    workspace : Workspace
        With at least one unbinned channel.
    model : Model, optional
        Of the workspace, with a POI; made if it is not given.
    data : array_like, optional
        The model's data vector, for the observations of the binned workspaces alone: expected data and toys are made
        from the model. The observed data by default.
    measurement : str, optional
        Of the model, if it is not the first.
    bins : sequence of int
        Numbers of bins in each unbinned channel.
    observable : str
        What to bin in: ``profiled score`` (the best where nuisances matter), ``score``, ``density``, or a stored
        feature; see `nuratio.infer.binned.discriminant`.
    measure : str
        What quantile bins have equal shares of: ``total``, ``background`` (the expectation at a POI of zero), or
        ``information`` (half the expectation, half its information on the POI).
    at : mapping of str to float, optional
        Parameters where expected data and toys are made and scores are taken; the suggested values for those that are
        not given.
    staterror : bool
        Give the binned analyses the statistics of the pool as nuisances; the unbinned one has none.
    limits : bool
        Find expected limits and significances, too.
    n_toys : int
    seed : int
        Toy i draws from ``numpy.random.SeedSequence(seed, spawn_key=(i,))``.
    executor : concurrent.futures.Executor, optional
        Where toys are fitted.

    Returns
    -------
    CompareResult
        Look at ``.valid`` and ``.message``. The workspace of one of its analyses is `nuratio.infer.binned.binned_twin`
        of the analysis' edges.

    Raises
    ------
    InvalidModel
        No unbinned channel, no POI, less than one bin, a channel that has no binned twin.
    UnknownName
        No such parameter, observable or measure.
    FitFailed
        The expected data of the unbinned model cannot be fitted.
    """
    model = workspace.model(measurement) if model is None else model
    poi, pars = require_poi(model), point(model, at)
    if not model.unbinned:
        raise InvalidModel("the model has no unbinned channel, so there is nothing to compare")
    if measure not in MEASURES:
        raise UnknownName(f"no measure {measure!r} of bins; {did_you_mean(measure, MEASURES)}")
    if not bins or min(bins) < 1:
        raise InvalidModel(f"numbers of bins must be at least 1, got {list(bins)}")
    seen = workspace.data(model) if data is None else np.asarray(data, dtype=np.float64)
    channels = {name: _Channel.of(model, name, pars, observable, measure, bins) for name in model.unbinned}
    templates = {name: c.templates for name, c in channels.items()}

    def twin(starts: Mapping[str, Starts], *, staterror: bool) -> Any:
        new = twin_workspace(workspace, model, templates, starts, seen, staterror=staterror)
        return new.model(measurement, poi=model.config.poi_name)

    chosen: list[tuple[str, int, dict[str, Starts]]] = [("counting", 1, dict.fromkeys(channels, ()))]
    counts = sorted(set(bins) - {1})
    chosen += [("quantile", n, {name: c.quantiles[n] for name, c in channels.items()}) for n in counts]
    if counts:
        counting = twin(chosen[0][2], staterror=False)
        fine = {name: t.fine for name, t in templates.items()}
        best = optimal_bins(*_free(model, counting, pars, fine), counts[-1])
        chosen += [("optimised", n, best[n - 1]) for n in counts]
    contenders = [_Contender(name, n, starts, twin(starts, staterror=staterror)) for name, n, starts in chosen]
    contenders.append(_Contender("unbinned", 0, {}, model))
    job = _Job(model, {name: t.bins for name, t in templates.items()}, tuple(contenders), pars, poi, seed)
    found = sorted(run_tasks(_toy, job, range(n_toys), executor=executor), key=lambda item: item[0])
    estimates = np.array([e for _, (e, _, _) in found]).reshape(n_toys, len(contenders))
    uncertainties = np.array([u for _, (_, u, _) in found]).reshape(n_toys, len(contenders))
    failures = {str(i): message for i, (_, _, message) in found if message}
    analyses = tuple(
        _expected(job, contender, channels, limits=limits, toys=(estimates[:, j], uncertainties[:, j]))
        for j, contender in enumerate(contenders)
    )
    if not analyses[-1].valid:
        raise FitFailed(f"expected data of the unbinned model: {analyses[-1].message}")
    problems = [f"{a.title}: {a.message}" for a in analyses if not a.valid]
    if len(failures) > _FAILED * n_toys:
        first = next(iter(failures))
        problems.append(f"{len(failures)} of {n_toys} toys failed, the first: toy {first}: {failures[first]}")
    return CompareResult(
        poi=poi,
        at=dict(zip(model.config.par_names, pars.tolist(), strict=True)),
        observable=observable,
        measure=measure,
        staterror=staterror,
        seed=seed,
        analyses=analyses,
        failures=failures,
        valid=not problems,
        message="; ".join(problems),
    )


@dataclass(frozen=True, eq=False)
class _Channel:
    """An unbinned channel in fine bins, and its quantile bins: number of bins -> where bins start."""

    templates: EventTemplates
    quantiles: Mapping[int, Starts]

    @classmethod
    def of(cls, model: Any, name: str, pars: Floats, observable: str, measure: str, bins: Sequence[int]) -> "_Channel":
        channel, calibrated = model.unbinned[name], Measure.of(model, name, pars)
        observed, pool = discriminant(model, name, pars, observable)
        score = pool if observable == "score" else discriminant(model, name, pars, "score")[1]
        background = calibrated.expected
        if measure == "background":
            background = np.maximum(_without_signal(model, name, pars, calibrated), 0.0)
        weights = MEASURES[measure](calibrated.expected, background, score)
        inner = {n: quantile_edges(pool, weights, n) for n in bins}
        size = max(1, min(_FINE, len(pool) // _EVENTS_PER_BIN))
        fine = quantile_edges(pool, MEASURES["information"](calibrated.expected, background, score), size)
        edges = np.unique(np.concatenate([fine, *inner.values()]))
        filled = EventBins.of_values(channel, observable, observed, pool, edges)
        starts = {n: tuple((np.searchsorted(edges, e) + 1).tolist()) for n, e in inner.items()}
        return cls(EventTemplates.of(model, pars, filled, calibrated), starts)


def _without_signal(model: Any, name: str, pars: Floats, measure: Measure) -> Floats:
    """Expectation at each pool event at a POI of zero, shape (n,)."""
    poi = require_poi(model)
    k = list(model.config.par_names).index(poi)
    low, high = model.config.suggested_bounds()[k]
    if not low <= 0 <= high:
        raise InvalidModel(f"the POI {poi!r} cannot be 0, so there is no background to make quantiles of; take 'total'")
    at_zero = pars.copy()
    at_zero[k] = 0.0
    values = model.parameters.values(at_zero)
    (cell,) = model.unbinned[name].cells
    return np.asarray(
        measure.weights * (model.rates.nu(values)[model.rates.cells(name)] @ cell.densities(cell.pool, values))
    )


def _free(model: Any, counting: Any, pars: Floats, fine: Mapping[str, Any]) -> tuple[dict[str, Any], Floats, int]:
    """Fine bins, what is known with one bin, and the POI, all in the parameters that are not fixed."""
    names, fixed = list(model.config.par_names), np.array(model.config.suggested_fixed(), dtype=bool)
    poi = model.config.poi_index
    kept = [k for k in range(len(names)) if not fixed[k] or k == poi]
    theirs = [list(counting.config.par_names).index(names[k]) for k in kept]
    at = _of(model, pars, counting)
    information = counting.hessian(at, counting.expected_data(at))[np.ix_(theirs, theirs)] / 2
    return {n: FineBins(f.expected, f.slopes[:, kept]) for n, f in fine.items()}, information, kept.index(poi)


def _of(model: Any, pars: Floats, other: Any) -> Floats:
    """Parameters of a twin, from those of the model; those of its own are at their suggested values."""
    return point(other, dict(zip(model.config.par_names, pars.tolist(), strict=True)))


@dataclass(frozen=True, eq=False)
class _Contender:
    name: str
    bins: int
    starts: Mapping[str, Starts]
    model: Any

    def data(self, job: "_Job", toy: Floats, rng: np.random.Generator) -> Floats:
        """A data vector of the unbinned model in the bins of this one; auxiliary data of its own are drawn."""
        if not self.bins:
            return toy
        mine, theirs = self.model.config, job.model.config
        main = np.zeros(mine.nmaindata)
        for name, where in mine.channel_slices.items():
            part = toy[theirs.channel_slices[name]]
            main[where] = merged(job.bins[name].counts(part), self.starts[name]) if name in self.starts else part
        known = dict(zip(_auxiliary(theirs), toy[theirs.nmaindata :].tolist(), strict=True))
        own = self.model.constraints.sample(self.model.parameters.values(_of(job.model, job.pars, self.model)), rng)
        aux = [known.get(key, value) for key, value in zip(_auxiliary(mine), own.tolist(), strict=True)]
        return np.concatenate([main, aux])


def _auxiliary(config: Any) -> list[tuple[str, int]]:
    """What each auxiliary datum measures: (parameter set, entry)."""
    return [(name, j) for name in config.auxdata_order for j in range(config.param_set(name).n_parameters)]


@dataclass(frozen=True, eq=False)
class _Job:
    """What toys need."""

    model: Any
    bins: Mapping[str, EventBins]
    contenders: tuple[_Contender, ...]
    pars: Floats
    poi: str
    seed: int


def _toy(job: _Job, number: int) -> tuple[list[float], list[float], str]:
    """Best-fit values and uncertainties of the POI in all analyses of a toy, and what went wrong."""
    rng = toy_stream(job.seed, number)
    toy = job.model.sample(job.pars, rng)
    estimates, uncertainties, problems = [], [], []
    for contender in job.contenders:
        init = dict(
            zip(contender.model.config.par_names, _of(job.model, job.pars, contender.model).tolist(), strict=True)
        )
        try:
            found = fit(contender.model, contender.data(job, toy, rng), init=init, simulation=False)
        except NuratioError as error:
            problems.append(f"{contender.name} {contender.bins}: {error}")
            estimates.append(np.nan)
            uncertainties.append(np.nan)
            continue
        if not found.valid:
            problems.append(f"{contender.name} {contender.bins}: {found.message}")
        estimates.append(found[job.poi].value if found.valid else np.nan)
        uncertainties.append(found[job.poi].uncertainty if found.valid else np.nan)
    return estimates, uncertainties, "; ".join(problems)


def _expected(
    job: _Job,
    contender: _Contender,
    channels: Mapping[str, _Channel],
    *,
    limits: bool,
    toys: tuple[Floats, Floats],
) -> ComparedAnalysis:
    """An analysis on expected data."""
    model, poi = contender.model, job.poi
    pars = _of(job.model, job.pars, model)
    k = list(model.config.par_names).index(poi)
    init = dict(zip(model.config.par_names, pars.tolist(), strict=True))
    found = fit(model, model.expected_data(pars), init=init, simulation=False)
    problems = [] if found.valid else [found.message]
    values = {"limit": np.nan, "significance": np.nan}
    low, high = model.config.suggested_bounds()[k]
    if limits and found.valid and low <= 0 <= high:
        for what, find in (("limit", _limit), ("significance", _significance)):
            try:
                values[what] = find(model, pars, k)
            except (InvalidModel, FitFailed) as error:
                problems.append(f"{what}: {error}")
    edges = {name: channels[name].templates.bins.edges[list(starts)] for name, starts in contender.starts.items()}
    return ComparedAnalysis(
        name=contender.name,
        bins=contender.bins,
        edges=edges,
        uncertainty=found[poi].uncertainty,
        limit=values["limit"],
        significance=values["significance"],
        estimates=toys[0],
        uncertainties=toys[1],
        valid=not problems,
        message="; ".join(problems),
    )


def _limit(model: Any, pars: Floats, k: int) -> float:
    """Median expected upper limit on parameter k without signal."""
    background = np.where(np.arange(len(pars)) == k, 0.0, pars)
    return float(upper_limit(model, model.expected_data(background), points=2).expected[2])


def _significance(model: Any, pars: Floats, k: int) -> float:
    """Median expected significance of the signal at ``pars``."""
    return float(significance(model, model.expected_data(pars), expected_at=float(pars[k])).significance)
