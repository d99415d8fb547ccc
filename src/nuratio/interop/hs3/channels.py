"""Channels of an HS3 document as pyhf's: each ``histfactory_dist`` with its samples and modifiers."""

import ast
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nuratio.errors import InvalidModel
from nuratio.interop.hs3.conventions import INTERPOLATIONS, JSON, MODEL
from nuratio.interop.hs3.document import UNIT, Constraints, Document, Term
from nuratio.model.expression import Expression

__all__ = ["ChannelReader"]

_CHANNEL = {"axes", "samples", "staterror", "statError", "default_interpolation", "barlow_beeston_method"}
_MODIFIER = {"parameter", "parameters", "data", "interpolation"}
_MODIFIER |= {"constraint", "constraints", "constraint_name", "constraint_type"}


@dataclass
class ChannelReader:
    """Reads one channel after the other and collects what they share.

    Attributes
    ----------
    named_terms : Constraints
        Distributions that modifiers refer to.
    terms : dict
        Parameter -> its constraint beside the modifiers.
    mixed : set of str
        Channels whose likelihood is given in closed form: their modifiers imply no constraints.
    relative : bool
        Whether ``vals`` of a shapesys are relative uncertainties.
    parameters : dict
        Modifier -> its parameters in the document.
    codes : dict
        Modifier type -> interpolation codes.
    expressions : dict
        Normfactor -> its expression, where it is a function.
    lumi : str or None
        The parameter of pyhf's lumi.
    """

    document: Document
    named_terms: Constraints
    terms: dict[str, Term]
    mixed: set[str]
    relative: bool
    parameters: dict[str, list[str]] = field(default_factory=dict)
    codes: dict[str, set[str]] = field(default_factory=lambda: {"normsys": set(), "histosys": set()})
    expressions: dict[str, str] = field(default_factory=dict)
    lumi: str | None = None
    places: dict[str, tuple[str, str]] = field(default_factory=dict)  # per-bin modifier -> channel and sample
    implied: set[str] = field(default_factory=set)  # parameters that a modifier constrains
    closed: set[str] = field(default_factory=set)  # those of modifiers that do not

    def read(self, d: Mapping[str, Any]) -> JSON:
        """The channel of a ``histfactory_dist``."""
        name = d["name"].removeprefix(MODEL)
        where = f"channel {name!r}"
        self._known_keys(where, d, {"name", "type", *_CHANNEL})
        if d.get("barlow_beeston_method", "lite") != "lite":
            self.document.refuse(f"{where}: barlow_beeston_method {d['barlow_beeston_method']!r}; pyhf has lite")
        samples = []
        for i, s in enumerate(d.get("samples", [])):
            label = s.get("name", f"sample_{i}")
            self._known_keys(f"{where}, sample {label!r}", s, {"name", "data", "modifiers", "dict"})
            self._known_keys(f"{where}, sample {label!r}, data", s.get("data", {}), {"contents", "errors"})
            modifiers = [self._modifier(d, name, label, s, m) for m in s.get("modifiers", [])]
            kept = [m for m in modifiers if m is not None]
            samples.append({"name": label, "data": s.get("data", {}).get("contents", []), "modifiers": kept})
        return {"name": name, "samples": samples}

    def _known_keys(self, where: str, item: Mapping[str, Any], known: Iterable[str]) -> None:
        self.document.refuse(*[f"{where}: unknown {key!r}" for key in item if key not in known])

    def _modifier(
        self, d: Mapping[str, Any], channel: str, sample: str, s: Mapping[str, Any], m: Mapping[str, Any]
    ) -> JSON | None:
        kind, label = m.get("type"), m.get("name", m.get("parameter"))
        where = f"channel {channel!r}, sample {sample!r}: {kind} {label!r}"
        self._known_keys(where, m, {"name", "type", *_MODIFIER})
        match kind:
            case "normfactor":
                return self._normfactor(where, m)
            case "normsys" | "histosys":
                return self._variation(where, d, channel, m)
            case "staterror" | "shapesys" | "shapefactor":
                return self._per_bin(where, d, channel, sample, s, m)
        self.document.refuse(f"{where}: no such modifier in pyhf")
        return None

    def _normfactor(self, where: str, m: Mapping[str, Any]) -> JSON | None:
        parameter = m.get("parameter", m.get("name"))
        if not isinstance(parameter, str):
            self.document.refuse(f"{where}: no parameter")
            return None
        named = m.get("constraint_name", m.get("constraint"))
        if named is not None:
            constraint = self.named_terms.constraint(named, parameter)
            if constraint is None:
                self.document.refuse(f"{where}: constraint {named!r} is not understood")
                return None
            self.terms[parameter] = constraint[1]
        if parameter in self.document.named["functions"]:
            self._expression(where, parameter)
        if parameter in self.terms:
            self.lumi = self.lumi or parameter
            if self.terms[parameter][0] != "normal" or self.lumi != parameter:
                self.document.refuse(f"{where}: a constrained factor is pyhf's lumi, Gaussian and only one")
            self._scalar(where, "lumi", parameter)
            return {"name": "lumi", "type": "lumi", "data": None}
        self._scalar(where, parameter, parameter)
        return {"name": parameter, "type": "normfactor", "data": None}

    def _scalar(self, where: str, name: str, parameter: str) -> None:
        if self.parameters.setdefault(name, [parameter]) != [parameter]:
            self.document.refuse(f"{where}: {name!r} is the name of {self.parameters[name]} already")

    def _expression(self, where: str, name: str) -> None:
        f = self.document.named["functions"][name]
        match f.get("type"):
            case "generic_function":
                text = str(f.get("expression"))
            case "product":
                text = " * ".join(map(str, f.get("factors", [])))
            case "sum":
                text = " + ".join(map(str, f.get("summands", [])))
            case other:
                self.document.refuse(f"{where}: its factor is a function of type {other!r}")
                return
        try:
            tree = _Powers().visit(ast.parse(text.strip().replace("^", "**"), mode="eval"))
            self.expressions[name] = Expression.parse(ast.unparse(ast.fix_missing_locations(tree))).text
        except (SyntaxError, ValueError, RecursionError, MemoryError, InvalidModel) as error:
            self.document.refuse(f"{where}: its expression {text[:100]!r} is not understood: {error}")

    def _variation(self, where: str, d: Mapping[str, Any], channel: str, m: Mapping[str, Any]) -> JSON | None:
        kind, parameter = m["type"], m.get("parameter", f"alpha_{m.get('name')}")
        self._scalar(where, parameter, parameter)
        (self.closed if channel in self.mixed else self.implied).add(parameter)
        if parameter in self.document.named["functions"]:
            self.document.refuse(f"{where}: its parameter is a function, which pyhf has for no {kind}")
        for key in ("constraint", "constraint_name", "constraint_type"):
            if m.get(key, "Gauss") != "Gauss" and self.named_terms.constraint(m[key], parameter) != (parameter, UNIT):
                self.document.refuse(f"{where}: constraint {m[key]!r} is no Gaussian of mean 0 and width 1")
        if self.terms.get(parameter, UNIT) != UNIT or (channel not in self.mixed and parameter in self.terms):
            self.document.refuse(f"{where}: {parameter!r} has another constraint beside the modifier")
        data = m.get("data", {})
        spelled = [i["interpolation"] for i in (m, data) if "interpolation" in i]
        spelled = spelled or [d.get("default_interpolation")]
        codes = {self._code(kind, s) for s in spelled}
        if len(codes) > 1 or None in codes:
            self.document.refuse(f"{where}: interpolation {spelled}; known are {', '.join(INTERPOLATIONS[kind])}")
        else:
            self.codes[kind] |= {c for c in codes if c}
        try:
            if kind == "normsys":
                values = {"hi": data["hi"], "lo": data["lo"]}
            else:
                values = {"hi_data": data["hi"]["contents"], "lo_data": data["lo"]["contents"]}
        except (KeyError, TypeError):
            self.document.refuse(f"{where}: no hi and lo")
            return None
        return {"name": parameter, "type": kind, "data": values}

    @staticmethod
    def _code(kind: str, spelled: Any) -> str | None:
        if isinstance(spelled, Mapping):
            spelled = [spelled.get(key) for key in ("type", "in", "out")]
        return next((code for code, known in INTERPOLATIONS[kind].items() if spelled in known), None)

    def _per_bin(
        self,
        where: str,
        d: Mapping[str, Any],
        channel: str,
        sample: str,
        s: Mapping[str, Any],
        m: Mapping[str, Any],
    ) -> JSON | None:
        nominal = np.array(s.get("data", {}).get("contents", []), dtype=np.float64)
        kind, label = m["type"], m.get("name", m["type"])
        stem = f"stat_{channel}" if kind == "staterror" else label
        own = m.get("parameters") or [f"gamma_{stem}_bin_{i}" for i in range(len(nominal))]
        if len(own) != len(nominal):
            self.document.refuse(f"{where}: {len(own)} parameters for {len(nominal)} bins")
            return None
        terms = self._bin_terms(where, own, m)
        values: list[float] | None = None
        match kind:
            case "staterror":
                kind, values = self._staterror(where, d, s, terms)
            case "shapesys":
                kind, values = self._shapesys(where, m, nominal, terms)
            case _ if any(terms):  # a shapefactor with constraints of its own
                kind, values = self._constrained(where, d, s, nominal, own, terms)
        name = self._name(kind, label, own, channel, sample)
        if name is None:
            self.document.refuse(
                f"{where}: its parameters are shared with another place, and pyhf's {kind} has its own"
            )
            return None
        return {"name": name, "type": kind, "data": values}

    def _bin_terms(self, where: str, own: Sequence[str], m: Mapping[str, Any]) -> list[Term | None]:
        """The constraint of each bin's parameter that is a distribution of the document."""
        terms = [self.terms.get(p) for p in own]
        for i, name in enumerate(m.get("constraints", [])):
            if name is None:
                continue
            constraint = self.named_terms.constraint(name, own[i]) if i < len(own) else None
            if constraint is None:
                self.document.refuse(f"{where}: constraint {name!r} is not understood")
            else:
                terms[i] = constraint[1]
        return terms

    def _staterror(
        self, where: str, d: Mapping[str, Any], s: Mapping[str, Any], terms: Sequence[Any]
    ) -> tuple[str, list[float]]:
        if any(terms):
            self.document.refuse(f"{where}: constraints beside that of the staterror")
        sharing = [x["data"] for x in d["samples"] if any(m.get("type") == "staterror" for m in x.get("modifiers", []))]
        errors = s["data"].get("errors", [0.0] * len(s["data"]["contents"]))
        options = d.get("staterror", d.get("statError", {}))
        threshold = options.get("relThreshold", 0)
        if threshold > 0:  # relative uncertainties below it do not count
            square = sum(np.array(x.get("errors", 0.0)) ** 2 for x in sharing)
            total = sum(np.array(x["contents"], dtype=np.float64) for x in sharing)
            errors = np.where(np.sqrt(square) < threshold * total, 0.0, errors).tolist()
        m = next(m for m in s["modifiers"] if m["type"] == "staterror")
        constraint = m.get("constraint", m.get("constraint_type", options.get("constraint_type")))
        constraint = constraint or options.get("constraint") or ("Poisson" if self.document.of_root else "Gauss")
        if constraint in ("Gauss", "Gaussian"):
            return "staterror", errors
        if constraint != "Poisson" or len(sharing) > 1:
            self.document.refuse(
                f"{where}: {constraint} constraints of {len(sharing)} samples together; pyhf's staterror is Gaussian"
            )
        return "shapesys", errors

    def _shapesys(
        self, where: str, m: Mapping[str, Any], nominal: Any, terms: Sequence[Term | None]
    ) -> tuple[str, list[float]]:
        values: list[float] = m.get("data", {}).get("vals", [])
        if m.get("constraint", m.get("constraint_type", "Poisson")) != "Poisson" or any(
            t[0] != "poisson" for t in terms if t
        ):
            self.document.refuse(f"{where}: its constraint is not Poisson, as pyhf's is")
        if len(values) != len(nominal):
            self.document.refuse(f"{where}: {len(values)} vals for {len(nominal)} bins")
        elif self.relative:
            values = (np.array(values) * nominal).tolist()
        return "shapesys", values

    def _constrained(
        self,
        where: str,
        d: Mapping[str, Any],
        s: Mapping[str, Any],
        nominal: Any,
        own: Sequence[str],
        terms: Sequence[Term | None],
    ) -> tuple[str, list[float] | None]:
        """A shapefactor whose constraints stand beside the likelihood: a staterror or shapesys."""
        kinds = {t[0] if t else "none" for t in terms}
        fixed = np.array([self.named_terms.const(p) for p in own])
        width = np.array([t[2] if t else 0.0 for t in terms])
        width[fixed] = 0.0  # a bin without uncertainty
        if kinds == {"poisson"}:
            return "shapesys", (width * nominal).tolist()
        if kinds != {"normal"} or any(t and t[1] != 1.0 for t in terms):
            self.document.refuse(f"{where}: constraints that are neither all Poisson nor all Gaussian of mean 1")
            return "shapefactor", None
        sharing = [x["data"] for x in d["samples"] if any(m.get("parameters") == own for m in x.get("modifiers", []))]
        total = sum(np.array(x["contents"], dtype=np.float64) for x in sharing)
        errors = s["data"].get("errors")
        stored = [np.array(x["errors"], dtype=np.float64) for x in sharing if "errors" in x]
        if errors and np.allclose(np.sqrt(sum(e**2 for e in stored)), width * total, rtol=1e-12, atol=0):
            return "staterror", errors
        with np.errstate(invalid="ignore"):  # the same relative uncertainty for all samples
            square = sum(np.array(x["contents"], dtype=np.float64) ** 2 for x in sharing)
            share = np.where(square > 0, nominal * total / np.sqrt(square), 0.0)
        return "staterror", (width * share).tolist()

    def _name(self, kind: str, label: str, own: Sequence[str], channel: str, sample: str) -> str | None:
        """pyhf's name for the parameters of a per-bin modifier; None if it cannot share them with another place."""
        place = (channel, "" if kind == "staterror" else sample)
        for name, parameters in self.parameters.items():
            if parameters == own:
                return name if name in self.places and (kind == "shapefactor" or self.places[name] == place) else None
        names = (label, f"{label}_{channel}", f"{label}_{channel}_{sample}")
        free = next((n for n in names if n not in self.parameters), None)
        if free is not None:
            self.parameters[free], self.places[free] = list(own), place
        return free

    def finish(self) -> None:
        """Look for what only shows when all channels are read: parameters of several roles, constraints of nothing."""
        for parameter, times in Counter(p for own in self.parameters.values() for p in own).items():
            if times > 1:
                self.document.refuse(f"parameter {parameter!r} has several roles, which are several parameters in pyhf")
        per_bin = {p for name in self.places for p in self.parameters[name]}
        for parameter, term in self.terms.items():
            scalar = term == UNIT and parameter in self.parameters
            if parameter != self.lumi and parameter not in per_bin and not scalar:
                self.document.refuse(f"the constraint of {parameter!r} is one of no modifier")
        for parameter in sorted(self.closed - self.implied - self.terms.keys()):
            self.document.refuse(f"{parameter!r} has no constraint, and in pyhf every normsys and histosys has one")


class _Powers(ast.NodeTransformer):
    """``pow(a, b)`` as ``a ** b``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Rewrite a call."""
        self.generic_visit(node)
        match node:
            case ast.Call(ast.Name("pow"), [base, exponent], []):
                return ast.BinOp(base, ast.Pow(), exponent)
        return node
