"""A workspace of one unbinned channel SR without further channels, as the studies of learned likelihoods make it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.data.sample import EventSample
from nuratio.ratios.estimator import RatioEstimator, split_by_sign
from nuratio.ratios.table import RatioTable
from nuratio.workspace.channel import direction_names, unbinned_channel
from nuratio.workspace.inputs import RegionEvents
from nuratio.workspace.tables import file_entry
from nuratio.workspace.train import Trained
from nuratio.workspace.workspace import Workspace

__all__ = ["one_channel"]


def one_channel(
    name: str,
    rates: Sequence[Mapping[str, Any]],
    channel: Mapping[str, Any],
    tables: Mapping[str, RatioTable],
    parameters: Sequence[Mapping[str, Any]],
) -> Workspace:
    """Measurement, samples of the companion, entry of the channel, its tables, and settings of parameters; POI mu."""
    return Workspace(
        {
            "version": "1.0.0",
            "channels": [{"name": "SR", "samples": list(rates)}],
            "observations": [{"name": "SR", "data": [len(tables[channel["events"]["observed"]["file"]])]}],
            "measurements": [{"name": name, "config": {"poi": "mu", "parameters": list(parameters)}}],
            "unbinned": {
                "version": "1.0.0",
                "files": [file_entry(key, table) for key, table in tables.items()],
                "channels": [channel],
            },
        },
        tables,
    )


def trained_channel(
    x: NDArray[np.floating],
    nominal: Mapping[str, EventSample],
    ratio: RatioEstimator,
    *,
    shapes: Mapping[str, Any] | None = None,
    codes: Mapping[str, str] | None = None,
    directions: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, RatioTable], tuple[str, ...]]:
    """The unbinned channel SR as it is built from a configuration, with known yields: entry, tables, directions."""
    split = {part.name: events for part, events in split_by_sign(nominal).items()}
    trained = Trained(
        events=RegionEvents(EventSample(x), nominal, dict.fromkeys(nominal, ())),
        ratio=ratio,
        shapes=shapes or {},
        parts={part: split.get(part.name, nominal[part.sample]) for part in ratio.components},
        varied={},
        pruned=dict.fromkeys(shapes or {}, ()),
        codes=codes or {},
        keys={},
        new=0,
        directions=directions,
    )
    entry, tables, found = unbinned_channel("SR", trained, None)
    for sample in entry["samples"]:
        if "simulation" in sample:
            sample["simulation"]["yield"] = "known"
    return entry, tables, direction_names("SR", found)
