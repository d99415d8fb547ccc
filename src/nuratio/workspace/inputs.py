"""The events a configuration names: data, nominal samples and their variations, for one region."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuratio.data.parquet import read_parquet
from nuratio.data.root import read_root
from nuratio.data.sample import EventSample
from nuratio.data.variation import Variation
from nuratio.data.varied import VariedSample
from nuratio.errors import InvalidConfig
from nuratio.workspace.config import Config

__all__ = ["RegionEvents", "read_data", "read_region"]

_DIRECTION = {1.0: "up", -1.0: "down"}


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
        Sample name -> its varied simulations. In binned regions those at +-1 alone.
    """

    data: EventSample
    nominal: Mapping[str, EventSample]
    varied: Mapping[str, tuple[VariedSample, ...]]


def read_region(config: Config, region: Mapping[str, Any], *, progress: bool | None = None) -> RegionEvents:
    """Read data, samples and variations of a region, with its features or its variable.

    Raises
    ------
    InvalidData
        As `nuratio.read_root`, naming region, sample and variation.
    """
    features, where = _features(region), region["Name"]
    nominal, varied = {}, {}
    for sample in config.samples(where):
        name = sample["Name"]
        nominal[name] = _read(config, region, sample, features, None, progress)
        points = []
        for alpha, template in _points(config, where, name, region.get("Type") == "unbinned"):
            label = " ".join(f"{nuisance} {_DIRECTION.get(a, f'{a:+g}')}" for nuisance, a in alpha.items())
            variation = Variation(
                tree=template.get("Tree"),
                files=config.paths(template["SamplePath"]) if "SamplePath" in template else None,
                weight=template.get("Weight"),
                branches=template.get("Branches"),
                name=label,
            )
            points.append(VariedSample(alpha, _read(config, region, sample, features, variation, progress)))
        varied[name] = tuple(points)
    return RegionEvents(read_data(config, region, progress=progress), nominal, varied)


def read_data(config: Config, region: Mapping[str, Any], *, progress: bool | None = None) -> EventSample:
    """Read the data of a region, with its features or its variable."""
    return _read(config, region, config.data, _features(region), None, progress)


def _features(region: Mapping[str, Any]) -> Any:
    return region["Features"] if region.get("Type") == "unbinned" else [region["Variable"]]


def _points(
    config: Config, region: str, sample: str, unbinned: bool
) -> Iterator[tuple[dict[str, float], Mapping[str, Any]]]:
    """The points of the nuisances at which a sample is simulated, and what to read there."""
    systematics = [s for s in config.systematics(region, sample) if s["Type"] == "NormPlusShape"]
    names = {s["Name"] for s in systematics}
    for s in systematics:
        name = s["Name"]
        yield {name: 1.0}, s["Up"]
        if "Symmetrize" not in s["Down"]:
            yield {name: -1.0}, s["Down"]
        if unbinned:
            yield from (({name: p["At"]}, p) for p in s.get("Points", []))
            yield from (
                (dict(zip((name, p["With"]), p["At"], strict=True)), p)
                for p in s.get("Cross", [])
                if p["With"] in names
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
