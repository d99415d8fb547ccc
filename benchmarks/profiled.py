"""The likelihood's minimum with three nuisances profiled: learned shapes against the exact densities, same events.

    python benchmarks/profiled.py                       # 5M + 1M simulated events, 25 data sets, coverage
    python benchmarks/profiled.py --seeds 1 2 3 --coverage 0
    python benchmarks/profiled.py --background 50000 --signal 20000 --simulations 50   # its error, predicted and found
    python benchmarks/profiled.py --quick               # does it still run?

The five-dimensional example of `minimum.py`, x = k SCALE z + m RES e, with its nuisances: response k = 1 +- 0.1,
resolution m = 1 +- 0.25, and a theory shift of the two narrow signal means by +-(0.35, -0.20, 0.30, 0.15, -0.25) in z.
The variations are the same generated z and e, so that events link; a part of the simulation trains the shapes, the rest
normalises them. The exact likelihood has the analytic derivatives of the log densities by the nuisances, first and
second, at the data events; data sets are drawn at nominal nuisances, and 155 000 events hold the two of the detector
within a few hundredths of a standard deviation.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import minimum
import numpy as np
from measure import Section
from minimum import STRENGTHS, YIELDS, Library
from numpy.typing import NDArray
from one_channel import one_channel
from scipy.optimize import brentq
from small_simulations import Settings, simulations
from varied_minimum import NUISANCES, REACH, Fitted, density, derivatives, simulate

from nuratio.data.varied import Term
from nuratio.errors import NuratioWarning
from nuratio.infer.fitting.fit import fit
from nuratio.ratios.table import RatioTable
from nuratio.training.shape import SHAPE_OPTIONS, train_shapes
from nuratio.workspace.exponent import exponent_entry
from nuratio.workspace.workspace import Workspace

Floats = NDArray[np.float64]

_MOST = 100_000  # events of the pool that normalises the signal


def exact(library: Library) -> "Learned":
    """The exact densities to second order in the nuisances, at the library's events, normalised on its background."""
    columns, rates, entries = {"signal": library.ratio, "background": np.ones(len(library.x))}, {}, {}
    own = {"signal": slice(library.background, None), "background": slice(library.background)}
    for sample, names in NUISANCES.items():
        terms, means = {}, {}
        for k in names:
            d1, d2 = derivatives(library.x, sample, k)
            terms |= {((k, 1),): d1, ((k, 2),): d2}
            factor = {side: np.mean(np.exp(side * d1[own[sample]] + d2[own[sample]])) for side in (1, -1)}
            means[k] = (float(factor[1]), float(factor[-1]))
        labels = {term: f"{sample}/{term[0][0]}/d{term[0][1]}" for term in terms}
        columns |= {labels[term]: d for term, d in terms.items()}
        of_own = {term: d[own[sample]] for term, d in terms.items()}
        rates[sample], entries[sample] = means, shape_entry(names, of_own, labels, pool=sample == "signal")
    shapes = {label: d for label, d in columns.items() if label.startswith("signal/")}
    of_signal, of_background = ({label: d[own[s]] for label, d in shapes.items()} for s in ("signal", "background"))
    pool = matched(of_signal, of_background, library.ratio[own["background"]])
    return Learned(RatioTable.from_columns(columns), pool, rates, entries, 0.0)


def matched(
    signal: Mapping[str, Floats], background: Mapping[str, Floats], ratio: Floats
) -> dict[str, NDArray[np.floating[Any]]]:
    """A pool of signal events, with D and ``weight``, that has the moments of D under r times the background.

    The signal is 1/250 of the data: what its shape does to the expected data has to be known as well as E_B[r] is, a
    part in ten thousand, and a hundred thousand signal events tell it to one in a thousand. So the pool takes means and
    mean products from all events of the background, by a correction of its weights that is linear in D and products.
    """
    rows = np.array(list(signal.values()))
    j, k = np.triu_indices(len(rows))
    many = np.array(list(background.values()))
    p = ratio / ratio.sum()
    target = np.concatenate([many @ p, ((many * p) @ many.T)[j, k]])
    h = np.concatenate([rows, rows[j] * rows[k]])
    centred = h - h.mean(axis=1, keepdims=True)
    correction = np.linalg.solve(centred @ centred.T, target - h.mean(axis=1))
    return {**signal, "weight": 1 / rows.shape[1] + correction @ centred}


