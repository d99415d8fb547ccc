"""All problems of a workspace at once: schema, names that lead nowhere, tables that do not fit."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pyhf

from nuratio.errors import did_you_mean
from nuratio.ratios.table import RatioTable
from nuratio.workspace.cells import cell_problems

__all__ = ["core", "modifier_names", "problems", "schema", "schema_problems"]


@cache
def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the key ``unbinned``."""
    content: dict[str, Any] = json.loads((files("nuratio.workspace") / "schema.json").read_text())
    return content


def core(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The pyhf part: everything but ``unbinned``."""
    return {k: v for k, v in spec.items() if k != "unbinned"}


def schema_problems(spec: Any) -> list[str]:
    """What breaks the two JSON schemas, a line each with its JSON path: pyhf's, and the one of ``unbinned``."""
    if not isinstance(spec, Mapping):
        return [f"a workspace is a JSON object, not {type(spec).__name__}"]
    found: list[str] = []
    try:
        pyhf.schema.validate(core(spec), "workspace.json")
    except pyhf.exceptions.InvalidSpecification as invalid:
        found.append(f"the pyhf part: {str(invalid).splitlines()[0]}")
    if "unbinned" in spec:
        errors = jsonschema.Draft202012Validator(schema()).iter_errors(spec["unbinned"])
        for error in sorted(errors, key=lambda e: [str(part) for part in e.absolute_path]):
            best = jsonschema.exceptions.best_match([error])
            where = "/".join(map(str, ["unbinned", *best.absolute_path]))
            found.append(f"{where}: {best.message[:300]}")
    return found


def problems(spec: Mapping[str, Any], tables: Mapping[str, RatioTable]) -> list[str]:
    """What is wrong in a workspace whose schemas are right: names, sizes, tables; a line each."""
    found = _core_names(spec)
    if "unbinned" in spec:
        found += _extension(spec, spec["unbinned"], tables)
    return found


def _core_names(spec: Mapping[str, Any]) -> list[str]:
    found = []
    for kind in ("channels", "observations", "measurements"):
        found += _repeats(f"/{kind}", [c["name"] for c in spec[kind]])
    for channel in spec["channels"]:
        found += _repeats(f"/channels/{channel['name']}/samples", [s["name"] for s in channel["samples"]])
    channels = {c["name"] for c in spec["channels"]}
    observed = {o["name"] for o in spec["observations"]}
    found += [f"/observations: channel {c!r} has no observation" for c in sorted(channels - observed)]
    found += [f"/observations: {c!r} is no channel; {did_you_mean(c, channels)}" for c in sorted(observed - channels)]
    known = modifier_names(spec) | {p["name"] for p in spec.get("unbinned", {}).get("parameters", [])}
    for m, measurement in enumerate(spec["measurements"]):
        for p, parameter in enumerate(measurement["config"].get("parameters", [])):
            if parameter["name"] not in known:
                found.append(
                    f"/measurements/{m}/config/parameters/{p}: {parameter['name']!r} is no parameter of the model; "
                    f"{did_you_mean(parameter['name'], known, 'parameters')}"
                )
    return found


def modifier_names(spec: Mapping[str, Any]) -> set[str]:
    """All modifiers of the pyhf part."""
    return {m["name"] for c in spec["channels"] for s in c["samples"] for m in s["modifiers"]}


def _repeats(where: str, names: list[str]) -> list[str]:
    return [f"{where}: {name!r} occurs {n} times" for name, n in Counter(names).items() if n > 1]


def _extension(spec: Mapping[str, Any], extension: Mapping[str, Any], tables: Mapping[str, RatioTable]) -> list[str]:
    companions = {c["name"]: c for c in spec["channels"]}
    counts = {o["name"]: o["data"] for o in spec["observations"]}
    parameters = modifier_names(spec)
    found = _repeats("unbinned/files", [f["id"] for f in extension["files"]])
    found += _repeats("unbinned/files (uri)", [f["uri"] for f in extension["files"]])
    found += _repeats("unbinned/channels", [c["name"] for c in extension["channels"]])
    found += _repeats("unbinned/parameters", [p["name"] for p in extension.get("parameters", [])])
    declared = {f["id"] for f in extension["files"]}
    for i, channel in enumerate(extension["channels"]):
        where, name = f"unbinned/channels/{i}", channel["name"]
        if name not in companions:
            found.append(f"{where}: no companion channel {name!r}; {did_you_mean(name, companions, 'channels')}")
            continue
        companion = companions[name]
        mine, theirs = [s["name"] for s in channel["samples"]], {s["name"] for s in companion["samples"]}
        found += _repeats(f"{where}/samples", mine)
        if set(mine) != theirs:
            found.append(
                f"{where}: samples {sorted(set(mine) ^ theirs)} are not both here and in the companion {name!r}"
            )
        rows: dict[str, RatioTable] = {}
        for kind in ("observed", "pool"):
            for role in ("file", "features"):
                file = channel["events"][kind].get(role)
                if file is not None and file not in declared:
                    found.append(f"{where}/events/{kind}: no file {file!r}; {did_you_mean(file, declared, 'files')}")
                elif file in tables and role == "file":
                    rows[kind] = tables[file]
        found += _events(where, channel, rows, counts.get(name))
        found += cell_problems(where, channel, companion, rows, counts.get(name))
        for j, sample in enumerate(channel["samples"]):
            found += _sample(f"{where}/samples/{j}", sample, rows, parameters)
    return found


def _events(
    where: str, channel: Mapping[str, Any], rows: Mapping[str, RatioTable], count: list[float] | None
) -> list[str]:
    found = []
    events = channel["events"]
    pool = rows.get("pool")
    if pool is not None:
        column = events["pool"]["weight"]["column"]
        if column not in pool:
            found.append(f"{where}/events/pool: no weight column {column!r}; {did_you_mean(column, pool.names)}")
        else:
            weights = np.asarray(pool[column], dtype=np.float64)
            if (weights < 0).any() or abs(weights.sum() - 1) > 1e-3:
                found.append(
                    f"{where}/events/pool: reference weights must be positive and sum to 1; {(weights < 0).sum()} are "
                    f"negative, the sum is {weights.sum():.6g}"
                )
    observed = rows.get("observed") if "file" in events["observed"] else pool
    if observed is not None:
        total = float(len(observed))
        if "weight" in events["observed"]:
            column = events["observed"]["weight"]["column"]
            if column not in observed:
                return [
                    *found,
                    f"{where}/events/observed: no column {column!r}; {did_you_mean(column, observed.names)}",
                ]
            total = float(np.sum(observed[column], dtype=np.float64))
        if count is not None and abs(sum(count) - total) > 1e-6 * max(total, 1):
            found.append(f"{where}/events/observed: {total:g} events, but the companion's observation is {count}")
    if len(rows) == 2:
        missing = set(rows["pool"].names) ^ set(rows["observed"].names)
        missing -= {events[k]["weight"]["column"] for k in ("observed", "pool") if "weight" in events[k]}
        if missing:
            found.append(f"{where}/events: columns {sorted(missing)} are not in both tables")
    return found


def _sample(where: str, sample: Mapping[str, Any], rows: Mapping[str, RatioTable], parameters: set[str]) -> list[str]:
    found = []
    modifiers = sample.get("modifiers", [])
    found += _repeats(f"{where}/modifiers", [m["name"] for m in modifiers])
    columns = [(f"{where}/ratio", sample["ratio"]["column"])]
    for k, modifier in enumerate(modifiers):
        if modifier["name"] not in parameters:
            found.append(
                f"{where}/modifiers/{k}: nuisance {modifier['name']!r} is no parameter of the companion; "
                f"{did_you_mean(modifier['name'], parameters, 'parameters')}. A shape-only nuisance is declared there "
                "by a normsys with hi = lo = 1"
            )
        columns += [(f"{where}/modifiers/{k}/{key}", v["column"]) for key, v in modifier["data"].items()]
    columns += [(f"{where}/cross/{k}", c["column"]) for k, c in enumerate(sample.get("cross", []))]
    for place, column in columns:
        for kind, table in rows.items():
            if column not in table:
                found.append(f"{place}: no column {column!r} in the {kind} events; {did_you_mean(column, table.names)}")
    crossed = sample.get("cross", [])
    found += _repeats(f"{where}/cross", [" ".join(sorted(c["parameters"])) for c in crossed])
    quadexp = [m["name"] for m in modifiers if m["interpcode"] == "quadexp"]
    varied = [m for m in modifiers if m["interpcode"] != "quadexp"]
    for c in crossed:
        found += [
            f"{where}/cross: {p!r} has no quadexp modifier on this sample; {did_you_mean(p, quadexp, 'modifiers')}"
            for p in c["parameters"]
            if p not in quadexp
        ]
    cells = [len(sample["shares"])] if "shares" in sample else []
    norm = sample.get("normalisation")
    if quadexp and norm is None:
        found.append(f"{where}: quadexp modifiers need the sample's normalisation")
    if norm is not None:
        k = 2 * len(norm["parameters"]) + len(crossed)
        if sorted(norm["parameters"]) != sorted(quadexp):
            found.append(f"{where}/normalisation: parameters {norm['parameters']} differ from the modifiers {quadexp}")
        if norm["type"] == "cumulant" and not (
            _has_shape(norm["mean"], *cells, k) and _has_shape(norm["covariance"], *cells, k, k)
        ):
            found.append(
                f"{where}/normalisation: mean and covariance must have {k} rows (columns d1, then d2, then cross terms)"
                f"{f', for each of the {cells[0]} cells' if cells else ''}"
            )
    if norm is None or norm["type"] != "pool":
        factors = [m["name"] for m in varied if m["interpcode"] in ("code1", "code4")]
        if factors or (quadexp and varied):
            found.append(
                f"{where}: {'multiplicative codes' if factors else 'quadexp and additive codes on one sample'} have no "
                'closed-form normalisation; give the sample "normalisation": {"type": "pool", ...}'
            )
        else:
            lacking = [m["name"] for m in varied if "integral" not in m]
            if lacking:
                found.append(
                    f"{where}: {lacking} need their integral (varied over nominal yield), or a pool normalisation"
                )
            number = f"{cells[0]} numbers" if cells else "a number"
            found += [
                f"{where}/modifiers: the integral of {m['name']!r} must be {number}"
                for m in varied
                if "integral" in m and not all(_has_shape(m["integral"][side], *cells) for side in ("hi", "lo"))
            ]
    found += _anchors(where, sample, varied, rows)
    return found


def _has_shape(value: Any, *shape: int) -> bool:
    """Whether nested lists of numbers have this shape."""
    if not shape:
        return not isinstance(value, list)
    return isinstance(value, list) and len(value) == shape[0] and all(_has_shape(v, *shape[1:]) for v in value)


def _anchors(where: str, sample: Mapping[str, Any], varied: list[Any], rows: Mapping[str, RatioTable]) -> list[str]:
    """Multiplicative codes need positive ratios, nominal and varied, at every event."""
    found = []
    for m in varied:
        if m["interpcode"] not in ("code1", "code4"):
            continue
        for kind, table in rows.items():
            for column in (sample["ratio"]["column"], m["data"]["hi"]["column"], m["data"]["lo"]["column"]):
                bad = np.flatnonzero(table[column] <= 0) if column in table else np.empty(0)
                if len(bad):
                    found.append(
                        f"{where}: {m['interpcode']} of {m['name']!r} needs positive ratios; column {column!r} is not, "
                        f"for {len(bad)} of {len(table)} {kind} events (first: {bad[0]}). Use code4p, code2 or code0"
                    )
    return found
