"""Where a profile of -2 ln L rises through a level: the root finder behind MINOS, intervals and contours.

At a conditional minimum the slope of the profile is known, too: the derivative of -2 ln L by the parameter that is
held (the others are at a minimum). The square root of the rise is nearly a straight line, so Newton's method on it
needs two or three conditional fits; a bracket keeps it from leaving.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["TOLERANCE", "Height", "crossing"]

TOLERANCE = 1e-7  # of 2 Delta ln L at a crossing

_STEPS = 200
_BISECT = 4  # every so many steps the bracket is halved, whatever Newton says


class Height(NamedTuple):
    """A point of the profile: where, its rise above the minimum, and its slope there.

    A rise of infinity stands for a fit that is not valid.
    """

    at: float
    rise: float
    slope: float


def crossing(curve: Callable[[float], Height], level: float, below: Height, above: Height) -> float:
    """Where the curve crosses the level between two known points, exact to `TOLERANCE` in the rise.

    Where the curve jumps, the place of the jump; NaN where the fits on the far side are not valid.

    Parameters
    ----------
    curve : callable
        Value of the parameter -> `Height`.
    level : float
        In units of 2 Delta ln L.
    below, above : Height
        Known points with a rise below and above the level, on any side of each other.
    """
    narrow = 1e-9 * abs(above.at - below.at)
    for step in range(_STEPS):
        for end in (below, above):
            if abs(end.rise - level) <= TOLERANCE:
                return end.at
        middle = (below.at + above.at) / 2
        if abs(above.at - below.at) <= narrow or middle in (below.at, above.at):
            break
        guess = middle if step % _BISECT == _BISECT - 1 else _newton(level, below, above)
        found = curve(guess if min(below.at, above.at) < guess < max(below.at, above.at) else middle)
        if found.rise < level:
            below = found
        else:
            above = found
    return middle if np.isfinite(above.rise) else float("nan")


def _newton(level: float, below: Height, above: Height) -> float:
    """Newton's step in the square root of the rise, from the closer end that has a slope; NaN if none has."""
    root = np.sqrt(level)
    for end in sorted((below, above), key=lambda h: abs(np.sqrt(max(h.rise, 0.0)) - root)):
        height = np.sqrt(max(end.rise, 0.0))
        if end.slope != 0 and height > 0 and np.isfinite(end.slope) and np.isfinite(height):
            return float(end.at + (root - height) * 2 * height / end.slope)
    return float("nan")
