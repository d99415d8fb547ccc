"""The minimum of the likelihood, learned against exact: an analytic example in five dimensions with B/S = 250.

    python benchmarks/minimum.py                                  # 5M + 1M simulated events, 25 data sets, coverage
    python benchmarks/minimum.py --methods mixture lsif revert --seeds 1 2 3 --coverage 0
    python benchmarks/minimum.py --background 50000 --signal 20000      # a simulation smaller than the data
    python benchmarks/minimum.py --background 50000 --signal 20000 --simulations 50   # its error, predicted and found
    python benchmarks/minimum.py --quick                          # does it still run?

The example of hnsbi-toolkit (github.com/rafaellopesdesa/hnsbi-toolkit, examples/lhc_analysis): Gaussian mixtures, a
linear response and Gaussian resolution, and a cut on the exact p_S / p_B at which B/S falls to 250. Without nuisances
the fit of mu knows of an event no more than r = p_S / p_B, so that its minimum tests r and nothing else.

An error of the normalisation of r alone, E_B[r] - 1, moves the minimum by that times B / (S E_B[r^2]), here 190: one
standard deviation (0.55) is a normalisation off by 0.3%. E_B[r] is known to (E_B[r^2] - 1)^(1/2) / N^(1/2) from N
simulated background events, so that with as many of them as data even a perfect network is off by half a standard
deviation. That is said before any fit: ``expected`` below is this statistical error in units of sigma(mu).
"""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from measure import Section
from numpy.typing import NDArray
from one_channel import one_channel

from nuratio.data.sample import EventSample
from nuratio.errors import NuratioWarning
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.nuisance import with_simulation_nuisance
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.table import RatioTable
from nuratio.training.train import METHODS, train
from nuratio.workspace.workspace import Workspace

Floats = NDArray[np.float64]

RESPONSE = np.array([1.2, 1.1, 0.99, 0.96, 1.01])
RESOLUTION = np.array([1.0, 0.1, 0.9, 1.3, 0.2])
CUT = 2.095  # on the inclusive p_S / p_B: the loosest in steps of 0.005 with B/S <= 250
YIELDS = {"signal": 617.96, "background": 154_354.0}  # after the cut, of 1 100 and 1 000 000
INSIDE = 1 / 0.274757  # efficiency of the signal over that of the background, from 1e8 signal events: +- 5e-5 of it
SECOND_MOMENT = 1.317  # E_B[r^2]
STRENGTHS = (0.5, 1.0, 2.0)
COLUMNS = ("method", "seed", "abs(shift)", "shift", "predicted", "expected", "spread", "width", "RMS", "seconds")


@dataclass(frozen=True)
class Component:
    """A latent Gaussian: its fraction, means, standard deviations, and correlations of pairs of features."""

    fraction: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    correlation: tuple[tuple[int, int, float], ...] = ()

    @cached_property
    def latent(self) -> Floats:
        """Covariance of z, shape (5, 5)."""
        correlation = np.eye(5)
        for i, j, c in self.correlation:
            correlation[i, j] = correlation[j, i] = c
        return correlation * np.outer(self.deviation, self.deviation)

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        """Measured events x = response * z + resolution * e, shape (n, 5)."""
        z = self.mean + rng.standard_normal((n, 5)) @ np.linalg.cholesky(self.latent).T
        return RESPONSE * z + RESOLUTION * rng.standard_normal((n, 5))

    def density(self, x: Floats) -> Floats:
        """Of measured events, times the fraction; shape (n,)."""
        covariance = self.latent * np.outer(RESPONSE, RESPONSE) + np.diag(RESOLUTION**2)
        whiten = np.linalg.inv(np.linalg.cholesky(covariance))
        u = (x - RESPONSE * self.mean) @ whiten.T
        peak = self.fraction * np.diag(whiten).prod() / (2 * np.pi) ** 2.5
        return np.asarray(peak * np.exp(-0.5 * np.einsum("ij,ij->i", u, u)))


