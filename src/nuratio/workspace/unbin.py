"""A binned channel as an unbinned one with piecewise-constant ratios: the exact equivalence.

With any positive q_b summing to 1, an event in bin b has r_c = n_cb / (n_c q_b), so that the total density there is
lambda_b / q_b and

    -2 ln L_unbinned = 2 [ sum_b lambda_b - sum_b n_b ln(lambda_b / q_b) ] = -2 ln L_binned + constant.

One pool event stands for each bin (q_b = 1 / bins) and carries the bin's count as its observed weight. A channel with
parameters per bin (staterror, shapesys, shapefactor), or a sample that only its variations make non-zero, keeps its
bins as coarse cells: rates stay as they are, and every ratio is 1.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from nuratio.errors import InvalidWorkspace
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry

__all__ = ["unbin_channel"]

_PER_BIN = {"staterror", "shapesys", "shapefactor"}


def unbin_channel(
    spec: Mapping[str, Any], name: str, default_settings: Mapping[str, Any], split: int = 1
) -> tuple[dict[str, Any], str, RatioTable]:
    """The new specification, and the id and content of the table it needs; ``split`` events stand for each bin.

    Raises
    ------
    InvalidWorkspace
        The channel is unbinned already; less than one event per bin.
    """
    if split < 1:
        raise InvalidWorkspace(f"at least one event must stand for each bin, not {split}")
    new = copy.deepcopy(dict(spec))
    extension = new.setdefault("unbinned", {"version": "1.0.0", "files": [], "channels": []})
    if name in (c["name"] for c in extension["channels"]):
        raise InvalidWorkspace(f"channel {name!r} is unbinned already")
    code = extension.get("modifier_settings", default_settings)["histosys"]["interpcode"]
    channel = next(c for c in new["channels"] if c["name"] == name)
    observation = next(o for o in new["observations"] if o["name"] == name)
    counts = np.array(observation["data"], dtype=np.float64)
    columns: dict[str, Any] = {"reference weight": np.full(len(counts), 1 / len(counts)), "observed weight": counts}
    entry: dict[str, Any] = {"name": name}
    if len(counts) > 1 and any(_needs_cells(sample) for sample in channel["samples"]):
        entry["ratiocell"] = {"column": "cell"}
        entry["samples"] = [
            {"name": s["name"], "ratio": {"column": "one"}, "shares": columns["reference weight"].tolist()}
            for s in channel["samples"]
        ]
        columns |= {"cell": np.arange(len(counts)), "one": np.ones(len(counts))}
    else:
        entry["samples"] = [_as_shape(sample, code, columns) for sample in channel["samples"]]
        observation["data"] = [float(counts.sum())]
    share = {key: split if key.endswith(" weight") else 1 for key in columns}
    table = RatioTable.from_columns({k: np.repeat(c, split) / share[k] for k, c in columns.items()}, dtype=np.float64)
    file = f"{name}.bins"
    entry["events"] = {
        "observed": {"weight": {"column": "observed weight"}},
        "pool": {"file": file, "weight": {"column": "reference weight"}},
    }
    extension["files"].append(file_entry(file, table))
    extension["channels"].append(entry)
    return new, file, table


def _needs_cells(sample: Mapping[str, Any]) -> bool:
    kinds = {modifier["type"] for modifier in sample["modifiers"]}
    return bool(kinds & _PER_BIN) or ("histosys" in kinds and sum(sample["data"]) == 0)


def _as_shape(sample: dict[str, Any], code: str, columns: dict[str, Any]) -> dict[str, Any]:
    """The entry of a sample, whose yields become totals and whose columns are added."""
    label, nominal, q = sample["name"], np.array(sample["data"], dtype=np.float64), columns["reference weight"]
    total = float(nominal.sum())
    entry: dict[str, Any] = {"name": label, "ratio": {"column": label}, "modifiers": []}
    for modifier in sample["modifiers"]:
        if modifier["type"] != "histosys":
            continue
        nuisance = modifier["name"]
        varied = {side: np.array(modifier["data"][f"{side}_data"], dtype=np.float64) for side in ("hi", "lo")}
        keys = {side: f"{label}/{nuisance}/{side}" for side in varied}
        columns |= {keys[side]: values / (total * q) for side, values in varied.items()}
        entry["modifiers"].append(
            {
                "name": nuisance,
                "type": "ratiosys",
                "interpcode": code,
                "data": {side: {"column": key} for side, key in keys.items()},
                "integral": {side: float(values.sum()) / total for side, values in varied.items()},
            }
        )
        modifier["data"] = {f"{side}_data": [float(values.sum())] for side, values in varied.items()}
    columns[label] = nominal / (total * q) if total else np.ones(len(nominal))
    sample["data"] = [total]
    return entry
