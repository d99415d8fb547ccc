"""Distance in all features at once, and what it would be if only statistics kept it from zero.

If the reweighted reference and the sample are equal, the difference of their distribution functions is a sum over
events with mean zero. Multiplying every term by a random sign draws another such difference with the same covariance
(the multiplier bootstrap), whatever the weights.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.report import Check, Distances
from nuratio.checks.reweighting import Reweighting
from nuratio.ratios.closure import Weighted, sliced_distances

__all__ = ["distance"]

Floats = NDArray[np.float64]

_PROJECTIONS, _DRAWS = 40, 20
_MOST = 400_000  # events of a side, of all folds
_ALLOWED = 0.1
_SEED = 0xD15


def distance(all_of: Sequence[Reweighting]) -> tuple[Check, Distances]:
    """Sliced Wasserstein distance beyond its null, in units of the distance before reweighting.

    Distances are means over the halves of all folds, and so are those of a draw of the null.
    """
    rng = np.random.default_rng(_SEED)
    learned, unlearned, *null = np.mean([_distances(found, rng, _MOST // len(all_of)) for found in all_of], axis=0)
    sample, level = all_of[0].sample, float(np.mean(null))
    unit = max(unlearned, level)
    meaning = "sliced Wasserstein distance beyond that of equal samples, in units of the one before reweighting"
    excess = max(learned - level, 0.0) / unit
    check = Check("distance", sample, excess, float(np.std(null)) / unit, _ALLOWED, meaning)
    return check, Distances(sample, float(learned), float(unlearned), np.array(null))


def _distances(found: Reweighting, rng: np.random.Generator, most: int) -> Floats:
    """Of the reweighted and the plain reference to the sample, and of fluctuations; shape (2 + draws,)."""
    some = [_some(rng, len(side.weights), most) for side in (found.source, found.target)]
    scale = np.std(found.target.values, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    source, target = (
        Weighted(side.values[rows] / scale, side.weights[rows])
        for side, rows in zip((found.source, found.target), some, strict=True)
    )
    s, t = source.weights / source.weights.sum(), target.weights / target.weights.sum()
    q = found.reference[some[0]] / found.reference[some[0]].sum()
    null = [np.concatenate([_fluctuation(rng, s), _fluctuation(rng, t)]) for _ in range(_DRAWS)]
    measures = np.array([np.concatenate([s, -t]), np.concatenate([q, -t]), *null])
    mass = s[s > 0].sum() - t[t < 0].sum()
    x = np.concatenate([source.values, target.values])
    return np.asarray(sliced_distances(x, measures, projections=_PROJECTIONS, rng=rng).mean(1) / mass)


def _some(rng: np.random.Generator, n: int, most: int) -> NDArray[np.int64] | slice:
    return rng.choice(n, most, replace=False) if n > most else slice(None)


def _fluctuation(rng: np.random.Generator, share: Floats) -> Floats:
    """Shares times random signs, with the sum zero."""
    signs = 2.0 * rng.integers(0, 2, size=len(share), dtype=np.int8) - 1
    return np.asarray(share * (signs - share @ signs))