BROAD = Component(0.20, (2.5, 2.0, 3.0, 1.5, 2.5), (2.5, 2.4, 2.5, 2.4, 2.5))
MIXTURES = {
    "signal": (
        Component(0.50, (4.5, 3.2, 4.3, 2.3, 4.0), (0.9, 0.8, 1.0, 0.8, 0.9), ((0, 2, 0.5), (1, 4, 0.4))),
        Component(0.30, (4.3, 3.2, 5.0, 2.6, 4.0), (0.8, 0.9, 0.9, 0.8, 1.0), ((0, 1, 0.5), (2, 4, -0.4))),
        BROAD,
    ),
    "background": (
        Component(0.45, (2.0, 1.0, 2.5, 0.8, 2.0), (1.0, 0.9, 1.2, 0.9, 1.0), ((0, 1, 0.6), (3, 4, 0.5))),
        Component(0.35, (4.2, 3.1, 4.6, 2.6, 3.6), (0.9, 1.0, 1.0, 0.9, 1.1), ((0, 1, -0.5), (2, 3, 0.5))),
        BROAD,
    ),
}


def draw(rng: np.random.Generator, sample: str, n: int) -> Floats:
    """Events of a sample before the cut, component by component; shape (n, 5)."""
    mixture = MIXTURES[sample]
    counts = rng.multinomial(n, [c.fraction for c in mixture])
    return np.concatenate([c.draw(rng, k) for c, k in zip(mixture, counts, strict=True)])


def inclusive_ratio(x: Floats) -> Floats:
    """p_S / p_B before the cut, shape (n,)."""
    signal, background = (sum(c.density(x) for c in MIXTURES[name]) for name in ("signal", "background"))
    return np.asarray(signal / background)


def calibrate(rng: np.random.Generator, n: int) -> tuple[float, float, float]:
    """Yields of signal and background after the cut, and 1 / `INSIDE`, from n signal events before it."""
    ratio = inclusive_ratio(draw(rng, "signal", n))
    kept = ratio[ratio >= CUT]
    share = (1 / kept).mean()  # E_S[p_B / p_S | cut]: far more precise than a ratio of counts
    return 1_100 * len(kept) / n, 1_000_000 * share * len(kept) / n, share


def passing(rng: np.random.Generator, sample: str, n: int) -> tuple[NDArray[np.float32], Floats]:
    """n events of a sample after the cut, shape (n, 5), and their exact r = p_S / p_B, shape (n,)."""
    parts, found, chunk = [], 0, int(np.clip(8 * n, 10_000, 500_000))
    while found < n:
        x = draw(rng, sample, chunk)
        ratio = inclusive_ratio(x)
        kept = rng.permutation(np.flatnonzero(ratio >= CUT))  # a part of them is to be a mixture, too
        parts.append((x[kept].astype(np.float32), ratio[kept] / INSIDE))
        found += len(kept)
    x, ratio = (np.concatenate(column)[:n] for column in zip(*parts, strict=True))
    return x, ratio


