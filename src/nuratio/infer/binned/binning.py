"""Bins of one observable: of equal probability, or those that know most about a parameter.

Use `quantile_edges` for bins of equal weight and `optimal_bins` for the best ones. With lambda_b the expectation of bin
b and s_b = d ln lambda_b / d theta its score, bins of a channel know of the parameters

    I = I_1 + sum_b lambda_b (s_b - s)(s_b - s)^T,      s = sum_b lambda_b s_b / sum_b lambda_b,

I_1 being what is known without them: the other channels, the constraints, and the number of events of the channel. The
variance of a parameter with all others profiled is its element of I^-1 (the asymptotic formula). Bins a and b that
are made one lose lambda_a lambda_b / (lambda_a + lambda_b) (s_a - s_b)(s_a - s_b)^T, a matrix of rank one; so all
places of one edge are compared at once, by the formula of Sherman and Morrison.

Along a fixed response of the nuisances what bins know is a sum over bins, and dynamic programming finds the best ones
exactly (W. Fisher, J. Am. Stat. Assoc. 53 (1958) 789). The search starts there, with the response that the finest bins
have, and from the best bins of one less with one more edge; each edge is then moved in turn to where it helps most,
until none moves, and the better of the two is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel

__all__ = ["MEASURES", "FineBins", "optimal_bins", "quantile_edges"]

Floats = NDArray[np.float64]
Starts = tuple[int, ...]

_SWEEPS = 50
_WEAK = (
    1e-9  # of the information in fine bins, added so that parameters that one bin does not determine have a variance
)
_GAIN = 1e-12  # relative, of a move


def quantile_edges(values: Floats, weights: Floats, bins: int) -> Floats:
    """Inner edges of bins of equal weight, increasing.

    Parameters
    ----------
    values, weights : ndarray, shape (n,)
        An observable and weights of events; only those with a positive weight count.
    bins : int

    Returns
    -------
    ndarray, shape (at most bins - 1,)
        Values of events, each belonging to the bin above it; fewer where equal values make bins empty.

    Raises
    ------
    InvalidModel
        Less than one bin, or no event with a positive weight.
    """
    if bins < 1:
        raise InvalidModel(f"at least one bin is needed, not {bins}")
    counted = weights > 0
    if not counted.any():
        raise InvalidModel("no event with a positive weight, so there are no bins of equal weight")
    order = np.argsort(values[counted], kind="stable")
    x, total = values[counted][order], np.cumsum(weights[counted][order])
    at = np.searchsorted(total, total[-1] * np.arange(1, bins) / bins * (1 - 1e-12)) + 1
    edges = np.unique(x[at[at < len(x)]])
    return np.asarray(edges[edges > x[0]])


def _total(expected: Floats, background: Floats, score: Floats) -> Floats:
    """Expected events."""
    return expected


def _background(expected: Floats, background: Floats, score: Floats) -> Floats:
    """Expected events without signal."""
    return background


def _information(expected: Floats, background: Floats, score: Floats) -> Floats:
    """Half of them expected events, half of them their information: fine bins also where a rare signal is."""
    mean = expected @ score / expected.sum()
    known = expected * (score - mean) ** 2
    return np.asarray(expected / expected.sum() + (known / known.sum() if known.sum() > 0 else 0.0))


MEASURES: Mapping[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "total": _total,
    "background": _background,
    "information": _information,
}
"""What bins may have equal shares of, from expected events, those at a POI of zero, and the score of the POI."""


@dataclass(frozen=True, eq=False)
class FineBins:
    """The bins of a channel that others are put together from.

    Attributes
    ----------
    expected : ndarray, shape (f,)
        Expected events.
    slopes : ndarray, shape (f, P)
        Their derivatives in the parameters.
    """

    expected: Floats
    slopes: Floats

    def information(self, starts: Starts) -> Floats:
        """What bins know beyond their sum, shape (P, P); ``starts`` are the fine bins that start another bin."""
        rate, slope = self._merged(starts)
        score = slope / rate[:, None] - slope.sum(0) / rate.sum()
        return np.asarray((score.T * rate) @ score)

    def gains(self, low: int, high: int) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Of cutting fine bins ``low`` to ``high - 1`` in two: where (k,), factors (k,), differences of scores (k, P).

        The gain in information is factor x difference x difference^T.
        """
        rate, slope = np.cumsum(self.expected[low:high]), np.cumsum(self.slopes[low:high], axis=0)
        left, right = rate[:-1], rate[-1] - rate[:-1]
        good = (left > 0) & (right > 0)
        a, b = left[good], right[good]
        difference = slope[:-1][good] / a[:, None] - (slope[-1] - slope[:-1][good]) / b[:, None]
        return low + 1 + np.flatnonzero(good), a * b / rate[-1], difference

    def best_along(self, response: Floats, bins: int) -> list[Starts]:
        """Of 1, 2, ..., ``bins`` bins, those with the largest sum of lambda_b (s_b . response)^2; exactly."""
        rate = np.concatenate([[0.0], np.cumsum(self.expected)])
        slope = np.concatenate([[0.0], np.cumsum(self.slopes @ response)])
        width = rate[None, :] - rate[:, None]
        gain = np.full(width.shape, -np.inf)  # of the bin from one place to another
        np.divide((slope[None, :] - slope[:, None]) ** 2, width, where=np.triu(width, 1) > 0, out=gain)
        best, origin = [gain[0]], []
        for _ in range(1, bins):
            total = best[-1][:, None] + gain
            origin.append(total.argmax(0))
            best.append(total.max(0))
        found: list[Starts] = []
        for n in range(bins):
            place, starts = len(self.expected), []
            if np.isfinite(best[n][place]):
                for step in reversed(origin[:n]):
                    place = int(step[place])
                    starts.append(place)
            found.append(tuple(reversed(starts)) if len(starts) == n else found[-1])
        return found

    def _merged(self, starts: Starts) -> tuple[Floats, Floats]:
        first = [0, *starts]
        rate, slope = np.add.reduceat(self.expected, first), np.add.reduceat(self.slopes, first, axis=0)
        used = rate > 0
        return rate[used], slope[used]


