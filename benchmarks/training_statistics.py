"""Do intervals cover when the simulation is small? Each way to put the error of the training into the likelihood.

    python benchmarks/training_statistics.py                   # 300 simulations of 1000 events, data x 0.3, 1, 3, 10
    python benchmarks/training_statistics.py --problems interference --methods mixture lsif
    python benchmarks/training_statistics.py --quick           # does it still run?

In one dimension, with known densities: a signal N(1, 0.5), or an interference of both signs, 2 N(1, 0.5) - N(-1, 0.5),
of strength mu on a background N(0, 1.5), S/B = 0.1. Yields are known, so the only errors are those of the data and of
the ratios. Every simulation has trainings of its own, and a data set of every size, in units of the simulated events.
"""

import argparse
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from measure import Section
from numpy.typing import NDArray
from one_channel import one_channel, trained_channel

from nuratio.data.sample import EventSample
from nuratio.errors import NuratioWarning
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.nuisance import with_simulation_nuisance
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.table import RatioTable
from nuratio.training.replicas import with_replicas
from nuratio.training.train import train
from nuratio.workspace.workspace import Workspace

Floats = NDArray[np.float64]

PROBLEMS: dict[str, dict[str, tuple[tuple[float, float, float], ...]]] = {  # sample -> (weight, mean, width), ...
    "signal": {"signal": ((1.0, 1.0, 0.5),), "background": ((1.0, 0.0, 1.5),)},
    "interference": {"signal": ((2.0, 1.0, 0.5), (-1.0, -1.0, 0.5)), "background": ((1.0, 0.0, 1.5),)},
}
SHARES = {"signal": 1 / 11, "background": 10 / 11}  # of the expected data
SIZES = (0.3, 1.0, 3.0, 10.0)
NETWORK = TrainingOptions(hidden=(16, 16), epochs=20, batch_size=256, learning_rate=1e-2, folds=2, ensemble=2)
BOUNDS = [-20.0, 20.0]


def density(components: Sequence[tuple[float, float, float]], x: Floats) -> Floats:
    """Of a signed mixture of Gaussians, shape (n,)."""
    return np.asarray(sum(w * np.exp(-0.5 * ((x - m) / s) ** 2) / (s * np.sqrt(2 * np.pi)) for w, m, s in components))