@dataclass(frozen=True)
class Library:
    """Events that no training has seen, from which data sets are taken: background, then signal.

    Attributes
    ----------
    x : ndarray, shape (n, 5)
    ratio : ndarray, shape (n,)
        Exact r = p_S / p_B.
    background : int
        How many of them are background.
    """

    x: NDArray[np.float32]
    ratio: Floats
    background: int

    @classmethod
    def for_sets(cls, sets: int) -> "Library":
        """Room for so many data sets at mu = 1 that share no event, and for signal to draw again from."""
        spare = 5 * np.sqrt(sets)  # in standard deviations of one set's Poisson count, as sqrt(n) of each
        sizes = {s: int(sets * n + spare * np.sqrt(n)) + 1 for s, n in YIELDS.items()}
        return cls.draw(np.random.default_rng(0), sizes["background"], max(sizes["signal"], 100_000))

    @classmethod
    def draw(cls, rng: np.random.Generator, background: int, signal: int) -> "Library":
        """So many events of each sample."""
        parts = passing(rng, "background", background), passing(rng, "signal", signal)
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)), background)

    def disjoint(self, rng: np.random.Generator, sets: int) -> Iterator[NDArray[np.int64]]:
        """Events of data sets at mu = 1 that share none."""
        counts = rng.poisson([YIELDS["background"], YIELDS["signal"]], (sets, 2))
        needed, room = counts.sum(0), (self.background, len(self.x) - self.background)
        if (needed > room).any():
            raise ValueError(f"{sets} data sets need {needed} events of background and signal, the library has {room}")
        b, s = 0, self.background
        for n_b, n_s in counts:
            yield np.concatenate([np.arange(b, b + n_b), np.arange(s, s + n_s)])
            b, s = b + n_b, s + n_s

    def resampled(self, rng: np.random.Generator, mu: float) -> NDArray[np.int64]:
        """Events of one data set, drawn with replacement."""
        n_b, n_s = rng.poisson([YIELDS["background"], mu * YIELDS["signal"]])
        events = rng.integers(0, self.background, n_b), rng.integers(self.background, len(self.x), n_s)
        return np.sort(np.concatenate(events))  # in order: faster to read


def workspace(observed: RatioTable, simulated: "Simulated | None" = None) -> Workspace:
    """The unbinned channel: columns ``signal`` and ``background`` are ratios to q at the observed events."""
    pool = RatioTable.from_columns({"signal": [1.0], "background": [1.0], "weight": [1.0]})  # not used without shapes
    pool, behind = (pool, {}) if simulated is None else (simulated.pool, simulated.samples)
    tables = {"observed": observed, "pool": pool}
    mu = {"name": "mu", "type": "normfactor", "data": None}
    rates = [{"name": s, "data": [n], "modifiers": [mu] if s == "signal" else []} for s, n in YIELDS.items()]
    parameter = {"name": "mu", "inits": [1.0], "bounds": [[-10.0, 20.0]]}
    channel = {
        "name": "SR",
        "samples": [{"name": sample, "ratio": {"column": sample}} | behind.get(sample, {}) for sample in YIELDS],
        "events": {"observed": {"file": "observed"}, "pool": {"file": "pool", "weight": {"column": "weight"}}},
    }
    if "part" in pool:
        channel["events"]["pool"]["part"] = {"column": "part"}
    return one_channel("minimum", rates, channel, tables, [parameter])


@dataclass(frozen=True)
class Fitted:
    """mu-hat, its uncertainty, and 2 Delta ln L of a given mu."""

    mu: float
    sigma: float
    rise: float


def fit_mu(ratios: RatioTable, events: NDArray[np.int64], truth: float) -> Fitted:
    """Fit mu to some events of a table, and compare with the likelihood at the truth."""
    analysis = workspace(ratios.take(events))
    model = analysis.model(threads=1)
    data = analysis.data(model)
    result = fit(model, data)
    if not result.valid:
        raise RuntimeError(f"a fit is not valid: {result.message}")
    return Fitted(result["mu"].value, result["mu"].uncertainty, model.twice_nll([truth], data) - result.twice_nll)


@dataclass(frozen=True)
class Simulated:
    """A simulation as a workspace knows it.

    Attributes
    ----------
    pool : RatioTable
        Cross-fitted ratios, reference weights, and the part of each event.
    samples : dict
        Sample -> the key ``simulation`` of its entry. The yields are known here.
    """

    pool: RatioTable
    samples: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, estimator: RatioEstimator, samples: Mapping[str, EventSample]) -> "Simulated":
        """The simulation of a training."""
        pool, fractions = estimator.pool(samples), estimator.reference_fractions
        ratios = estimator.ratios(pool.features, event_ids=pool.event_ids)
        columns = {name: ratios[name] for name in ratios.names} | {"weight": pool.weights, "part": pool.part}
        behind = {}
        for number, part in enumerate(estimator.components):
            rho = fractions[part.name]
            where = {"parts": [{"number": number, "weight": 1 / rho}]} if rho else {}
            numbers = {"events": part.events, "effective": part.effective_size, "yield": "known"}
            behind[part.name] = {"simulation": numbers | where}
        return cls(RatioTable.from_columns(columns), behind)


