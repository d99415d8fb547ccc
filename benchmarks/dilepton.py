"""Learned against exact on the dilepton ntuples: kappa with and without the mass scale, and the ratios themselves.

    python benchmarks/dilepton.py NTUPLES [--methods mixture rosmm lsif] [--seeds 1 2 3 4] [--cache DIR]
    python benchmarks/dilepton.py NTUPLES --training '{"Ratio": {"epochs": 40}}'    # beside workspaces/dilepton.yml

NTUPLES holds sm.root, interference.root, newphys.root, data_kappa1.root, and with the exact densities at the data
events and the exact yields data_kappa1_truth.root and data_kappa1_exact.json. The exact-likelihood fits of these data
give kappa = 0.9743 +- 0.0160 with the nuisances held and 0.9625 +- 0.0188 with the mass scale profiled.

No training knows more than its simulation. The first two lines are fits with exact shapes, with the exact yields and
with those of the simulation; `simulation_error` is what the statistics of the simulation, in yields and shapes, do to
kappa. Methods that leave the interference in one sample cannot vary its shape: only the first fit is made with them.
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

import numpy as np
import uproot
from measure import Section
from numpy.typing import NDArray

from nuratio.errors import NuratioWarning
from nuratio.infer.fit import fit
from nuratio.ratios.table import RatioTable
from nuratio.workspace.build import build
from nuratio.workspace.config import Config
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

Yields = Mapping[str, tuple[float, float, float]]  # sample -> nominal, mass scale up, down

EXACT = {"mass scale held": (0.9743, 0.0160), "mass scale profiled": (0.9625, 0.0188)}
DENSITIES = {"sm": "d_B", "interference": "d_I", "newphys": "d_S"}
SIDES = {"": "", "/hi": "_scale_p1", "/lo": "_scale_m1"}
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

    @property
    def rates(self) -> Yields:
        """Exact yields of the samples."""
        return {s: tuple(self.yields[d + side] for side in SIDES.values()) for s, d in DENSITIES.items()}


@dataclass(frozen=True)
class Row:
    """kappa of one workspace against the exact likelihood, per fit; what `ratios` says where they are learned."""

    shifts: Mapping[str, float]
    widths: Mapping[str, float]
    rms: tuple[float, ...] = ()
    nonpositive: int = 0
    seconds: float = 0.0


def exact_workspace(learned: Workspace, truth: Truth, yields: Yields) -> Workspace:
    """Exact shapes at the data events with the given yields; parameters are those of a learned workspace."""
    columns, rates, shapes = {}, [], []
    for sample, density in DENSITIES.items():
        total, up, down = yields[sample]
        exact = {side: truth.yields[density + suffix] for side, suffix in SIDES.items()}
        for side, suffix in SIDES.items():
            columns[sample + side] = truth.densities[density + suffix] / truth.densities["d_B"] / exact[""]
        factor = {"interference": "kappa", "newphys": "kappa_squared"}.get(sample)
        modifiers = [] if factor is None else [{"name": factor, "type": "normfactor", "data": None}]
        modifiers.append({"name": "mu_scale", "type": "normsys", "data": {"hi": up / total, "lo": down / total}})
        rates.append({"name": sample, "data": [total], "modifiers": modifiers})
        varied = {
            "name": "mu_scale",
            "type": "ratiosys",
            "interpcode": "code4p",
            "data": {side: {"column": f"{sample}/{side}"} for side in ("hi", "lo")},
            "integral": {side: exact[f"/{side}"] / exact[""] for side in ("hi", "lo")},
        }
        shapes.append({"name": sample, "ratio": {"column": sample}, "modifiers": [varied]})
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
    found = dict.fromkeys(DENSITIES, np.zeros(3))
    for part in workspace.spec["channels"][0]["samples"]:
        (scale,) = [m["data"] for m in part["modifiers"] if m["name"] == "mu_scale"]
        sample = part["name"].split("[")[0]
        found[sample] = found[sample] + part["data"][0] * np.array([1.0, scale["hi"], scale["lo"]])
    return {sample: tuple(values) for sample, values in found.items()}


def fits(workspace: Workspace) -> Row:
    """kappa with the mass scale held and, if it is there, profiled."""
    model = workspace.model()
    data = workspace.data(model)
    shifts, widths = {}, {}
    held = {"mu_scale": 0.0} if "mu_scale" in model.config.par_names else {}
    for name, fixed in list(zip(EXACT, (held, {}), strict=True))[: 1 + len(held)]:
        result = fit(model, data, fixed=fixed)
        if not result.valid:
            raise RuntimeError(f"{name}: {result.message}")
        value, sigma = EXACT[name]
        shifts[name] = (result["kappa"].value - value) / sigma
        widths[name] = result["kappa"].uncertainty / sigma - 1
    return Row(shifts, widths)


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


def simulation_error(workspace: Workspace) -> float:
    """Standard deviation of kappa from the statistics of the simulation, in units of sigma, the nuisances held.

    With a density sum_c nu_c p_c and its score s(x) = d ln density / d kappa, a simulated event of weight w at x, one
    more in a density that is not smoothed, moves kappa by -w s(x) / I, I = sum_data s^2.
    """
    rates = {part["name"]: part["data"][0] for part in workspace.spec["channels"][0]["samples"]}
    fractions = workspace.spec["unbinned"]["channels"][0]["reference"]["fractions"]

    def score(table: RatioTable) -> NDArray[np.float64]:
        density = {name: rate * table[name].astype(np.float64) for name, rate in rates.items()}
        interference = sum(d for name, d in density.items() if name.startswith("interference"))
        slope = interference + 2 * density["newphys"]
        return np.asarray(slope / sum(density.values()))

    sizes = workspace.spec["unbinned"]["provenance"]["SR"]["training"]["events"]
    scale = [abs(rates[name]) / rho for name, rho in fractions.items()]  # of |w| over the reference weight
    pool = workspace.tables["SR.pool"]  # part after part
    moved = pool["reference weight"] * np.repeat(scale, [sizes[name] for name in fractions]) * score(pool)
    return float(np.sqrt((moved**2).sum() / (score(workspace.tables["SR.observed"]) ** 2).sum()))


def learn(config: Config, method: str, seed: int, cache: Path | None) -> tuple[Workspace, float]:
    """The workspace, and the seconds of reading, training and building."""
    values = dict(config.values) | {"Training": config.values.get("Training", {}) | {"Seed": seed, "Method": method}}
    if method not in SPLIT:
        values["Systematics"] = []
    start = perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        workspace = build(replace(config, values=values), cache=cache or scratch)
    return workspace, perf_counter() - start


def section(rows: Mapping[str, Row], simulation: float | None) -> Section:
    """A line for each workspace, and for each method the means and largest of its seeds."""
    header = ("", *(f"{name}: {what}" for name in EXACT for what in ("shift", "width")), "RMS of ln r", "seconds")
    lines, numbers = [], {}
    for name, row in rows.items():
        cells = []
        for f in EXACT:
            known = f in row.shifts
            cells += [f"{row.shifts[f]:+.2f}", f"{100 * row.widths[f]:+.1f}%"] if known else ["", ""]
            numbers |= {f"{name}, {f}": row.shifts[f]} if known else {}
        rms = ", ".join(f"{v:.3f}" for v in row.rms) + (f" ({row.nonpositive} left out)" if row.nonpositive else "")
        lines.append((name, *cells, rms, f"{row.seconds:.0f}" if row.rms else ""))
    for method in dict.fromkeys(name.split(", seed")[0] for name in rows if ", seed" in name):
        mine = [row for name, row in rows.items() if name.startswith(f"{method}, seed")]
        cells = []
        for f in EXACT:
            shifts = np.abs([row.shifts[f] for row in mine if f in row.shifts])
            cells += [f"mean {shifts.mean():.2f}, largest {shifts.max():.2f}" if len(shifts) else "", ""]
        lines.append((f"{method}, abs(shift)", *cells, "", ""))
    text = (
        "kappa minus that of the exact likelihood on the same data, in units of its sigma; width: sigma over that one."
    )
    if simulation is not None:
        text += f" The statistics of the simulation alone are {simulation:.2f} sigma of kappa (mass scale held)."
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
    simulation = None
    for method in args.methods:
        for seed in args.seeds:
            workspace, seconds = learn(config, method, seed, args.cache)
            if method in SPLIT and not rows:
                simulation = simulation_error(workspace)
                yields = {"exact": truth.rates, "exact shapes, simulated yields": simulated_yields(workspace)}
                rows = {name: fits(exact_workspace(workspace, truth, y)) for name, y in yields.items()}
            (rms, nonpositive), row = ratios(workspace, truth), fits(workspace)
            row = replace(row, rms=rms, nonpositive=nonpositive, seconds=seconds)
            rows[f"{method}, seed {seed}"] = row
            print(f"{method}, seed {seed}: {row}", file=sys.stderr, flush=True)
    print(section(rows, simulation).markdown())


if __name__ == "__main__":
    main()
