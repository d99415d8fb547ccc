"""The configuration of an analysis: one YAML file that names inputs, channels, parameters and training once.

The words are cabinetry's where it has them: General, Regions, Samples, NormFactors, Systematics. New are regions of
``Type: unbinned`` with ``Features``, normfactors with an ``Expression``, ``EventId`` and ``Scale`` of a sample, and
``Training``. `Config.read` checks all of it before anything is opened.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from nuratio.errors import InvalidConfig, did_you_mean

__all__ = ["Config", "config_schema"]


@cache
def config_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a configuration."""
    content: dict[str, Any] = json.loads((files("nuratio.workspace") / "config_schema.json").read_text())
    return content


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    Attributes
    ----------
    values : dict
        The YAML content.
    input_path : Path
        Directory the sample paths are relative to; those that begin with ``./`` are relative to ``directory``.
    directory : Path
        Where the configuration lies.
    """

    values: Mapping[str, Any]
    input_path: Path
    directory: Path

    @classmethod
    def read(cls, path: str | Path, *, inputs: str | Path | None = None) -> "Config":
        """Read and check a YAML file.

        Parameters
        ----------
        path : path
        inputs : path, optional
            Replaces ``General: InputPath``.

        Raises
        ------
        InvalidConfig
            Listing every problem: syntax, unknown or missing words, names that lead nowhere.
        """
        path = Path(path)
        if not path.is_file():
            raise InvalidConfig(f"no configuration file {path}")
        try:
            values = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        found = _problems(values)
        if found:
            raise InvalidConfig(f"{path}: {len(found)} problem{'s' * (len(found) > 1)}:\n  " + "\n  ".join(found))
        base = path.parent / values["General"].get("InputPath", ".") if inputs is None else Path(inputs)
        return cls(values, base, path.parent)

    def paths(self, names: str | Iterable[str]) -> list[str]:
        """The files of a ``SamplePath`` entry."""
        given = [names] if isinstance(names, str) else names
        return [str((self.directory if n.startswith("./") else self.input_path) / n) for n in given]

    @property
    def regions(self) -> list[Mapping[str, Any]]:
        """The regions (channels)."""
        return list(self.values["Regions"])

    @property
    def data(self) -> Mapping[str, Any]:
        """The sample of observed data."""
        return next(s for s in self.values["Samples"] if s.get("Data"))

    def samples(self, region: str) -> list[Mapping[str, Any]]:
        """The simulated samples of a region."""
        return [s for s in self.values["Samples"] if not s.get("Data") and applies(s.get("Regions"), region)]

    def norm_factors(self, region: str, sample: str) -> list[Mapping[str, Any]]:
        """The normfactors of a sample in a region."""
        return [
            n
            for n in self.values["NormFactors"]
            if "Samples" in n and applies(n["Samples"], sample) and applies(n.get("Regions"), region)
        ]

    def systematics(self, region: str, sample: str) -> list[Mapping[str, Any]]:
        """The systematics of a sample in a region."""
        return [
            s
            for s in self.values.get("Systematics", [])
            if applies(s.get("Samples"), sample) and applies(s.get("Regions"), region)
        ]


def applies(names: str | Iterable[str] | None, name: str) -> bool:
    """Whether a ``Samples:`` or ``Regions:`` entry (one name, a list, or nothing for all) includes a name."""
    return names is None or name == names or (not isinstance(names, str) and name in names)


def _problems(values: Any) -> list[str]:
    if not isinstance(values, Mapping):
        return ["a configuration has the sections General, Regions, Samples, NormFactors"]
    found = []
    for error in jsonschema.Draft202012Validator(config_schema()).iter_errors(values):
        where = "/".join(map(str, error.absolute_path)) or "top level"
        if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
            known = error.schema.get("properties", {})
            unknown = [k for k in error.instance if k not in known]
            found += [f"{where}: unknown word {k!r}; {did_you_mean(str(k), known, 'words')}" for k in unknown]
        elif error.schema is False:
            found.append(f"{where}: {error.instance!r} is not for this type of region")
        else:
            found.append(f"{where}: {error.message[:200]}")
    return sorted(found) if found else _names(values)


def _names(values: Mapping[str, Any]) -> list[str]:
    found = []
    named = ("Regions", "Samples", "NormFactors", "Systematics", "Injections")
    lists = {key: [e["Name"] for e in values.get(key, [])] for key in named}
    for key, names in lists.items():
        found += [f"{key}: {name!r} occurs more than once" for name in sorted({n for n in names if names.count(n) > 1})]
    simulated = [s["Name"] for s in values["Samples"] if not s.get("Data")]
    if len(simulated) == len(values["Samples"]):
        found.append("Samples: none has Data: true")
    if len(simulated) < len(values["Samples"]) - 1:
        found.append("Samples: more than one has Data: true; give one with several SamplePath entries")
    for key, target, known in (
        ("Samples", "Regions", lists["Regions"]),
        ("NormFactors", "Samples", simulated),
        ("NormFactors", "Regions", lists["Regions"]),
        ("Systematics", "Samples", simulated),
        ("Systematics", "Regions", lists["Regions"]),
    ):
        for entry in values.get(key, []):
            used = entry.get(target, [])
            for name in [used] if isinstance(used, str) else used:
                if name not in known:
                    found.append(f"{key}: {entry['Name']!r}: {target}: no {name!r}; {did_you_mean(name, known)}")
    for s in values.get("Systematics", []):
        kind, up, down = s["Type"], s["Up"], s["Down"]
        found += [f"Systematics: {s['Name']!r}: {problem}" for problem in _further_points(s, values["Systematics"])]
        if "Symmetrize" in up:
            found.append(f"Systematics: {s['Name']!r}: Symmetrize belongs to Down")
        for side, template in (("Up", up), ("Down", down)):
            if ("Normalization" in template) != (kind == "Normalization") and "Symmetrize" not in template:
                found.append(f"Systematics: {s['Name']!r}: {side}: Type {kind} does not go with {sorted(template)}")
            if "Symmetrize" in template and len(template) > 1:
                found.append(f"Systematics: {s['Name']!r}: {side}: Symmetrize stands alone")
            if template.get("Normalization", 0) <= -1:
                found.append(f"Systematics: {s['Name']!r}: {side}: Normalization must be above -1")
    parameters = lists["NormFactors"] + lists["Systematics"]
    poi = values["General"]["POI"]
    if poi and poi not in parameters:
        found.append(f"General: POI {poi!r} is no NormFactor or Systematic; {did_you_mean(poi, parameters)}")
    for entry in values["General"].get("Fixed", []):
        if entry["Name"] not in parameters:
            found.append(f"General: Fixed: no parameter {entry['Name']!r}; {did_you_mean(entry['Name'], parameters)}")
    for region in values["Regions"]:
        edges = region.get("Binning", [])
        if any(b <= a for a, b in pairwise(edges)):
            found.append(f"Regions: {region['Name']!r}: Binning must increase: {edges}")
        features = list(region.get("Features", []))
        if features and "Variable" in region and region["Variable"] not in features:
            found.append(
                f"Regions: {region['Name']!r}: cells are made in one of the Features, Variable {region['Variable']!r} "
                f"is none; {did_you_mean(region['Variable'], features, 'features')}"
            )
    for entry in values["NormFactors"]:
        if "Samples" not in entry and "Expression" in entry:
            found.append(f"NormFactors: {entry['Name']!r}: an Expression needs Samples to act on")
    found += _directions(values, parameters)
    return found


def _directions(values: Mapping[str, Any], parameters: list[str]) -> Iterator[str]:
    """What is wrong with Training: Directions."""
    training = values.get("Training", {})
    if "Directions" not in training:
        return
    from nuratio.training.replicas import LAST_LAYER_METHODS

    source, ratio = training["Directions"]["Source"], training.get("Ratio", {})
    bootstrap, method = ratio.get("bootstrap", False), training.get("Method", "mixture")
    if source == "bootstrap" and not bootstrap:
        yield "Training: Directions: Source bootstrap needs networks that learn from one: Ratio: {bootstrap: true}"
    if source == "ensemble" and bootstrap:
        yield "Training: Directions: the members of this ensemble are a bootstrap (Ratio); Source: bootstrap"
    if source == "ensemble" and ratio.get("ensemble") == 1:
        yield "Training: Directions: Source ensemble needs Ratio: {ensemble: 2} or more"
    if source == "last_layer" and method not in (*LAST_LAYER_METHODS, "auto"):
        yield (
            f"Training: Directions: Source last_layer is not known of Method {method}; take the bootstrap, or one of "
            f"{', '.join(LAST_LAYER_METHODS)}"
        )
    for region in values["Regions"]:
        start = f"network_{region['Name']}_"
        yield from (
            f"{name!r} is the name of a direction of the networks; rename it"
            for name in parameters
            if name.startswith(start)
        )


def _further_points(systematic: Mapping[str, Any], all_of: list[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with Points, Cross, Order and Interpolation."""
    points, crossed = systematic.get("Points", []), systematic.get("Cross", [])
    code = systematic.get("Interpolation", "quadexp")
    if systematic["Type"] != "NormPlusShape":
        for word in ("Points", "Cross", "Order", "Interpolation"):
            if word in systematic:
                yield f"{word} is for Type NormPlusShape"
        return
    for side in ("Up", "Down"):
        yield from (f"{side}: {word} is for Points and Cross" for word in ("At", "With") if word in systematic[side])
    for template in (*points, *crossed):
        if not set(template) & {"Tree", "SamplePath", "Weight", "Branches"}:
            yield f"a point At {template['At']} changes nothing: give it a Tree, SamplePath, Weight or Branches"
        yield from (
            f"{word} is for Up and Down, not for a point At {template['At']}"
            for word in ("Normalization", "Symmetrize")
            if word in template
        )
    at = [p["At"] for p in points]
    for value in at:
        if value in (-1, 0, 1) or at.count(value) > 1:
            yield f"Points: At {value:g}: give other values than -1, 0 and 1, each once"
    if any("With" in p for p in points):
        yield "Points: With is for Cross"
    shapes = [s["Name"] for s in all_of if s["Type"] == "NormPlusShape" and s["Name"] != systematic["Name"]]
    for c in crossed:
        if c["With"] not in shapes:
            yield f"Cross: With: no other NormPlusShape {c['With']!r}; {did_you_mean(c['With'], shapes)}"
        if 0 in c["At"]:
            yield f"Cross: At {c['At']}: both values must differ from 0"
        for name in (systematic["Name"], c["With"]):
            if not name.isidentifier():
                yield f"Cross: {name!r} enters an expression of the rate: use letters, digits and _ in its name"
    if code != "quadexp" and (crossed or systematic.get("Order", 2) != 2):
        yield f"Interpolation {code} takes the shapes at 1 and -1: Order and Cross are for quadexp"