@dataclass(frozen=True)
class Learned:
    """What a simulation taught: ratios and D at the library's events, rates, and how shapes are normalised.

    The background by cumulants, the signal by the integral over a pool of its own events, see `matched`.
    """

    table: RatioTable
    pool: Mapping[str, Floats]
    rates: Mapping[str, Mapping[str, tuple[float, float]]]
    shapes: Mapping[str, dict[str, Any]]
    seconds: float
    lowest: float = -10.0  # strength in fits

    def workspace(self, events: NDArray[np.int64]) -> Workspace:
        """The analysis of some events of the library."""
        observed = self.table.take(events)
        unused = np.ones(len(self.pool["weight"]))
        pool = RatioTable.from_columns(dict.fromkeys(observed.names, unused) | dict(self.pool))
        tables = {"observed": observed, "pool": pool}
        rates, samples = [], []
        for sample, total in YIELDS.items():
            normsys = [
                {"name": k, "type": "normsys", "data": dict(zip(("hi", "lo"), v, strict=True))}
                for k, v in self.rates[sample].items()
            ]
            mu = [{"name": "mu", "type": "normfactor", "data": None}] if sample == "signal" else []
            rates.append({"name": sample, "data": [total], "modifiers": mu + normsys})
            samples.append({"name": sample, "ratio": {"column": sample}} | self.shapes[sample])
        channel = {
            "name": "SR",
            "samples": samples,
            "events": {"observed": {"file": "observed"}, "pool": {"file": "pool", "weight": {"column": "weight"}}},
        }
        parameters: list[dict[str, Any]] = [{"name": "mu", "inits": [1.0], "bounds": [[self.lowest, 20.0]]}]
        parameters += [{"name": k, "bounds": [[-REACH, REACH]]} for k in NUISANCES["background"]]
        return one_channel("profiled", rates, channel, tables, parameters)

    def fit(self, events: NDArray[np.int64], truth: float | None = None) -> Fitted:
        """Fit some events."""
        analysis = self.workspace(events)
        model = analysis.model(threads=1)
        data = analysis.data(model)
        result = fit(model, data, simulation=False)
        if not result.valid:
            raise RuntimeError(f"a fit is not valid: {result.message}")
        rise = np.nan
        if truth is not None:
            rise = fit(model, data, fixed={"mu": truth}, hesse=False, simulation=False).twice_nll - result.twice_nll
        return Fitted(result["mu"].value, result["mu"].uncertainty, rise)


def learn(library: Library, seed: int, background: int, signal: int, shapes: int) -> Learned:
    """Simulate, train ratios with all events and shapes with so many, and evaluate at the library."""
    how = minimum.options(background + signal)
    estimator, samples, seconds = minimum.trained("mixture", seed, background, signal, how, "background")
    columns = dict(zip(estimator.parts, estimator.ratios(library.x).values, strict=True))
    start, rates, entries, pool = perf_counter(), {}, {}, {}
    for number, (sample, n) in enumerate({"signal": signal, "background": background}.items()):
        rng = np.random.default_rng([seed, 2, number])
        nominal, varied = simulate(rng, sample, min(shapes, n))
        epochs = int(np.clip(3_000_000 / len(nominal), 6, 20))
        est = train_shapes(
            nominal,
            varied,
            name=sample,
            seed=seed,
            options=replace(SHAPE_OPTIONS, epochs=epochs, batch_size=2048 if len(nominal) > 200_000 else 1024),
            progress=False,
        )
        rates[sample] = {
            k: tuple(next(v for v in varied if v.alpha == {k: a}).events.total / nominal.total for a in (1.0, -1.0))
            for k in NUISANCES[sample]
        }
        at_library = est.coefficients(library.x)
        names = {term: f"{sample}/{term[0][0]}/d{term[0][1]}" for term in est.terms}
        columns |= {names[term]: d for term, d in at_library.items()}
        unseen = est.coefficients(samples[sample].features)  # events that have not trained the shapes
        entries[sample] = shape_entry(NUISANCES[sample], unseen, names, pool=sample == "signal")
        if sample == "signal":
            b = samples["background"]
            of_signal = {names[term]: d[:_MOST] for term, d in unseen.items()}
            of_background = {names[term]: d for term, d in est.coefficients(b.features).items()}
            pool = matched(of_signal, of_background, estimator.ratio(b, "signal", event_ids=b.ids))
    return Learned(RatioTable.from_columns(columns), pool, rates, entries, seconds + perf_counter() - start)


