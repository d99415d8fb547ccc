"""Coverage: where Wilks' theorem holds, and where only a Neyman belt covers.

    python benchmarks/neyman_belts.py                    # interference: yield mu - sqrt(mu), two minima
    python benchmarks/neyman_belts.py NTUPLES            # and the dilepton example with its exact densities
    python benchmarks/neyman_belts.py --quick

Interference. A Gaussian peak on a smooth background whose yield is 800 (mu - sqrt(mu)), from -200 events at mu = 1/4 to
0 at mu = 0 and 1: two strengths fit alike, and none fits a deeper dip. A nuisance for the background's yield (10%) and
one for its slope. The belt has the nuisances at their nominal values; coverage is counted between its points and at
other nuisances.

Dilepton. NTUPLES holds data_kappa1_truth.root, exact densities at 32103 events of kappa = 1, and
data_kappa1_exact.json. The events are the pool from which toys are drawn, at nine points of kappa and mass scale; mass
scale, resolution, factorisation scale and PDF set are profiled.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from dilepton import DENSITIES, NUISANCES, Truth
from measure import Section
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from nuratio.infer.profiles.intervals import interval
from nuratio.infer.toys.coverage import coverage, grid_points
from nuratio.infer.toys.neyman import NeymanResult, neyman
from nuratio.infer.toys.result import proportion
from nuratio.infer.toys.toys import toys
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

Floats = NDArray[np.float64]

SIGNAL, BACKGROUND, SLOPE, PEAK, WIDTH = 800.0, 3000.0, 5.0, 4.0, 0.7
STARTS = (0.01, 0.25, 1.2)
LEVEL = 0.683
BOUNDS = (0.0, 3.0)


def interference(*, pool: int = 30_000, observed: int | None = None, mu: float = 0.05) -> Workspace:
    """The example; with ``observed`` a seed for data drawn at ``mu``."""
    rng = np.random.default_rng(17)
    inside = 1 - np.exp(-10 / SLOPE)

    def exponential(rng: np.random.Generator, n: int) -> Floats:
        return -SLOPE * np.log(1 - rng.uniform(size=n) * inside)

    def columns(x: Floats, **more: Floats) -> RatioTable:
        p = {"background": np.exp(-x / SLOPE) / (SLOPE * inside), "signal": norm.pdf(x, PEAK, WIDTH)}
        q = (p["background"] + p["signal"]) / 2
        return RatioTable.from_columns({k: v / q for k, v in p.items()} | {"d1": 0.1 * (x - 5) / 5} | more, np.float64)

    half = pool // 2
    simulated = np.concatenate([exponential(rng, half), rng.normal(PEAK, WIDTH, pool - half)])
    data = np.array([5.0])
    if observed is not None:
        rng = np.random.default_rng([17, observed])
        x = exponential(rng, int(1.2 * BACKGROUND))  # thinned to the density, which has a dip
        dip = 1 + SIGNAL * (mu - np.sqrt(mu)) / BACKGROUND * norm.pdf(x, PEAK, WIDTH) * SLOPE * inside / np.exp(
            -x / SLOPE
        )
        kept = x[rng.uniform(size=len(x)) < dip / dip.max()]
        data = kept[: rng.poisson(BACKGROUND + SIGNAL * (mu - np.sqrt(mu)))]
    tables = {"observed": columns(data), "pool": columns(simulated, weight=np.full(pool, 1 / pool))}
    strength = {"name": "strength", "type": "normfactor", "data": None}

    def normsys(name: str, size: float) -> dict[str, Any]:
        return {"name": name, "type": "normsys", "data": {"hi": 1 + size, "lo": 1 - size}}

    shape = {"name": "slope", "type": "ratiosys", "interpcode": "quadexp", "data": {"d1": {"column": "d1"}}}
    normalisation = {"type": "pool", "parameters": ["slope"]}
    rates = [
        {"name": "background", "data": [BACKGROUND], "modifiers": [normsys("norm", 0.1), normsys("slope", 0.0)]},
        {"name": "signal", "data": [SIGNAL], "modifiers": [strength]},
    ]
    samples = [
        {
            "name": "background",
            "ratio": {"column": "background"},
            "modifiers": [shape],
            "normalisation": normalisation,
        },
        {"name": "signal", "ratio": {"column": "signal"}},
    ]
    parameters = [
        {"name": "strength", "expression": "mu - sqrt(mu)"},
        {"name": "mu", "inits": [0.5], "bounds": [list(BOUNDS)]},
    ]
    return _workspace(rates, samples, tables, parameters, poi="mu")


def _workspace(
    rates: list[dict[str, Any]],
    samples: list[dict[str, Any]],
    tables: Mapping[str, RatioTable],
    parameters: list[dict[str, Any]],
    poi: str,
    settings: list[dict[str, Any]] | None = None,
) -> Workspace:
    channel = {
        "name": "SR",
        "samples": samples,
        "events": {"observed": {"file": "observed"}, "pool": {"file": "pool", "weight": {"column": "weight"}}},
    }
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "SR", "samples": rates}],
        "observations": [{"name": "SR", "data": [len(tables["observed"])]}],
        "measurements": [{"name": "coverage", "config": {"poi": "", "parameters": settings or []}}],
        "unbinned": {
            "version": "1.0.0",
            "poi": poi,
            "files": [file_entry(name, table) for name, table in tables.items()],
            "parameters": parameters,
            "channels": [channel],
        },
    }
    return Workspace(spec, tables)


def belt(n: int, points: int) -> tuple[Section, NeymanResult]:
    """The belt of the interference example, and how often it and Wilks' intervals hold the truth."""
    model = interference().model(threads=1)
    values = np.concatenate(  # close where the critical value is steep
        [
            np.linspace(0, 0.1, points // 4),
            np.linspace(0.1, 0.6, points // 2)[1:],
            np.linspace(0.6, 1.6, points // 4)[1:],
        ]
    )
    found = neyman(model, None, values.tolist(), level=LEVEL, n=n, starts=STARTS, progress=False)
    rows, numbers = [], {}
    wilks = chi2.ppf(LEVEL, 1)
    truths = [(mu, {}) for mu in (0.02, 0.06, 0.21, 0.4, 0.72, 1.05, 1.4)] + [(0.06, {"norm": 1.0, "slope": -1.0})]
    for number, (mu, nuisances) in enumerate(truths):
        drawn = toys(
            model, {"mu": mu} | nuisances, n, tests=[("t", mu)], seed=[2, number], starts=STARTS, progress=False
        )
        t = drawn.statistic("t", mu)
        held, error = proportion(int(np.count_nonzero(t <= found.critical_at(mu))), len(t))
        by_wilks, wilks_error = proportion(int(np.count_nonzero(t <= wilks)), len(t))
        numbers |= {f"belt {number}": held, f"Wilks {number}": by_wilks, f"failed {number}": float(len(drawn.failures))}
        name = f"{mu:g}" + (f" ({', '.join(f'{k} = {v:g}' for k, v in nuisances.items())})" if nuisances else "")
        rows.append(
            (
                name,
                f"{found.critical_at(mu):.2f}",
                f"{100 * held:.1f} +- {100 * error:.1f}%",
                f"{100 * by_wilks:.1f} +- {100 * wilks_error:.1f}%",
            )
        )
        print(rows[-1], file=sys.stderr, flush=True)
    text = (
        f"{n} toys at each of {len(values)} strengths of the belt, and at each true value; {100 * LEVEL:g}% asked for. "
        f"Wilks: 2 Delta ln L <= {wilks:.3g}."
    )
    return Section(
        "Two minima: yield mu - sqrt(mu)", text, ("mu", "critical value", "belt", "Wilks"), tuple(rows), numbers
    ), found


def one_data_set(critical: NeymanResult) -> Section:
    """Both intervals of data with two minima."""
    analysis = interference(observed=4)
    model = analysis.model(threads=1)
    data = analysis.data(model)
    found = interval(model, data, "mu", level=LEVEL)
    own = neyman(
        model, data, critical.values.tolist(), level=LEVEL, n=critical.toys // 2, starts=STARTS, progress=False
    )

    def told(pieces: Any) -> str:
        return ", ".join(f"[{low:.3f}, {high:.3f}]" for low, high in pieces)

    text = (
        f"Profile likelihood: {told(found.pieces[0])}. Neyman, nuisances profiled: {told(own.pieces)}. Best fit "
        f"{own.bestfit:.3f}."
    )
    return Section("The intervals of one data set drawn at mu = 0.05", text, numbers={"pieces": float(len(own.pieces))})


def dilepton(folder: Path) -> Workspace:
    """Exact densities of the dilepton example; the data events are the pool."""
    truth = Truth.read(folder)
    columns, rates, shapes = {}, [], []
    at_one, total = (sum(of[d] for d in DENSITIES.values()) for of in (truth.densities, truth.yields))
    for sample in DENSITIES:
        exact, density = (truth.varied(sample, of) for of in (truth.yields, truth.densities))
        columns |= {sample + side: d / exact[""] / (at_one / total) for side, d in density.items()}
        factor = {"interference": "kappa", "newphys": "kappa_squared"}.get(sample)
        modifiers = [] if factor is None else [{"name": factor, "type": "normfactor", "data": None}]
        varied = []
        for name in NUISANCES:
            sides = {side: f"/{name}/{side}" for side in ("hi", "lo")}
            data = {side: exact[key] / exact[""] for side, key in sides.items()}
            modifiers.append({"name": name, "type": "normsys", "data": data})
            entry = {"name": name, "type": "ratiosys", "interpcode": "code4p", "integral": data}
            varied.append(entry | {"data": {side: {"column": sample + key} for side, key in sides.items()}})
        rates.append({"name": sample, "data": [exact[""]], "modifiers": modifiers})
        shapes.append({"name": sample, "ratio": {"column": sample}, "modifiers": varied})
    n = len(at_one)
    tables = {
        "observed": RatioTable.from_columns(columns),
        "pool": RatioTable.from_columns(columns | {"weight": np.full(n, 1 / n)}),
    }
    parameters = [{"name": "kappa_squared", "expression": "kappa**2"}]
    settings = [{"name": "kappa", "inits": [1.0], "bounds": [[-2.0, 4.0]]}]
    return _workspace(rates, shapes, tables, parameters, "kappa", settings)


def nine_points(folder: Path, n: int) -> Section:
    """Coverage of the dilepton example."""
    model = dilepton(folder).model(threads=1)
    points = grid_points({"kappa": [0.7, 1.0, 1.3], "mu_scale": [-1.0, 0.0, 1.0]})
    found = coverage(model, points, n, progress=False)
    rows = tuple(
        (
            ", ".join(f"{k} = {v:g}" for k, v in p.point.items()),
            *(f"{100 * c:.1f} +- {100 * e:.1f}%" for c, e in zip(p.coverage, p.coverage_error, strict=True)),
            f"{p.bias:+.4f} +- {p.bias_error:.4f}",
            f"{p.pull_width:.3f}",
            str(p.failed),
        )
        for p in found.points
    )
    numbers = {
        f"{i}, {level:g}": float(p.coverage[j])
        for i, p in enumerate(found.points)
        for j, level in enumerate(found.levels)
    }
    means = ", ".join(
        f"{100 * np.mean([p.coverage[j] for p in found.points]):.1f}% at {100 * level:g}%"
        for j, level in enumerate(found.levels)
    )
    text = f"{n} toys at each point, four nuisances profiled. Verdict: {found.verdict}. All points together: {means}."
    return Section(
        "Dilepton, exact densities", text, ("truth", "68.3%", "95%", "bias", "pull width", "failed"), rows, numbers
    )


def main(arguments: list[str] | None = None) -> list[Section]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ntuples", type=Path, nargs="?")
    parser.add_argument("--toys", type=int, default=600, help="at each point of the belt; a third of them for dilepton")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(arguments)
    n, points = (20, 8) if args.quick else (args.toys, 40)
    section, critical = belt(n, points)
    done = [section, one_data_set(critical)]
    if args.ntuples is not None:
        done.append(nine_points(args.ntuples, max(n // 2, 5)))
    for made in done:
        print(made.markdown())
    return done


if __name__ == "__main__":
    main()
