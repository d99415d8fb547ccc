"""Conditional minima on a grid of one parameter: what scans and CLs bands are made of."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuratio.infer.fitting.fit import Fitter
from nuratio.infer.fitting.minimum import Minimum

__all__ = ["profile"]

Floats = NDArray[np.float64]


def profile(fitter: Fitter, parameter: str, grid: Floats, known: Sequence[Minimum]) -> list[Minimum]:
    """Conditional minima on a grid, each predicted from those found before.

    Parameters
    ----------
    fitter : Fitter
    parameter : str
    grid : ndarray, shape (n,)
        Values of the parameter, in increasing order.
    known : sequence of Minimum
        Minima along the profile, the best fit first: the grid is walked from there.
    """
    split = int(np.searchsorted(grid, known[0].theta[fitter.index(parameter)]))
    sides = [list(range(split, len(grid))), list(range(split))[::-1]]  # each from the best fit outwards
    groups = _halving(sides) if hasattr(fitter.likelihood, "many") else _outwards(sides)
    minima: dict[int, Minimum] = {}
    for group in groups:
        values = [float(grid[j]) for j in group]
        minima |= dict(zip(group, fitter.conditional(parameter, values, [*known, *minima.values()]), strict=True))
    return [minima[j] for j in range(len(grid))]


def _outwards(sides: list[list[int]]) -> list[list[int]]:
    """Point by point: each is predicted from its neighbours, the fewest evaluations."""
    return [[j] for side in sides for j in side]


def _halving(sides: list[list[int]]) -> list[list[int]]:
    """The middle of each side, then the middles of what is left: groups that grow, evaluated in one pass each."""
    groups, rest = [], sides
    while rest := [part for part in rest if part]:
        groups.append([part[len(part) // 2] for part in rest])
        rest = [half for part in rest for half in (part[: len(part) // 2], part[len(part) // 2 + 1 :])]
    return groups
