"""An HS3 document as a workspace, as far as it is HistFactory.

Parameters keep their names, which become those of the modifiers: two modifiers are correlated if they share a parameter
there, and if they share a name in pyhf. Metadata and other packages' ``misc`` are not part of a workspace; whatever
else is not understood is an error.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nuratio.errors import InvalidWorkspace, NuratioError, UnknownName, did_you_mean
from nuratio.interop.hs3.channels import ChannelReader
from nuratio.interop.hs3.conventions import (
    DATA,
    EVENTS,
    JSON,
    MODEL,
    OBSERVED,
    configure,
    hs3_expression,
    is_default_axis,
    settings,
    strings,
)
from nuratio.interop.hs3.document import Constraints, Document, raise_problems
from nuratio.model.expression import Expression
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import Store
from nuratio.workspace.validate import problems, schema_problems
from nuratio.workspace.workspace import Workspace

__all__ = ["SHAPESYS", "from_hs3"]

SHAPESYS = ("absolute", "relative")


def from_hs3(
    document: Mapping[str, Any],
    tables: str | Path | Mapping[str, RatioTable] | None = None,
    *,
    analysis: str | None = None,
    shapesys: str | None = None,
) -> Workspace:
    """The workspace of an HS3 document.

    Parameters
    ----------
    document : dict
        The JSON object: written by `to_hs3`, ROOT or any other package.
    tables : path or mapping, optional
        The event tables of unbinned channels, if the document has some: a workspace that holds the files (directory or
        zip), or file id -> `RatioTable`.
    analysis : str, optional
        Only this one. By default each analysis becomes a measurement, which needs the same data in all.
    shapesys : str, optional
        What a shapesys' ``vals`` are: ``absolute`` uncertainties, as pyhf, pyhs3 and nuratio mean it (the default), or
        ``relative`` ones, as ROOT does (the default for documents of ROOT).

    Raises
    ------
    UnknownName
        No such analysis or convention.
    InvalidWorkspace
        Listing everything in the document that a workspace cannot hold.

    References
    ----------
    HS3 v0.2.9, https://github.com/hep-statistics-serialization-standard.
    """
    if shapesys not in (None, *SHAPESYS):
        raise UnknownName(f"no convention {shapesys!r}; {did_you_mean(str(shapesys), SHAPESYS, 'conventions')}")
    content = Document.of(document)
    try:
        spec = _Reader(content, content.of_root if shapesys is None else shapesys == "relative").read(analysis)
    except NuratioError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InvalidWorkspace(f"the HS3 document is malformed: {type(error).__name__} {error}") from error
    raise_problems(schema_problems(spec))
    found = _tables(spec, tables)
    raise_problems(problems(spec, found))
    return Workspace(spec, found)


def _tables(spec: Mapping[str, Any], source: str | Path | Mapping[str, RatioTable] | None) -> dict[str, RatioTable]:
    entries = spec.get("unbinned", {}).get("files", [])
    if not entries:
        return {}
    if source is None:
        raise InvalidWorkspace(
            f"the document has unbinned channels, whose events are in files of their own ({entries[0]['uri']}, ...); "
            "name the workspace that holds them"
        )
    if isinstance(source, Mapping):
        raise_problems([f"no table for file {e['id']!r}" for e in entries if e["id"] not in source])
        return {e["id"]: source[e["id"]] for e in entries}
    with Store(Path(source)) as store:
        read = {e["id"]: store.table(e, verify=True) for e in entries}
    raise_problems([problem for _, wrong in read.values() for problem in wrong])
    return {name: table for name, (table, _) in read.items() if table is not None}


@dataclass
class _Reader:
    """From a document to a workspace's JSON."""

    document: Document
    relative: bool
    mixed: set[str] = field(default_factory=set)  # channels that are given in closed form
    channels: ChannelReader = field(init=False)

    def read(self, analysis: str | None) -> JSON:
        """The workspace's JSON."""
        analyses = self._analyses(analysis)
        terms = self._terms(analyses)
        self._require_use(analyses, terms, chosen=analysis is not None)
        point = self.document.point(analyses[0])
        constraints = Constraints(self.document, point)
        auxiliary = constraints.auxiliary(analyses[0])
        self.channels = ChannelReader(self.document, constraints, dict(auxiliary), self.mixed, self.relative)
        channels = [self.channels.read(d) for d, _ in terms]
        self.channels.finish()
        observations = [self._observation(d, data) for d, data in terms]
        for a in analyses[1:]:
            other = Constraints(self.document, self.document.point(a)).auxiliary(a)
            kept = [{p: t for p, t in terms.items() if p != self.channels.lumi} for terms in (auxiliary, other)]
            if kept[0] != kept[1]:
                self.document.refuse("the analyses differ in constraints, and a workspace has them once: choose one")
        raise_problems(self.document.problems)
        spec: JSON = {"channels": channels, "observations": observations, "measurements": [], "version": "1.0.0"}
        extension = self._extension([d for d, _ in terms])
        if extension:
            spec["unbinned"] = extension
        spec["measurements"] = [self._measurement(spec, a) for a in analyses]
        if "poi" in extension and any(m["config"]["poi"] for m in spec["measurements"]):
            self.document.refuse(f"{extension['poi']!r} is the POI of one analysis, and it is no modifier: choose one")
        raise_problems(self.document.problems)
        return spec

    # --- what is to be read

    def _analyses(self, name: str | None) -> list[Mapping[str, Any]]:
        known = self.document.named["analyses"]
        if name is not None:
            if name not in known:
                raise UnknownName(f"no analysis {name!r}; {did_you_mean(name, known, 'analyses')}")
            return [known[name]]
        if known:
            return list(known.values())
        if len(self.document.named["likelihoods"]) != 1:
            raise_problems([f"no analysis, and {len(self.document.named['likelihoods'])} likelihoods instead of one"])
        (only,) = self.document.named["likelihoods"]
        return [{"name": only, "likelihood": only}]

    def _terms(self, analyses: Sequence[Mapping[str, Any]]) -> list[tuple[JSON, JSON]]:
        """Each channel's distribution and data."""
        pairs = {}
        for a in analyses:
            likelihood = self.document.likelihood(a)
            distributions, data = likelihood.get("distributions", []), likelihood.get("data", [])
            if len(distributions) != len(data):
                raise_problems(
                    [f"likelihood {likelihood['name']!r}: {len(distributions)} distributions, {len(data)} data"]
                )
            pairs[a["name"]] = [self._counted(d, x) for d, x in zip(distributions, data, strict=True)]
        if any(p != pairs[analyses[0]["name"]] for p in pairs.values()):
            raise_problems(
                [f"the analyses {list(pairs)} differ in channels or data, which a workspace has once: choose one"]
            )
        terms = []
        for d, x in pairs[analyses[0]["name"]]:
            distribution, data = self.document.named["distributions"].get(d, {}), self.document.named["data"].get(x, {})
            if distribution.get("type") != "histfactory_dist":
                self.document.refuse(
                    f"distribution {d!r} is of type {distribution.get('type')!r}, not histfactory_dist"
                )
            elif data.get("type") != "binned":
                self.document.refuse(f"data {x!r} is of type {data.get('type')!r}, not binned")
            else:
                terms.append((distribution, data))
        raise_problems(self.document.problems)
        return terms

    def _counted(self, distribution: Any, data: Any) -> tuple[Any, Any]:
        """For the closed form of one of our unbinned channels, its rates and counts."""
        channels = {c["name"] for c in self.document.own.get("unbinned", {}).get("channels", [])}
        channel = str(distribution).removeprefix(EVENTS)
        if distribution == EVENTS + channel and channel in channels:
            self.mixed.add(channel)
            return MODEL + channel, DATA + channel
        return distribution, data

    def _require_use(
        self, analyses: Sequence[Mapping[str, Any]], terms: Sequence[tuple[JSON, JSON]], *, chosen: bool
    ) -> None:
        """Everything in the document must belong to an analysis: to one of those read, if no single one was chosen."""
        objects = {**self.document.named["distributions"], **self.document.named["functions"]}
        pending: list[Any] = [t["name"] for pair in terms for t in pair]
        for a in self.document.named["analyses"].values() if chosen else analyses:
            pending += strings(self.document.likelihood(a))
        for c in self.document.own.get("unbinned", {}).get("channels", []):
            pending.append(OBSERVED + c["name"])
        used = set()
        while pending:
            name = pending.pop()
            if name not in used:
                used.add(name)
                pending += strings(objects.get(name, {}))
        for kind in ("distributions", "functions", "data"):
            self.document.refuse(
                *[f"{kind}: {n!r} is used by no analysis" for n in self.document.named[kind] if n not in used]
            )

    def _observation(self, d: Mapping[str, Any], data: Mapping[str, Any]) -> JSON:
        if "uncertainty" in data:
            self.document.refuse(f"data {data['name']!r} has uncertainties")
        return {"name": d["name"].removeprefix(MODEL), "data": data.get("contents", [])}

    # --- what goes around the channels

    def _extension(self, channels: Sequence[Mapping[str, Any]]) -> JSON:
        """The key ``unbinned``; empty where a pyhf workspace says it all."""
        extension: JSON = copy.deepcopy(dict(self.document.own.get("unbinned", {})))
        extension.pop("poi", None)  # that of the analyses
        declared = {p["name"]: p for p in extension.pop("parameters", [])}
        for name, text in self.channels.expressions.items():
            p = declared.get(name, {})
            same = "expression" in p and hs3_expression(p["expression"]) == hs3_expression(text)
            declared[name] = p if same else {"name": name, "expression": text}
        used = {n for text in self.channels.expressions.values() for n in Expression.parse(text).names}
        for name in sorted(used - self.channels.parameters.keys()):
            declared.setdefault(name, {"name": name})
        lost = [n for n, p in declared.items() if "expression" in p and n not in self.channels.expressions]
        self.document.refuse(*[f"misc.nuratio: the expression of {n!r} is not among the functions" for n in lost])
        kept = {n: p for n, p in declared.items() if n in self.channels.expressions or n in used}
        if kept:
            extension["parameters"] = list(kept.values())
        before = settings({"unbinned": extension})
        codes = copy.deepcopy(dict(before))
        for kind, found in self.channels.codes.items():
            if len(found) > 1:
                self.document.refuse(f"{kind}: interpolations {sorted(found)}, but a workspace has one for all")
            elif found:
                codes[kind] = {"interpcode": next(iter(found))}
        if codes != before:
            extension["modifier_settings"] = codes
        edges = [
            {"channel": d["name"].removeprefix(MODEL), "name": a["name"], "edges": _edges(a)}
            for d in channels
            for a in d.get("axes", [])
            if len(d["axes"]) == 1 and not is_default_axis(a)
        ]
        if edges and not self.document.own:
            extension["axes"] = edges
        return {"version": "1.0.0", "files": [], "channels": []} | extension if extension else {}

    def _measurement(self, spec: JSON, analysis: Mapping[str, Any]) -> JSON:
        """An analysis as a measurement: as it was in the workspace written, if that says the same as the document."""
        name = analysis["name"]
        point = self.document.point(analysis)
        pois = analysis.get("parameters_of_interest", analysis.get("parameter_of_interest", []))
        if len(pois) > 1:
            self.document.refuse(f"analysis {name!r}: parameters of interest {pois}, but a workspace has one")
        poi = pois[0] if pois else ""
        declared = {p["name"] for p in spec.get("unbinned", {}).get("parameters", [])}
        if poi in declared - self.channels.parameters.keys():
            spec["unbinned"]["poi"], poi = poi, ""
        lumi = self._lumi(point, analysis)
        bare: JSON = {"name": name, "config": {"poi": poi, "parameters": lumi}}
        for hint in self.document.own.get("measurements", []):
            if (
                hint["name"] == name
                and hint["config"]["poi"] == poi
                and not self._differing(spec, hint, point, analysis)
            ):
                same = [p for p in hint["config"]["parameters"] if p["name"] == "lumi"]
                if [(p.get("auxdata"), p.get("sigmas")) for p in same] == [(p["auxdata"], p["sigmas"]) for p in lumi]:
                    return copy.deepcopy(dict(hint))
        found = {p["name"]: dict(p) for p in lumi}
        for parameter, changes in self._differing(spec, bare, point, analysis).items():
            if parameter in declared:
                entry = next(p for p in spec["unbinned"]["parameters"] if p["name"] == parameter)
                entry |= changes
            else:
                found[parameter] = found.get(parameter, {"name": parameter}) | changes
        bare["config"]["parameters"] = list(found.values())
        return bare

    def _lumi(self, point: Mapping[str, Any], analysis: Mapping[str, Any]) -> list[JSON]:
        if self.channels.lumi is None:
            return []
        parameter = self.channels.lumi
        terms = self.channels.terms | Constraints(self.document, point).auxiliary(analysis)
        _, aux, width = terms[parameter]
        value = point.get(parameter, {}).get("value", aux)
        bounds = self.document.bounds(analysis).get(parameter, (aux - 5 * width, aux + 5 * width))
        entry: JSON = {"name": "lumi", "auxdata": [aux], "sigmas": [width], "inits": [value], "bounds": [list(bounds)]}
        return [entry]

    def _differing(
        self, spec: JSON, measurement: JSON, point: Mapping[str, Any], analysis: Mapping[str, Any]
    ) -> dict[str, JSON]:
        """Parameter -> how the document sets it, where that is not how the measurement does."""
        config, bounds = configure(spec, measurement), self.document.bounds(analysis)
        differing: dict[str, JSON] = {}
        for name in config.par_order:
            paramset = config.param_set(name)
            own = self.channels.parameters.get(name, [name])
            inits = [point.get(p, {}).get("value", v) for p, v in zip(own, paramset.suggested_init, strict=True)]
            limits = [list(bounds.get(p, b)) for p, b in zip(own, paramset.suggested_bounds, strict=True)]
            fixed = [
                point[p].get("const", False) if p in point else f
                for p, f in zip(own, paramset.suggested_fixed, strict=True)
            ]
            changes: JSON = {}
            if inits != list(paramset.suggested_init):
                changes["inits"] = inits
            if limits != [list(b) for b in paramset.suggested_bounds]:
                changes["bounds"] = limits
            if fixed != list(paramset.suggested_fixed):
                if len(set(fixed)) > 1:
                    self.document.refuse(f"parameters {own}: only some are constant, and pyhf fixes all or none")
                changes["fixed"] = fixed[0]
            if changes:
                differing[name] = changes
        return differing


def _edges(axis: Mapping[str, Any]) -> list[float]:
    if "edges" in axis:
        return list(axis["edges"])
    edges: list[float] = np.linspace(axis["min"], axis["max"], axis["nbins"] + 1).tolist()
    return edges
