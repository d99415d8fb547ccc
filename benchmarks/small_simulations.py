"""The error of a small simulation with three nuisances profiled: predicted, found, and in the likelihood.

    python benchmarks/profiled.py --background 50000 --signal 20000 --simulations 50

Each simulation has nominal events and their variations by one standard deviation, trains ratios to the background and
the shapes of both samples, and is the pool that normalises them. It fits a data set of its own and one that is common
to all. What the statistics of the variations do, which are in no covariance, is seen in two ways: by exact derivatives
in the place of learned shapes, and by shapes that were learned from other events.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import minimum
import numpy as np
import torch
from measure import Section
from minimum import YIELDS, Library
from numpy.typing import NDArray
from one_channel import one_channel, trained_channel
from varied_minimum import NUISANCES, REACH, Fitted, derivatives, simulate

from nuratio.data.sample import EventSample
from nuratio.data.varied import Term
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.nuisance import with_simulation_nuisance
from nuratio.infer.results import FitResult
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.options import TrainingOptions
from nuratio.training.replicas import with_replicas
from nuratio.training.shape import SHAPE_OPTIONS, train_shapes
from nuratio.training.train import train
from nuratio.workspace.workspace import Workspace

Floats = NDArray[np.float64]
Rates = Mapping[str, Mapping[str, tuple[float, float]]]

DIRECTIONS = {"explained": 0.95, "most": 10}


@dataclass(frozen=True)
class Settings:
    """Simulated events after the cut, replicas for directions, and how the networks learn."""

    background: int
    signal: int
    hidden: int = 32
    epochs: int = 5
    draws: int = 100

    @property
    def ratio(self) -> TrainingOptions:
        """Of the ratios."""
        return minimum.options(self.background + self.signal)

    @property
    def shape(self) -> TrainingOptions:
        """Of the shapes: cross-fitted, since their own events normalise them."""
        return replace(SHAPE_OPTIONS, hidden=(self.hidden, self.hidden), folds=2, epochs=self.epochs)


@dataclass(frozen=True)
class ExactShape:
    """The analytic derivatives where a `ShapeEstimator` has learned ones."""

    sample: str

    @property
    def nuisances(self) -> tuple[str, ...]:
        """The nuisance parameters."""
        return NUISANCES[self.sample]

    @property
    def terms(self) -> tuple[Term, ...]:
        """The monomials."""
        return tuple(((k, power),) for k in self.nuisances for power in (1, 2))

    def coefficients(self, x: Any, **_: Any) -> dict[Term, Floats]:
        """D_t at x, each of shape (n,)."""
        features = np.asarray(x.features if isinstance(x, EventSample) else x)
        d = [part for k in self.nuisances for part in derivatives(features, self.sample, k)]
        return dict(zip(self.terms, d, strict=True))


@dataclass(frozen=True)
class Learned:
    """A simulation and what it taught.

    Attributes
    ----------
    samples : dict
        Nominal events.
    ratio : RatioEstimator
        To the background.
    shapes : dict
        Sample -> what has its ``coefficients``.
    rates : dict
        Sample -> nuisance -> yields at +-1 over the nominal one.
    """

    samples: Mapping[str, EventSample]
    ratio: RatioEstimator
    shapes: Mapping[str, Any]
    rates: Rates

    def workspace(
        self, x: NDArray[np.float32], directions: Mapping[str, Any] | None = None, lowest: float = -10.0
    ) -> Workspace:
        """The analysis of some data, as it is built from a configuration, with known nominal yields."""
        components = tuple(replace(part, total=YIELDS[part.sample]) for part in self.ratio.components)
        ratio, codes = replace(self.ratio, components=components), dict.fromkeys(NUISANCES["signal"], "quadexp")
        entry, tables, names = trained_channel(
            x, self.samples, ratio, shapes=self.shapes, codes=codes, directions=directions
        )
        inert = dict.fromkeys(names, (1.0, 1.0))
        rates = []
        for sample, total in YIELDS.items():
            mu: list[Any] = [{"name": "mu", "type": "normfactor", "data": None}] if sample == "signal" else []
            normsys = [
                {"name": k, "type": "normsys", "data": {"hi": hi, "lo": lo}}
                for k, (hi, lo) in {**self.rates[sample], **inert}.items()
            ]
            rates.append({"name": sample, "data": [total], "modifiers": mu + normsys})
        parameters: list[dict[str, Any]] = [{"name": "mu", "inits": [1.0], "bounds": [[lowest, 20.0]]}]
        parameters += [{"name": k, "bounds": [[-REACH, REACH]]} for k in NUISANCES["background"]]
        return one_channel("small", rates, entry, tables, parameters)


def learn(seed: int, settings: Settings) -> Learned:
    """Simulate, and train ratios and shapes with the same events."""
    samples, shapes, rates = {}, {}, {}
    for number, (sample, n) in enumerate({"signal": settings.signal, "background": settings.background}.items()):
        nominal, varied = simulate(np.random.default_rng([seed, 3, number]), sample, n)
        samples[sample] = nominal
        shapes[sample] = train_shapes(nominal, varied, name=sample, seed=seed, options=settings.shape, progress=False)
        total = {(k, a): v.events.total / nominal.total for v in varied for k, a in v.alpha.items()}
        rates[sample] = {k: (total[k, 1.0], total[k, -1.0]) for k in NUISANCES[sample]}
    ratio = train(samples, reference="background", seed=seed, options=settings.ratio, progress=False)
    return Learned(samples, ratio, shapes, rates)


@dataclass(frozen=True)
class Found:
    """A fit of one data set.

    Attributes
    ----------
    mu, sigma, simulation : float
        mu-hat, its uncertainty, and its error from the simulation by the influence function.
    rise : float
        2 Delta ln L of mu = 1.
    valid : bool
    """

    mu: float
    sigma: float
    simulation: float
    rise: float
    valid: bool


def fitted(analysis: Workspace, simulation: float | None = None) -> Found:
    """Fit everything, and compare with mu = 1; ``simulation`` is the error of mu that the analysis has as a nuisance.

    The fit at mu = 1 starts at the nominal point and at the best fit, from which the nuisance can lead to mu = 1 alone:
    there may be a minimum on either side of mu = 0.
    """
    model = analysis.model(threads=1)
    data = analysis.data(model)
    free = fit(model, data)
    mu, best = free["mu"], dict(zip(free.names, free.bestfit.tolist(), strict=True))
    if simulation is not None:
        best["simulation"] += (mu.value - 1) / simulation
    starts: tuple[dict[str, float], ...] = ({}, {name: value for name, value in best.items() if name != "mu"})
    fixed = [fit(model, data, fixed={"mu": 1.0}, init=start, hesse=False) for start in starts]
    rise = min(f.twice_nll for f in fixed if f.valid or f is fixed[0]) - free.twice_nll
    return Found(mu.value, mu.uncertainty, mu.simulation, rise, free.valid and any(f.valid for f in fixed))


def expected(analysis: Workspace) -> FitResult:
    """The fit of Asimov data at mu = 1: knows no data."""
    model = analysis.model(threads=1)
    return fit(model, model.asimov(model.config.suggested_init()))


@dataclass(frozen=True)
class Replica:
    """One simulation and its fits, `KINDS` and ``common``: that of the data set which all have, as learned.

    Attributes
    ----------
    predicted, predicted_exact : float
        Error of mu from the simulation, from Asimov data, with learned and with exact shapes.
    fits : dict of str to Found
    """

    predicted: float
    predicted_exact: float
    fits: dict[str, Found]


KINDS = {
    "learned": "as learned",
    "nuisance": "with the error as a nuisance",
    "physical": "the same, mu not below 0",
    "directions": "with directions, last layer",
    "exact shapes": "exact shapes and their rates",
    "other shapes": "shapes and their rates from other events",
}


def replica(
    learned: Learned, others: Learned, own: NDArray[np.float32], common: NDArray[np.float32], rates: Rates, draws: int
) -> Replica:
    """Predict the error, and only then take data; ``rates`` are exact ones, ``others`` learned from other events."""
    exact = replace(learned, shapes={sample: ExactShape(sample) for sample in NUISANCES}, rates=rates)
    directed = replace(learned, ratio=with_replicas(learned.ratio, learned.samples, draws=draws))
    plain, of_exact = learned.workspace(own), exact.workspace(own)
    asimov = expected(plain)
    error = asimov["mu"].simulation
    fits = {
        "learned": fitted(plain),
        "nuisance": fitted(with_simulation_nuisance(plain, asimov), error),
        "physical": fitted(with_simulation_nuisance(learned.workspace(own, lowest=0.0), asimov), error),
        "directions": fitted(directed.workspace(own, DIRECTIONS)),
        "exact shapes": fitted(of_exact),
        "other shapes": fitted(replace(learned, shapes=others.shapes, rates=others.rates).workspace(own)),
        "common": fitted(learned.workspace(common)),
    }
    return Replica(error, expected(of_exact)["mu"].simulation, fits)


def simulations(
    library: Library, sets: Sequence[NDArray[np.int64]], exact: Sequence[Fitted], rates: Rates, settings: Settings
) -> Section:
    """A simulation for every data set, which all fit the first one too, with the exact fits of the same data."""
    torch.set_num_threads(1)
    found, seconds, others, common = [], [], learn(0, settings), library.x[sets[0]]
    for seed, events in enumerate(sets, 1):
        start = perf_counter()
        learned = learn(seed, settings)
        seconds.append(perf_counter() - start)
        found.append(replica(learned, others, library.x[events], common, rates, settings.draws))
        others = learned
        print(f"{seed}: {seconds[-1]:.0f} s, exact {exact[seed - 1]}, {found[-1]}", file=sys.stderr, flush=True)
    return section(found, exact, settings, float(np.median(seconds)))


def section(found: Sequence[Replica], exact: Sequence[Fitted], settings: Settings, seconds: float) -> Section:
    """How far from the exact minimum, and how often intervals hold what they should."""
    truth = Columns.of(exact)
    predicted = np.array([r.predicted for r in found])
    fits = {kind: Columns.of([r.fits[kind] for r in found]) for kind in (*KINDS, "common")}
    failed = sum(int((~f.valid).sum()) for f in fits.values())
    errors = dict.fromkeys(KINDS, predicted) | {"exact shapes": np.array([r.predicted_exact for r in found])}
    rows, numbers = [], {"failed": float(failed)}
    for kind, label in KINDS.items():
        f = fits[kind]
        shift = f.mu - truth.mu
        pull = shift / errors[kind]
        told = {
            "sigma": f.sigma.mean(),
            "predicted": errors[kind].mean(),
            "found": _rms(shift),
            "pull": pull.mean(),
            "pull width": pull.std(ddof=1),
            "exact minimum": np.mean(np.abs(pull) <= 1),
            "mu +- sigma": np.mean(np.abs(f.mu - 1) <= f.sigma),
            "2 dlnL": np.mean(f.rise <= 1),
        }
        numbers |= {f"{kind}, {what}": float(value) for what, value in told.items()}
        rows.append(
            (
                label,
                f"{told['sigma']:.3f}",
                f"{told['predicted']:.3f}",
                f"{told['found']:.3f}",
                f"{told['pull']:+.2f}, {told['pull width']:.2f}",
                *(f"{100 * told[what]:.0f}%" for what in ("exact minimum", "mu +- sigma", "2 dlnL")),
            )
        )
    of_exact = np.mean(np.abs(truth.mu - 1) <= truth.sigma), np.mean(truth.rise <= 1)
    rows.append(
        ("exact likelihood", f"{truth.sigma.mean():.3f}", "", "", "", "", *(f"{100 * v:.0f}%" for v in of_exact))
    )
    learned = fits["learned"]
    common = fits["common"].mu - truth.mu[0]
    spreads = {
        "from exact derivatives": _width(learned.mu - fits["exact shapes"].mu),
        "from other events": _width(learned.mu - fits["other shapes"].mu) / np.sqrt(2),
        "jumps": np.sum(np.abs(learned.mu - fits["exact shapes"].mu) > 1),
        "negative": np.sum(learned.mu < 0),
        "common": common.std(ddof=1),
        "common mean": common.mean(),
        "with data": np.sqrt(np.mean(learned.simulation**2)),
        "at data": np.mean(np.abs(learned.mu - truth.mu) <= learned.simulation),
        "common held": np.mean(np.abs(common) <= predicted),
        "exact, mu +- sigma": of_exact[0],
        "exact, 2 dlnL": of_exact[1],
    }
    numbers |= {name: float(value) for name, value in spreads.items()}
    error = 100 * np.sqrt(0.683 * 0.317 / len(found))
    text = (
        f"Simulations: {len(found)}, of about {settings.background} background and {settings.signal} signal events "
        "and their variations by one standard deviation, each with trainings and a data set of its own; response, "
        "resolution and theory profiled. Predicted: error of mu-hat from the simulation by the influence function on "
        "Asimov data, before any fit of data. Found: rms of mu-hat minus that of the exact likelihood on the same "
        "events; the pull is their ratio. Then how often one sigma holds what it should: the error of the simulation "
        f"the minimum of the exact likelihood, the interval of the fit the true mu (68.3 +- {error:.1f}%).\n\n"
        f"With the error from each fit of data, {spreads['with data']:.3f} (rms), it holds the exact minimum "
        f"{100 * spreads['at data']:.0f}% of the time. On one data set that all simulations fit, mu-hat scatters by "
        f"{spreads['common']:.3f} about {spreads['common mean']:+.3f} from the exact one, which the predicted error "
        f"holds {100 * spreads['common held']:.0f}% of the time. What the variations do, which are in no covariance: "
        "1.48 times the median of abs(mu-hat as learned minus that with exact derivatives) is "
        f"{spreads['from exact derivatives']:.3f}; with shapes from other events, divided by 2^(1/2), "
        f"{spreads['from other events']:.3f}; in {spreads['jumps']:.0f} data sets exact derivatives move the minimum "
        f"by more than 1. As learned, {spreads['negative']:.0f} minima are below mu = 0. "
        f"Fits that are not valid: {failed} of {len(fits) * len(found)}. Simulation and training take "
        f"{seconds:.0f} s on one thread."
    )
    header = (
        "likelihood",
        "sigma",
        "predicted",
        "found",
        "pull: mean, width",
        "exact minimum",
        "mu +- sigma",
        "2 Delta ln L <= 1",
    )
    return Section("The simulation's error, three nuisances profiled", text, header, tuple(rows), numbers)


@dataclass(frozen=True)
class Columns:
    """Results of fits, an array each."""

    mu: Floats
    sigma: Floats
    rise: Floats
    simulation: Floats
    valid: NDArray[np.bool_]

    @classmethod
    def of(cls, fits: Sequence[Found | Fitted]) -> "Columns":
        """Of what has them."""
        columns = ("mu", "sigma", "rise", "simulation", "valid")
        return cls(*(np.array([getattr(f, name, np.nan) for f in fits]) for name in columns))


def _rms(x: Floats) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _width(x: Floats) -> float:
    """A standard deviation about zero that a few far ones do not change."""
    return float(1.4826 * np.median(np.abs(x)))
