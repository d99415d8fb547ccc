"""Who goes over the events of a model: this process (`InProcess`), or others (`nuratio.model.sharded`).

Everything that a likelihood, Asimov data or an error of the simulation need of events are sums over them; a `Passes`
makes these sums.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nuratio.model.unbinned import EventCell, EventTerm

__all__ = ["IN_PROCESS", "EventSums", "InProcess", "Passes", "Point"]

Floats = NDArray[np.float64]
R = TypeVar("R")

Point = tuple[Floats, Floats, float]  # yields of a term's cell (C,), the companion's parameters (F,), threshold


class EventSums(Protocol):
    """Sums over the events of the terms of one data set, each at its point; see `EventTerm`."""

    def values(self, terms: Sequence[EventTerm], points: Sequence[Point]) -> list[tuple[float, int]]:
        """Of each term: value, and number of events where the density is not positive."""
        ...

    def derivatives(
        self, terms: Sequence[EventTerm], points: Sequence[Point], *, held: Sequence[bool], hessian: bool
    ) -> list[tuple[float, Floats, Floats]]:
        """Value, gradient and Hessian of each term; of a term that is held, those of the frozen one."""
        ...

    def many(self, terms: Sequence[EventTerm], points: Sequence[Point]) -> list[tuple[Floats, Floats]]:
        """Values (M,) and gradients (M, C + K) of each term; a point holds M sets of yields and parameters."""
        ...

    def nonpositive(
        self, terms: Sequence[EventTerm], points: Sequence[Point]
    ) -> list[tuple[NDArray[np.int64], Floats, Floats]]:
        """Of each term the events with a density <= 0: index in the channel, density, parts."""
        ...


class Passes(Protocol):
    """Goes over the events of a model's unbinned channels."""

    def sums(self, weights: Mapping[str, Floats]) -> EventSums:
        """For a data set: the weights of all events of each channel."""
        ...

    def over_pool(self, channel: str, cell: EventCell, function: Callable[..., R], /, *arguments: Any) -> list[R]:
        """``function(cell, *arguments)`` for each part of a cell's pool, in order."""
        ...


@dataclass(frozen=True)
class InProcess:
    """Here: as `EventSums` of any data and as `Passes`."""

    def sums(self, weights: Mapping[str, Floats]) -> "InProcess":
        """See `Passes`."""
        return self

    def over_pool(self, channel: str, cell: EventCell, function: Callable[..., R], /, *arguments: Any) -> list[R]:
        """See `Passes`."""
        return [function(cell, *arguments)]

    def values(self, terms: Sequence[EventTerm], points: Sequence[Point]) -> list[tuple[float, int]]:
        """See `EventSums`."""
        return [term.value(*point) for term, point in zip(terms, points, strict=True)]

    def derivatives(
        self, terms: Sequence[EventTerm], points: Sequence[Point], *, held: Sequence[bool], hessian: bool
    ) -> list[tuple[float, Floats, Floats]]:
        """See `EventSums`."""
        return [
            (term.frozen(point[1]) if still else term).derivatives(*point, hessian=hessian)
            for term, point, still in zip(terms, points, held, strict=True)
        ]

    def many(self, terms: Sequence[EventTerm], points: Sequence[Point]) -> list[tuple[Floats, Floats]]:
        """See `EventSums`."""
        return [term.many(*point) for term, point in zip(terms, points, strict=True)]

    def nonpositive(
        self, terms: Sequence[EventTerm], points: Sequence[Point]
    ) -> list[tuple[NDArray[np.int64], Floats, Floats]]:
        """See `EventSums`."""
        return [term.nonpositive(nu, theta) for term, (nu, theta, _) in zip(terms, points, strict=True)]


IN_PROCESS = InProcess()
