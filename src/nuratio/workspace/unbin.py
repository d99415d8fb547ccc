"""A binned channel as an unbinned one with piecewise-constant ratios: the exact equivalence.

With any positive q_b summing to 1, an event in bin b has r_c = n_cb / (n_c q_b), so that the total density there is
lambda_b / q_b and

    -2 ln L_unbinned = 2 [ sum_b lambda_b - sum_b n_b ln(lambda_b / q_b) ] = -2 ln L_binned + constant.

One pool event stands for each bin (q_b = 1 / bins) and carries the bin's count as its observed weight.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from nuratio.errors import InvalidWorkspace
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry

__all__ = ["unbin_channel"]

_PER_BIN = ("staterror", "shapesys", "shapefactor")


def unbin_channel(
    spec: Mapping[str, Any], name: str, default_settings: Mapping[str, Any]
) -> tuple[dict[str, Any], str, RatioTable]:
    """The new specification, and the id and content of the table it needs.

    Raises
    ------
    InvalidWorkspace
        The channel is unbinned already, has per-bin parameters, or a sample that only its variations make non-zero.
    """
    new = copy.deepcopy(dict(spec))
    extension = new.setdefault("unbinned", {"version": "1.0.0", "files": [], "channels": []})
    if name in (c["name"] for c in extension["channels"]):
        raise InvalidWorkspace(f"channel {name!r} is unbinned already")
    code = extension.get("modifier_settings", default_settings)["histosys"]["interpcode"]
    channel = next(c for c in new["channels"] if c["name"] == name)
    observation = next(o for o in new["observations"] if o["name"] == name)
    bins = len(observation["data"])
    q = 1.0 / bins
    columns: dict[str, Any] = {}
    samples = []
    for sample in channel["samples"]:
        label, nominal = sample["name"], np.array(sample["data"], dtype=np.float64)
        total = float(nominal.sum())
        entry: dict[str, Any] = {"name": label, "ratio": {"column": label}, "modifiers": []}
        for modifier in sample["modifiers"]:
            kind, nuisance = modifier["type"], modifier["name"]
            if kind in _PER_BIN:
                raise InvalidWorkspace(
                    f"channel {name!r}, sample {label!r}: {kind} {nuisance!r} has a parameter per bin, which an "
                    "unbinned channel cannot carry; remove it or keep the channel binned"
                )
            if kind == "histosys":
                if total == 0:
                    raise InvalidWorkspace(
                        f"channel {name!r}, sample {label!r}: the nominal yield is 0, so the shape that histosys "
                        f"{nuisance!r} gives it cannot be written as a ratio"
                    )
                hi, lo = (np.array(modifier["data"][k], dtype=np.float64) for k in ("hi_data", "lo_data"))
                keys = {side: f"{label}/{nuisance}/{side}" for side in ("hi", "lo")}
                columns |= {keys["hi"]: hi / (total * q), keys["lo"]: lo / (total * q)}
                entry["modifiers"].append(
                    {
                        "name": nuisance,
                        "type": "ratiosys",
                        "interpcode": code,
                        "data": {side: {"column": key} for side, key in keys.items()},
                        "integral": {"hi": hi.sum() / total, "lo": lo.sum() / total},
                    }
                )
                modifier["data"] = {"hi_data": [hi.sum()], "lo_data": [lo.sum()]}
        columns[label] = nominal / (total * q) if total else np.ones(bins)
        sample["data"] = [total]
        samples.append(entry)
    table = RatioTable.from_columns(
        columns | {"reference weight": np.full(bins, q), "observed weight": observation["data"]}, dtype=np.float64
    )
    observation["data"] = [float(sum(observation["data"]))]
    file = f"{name}.bins"
    extension["files"].append(file_entry(file, table))
    extension["channels"].append(
        {
            "name": name,
            "samples": samples,
            "events": {
                "observed": {"weight": {"column": "observed weight"}},
                "pool": {"file": file, "weight": {"column": "reference weight"}},
            },
        }
    )
    return new, file, table
