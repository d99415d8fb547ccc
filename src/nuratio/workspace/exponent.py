"""The exponent of a sample's shape: which column of the event table multiplies which powers of its nuisances."""

from collections.abc import Iterator, Mapping
from typing import Any

from nuratio.data.varied import Term

__all__ = ["cross_term", "exponent_entry", "exponent_terms"]


def exponent_terms(sample: Mapping[str, Any]) -> dict[Term, str]:
    """Term -> column of a sample of an unbinned channel, in the order of the rows of its normalisation.

    These are the first powers of the nuisances, the second ones, and so on, then the cross terms.
    """
    columns = {m["name"]: m["data"] for m in sample.get("modifiers", []) if m["interpcode"] == "quadexp"}
    names = sample.get("normalisation", {}).get("parameters", columns)
    powers = sorted({int(key[1:]) for data in columns.values() for key in data})
    terms: dict[Term, str] = {
        ((name, power),): columns[name][f"d{power}"]["column"]
        for power in powers
        for name in names
        if f"d{power}" in columns.get(name, {})
    }
    for c in sample.get("cross", []):
        terms[cross_term(c)] = c["column"]
    return terms


def exponent_entry(terms: Mapping[Term, str]) -> dict[str, Any]:
    """The keys ``modifiers`` and, where terms have two nuisances, ``cross`` of a sample: see `exponent_terms`."""
    entry: dict[str, Any] = {"modifiers": list(_modifiers(terms))}
    crossed = [(term, column) for term, column in terms.items() if len(term) == 2]
    if crossed:
        entry["cross"] = [_crossed(term, column) for term, column in crossed]
    return entry


def _modifiers(terms: Mapping[Term, str]) -> Iterator[dict[str, Any]]:
    """A modifier for each nuisance, with its powers."""
    alone = [(*term[0], column) for term, column in terms.items() if len(term) == 1]
    for nuisance in dict.fromkeys(name for name, _, _ in alone):
        data = {f"d{power}": {"column": column} for name, power, column in alone if name == nuisance}
        yield {"name": nuisance, "type": "ratiosys", "interpcode": "quadexp", "data": data}


def _crossed(term: Term, column: str) -> dict[str, Any]:
    powers = [power for _, power in term]
    return {
        "parameters": [name for name, _ in term],
        **({} if powers == [1, 1] else {"powers": powers}),
        "column": column,
    }


def cross_term(entry: Mapping[str, Any]) -> Term:
    """The monomial of an entry of ``cross``."""
    j, k = sorted(zip(entry["parameters"], entry.get("powers", (1, 1)), strict=True))
    return j, k
