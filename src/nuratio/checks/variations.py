"""How well the reweighted nominal simulation is a varied one: in bins of a quantity, and in all features at once.

Used by `nuratio.checks.systematics`. Both measures are sizes of an effect, the rms of what is missed of the density
relative to the nominal one, and zero on average if nothing is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from nuratio.checks.closure import cells_between
from nuratio.checks.linked import LinkedPart, Pair, binned_difference, in_bins
from nuratio.checks.two_sample import RandomFunctions, Residuals

__all__ = ["Missed", "Quantity", "Regression", "features", "missed", "quantities", "variation"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NULL = 1e-9  # of the largest eigenvalue of a covariance: the sum of shares does not fluctuate
_ROUNDING = 1e-12  # of the variance of unlinked events: changes of weights are kept in single precision


@dataclass(frozen=True, eq=False)
class Quantity:
    """A number in bins, for the n generated events of a part at one point.

    Attributes
    ----------
    name : str
    edges : ndarray, shape (b + 1,)
        Events beyond are in the outer bins.
    at, to : ndarray of int, shape (n,)
        The bin of the nominal event, and of the varied one.
    """

    name: str
    edges: Floats
    at: Ints
    to: Ints

    @property
    def bins(self) -> int:
        """How many."""
        return max(len(self.edges) - 1, 1)


def features(part: LinkedPart, pair: Pair) -> Iterator[Quantity]:
    """Every feature between quantiles of the nominal events."""
    for name, edges, cells in part.binned:
        yield Quantity(name, edges, cells[pair.base], cells[pair.varied.row])


def quantities(part: LinkedPart, pair: Pair, at_base: Floats, at_row: Floats) -> Iterator[Quantity]:
    """Every feature, and the learned factor S.

    Parameters
    ----------
    part : LinkedPart
    pair : Pair
    at_base, at_row : ndarray, shapes (n,) and (m,)
        S where the events are nominally, and where those of ``pair.there`` moved.
    """
    yield from features(part, pair)
    edges = part.edges(at_base[part.weights > 0])
    (at, moved), _ = cells_between(edges, (at_base, at_row))
    to = at.copy()
    to[pair.there] = moved
    yield Quantity("learned ratio", edges, at, to)


@dataclass(frozen=True)
class Missed:
    """What a reweighting misses of a variation, in bins.

    Attributes
    ----------
    square, error : float
        sum over bins of (s - t)^2 / n without its statistical part, s, t and n being reweighted, varied and nominal
        shares: the mean over folds, each compared by itself. And its statistical error.
    chi2, ndf : float, int
        Of s - t with all correlations, summed over folds.
    """

    square: float
    error: float
    chi2: float
    ndf: int

    @property
    def rms(self) -> float:
        """Of the density relative to the nominal one."""
        return float(np.sqrt(max(self.square, 0.0)))

    @property
    def p_value(self) -> float:
        """Of the chi2."""
        return float(chi2_distribution.sf(self.chi2, self.ndf)) if self.ndf else 1.0


def missed(part: LinkedPart, pair: Pair, quantity: Quantity) -> Missed:
    """What the learned reweighting misses."""
    nominal = in_bins(quantity.at, pair.nominal, quantity.bins)
    found = [_distance(pair.of(rows), rows, quantity, nominal, learned=True) for rows in part.folds]
    error = np.sqrt(sum(f.error**2 for f in found)) / len(found)
    chi2, ndf = sum(f.chi2 for f in found), sum(f.ndf for f in found)
    return Missed(float(np.mean([f.square for f in found])), float(error), chi2, ndf)


def variation(pair: Pair, quantity: Quantity) -> float:
    """Mean square of the variation itself in these bins, as `Missed.square`: what no reweighting at all misses."""
    nominal = in_bins(quantity.at, pair.nominal, quantity.bins)
    return _distance(pair, slice(None), quantity, nominal, learned=False).square


def _distance(pair: Pair, rows: Ints | slice, quantity: Quantity, nominal: Floats, *, learned: bool) -> Missed:
    source = pair.learned if learned else pair.nominal
    s, t, covariance = binned_difference(pair, source, quantity.at[rows], quantity.to[rows], quantity.bins)
    used = nominal > 0
    difference, covariance = (t - s)[used], covariance[np.ix_(used, used)]
    weight = 1 / nominal[used]
    scaled = weight[:, None] * covariance  # W C, with W = diag(1 / n)
    square = float(weight @ difference**2 - np.trace(scaled))
    noise = float((scaled * scaled.T).sum())
    along = float((weight * difference) @ covariance @ (weight * difference))
    error = float(np.sqrt(2 * noise + 4 * max(along - noise, 0.0)))
    values, vectors = np.linalg.eigh(covariance)
    seen = values > max(_NULL * values[-1], _ROUNDING * float(source @ source))
    chi2 = float((((difference @ vectors[:, seen]) ** 2) / values[seen]).sum())
    return Missed(square, error, chi2, int(seen.sum()))


@dataclass(frozen=True, eq=False)
class Regression:
    """The two-sample test of `nuratio.checks.two_sample` on linked events of a part.

    Half of the events of a fold teach a function the difference of varied and reweighted simulation, relative to the
    nominal one, and the other half says how much of it is true.

    Attributes
    ----------
    part : LinkedPart
    functions : RandomFunctions
    phi : list of ndarray, shape (events of a group, h)
        Their values at the nominal events of each half of each fold.
    gram : ndarray, shape (groups, h, h)
    """

    part: LinkedPart
    functions: RandomFunctions
    phi: list[Floats]
    gram: Floats

    @classmethod
    def of(cls, part: LinkedPart) -> Self:
        """For all points of a part."""
        functions = RandomFunctions.of(part.x[part.base], part.weights)
        phi = [functions(part.x[part.base[rows]]) for rows in part.groups]
        shares = [part.weights[rows] / part.weights[rows].sum() for rows in part.groups]
        gram = np.array([p.T @ (q[:, None] * p) for p, q in zip(phi, shares, strict=True)])
        return cls(part, functions, phi, gram)

    def test(self, pair: Pair) -> Residuals:
        """Varied minus reweighted simulation, and the distortion of the control."""
        sums = Residuals.zero(self.gram)
        for group, (some, phi, moved) in enumerate(self._groups(pair)):
            sums.add(group, *some.difference(some.learned, phi, moved))
            wave = self.functions.wave(self.part.x[some.base])
            wave = wave - some.learned @ wave
            sums.distorted[group] += (some.learned * wave) @ phi / np.sqrt(some.learned @ wave**2)
        return sums

    def variation(self, pair: Pair) -> float:
        """Rms of the variation itself, relative to the nominal density, as far as it is found."""
        sums = Residuals.zero(self.gram)
        for group, (some, phi, moved) in enumerate(self._groups(pair)):
            varied = some.varied
            sums.residual[group] = (varied.stay - some.nominal) @ phi + varied.moved[some.there] @ moved
        return sums.found(1.0)[0]

    def _groups(self, pair: Pair) -> Iterator[tuple[Pair, Floats, Floats]]:
        """Events of each half of each fold, and the functions where they are nominally and where those moved."""
        for rows, phi in zip(self.part.groups, self.phi, strict=True):
            some = pair.of(rows)
            yield some, phi, self.functions(self.part.x[some.varied.row[some.there]])
