"""Learned against exact on the dilepton ntuples: kappa with and without nuisances, the ratios and the shapes.

    python benchmarks/dilepton.py NTUPLES [--methods mixture rosmm lsif] [--seeds 1 2 3 4] [--cache DIR]
    python benchmarks/dilepton.py NTUPLES --training '{"Ratio": {"epochs": 40}}'    # beside workspaces/dilepton.yml

NTUPLES holds sm.root, interference.root, newphys.root, data_kappa1.root, and with the exact densities at the data
events and the exact yields data_kappa1_truth.root and data_kappa1_exact.json. The exact-likelihood fits of these data
give kappa = 0.9743 +- 0.0160 with the nuisances held, 0.9625 +- 0.0188 with the mass scale profiled, and 0.9368 +-
0.0456 with mass scale, resolution, factorisation scale and PDF set. The last one depends on how the exact densities are
put together where two nuisances vary, which nobody simulated: products for sm and newphys and sums for the interference
give that number, sums for all (the first line here) 0.934 +- 0.032, products for all 0.883 +- 0.053.

No training knows more than its simulation. The first two lines are fits with exact shapes, with the exact yields and
with those of the simulation; the errors from the statistics of the simulation are those of the influence function.
Methods that leave the interference in one sample cannot vary its shape: only the first fit is made with them.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import uproot
from measure import Section
from numpy.typing import NDArray

from nuratio.errors import NuratioWarning
from nuratio.infer.fitting.fit import fit
from nuratio.ratios.table import RatioTable
from nuratio.workspace.build import build
from nuratio.workspace.config import Config
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

Yields = Mapping[str, Mapping[str, float]]  # sample -> nominal (an empty name), and nuisance/hi, nuisance/lo

NUISANCES = {"mu_scale": "scale", "mu_res": "res", "muF": "muF", "pdf": "pdf"}
EXACT = {
    "held": (0.9743, 0.0160, tuple(NUISANCES)),
    "mass scale profiled": (0.9625, 0.0188, ("mu_res", "muF", "pdf")),
    "all profiled": (0.9368, 0.0456, ()),
}
DENSITIES = {"sm": "d_B", "interference": "d_I", "newphys": "d_S"}
POINTS = {"m2": -2.0, "m1": -1.0, "p1": 1.0, "p2": 2.0}
SPLIT = ("mixture", "rosmm", "rosmm_c", "rosmm_r")
CONFIG = Path(__file__).parents[1] / "workspaces" / "dilepton.yml"


@dataclass(frozen=True)
class Truth:
    """Exact differential yields at the data events, and their integrals, by names such as ``d_I_scale_p1``."""

    densities: Mapping[str, NDArray[np.float64]]
    yields: Mapping[str, float]

    @classmethod
    def read(cls, folder: Path) -> "Truth":
        """From the files beside the ntuples."""
        with uproot.open(folder / "data_kappa1_truth.root") as file:
            densities = file["truth"].arrays(library="np")
        return cls(densities, json.loads((folder / "data_kappa1_exact.json").read_text())["yields"])

    def varied(self, sample: str, of: Mapping[str, Any]) -> dict[str, Any]:
        """Densities or yields of a sample, nominal and at +-1 of each nuisance; a missing side mirrors the other."""
        d = DENSITIES[sample]
        found = {"": of[d]}
        for name, exact in NUISANCES.items():
            up = of[f"{d}_{exact}_p1"]
            found |= {f"/{name}/hi": up, f"/{name}/lo": of.get(f"{d}_{exact}_m1", 2 * of[d] - up)}
        return found

    @property
    def rates(self) -> Yields:
        """Exact yields of the samples."""
        return {sample: self.varied(sample, self.yields) for sample in DENSITIES}


@dataclass(frozen=True)
class Row:
    """kappa of one workspace against the exact likelihood, per fit; what `ratios` says where they are learned."""

    shifts: Mapping[str, float]
    widths: Mapping[str, float]
    simulation: Mapping[str, float]
    rms: tuple[float, ...] = ()
    nonpositive: int = 0
    seconds: float = 0.0


def exact_workspace(learned: Workspace, truth: Truth, yields: Yields) -> Workspace:
    """Exact shapes at the data events with the given yields; parameters are those of a learned workspace."""
    columns, rates, shapes = {}, [], []
    for sample in DENSITIES:
        exact, density = (truth.varied(sample, of) for of in (truth.yields, truth.densities))
        columns |= {sample + side: d / truth.densities["d_B"] / exact[""] for side, d in density.items()}
        total, factor = yields[sample][""], {"interference": "kappa", "newphys": "kappa_squared"}.get(sample)
        modifiers = [] if factor is None else [{"name": factor, "type": "normfactor", "data": None}]
        varied = []
        for name in NUISANCES:
            sides = {side: f"/{name}/{side}" for side in ("hi", "lo")}
            data = {side: yields[sample][key] / total for side, key in sides.items()}
            modifiers.append({"name": name, "type": "normsys", "data": data})
            varied.append(
                {
                    "name": name,
                    "type": "ratiosys",
                    "interpcode": "code4p",
                    "data": {side: {"column": sample + key} for side, key in sides.items()},
                    "integral": {side: exact[key] / exact[""] for side, key in sides.items()},
                }
            )
        rates.append({"name": sample, "data": [total], "modifiers": modifiers})
        shapes.append({"name": sample, "ratio": {"column": sample}, "modifiers": varied})
    observed = RatioTable.from_columns(columns)
    pool = RatioTable.from_columns({name: [1.0] for name in [*columns, "weight"]})  # not used: the integrals are known
    tables = {"observed": observed, "pool": pool}
    channel = {
        "name": "SR",
        "samples": shapes,
        "events": {"observed": {"file": "observed"}, "pool": {"file": "pool", "weight": {"column": "weight"}}},
    }
    files = [file_entry(name, table) for name, table in tables.items()]
    extension = dict(learned.spec["unbinned"]) | {"files": files, "channels": [channel], "axes": []}
    spec = dict(learned.spec) | {"channels": [{"name": "SR", "samples": rates}], "unbinned": extension}
    return Workspace(spec, tables)


def simulated_yields(workspace: Workspace) -> Yields:
    """Of each sample, its parts added."""
    found: dict[str, dict[str, float]] = {sample: {} for sample in DENSITIES}
    for part in workspace.spec["channels"][0]["samples"]:
        total, mine = part["data"][0], found[part["name"].split("[")[0]]
        values = {"": total}
        for m in part["modifiers"]:
            if m["type"] == "normsys":
                values |= {f"/{m['name']}/{side}": total * m["data"][side] for side in ("hi", "lo")}
        for side, value in values.items():
            mine[side] = mine.get(side, 0.0) + value
    return found


def fits(workspace: Workspace) -> Row:
    """kappa with nuisances held and, if they are there, profiled."""
    model = workspace.model()
    data = workspace.data(model)
    shifts, widths, simulation = {}, {}, {}
    there = [name for name in NUISANCES if name in model.config.par_names]
    for name, (value, sigma, held) in list(EXACT.items())[: None if there else 1]:
        result = fit(model, data, fixed=dict.fromkeys((k for k in held if k in there), 0.0))
        if not result.valid:
            raise RuntimeError(f"{name}: {result.message}")
        shifts[name] = (result["kappa"].value - value) / sigma
        widths[name] = result["kappa"].uncertainty / sigma - 1
        simulation[name] = result["kappa"].simulation / sigma
    return Row(shifts, widths, simulation)


def shapes(workspace: Workspace, truth: Truth) -> Section:
    """ln of the density at kappa = 1 over the nominal one at -2, -1, 1, 2 of each nuisance: learned minus exact."""
    model = workspace.model()
    cell, theta = model.unbinned["SR"].cells[0], np.array(model.config.suggested_init())
    theta[model.config.par_names.index("kappa")] = 1.0

    def learned(alpha: Mapping[str, float]) -> NDArray[np.float64]:
        point = theta.copy()
        for name, value in alpha.items():
            point[model.config.par_names.index(name)] = value
        values = model.parameters.expand(point).values
        nu = model.rates.rates(values).nu[model.rates.cells("SR", 0)]
        parts = [np.log(nu @ t) for _, t, _ in cell.evaluate(cell.observed, values, size=8192)]
        return np.asarray(np.concatenate(parts))

    nominal, exact_nominal = learned({}), sum(truth.densities[d] for d in DENSITIES.values())
    rows, numbers = [], {}
    for name, exact in NUISANCES.items():
        cells = []
        for point, value in POINTS.items():
            if f"d_B_{exact}_{point}" not in truth.densities:
                cells.append("")
                continue
            varied = sum(truth.densities[f"{d}_{exact}_{point}"] for d in DENSITIES.values())
            difference = np.log(varied / exact_nominal)
            off = learned({name: value}) - nominal - difference
            cells.append(f"{100 * off.std():.2f}% of {100 * difference.std():.2f}%")
            numbers[f"{name} at {value:g}"] = float(off.std())
        rows.append((name, *cells))
    text = "Standard deviation over the data events of learned minus exact ln ratio to nominal, and of the exact one."
    return Section("Shapes", text, ("nuisance", *(f"{v:+g}" for v in POINTS.values())), tuple(rows), numbers)


def ratios(workspace: Workspace, truth: Truth) -> tuple[tuple[float, ...], int]:
    """RMS over the data of learned minus exact: ln r_newphys / r_sm, r_interference / r_sm, ln r(kappa=1) / r(0).

    The exact ones have the standard deviations 0.98, 0.17 and 0.40. Events at which a learned density that cannot be
    negative is (direct methods do not know) are left out, and counted.
    """
    table, rate = workspace.tables["SR.observed"], dict.fromkeys(DENSITIES, np.zeros(1))
    for part in workspace.spec["channels"][0]["samples"]:
        sample = part["name"].split("[")[0]
        rate[sample] = rate[sample] + part["data"][0] * table[part["name"]].astype(np.float64)
    good = (rate["sm"] > 0) & (rate["newphys"] > 0) & (sum(rate.values()) > 0)
    learned = {sample: (density / rate["sm"])[good] for sample, density in rate.items()}
    exact = {sample: (truth.densities[d] / truth.densities["d_B"])[good] for sample, d in DENSITIES.items()}
    total, exact_total = (np.log(sum(r.values())) for r in (learned, exact))
    return (
        float(np.std(np.log(learned["newphys"] / exact["newphys"]))),
        float(np.sqrt(np.mean((learned["interference"] - exact["interference"]) ** 2))),
        float(np.sqrt(np.mean((total - exact_total) ** 2))),
    ), int((~good).sum())


def learn(config: Config, method: str, seed: int, cache: Path | None) -> tuple[Workspace, float]:
    """The workspace, and the seconds of reading, training and building."""
    values = dict(config.values) | {"Training": config.values.get("Training", {}) | {"Seed": seed, "Method": method}}
    if method not in SPLIT:
        values["Systematics"] = []
    start = perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        workspace = build(replace(config, values=values), cache=cache or scratch)
    return workspace, perf_counter() - start


def section(rows: Mapping[str, Row]) -> Section:
    """A line for each workspace, and for each method the means and largest of its seeds."""
    header = ("", *(f"{name}: shift, width, simulation" for name in EXACT), "RMS of ln r", "seconds")
    lines, numbers = [], {}
    for name, row in rows.items():
        cells = []
        for f in EXACT:
            known = f in row.shifts
            text = f"{row.shifts.get(f, 0):+.2f}, {100 * row.widths.get(f, 0):+.1f}%, {row.simulation.get(f, 0):.2f}"
            cells.append(text if known else "")
            numbers |= {f"{name}, {f}": row.shifts[f]} if known else {}
        rms = ", ".join(f"{v:.3f}" for v in row.rms) + (f" ({row.nonpositive} left out)" if row.nonpositive else "")
        lines.append((name, *cells, rms, f"{row.seconds:.0f}" if row.rms else ""))
    for method in dict.fromkeys(name.split(", seed")[0] for name in rows if ", seed" in name):
        mine = [row for name, row in rows.items() if name.startswith(f"{method}, seed")]
        cells = []
        for f in EXACT:
            shifts = np.abs([row.shifts[f] for row in mine if f in row.shifts])
            cells.append(f"mean {shifts.mean():.2f}, largest {shifts.max():.2f}" if len(shifts) else "")
        lines.append((f"{method}, abs(shift)", *cells, "", ""))
    text = (
        "kappa minus that of the exact likelihood on the same data, in units of its sigma; width: sigma over that one; "
        "simulation: error from the statistics of the simulation by the influence function, in the same unit."
    )
    return Section("Interference with both signs", text, header, tuple(lines), numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ntuples", type=Path)
    parser.add_argument("--methods", nargs="+", default=["mixture"], metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--training", type=json.loads, default={}, help="entries of the configuration's Training")
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", NuratioWarning)
    truth, config = Truth.read(args.ntuples), Config.read(CONFIG, inputs=args.ntuples)
    training = config.values.get("Training", {}) | args.training
    config = replace(config, values=dict(config.values) | {"Training": training})
    rows: dict[str, Row] = {}
    drawn: list[Section] = []
    for method in args.methods:
        for seed in args.seeds:
            workspace, seconds = learn(config, method, seed, args.cache)
            if method in SPLIT and not rows:
                drawn.append(shapes(workspace, truth))
                yields = {"exact": truth.rates, "exact shapes, simulated yields": simulated_yields(workspace)}
                rows = {name: fits(exact_workspace(workspace, truth, y)) for name, y in yields.items()}
            (rms, nonpositive), row = ratios(workspace, truth), fits(workspace)
            row = replace(row, rms=rms, nonpositive=nonpositive, seconds=seconds)
            rows[f"{method}, seed {seed}"] = row
            print(f"{method}, seed {seed}: {row}", file=sys.stderr, flush=True)
    for made in (section(rows), *drawn):
        print(made.markdown())


if __name__ == "__main__":
    main()
