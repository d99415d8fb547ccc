"""The whole profile of -2 ln L in one parameter: all its valleys, and where it crosses a level.

What `nuratio.infer.profiles.intervals` and `nuratio.infer.profiles.contour` are made of. The profile is the lower
envelope of the minima in the other parameters: where these jump from one minimum to another it has a kink, so every
point is fitted from the known points on both of its sides, and the lower minimum is kept.
"""

from bisect import bisect
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import FitFailed, InvalidModel
from nuratio.infer.fitting.fit import Fitter, cancellation
from nuratio.infer.fitting.minimum import Minimum
from nuratio.infer.profiles.crossing import Height, crossing
from nuratio.infer.profiles.profile import profile
from nuratio.infer.profiles.valleys import LOWER, Valleys, lower

__all__ = ["Curve"]

Floats = NDArray[np.float64]

_ROUNDS = 10
_MISS = 0.05  # of the height, or of one unit: how well a cubic has to predict the middle of a segment
_SAME = 1e-4  # of a segment: two minima that close are one


class Curve:
    """The profile of one parameter within its bounds.

    Parameters
    ----------
    fitter : Fitter
    parameter : str
    height : float
        In units of 2 Delta ln L: up to where the curve is explored in detail.
    points : int
        Of the coarse scan over the bounds, and of the part below ``height``.

    Attributes
    ----------
    points : dict
        Value -> conditional minimum.
    valleys : Valleys
        The local minima that were found, of any height.

    Raises
    ------
    InvalidModel
        Bounds that are not finite.
    FitFailed
        The free fit is not valid.
    """

    def __init__(self, fitter: Fitter, parameter: str, *, height: float, points: int) -> None:
        self.fitter, self.parameter, self.height = fitter, parameter, height
        self.k = fitter.index(parameter)
        self.low, self.high = fitter.bounds[self.k]
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise InvalidModel(
                f"a scan of {parameter!r} needs finite bounds, its are [{self.low:.6g}, {self.high:.6g}]; give "
                f"bounds={{{parameter!r}: ...}}"
            )
        self.valleys = Valleys(fitter)
        self.points: dict[float, Minimum] = {}
        self._tried: set[float] = set()
        self._smooth: set[tuple[float, float]] = set()
        free = fitter.minimum()
        if not self.valleys.valid(free):
            lines = fitter.likelihood.nonpositive(free.theta)
            raise FitFailed(f"the free fit is not valid: {cancellation(lines) if lines else free.message}")
        self._found(free)
        grid = np.linspace(self.low, self.high, points)
        for value, minimum in zip(grid.tolist(), profile(fitter, parameter, grid, [free]), strict=True):
            self._keep(value, minimum)
        self._outwards(free)
        self._settle()
        self._afresh()
        self._look()
        self._refine()
        inside = [at for at, rise, _ in self.heights() if rise <= height]
        self.add(np.linspace(min(inside), max(inside), points).tolist())
        self._look()
        self._refine()

    def heights(self) -> list[Height]:
        """All points, in increasing order."""
        return [self._height(value) for value in sorted(self.points)]

    def add(self, values: Iterable[float]) -> None:
        """More points, each fitted from the known points on both sides."""
        known = sorted(self.points)
        moves = []
        for value in set(values) - self.points.keys():
            i = bisect(known, value)
            moves += [({self.parameter: value}, self.points[v]) for v in known[max(i - 1, 0) : i + 1]]
        for (held, _), minimum in zip(moves, self.fitter.beside(moves), strict=True):
            self._keep(held[self.parameter], minimum)

    def pieces(self, level: float) -> tuple[tuple[float, float], ...]:
        """The intervals in which the rise is at most ``level``; NaN for an end beyond which fits are not valid."""

        def height(value: float) -> Height:
            self.add([value])
            return self._height(value)

        heights = self.heights()
        ends = [heights[0].at] if heights[0].rise <= level else []
        for left, right in pairwise(heights):
            if (left.rise <= level) != (right.rise <= level):
                inner, outer = (left, right) if left.rise <= level else (right, left)
                ends.append(crossing(height, level, inner, outer))
        ends += [heights[-1].at] if heights[-1].rise <= level else []
        return tuple(zip(ends[::2], ends[1::2], strict=True))

    def _height(self, value: float) -> Height:
        minimum = self.points[value]
        return Height(value, self.valleys.rise(minimum), float(minimum.gradient[self.k]))

    def _keep(self, value: float, minimum: Minimum) -> bool:
        """Keep the lower of two minima at a value; whether it is the new one."""
        better = lower(minimum, self.points.get(value))
        if better:
            self.points[value] = minimum
        return better

    def _found(self, minimum: Minimum) -> None:
        """A free minimum is a point of the curve, too."""
        self.valleys.minima.append(minimum)
        self._keep(float(minimum.theta[self.k]), minimum)

    def _outwards(self, minimum: Minimum) -> None:
        """Steps of growing width from a minimum, up to the height or a bound."""
        sigma = self._sigma(minimum)
        for side, bound in ((-1.0, self.low), (1.0, self.high)):
            at = float(minimum.theta[self.k])
            reach = sigma if sigma > 0 else 0.1 * max(abs(at), 1.0)
            while at != bound:
                at, reach = float(np.clip(at + side * reach, self.low, self.high)), 1.5 * reach
                self.add([at])
                if self.valleys.rise(self.points[at]) > self.height:
                    break

    def _sigma(self, minimum: Minimum) -> float:
        """Standard deviation from the curvature at a minimum; 0 where that gives none."""
        free = ~self.fitter.fixed & ~minimum.at_bound & ~minimum.at_kink
        try:
            variance = 2 * np.linalg.inv(minimum.curvature[np.ix_(free, free)]).diagonal()
        except np.linalg.LinAlgError:
            return 0.0
        found = variance[np.flatnonzero(free) == self.k]
        return float(np.sqrt(found[0])) if len(found) and 0 < found[0] < np.inf else 0.0

    def _settle(self) -> None:
        """Fit every point from both of its neighbours, and keep the lower minimum, until none changes."""
        changed = set(self.points)
        while changed:
            moves = []
            for a, b in pairwise(sorted(self.points)):
                moves += [({self.parameter: b}, self.points[a])] if a in changed else []
                moves += [({self.parameter: a}, self.points[b])] if b in changed else []
            found = zip(moves, self.fitter.beside(moves), strict=True)
            changed = {held[self.parameter] for (held, _), m in found if self._keep(held[self.parameter], m)}

    def _afresh(self) -> None:
        """Conditional fits from the start values, at both ends of what is below the height: for other minima there."""
        heights = self.heights()
        inside = [i for i, h in enumerate(heights) if h.rise <= self.height]
        ends = {heights[max(inside[0] - 1, 0)].at, heights[min(inside[-1] + 1, len(heights) - 1)].at}
        kept = [self._keep(value, self.fitter.minimum(fixed={self.parameter: value})) for value in ends]
        if any(kept):
            self._settle()

    def _look(self) -> None:
        """A free fit wherever the points say that there is a minimum."""
        while new := self._candidates():
            for low, start, high in new:
                self._tried.add(start)
                near = self.points[start]
                minimum = near if self._at_minimum(near) else self.fitter.minimum(near=near)
                at = float(minimum.theta[self.k])
                close = max(_SAME * (high - low), 1e-2 * self._sigma(minimum))
                known = [m for m in self.valleys.minima if abs(m.theta[self.k] - at) <= close]
                if self.valleys.valid(minimum) and all(minimum.value < m.value - LOWER for m in known):
                    self.valleys.minima = [m for m in self.valleys.minima if all(m is not other for other in known)]
                    self._found(minimum)
                    if self.valleys.rise(minimum) <= self.height:
                        self._outwards(minimum)

    def _candidates(self) -> list[tuple[float, float, float]]:
        """Points lower than their neighbours, and the lower ends of segments whose slopes point inwards."""
        heights = [h for h in self.heights() if np.isfinite(h.rise)]
        minima = {float(m.theta[self.k]) for m in self.valleys.minima}
        found = []
        for i, h in enumerate(heights):
            left, right = heights[max(i - 1, 0)], heights[min(i + 1, len(heights) - 1)]
            lowest = h.rise <= min(left.rise, right.rise)
            inwards = (left.slope < 0 < h.slope and h.rise <= left.rise and left.at not in minima) or (
                h.slope < 0 < right.slope and h.rise <= right.rise and right.at not in minima
            )
            if (lowest or inwards) and h.at not in self._tried | minima:
                found.append((left.at, h.at, right.at))
        return found

    def _at_minimum(self, minimum: Minimum) -> bool:
        """Whether a conditional minimum at a bound is one without the condition, too."""
        at, slope = minimum.theta[self.k], minimum.gradient[self.k]
        return bool((at <= self.low and slope > 0) or (at >= self.high and slope < 0))

    def _refine(self) -> None:
        """Halve segments below the height whose middle is not where their ends say it is."""
        for _ in range(_ROUNDS):
            new = [(a, b) for a, b in pairwise(self.heights()) if self._rough(a, b)]
            if not new:
                return
            self.add([(a.at + b.at) / 2 for a, b in new])
            for a, b in new:
                middle = self._height((a.at + b.at) / 2)
                expected = (a.rise + b.rise) / 2 + (b.at - a.at) * (a.slope - b.slope) / 8  # cubic Hermite
                if abs(middle.rise - expected) <= _MISS * max(1.0, middle.rise):
                    self._smooth |= {(a.at, middle.at), (middle.at, b.at)}
            self._look()

    def _rough(self, a: Height, b: Height) -> bool:
        """Whether a segment may hide something below the height, or a hill above it."""
        wide = b.at - a.at > 1e-3 * (max(self.points) - min(self.points))
        return wide and (a.at, b.at) not in self._smooth and min(a.rise, b.rise) <= self.height
