"""All problems of a workspace at once: schema, names that lead nowhere, tables that do not fit."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pyhf
from numpy.typing import NDArray
from referencing import Registry
from referencing.jsonschema import DRAFT6

from nuratio.errors import did_you_mean
from nuratio.ratios.table import RatioTable
from nuratio.workspace.cells import cell_problems
from nuratio.workspace.exponent import cross_term
from nuratio.workspace.strict_json import LARGEST, Path, json_problems, pointer, value_problems

__all__ = ["MULTIPLICATIVE", "core", "knows_poi", "modifier_names", "problems", "remarks", "schema", "schema_problems"]

_CHOICES: dict[str, Callable[[Any], list[Any]]] = {"const": lambda value: [value], "enum": list}
MULTIPLICATIVE = ("code1", "code4")
"""Codes that need positive ratios and the pool integral."""

_CHUNK = 1 << 18  # events checked at a time


@cache
def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the key ``unbinned``."""
    content: dict[str, Any] = json.loads((files("nuratio.workspace") / "schema.json").read_text(encoding="utf-8"))
    return content


def core(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The pyhf part: everything but ``unbinned``."""
    return {k: v for k, v in spec.items() if k != "unbinned"}


def schema_problems(spec: Any) -> list[str]:
    """What is no JSON, or breaks the schemas: pyhf's, and the one of ``unbinned``.

    Each line starts with a JSON pointer (RFC 6901), as do those of `problems`.
    """
    if not isinstance(spec, dict):
        return [f"/: a workspace is a JSON object, not {type(spec).__name__}"]
    found = json_problems(spec)
    if found:
        return found
    found = value_problems(spec) + _breaks(_pyhf_validator(), core(spec))
    if "unbinned" in spec:
        found += _breaks(_own_validator(), spec["unbinned"], "unbinned")
    return found


@cache
def _own_validator() -> Any:
    return jsonschema.Draft202012Validator(schema())


@cache
def _pyhf_validator() -> Any:
    """pyhf's schema; `pyhf.schema.validate` stops at the first error."""
    definitions = pyhf.schema.load_schema(f"{pyhf.schema.version}/defs.json")
    registry = Registry().with_resource(definitions["$id"], DRAFT6.create_resource(definitions))
    return jsonschema.Draft6Validator({"$ref": f"{definitions['$id']}#/definitions/workspace"}, registry=registry)


def _breaks(validator: Any, document: Any, *place: str) -> list[str]:
    errors = [told for error in validator.iter_errors(document) for told in _explained(error)]
    errors.sort(key=lambda told: [(isinstance(part, str), part) for part in told[0]])
    return [f"{pointer(*place, *path)}: {text}" for path, text in errors]


def _explained(error: Any) -> Iterator[tuple[Path, str]]:
    """Where and what is wrong; of alternatives (``oneOf``) about the one that was meant."""
    if error.context:
        branches: dict[int, list[Any]] = {}
        for e in error.context:
            branches.setdefault(e.schema_path[0], []).append(e)
        told = {n: {tuple(e.absolute_path): e for e in es if e.validator in _CHOICES} for n, es in branches.items()}
        meant = [n for n in branches if not told[n]]
        if len(meant) == 1:
            yield from (line for e in branches[meant[0]] for line in _explained(e))
            return
        common = set.intersection(*map(set, told.values()))
        if common:  # no alternative has this type or code
            at = min(common, key=len)
            choices = [c for t in told.values() for c in _CHOICES[t[at].validator](t[at].validator_value)]
            text = str(next(iter(told.values()))[at].instance)
            yield at, f"{text[:100]!r} is none; {did_you_mean(text, dict.fromkeys(choices))}"
            return
        best = jsonschema.exceptions.best_match([error])
        if best is error:
            yield tuple(error.absolute_path), " or ".join(dict.fromkeys(e.message for e in error.context))
            return
        error = best
    path, value, text = tuple(error.absolute_path), error.instance, error.message
    match error.validator:
        case "required":
            name = next(name for name in error.validator_value if name not in value and text.startswith(repr(name)))
            yield (*path, name), "missing"
        case "additionalProperties" if error.validator_value is False:
            known = error.schema.get("properties", {})
            yield from (
                ((*path, name), f"unknown key; {did_you_mean(name, known, 'keys')}")
                for name in value
                if name not in known
            )
        case _:
            yield path, text if len(text) <= 300 else f"{text[:100]} ... {text[-150:]}"


def problems(spec: Mapping[str, Any], tables: Mapping[str, RatioTable]) -> list[str]:
    """What is wrong in a workspace whose schemas are right: names, sizes, tables; a line each."""
    sizes = _core_sizes(spec)
    found = _core_names(spec) + sizes
    if "unbinned" in spec:
        found += _uris(spec["unbinned"]["files"]) + _tables(spec["unbinned"]["files"], tables)
        if not sizes:  # companions are compared bin by bin
            with np.errstate(over="ignore", invalid="ignore"):  # of numbers that are reported already
                found += _extension(spec, spec["unbinned"], tables)
    return found


def _core_names(spec: Mapping[str, Any]) -> list[str]:
    found = []
    for kind in ("channels", "observations", "measurements"):
        found += _repeats(f"/{kind}", [c["name"] for c in spec[kind]])
    for i, channel in enumerate(spec["channels"]):
        found += _repeats(f"/channels/{i}/samples", [s["name"] for s in channel["samples"]])
    observed = {o["name"] for o in spec["observations"]}
    found += [
        f"/channels/{i}: channel {c['name']!r} has no observation"
        for i, c in enumerate(spec["channels"])
        if c["name"] not in observed
    ]
    for m, measurement in enumerate(spec["measurements"]):
        names = [p["name"] for p in measurement["config"]["parameters"]]
        found += _repeats(f"/measurements/{m}/config/parameters", names)
    return found


def remarks(spec: Mapping[str, Any]) -> list[str]:
    """What has no effect in a workspace whose schemas are right, a line each: leftovers, or typos."""
    channels, known = {c["name"] for c in spec["channels"]}, _parameters(spec)
    found = [
        f"/observations/{i}: {o['name']!r} is no channel, its counts are not used; {did_you_mean(o['name'], channels)}"
        for i, o in enumerate(spec["observations"])
        if o["name"] not in channels
    ]
    found += [
        f"/measurements/{m}/config/poi: {measurement['config']['poi']!r} is no parameter: a background to which a "
        f"patch adds the signal, or {did_you_mean(measurement['config']['poi'], known, 'parameters')}"
        for m, measurement in enumerate(spec["measurements"])
        if not knows_poi(spec, measurement)
    ]
    return found + [
        f"/measurements/{m}/config/parameters/{p}: {parameter['name']!r} is no parameter of the model, its settings "
        f"are not used; {did_you_mean(parameter['name'], known, 'parameters')}"
        for m, measurement in enumerate(spec["measurements"])
        for p, parameter in enumerate(measurement["config"]["parameters"])
        if parameter["name"] not in known
    ]


def knows_poi(spec: Mapping[str, Any], measurement: Mapping[str, Any]) -> bool:
    """Whether the POI of a measurement, if it names one, is a parameter."""
    return measurement["config"]["poi"] in {"", *_parameters(spec)}


def _parameters(spec: Mapping[str, Any]) -> set[str]:
    return modifier_names(spec) | {p["name"] for p in spec.get("unbinned", {}).get("parameters", [])}


def _core_sizes(spec: Mapping[str, Any]) -> list[str]:
    """Arrays of a channel with another length than its bins, and values that parameters cannot have."""
    found = []
    observations = {o["name"]: (i, o["data"]) for i, o in enumerate(spec["observations"])}
    for i, channel in enumerate(spec["channels"]):
        bins = len(channel["samples"][0]["data"])
        arrays: dict[str, list[float]] = {}
        if channel["name"] in observations:
            o, counts = observations[channel["name"]]
            arrays[f"/observations/{o}/data"] = counts
        for j, sample in enumerate(channel["samples"]):
            arrays[f"/channels/{i}/samples/{j}/data"] = sample["data"]
            for k, modifier in enumerate(sample["modifiers"]):
                where, data = f"/channels/{i}/samples/{j}/modifiers/{k}/data", modifier["data"]
                if modifier["type"] == "histosys":
                    arrays |= {f"{where}/{side}": data[side] for side in ("hi_data", "lo_data")}
                elif isinstance(data, list):
                    arrays[where] = data
        found += [
            f"{where}: {len(values)} numbers, but channel {channel['name']!r} has {bins} bins"
            for where, values in arrays.items()
            if len(values) != bins
        ]
    for m, measurement in enumerate(spec["measurements"]):
        for p, parameter in enumerate(measurement["config"]["parameters"]):
            found += _parameter_values(f"/measurements/{m}/config/parameters/{p}", parameter)
    for p, parameter in enumerate(spec.get("unbinned", {}).get("parameters", [])):
        found += _parameter_values(f"/unbinned/parameters/{p}", parameter)
    return found


def _parameter_values(where: str, parameter: Mapping[str, Any]) -> list[str]:
    found = [
        f"{where}/bounds/{i}: {pair} must be two numbers, the lower one first"
        for i, pair in enumerate(parameter.get("bounds", []))
        if len(pair) != 2 or pair[0] > pair[1]
    ]
    found += [
        f"{where}/{key}/{i}: {value} must be positive"
        for key in ("sigmas", "factors")
        for i, value in enumerate(parameter.get(key, []))
        if value <= 0
    ]
    return found


def modifier_names(spec: Mapping[str, Any]) -> set[str]:
    """All modifiers of the pyhf part."""
    return {m["name"] for c in spec["channels"] for s in c["samples"] for m in s["modifiers"]}


def _repeats(where: str, names: list[str]) -> list[str]:
    return [f"{where}: {name!r} occurs {n} times" for name, n in Counter(names).items() if n > 1]


def _uris(entries: list[Mapping[str, Any]]) -> list[str]:
    """Paths of the tables: inside the workspace on every system, and of one file each, whatever the case of letters."""
    found = []
    taken = {"workspace.json": "the workspace's own file"}
    for i, entry in enumerate(entries):
        where, uri = pointer("unbinned", "files", i, "uri"), entry["uri"]
        parts = uri.split("/")
        if any(p in ("", ".", "..") or p[-1] in ". " or set(p) & set('\\:*?"<>|') for p in parts):
            found.append(
                f'{where}: {uri!r} must be relative and stay inside the workspace, such as "pool.npy" or "tables/a.npy"'
            )
            continue
        key = uri.casefold()
        clash = [t for t in taken if key == t or key.startswith(f"{t}/") or t.startswith(f"{key}/")]
        if clash:
            found.append(f"{where}: {uri!r} collides with {taken[clash[0]]}; give each table a path of its own")
        taken[key] = f"that of file {entry['id']!r}"
    return found


def _tables(entries: list[Mapping[str, Any]], tables: Mapping[str, RatioTable]) -> list[str]:
    """Tables that are not what their entries say, or hold NaN."""
    found = _repeats("/unbinned/files", [f["id"] for f in entries])
    for i, entry in enumerate(entries):
        where = f"/unbinned/files/{i}"
        if entry["id"] not in tables:
            continue
        table = tables[entry["id"]]
        held = {"columns": list(table.names), "events": len(table), "dtype": str(table.blocks.dtype)}
        found += [
            f"{where}/{key}: {str(entry[key])[:200]}, but the table has {str(value)[:200]}"
            for key, value in held.items()
            if entry[key] != value
        ]
        bad = _not_finite(table) if table.blocks.dtype.kind == "f" else []
        found += [
            f"{where}: column {n!r} is NaN, infinite or beyond {LARGEST} at {k} events (first: {first})"
            for n, k, first in bad
        ]
    return found


def _not_finite(table: RatioTable) -> list[tuple[str, int, int]]:
    """Columns with NaN, infinite or huge numbers: name, how many, and the first event."""
    count, first = np.zeros(len(table.names), dtype=np.int64), np.full(len(table.names), len(table))
    largest = min(LARGEST, float(np.finfo(table.blocks.dtype).max))
    for events, piece in table.pieces(_CHUNK):
        wrong = ~(np.abs(piece) <= largest)
        if wrong.any():
            count += wrong.sum(1)
            first = np.where(wrong.any(1), np.minimum(first, events.start + wrong.argmax(1)), first)
    return [(n, int(k), int(i)) for n, k, i in zip(table.names, count, first, strict=True) if k]


def _extension(spec: Mapping[str, Any], extension: Mapping[str, Any], tables: Mapping[str, RatioTable]) -> list[str]:
    companions = {c["name"]: c for c in spec["channels"]}
    counts = {o["name"]: o["data"] for o in spec["observations"]}
    parameters = modifier_names(spec)
    found = _repeats("/unbinned/channels", [c["name"] for c in extension["channels"]])
    found += _repeats("/unbinned/parameters", [p["name"] for p in extension.get("parameters", [])])
    declared = {f["id"] for f in extension["files"]}
    for i, channel in enumerate(extension["channels"]):
        where, name = f"/unbinned/channels/{i}", channel["name"]
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
            features = tables.get(channel["events"][kind].get("features"))
            if features is not None and kind in rows and len(features) != len(rows[kind]):
                found.append(
                    f"{where}/events/{kind}/features: {len(features)} events, but the table of ratios has "
                    f"{len(rows[kind])}"
                )
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
            elif "ratiocell" not in channel:
                found += _integrals(where, channel, pool, weights)
    found += _parts(where, channel, pool)
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
            weights = np.asarray(observed[column], dtype=np.float64)
            total = float(weights.sum())
            negative = np.flatnonzero(weights < 0)
            if len(negative):
                found.append(
                    f"{where}/events/observed/weight: {len(negative)} of {len(observed)} observed weights are negative "
                    f"(first: {weights[negative[0]]:.6g} at event {negative[0]}); they are counts of data"
                )
        if count is not None and abs(sum(count) - total) > 1e-6 * max(total, 1):
            found.append(f"{where}/events/observed: {total:g} events, but the companion's observation is {count}")
    if len(rows) == 2:
        missing = set(rows["pool"].names) ^ set(rows["observed"].names)
        missing -= {events[k]["weight"]["column"] for k in ("observed", "pool") if "weight" in events[k]}
        missing -= {events["pool"]["part"]["column"]} if "part" in events["pool"] else set()
        if missing:
            found.append(f"{where}/events: columns {sorted(missing)} are not in both tables")
    return found


def _parts(where: str, channel: Mapping[str, Any], pool: RatioTable | None) -> Iterator[str]:
    """Parts of the pool that samples name, but that are not there."""
    column = channel["events"]["pool"].get("part", {}).get("column")
    if column is not None and pool is not None and column not in pool:
        yield f"{where}/events/pool: no part column {column!r}; {did_you_mean(column, pool.names)}"
        return
    there = set() if column is None or pool is None else set(np.unique(pool[column]).tolist())
    for j, sample in enumerate(channel["samples"]):
        named = [part["number"] for part in sample.get("simulation", {}).get("parts", [])]
        lost = [number for number in named if number not in there]
        if lost and pool is not None:
            yield f"{where}/samples/{j}/simulation/parts: no event of the pool is of part {lost[0]}"


def _integrals(where: str, channel: Mapping[str, Any], pool: RatioTable, weights: NDArray[np.float64]) -> Iterator[str]:
    """Ratios p/q that are far from integrating to 1 over the reference: not ratios of densities at all."""
    for j, sample in enumerate(channel["samples"]):
        column = sample["ratio"]["column"]
        if column not in pool:
            continue  # reported with the samples
        terms = weights * pool[column]
        integral, error = float(terms.sum()), float(np.sqrt((terms**2).sum()))
        if abs(integral - 1) > 0.5 + 6 * error:
            yield (
                f"{where}/samples/{j}/ratio: column {column!r} integrates to {integral:.4g} +- {error:.2g} over the "
                "pool; a ratio of densities gives 1 (yields belong to the companion)"
            )


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
    found += _repeats(f"{where}/cross", [" ".join(f"{p}^{n}" for p, n in cross_term(c)) for c in crossed])
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
        k = sum(len(m["data"]) for m in modifiers if m["interpcode"] == "quadexp") + len(crossed)
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
        factors = [m["name"] for m in varied if m["interpcode"] in MULTIPLICATIVE]
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
        if m["interpcode"] not in MULTIPLICATIVE:
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