def shape_entry(
    nuisances: Sequence[str], d: Mapping[Term, Floats], labels: Mapping[Term, str], *, pool: bool
) -> dict[str, Any]:
    """Modifiers of a sample, normalised on its events: by cumulants, or by a pool that is made of them."""
    rows = {((k, power),): d[((k, power),)] for power in (1, 2) for k in nuisances}
    norm: dict[str, Any] = {"type": "pool", "parameters": list(nuisances)}
    if not pool:
        columns = np.array(list(rows.values()))
        moments = {"mean": columns.mean(axis=1).tolist(), "covariance": np.cov(columns, bias=True).tolist()}
        norm |= {"type": "cumulant"} | moments
    return exponent_entry(dict(labels)) | {"normalisation": norm}


def compare(learned: Learned, truth: Sequence[Fitted], sets: Sequence[NDArray[np.int64]]) -> tuple[Floats, Floats]:
    """Shifts and widths in units of the exact sigma."""
    fits = [learned.fit(events) for events in sets]
    shifts = [(f.mu - e.mu) / e.sigma for f, e in zip(fits, truth, strict=True)]
    widths = [f.sigma / e.sigma for f, e in zip(fits, truth, strict=True)]
    return np.array(shifts), np.array(widths)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="each simulates and trains anew")
    parser.add_argument("--background", type=int, default=5_000_000, help="simulated events after the cut")
    parser.add_argument("--signal", type=int, default=1_000_000)
    parser.add_argument("--shapes", type=int, default=300_000, help="events of each sample that train the shapes")
    parser.add_argument("--sets", type=int, default=25, help="data sets at mu = 1 that share no event")
    parser.add_argument("--coverage", type=int, default=300, help="data sets a strength, for the first seed")
    parser.add_argument("--simulations", type=int, default=0, help="study the error from so many simulations instead")
    parser.add_argument("--hidden", type=int, default=32, help="width of the shapes' two layers, for --simulations")
    parser.add_argument("--epochs", type=int, default=5, help="of the shapes, for --simulations")
    parser.add_argument("--quick", action="store_true", help="a run of some seconds")
    args = parser.parse_args(arguments)
    if args.quick:
        args.background, args.signal, args.shapes, args.sets = 10_000, 5_000, 5_000, 1
        args.seeds, args.coverage = args.seeds[:1], 1
    if args.simulations:
        args.sets = args.simulations  # one each
    return args


def main(args: argparse.Namespace) -> Iterator[Section]:
    """The sections asked for."""
    warnings.simplefilter("ignore", NuratioWarning)
    library = Library.for_sets(args.sets)
    sets = list(library.disjoint(np.random.default_rng(1), args.sets))
    reference = exact(library)
    truth = [reference.fit(events, 1.0) for events in sets]
    print(f"exact: {truth}", file=sys.stderr, flush=True)
    if args.simulations:
        settings = Settings(args.background, args.signal, args.hidden, args.epochs)
        yield simulations(library, sets, truth, reference.rates, settings)
        return
    rows, numbers, first = [], {}, None
    for seed in args.seeds:
        learned = learn(library, seed, args.background, args.signal, args.shapes)
        first = first or learned
        shifts, widths = compare(learned, truth, sets)
        numbers |= {f"{seed}: abs(shift)": float(np.abs(shifts).mean()), f"{seed}: width": float(widths.mean())}
        rows.append(
            (
                str(seed),
                f"{np.abs(shifts).mean():.3f}",
                f"{shifts.mean():+.3f}",
                f"{shifts.std():.3f}",
                f"{100 * (widths.mean() - 1):+.1f}%",
                f"{learned.seconds:.0f}",
            )
        )
        print(rows[-1], file=sys.stderr, flush=True)
    text = (
        f"{args.sets} data sets at mu = 1; response, resolution and theory profiled; exact sigma(mu) "
        f"{np.mean([f.sigma for f in truth]):.3f} on average. Learned minus exact mu-hat on the same events in units "
        "of the exact sigma: mean absolute value, mean, spread. Width: ratio of the uncertainties, minus 1."
    )
    header = ("seed", "abs(shift)", "shift", "spread", "width", "seconds of training")
    yield Section("The minimum, three nuisances profiled", text, header, tuple(rows), numbers)
    if args.coverage and first is not None:
        yield coverage(library, first, args.coverage)


