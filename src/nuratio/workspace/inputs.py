"""The events a configuration names: data, nominal samples and their variations, for one region."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuratio.data.parquet import read_parquet
from nuratio.data.root import read_root
from nuratio.data.sample import EventSample
from nuratio.data.variation import Variation
from nuratio.errors import InvalidConfig
from nuratio.workspace.config import Config

__all__ = ["RegionEvents", "read_region"]


@dataclass(frozen=True)
class RegionEvents:
    """Everything read for one region.

    Attributes
    ----------
    data : EventSample
        Observed events.
    nominal : dict
        Sample name -> events.
    varied : dict
        (sample, systematic) -> (up, down); down is None where it mirrors up.
    """

    data: EventSample
    nominal: Mapping[str, EventSample]
    varied: Mapping[tuple[str, str], tuple[EventSample, EventSample | None]]


def read_region(config: Config, region: Mapping[str, Any], *, progress: bool | None = None) -> RegionEvents:
    """Read data, samples and variations of a region, with its features or its variable.

    Raises
    ------
    InvalidData
        As `nuratio.read_root`, naming region, sample and variation.
    """
    features = region["Features"] if region.get("Type") == "unbinned" else [region["Variable"]]
    where = region["Name"]
    nominal = {}
    varied: dict[tuple[str, str], tuple[EventSample, EventSample | None]] = {}
    for sample in config.samples(where):
        name = sample["Name"]
        nominal[name] = _read(config, region, sample, features, None, progress)
        for systematic in config.systematics(where, name):
            if systematic["Type"] != "NormPlusShape":
                continue
            up = _variation(config, systematic, "Up")
            down = None if "Symmetrize" in systematic["Down"] else _variation(config, systematic, "Down")
            varied[name, systematic["Name"]] = (
                _read(config, region, sample, features, up, progress),
                None if down is None else _read(config, region, sample, features, down, progress),
            )
    return RegionEvents(_read(config, region, config.data, features, None, progress), nominal, varied)


def _variation(config: Config, systematic: Mapping[str, Any], side: str) -> Variation:
    template = systematic[side]
    return Variation(
        tree=template.get("Tree"),
        files=config.paths(template["SamplePath"]) if "SamplePath" in template else None,
        weight=template.get("Weight"),
        name=f"{systematic['Name']} {side.lower()}",
    )


def _read(
    config: Config,
    region: Mapping[str, Any],
    sample: Mapping[str, Any],
    features: Any,
    variation: Variation | None,
    progress: bool | None,
) -> EventSample:
    cuts = [f"({f})" for f in (region.get("Filter"), sample.get("Filter")) if f]
    options: dict[str, Any] = {
        "weight": sample.get("Weight"),
        "cut": " & ".join(cuts) or None,
        "variation": variation,
        "event_id": sample.get("EventId"),
        "scale": sample.get("Scale", 1.0),
        "progress": progress,
        "label": f"region {region['Name']!r}, sample {sample['Name']!r}",
    }
    files = config.paths(sample["SamplePath"])
    if all(Path(f).suffix in (".parquet", ".pq") for f in files):
        return read_parquet(files, features, **options)
    if "Tree" not in sample:
        raise InvalidConfig(f"sample {sample['Name']!r}: ROOT files need a Tree")
    return read_root(files, sample["Tree"], features, **options)
