"""Calibration of signed ratios: among events of one learned ratio, the true one has to be that number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.closure import cells_between
from nuratio.checks.report import Calibration, Check, averaged
from nuratio.checks.reweighting import Reweighting

__all__ = ["calibration"]

Floats = NDArray[np.float64]

_BINS = 20
_ALLOWED = 0.05


def calibration(all_of: Sequence[Reweighting]) -> tuple[Check, Calibration]:
    """Slope of the true ratio (signed weight over reference weight) in bins of the learned one, and the curve."""
    learned_at = [found.source.weights / found.reference for found in all_of]
    bounds = np.unique(np.quantile(np.concatenate(learned_at), np.linspace(0, 1, _BINS + 1)))
    curves = [_binned(found, r, bounds) for found, r in zip(all_of, learned_at, strict=True)]
    meaning = "slope of the true in the learned ratio, minus 1"
    (check,) = averaged(_slope(all_of[0].sample, *curve, meaning) for curve in curves)
    learned, true, variance = (np.mean([curve[i] for curve in curves], axis=0) for i in range(3))
    return check, Calibration(all_of[0].sample, learned, true, np.sqrt(variance / len(curves)))


def _binned(found: Reweighting, learned_at: Floats, bounds: Floats) -> tuple[Floats, Floats, Floats]:
    """Learned and true ratio, and the variance of the true one, in bins of the learned one."""
    (a, b), bins = cells_between(bounds, (learned_at, found.score))
    q = found.reference
    reference = np.bincount(a, q, bins) / q.sum()
    reference = np.where(reference > 0, reference, np.nan)
    w = found.target.weights / found.target.weights.sum()
    learned = np.bincount(a, found.source.weights, bins) / q.sum() / reference
    typical = (w**2).sum() / np.abs(w).sum() * np.abs(learned) * reference  # where by chance no true event is
    variance = np.where(np.bincount(b, minlength=bins) > 0, np.bincount(b, w**2, bins), typical)
    return learned, np.bincount(b, w, bins) / reference, variance / reference**2


def _slope(sample: str, learned: Floats, true: Floats, variance: Floats, meaning: str) -> Check:
    filled = np.isfinite(learned)
    learned, true, variance = learned[filled], true[filled], variance[filled]
    if np.ptp(learned) < 1e-6:
        return Check("calibration", sample, 0.0, 0.0, _ALLOWED, "the learned ratio is constant")
    weight = 1 / np.maximum(variance, np.finfo(float).tiny)
    centred = learned - np.average(learned, weights=weight)
    slope = float((weight * centred * true).sum() / (weight * centred**2).sum())
    error = float(1 / np.sqrt((weight * centred**2).sum()))
    return Check("calibration", sample, slope - 1, error, _ALLOWED, meaning)
