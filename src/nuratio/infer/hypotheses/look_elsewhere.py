"""The look-elsewhere effect: how significant the largest excess of a scan is, wherever it might have been.

`scan_significance` gives the local significance at each value of a scanned signal parameter (a mass), one model for
each; `global_significance` adds the p-value of the whole scan, from the same toys in two ways:

- Toys: the share of background-only toys whose largest q0 is at least that of the data. Right for any scan, but needs
  many toys where the excess is large.
- Gross and Vitells: p_global <= p_local + <N(u0)> exp(-(u - u0) / 2), where u is the largest q0 and <N(u0)> the mean
  number of times that q0 rises through a low threshold u0 along the scan. Some tens of toys do.

**What the models have to share.** They differ in the signal alone: same observed data, same background, same nuisances,
so that a toy is drawn once, without signal, and looked at with every model. Make one workspace for each mass from the
same inputs, or one binned workspace with another signal template each. Toys of unbinned channels live on the pool, so
the tables of events must be the same in all models (the same file, with a column of signal ratios for each mass). It is
checked that data vectors are laid out alike and that -2 ln L without signal is the same number everywhere.

References
----------
E. Gross, O. Vitells, Eur. Phys. J. C 70 (2010) 525, arXiv:1005.1891. R. Davies, Biometrika 74 (1987) 33.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from nuratio.errors import FitFailed, InvalidModel, NuratioError
from nuratio.infer.fitting.asymptotics import Concern, asymptotics_option, test_concerns, warn
from nuratio.infer.fitting.fit import Fitter, own_model, require_poi
from nuratio.infer.hypotheses.test_statistics import Profile
from nuratio.infer.results import _array, _number, _Result
from nuratio.infer.toys.result import proportion
from nuratio.infer.toys.stream import toy_stream
from nuratio.model.model import ToyPdf
from nuratio.parallel.progress import progress_bar
from nuratio.parallel.tasks import run_tasks

__all__ = [
    "GlobalSignificance",
    "SignificanceScan",
    "global_significance",
    "gross_vitells",
    "scan_significance",
    "upcrossings",
]

Floats = NDArray[np.float64]

_MOST_FAILED = 0.01  # of the toys
_SAME = 1e-6  # of -2 ln L without signal, between models


@dataclass(frozen=True, eq=False)
class SignificanceScan(_Result):
    """Local significances along a scan.

    Attributes
    ----------
    poi : str
        The signal strength.
    parameter : str
        What is scanned.
    values : ndarray, shape (m,)
        Its values, increasing.
    q0, p0, significance : ndarray, shape (m,)
        Discovery statistic, local p-value of the background-only hypothesis (asymptotic), and its significance.
    bestfit : ndarray, shape (m,)
        Fitted signal strength.
    valid : bool
    message : str
        What is wrong if not valid.
    """

    kind: ClassVar[str] = "significance_scan"

    poi: str
    parameter: str
    values: Floats
    q0: Floats
    p0: Floats
    significance: Floats
    bestfit: Floats
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values | {k: _array(values[k]) for k in ("values", "q0", "p0", "significance", "bestfit")}


@dataclass(frozen=True, eq=False)
class GlobalSignificance(_Result):
    """Significance of the largest excess of a scan.

    Attributes
    ----------
    scan : SignificanceScan
        Of the data.
    at : float
        Where the excess is largest.
    local_p, local_significance : float
        There.
    threshold : float
        u0, in units of q0.
    upcrossings, upcrossings_error : float
        Mean number of upcrossings of the threshold in the toys, and its statistical error.
    upcrossings_coarse : float
        The same with every other value of the scan left out: if it is much smaller, the scan is too coarse, and more
        values would find more.
    global_p, global_p_error : float
        By Gross and Vitells (an upper bound, at most 1), with the error from the number of toys.
    global_significance : float
        Of ``global_p``.
    trials_factor : float
        ``global_p`` over ``local_p``.
    toys_p, toys_p_error : float
        Share of toys with a larger excess anywhere, with its binomial error.
    toys : ndarray, shape (valid toys,)
        The largest q0 of each.
    valid : bool
        The fits to the data are, and no more than one in a hundred toys failed.
    message : str
        What is wrong; failed toys are left out and told here.
    """

    kind: ClassVar[str] = "global_significance"

    scan: SignificanceScan
    at: float
    local_p: float
    local_significance: float
    threshold: float
    upcrossings: float
    upcrossings_error: float
    upcrossings_coarse: float
    global_p: float
    global_p_error: float
    global_significance: float
    trials_factor: float
    toys_p: float
    toys_p_error: float
    toys: Floats = field(repr=False)
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        other = ("scan", "toys", "valid", "message")
        numbers = {k: _number(v) for k, v in values.items() if k not in other}
        return values | numbers | {"scan": SignificanceScan.from_dict(values["scan"]), "toys": _array(values["toys"])}


def scan_significance(
    models: Sequence[Any] | Callable[[float], Any],
    data: ArrayLike,
    values: Sequence[float],
    *,
    parameter: str = "mass",
    asymptotics: str = "check",
) -> SignificanceScan:
    """Local discovery significance (q0, asymptotic) at each value of a scanned parameter.

    Parameters
    ----------
    models : sequence of Model, or callable
        One for each value, or a function that makes it; see the module for what they have to share.
    data : array_like
        Flat data vector, the same for all models.
    values : sequence of float
        Of the scanned parameter, increasing.
    parameter : str
        Its name, for results and drawings.
    asymptotics : str
        ``check`` warns if the formulas do not hold at the largest excess, ``force`` does not look.

    Raises
    ------
    InvalidModel
        As many models as values are needed, with the same POI, data and background.

    Warns
    -----
    AsymptoticsWarning
        See `nuratio.infer.fitting.asymptotics`.
    """
    look, job = asymptotics_option(asymptotics), _Scan.of(models, data, values, parameter)
    if look:
        warn(job.concerns, stacklevel=2)
    return job.scan


def global_significance(
    models: Sequence[Any] | Callable[[float], Any],
    data: ArrayLike,
    values: Sequence[float],
    *,
    parameter: str = "mass",
    n: int = 200,
    threshold: float = 0.5,
    seed: int = 1,
    executor: Executor | None = None,
    progress: bool | None = None,
    asymptotics: str = "check",
) -> GlobalSignificance:
    """Global significance of the largest excess of a scan, by Gross and Vitells and by counting toys.

    Toys are drawn with the background alone, at its best fit to the data.

    Parameters
    ----------
    models, data, values, parameter
        As for `scan_significance`. Values must be closer than the resolution, or upcrossings are missed.
    n : int
        Toys. Each needs a fit for every value.
    threshold : float
        u0, in units of q0: low, so that toys have many upcrossings.
    seed : int
        Toy i draws from ``numpy.random.SeedSequence(seed, spawn_key=(i,))``.
    executor : concurrent.futures.Executor, optional
        Where toys are made; by default a pool of processes.
    progress : bool, optional
        Show a bar; by default on a terminal, for what takes seconds.
    asymptotics : str
        As for `scan_significance`: it concerns the bound by Gross and Vitells.

    Raises
    ------
    InvalidModel
        As `scan_significance`; no toy, a threshold that is not positive.
    FitFailed
        The background-only fit to the data is not valid.
    NonPositiveDensity
        Toys cannot be drawn where the total density is negative.
    """
    if n < 1 or not threshold > 0:
        raise InvalidModel(f"at least one toy and a threshold above 0 are needed; got n = {n}, threshold = {threshold}")
    look, job = asymptotics_option(asymptotics), _Scan.of(models, data, values, parameter)
    scan = job.scan
    if look:
        warn(job.concerns, stacklevel=2)
    if not job.background_valid:
        raise FitFailed(f"toys are drawn at the background-only fit, which is not valid: {job.scan.message}")
    toys = _Toys(job.models, job.background, job.models[0].expected_actualdata(job.background), seed)
    found: list[tuple[Floats, str]] = [(np.empty(0), "")] * n
    with progress_bar("scans of toys", n, progress) as advance:
        for position, result in run_tasks(_run, toys, range(n), executor=executor):
            found[position] = result
            advance("")
    curves = np.array([q0 for q0, message in found if not message])
    failed = [f"toy {i}: {message}" for i, (_, message) in enumerate(found) if message]
    if not len(curves):
        raise FitFailed(f"all {n} toys failed; {failed[0]}")
    best = int(np.argmax(scan.q0))
    u, local = float(scan.q0[best]), float(scan.p0[best])
    mean, error = upcrossings(curves, threshold)
    coarse, _ = upcrossings(curves[:, ::2], threshold)
    p, p_error = gross_vitells(u, threshold, mean, error)
    largest = curves.max(axis=1)
    toys_p, toys_p_error = proportion(int(np.count_nonzero(largest >= u)), len(largest))
    problems = [scan.message] if scan.message else []
    problems += [f"{len(failed)} of {n} toys failed, the first: {failed[0]}"] if failed else []
    return GlobalSignificance(
        scan=scan,
        at=float(scan.values[best]),
        local_p=local,
        local_significance=float(scan.significance[best]),
        threshold=float(threshold),
        upcrossings=mean,
        upcrossings_error=error,
        upcrossings_coarse=coarse,
        global_p=p,
        global_p_error=p_error,
        global_significance=float(norm.isf(p)),
        trials_factor=p / local,
        toys_p=toys_p,
        toys_p_error=toys_p_error,
        toys=largest,
        valid=scan.valid and len(failed) <= _MOST_FAILED * n,
        message="; ".join(problems),
    )


def upcrossings(q0: Floats, threshold: float) -> tuple[float, float]:
    """Mean number of times that curves rise through a threshold, and its statistical error.

    Parameters
    ----------
    q0 : ndarray, shape (curves, m)
    threshold : float

    Returns
    -------
    mean, error : float
        The error is that of the mean, at least the one of a single upcrossing in all curves together.
    """
    counts = np.count_nonzero((q0[:, :-1] < threshold) & (q0[:, 1:] >= threshold), axis=1)
    n = len(counts)
    spread = float(counts.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return float(counts.mean()), max(spread, 1 / n)


def gross_vitells(u: float, threshold: float, mean: float, error: float) -> tuple[float, float]:
    """Bound on the global p-value, P(max q0 > u) <= P(q0 > u) + <N(u0)> exp(-(u - u0) / 2), and its error.

    For one signal strength, q0 being half a chi2 with one degree of freedom. The bound is 1 where the sum is above.

    Parameters
    ----------
    u : float
        The largest q0 of the scan.
    threshold, mean, error : float
        u0, <N(u0)> and its error.

    References
    ----------
    arXiv:1005.1891, Eqs. (2) and (3), with s = 1.
    """
    factor = float(np.exp(-(u - threshold) / 2))
    return min(float(norm.sf(np.sqrt(u))) + mean * factor, 1.0), error * factor


@dataclass(frozen=True, eq=False)
class _Scan:
    """Models of a scan that fit together, and their fits to the data."""

    models: tuple[Any, ...]
    scan: SignificanceScan
    background: Floats
    background_valid: bool
    concerns: tuple[Concern, ...]

    @classmethod
    def of(
        cls, models: Sequence[Any] | Callable[[float], Any], data: ArrayLike, values: Sequence[float], parameter: str
    ) -> "_Scan":
        at = np.asarray(values, dtype=np.float64)
        if at.ndim != 1 or not len(at) or not np.all(np.diff(at) > 0):
            raise InvalidModel(f"a scan has increasing values of {parameter!r}, got {list(values)}")
        made = [models(value) for value in at.tolist()] if callable(models) else list(models)
        if len(made) != len(at):
            raise InvalidModel(f"a scan needs a model for each value: {len(made)} models, {len(at)} values")
        own = tuple(own_model(model) for model in made)
        poi = require_poi(own[0])
        labels = [f"{parameter} = {value:.6g}" for value in at.tolist()]
        for label, model in zip(labels, own, strict=True):
            _require_same_layout(label, model, own[0], poi)
        q0, bestfit, problems, minima, profiles = [], [], [], [], []
        for label, model in zip(labels, own, strict=True):
            profile = Profile(Fitter(model, data), poi)
            minimum = profile.at(0.0)
            q0.append(profile.statistic(0.0, "q0"))
            bestfit.append(float(profile.free.theta[profile.k]))
            problems += [f"{label}, {line}" for line in profile.wrong]
            minima.append((minimum, f"{poi} = 0" not in profile.problems))
            profiles.append(profile)
        _require_same_background(labels, own, np.asarray(data, dtype=np.float64), minima[0][0].theta)
        z = np.sqrt(q0)
        scan = SignificanceScan(
            poi=poi,
            parameter=parameter,
            values=at,
            q0=np.array(q0),
            p0=norm.sf(z),
            significance=z,
            bestfit=np.array(bestfit),
            valid=not problems,
            message="; ".join(problems),
        )
        largest = profiles[int(np.argmax(q0))]
        concerns = tuple(test_concerns(largest, float(largest.free.theta[largest.k]), "q0"))
        return cls(own, scan, minima[0][0].theta, minima[0][1], concerns)


def _require_same_layout(label: str, model: Any, first: Any, poi: str) -> None:
    """Raise if a model has other parameters, channels or tables of events than the first one."""
    same: dict[str, Callable[[Any], Any]] = {
        "parameters": lambda m: list(m.config.par_names),
        "numbers of data": lambda m: (dict(m.config.channel_nbins), int(m.config.nauxdata)),
        "observed and pool events": lambda m: {n: (len(c.observed), len(c.pool)) for n, c in m.unbinned.items()},
    }
    if require_poi(model) != poi:
        raise InvalidModel(f"{label}: the POI is {require_poi(model)!r}, not {poi!r} as in the first model of the scan")
    for what, of in same.items():
        if of(model) != of(first):
            raise InvalidModel(f"{label}: its {what} are not those of the first model of the scan, which a toy needs")


def _require_same_background(labels: Sequence[str], models: Sequence[Any], data: Floats, background: Floats) -> None:
    """Raise if -2 ln L without signal is not the same in all models, on the data and on expected data."""
    vectors = {"the data": data}
    if models[0].unbinned:
        vectors["the pool"] = models[0].expected_data(background)
    for where, vector in vectors.items():
        nll = [float(model.likelihood(vector).value(background)) for model in models]
        for label, value in zip(labels, nll, strict=True):
            if abs(value - nll[0]) > _SAME * max(abs(nll[0]), 1.0):
                raise InvalidModel(
                    f"{label}: -2 ln L without signal is {value:.8g} on {where}, that of the first model {nll[0]:.8g}; "
                    "models of a scan may differ in the signal alone"
                )


@dataclass(frozen=True, eq=False)
class _Toys:
    """Draws toys without signal and scans them with all models."""

    models: tuple[Any, ...]
    background: Floats
    expected: Floats
    seed: int

    def q0(self, number: int) -> tuple[Floats, str]:
        """The statistic at each value, shape (m,), and what is wrong with the toy, if anything."""
        first = self.models[0]
        rng = toy_stream(self.seed, number)
        try:
            toy = ToyPdf(first, self.background, self.expected).draw(rng)
            start = dict(zip(first.config.par_names, self.background.tolist(), strict=True))
            found, problems = [], []
            for model in self.models:
                profile = Profile(Fitter(model, toy), model.config.poi_name, init=start)
                found.append(profile.statistic(0.0, "q0"))
                problems += profile.wrong
        except NuratioError as error:
            return np.empty(0), f"{type(error).__name__}: {error}"
        return np.array(found), "; ".join(problems)


def _run(toys: _Toys, number: int) -> tuple[Floats, str]:
    return toys.q0(number)