def simulate(
    rng: np.random.Generator, problem: Mapping[str, Any], events: int, expected: float
) -> dict[str, EventSample]:
    """So many events, half of each sample, with weights of equal size that add up to the yields."""
    samples = {}
    for name, components in problem.items():
        size = np.array([abs(w) for w, _, _ in components])
        counts = rng.multinomial(events // 2, size / size.sum())
        x = np.concatenate([rng.normal(m, s, n) for (_, m, s), n in zip(components, counts, strict=True)])
        sign = np.repeat(np.sign([w for w, _, _ in components]), counts)
        order = rng.permutation(len(x))
        samples[name] = EventSample(x[order], (sign * expected * SHARES[name] / sign.sum())[order])
    return samples


def known(estimator: RatioEstimator, problem: Mapping[str, Any], expected: float) -> RatioEstimator:
    """With the exact yields of its samples, or parts of samples, in place of the sums of weights."""
    components = []
    for part in estimator.components:
        of_part = [w for w, _, _ in problem[part.sample] if part.name == part.sample or w * part.sign > 0]
        components.append(replace(part, total=expected * SHARES[part.sample] * sum(of_part)))
    return replace(estimator, components=tuple(components))


def observe(rng: np.random.Generator, problem: Mapping[str, Any], expected: float, mu: float = 1.0) -> Floats:
    """A data set: rejection from a Gaussian mixture that is above the total density."""
    yields = {"signal": mu * expected * SHARES["signal"], "background": expected * SHARES["background"]}
    positive = [(yields[n] * w, m, s) for n, c in problem.items() for w, m, s in c if w > 0]
    counts = rng.poisson([w for w, _, _ in positive])
    x = np.concatenate([rng.normal(m, s, n) for (_, m, s), n in zip(positive, counts, strict=True)])
    total = sum(yields[name] * density(c, x) for name, c in problem.items())
    return np.asarray(x[rng.random(len(x)) * density(positive, x) < total])


def workspace(
    estimator: RatioEstimator,
    nominal: Mapping[str, EventSample],
    observed: Floats,
    directions: Mapping[str, Any] | None = None,
) -> Workspace:
    """The analysis of one region, as it is built from a configuration, with known yields."""
    entry, tables, names = trained_channel(observed, nominal, estimator, directions=directions)
    mu = {"name": "mu", "type": "normfactor", "data": None}
    inert = [{"name": name, "type": "normsys", "data": {"hi": 1.0, "lo": 1.0}} for name in names]
    rates = [
        {"name": p.name, "data": [p.total], "modifiers": [*([mu] if p.sample == "signal" else []), *inert]}
        for p in estimator.components
    ]
    return one_channel("statistics", rates, entry, tables, [{"name": "mu", "inits": [1.0], "bounds": [BOUNDS]}])


def exact_workspace(problem: Mapping[str, Any], expected: float, observed: Floats) -> Workspace:
    """The same with the ratios to the background that are exact."""
    ratio = density(problem["signal"], observed) / density(problem["background"], observed)
    one = RatioTable.from_columns({"signal": [1.0], "background": [1.0], "weight": [1.0]})
    tables = {"observed": RatioTable.from_columns({"signal": ratio, "background": np.ones(len(ratio))}), "pool": one}
    mu = {"name": "mu", "type": "normfactor", "data": None}
    rates = [{"name": n, "data": [expected * SHARES[n]], "modifiers": [mu] if n == "signal" else []} for n in problem]
    entry = {
        "name": "SR",
        "samples": [{"name": name, "ratio": {"column": name}} for name in problem],
        "events": {"observed": {"file": "observed"}, "pool": {"file": "pool", "weight": {"column": "weight"}}},
    }
    return one_channel("statistics", rates, entry, tables, [{"name": "mu", "inits": [1.0], "bounds": [BOUNDS]}])


@dataclass(frozen=True)
class Found:
    """mu-hat, its uncertainty and that from the simulation, 2 Delta ln L of the true mu, and how many nuisances."""

    mu: float
    sigma: float
    simulation: float
    rise: float
    nuisances: int


def fitted(analysis: Workspace, truth: float) -> Found:
    """Fit mu; NaN where the fit is not valid."""
    model = analysis.model(threads=1)
    data = analysis.data(model)
    free = fit(model, data)
    fixed = fit(model, data, fixed={"mu": truth}, hesse=False)
    if not (free.valid and fixed.valid):
        return Found(np.nan, np.nan, np.nan, np.nan, len(free.names) - 1)
    mu = free["mu"]
    return Found(mu.value, mu.uncertainty, mu.simulation, fixed.twice_nll - free.twice_nll, len(free.names) - 1)


def one_simulation(
    seed: int, *, problem: str, method: str, events: int, sizes: Sequence[float], members: int, draws: int, mu: float
) -> dict[tuple[float, str], Found]:
    """Simulate, train, and fit a data set of every size: (size, what is in the likelihood) -> result."""
    warnings.simplefilter("ignore", NuratioWarning)
    torch.set_num_threads(1)
    rng, densities = np.random.default_rng([seed, 7]), PROBLEMS[problem]
    samples = simulate(rng, densities, events, float(events))
    learn = partial(train, samples, method=method, seed=seed, progress=False)
    plain = learn(options=NETWORK)
    bagged = with_replicas(learn(options=replace(NETWORK, ensemble=members, bootstrap=True)), samples, "bootstrap")
    sources = {
        "last_layer": with_replicas(plain, samples, draws=draws),
        "bootstrap": bagged,
        "ensemble": with_replicas(plain, samples, "ensemble"),
    }
    kept = {"explained": 0.95, "most": 10}
    found: dict[tuple[float, str], Found] = {}
    for size in sizes:
        observed = observe(rng, densities, size * events, mu)
        found[size, "exact"] = fitted(exact_workspace(densities, size * events, observed), mu)
        for name, estimator in (("none", plain), ("none, bagged", bagged)):
            analysis = workspace(known(estimator, densities, size * events), samples, observed)
            found[size, name] = fitted(analysis, mu)
            if name == "none":
                model = analysis.model(threads=1)
                asimov = fit(model, model.asimov(model.config.suggested_init()))
                found[size, "influence"] = fitted(with_simulation_nuisance(analysis, asimov), mu)
                found[size, "none"] = replace(found[size, "none"], simulation=asimov["mu"].simulation)
        for source, estimator in sources.items():
            sized = known(estimator, densities, size * events)
            found[size, source] = fitted(workspace(sized, samples, observed, kept), mu)
    return found


KINDS = {
    "exact": "exact densities",
    "none": "nothing",
    "none, bagged": "nothing, bagged networks",
    "ensemble": "directions, ensemble",
    "influence": "influence nuisance",
    "last_layer": "directions, last layer",
    "bootstrap": "directions, bootstrap",
}


HEADER = (
    "data",
    "in the likelihood",
    "mean",
    "sd",
    "sigma",
    "mu +- sigma",
    "2 dlnL",
    "exact minimum",
    "nuisances",
    "failed",
)


def section(
    problem: str, method: str, found: list[dict[tuple[float, str], Found]], events: int, truth: float
) -> Section:
    """Coverage for each size of the data and each way."""
    rows, numbers = [], {}
    for size in dict.fromkeys(size for size, _ in found[0]):
        for kind, label in KINDS.items():
            results = [f[size, kind] for f in found]
            mu, sigma, simulation, rise, nuisances = (
                np.array([getattr(r, name) for r in results]) for name in Found.__annotations__
            )
            valid = np.isfinite(mu)
            exact = np.array([f[size, "exact"].mu for f in found])
            held = np.abs(mu - truth)[valid] <= sigma[valid]
            numbers |= {
                f"{size:g}, {kind}, coverage": float(held.mean()),
                f"{size:g}, {kind}, valid": float(valid.mean()),
                f"{size:g}, {kind}, sigma": float(sigma[valid].mean()),
            }
            of_exact = ""
            if kind == "none":
                numbers[f"{size:g}, exact minimum"] = share = float(
                    (np.abs(mu - exact)[valid] <= simulation[valid]).mean()
                )
                of_exact = f"{100 * share:.0f}%"
            rows.append(
                (
                    f"{size:g}",
                    label,
                    f"{mu[valid].mean():.3f}",
                    f"{mu[valid].std(ddof=1):.3f}",
                    f"{sigma[valid].mean():.3f}",
                    f"{100 * held.mean():.0f}%",
                    f"{100 * (rise[valid] <= 1).mean():.0f}%",
                    of_exact,
                    f"{nuisances.mean():.1f}",
                    f"{(~valid).sum()}",
                )
            )
    error = 100 * np.sqrt(0.683 * 0.317 / len(found))
    text = (
        f"Simulations: {len(found)} of {events} events, by {method}. Data: times as many as simulated events. Mean and "
        "standard deviation of mu-hat, its mean uncertainty, and how often mu-hat +- sigma, and 2 Delta ln L <= 1, "
        f"hold the true mu = {truth:g} (68.3 +- {error:.1f}%); how often the error from the simulation, by the "
        "influence function on Asimov data, holds the minimum of the exact likelihood of the same data. Nuisances; "
        "fits that were not valid, which count in nothing else."
    )
    title = f"Coverage with few simulated events: {problem}, {method}"
    return Section(title, text, HEADER, tuple(rows), numbers)


def study(problem: str, method: str, args: argparse.Namespace) -> Section:
    """All simulations of one problem and method."""
    work = partial(
        one_simulation,
        problem=problem,
        method=method,
        events=args.events,
        sizes=args.sizes,
        members=args.members,
        draws=args.draws,
        mu=args.mu,
    )
    if args.processes == 1:
        found = [work(seed) for seed in range(1, args.simulations + 1)]
    else:
        with ProcessPoolExecutor(args.processes) as pool:
            found = list(pool.map(work, range(1, args.simulations + 1)))
    return section(problem, method, found, args.events, args.mu)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=["signal"], choices=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=["mixture"], help="mixture, lsif, linear, ...")
    parser.add_argument("--simulations", type=int, default=300)
    parser.add_argument("--events", type=int, default=1000, help="simulated events of both samples together")
    parser.add_argument("--sizes", nargs="+", type=float, default=SIZES, help="data in units of the simulation")
    parser.add_argument("--members", type=int, default=10, help="of the bootstrap, for each fold")
    parser.add_argument("--draws", type=int, default=100, help="of the last layer")
    parser.add_argument("--mu", type=float, default=1.0, help="of the data; directions and influence are those at 1")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a run of seconds")
    args = parser.parse_args(arguments)
    if args.quick:
        args.simulations, args.sizes, args.members, args.draws, args.processes = 2, args.sizes[:2], 3, 10, 1
    return args


def main(args: argparse.Namespace) -> list[Section]:
    sections = []
    for problem, method in product(args.problems, args.methods):
        sections.append(study(problem, method, args))
        print(sections[-1].markdown(), flush=True)
    return sections


if __name__ == "__main__":
    main(parse())
