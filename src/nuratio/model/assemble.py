"""A workspace's measurement as a `Model`: the companion from its pyhf part, the event shapes from its tables."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import UnknownName, did_you_mean
from nuratio.model.companion import pyhf_model
from nuratio.model.interpolation import ADDITIVE, MULTIPLICATIVE
from nuratio.model.kernels.kernel import Kernel
from nuratio.model.model import Model
from nuratio.model.normalisation import Cumulant, InCell, LinearIntegral, Normalisation, PoolIntegral, Powers, Unit
from nuratio.model.shapes import Monomial, SampleShape, Variation
from nuratio.model.simulation import Simulation
from nuratio.model.unbinned import EventCell, Events, PoolSum, UnbinnedChannel
from nuratio.ratios.table import RatioTable
from nuratio.workspace.exponent import exponent_terms
from nuratio.workspace.workspace import DEFAULT_SETTINGS, Workspace

__all__ = ["assemble"]


def assemble(workspace: Workspace, measurement: str | None, poi: str | None, kernel: Kernel) -> Model:
    """The model of a measurement; what `Workspace.model` returns, which documents the arguments."""
    known = workspace.measurements
    name = known[0] if measurement is None else measurement
    if name not in known:
        raise UnknownName(f"no measurement {name!r}; {did_you_mean(name, known, 'measurements')}")
    extension = workspace.spec.get("unbinned", {})
    without = {"poi_name": None} if poi is None else {}  # the measurement's may be one that only a patch adds
    companion = pyhf_model(workspace.counting, name, extension.get("modifier_settings", DEFAULT_SETTINGS), **without)
    chosen = extension.get("poi", companion.config.poi_name) if poi == "" else poi
    rates = {c["name"]: c for c in workspace.spec["channels"]}
    channels = [
        _channel(entry, rates.get(channel, {"samples": ()}), workspace.tables, companion.config, kernel)
        for channel, entry in workspace.unbinned.items()
    ]
    return Model(companion, channels, extension.get("parameters", []), poi=chosen)


def _channel(
    entry: Mapping[str, Any],
    companion: Mapping[str, Any],
    tables: Mapping[str, RatioTable],
    config: Any,
    kernel: Kernel,
) -> UnbinnedChannel:
    events = entry["events"]
    pool = tables[events["pool"]["file"]]
    observed = tables[events["observed"]["file"]] if "file" in events["observed"] else pool.head(0)
    weights = np.asarray(pool[events["pool"]["weight"]["column"]], dtype=np.float64)
    samples = {s["name"]: s for s in entry["samples"]}
    ordered = [samples[s] for s in config.samples if s in samples]
    return UnbinnedChannel(
        name=entry["name"],
        observed=observed,
        pool=pool,
        cells=tuple(
            EventCell(
                samples=tuple(_shape(_in_cell(s, b), simulated, q, config, kernel) for s in ordered),
                observed=seen,
                pool=simulated,
                pool_weights=q,
                bin=b,
                kernel=kernel,
            )
            for b, (seen, simulated) in enumerate(_cells(entry, observed, pool))
            for q in [simulated.of(weights)]
        ),
        observed_features=tables.get(events["observed"].get("features")),
        pool_features=tables.get(events["pool"].get("features")),
        simulation=Simulation.of_channel(entry, companion, tuple(s["name"] for s in ordered)),
    )


def _cells(entry: Mapping[str, Any], observed: RatioTable, pool: RatioTable) -> list[tuple[Events, Events]]:
    """Observed and pool events of each coarse cell; all of them where there is but one."""
    if "ratiocell" not in entry:
        return [(Events(observed), Events(pool))]
    n, column = len(entry["samples"][0]["shares"]), entry["ratiocell"]["column"]
    of_observed, of_pool = np.asarray(observed[column]), np.asarray(pool[column])
    return [
        (Events(observed, np.flatnonzero(of_observed == b)), Events(pool, np.flatnonzero(of_pool == b)))
        for b in range(n)
    ]


def _in_cell(sample: Mapping[str, Any], b: int) -> Mapping[str, Any]:
    """A sample's entry as it is in cell b: the axis of cells is gone from all numbers."""
    if "shares" not in sample:
        return sample
    new = dict(sample) | {"share": sample["shares"][b]}
    norm = sample.get("normalisation", {})
    if norm.get("type") == "cumulant":
        new["normalisation"] = norm | {key: norm[key][b] for key in ("mean", "covariance")}
    new["modifiers"] = [
        m | {"integral": {side: m["integral"][side][b] for side in ("hi", "lo")}} if "integral" in m else m
        for m in sample.get("modifiers", [])
    ]
    return new


def _shape(
    sample: Mapping[str, Any], pool: Events, weights: NDArray[np.float64], config: Any, kernel: Kernel
) -> SampleShape:
    def par(name: str) -> int:
        start: int = config.par_slice(name).start
        return start

    def column(modifier: Mapping[str, Any], key: str) -> str:
        name: str = modifier["data"][key]["column"]
        return name

    modifiers = {m["name"]: m for m in sample.get("modifiers", [])}
    varied = {
        m["name"]: Variation(par(m["name"]), m["interpcode"], column(m, "hi"), column(m, "lo"))
        for m in modifiers.values()
        if m["interpcode"] != "quadexp"
    }
    exponent = tuple(
        Monomial(column_name, tuple((par(name), power) for name, power in term))
        for term, column_name in exponent_terms(sample).items()
    )
    shape = SampleShape(
        sample["name"],
        sample["ratio"]["column"],
        exponent,
        tuple(v for v in varied.values() if v.code in MULTIPLICATIVE),
        tuple(v for v in varied.values() if v.code in ADDITIVE),
    )
    norm = sample.get("normalisation", {"type": None})
    normalisation = _normalisation(shape, norm, modifiers, pool, weights, kernel)
    return replace(shape, norm=InCell(sample["share"], normalisation) if "share" in sample else normalisation)


def _normalisation(
    shape: SampleShape,
    norm: Mapping[str, Any],
    modifiers: Mapping[str, Any],
    pool: Events,
    weights: NDArray[np.float64],
    kernel: Kernel,
) -> Normalisation:
    match norm["type"]:
        case "pool":
            return PoolIntegral(PoolSum(shape, pool, weights, kernel))
        case "cumulant":
            mean, covariance = (np.array(norm[k], dtype=np.float64) for k in ("mean", "covariance"))
            return Cumulant(mean, covariance, Powers.compile([m.powers for m in shape.exponent], shape.par))
    if not shape.shifts:
        return Unit()
    integrals = [m["integral"] for m in modifiers.values()]  # all of them are shifts, in this order
    order = np.argsort([v.par for v in shape.shifts])
    hi, lo = (np.array([integrals[j][side] for j in order]) for side in ("hi", "lo"))
    return LinearIntegral(tuple(shape.shifts[j].code for j in order), hi, lo)
