"""The reference density q = sum_k rho_k |p|_k: fractions of the parts from what the user asks for."""

from collections.abc import Mapping, Sequence

from nuratio.errors import InvalidData, UnknownName, did_you_mean
from nuratio.ratios.estimator import Part

__all__ = ["Reference", "mixture_fractions"]

Reference = str | Mapping[str, float] | None


def mixture_fractions(reference: Reference, parts: Sequence[Part]) -> tuple[dict[str, float], dict[str, float]]:
    """Training fractions t and reference fractions rho, part name -> fraction.

    None gives every sample the same fraction and its parts their shares of sum |w|; a mapping gives samples or parts
    the fractions it names. Then rho = t. The name of a sample of positive weights: rho is 1 there, t as for None.

    Raises
    ------
    UnknownName
        A name that is no sample (or, in a mapping, no part).
    InvalidData
        A reference sample with negative weights; fractions that are not positive, do not sum to 1 within 1e-6, or
        give a part none or two.
    """
    samples = list(dict.fromkeys(part.sample for part in parts))
    if isinstance(reference, Mapping):
        total = sum(reference.values())
        if abs(total - 1) > 1e-6 or not all(fraction > 0 for fraction in reference.values()):
            raise InvalidData(
                f"reference fractions must be positive with sum 1, got {dict(reference)}, sum {total:.7g}"
            )
        fractions = _share({name: fraction / total for name, fraction in reference.items()}, parts)
        return fractions, fractions
    equal = _share({sample: 1 / len(samples) for sample in samples}, parts)
    if reference is None:
        return equal, equal
    if reference not in samples:
        raise UnknownName(f"no sample {reference!r} to be the reference; {did_you_mean(reference, samples, 'samples')}")
    negative = sum(part.events for part in parts if part.sample == reference and part.sign < 0)
    if negative:
        raise InvalidData(
            f"sample {reference!r} cannot be the reference: {negative} of its weights are negative; name a sample of "
            "positive weights or use the pooled reference (None)"
        )
    return equal, {part.name: float(part.name == reference) for part in parts}


def _share(given: Mapping[str, float], parts: Sequence[Part]) -> dict[str, float]:
    """Share each fraction among the part, or the parts of the sample, that it names."""
    fractions: dict[str, float] = {}
    for name, fraction in given.items():
        named = [part for part in parts if name in (part.name, part.sample)]
        if not named:
            known = dict.fromkeys([*(part.sample for part in parts), *(part.name for part in parts)])
            raise UnknownName(f"no sample or part {name!r} for a reference fraction; {did_you_mean(name, known)}")
        for part in named:
            if part.name in fractions:
                raise InvalidData(
                    f"reference fractions: part {part.name!r} is given two; name it or its sample, not both"
                )
            fractions[part.name] = fraction * abs(part.total) / sum(abs(p.total) for p in named)
    missing = [part.name for part in parts if part.name not in fractions]
    if missing:
        raise InvalidData(f"reference fractions: {missing} have none; a part without support in q has no ratio to it")
    return {part.name: fractions[part.name] for part in parts}