@dataclass(frozen=True)
class OnGrid:
    """The exact likelihood of signal strength and theory nuisance on a grid of the latter, the detector held.

    Second-order shapes are not exact far from the points that made them: a theory nuisance beyond +-1 can turn them
    into a signal that fits a downward fluctuation at negative strength. This is the likelihood without that.

    Attributes
    ----------
    values : ndarray, shape (m,)
        Of the nuisance.
    efficiency : ndarray, shape (m,)
        Of the cut for the signal, relative to the nominal one.
    """

    values: Floats
    efficiency: Floats

    @classmethod
    def of(cls, library: Library) -> "OnGrid":
        """Efficiencies from the background of a library, with weights: data are drawn from the same events."""
        values, passed = np.linspace(-4, 4, 33), np.zeros(33)
        for start in range(0, library.background, 200_000):
            some = slice(start, min(start + 200_000, library.background))
            x = library.x[some].astype(np.float64)
            weight = library.ratio[some] / density(x, "signal", {})
            passed += [weight @ density(x, "signal", {"theory": alpha}) for alpha in values]
        return cls(values, passed / passed[len(values) // 2])

    def rise(self, library: Library, events: NDArray[np.int64], truth: float) -> tuple[float, float]:
        """The best strength (not below 0), and 2 Delta ln L of the true one; the nuisance is profiled."""
        x, ratio = library.x[events].astype(np.float64), library.ratio[events]
        nominal = density(x, "signal", {})
        best, fixed = [], []
        for alpha, efficiency in zip(self.values, self.efficiency, strict=True):
            s = YIELDS["signal"] / YIELDS["background"] * ratio * density(x, "signal", {"theory": alpha}) / nominal
            total = YIELDS["signal"] * efficiency

            def twice_nll(mu: float, s: Floats = s, total: float = total, alpha: float = alpha) -> float:
                return float(2 * (mu * total - np.log1p(mu * s).sum()) + alpha**2)

            def slope(mu: float, s: Floats = s, total: float = total) -> float:
                return float(total - (s / (1 + mu * s)).sum())

            mu = brentq(slope, 0.0, 20.0) if slope(0.0) < 0 else 0.0
            best.append((twice_nll(mu), mu))
            fixed.append(twice_nll(truth))
        lowest, mu = min(best)
        return mu, min(fixed) - lowest


def coverage(library: Library, learned: Learned, sets: int) -> Section:
    """How often the interval 2 Delta ln L <= 1 has the truth, over many data sets at each strength."""
    rows, numbers = [], {}
    grid = OnGrid.of(library)
    physical = replace(learned, lowest=0.0)
    error = np.sqrt(0.683 * 0.317 / sets)
    for mu in STRENGTHS:
        rng = np.random.default_rng([int(10 * mu), 11])
        held = np.zeros((sets, 3))
        fits = []
        for number in range(sets):
            events = library.resampled(rng, mu)
            fits.append((physical.fit(events, mu), learned.fit(events, mu), grid.rise(library, events, mu)))
            held[number] = [fits[-1][0].rise <= 1, fits[-1][1].rise <= 1, fits[-1][2][1] <= 1]
        shares = 100 * held.mean(axis=0)
        different = 100 * (held[:, 0] - held[:, 2]).std() / np.sqrt(sets)
        shift = np.mean([f[0].mu - f[2][0] for f in fits])
        names = ("mu not below 0", "mu of any sign", "exact")
        numbers |= {f"coverage at {mu:g}, {name}": share / 100 for name, share in zip(names, shares, strict=True)}
        rows.append(
            (
                f"{mu:g}",
                *(f"{share:.1f} +- {100 * error:.1f}%" for share in shares),
                f"{different:.1f}%",
                f"{shift:+.3f}",
            )
        )
        print(rows[-1], file=sys.stderr, flush=True)
    text = (
        f"{sets} data sets at each strength, events drawn again from the library. Learned shapes with the strength not "
        "below 0 (pyhf's default bounds) and of any sign; exact densities at every value of the theory nuisance, "
        "strength not below 0, detector held. The error of the difference of the first and the last is given: the data "
        "sets are the same. Shift: mean difference of the two best strengths."
    )
    header = ("mu", "learned, mu >= 0", "learned, any sign", "exact, mu >= 0", "error of the difference", "shift")
    return Section("Coverage, profiled", text, header, tuple(rows), numbers)


if __name__ == "__main__":
    for part in main(parse()):
        print(part.markdown())
