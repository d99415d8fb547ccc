"""A workspace's measurement as a `Model`: the companion from its pyhf part, the event shapes from its tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyhf
from numpy.typing import NDArray

from nuratio.errors import UnknownName, did_you_mean
from nuratio.model.model import Model
from nuratio.model.shapes import AdditiveShift, Cumulant, PoolIntegral, QuadExp, SampleShape
from nuratio.model.unbinned import UnbinnedChannel
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import DEFAULT_SETTINGS, Workspace

__all__ = ["assemble"]


def assemble(workspace: Workspace, measurement: str | None = None, poi: str | None = "") -> Model:
    """The model of a measurement; what `Workspace.model` returns, which documents the arguments."""
    known = workspace.measurements
    name = known[0] if measurement is None else measurement
    if name not in known:
        raise UnknownName(f"no measurement {name!r}; {did_you_mean(name, known, 'measurements')}")
    extension = workspace.spec.get("unbinned", {})
    companion = pyhf.Workspace(workspace.counting, validate=False).model(
        measurement_name=name,
        validate=False,
        modifier_settings=extension.get("modifier_settings", DEFAULT_SETTINGS),
    )
    chosen = extension.get("poi", companion.config.poi_name) if poi == "" else poi
    channels = [_channel(entry, workspace.tables, companion.config) for entry in workspace.unbinned.values()]
    return Model(companion, channels, extension.get("parameters", []), poi=chosen)


def _channel(entry: Mapping[str, Any], tables: Mapping[str, RatioTable], config: Any) -> UnbinnedChannel:
    observed, pool = entry["events"]["observed"], entry["events"]["pool"]
    simulated = tables[pool["file"]]
    weights = np.asarray(simulated[pool["weight"]["column"]], dtype=np.float64)
    not_read = {kind["weight"]["column"] for kind in (observed, pool) if "weight" in kind}
    names = [n for n in simulated.names if n not in not_read]
    samples = {s["name"]: s for s in entry["samples"]}
    return UnbinnedChannel(
        name=entry["name"],
        samples=tuple(_shape(samples[s], names, simulated, weights, config) for s in config.samples if s in samples),
        observed=tables[observed["file"]].select(names) if "file" in observed else simulated.select(names).head(0),
        pool=simulated.select(names),
        pool_weights=weights,
        observed_features=tables.get(observed.get("features")),
        pool_features=tables.get(pool.get("features")),
    )


def _shape(
    sample: Mapping[str, Any], names: Sequence[str], pool: RatioTable, weights: NDArray[np.float64], config: Any
) -> SampleShape:
    row = {name: i for i, name in enumerate(names)}
    modifiers = {m["name"]: m for m in sample.get("modifiers", [])}

    def par(name: str) -> int:
        start: int = config.par_slice(name).start
        return start

    additive = tuple(
        AdditiveShift(
            par(m["name"]),
            m["interpcode"],
            row[m["data"]["hi"]["column"]],
            row[m["data"]["lo"]["column"]],
            m["integral"]["hi"],
            m["integral"]["lo"],
        )
        for m in modifiers.values()
        if m["interpcode"] != "quadexp"
    )
    ratio = sample["ratio"]["column"]
    norm = sample.get("normalisation", {"parameters": []})
    if not norm["parameters"]:
        return SampleShape(sample["name"], row[ratio], additive)
    d1, d2 = ([modifiers[p]["data"][d]["column"] for p in norm["parameters"]] for d in ("d1", "d2"))
    z: Cumulant | PoolIntegral
    if norm["type"] == "cumulant":
        z = Cumulant(np.array(norm["mean"], dtype=np.float64), np.array(norm["covariance"], dtype=np.float64))
    else:
        density = weights * pool[ratio]
        z = PoolIntegral(pool.select([*d1, *d2]).values, density / density.sum())
    quadexp = QuadExp(
        tuple(par(p) for p in norm["parameters"]), tuple(row[c] for c in d1), tuple(row[c] for c in d2), z
    )
    return SampleShape(sample["name"], row[ratio], additive, quadexp)
