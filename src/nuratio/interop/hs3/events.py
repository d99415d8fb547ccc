"""Unbinned channels in HS3: their observed events, and their likelihood where samples have densities in closed form.

The likelihood of such a channel is an extended ``mixture_dist``. Its coefficients are the yields: products of the
nominal yield, the normfactors, and the interpolation of each normsys, as a generic function

    code1: hi^((|a| + a) / 2) lo^((|a| - a) / 2)
    code4: P(c) hi^((|a - 1| + a - 1) / 2) lo^((|a + 1| - a - 1) / 2),  c = (|a + 1| - |a - 1|) / 2 in [-1, 1]

with code4's polynomial P between -1 and 1, where the exponents vanish, and c = +-1 outside, where P is hi or lo.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidWorkspace, UnknownName, did_you_mean
from nuratio.interop.hs3.conventions import EVENTS, JSON, OBSERVED, strings
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace

__all__ = ["Densities", "EventData", "Mixture", "Ranges", "event_data", "mixture"]

Densities = Mapping[str, Mapping[str, Mapping[str, Any]]]
Ranges = Mapping[str, Mapping[str, tuple[float, float]]]


# --- data


@dataclass(frozen=True)
class EventData:
    """An HS3 data set of type ``unbinned``, and for each column of the workspace its observable in the document."""

    content: JSON
    observables: dict[str, str]


def event_data(
    workspace: Workspace, densities: Densities, ranges: Ranges, *, events: bool = True
) -> dict[str, EventData]:
    """The observed events of unbinned channels: features and ratios, of channels with densities the features of those.

    An observable is called as its column, ``CHANNEL_COLUMN`` if several channels have that column. Of channels
    without densities nothing is written if ``events`` is false.

    Raises
    ------
    UnknownName
        No such unbinned channel, or no such feature.
    InvalidWorkspace
        A channel with densities but without features or ranges, or an event outside its range.
    """
    for name in [*densities, *ranges]:
        if name not in workspace.unbinned:
            known = did_you_mean(name, workspace.unbinned, "unbinned channels")
            raise UnknownName(f"no unbinned channel {name!r}; {known}")
    columns = {
        name: _columns(workspace, name, densities, ranges) for name in workspace.unbinned if events or name in densities
    }
    taken = Counter(column for own in columns.values() for column in own)
    data = {}
    for name, own in columns.items():
        observables = {c: c if taken[c] == 1 else f"{name}_{c}" for c in own}
        data[name] = EventData(_unbinned(workspace, name, own, observables, ranges.get(name, {})), observables)
    return data


def _columns(
    workspace: Workspace, name: str, densities: Densities, ranges: Ranges
) -> dict[str, list[NDArray[np.floating]]]:
    """Column -> its observed and its pool values, as far as they are stored."""
    entry = workspace.unbinned[name]
    observed, pool = entry["events"]["observed"], entry["events"]["pool"]
    sides = [observed if "file" in observed else pool, pool]
    features = [workspace.tables[s["features"]] for s in sides if "features" in s]
    stored: Sequence[str] = features[0].names if "features" in sides[0] else ()
    for feature in ranges.get(name, {}):
        if feature not in stored:
            raise UnknownName(
                f"channel {name!r} has no feature {feature!r}; {did_you_mean(feature, stored, 'features')}"
            )
    if name in densities and not ranges.get(name):
        raise InvalidWorkspace(
            f"channel {name!r} has densities but no ranges: HS3 normalises a density over its observables; "
            f"give ranges={{{name!r}: {{feature: (min, max)}}}} with the densities' features"
        )
    wanted = list(ranges[name]) if name in densities else list(stored)
    found = {column: [t[column] for t in features if column in t] for column in wanted}
    if name not in densities:
        ratios = [workspace.tables[s["file"]] for s in sides]
        for sample in entry["samples"]:
            column = sample["ratio"]["column"]
            found[column] = [t[column] for t in ratios]
    return found


def _unbinned(
    workspace: Workspace,
    name: str,
    columns: Mapping[str, Sequence[NDArray[np.floating]]],
    observables: Mapping[str, str],
    ranges: Mapping[str, tuple[float, float]],
) -> JSON:
    axes = []
    for column, values in columns.items():
        full = [v for v in values if len(v)]
        low, high = ranges.get(column) or (min(float(v.min()) for v in full), max(float(v.max()) for v in full))
        outside = np.flatnonzero((values[0] < low) | (values[0] > high))
        if len(outside):
            raise InvalidWorkspace(
                f"channel {name!r}: feature {column!r} is outside [{low:g}, {high:g}] for {len(outside)} observed "
                f"events (first: event {outside[0]}, {values[0][outside[0]]:g}); give the range the channel selects"
            )
        axes.append({"name": observables[column], "min": float(low), "max": float(high)})
    entries = np.stack([np.asarray(v[0], dtype=np.float64) for v in columns.values()], axis=1).tolist()
    content = {"name": OBSERVED + name, "type": "unbinned", "entries": entries, "axes": axes}
    observed, pool = workspace.unbinned[name]["events"]["observed"], workspace.unbinned[name]["events"]["pool"]
    if "weight" in observed:
        table: RatioTable = workspace.tables[observed["file"] if "file" in observed else pool["file"]]
        content["weights"] = np.asarray(table[observed["weight"]["column"]], dtype=np.float64).tolist()
    return content


# --- closed forms


@dataclass(frozen=True)
class Mixture:
    """An extended mixture, the distributions it sums, and the functions that are its coefficients."""

    name: str
    distributions: list[JSON]
    functions: list[JSON]


def mixture(
    companion: Mapping[str, Any],
    entry: Mapping[str, Any],
    densities: Mapping[str, Mapping[str, Any]],
    codes: Mapping[str, Any],
) -> Mixture:
    """The extended likelihood of a channel whose samples have densities in closed form.

    Parameters
    ----------
    companion, entry : dict
        The channel in the pyhf part and in the unbinned part.
    densities : mapping
        Sample -> HS3 distribution; its ``name`` is added where it has none.
    codes : mapping
        Interpolation codes, as in ``modifier_settings``.

    Raises
    ------
    UnknownName
        A density of a sample that does not exist.
    InvalidWorkspace
        A sample without a density, a shape nuisance that its density does not name, or rates that are no product of
        numbers, normfactors and normsys.
    """
    channel = companion["name"]
    names = [s["name"] for s in companion["samples"]]
    for name in densities:
        if name not in names:
            raise UnknownName(f"channel {channel!r} has no sample {name!r}; {did_you_mean(name, names, 'samples')}")
    missing = [name for name in names if name not in densities]
    if missing:
        raise InvalidWorkspace(
            f"channel {channel!r}: no density is given for samples {missing}; a mixture needs one for each"
        )
    shapes = {s["name"]: [m["name"] for m in s.get("modifiers", [])] for s in entry["samples"]}
    distributions, functions, interpolated = [], [], {}
    for sample in companion["samples"]:
        name = sample["name"]
        density = {"name": f"density_{channel}_{name}", **densities[name]}
        words = " ".join(strings(density))
        for nuisance in shapes[name]:
            if nuisance not in words:
                raise InvalidWorkspace(
                    f"channel {channel!r}, sample {name!r}: the shape depends on {nuisance!r}, which the given density "
                    "does not name; write the dependence into the density, or prune the shape"
                )
        factors: list[float | str] = [sum(sample["data"])]
        for m in sample["modifiers"]:
            match m["type"]:
                case "normfactor" | "lumi":
                    factors.append(m["name"])
                case "normsys":
                    f = _normsys(channel, name, m, codes["normsys"]["interpcode"])
                    interpolated[f["name"]] = f
                    factors.append(f["name"])
                case other:
                    raise InvalidWorkspace(
                        f"channel {channel!r}, sample {name!r}: the yield of a mixture is a product of normfactors and "
                        f"normsys, which {other} {m['name']!r} is not; prune it, or leave the channel without densities"
                    )
        distributions.append(density)
        functions.append({"name": f"yield_{channel}_{name}", "type": "product", "factors": factors})
    mixed = {
        "name": EVENTS + channel,
        "type": "mixture_dist",
        "summands": [d["name"] for d in distributions],
        "coefficients": [f["name"] for f in functions],
        "extended": True,
    }
    return Mixture(mixed["name"], [*distributions, mixed], [*interpolated.values(), *functions])


def _normsys(channel: str, sample: str, modifier: Mapping[str, Any], code: str) -> JSON:
    """The interpolation of a normsys as a generic function."""
    a, hi, lo = modifier["name"], float(modifier["data"]["hi"]), float(modifier["data"]["lo"])
    where = f"channel {channel!r}, sample {sample!r}: normsys {a!r}"
    if not a.isidentifier():
        raise InvalidWorkspace(
            f"{where}: a name in an expression of HS3 has letters, digits and underscores; rename it"
        )
    if min(hi, lo) <= 0:
        raise InvalidWorkspace(f"{where}: {code} interpolates positive factors, not hi={hi:g}, lo={lo:g}")

    def power(base: float, shift: str, sign: str) -> str:
        return f"pow({base!r}, (abs({shift}) {sign} ({shift}))/2)"

    if code == "code1":
        text = f"{power(hi, a, '+')}*{power(lo, a, '-')}"
    else:
        c = f"((abs({a} + 1) - abs({a} - 1))/2)"
        polynomial = "".join(f" + {float(p)!r}*pow({c}, {k})" for k, p in enumerate(_code4(hi, lo), start=1))
        text = f"(1{polynomial})*{power(hi, f'{a} - 1', '+')}*{power(lo, f'{a} + 1', '-')}"
    return {"name": f"{a}_{channel}_{sample}", "type": "generic_function", "expression": text}


def _code4(hi: float, lo: float) -> NDArray[np.float64]:
    """Coefficients of a, ..., a^6 with value, slope and curvature of hi^a at 1 and of lo^-a at -1."""
    k = np.arange(1, 7)
    rows = [
        s ** (k - d) * np.prod([k - j for j in range(d)], axis=0, initial=1) for d in (0, 1, 2) for s in (1.0, -1.0)
    ]
    u, v = np.log(hi), -np.log(lo)
    return np.linalg.solve(rows, [hi - 1, lo - 1, u * hi, v * lo, u**2 * hi, v**2 * lo])
