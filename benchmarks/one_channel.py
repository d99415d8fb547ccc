"""A workspace of one unbinned channel SR without further channels, as the studies of learned likelihoods make it."""

from collections.abc import Mapping, Sequence
from typing import Any

from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
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
