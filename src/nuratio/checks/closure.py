"""Closure: means and histograms of the reweighted reference against the sample's own."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.report import Check, Closure
from nuratio.checks.reweighting import Reweighting
from nuratio.ratios.closure import Weighted

__all__ = ["cells_between", "closure_checks", "closure_curves", "quantile_edges"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BINS, _PAIR_BINS, _DRAWN_BINS = 20, 6, 40
_MOST_PAIRS = 45
_MEAN, _SECOND, _CLOSURE = 0.02, 0.05, 0.05


def closure_checks(found: Reweighting) -> Iterator[Check]:
    """Moments and histograms of every feature, pairs of features, and the learned ratio itself."""
    name, source, target = found.sample, found.source, found.target
    for label, a, b in found.columns():
        spread, center = float(np.std(b)) or 1.0, float(np.mean(b))
        for power, what, allowed in ((1, "mean", _MEAN), (2, "second moment", _SECOND)):
            (s, error_s), (t, error_t) = (
                _mean(Weighted(((v - center) / spread) ** power, sample.weights))
                for v, sample in ((a, source), (b, target))
            )
            meaning = f"reweighted minus true {what}, in units of the spread"
            yield Check(f"{what} of {label}", name, s - t, float(np.hypot(error_s, error_t)), allowed, meaning)
        cells, bins = _quantile_cells(b, _BINS, (a, b))
        yield _closure(f"closure in {label}", name, cells, source, target, bins)
    pairs = list(combinations(range(len(found.features)), 2))[:_MOST_PAIRS]
    for i, j in pairs:
        (at_i, down), (at_j, across) = (
            _quantile_cells(target.values[:, k], _PAIR_BINS, (source.values[:, k], target.values[:, k])) for k in (i, j)
        )
        cells = [a * across + b for a, b in zip(at_i, at_j, strict=True)]
        label = f"closure in {found.features[i]}, {found.features[j]}"
        yield _closure(label, name, cells, source, target, down * across)


def closure_curves(all_of: Sequence[Reweighting]) -> Iterator[Closure]:
    """Histograms of one sample to draw, with their chi2; events beyond the drawn range are in the outer bins."""
    columns = [list(found.columns()) for found in all_of]
    for same in zip(*columns, strict=True):
        label = same[0][0]
        low, high = np.quantile(np.concatenate([target for _, _, target in same]), [0.002, 0.998])
        if not low < high:
            continue
        edges = np.linspace(low, high, _DRAWN_BINS + 1)
        drawn = [_histogram(found, a, b, edges) for found, (_, a, b) in zip(all_of, same, strict=True)]
        mean = {key: np.mean([one[key] for one in drawn], axis=0) for key in ("reference", "reweighted", "target")}
        error = {
            key: np.sqrt(np.sum([one[key] ** 2 for one in drawn], axis=0)) / len(drawn)
            for key in ("error", "target_error", "training_error")
        }
        chi2, used = 0.0, np.zeros(_DRAWN_BINS, dtype=bool)
        for one in drawn:
            variance = one["error"] ** 2 + one["target_error"] ** 2 + one["training_error"] ** 2
            filled = variance > 0
            difference = one["reweighted"] - one["target"]
            chi2 += float((difference[filled] ** 2 / variance[filled]).sum()) / len(drawn)
            used |= filled
        yield Closure(all_of[0].sample, label, edges, **mean, **error, chi2=chi2, bins=int(used.sum()))


def _histogram(found: Reweighting, at_source: Floats, at_target: Floats, edges: Floats) -> dict[str, Floats]:
    """Shares and errors in bins; the error of the training from the spread of the networks."""
    bins = len(edges) - 1
    source, target = (np.clip(np.digitize(v, edges) - 1, 0, bins - 1) for v in (at_source, at_target))
    (reweighted, variance), (true, true_variance) = (
        _shares(source, found.source.weights, bins),
        _shares(target, found.target.weights, bins),
    )
    single = np.array([_shares(source, w, bins)[0] for w in found.members])
    training = single.var(axis=0, ddof=1) / len(single) if len(single) > 1 else np.zeros(bins)
    return {
        "reference": _shares(source, found.reference, bins)[0],
        "reweighted": reweighted,
        "target": true,
        "error": np.sqrt(variance),
        "target_error": np.sqrt(true_variance),
        "training_error": np.sqrt(training),
    }


def _quantile_cells(of: Floats, bins: int, values: Sequence[Floats]) -> tuple[list[Ints], int]:
    """Bins of the values between quantiles of some numbers, those beyond in the outer ones; and how many bins."""
    return cells_between(quantile_edges(of, bins), values)


def quantile_edges(values: Floats, bins: int) -> Floats:
    """At most so many bins between quantiles; a value that many share is a bin of its own, the largest one, too."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
    if len(edges) > 1 and (values == edges[-1]).mean() > 0.5 / bins:
        edges = np.append(edges, 2 * edges[-1] - edges[-2])
    return edges


def cells_between(edges: Floats, values: Sequence[Floats]) -> tuple[list[Ints], int]:
    """Bins of the values between edges, those beyond in the outer ones; and how many bins."""
    last = max(len(edges) - 2, 0)
    return [np.clip(np.searchsorted(edges, v, side="right") - 1, 0, last) for v in values], last + 1


def _shares(cell: Ints, weights: Floats, bins: int) -> tuple[Floats, Floats]:
    """Shares of the total in each bin, and their variances."""
    w = weights / weights.sum()
    return np.bincount(cell, w, bins).astype(np.float64), np.bincount(cell, w**2, bins).astype(np.float64)


def _mean(sample: Weighted) -> tuple[float, float]:
    w = sample.weights / sample.weights.sum()
    mean = float(w @ sample.values)
    return mean, float(np.linalg.norm(w * (sample.values - mean)))


def _closure(label: str, name: str, cells: list[Ints], source: Weighted, target: Weighted, bins: int) -> Check:
    """sum_b [(s_b - t_b)^2 - variance_b] / a_b of reweighted and true shares, a being the share of |weights|.

    The Tsallis relative entropy of order 2 of binned distributions, with a positive denominator for signed samples
    too, and without its statistical part: its mean is zero if both are equal.
    """
    (s, variance_s), (t, variance_t) = (
        _shares(cell, sample.weights, bins) for cell, sample in zip(cells, (source, target), strict=True)
    )
    gross = np.bincount(cells[1], np.abs(target.weights), bins)
    share = gross / gross.sum()
    used = share > 0
    variance = (variance_s + variance_t)[used]
    difference = (s - t)[used]
    squared = float(((difference**2 - variance) / share[used]).sum())
    spread = 2 * variance**2 + 4 * variance * np.maximum(difference**2 - variance, 0)
    error = float(np.sqrt((spread / share[used] ** 2).sum()))
    meaning = "mean squared difference of reweighted and true bins, in units of their contents squared"
    return Check(label, name, squared, error, _CLOSURE**2, meaning)
