"""A varied simulation: the events of a sample at other values of its nuisance parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData

__all__ = ["Term", "VariedSample", "monomial"]

Term = tuple[tuple[str, int], ...]
"""A monomial of nuisances: ``(("jes", 2),)`` is jes^2, ``(("jer", 1), ("jes", 1))`` is jer x jes."""


def monomial(term: Term, alpha: Mapping[str, float]) -> float:
    """Its value; nuisances that are not named are 0."""
    return math.prod(alpha.get(name, 0.0) ** power for name, power in term)


@dataclass(frozen=True, eq=False)
class VariedSample:
    """Events simulated at a point of the nuisance parameters.

    Parameters
    ----------
    alpha : mapping of str to float
        Nuisance -> its value in standard deviations: ``{"jes": 1}``, ``{"jes": -2}``, ``{"jes": 1, "jer": 1}``.
        Nuisances at 0 may be left out, but not all of them: that is the nominal sample.
    events : EventSample
        With the weights (rate and shape) and, for events that are also in the nominal sample, the ids that they have
        there.

    Raises
    ------
    InvalidData
        A point at zero, or with a value that is not finite.
    """

    alpha: Mapping[str, float]
    events: EventSample

    def __post_init__(self) -> None:
        alpha = {name: float(value) for name, value in self.alpha.items() if value != 0}
        if not alpha or not all(math.isfinite(value) for value in alpha.values()):
            raise InvalidData(f"a varied sample needs a finite alpha that is not zero, got {dict(self.alpha)}")
        object.__setattr__(self, "alpha", alpha)

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value:+g}" for name, value in self.alpha.items())