def optimal_bins(channels: Mapping[str, FineBins], known: Floats, parameter: int, bins: int) -> list[dict[str, Starts]]:
    """Bins with the smallest variance of a parameter, the others profiled: of 1, 2, ..., ``bins`` bins a channel.

    Parameters
    ----------
    channels : mapping of str to FineBins
    known : ndarray, shape (P, P)
        Information on the parameters with one bin in each of the channels.
    parameter : int
        Position of the parameter.
    bins : int

    Returns
    -------
    list of dict
        Channel -> the fine bins that start another bin; as many as there are fine bins where these are fewer.
    """
    everything = {name: tuple(range(1, len(fine.expected))) for name, fine in channels.items()}
    scale = np.diag(known + sum(fine.information(everything[name]) for name, fine in channels.items()))
    search = _Search(channels, known + _WEAK * np.diag(scale), parameter)
    response = search.covariance(everything)[parameter]
    exact = {name: fine.best_along(response, bins) for name, fine in channels.items()}
    chosen: dict[str, Starts] = dict.fromkeys(channels, ())
    found = [dict(chosen)]
    for n in range(1, bins):
        starts = [{name: exact[name][n] for name in channels}, dict(chosen)]
        for name in channels:
            starts[1][name] = search.with_another(starts[1], name)
        chosen = min((search.settled(start) for start in starts), key=search.variance)
        found.append(dict(chosen))
    return found


@dataclass(frozen=True, eq=False)
class _Search:
    channels: Mapping[str, FineBins]
    known: Floats
    parameter: int

    def covariance(self, chosen: Mapping[str, Starts]) -> Floats:
        total = self.known + sum(fine.information(chosen[name]) for name, fine in self.channels.items())
        return np.linalg.inv(total).astype(np.float64, copy=False)

    def best(self, covariance: Floats, name: str, low: int, high: int) -> tuple[float, int]:
        """By how much one more edge between two places lowers the variance at most, and where; (0, -1) for none."""
        where, factor, difference = self.channels[name].gains(low, high)
        if not len(where):
            return 0.0, -1
        moved = difference @ covariance
        lowered = factor * moved[:, self.parameter] ** 2 / (1 + factor * (moved * difference).sum(1))
        k = int(np.argmax(lowered))
        return float(lowered[k]), int(where[k])

    def with_another(self, chosen: Mapping[str, Starts], name: str) -> Starts:
        """The edges of a channel and the one that helps most."""
        covariance = self.covariance(chosen)
        places = [0, *chosen[name], len(self.channels[name].expected)]
        _, where = max(self.best(covariance, name, *ends) for ends in pairwise(places))
        return tuple(sorted((*chosen[name], where))) if where > 0 else chosen[name]

    def settled(self, chosen: Mapping[str, Starts]) -> dict[str, Starts]:
        """Each edge moved between its neighbours to where it helps most, until none moves."""
        now = dict(chosen)
        for _ in range(_SWEEPS):
            moved = False
            for name in now:
                for j in range(len(now[name])):
                    edges = now[name]
                    low, high = [0, *edges][j], [*edges, len(self.channels[name].expected)][j + 1]
                    without = now | {name: edges[:j] + edges[j + 1 :]}
                    covariance = self.covariance(without)
                    lowered, where = self.best(covariance, name, low, high)
                    here = self.variance(now)
                    there = covariance[self.parameter, self.parameter] - lowered
                    if where not in (-1, edges[j]) and there < here * (1 - _GAIN):
                        now, moved = without | {name: (*edges[:j], where, *edges[j + 1 :])}, True
            if not moved:
                break
        return now

    def variance(self, chosen: Mapping[str, Starts]) -> float:
        return float(self.covariance(chosen)[self.parameter, self.parameter])


def merged(values: NDArray[np.float64], starts: Sequence[int], axis: int = -1) -> Floats:
    """Sums over fine bins, of those between one start and the next."""
    return np.add.reduceat(values, [0, *starts], axis=axis)
