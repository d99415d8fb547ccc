"""Neyman construction: confidence intervals from toys, right also where Wilks' theorem is not.

For each value of the POI the toys say how large the test statistic t(mu) is to be before the value is excluded; the
interval is what the data do not exclude. With ``t`` values are ordered by the likelihood ratio, as Feldman and Cousins
do; nuisances are at their conditional best fit to the data (profile construction). Where the likelihood has several
minima, the interval may be several pieces.

References
----------
J. Neyman, Phil. Trans. R. Soc. A 236 (1937) 333. G. Feldman, R. Cousins, Phys. Rev. D 57 (1998) 3873, Sec. IV.
B. Sen, M. Walker, M. Woodroofe, Statist. Sinica 19 (2009) 301 (nuisances).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from nuratio.errors import InvalidModel, did_you_mean
from nuratio.infer.fitting.fit import Fitter, own_model, require_poi
from nuratio.infer.hypotheses.test_statistics import STATISTICS, Profile
from nuratio.infer.profiles.intervals import chi2_heights
from nuratio.infer.results import _array, _Result
from nuratio.infer.toys.file import file_in
from nuratio.infer.toys.toys import toys

__all__ = ["NeymanResult", "critical_value", "neyman"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NeymanResult(_Result):
    """Critical values of a test statistic, and the interval that data leave.

    Attributes
    ----------
    poi, test_stat : str
    level : float
        Confidence level.
    values : ndarray, shape (m,)
        Tested values of the POI, increasing.
    critical, critical_error : ndarray, shape (m,)
        Quantile of the statistic in the toys, and its error from their number.
    asymptotic : float
        What Wilks' theorem says instead.
    statistic : ndarray, shape (m,)
        Of the data; empty for a belt without data.
    p_value, p_value_error : ndarray, shape (m,)
        Share of toys with a statistic at least that of the data, with its binomial error; empty without data.
    pieces : tuple of (float, float)
        The confidence interval: where the statistic of the data is not above the critical value, both interpolated
        between tested values. An end at the first or last of them is open.
    bestfit : float
        Of the data; NaN without.
    toys : int
        At each value.
    valid : bool
    message : str
    """

    kind: ClassVar[str] = "neyman"

    poi: str
    test_stat: str
    level: float
    values: Floats
    critical: Floats
    critical_error: Floats
    asymptotic: float
    statistic: Floats
    p_value: Floats
    p_value_error: Floats
    pieces: tuple[tuple[float, float], ...]
    bestfit: float
    toys: int
    valid: bool
    message: str

    def critical_at(self, value: float) -> float:
        """The critical value at any value of the POI within the belt, interpolated.

        Raises
        ------
        InvalidModel
            Outside the belt.
        """
        if not self.values[0] <= value <= self.values[-1]:
            raise InvalidModel(
                f"{self.poi} = {value:.6g} is outside the belt [{self.values[0]:.6g}, {self.values[-1]:.6g}]"
            )
        return float(np.interp(value, self.values, self.critical))

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        arrays = ("values", "critical", "critical_error", "statistic", "p_value", "p_value_error")
        values["bestfit"] = float("nan") if values["bestfit"] is None else values["bestfit"]
        return values | {k: _array(values[k]) for k in arrays} | {"pieces": tuple(tuple(p) for p in values["pieces"])}


def neyman(
    model: Any,
    data: ArrayLike | None,
    values: Sequence[float],
    *,
    test_stat: str = "t",
    level: float = 0.683,
    n: int = 1000,
    hypothesis: Mapping[str, float] | None = None,
    seed: int = 1,
    nuisances: str = "fixed",
    starts: Sequence[float] = (),
    executor: Executor | None = None,
    output: str | Path | None = None,
    progress: bool | None = None,
) -> NeymanResult:
    """Confidence interval of the POI from toys at each of a grid of its values.

    Parameters
    ----------
    model : Model or pyhf.Model
    data : array_like or None
        None: only the belt, with nuisances at their suggested values or at those of ``hypothesis``.
    values : sequence of float
        The grid; results are interpolated between its points.
    test_stat : str
        ``t``, or ``ttilde`` where negative values of the POI are not physical; also ``q`` and ``qtilde`` for one-sided
        intervals.
    level : float
        Confidence level.
    n : int
        Toys at each value.
    hypothesis : mapping, optional
        Parameters held in the toys' truth, besides the POI.
    seed, nuisances, starts, executor, progress
        See `toys`.
    output : str or Path, optional
        Folder in which the toys are kept, a file for each value.

    Raises
    ------
    InvalidModel
        No POI, fewer than two values, a level outside (0, 1), an unknown statistic.
    """
    model = own_model(model)
    poi = require_poi(model)
    grid = np.unique(np.asarray(values, dtype=np.float64))
    if len(grid) < 2:
        raise InvalidModel(f"a belt needs at least two values of {poi}, got {len(grid)}")
    chi2_heights(level, 1)  # a level that is none is an error
    if test_stat not in STATISTICS:
        raise InvalidModel(f"no test statistic {test_stat!r}; {did_you_mean(test_stat, STATISTICS)}")
    observed = None if data is None else Profile(Fitter(model, data), poi, starts=starts)
    if observed is not None:
        observed.prepare(grid.tolist())
    statistic, p_value, p_error, critical, error, messages, valid = [], [], [], [], [], [], True
    for number, value in enumerate(grid.tolist()):
        point: Any = {**(hypothesis or {}), poi: value}
        if observed is not None and not hypothesis:
            point = observed.at(value).theta
        found = toys(
            model,
            point,
            n,
            data=data,
            tests=[(test_stat, value)],
            seed=[seed, number],
            nuisances=nuisances,
            starts=starts,
            executor=executor,
            output=file_in(output, {poi: value}),
            progress=progress,
        )
        limit, spread = critical_value(found.statistic(test_stat, value), level)
        critical.append(limit)
        error.append(spread)
        valid &= found.valid
        messages += [f"{poi} = {value:.6g}: {found.message}"] if found.message else []
        if observed is not None:
            statistic.append(observed.statistic(value, test_stat))
            p, dp = found.p_value(test_stat, value, statistic[-1])
            p_value.append(p)
            p_error.append(dp)
    if observed is not None and observed.problems:
        valid = False
        messages = [f"data: {line}" for line in observed.wrong] + messages
    t = np.array(statistic)
    return NeymanResult(
        poi=poi,
        test_stat=test_stat,
        level=level,
        values=grid,
        critical=np.array(critical),
        critical_error=np.array(error),
        asymptotic=float(chi2.ppf(level if test_stat.startswith("t") else 2 * level - 1, 1)),
        statistic=t,
        p_value=np.array(p_value),
        p_value_error=np.array(p_error),
        pieces=_pieces(grid, t - critical) if observed is not None else (),
        bestfit=float("nan") if observed is None else float(observed.free.theta[observed.k]),
        toys=n,
        valid=valid,
        message="; ".join(messages),
    )


def critical_value(q: Floats, level: float) -> tuple[float, float]:
    """The value that no more than a share 1 - level of the toys exceeds, and its standard error.

    The order statistic of rank ceil(level n); the error is half the distance of the order statistics one binomial
    standard deviation, sqrt(level (1 - level) n), to its left and right.
    """
    ordered, n = np.sort(q), len(q)
    if n == 0:
        raise InvalidModel("no toy is left to count: all fits failed, or none was asked for")
    rank = int(np.ceil(level * n)) - 1
    step = np.sqrt(level * (1 - level) * n)
    low, high = (ordered[int(np.clip(round(rank + s * step), 0, n - 1))] for s in (-1, 1))
    return float(ordered[rank]), float((high - low) / 2)


def _pieces(grid: Floats, excess: Floats) -> tuple[tuple[float, float], ...]:
    """Where a piecewise-linear function is not positive."""
    inside = excess <= 0
    ends = np.flatnonzero(inside[1:] != inside[:-1])
    cuts = [float(grid[i] - excess[i] * (grid[i + 1] - grid[i]) / (excess[i + 1] - excess[i])) for i in ends]
    edges = ([float(grid[0])] if inside[0] else []) + cuts + ([float(grid[-1])] if inside[-1] else [])
    return tuple(zip(edges[::2], edges[1::2], strict=True))
