"""Checks of trained ratios that can fail: what a reweighted reference has to reproduce, on events no network has seen.

Cross-fitting gives every simulated event the ratio of networks that were not trained on it. Events are split in two by
id: one half of the pool is reweighted with r, and compared with the other half of the sample itself. Each check has a
value, its statistical error and a threshold; the thresholds are sizes of effects, not significances, because with
enough simulation every network is wrong by many standard errors.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import InvalidData
from nuratio.ratios.closure import Weighted, sliced_wasserstein
from nuratio.ratios.estimator import RatioEstimator

__all__ = ["Check", "CheckReport", "check_ratios"]

Floats = NDArray[np.float64]

_SIGMAS = 4.0  # of a value's error that are allowed beyond its threshold
_HALVES_SEED = 0xC4EC
_BINS = 20
_PAIR_BINS = 6
_MOST_PAIRS = 45
_PROJECTIONS = 40
_MEAN, _CLOSURE, _DISTANCE, _CALIBRATION, _OUTSIDE = 0.02, 0.05, 0.1, 0.05, 1e-3


@dataclass(frozen=True)
class Check:
    """One check of one sample.

    Attributes
    ----------
    name, sample : str
    value, error : float
        What was found, and its statistical error.
    threshold : float
        |value| may exceed it by four errors.
    meaning : str
        What the value is, in words.
    """

    name: str
    sample: str
    value: float
    error: float
    threshold: float
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether the value is within its threshold, and a number."""
        return bool(abs(self.value) <= self.threshold + _SIGMAS * self.error)