def options(n: int) -> TrainingOptions:
    """Few passes over many events, many over few."""
    epochs = int(np.clip(48_000_000 / n, 8, 20))
    batch = int(np.clip(n // 300, 1024, 16384))
    return TrainingOptions(
        hidden=(48, 48, 48), epochs=epochs, batch_size=batch, learning_rate=1e-2, folds=2, ensemble=1
    )


@dataclass(frozen=True)
class Comparison:
    """Learned and exact fits of the same data sets, in units of the exact sigma(mu).

    Attributes
    ----------
    shifts, widths : ndarray, shape (sets,)
        Distance of the minima; ratio of the uncertainties.
    predicted : float
        Mean shift from the mean of the learned minus the exact ratio over the background of the library.
    expected : float
        Statistical error of a shift that the training reports: that of E_B[r] on the simulation.
    rms : float
        Of ln(learned / exact ratio) over the background.
    seconds : float
        Of training.
    """

    shifts: Floats
    widths: Floats
    predicted: float
    expected: float
    rms: float
    seconds: float


def exact_table(library: Library) -> RatioTable:
    """Ratios to q = p_B."""
    return RatioTable.from_columns({"signal": library.ratio, "background": np.ones(len(library.x))})


def learn(
    library: Library, method: str, seed: int, background: int, signal: int, how: TrainingOptions
) -> tuple[RatioTable, float, float]:
    """Simulate, train, evaluate at the library; also the error of E_B[r] on the simulation, and seconds of training."""
    estimator, _, seconds = trained(method, seed, background, signal, how, "background")
    value, error = estimator.normalisation["signal"]
    return estimator.ratios(library.x), error / value, seconds


def trained(
    method: str, seed: int, background: int, signal: int, how: TrainingOptions, reference: str | None
) -> tuple[RatioEstimator, dict[str, EventSample], float]:
    """Simulate and train: the networks, the simulation, and seconds of training."""
    rng = np.random.default_rng([seed, 1])
    sizes = {"signal": signal, "background": background}
    samples = {name: EventSample(passing(rng, name, n)[0]) for name, n in sizes.items()}
    start = time.perf_counter()
    estimator = train(samples, method=method, reference=reference, seed=seed, options=how, progress=False)
    return estimator, samples, time.perf_counter() - start


def compare(library: Library, table: RatioTable, error: float, seconds: float, sets: int) -> Comparison:
    """Fits of disjoint data sets at mu = 1 with the learned and with the exact ratios."""
    exact = exact_table(library)
    pairs = [
        (fit_mu(table, events, 1.0), fit_mu(exact, events, 1.0))
        for events in library.disjoint(np.random.default_rng(0), sets)
    ]
    per_normalisation = YIELDS["background"] / YIELDS["signal"] / SECOND_MOMENT / np.mean([e.sigma for _, e in pairs])
    r, truth = (c[: library.background] for c in (table["signal"] / table["background"], library.ratio))
    return Comparison(
        shifts=np.array([(learned.mu - e.mu) / e.sigma for learned, e in pairs]),
        widths=np.array([learned.sigma / e.sigma for learned, e in pairs]),
        predicted=float((r - truth).mean() * per_normalisation),
        expected=error * per_normalisation,
        rms=float(np.std(np.log(r / truth))),
        seconds=seconds,
    )


def coverage(library: Library, tables: list[RatioTable], sets: int) -> Section:
    """How often 2 Delta ln L <= 1 holds the true mu; data sets take turns with the trainings."""
    exact, rows, numbers = exact_table(library), [], {}
    for mu in STRENGTHS:
        rng = np.random.default_rng([0, int(100 * mu)])
        found = []
        for i in range(sets):
            events = library.resampled(rng, mu)
            found.append([fit_mu(table, events, mu) for table in (tables[i % len(tables)], exact)])
        row = [f"{mu:g}"]
        for k, name in enumerate(("learned", "exact")):
            share = np.mean([f[k].rise <= 1 for f in found])
            pull = np.array([(f[k].mu - mu) / f[k].sigma for f in found])
            numbers[f"{name}, mu = {mu:g}"] = float(share)
            row += [f"{100 * share:.1f} +- {100 * np.sqrt(share * (1 - share) / sets):.1f}%"]
            row += [f"{pull.mean():+.2f}, {pull.std():.2f}"]
        rows.append(tuple(row))
    header = ("mu", "learned", "pull: mean, width", "exact", "pull: mean, width")
    text = f"Data sets a strength: {sets}, by {len(tables)} trainings in turn. An interval of one sigma holds 68.3%."
    return Section("Coverage of 2 Delta ln L <= 1", text, header, tuple(rows), numbers)


@dataclass(frozen=True)
class Replica:
    """One simulation with one data set at mu = 1.

    Attributes
    ----------
    predicted : float
        Error of mu from the simulation, from Asimov data alone.
    shift : float
        mu-hat with learned minus mu-hat with exact ratios, on the same events.
    learned, sigma, total : float
        mu-hat, its uncertainty, and that of a fit with the simulation as a nuisance.
    exact, exact_sigma : float
        With the exact ratios.
    moved : float
        What the nuisance did to mu-hat.
    """

    predicted: float
    shift: float
    learned: float
    sigma: float
    total: float
    exact: float
    exact_sigma: float
    moved: float


def replica(library: Library, seed: int, reference: str | None, args: argparse.Namespace) -> Replica:
    """Simulate, train, predict the error, and only then take data."""
    how = replace(options(args.background + args.signal), ensemble=args.ensemble)
    estimator, samples, _ = trained(args.methods[0], seed, args.background, args.signal, how, reference)
    simulated = Simulated.of(estimator, samples)
    expected = workspace(simulated.pool.head(0).select(["signal", "background"]), simulated).model(threads=1)
    asimov = fit(expected, expected.asimov([1.0]))
    events = library.resampled(np.random.default_rng([2, seed]), 1.0)
    analysis = workspace(estimator.ratios(library.x[events]), simulated)
    results = []
    for ws in (analysis, with_simulation_nuisance(analysis, asimov)):
        model = ws.model(threads=1)
        results.append(fit(model, ws.data(model))["mu"])
    plain, total = results
    exact = fit_mu(exact_table(library), events, 1.0)
    return Replica(
        predicted=asimov["mu"].simulation,
        shift=plain.value - exact.mu,
        learned=plain.value,
        sigma=plain.uncertainty,
        total=total.uncertainty,
        exact=exact.mu,
        exact_sigma=exact.sigma,
        moved=total.value - plain.value,
    )


def simulations(library: Library, args: argparse.Namespace) -> Section:
    """The error from the simulation: predicted before any fit, and found over many simulations."""
    rows, numbers = [], {}
    for reference in (None, "background"):
        found = []
        for seed in range(1, args.simulations + 1):
            found.append(replica(library, seed, reference, args))
            print(f"{reference}, {seed}: {found[-1]}", file=sys.stderr, flush=True)
        v = {name: np.array([getattr(r, name) for r in found]) for name in Replica.__annotations__}
        pull = v["shift"] / v["predicted"]
        held = {
            "exact minimum": np.abs(pull) <= 1,
            "true mu, without": np.abs(v["learned"] - 1) <= v["sigma"],
            "true mu, with": np.abs(v["learned"] + v["moved"] - 1) <= v["total"],
            "true mu, exact ratios": np.abs(v["exact"] - 1) <= v["exact_sigma"],
        }
        name = "pooled" if reference is None else reference
        numbers |= {f"{name}, {what}": float(h.mean()) for what, h in held.items()} | {
            f"{name}, {what}": float(value)
            for what, value in (
                ("predicted", v["predicted"].mean()),
                ("found", np.sqrt((v["shift"] ** 2).mean())),
                ("pull", np.sqrt((pull**2).mean())),
            )
        }
        rows.append(
            (
                name,
                f"{v['sigma'].mean():.3f}",
                f"{v['predicted'].mean():.3f}",
                f"{np.sqrt((v['shift'] ** 2).mean()):.3f}",
                f"{pull.mean():+.2f}, {pull.std(ddof=1):.2f}",
                *(f"{100 * h.mean():.0f}%" for h in held.values()),
            )
        )
    error = 100 * np.sqrt(0.683 * 0.317 / args.simulations)
    text = (
        f"Simulations: {args.simulations}, of {args.background} background and {args.signal} signal events, each with "
        "a training and a data set of its own. Predicted: error of mu-hat from the simulation, by the influence "
        "function on Asimov data, before any fit of data. Found: rms of learned minus exact mu-hat on the same events; "
        "the pull is their ratio. Then how often an interval of one sigma holds what it should: that of the simulation "
        "alone the minimum of the exact likelihood; those of fits without and with the nuisance the true mu (68.3 +- "
        f"{error:.1f}%)."
    )
    header = ("reference", "sigma", "predicted", "found", "pull: mean, width", *(f"holds {what}" for what in held))
    return Section("The simulation's error", text, header, tuple(rows), numbers)


def section(found: dict[tuple[str, int], Comparison]) -> Section:
    """A line for each training."""
    rows, numbers = [], {}
    for (method, seed), c in found.items():
        numbers[f"{method}, {seed}"] = float(np.abs(c.shifts).mean())
        columns = [np.abs(c.shifts).mean(), c.shifts.mean(), c.predicted, c.expected, c.shifts.std(), c.widths.mean()]
        cells = [f"{columns[0]:.3f}", *(f"{v:+.3f}" for v in columns[1:3]), *(f"{v:.3f}" for v in columns[3:])]
        rows.append((method, str(seed), *cells, f"{c.rms:.3f}", f"{c.seconds:.0f}"))
    text = (
        "Learned minus exact mu-hat on the same data sets, in units of the exact sigma(mu): mean absolute value, mean, "
        "mean predicted from E_B[r] on unseen events, size expected from the statistics of the simulation, spread over "
        "the data sets. Width: ratio of the uncertainties. RMS: of ln r under the background."
    )
    return Section("The minimum", text, COLUMNS, tuple(rows), numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["mixture"], choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="each simulates and trains anew")
    parser.add_argument("--background", type=int, default=5_000_000, help="simulated events after the cut")
    parser.add_argument("--signal", type=int, default=1_000_000)
    parser.add_argument("--sets", type=int, default=25, help="data sets at mu = 1 that share no event")
    parser.add_argument("--coverage", type=int, default=1000, help="data sets a strength, for the first method")
    parser.add_argument("--simulations", type=int, default=0, help="study the error from the simulation instead")
    parser.add_argument("--ensemble", type=int, default=1, help="networks a fold, for --simulations")
    parser.add_argument("--quick", action="store_true", help="a run of a minute")
    args = parser.parse_args()
    if args.quick:
        args.background, args.signal, args.sets, args.coverage, args.seeds = 100_000, 50_000, 4, 20, args.seeds[:1]
    warnings.simplefilter("ignore", NuratioWarning)
    library = Library.for_sets(args.sets)
    if args.simulations:
        print(simulations(library, args).markdown())
        return
    found, tables = {}, []
    for method in args.methods:
        for seed in args.seeds:
            how = options(args.background + args.signal)
            table, error, seconds = learn(library, method, seed, args.background, args.signal, how)
            found[method, seed] = compare(library, table, error, seconds, args.sets)
            tables += [table] if method == args.methods[0] else []
            print(section({(method, seed): found[method, seed]}).markdown(), file=sys.stderr, flush=True)
    print(section(found).markdown())
    if args.coverage:
        print(coverage(library, tables, args.coverage).markdown())


if __name__ == "__main__":
    main()
