"""What a minimiser calls: an objective, its points, and a count of the calls.

`Evaluations` wraps an objective for the length of one minimisation: it counts the calls, evaluates no point twice
while a minimiser still looks at it (Newton and MIGRAD share the last points), and stops at a call limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["CallLimit", "Evaluations", "Objective", "Point"]

Floats = NDArray[np.float64]

_KEPT = 8  # last points remembered


class Objective(Protocol):
    """What can be minimised; `nuratio.model.likelihood.Likelihood` is one.

    One that has ``many(thetas)``, from points (M, P) to values (M,) and gradients (M, P), is asked for many at a time
    where that is possible; one that has ``holding(fixed)`` is told which parameters (P,) stay where they are in a fit,
    and returns an objective that may leave out derivatives in them; one that knows in which parameters it has a kink at
    zero says so in ``kinks`` (P,).
    """

    def value(self, theta: Floats, /) -> float:
        """-2 ln L."""
        ...

    def derivatives(self, theta: Floats, /, *, hessian: bool) -> tuple[float, Floats, Floats]:
        """Value, gradient (P,) and, if asked for, Hessian (P, P)."""
        ...

    def nonpositive(self, theta: Floats, /) -> list[str]:
        """Where the total density is not positive, a line each."""
        ...


@dataclass(frozen=True, eq=False)
class Point:
    """An evaluated point; the Hessian is empty where it was not asked for."""

    theta: Floats
    value: float
    gradient: Floats
    hessian: Floats


class CallLimit(Exception):
    """The call limit of one minimisation is reached."""


class Evaluations:
    """The calls of an objective in one minimisation.

    Parameters
    ----------
    objective : Objective
    limit : int
        Calls of any kind before `CallLimit` is raised.

    Attributes
    ----------
    calls : dict
        Number of calls by what they computed: ``value``, ``gradient`` (with the value), ``hessian`` (with both).
    lowest : tuple of float and ndarray
        The lowest value seen and where.
    """

    def __init__(self, objective: Objective, limit: int) -> None:
        self.objective, self.limit = objective, limit
        self.calls = {"value": 0, "gradient": 0, "hessian": 0}
        self.lowest: tuple[float, Floats] = (np.inf, np.empty(0))
        self._values: dict[bytes, float] = {}
        self._points: dict[bytes, Point] = {}

    def value(self, theta: Floats) -> float:
        """-2 ln L."""
        key = theta.tobytes()
        if key not in self._values:
            self._count("value")
            with np.errstate(all="ignore"):  # a trial point may overflow; what is not finite is not accepted
                self._remember(key, theta, self.objective.value(theta.copy()))
        return self._values[key]

    def point(self, theta: Floats, *, hessian: bool = False) -> Point:
        """Value and gradient, with ``hessian`` also the second derivatives."""
        key = theta.tobytes()
        known = self._points.get(key)
        if known is None or (hessian and not known.hessian.size):
            self._count("hessian" if hessian else "gradient")
            with np.errstate(all="ignore"):
                value, gradient, second = self.objective.derivatives(theta.copy(), hessian=hessian)
            self._remember(key, theta, value)
            known = Point(theta.copy(), float(value), gradient, second)
            self._points[key] = known
            while len(self._points) > _KEPT:
                del self._points[next(iter(self._points))]
        return known

    def gradient(self, theta: Floats) -> Floats:
        """First derivatives, shape (P,)."""
        return self.point(theta).gradient

    def hessian(self, theta: Floats) -> Floats:
        """Second derivatives, shape (P, P)."""
        return self.point(theta, hessian=True).hessian

    def _count(self, kind: str) -> None:
        if sum(self.calls.values()) >= self.limit:
            raise CallLimit(f"call limit {self.limit} reached")
        self.calls[kind] += 1

    def _remember(self, key: bytes, theta: Floats, value: float) -> None:
        self._values[key] = float(value)
        while len(self._values) > _KEPT:
            del self._values[next(iter(self._values))]
        if value < self.lowest[0]:
            self.lowest = (float(value), theta.copy())


def total(*calls: Mapping[str, int]) -> dict[str, int]:
    """Sums of the numbers of calls."""
    return {kind: sum(c[kind] for c in calls) for kind in ("value", "gradient", "hessian")}
