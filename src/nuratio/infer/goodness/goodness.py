"""Goodness of fit: how well the fitted model describes the data, whatever the parameter of interest.

Which test to take, for unbinned channels:

- ``projection``: against the saturated model in bins of a feature. For a look at one quantity, and what is wrong in it.
- ``score``: the same in bins of what the fit itself looks at, the learned score of the parameter of interest
  (`nuratio.infer.binned.discriminant`); no stored feature is needed. For a misfit that can move the result.
- ``density``: the same in bins of the logarithm of the total density ratio.
- ``distance``: no bins; the Cramer-von Mises distance of data and fitted model along many directions of the features
  (`nuratio.infer.goodness.slices`). For a misfit that nobody thought of.

The statistic of the first three compares with the saturated model, in which every bin's expectation is its count and
every auxiliary measurement is met: the sum over all bins of 2 [lambda - n + n ln(n / lambda)], and of the constraint
terms. Binned channels are tested in their bins; for unbinned ones lambda is that of the Asimov data at the fit.

With binned channels only, its distribution is a chi2 in the limit of many events. A test of an unbinned fit has
none that is known: the fit is not made to the bins, and their expectations have the statistical error of the pool. So
the p-value is counted in toys, which are drawn and fitted as the data were, with another pool for each toy (the same
one with exponential weights: the Bayesian bootstrap).

References
----------
S. Baker, R. Cousins, Nucl. Instrum. Meth. 221 (1984) 437. D. Rubin, Ann. Statist. 9 (1981) 130.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy
from scipy.stats import chi2

from nuratio.errors import InvalidModel, NonPositiveDensity, UnknownName, did_you_mean
from nuratio.infer.binned.binned_projection import BinnedProjection
from nuratio.infer.binned.binning import quantile_edges
from nuratio.infer.binned.discriminant import discriminant
from nuratio.infer.binned.histogram import EventBins
from nuratio.infer.fitting.fit import fit as refit
from nuratio.infer.fitting.fit import own_model
from nuratio.infer.goodness.slices import Slices
from nuratio.infer.results import FitResult, GoodnessOfFit
from nuratio.infer.toys.stream import toy_stream
from nuratio.model.asimov import expected_main
from nuratio.model.unbinned import UnbinnedChannel
from nuratio.parallel.tasks import run_tasks

__all__ = ["GOODNESS_TESTS", "goodness_of_fit"]

Floats = NDArray[np.float64]
Projections = Mapping[str, tuple[str, Sequence[float] | int]]

_BINS, _EXPECTED = 20, 10.0  # of a learned observable, if no number is given: so many, with so many events or more


def goodness_of_fit(
    model: Any,
    data: ArrayLike,
    fit: FitResult,
    projections: Projections | None = None,
    *,
    test: str = "projection",
    bins: int | None = None,
    n_toys: int = 200,
    seed: int = 1,
    executor: Executor | None = None,
) -> GoodnessOfFit:
    """Test the fitted model.

    Parameters
    ----------
    model : Model or pyhf.Model
    data : array_like
        Flat data vector.
    fit : FitResult
        The fit to be judged. Parameters fixed in it are fixed in the toys.
    projections : mapping, optional
        For the test ``projection``: unbinned channel -> (feature, edges or number of bins over the range of the
        observed events), one for each such channel. Events outside the edges are not tested. Bins should expect some
        events each.
    test : str
        Of `GOODNESS_TESTS`; the module says which to take.
    bins : int, optional
        For ``score`` and ``density``: bins of equal probability for each unbinned channel, at the suggested parameters;
        by default 20, or fewer so that each expects 10 events.
    n_toys : int
        Toys to draw at the best fit and to fit. None are needed with binned channels only.
    seed : int
        Toy i is the same whatever their number: it draws from ``numpy.random.SeedSequence(seed, spawn_key=(i,))``.
    executor : concurrent.futures.Executor, optional
        Where toys are made; by default a pool of processes.

    Returns
    -------
    GoodnessOfFit
        Look at ``.valid`` and ``.message``: toys whose fit is not valid are left out and reported.

    Raises
    ------
    InvalidModel
        An unbinned channel without a projection, or without toys; an option that is none of the test's; a distance
        without unbinned channels; a pool that is too small for Asimov data.
    UnknownName
        No such test, channel or feature.
    NonPositiveDensity
        Events in a bin where the fit expects none.
    """
    model = own_model(model)
    if test not in GOODNESS_TESTS:
        raise UnknownName(f"no goodness-of-fit test {test!r}; {did_you_mean(test, GOODNESS_TESTS, 'tests')}")
    if model.unbinned and n_toys < 1:
        raise InvalidModel(f"the statistic of an unbinned channel has no asymptotic p-value: n_toys = {n_toys}")
    for option, given, tests in (
        ("projections", projections, ("projection",)),
        ("bins", bins, ("score", "density")),
    ):
        if given is not None and test not in tests:
            raise InvalidModel(f"test {test!r} has no option {option!r}; it is one of {' and '.join(map(repr, tests))}")
    chosen = GOODNESS_TESTS[test](model, projections, bins)
    expected = model.expected_actualdata(fit.bestfit)
    channels, constraints = chosen.parts(fit.bestfit, np.asarray(data, dtype=np.float64), expected)
    statistic = sum(channels.values()) + constraints
    free = _free_parameters(fit)
    asymptotic = chi2.sf(statistic, chosen.bins - free) if chosen.bins > free and not model.unbinned else np.nan
    problems = [] if fit.valid else [f"the fit: {fit.message}"]
    found = run_tasks(_toy, _Job(chosen, fit, seed), range(n_toys), executor=executor)
    drawn = [result for _, result in sorted(found, key=lambda item: item[0])]
    toys = np.array([toy for toy, message in drawn if not message], dtype=np.float64)
    failed = [message for _, message in drawn if message]
    if failed:
        problems.append(f"{len(failed)} of {n_toys} toy fits, the first: {failed[0]}")
    p = (1 + np.count_nonzero(toys >= statistic)) / (1 + len(toys)) if len(toys) else np.nan
    return GoodnessOfFit(
        statistic=statistic,
        channels=channels,
        constraints=constraints,
        projections=chosen.described,
        bins=chosen.bins,
        free_parameters=free,
        p_value=p,
        p_value_error=float(np.sqrt(p * (1 - p) / (1 + len(toys)))),
        asymptotic_p_value=float(asymptotic),
        toys=toys,
        valid=not problems,
        message="; ".join(problems),
        test=test,
    )


class _Test(Protocol):
    """A test of one model."""

    @property
    def model(self) -> Any:
        """The model."""

    @property
    def bins(self) -> int:
        """Bins of all channels; 0 for a test without bins."""

    @property
    def described(self) -> dict[str, dict[str, Any]]:
        """Unbinned channel -> what it is tested in."""

    def parts(self, theta: Floats, data: Floats, expected: Floats) -> tuple[dict[str, float], float]:
        """What channels and constraint terms add to the statistic.

        Parameters
        ----------
        theta : ndarray, shape (P,)
            The best fit.
        data, expected : ndarray
            Data vectors of the model, the second one at the best fit and without auxiliary data.
        """


@dataclass(frozen=True, eq=False)
class _Saturated:
    """-2 ln of the likelihood ratio to the saturated model, unbinned channels in bins."""

    view: BinnedProjection

    @property
    def model(self) -> Any:
        return self.view.model

    @property
    def bins(self) -> int:
        return int(self.view.config.nmaindata)

    @property
    def described(self) -> dict[str, dict[str, Any]]:
        return {n: {"feature": b.feature, "edges": b.edges.tolist()} for n, b in self.view.bins.items()}

    def parts(self, theta: Floats, data: Floats, expected: Floats) -> tuple[dict[str, float], float]:
        view, observed, rates = self.view, self.view.data(data), self.view.data(expected)
        channels = {}
        for name, where in view.config.channel_slices.items():
            n, rate = observed[where], rates[where]
            bad = np.flatnonzero(~((rate > 0) | ((rate == 0) & (n == 0))))
            if bad.size:
                b = bad[0]
                pool = f" (the pool has {len(view.bins[name].pool)} events)" if name in view.bins else ""
                raise NonPositiveDensity(
                    f"{n[b]:g} events in bin {b} of channel {name!r}, where {rate[b]:.4g} are expected{pool}: "
                    "use wider bins"
                )
            logs = xlogy(n, np.divide(n, rate, where=rate > 0, out=np.ones_like(n)))
            channels[name] = float(2 * np.sum(rate - n + logs))
        full, aux = self.model.parameters.values(theta), data[self.model.config.nmaindata :]
        constraints = self.model.constraints
        return channels, float(constraints.twice_nll(full, aux)[0] - constraints.constant(aux))


@dataclass(frozen=True, eq=False)
class _Distance:
    """Distances of the unbinned channels along slices; other channels and constraint terms are not tested."""

    model: Any
    slices: Mapping[str, Slices]
    bins: int = 0

    @property
    def described(self) -> dict[str, dict[str, Any]]:
        return {n: {"space": s.space, "columns": list(s.columns)} for n, s in self.slices.items()}

    def parts(self, theta: Floats, data: Floats, expected: Floats) -> tuple[dict[str, float], float]:
        where = self.model.config.channel_slices
        return {name: s.distance(data[where[name]], expected[where[name]]) for name, s in self.slices.items()}, 0.0


def _projection(model: Any, projections: Projections | None, bins: int | None) -> _Test:
    return _Saturated(BinnedProjection.of(model, projections))


def _learned(observable: str) -> Callable[[Any, Projections | None, int | None], _Test]:
    """Bins of equal probability in an observable; both are those of the suggested parameters, whatever the data are."""

    def made(model: Any, projections: Projections | None, bins: int | None) -> _Test:
        nominal, found = np.array(model.config.suggested_init(), dtype=np.float64), {}
        expected = model.expected_actualdata(nominal) if model.unbinned else np.empty(0)
        for name, channel in model.unbinned.items():
            weights = expected[model.config.channel_slices[name]][len(channel.observed) :]
            n = max(1, min(_BINS, int(weights.sum() / _EXPECTED))) if bins is None else bins
            observed, pool = discriminant(model, name, nominal, observable)
            inner = quantile_edges(pool, weights, n)
            found[name] = EventBins.of_values(channel, observable, observed, pool, inner)
        return _Saturated(BinnedProjection(model, found))

    return made


def _distance(model: Any, projections: Projections | None, bins: int | None) -> _Test:
    if not model.unbinned:
        raise InvalidModel(
            "the model has no unbinned channel, whose events have a distance; take the test 'projection'"
        )
    return _Distance(model, {name: Slices.of(channel) for name, channel in model.unbinned.items()})


GOODNESS_TESTS: Mapping[str, Callable[[Any, Projections | None, int | None], _Test]] = {
    "projection": _projection,
    "score": _learned("score"),
    "density": _learned("density"),
    "distance": _distance,
}


def _free_parameters(fit: FitResult) -> int:
    """Parameters without a constraint term (those have an auxiliary datum each) that are not fixed."""
    return int(np.count_nonzero(np.isnan(fit.constraint_width) & ~np.array(fit.fixed)))


@dataclass(frozen=True, eq=False)
class _Job:
    """What toys need."""

    test: _Test
    fit: FitResult
    seed: int


def _toy(job: _Job, number: int) -> tuple[float, str]:
    """The statistic of a toy drawn at the best fit, and why its fit is not valid if it is not."""
    rng = toy_stream(job.seed, number)
    model, fit = job.test.model, job.fit
    data = model.sample(fit.bestfit, rng)
    best = dict(zip(fit.names, fit.bestfit.tolist(), strict=True))
    fixed = {name: best.pop(name) for name, held in zip(fit.names, fit.fixed, strict=True) if held}
    again = refit(model, data, fixed=fixed, init=best, hesse=False)
    if not again.valid:
        return np.nan, again.message
    pools = {name: _other_pool(channel, rng) for name, channel in model.unbinned.items()}
    try:
        expected = expected_main(model, pools, model.parameters.values(again.bestfit))
        channels, constraints = job.test.parts(again.bestfit, data, expected)
    except (NonPositiveDensity, InvalidModel) as error:
        return np.nan, str(error)
    return sum(channels.values()) + constraints, ""


def _other_pool(channel: UnbinnedChannel, rng: np.random.Generator) -> UnbinnedChannel:
    """The channel with its pool's weights times exponential numbers, of the same sum."""
    factors = rng.exponential(size=len(channel.pool))
    weights = [cell.pool_weights * cell.pool.of(factors) for cell in channel.cells]
    scale = sum(cell.pool_weights.sum() for cell in channel.cells) / sum(w.sum() for w in weights)
    cells = zip(channel.cells, weights, strict=True)
    return replace(channel, cells=tuple(replace(cell, pool_weights=scale * w) for cell, w in cells))
