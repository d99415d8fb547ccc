"""Learned against exact on the dilepton ntuples: kappa with and without the mass scale, and the ratios themselves.

    python benchmarks/dilepton.py NTUPLES [--seeds N] [--cache DIR]

NTUPLES holds sm.root, interference.root, newphys.root, data_kappa1.root and data_kappa1_truth.root (the exact densities
at the data events). The exact-likelihood fits of these data give kappa = 0.9743 +- 0.0160 with the nuisances held and
0.9625 +- 0.0188 with the mass scale profiled.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import uproot

from nuratio.infer.fit import fit
from nuratio.workspace.build import build
from nuratio.workspace.config import Config
from nuratio.workspace.workspace import Workspace

EXACT = {"mass scale held": (0.9743, 0.0160), "mass scale profiled": (0.9625, 0.0188)}
CONFIG = Path(__file__).parents[1] / "workspaces" / "dilepton.yml"


def ratios(workspace: Workspace, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """RMS over the data events of the log of learned over exact density ratios to the Standard Model."""
    channel = next(c for c in workspace.spec["channels"] if c["name"] == "SR")
    table = workspace.tables["SR.observed"]
    rate = {s["name"]: s["data"][0] * table[s["name"]].astype(np.float64) for s in channel["samples"]}
    learned = {
        "newphys": rate["newphys"] / rate["sm"],
        "interference": (rate["interference[+]"] + rate["interference[-]"]) / rate["sm"],
    }
    exact = {"newphys": truth["d_S"] / truth["d_B"], "interference": truth["d_I"] / truth["d_B"]}
    total, exact_total = (np.log(1 + r["interference"] + r["newphys"]) for r in (learned, exact))
    difference = learned["interference"] - exact["interference"]
    return {
        "ln r_newphys / r_sm": float(np.std(np.log(learned["newphys"] / exact["newphys"]))),
        "r_interference / r_sm": float(np.sqrt(np.mean(difference**2))),
        "ln r(kappa=1) / r(0)": float(np.sqrt(np.mean((total - exact_total) ** 2))),
        "(its own spread)": float(np.std(exact_total)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ntuples", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    with uproot.open(arguments.ntuples / "data_kappa1_truth.root") as file:
        truth = file["truth"].arrays(["d_B", "d_I", "d_S"], library="np")
    config = Config.read(CONFIG, inputs=arguments.ntuples)
    shifts: dict[str, list[float]] = {name: [] for name in EXACT}
    for seed in range(1, arguments.seeds + 1):
        start = perf_counter()
        training = config.values.get("Training", {}) | {"Seed": seed}
        seeded = replace(config, values=dict(config.values) | {"Training": training})
        with tempfile.TemporaryDirectory() as scratch:
            workspace = build(seeded, cache=arguments.cache or scratch)
        print(f"seed {seed}: {perf_counter() - start:.0f} s of reading, training and building")
        model = workspace.model()
        data = workspace.data(model)
        for name, fixed in (("mass scale held", {"mu_scale": 0.0}), ("mass scale profiled", {})):
            kappa = fit(model, data, fixed=fixed, minos=["kappa"])["kappa"]
            value, sigma = EXACT[name]
            shifts[name].append((kappa.value - value) / sigma)
            print(
                f"  {name}: kappa = {kappa.value:.4f} +- {kappa.uncertainty:.4f} ({kappa.lower - kappa.value:+.4f} "
                f"{kappa.upper - kappa.value:+.4f}), exact {value} +- {sigma}: {shifts[name][-1]:+.2f} sigma, width "
                f"{100 * (kappa.uncertainty / sigma - 1):+.1f}%"
            )
        print("  RMS at the data events: " + ", ".join(f"{k} {v:.4f}" for k, v in ratios(workspace, truth).items()))
    for name, values in shifts.items():
        print(f"{name}: mean |shift| {np.mean(np.abs(values)):.2f} sigma, largest {np.max(np.abs(values)):.2f}")


if __name__ == "__main__":
    main()
