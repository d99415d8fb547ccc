"""From a configuration to a workspace: read, train (or take from the cache), evaluate, write down.

`build` trains what a configuration needs, and assembles a workspace of it; `assemble` does the second alone.
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nuratio.data.templates import histogram
from nuratio.ratios.table import RatioTable
from nuratio.workspace.channel import direction_names, unbinned_channel
from nuratio.workspace.config import Config
from nuratio.workspace.inputs import read_region
from nuratio.workspace.rates import Cells, binned_channel, companion_channel, cross_rates
from nuratio.workspace.tables import file_entry
from nuratio.workspace.train import Trained, resolve, train_all
from nuratio.workspace.workspace import DEFAULT_SETTINGS, Workspace

__all__ = ["assemble", "build"]


def build(
    config: str | Path | Config,
    *,
    inputs: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
) -> Workspace:
    """The workspace of a configuration; arguments as for `train_all`."""
    config, cache = resolve(config, inputs, cache)
    trained = train_all(config, cache=cache, progress=progress, device=device, executor=executor)
    return assemble(config, trained, progress=progress)


def assemble(config: Config, trained: Mapping[str, Trained], *, progress: bool | None = None) -> Workspace:
    """The workspace of a configuration whose networks are there."""
    channels, observations, axes = [], [], []
    unbinned: list[dict[str, Any]] = []
    crossed: list[dict[str, str]] = []
    files: list[dict[str, Any]] = []
    tables: dict[str, RatioTable] = {}
    provenance: dict[str, Any] = {"versions": {p: version(p) for p in ("nuratio", "torch", "numpy", "pyhf")}}
    for region in config.regions:
        name = region["Name"]
        if name in trained:
            networks, cells = trained[name], Cells.of_region(region)
            entry, new_tables, directions = unbinned_channel(name, networks, cells)
            rates = companion_channel(
                config,
                name,
                networks.parts,
                networks.varied,
                cells,
                directions=direction_names(name, directions),
                statistics=networks.statistics_in_directions,
            )
            channels.append(rates)
            observations.append({"name": name, "data": _counts(new_tables[f"{name}.observed"], cells)})
            unbinned.append(entry)
            tables |= new_tables
            files += [file_entry(key, table) for key, table in new_tables.items()]
            crossed += [p for part in networks.parts for p in cross_rates(name, part, networks.varied[part.name])]
            provenance[name] = {
                "cache": dict(networks.keys),
                "training": networks.ratio.report,
                "shapes": {part: shape.report for part, shape in networks.shapes.items()},
                "pruned": {part: list(names) for part, names in networks.pruned.items()},
            }
            if directions is not None:
                information = {"kept": directions.information.tolist(), "total": directions.total}
                provenance[name]["directions"] = {"information": information}
        else:
            events = read_region(config, region, progress=progress)
            channels.append(binned_channel(config, region, events))
            counts = histogram(events.data, region["Variable"], region["Binning"]).values
            observations.append({"name": name, "data": counts.tolist()})
            axes.append({"channel": name, "name": region["Variable"], "edges": region["Binning"]})
    parameters = [*_declared(config), *crossed]
    general = config.values["General"]
    poi = general["POI"]
    extension: dict[str, Any] = {
        "version": "1.0.0",
        "modifier_settings": DEFAULT_SETTINGS,
        "files": files,
        "parameters": parameters,
        "channels": unbinned,
        "axes": axes,
        "provenance": provenance,
    }
    if poi in {p["name"] for p in parameters if "expression" not in p}:
        extension["poi"], poi = poi, ""
    spec = {
        "version": "1.0.0",
        "channels": channels,
        "observations": observations,
        "measurements": [
            {"name": general["Measurement"], "config": {"poi": poi, "parameters": _parameters(config, channels)}}
        ],
        "unbinned": extension,
    }
    workspace = Workspace(spec, tables)
    workspace.validate()
    return workspace


def _counts(observed: RatioTable, cells: Cells | None) -> list[int]:
    if cells is None:
        return [len(observed)]
    counts: list[int] = np.bincount(observed["cell"].astype(np.int64), minlength=len(cells)).tolist()
    return counts


def _declared(config: Config) -> list[dict[str, Any]]:
    """``unbinned.parameters``: expressions, and normfactors that only expressions use."""
    declared: list[dict[str, Any]] = []
    for n in config.values["NormFactors"]:
        if "Expression" in n:
            declared.append({"name": n["Name"], "expression": n["Expression"]})
        elif "Samples" not in n:
            entry = {"name": n["Name"], "inits": [n.get("Nominal", 1.0)], "bounds": [n.get("Bounds", [0.0, 10.0])]}
            declared.append(entry)
    return declared


def _parameters(config: Config, channels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measurement's parameter settings: start values, bounds, constants."""
    present = {m["name"] for c in channels for s in c["samples"] for m in s["modifiers"]}
    settings: dict[str, dict[str, Any]] = {}
    for n in config.values["NormFactors"]:
        if n["Name"] in present and "Expression" not in n and ("Nominal" in n or "Bounds" in n):
            entry = settings.setdefault(n["Name"], {"name": n["Name"]})
            entry["inits"] = [n.get("Nominal", 1.0)]
            if "Bounds" in n:
                entry["bounds"] = [n["Bounds"]]
    for fixed in config.values["General"].get("Fixed", []):
        entry = settings.setdefault(fixed["Name"], {"name": fixed["Name"]})
        entry |= {"inits": [fixed["Value"]], "fixed": True}
    return list(settings.values())
