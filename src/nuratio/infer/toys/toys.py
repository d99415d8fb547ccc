"""Toys: data sets drawn from a model, each fitted and tested; what p-values, belts and coverage are counted in.

Use `toys` for a number of them at one point of the parameters. Every toy is numbered and has a random stream of its
own, made of the seed and its number: any toy can be drawn again alone, and nothing but rounding depends on how many
workers there are or on how the work is cut. Fits that fail are recorded and counted. With ``output`` the toys are kept
in a file as they are made, and a run that was killed goes on from there.

Data are drawn as the model says: Poisson counts in the bins, Poisson weights at the events of the pool, and auxiliary
data about the nuisances (or, with ``nuisances="sampled"``, nuisances about the auxiliary data).
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, NuratioError, did_you_mean
from nuratio.infer.fitting.fit import Fitter, own_model, point, require_poi
from nuratio.infer.hypotheses.test_statistics import STATISTICS, Profile
from nuratio.infer.toys.file import ToyFile
from nuratio.infer.toys.plan import ToyPlan, fingerprint
from nuratio.infer.toys.result import ToyResult
from nuratio.infer.toys.stream import toy_stream
from nuratio.model.model import Model, ToyPdf
from nuratio.parallel.progress import progress_bar
from nuratio.parallel.tasks import run_tasks

__all__ = ["NUISANCES", "draw_toy", "hypothesis_point", "toys"]

Floats = NDArray[np.float64]

NUISANCES = ("fixed", "sampled")
_AT_ONCE = 10  # toys of one task


def toys(
    model: Any,
    hypothesis: ArrayLike | Mapping[str, float],
    n: int,
    *,
    data: ArrayLike | None = None,
    tests: Sequence[tuple[str, float]] = (),
    seed: int | Sequence[int] = 1,
    first: int = 0,
    nuisances: str = "fixed",
    starts: Sequence[float] = (),
    expected: ArrayLike | None = None,
    executor: Executor | None = None,
    output: str | Path | None = None,
    progress: bool | None = None,
) -> ToyResult:
    """Draw toys at one point of the parameters and fit each.

    Parameters
    ----------
    model : Model or pyhf.Model
        With a POI.
    hypothesis : array_like of shape (P,), or mapping
        Where to draw: all parameters, or some of them by name. The others are then at their conditional best fit to
        ``data``, or at their suggested values without data.
    n : int
        How many.
    data : array_like, optional
        Observed data, for what ``hypothesis`` and ``nuisances`` say.
    tests : sequence of (str, float)
        Test statistics to compute, of `nuratio.infer.hypotheses.test_statistics.STATISTICS`, and the POI values to
        test.
    seed : int or sequence of int
        Toy i draws from ``numpy.random.SeedSequence(seed, spawn_key=(i,))``.
    first : int
        Number of the first toy: runs with the same seed and other numbers are parts of one.
    nuisances : str
        ``fixed``: the nuisances of all toys are those of the hypothesis, and auxiliary data fluctuate about them.
        ``sampled``: nuisances are drawn about the auxiliary data, from the constraint terms as densities of the
        parameter (within its bounds), and auxiliary data stay as observed (or expected, without data); the averages of
        Cousins and Highland.
    starts : sequence of float
        Values of the POI from which the free fit is started as well as from the true one, for likelihoods with
        several minima; the lowest counts.
    expected : array_like, shape (main data,), optional
        Main data are drawn about these, not about those the model expects at the hypothesis: those of another model
        with the same events, or of another simulation (`nuratio.inject`).
    executor : concurrent.futures.Executor, optional
        Where toys are made; by default a pool of processes, one for each processor.
    output : str or Path, optional
        File to keep the toys in. If it exists, toys that are in it are not made again.
    progress : bool, optional
        Show a bar; by default on a terminal, for what takes seconds.

    Returns
    -------
    ToyResult
        Of toys ``first`` to ``first + n - 1``.

    Raises
    ------
    InvalidModel
        No POI, an unknown statistic, a hypothesis or tested value outside the bounds.
    InvalidData
        ``output`` holds toys of another plan.
    NonPositiveDensity
        Toys cannot be drawn where the total density is negative.

    References
    ----------
    R. Cousins, V. Highland, Nucl. Instrum. Meth. A 320 (1992) 331.
    """
    model = own_model(model)
    job = _Job.of(model, hypothesis, data, tests, seed, nuisances, starts, expected)
    if n < 1 or first < 0:
        raise InvalidModel(f"toys are numbered from 0 and at least one is needed; got n = {n}, first = {first}")
    wanted = range(first, first + n)
    kept = ToyFile.open(output, job.plan.to_dict())
    missing = [i for i in wanted if i not in kept.records]
    tasks = [missing[start : start + _AT_ONCE] for start in range(0, len(missing), _AT_ONCE)]
    with kept, progress_bar("toys", n, progress, done=n - len(missing)) as advance:
        failed = sum(bool(kept.records[i]["message"]) for i in wanted if i in kept.records)
        for _, records in run_tasks(_run, job, tasks, executor=executor):
            kept.append(records)
            failed += sum(bool(record["message"]) for record in records)
            for _ in records:
                advance(f"{failed} failed" if failed else "")
    return ToyResult.from_records(job.plan, {i: kept.records[i] for i in wanted})


def draw_toy(
    model: Any,
    hypothesis: ArrayLike | Mapping[str, float],
    number: int,
    *,
    seed: int | Sequence[int] = 1,
    **options: Any,
) -> Floats:
    """The data vector of one toy of `toys`, with the same options: to look at one that failed."""
    job = _Job.of(
        own_model(model),
        hypothesis,
        options.pop("data", None),
        (),
        seed,
        **({"nuisances": "fixed", "starts": ()} | options),
    )
    return job.draw(number)[1]


def hypothesis_point(model: Any, hypothesis: ArrayLike | Mapping[str, float], data: ArrayLike | None) -> Floats:
    """All parameters of a hypothesis, shape (P,); see `toys`."""
    if not isinstance(hypothesis, Mapping):
        theta = np.array(hypothesis, dtype=np.float64)
        if theta.shape != (model.config.npars,):
            raise InvalidModel(f"a hypothesis has {model.config.npars} parameters, got shape {theta.shape}")
        return theta
    if data is not None:
        fitter = Fitter(model, data)
        minimum = fitter.minimum(fixed=hypothesis)
        if not minimum.valid:
            raise InvalidModel(f"the conditional fit at {dict(hypothesis)} is not valid: {minimum.message}")
        return minimum.theta
    return point(model, hypothesis)


@dataclass(frozen=True)
class _Job:
    """Makes any toy of a plan."""

    model: Model
    plan: ToyPlan
    expected: Floats | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        hypothesis: ArrayLike | Mapping[str, float],
        data: ArrayLike | None,
        tests: Sequence[tuple[str, float]],
        seed: int | Sequence[int],
        nuisances: str,
        starts: Sequence[float],
        expected: ArrayLike | None = None,
    ) -> "_Job":
        poi = require_poi(model)
        theta = hypothesis_point(model, hypothesis, data)
        names, bounds = tuple(model.config.par_names), model.config.suggested_bounds()
        k = names.index(poi)
        tested = [(poi, float(value)) for value in (*(at for _, at in tests), *starts)]
        for name, value in (*zip(names, theta.tolist(), strict=True), *tested):
            low, high = bounds[names.index(name)]
            if not low <= value <= high:
                raise InvalidModel(
                    f"{name} = {value:.6g} of a hypothesis, test or start is outside its bounds [{low:.6g}, {high:.6g}]"
                )
        for name, _ in tests:
            if name not in STATISTICS:
                raise InvalidModel(f"no test statistic {name!r}; {did_you_mean(name, STATISTICS)}")
        if nuisances not in NUISANCES:
            raise InvalidModel(f"nuisances are {' or '.join(NUISANCES)}, not {nuisances!r}")
        auxiliary: Sequence[float] = ()
        if nuisances == "sampled":
            nominal = np.array(model.config.auxdata if data is None else np.asarray(data)[model.config.nmaindata :])
            auxiliary = nominal.tolist()
            if not len(nominal):
                raise InvalidModel("nuisances='sampled', but the model has no constrained parameter")
        about = None if expected is None else np.array(expected, dtype=np.float64)
        if about is not None:
            if about.shape != (model.config.nmaindata,):
                raise InvalidModel(f"{model.config.nmaindata} expected main data are needed, got shape {about.shape}")
            if not (about >= 0).all():
                raise InvalidModel(
                    f"expected main data number {int(np.argmin(about >= 0))} is {about.min():.4g}: toys need "
                    "expectations that are not negative (events with negative weights cannot be drawn)"
                )
        plan = ToyPlan(
            model=fingerprint(model),
            names=names,
            pars=tuple(theta.tolist()),
            auxiliary=tuple(auxiliary),
            seed=(seed,) if isinstance(seed, int) else tuple(int(s) for s in seed),
            poi=names[k],
            tests=tuple((name, float(value)) for name, value in tests),
            starts=tuple(float(value) for value in starts),
            expected="" if about is None else hashlib.sha256(about.tobytes()).hexdigest(),
        )
        return cls(model, plan, about)

    def draw(self, number: int) -> tuple[Floats, Floats]:
        """Parameters (P,) and data of one toy."""
        rng, theta, auxiliary = toy_stream(self.plan.seed, number), np.array(self.plan.pars), self.plan.auxiliary
        if auxiliary:
            theta = sample_nuisances(self.model, theta, np.array(auxiliary), rng)
        if self.expected is None:
            data = self.model.sample(theta, rng)
        else:
            data = ToyPdf(self.model, theta, self.expected).draw(rng)
        if auxiliary:
            data[self.model.config.nmaindata :] = auxiliary
        return theta, data

    def record(self, number: int) -> dict[str, Any]:
        """One toy as a line of a file; what goes wrong is said in ``message``."""
        blank = [None] * len(self.plan.names)
        out: dict[str, Any] = {
            "toy": number,
            "truth": None,
            "bestfit": blank,
            "uncertainty": blank,
            "twice_nll": None,
            "statistics": [None] * len(self.plan.tests),
            "message": "",
        }
        try:
            theta, data = self.draw(number)
            if self.plan.auxiliary:
                out["truth"] = theta.tolist()
            init = dict(zip(self.plan.names, theta.tolist(), strict=True))
            profile = Profile(Fitter(self.model, data), self.plan.poi, init=init, starts=self.plan.starts)
            statistics = [profile.statistic(value, name) for name, value in self.plan.tests]
            fit = profile.fitter.result(profile.free)
        except NuratioError as error:
            return out | {"message": f"{type(error).__name__}: {error}"}
        problems = profile.wrong
        if not fit.valid and not problems:
            problems.append(fit.message)
        if problems:
            return out | {"message": "; ".join(problems)}
        return out | {
            "bestfit": fit.bestfit.tolist(),
            "uncertainty": [u if np.isfinite(u) else None for u in fit.uncertainty.tolist()],
            "twice_nll": float(fit.twice_nll),
            "statistics": statistics,
        }


def _run(job: _Job, numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [job.record(number) for number in numbers]


def sample_nuisances(model: Model, theta: Floats, auxiliary: Floats, rng: np.random.Generator) -> Floats:
    """Parameters with all constrained ones drawn about their auxiliary data, within their bounds; shape (P,).

    Gaussian constraints give N(a, sigma), Poisson ones with a uniform prior Gamma(a + 1) / factor.
    """
    constraints, config = model.constraints, model.config
    low, high = np.array(config.suggested_bounds()).T
    fixed = np.array(config.suggested_fixed(), dtype=bool)
    full = np.full(model.rates.n_parameters, np.nan)
    drawn = theta.copy()
    pending = np.ones(len(theta), dtype=bool)
    while pending.any():
        full[constraints.gauss_par] = rng.normal(auxiliary[constraints.gauss_aux], constraints.sigma)
        full[constraints.pois_par] = rng.gamma(auxiliary[constraints.pois_aux] + 1) / constraints.factor
        free = model.parameters.select(full)
        pending &= ~np.isnan(free) & ~fixed
        drawn[pending] = free[pending]
        pending &= (drawn < low) | (drawn > high)
    return drawn