@dataclass(frozen=True)
class CheckReport:
    """All checks of an estimator."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all of them passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> str:
        """The checks with their verdicts."""
        rows = [asdict(check) | {"passed": check.passed} for check in self.checks]
        return json.dumps({"passed": self.passed, "checks": rows}, indent=1)

    def __str__(self) -> str:
        lines = [f"{'check':34s} {'sample':20s} {'value':>9s} {'error':>9s} {'allowed':>9s}"]
        lines += [
            f"{c.name:34s} {c.sample:20s} {c.value:9.4f} {c.error:9.4f} {c.threshold:9.4f}  "
            f"{'pass' if c.passed else 'FAIL: ' + c.meaning}"
            for c in self.checks
        ]
        return "\n".join(lines)


def check_ratios(
    estimator: RatioEstimator, samples: Mapping[str, EventSample], data: EventSample | None = None
) -> CheckReport:
    """Check an estimator on the simulation it was trained on, cross-fitted, and on observed events.

    Parameters
    ----------
    estimator : RatioEstimator
    samples : mapping of str to EventSample
        Those of the training.
    data : EventSample, optional
        Observed events: whether the simulation covers them.

    Raises
    ------
    InvalidData
        Other samples than those of the training; a sample whose weights cancel.
    """
    pool = estimator.pool(samples)
    at_pool = estimator.ratios(pool.features, event_ids=pool.event_ids)
    half = fold_of(pool.event_ids, 2, _HALVES_SEED) == 0
    found: list[Check] = []
    for name, (z, error) in estimator.normalisation.items():
        found.append(
            Check("normalisation", name, z - 1, error, 0.01, "E_q[r] - 1 before it was corrected: train longer")
        )
    for name, events in samples.items():
        if events.cancels:
            raise InvalidData(f"sample {name!r}: its weights cancel, so there is no density to compare with")
        r = estimator.net(at_pool, name)
        other = fold_of(events.ids, 2, _HALVES_SEED) == 1
        x = estimator.networks.inputs(events)
        source = Weighted(pool.features[half], (pool.weights * r)[half])
        target = Weighted(x[other], events.weights[other])
        score = (r[half], estimator.ratio(x[other], name, event_ids=events.ids[other]))
        found += _of_sample(name, estimator.features, source, target, score)
        found.append(_distance(name, source, target, Weighted(pool.features[half], pool.weights[half])))
        found.append(_calibration(name, source, target, score, pool.weights[half]))
    if data is not None:
        found.append(_support(estimator.networks.inputs(data), pool.features))
    return CheckReport(tuple(found))


def _of_sample(
    name: str, features: tuple[str, ...], source: Weighted, target: Weighted, score: tuple[Floats, Floats]
) -> Iterator[Check]:
    """Means and histograms of every feature, pairs of features, and the learned ratio itself."""
    columns = [(f, source.values[:, j], target.values[:, j]) for j, f in enumerate(features)]
    columns.append(("ratio", *score))
    for label, a, b in columns:
        s, t = Weighted(a, source.weights), Weighted(b, target.weights)
        (mean_s, error_s), (mean_t, error_t) = _mean(s), _mean(t)
        spread = float(np.std(b)) or 1.0
        value, error = (mean_s - mean_t) / spread, float(np.hypot(error_s, error_t)) / spread
        yield Check(f"mean of {label}", name, value, error, _MEAN, "reweighted minus true mean, in spreads")
        cells, bins = _quantile_cells(b, _BINS, (a, b))
        yield _closure(f"closure in {label}", name, cells, source, target, bins)
    pairs = list(combinations(range(len(features)), 2))[:_MOST_PAIRS]
    for i, j in pairs:
        (at_i, down), (at_j, across) = (
            _quantile_cells(target.values[:, k], _PAIR_BINS, (source.values[:, k], target.values[:, k])) for k in (i, j)
        )
        cells = [a * across + b for a, b in zip(at_i, at_j, strict=True)]
        yield _closure(f"closure in {features[i]}, {features[j]}", name, cells, source, target, down * across)


def _quantile_cells(of: Floats, bins: int, values: Sequence[Floats]) -> tuple[list[NDArray[np.int64]], int]:
    """Bins of the values between quantiles of some numbers, those beyond in the outer ones; and how many bins."""
    edges = np.unique(np.quantile(of, np.linspace(0, 1, bins + 1)))
    last = len(edges) - 2
    return [np.clip(np.searchsorted(edges, v, side="right") - 1, 0, last) for v in values], last + 1


def _mean(sample: Weighted) -> tuple[float, float]:
    w = sample.weights / sample.weights.sum()
    mean = float(w @ sample.values)
    return mean, float(np.linalg.norm(w * (sample.values - mean)))


def _closure(
    label: str, name: str, cells: list[NDArray[np.int64]], source: Weighted, target: Weighted, bins: int
) -> Check:
    """sum_b [(s_b - t_b)^2 - variance_b] / a_b of reweighted and true shares, a being the share of |weights|.

    Without its statistical part the squared difference has the mean zero if both are equal.
    """
    sides = []
    for cell, sample in zip(cells, (source, target), strict=True):
        w = sample.weights / sample.weights.sum()
        sides.append((np.bincount(cell, w, bins), np.bincount(cell, w**2, bins)))
    gross = np.bincount(cells[1], np.abs(target.weights), bins)
    share = gross / gross.sum()
    used = share > 0
    variance = sides[0][1][used] + sides[1][1][used]
    difference = (sides[0][0] - sides[1][0])[used]
    squared = float(((difference**2 - variance) / share[used]).sum())
    spread = 2 * variance**2 + 4 * variance * np.maximum(difference**2 - variance, 0)
    error = float(np.sqrt((spread / share[used] ** 2).sum()))
    meaning = "mean squared difference of reweighted and true bins, in units of their contents squared"
    return Check(label, name, squared, error, _CLOSURE**2, meaning)


def _distance(name: str, source: Weighted, target: Weighted, reference: Weighted) -> Check:
    """Distance in all features at once, that of two halves of the target taken off, in units of the one to close."""
    rng = np.random.default_rng(_HALVES_SEED)
    scale = np.std(target.values, axis=0)
    scale = np.where(scale > 0, scale, 1.0)

    def at(sample: Weighted, rows: NDArray[np.bool_] | slice = slice(None)) -> Weighted:
        return Weighted(sample.values[rows] / scale, sample.weights[rows])

    def apart(a: Weighted, b: Weighted) -> float:
        return sliced_wasserstein(a, b, projections=_PROJECTIONS, rng=np.random.default_rng(1))[0]

    learned, unlearned = apart(at(source), at(target)), apart(at(reference), at(target))
    noise = []
    for _ in range(5):  # what a sample of this size is away from another one
        coin = rng.uniform(size=len(target.weights)) < 0.5
        noise.append(apart(at(target, coin), at(target, ~coin)))
    null = float(np.mean(noise))
    excess = (learned - null) / max(unlearned, null)
    meaning = "sliced Wasserstein distance left, in units of the one before reweighting"
    return Check("distance", name, max(excess, 0.0), float(np.std(noise)) / max(unlearned, null), _DISTANCE, meaning)


def _calibration(name: str, source: Weighted, target: Weighted, score: tuple[Floats, Floats], q: Floats) -> Check:
    """Slope of the true ratio (signed weight over reference weight) in bins of the learned one."""
    (a, b), bins = _quantile_cells(score[0], _BINS, score)
    reference = np.bincount(a, q, bins) / q.sum()
    learned = np.bincount(a, source.weights, bins) / q.sum() / reference
    w = target.weights / target.weights.sum()
    true = np.bincount(b, w, bins) / reference
    variance = np.bincount(b, w**2, bins) / reference**2
    if np.ptp(learned) < 1e-6:
        return Check("calibration", name, 0.0, 0.0, _CALIBRATION, "the learned ratio is constant")
    weight = 1 / np.maximum(variance, np.finfo(float).tiny)
    centred = learned - np.average(learned, weights=weight)
    slope = float((weight * centred * true).sum() / (weight * centred**2).sum())
    error = float(1 / np.sqrt((weight * centred**2).sum()))
    return Check("calibration", name, slope - 1, error, _CALIBRATION, "slope of the true in the learned ratio, minus 1")


def _support(data: NDArray[np.float32], pool: NDArray[np.float32]) -> Check:
    outside = ((data < pool.min(axis=0)) | (data > pool.max(axis=0))).any(axis=1)
    share = float(outside.mean()) if len(outside) else 0.0
    error = float(np.sqrt(max(share * (1 - share), 0.0) / max(len(outside), 1)))
    meaning = f"{int(outside.sum())} observed events lie beyond all simulated ones in a feature: ratios extrapolate"
    return Check("support", "data", share, error, _OUTSIDE, meaning)
