"""Many nuisances on a laptop: sixty of WW over top-quark pairs, from ntuples to a fit; Gaussian examples.

    python benchmarks/systematics.py NTUPLES                 # WW.root and ttbar.root of the example workspaces/emu.yml
    python benchmarks/systematics.py NTUPLES --cache DIR     # keep the networks
    python benchmarks/systematics.py                         # the Gaussian example and interpolation codes alone
    python benchmarks/systematics.py --only codes            # HistFactory's codes per event beside quadexp

The four nuisances of the example are split: lepton scale in bins of pT and eta of the leading lepton (24), jet scale in
bins of pT and rapidity of the leading jet (20), initial- and final-state radiation in bins of the dilepton pT (8 each).
Trees of the variations are joined to the nominal one by event, so that a nuisance is a set of expressions that take the
varied value where the event is in the bin.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import uproot
from interpolations import interpolations
from measure import Section, machine
from numpy.typing import NDArray

from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample
from nuratio.errors import NuratioWarning
from nuratio.infer.fitting.fit import fit
from nuratio.training.shape import train_shapes
from nuratio.workspace.build import assemble
from nuratio.workspace.config import Config
from nuratio.workspace.train import train_all
from nuratio.workspace.workspace import Workspace

CONFIG = Path(__file__).parents[1] / "workspaces" / "emu.yml"
SCALES = {"lep_scale": 0.01, "jet_scale": 0.05}
LEPTON_PT, LEPTON_ETA = (20, 35, 50, 65, 85, 120, 1e4), (0, 0.6, 1.2, 1.8, 2.6)
JET_PT, JET_Y = (20, 50, 75, 110, 160, 1e4), (0, 0.7, 1.4, 2.1, 5)
LL_PT = (0, 20, 35, 50, 65, 80, 100, 130, 1e4)

Columns = dict[str, NDArray[Any]]


def joined(path: Path) -> Columns:
    """The nominal tree with the varied values of the other trees beside it, for all events of any of them.

    Events that only a variation selects have leptons below the threshold nominally, and the other way round.
    """
    with uproot.open(path) as file:
        trees = {name.split(";")[0]: file[name].arrays(library="np") for name in file.keys(cycle=False)}
    nominal = trees.pop("nominal")
    events = np.unique(np.concatenate([nominal["event"], *(tree["event"] for tree in trees.values())]))
    varied = [name for name in next(iter(trees.values())) if name not in ("event", "weight")]

    def spread(tree: Columns, name: str) -> NDArray[Any]:
        column = np.zeros(len(events), dtype=tree[name].dtype)
        column[np.searchsorted(events, tree["event"])] = tree[name]
        return column

    columns = {"event": events} | {name: spread(nominal, name) for name in nominal if name != "event"}
    for tree, content in trees.items():
        columns |= {f"{tree}_{name}": spread(content, name) for name in varied}
        there = np.isin(events, content["event"])
        gained = there & (columns["weight"] == 0)  # the weight of an event is that of its generation
        columns["weight"] = np.where(gained, spread(content, "weight"), columns["weight"])
    return columns


def leading(what: str) -> str:
    """A property of the leading lepton."""
    return f"where(el_pt > mu_pt, el_{what}, mu_{what})"


def nuisances() -> Iterator[tuple[str, str, str]]:
    """Name, kind and bin of sixty nuisances."""
    kinds = {
        "lep_scale": (leading("pt"), LEPTON_PT, f"abs({leading('eta')})", LEPTON_ETA),
        "jet_scale": ("jet1_pt", JET_PT, "abs(jet1_y)", JET_Y),
    }
    for kind, (x, edges_x, y, edges_y) in kinds.items():
        for (i, (a, b)), (j, (c, d)) in product(enumerate(pairwise(edges_x)), enumerate(pairwise(edges_y))):
            yield f"{kind}_{i}{j}", kind, f"({a} <= {x}) & ({x} < {b}) & ({c} <= {y}) & ({y} < {d})"
    for kind, (i, (a, b)) in product(("isr", "fsr"), enumerate(pairwise(LL_PT))):
        yield f"{kind}_{i}", kind, f"({a} <= ptll) & (ptll < {b})"


def systematics(branches: list[str]) -> list[dict[str, Any]]:
    """The same as entries of a configuration."""

    def side(kind: str, here: str, direction: str) -> dict[str, Any]:
        if kind in SCALES:
            return {"Branches": {b: f"where({here}, {kind}_{direction.lower()}_{b}, {b})" for b in branches}}
        return {"Weight": f"where({here}, weight_{kind}{'Up' if direction == 'Up' else 'Dn'}, weight)"}

    return [
        {"Name": name, "Type": "NormPlusShape"} | {s: side(kind, here, s) for s in ("Up", "Down")}
        for name, kind, here in nuisances()
    ]


def configuration(ntuples: Path, folder: Path) -> Config:
    """The example with sixty nuisances, on joined trees that are written to a folder."""
    config = Config.read(CONFIG, inputs=folder)
    branches: list[str] = []
    for name in ("WW", "ttbar"):
        columns = joined(ntuples / f"{name}.root")
        branches = [b for b in columns if f"lep_scale_up_{b}" in columns]
        with uproot.recreate(folder / f"{name}.root") as file:
            file["nominal"] = columns
    threshold = "(el_pt >= 20) & (mu_pt >= 20)"
    samples = [
        s if s.get("Data") else s | {"Filter": f"({s['Filter']}) & {threshold}"} for s in config.values["Samples"]
    ]
    kept = [s for s in config.values["Systematics"] if s["Type"] == "Normalization"]
    changed = {"Samples": samples, "Systematics": [*systematics(branches), *kept]}
    return replace(config, values=dict(config.values) | changed)


def sixty(ntuples: Path, cache: Path | None) -> Section:
    """Train, build and fit; seconds of each, and what became of the shapes."""
    with tempfile.TemporaryDirectory() as scratch:
        config = configuration(ntuples, Path(scratch))
        start = perf_counter()
        trained = train_all(config, cache=cache or Path(scratch) / "cache")
        seconds = {"reading and training": perf_counter() - start}
        start = perf_counter()
        workspace = assemble(config, trained)
        seconds["evaluating and building"] = perf_counter() - start
    model = workspace.model()
    data = workspace.data(model)
    model.twice_nll(model.config.suggested_init(), data)  # compiled
    start = perf_counter()
    found = fit(model, data)
    seconds["fit with covariance"] = perf_counter() - start
    fewer = without_shapes(workspace).model()
    counting = fit(fewer, data)
    networks = trained["SR"]
    shapes = {name: len(networks.nuisances(name)) for name in networks.shapes}
    forms = {s["name"]: s["normalisation"] for s in workspace.unbinned["SR"]["samples"] if "normalisation" in s}
    rows = [(what, f"{value:.1f} s") for what, value in seconds.items()]
    rows += [
        ("nuisances", str(sum(w > 0 for w in found.constraint_width))),
        ("with a shape that differs from none", ", ".join(f"{name} {n}" for name, n in shapes.items())),
        ("normalisation", ", ".join(f"{s} {f['type']} (error {f.get('error', 0):.1g})" for s, f in forms.items())),
        ("fit", f"{found['mu_WW']}; {'valid' if found.valid else found.message}; {'; '.join(found.steps)}"),
        ("the same, shapes fixed", str(counting["mu_WW"])),
    ]
    numbers = {"valid": float(found.valid), "mu": found["mu_WW"].value, "sigma": found["mu_WW"].uncertainty} | seconds
    text = "Sixty nuisances of WW over top-quark pairs, nine features, one network for each part."
    return Section("Sixty nuisances", text, ("", ""), tuple(rows), numbers)


def without_shapes(workspace: Workspace) -> Workspace:
    """The same rates and ratios, but no shape per event."""
    spec = dict(workspace.spec)
    channels = [dict(c) for c in spec["unbinned"]["channels"]]
    for channel in channels:
        gone = ("modifiers", "cross", "normalisation")
        channel["samples"] = [{k: v for k, v in s.items() if k not in gone} for s in channel["samples"]]
    return Workspace(spec | {"unbinned": dict(spec["unbinned"]) | {"channels": channels}}, workspace.tables)


def gaussian(events: int = 50_000) -> Section:
    """N(0.3 nu, 1): D1 = 0.3 x and D2 = -0.045 from simulations at two and at four points (METHODS: to 0.02)."""
    rng, grid = np.random.default_rng(0), np.linspace(-2, 2, 81)
    rows, numbers = [], {}
    for points in ((-1, 1), (-2, -1, 1, 2)):
        for linked in (True, False):
            x = rng.normal(size=events)
            draws = {nu: x if linked else rng.normal(size=events) for nu in points}
            ids = {nu: np.arange(events) + (0 if linked else events * (1 + k)) for k, nu in enumerate(points)}
            varied = [VariedSample({"nu": nu}, EventSample(draws[nu] + 0.3 * nu, event_ids=ids[nu])) for nu in points]
            nominal = EventSample(x, event_ids=np.arange(events))
            d1, d2 = train_shapes(nominal, varied, progress=False).coefficients(grid).values()
            off = float(np.abs(d1 - 0.3 * grid).max()), float(np.abs(d2 + 0.045).max())
            what = f"{len(points)} points, {'the same' if linked else 'other'} events"
            rows.append((what, f"{off[0]:.4f}", f"{off[1]:.4f}"))
            numbers |= {f"{what}, D1": off[0], f"{what}, D2": off[1]}
    text = f"Largest error for abs(x) <= 2 with {events} events a point."
    return Section("The Gaussian example", text, ("simulation", "D1", "D2"), tuple(rows), numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ntuples", type=Path, nargs="?")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--only", nargs="+", choices=("gaussian", "codes", "sixty"), metavar="SECTION")
    args = parser.parse_args()
    only = args.only or ("gaussian", "codes", *(["sixty"] if args.ntuples is not None else []))
    if "sixty" in only and args.ntuples is None:
        parser.error("sixty nuisances need NTUPLES, the folder of WW.root and ttbar.root")
    warnings.simplefilter("ignore", NuratioWarning)
    print(machine(), file=sys.stderr)
    if "gaussian" in only:
        print(gaussian().markdown())
    if "codes" in only:
        print("\n".join(section.markdown() for section in interpolations()))
    if "sixty" in only:
        print(sixty(args.ntuples, args.cache).markdown())


if __name__ == "__main__":
    main()
