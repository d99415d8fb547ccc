"""An HS3 document and what it says by name: likelihoods, parameter points, domains, constraints of parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nuratio.errors import InvalidWorkspace

__all__ = ["UNIT", "Constraints", "Document", "Term", "raise_problems"]

Term = tuple[str, float, float]
"""A constraint: ``normal`` or ``poisson``, the auxiliary datum, the width."""

UNIT: Term = ("normal", 0.0, 1.0)  # of a normsys or histosys

_KINDS = ("distributions", "functions", "data", "likelihoods", "domains", "parameter_points", "analyses")


def raise_problems(found: Sequence[str]) -> None:
    """Raise `InvalidWorkspace` with all problems, if there are some."""
    found = list(dict.fromkeys(found))
    if found:
        head = f"{len(found)} problems" if len(found) > 1 else "1 problem"
        raise InvalidWorkspace(f"{head} in the HS3 document:\n  " + "\n  ".join(found))


@dataclass(frozen=True)
class Document:
    """A document.

    Attributes
    ----------
    content : dict
        The JSON object.
    named : dict
        Kind of objects (``distributions``, ...) -> name -> object.
    problems : list of str
        What was not understood so far.
    """

    content: Mapping[str, Any]
    named: Mapping[str, Mapping[str, Any]]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, content: Any) -> "Document":
        """Look at the outermost structure.

        Raises
        ------
        InvalidWorkspace
            It is none of a document.
        """
        raise_problems(_malformed(content))
        return cls(content, {kind: {i["name"]: i for i in content.get(kind, [])} for kind in _KINDS})

    def refuse(self, *problems: str) -> None:
        """Note what is not understood."""
        self.problems.extend(problems)

    @property
    def own(self) -> Mapping[str, Any]:
        """What nuratio added to its own documents."""
        found: Mapping[str, Any] = self.content.get("misc", {}).get("nuratio", {})
        return found

    @property
    def of_root(self) -> bool:
        """Whether ROOT wrote it."""
        packages = {p.get("name") for p in self.content.get("metadata", {}).get("packages", [])}
        by_root = "ROOT" in packages or "ROOT_internal" in self.content.get("misc", {})
        return by_root and "nuratio" not in packages

    def likelihood(self, analysis: Mapping[str, Any]) -> Mapping[str, Any]:
        """The likelihood of an analysis."""
        name = str(analysis.get("likelihood"))
        if name not in self.named["likelihoods"]:
            raise_problems([f"analysis {analysis['name']!r}: no likelihood {name!r}"])
        found: Mapping[str, Any] = self.named["likelihoods"][name]
        return found

    def point(self, analysis: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter -> its entry in the analysis' parameter point (``value``, ``const``)."""
        points = self.named["parameter_points"]
        name = analysis.get("init") or ("default_values" if "default_values" in points else next(iter(points), None))
        if name is not None and name not in points:
            self.refuse(f"analysis {analysis['name']!r}: no parameter point {name!r}")
        return {p["name"]: p for p in points.get(str(name), {}).get("parameters", [])}

    def bounds(self, analysis: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Parameter -> its bounds in the analysis' domains."""
        domains = self.named["domains"]
        names = analysis.get("domains", analysis.get("domain", []))
        names = [names] if isinstance(names, str) else list(names)
        bounds = {}
        for name in ["default_domain", *names] if "default_domain" in domains else names:
            if name not in domains:
                self.refuse(f"analysis {analysis['name']!r}: no domain {name!r}")
                continue
            for axis in domains[name].get("axes", []):
                if "min" in axis and "max" in axis:
                    bounds[axis["name"]] = (axis["min"], axis["max"])
        return bounds


@dataclass(frozen=True)
class Constraints:
    """Distributions of a document as constraints of parameters, at a parameter point."""

    document: Document
    point: Mapping[str, Any]

    def number(self, item: Any) -> float | None:
        """The value of a number, or of a parameter that is held constant; of ROOT's global observables if need be."""
        if isinstance(item, int | float):
            return float(item)
        if item in self.point:
            return float(self.point[item]["value"])
        if isinstance(item, str) and item.startswith("nom_"):
            return 1.0 if item.startswith("nom_gamma_") else 0.0
        return None

    def auxiliary(self, analysis: Mapping[str, Any]) -> dict[str, Term]:
        """Parameter -> its constraint beside the modifiers: ``normal`` or ``poisson``, auxiliary datum, width."""
        found = {}
        for name in self.document.likelihood(analysis).get("aux_distributions", []):
            constraint = self.constraint(name)
            if constraint is None:
                self.document.refuse(f"auxiliary distribution {name!r} is no Gaussian or Poisson term of a parameter")
                continue
            found[constraint[0]] = constraint[1]
        return found

    def constraint(self, name: Any, of: str | None = None) -> tuple[str, Term] | None:
        """Parameter (``of``, if it is known), kind, auxiliary datum and width; None if it is no such constraint."""
        d = self.document.named["distributions"].get(str(name), {})
        if d.get("type") == "gaussian_dist":
            free, given = self._split([d.get("mean"), d.get("x")], of)
            width = self.number(d.get("sigma"))
            if free and given is not None and width is not None:
                return free, ("normal", given, width)
        if d.get("type") == "poisson_dist":
            free, given = self._split(self.document.named["functions"].get(d.get("mean"), {}).get("factors", []), of)
            if free and given is not None and given == self.number(d.get("x")) and given > 0:
                return free, ("poisson", given, given**-0.5)
        return None

    def _split(self, pair: Sequence[Any], of: str | None) -> tuple[str | None, float | None]:
        """Of two things the parameter and the value of the other, a number or a parameter that is held constant."""
        for free, given in (pair, pair[::-1]) if len(pair) == 2 else ():
            parameter = free == of if of else isinstance(free, str) and not free.startswith("nom_")
            if parameter and (not isinstance(given, str) or self.const(given)):
                return free, self.number(given)
        return None, None

    def const(self, parameter: str) -> bool:
        """Whether a parameter is held constant."""
        return parameter.startswith("nom_") or bool(self.point.get(parameter, {}).get("const"))


def _malformed(document: Any) -> list[str]:
    if not isinstance(document, Mapping):
        return [f"a document is a JSON object, not {type(document).__name__}"]
    found = [f"unknown top-level {key!r}" for key in document if key not in (*_KINDS, "metadata", "misc")]
    for key in _KINDS:
        items = document.get(key, [])
        if not isinstance(items, list) or not all(
            isinstance(i, Mapping) and isinstance(i.get("name"), str) for i in items
        ):
            found.append(f"{key} is no array of objects with names, as in HS3 v0.2 and later")
        elif len({i["name"] for i in items}) < len(items):
            found.append(f"{key}: names repeat")
    return found
