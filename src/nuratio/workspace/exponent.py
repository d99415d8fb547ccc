"""The exponent of a sample's shape: which column of the event table multiplies which powers of its nuisances."""

from collections.abc import Mapping
from typing import Any

from nuratio.data.varied import Term

__all__ = ["cross_term", "exponent_terms"]


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


def cross_term(entry: Mapping[str, Any]) -> Term:
    """The monomial of an entry of ``cross``."""
    j, k = sorted(zip(entry["parameters"], entry.get("powers", (1, 1)), strict=True))
    return j, k
