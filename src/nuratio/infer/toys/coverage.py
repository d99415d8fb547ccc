"""Coverage and bias: how often intervals hold the truth, and where best fits lie, in toys over a grid of true values.

Use `coverage` before any interval is believed. At each point toys are drawn and fitted; an interval of the profile
likelihood at a level holds the true POI if 2 Delta ln L there is no larger than the chi2 quantile, and the pull is
(best fit - truth) / uncertainty.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel
from nuratio.infer.fitting.fit import own_model, require_poi
from nuratio.infer.profiles.intervals import chi2_heights
from nuratio.infer.results import _array, _Result
from nuratio.infer.toys.file import file_in, point_label
from nuratio.infer.toys.result import ToyResult, proportion
from nuratio.infer.toys.toys import toys

__all__ = ["LEVELS", "CoveragePoint", "CoverageResult", "count_coverage", "coverage", "grid_points"]

Floats = NDArray[np.float64]

LEVELS = (0.683, 0.95)
_TOLERANCE = 3.0  # standard errors that a verdict allows


@dataclass(frozen=True, eq=False)
class CoveragePoint(_Result):
    """Toys at one point.

    Attributes
    ----------
    point : dict
        True values of the parameters that the grid sets.
    coverage, coverage_error : ndarray, shape (levels,)
        Share of the intervals that hold the true POI, and its binomial error.
    bias, bias_error : float
        Mean of the best-fit POI minus the truth, and its error.
    pull_mean, pull_width : float
        Mean and standard deviation of the pulls of the POI.
    toys, failed : int
        Valid ones, and those that failed.
    """

    kind: ClassVar[str] = "coverage_point"

    point: dict[str, float]
    coverage: Floats
    coverage_error: Floats
    bias: float
    bias_error: float
    pull_mean: float
    pull_width: float
    toys: int
    failed: int

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values | {k: _array(values[k]) for k in ("coverage", "coverage_error")}


@dataclass(frozen=True, eq=False)
class CoverageResult(_Result):
    """Coverage over a grid of true values.

    Attributes
    ----------
    poi : str
    levels : tuple of float
        Confidence levels.
    points : tuple of CoveragePoint
    verdict : str
        ``covers``, or the points and levels where the coverage is off by more than three standard errors.
    valid : bool
        No more than one in a hundred toys failed at any point.
    message : str
    """

    kind: ClassVar[str] = "coverage"

    poi: str
    levels: tuple[float, ...]
    points: tuple[CoveragePoint, ...]
    verdict: str
    valid: bool
    message: str

    @property
    def covers(self) -> bool:
        """The verdict in a word."""
        return self.verdict == "covers"

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        points = tuple(CoveragePoint.from_dict(p) for p in values["points"])
        return values | {"levels": tuple(values["levels"]), "points": points}


def grid_points(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """All combinations of the values of some parameters."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def coverage(
    model: Any,
    points: Sequence[Mapping[str, float]],
    n: int = 300,
    *,
    levels: Sequence[float] = LEVELS,
    seed: int = 1,
    starts: Sequence[float] = (),
    executor: Executor | None = None,
    output: str | Path | None = None,
    progress: bool | None = None,
) -> CoverageResult:
    """Draw and fit toys at some points, and count.

    Parameters
    ----------
    model : Model or pyhf.Model
    points : sequence of mapping
        True values, the POI among them; parameters that are not named have their suggested values. `grid_points` makes
        them from lists of values.
    n : int
        Toys at each point.
    levels : sequence of float
        Confidence levels.
    seed, starts, executor, progress
        See `toys`.
    output : str or Path, optional
        Folder in which the toys are kept, a file for each point.

    Raises
    ------
    InvalidModel
        No POI, a point that does not say its value, a value outside the bounds, a level outside (0, 1).
    """
    model = own_model(model)
    poi = require_poi(model)
    if not points:
        raise InvalidModel("coverage needs at least one point")
    levels, _ = chi2_heights(levels, 1)
    done, messages, valid = [], [], True
    for number, point in enumerate(points):
        if poi not in point:
            raise InvalidModel(f"point {dict(point)} does not say the true value of the POI {poi!r}")
        found = toys(
            model,
            point,
            n,
            tests=[("t", float(point[poi]))],
            seed=[seed, number],
            starts=starts,
            executor=executor,
            output=file_in(output, point),
            progress=progress,
        )
        valid &= found.valid
        messages += [f"{point_label(point)}: {found.message}"] if found.message else []
        done.append(count_coverage(found, point, levels))
    return CoverageResult(
        poi=poi,
        levels=levels,
        points=tuple(done),
        verdict=_verdict(done, levels),
        valid=valid,
        message="; ".join(messages),
    )


def count_coverage(found: ToyResult, point: Mapping[str, float], levels: Sequence[float]) -> CoveragePoint:
    """What toys with the statistic ``t`` at the true POI say of coverage, bias and pulls."""
    truth = float(point[found.poi])
    t, (bestfit, uncertainty) = found.statistic("t", truth), found.estimates(found.poi)
    held = [proportion(int(np.count_nonzero(t <= height)), len(t)) for height in chi2_heights(levels, 1)[1]]
    known = uncertainty > 0  # not so where the POI ended on a bound
    pull = (bestfit[known] - truth) / uncertainty[known]
    return CoveragePoint(
        point=dict(point),
        coverage=np.array([share for share, _ in held]),
        coverage_error=np.array([error for _, error in held]),
        bias=float(bestfit.mean() - truth),
        bias_error=float(bestfit.std(ddof=1) / np.sqrt(len(t))) if len(t) > 1 else float("nan"),
        pull_mean=float(pull.mean()),
        pull_width=float(pull.std(ddof=1)) if len(pull) > 1 else float("nan"),
        toys=len(t),
        failed=len(found.failures),
    )


def _verdict(points: Sequence[CoveragePoint], levels: Sequence[float]) -> str:
    off = []
    for p in points:
        for level, share in zip(levels, p.coverage, strict=True):
            error = np.sqrt(level * (1 - level) / p.toys)
            if abs(share - level) > _TOLERANCE * error:
                off.append(f"{point_label(p.point)}: {100 * share:.1f}% at {100 * level:g}% (+- {100 * error:.1f})")
    return "; ".join(off) or "covers"
