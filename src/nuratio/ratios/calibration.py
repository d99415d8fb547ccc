"""Calibrated ratios: an increasing function of each learned one.

`nuratio.training.calibration.calibrate` makes them; a `RatioEstimator` carries and applies them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "Increasing"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Increasing:
    """A piecewise linear function through knots; beyond them with the slope y/x of the last one, within 0 and 1.

    So large ratios are scaled by a common factor at most, and none is spread wider than it was learned.

    Attributes
    ----------
    x, y : ndarray, shape (knots,)
        x increasing, y not decreasing.
    """

    x: Floats
    y: Floats

    def __call__(self, r: Floats) -> Floats:
        """The function at r, of any shape."""
        x, y = self.x, self.y
        beyond = np.minimum(r - x[0], 0) * _slope(x[0], y[0]) + np.maximum(r - x[-1], 0) * _slope(x[-1], y[-1])
        return np.asarray(np.interp(r, x, y) + beyond)


def _slope(x: float, y: float) -> float:
    return min(y / x, 1.0) if x * y > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Calibration:
    """What makes calibrated ratios g(r) / z of learned ones, for K parts.

    Attributes
    ----------
    curves : sequence (folds) of sequences (parts) of Increasing
        Those of a fold are fitted on the events of all others.
    normalisation : tuple of float
        z of each part: E_q[g(r)].
    """

    curves: Sequence[Sequence[Increasing]]
    normalisation: tuple[float, ...]

    def __call__(self, ratios: Floats, fold: NDArray[np.int64] | None) -> Floats:
        """Calibrated ratios, shape (n, K), by the curves of the fold of each event, or by the mean of all folds."""
        result = np.zeros_like(ratios)
        for f, curves in enumerate(self.curves):
            rows = slice(None) if fold is None else np.flatnonzero(fold == f)
            for k, curve in enumerate(curves):
                result[rows, k] += curve(ratios[rows, k])
        return result / self.normalisation / (len(self.curves) if fold is None else 1)

    def stored(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Plain values and tensors from which `restored` makes the same calibration."""
        knots = {
            f"calibration.{f}.{k}": np.stack([curve.x, curve.y])
            for f, curves in enumerate(self.curves)
            for k, curve in enumerate(curves)
        }
        return {"folds": len(self.curves), "normalisation": self.normalisation}, knots

    @classmethod
    def restored(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `stored`; there may be more arrays."""
        z = tuple(document["normalisation"])
        folds = range(document["folds"])
        return cls([[Increasing(*arrays[f"calibration.{f}.{k}"]) for k in range(len(z))] for f in folds], z)
