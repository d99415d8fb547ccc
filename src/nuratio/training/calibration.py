"""Calibration of signed ratios: what a ratio should have been where the networks say r, asked from the events.

Use it where `nuratio check` shows that reweighted events do not close although the ratio orders events well: an
increasing function repairs the scale of a ratio, not its shape in the features. It needs no new networks.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import FitFailed, InvalidData
from nuratio.ratios.calibration import Calibration, Increasing
from nuratio.ratios.estimator import RatioEstimator, split_by_sign

__all__ = ["calibrate"]

Floats = NDArray[np.float64]

_EVENTS_PER_BIN = 200  # effective ones
_MOST_BINS = 100


def calibrate(estimator: RatioEstimator, samples: Mapping[str, EventSample]) -> RatioEstimator:
    """Replace the ratio r of every part by the increasing function g(r) of least risk E_q[g^2] / 2 - E_p[g].

    That is the isotonic regression of the signed weight over the reference weight on r (pool adjacent violators needs
    positive reference weights only, so p may have both signs), in quantiles of r, with lines between the means of its
    blocks. Each fold of events gets the g of the other folds, as it gets their networks; data get the mean of all g. In
    the end E_q[g] = 1 again.

    Parameters
    ----------
    estimator : RatioEstimator
        Learned ratios; an earlier calibration is replaced.
    samples : mapping of str to EventSample
        The samples it was trained on, or others with the same parts.

    Returns
    -------
    RatioEstimator
        The report has, for every part, the ``risk`` at events that neither networks nor g have seen, ``before`` and
        after, the ``gain`` (before - after) with its ``error``, and the largest number of ``knots`` of g.

    Raises
    ------
    InvalidData
        Samples or signs of weights that are not those of the training, or missing features.
    FitFailed
        A ratio so far off that E_q[g] is not positive.

    References
    ----------
    Barlow et al., Statistical Inference under Order Restrictions (1972); centred blocks: Oron and Flournoy,
    arXiv:1701.05964.
    """
    estimator = replace(estimator, calibration=None)
    parts = split_by_sign(samples)
    if tuple(part.name for part in parts) != tuple(estimator.reference_fractions):
        raise InvalidData(
            f"samples have the parts {[part.name for part in parts]}; the estimator was trained on "
            f"{list(estimator.reference_fractions)}"
        )
    x = np.concatenate([estimator.networks.inputs(events) for events in parts.values()])
    ids = np.concatenate([events.ids for events in parts.values()])
    learned = estimator.ratios(x, event_ids=ids)
    q = np.concatenate([estimator.reference_fractions[p.name] * e.weights / e.total for p, e in parts.items()])
    densities = []
    for component in estimator.components:
        own = [component.name in (part.name, part.sample) for part in parts]
        w = np.concatenate([events.weights * mine for events, mine in zip(parts.values(), own, strict=True)])
        densities.append(w / w.sum())
    options = estimator.options
    fold = fold_of(ids, options.folds, options.fold_seed)
    curves = [
        [
            _fitted(learned[name][fold != f], p[fold != f], q[fold != f])
            for name, p in zip(estimator.parts, densities, strict=True)
        ]
        for f in range(options.folds)
    ]
    ones = (1.0,) * len(densities)
    before = np.stack([learned[name] for name in estimator.parts], axis=1)
    z = q @ Calibration(curves, ones)(before, fold)
    if not (z > 0).all():
        raise FitFailed(
            f"the calibrated ratios have the means {dict(zip(estimator.parts, z.tolist(), strict=True))} under the "
            "reference, which must be positive: the learned ratios are unrelated to these samples; train again"
        )
    calibration = Calibration(curves, tuple(z.tolist()))
    after = calibration(before, fold)
    report = {
        name: _gain(before[:, k], after[:, k], p, q) | {"knots": max(len(of_fold[k].x) for of_fold in curves)}
        for k, (name, p) in enumerate(zip(estimator.parts, densities, strict=True))
    }
    return replace(estimator, calibration=calibration, report=estimator.report | {"calibration": report})


def _fitted(r: Floats, p: Floats, q: Floats) -> Increasing:
    """The increasing g of least risk, from learned ratios r and weights p (either sign) and q (not negative)."""
    p, q = p / np.abs(p).sum(), q / q.sum()  # of these folds; the scale of p follows from E_q[g] = 1
    size = min(p.sum() ** 2 / (p**2).sum(), 1 / (q**2).sum())
    bins = int(np.clip(size / _EVENTS_PER_BIN, 1, _MOST_BINS))
    order = np.argsort(r, kind="stable")
    share = np.cumsum((np.abs(p) + q)[order])
    edges = np.unique(r[order][np.searchsorted(share, 2 * np.arange(1, bins) / bins).clip(max=len(r) - 1)])
    cell = np.digitize(r, edges)
    in_q = np.bincount(cell, q, minlength=len(edges) + 1)
    kept = np.flatnonzero(in_q > 0)  # events of p where q has none count in the cell below (or the first one)
    cell = np.searchsorted(kept, cell, side="right").clip(min=1) - 1
    sum_q, sum_p, sum_qr = (np.bincount(cell, w, minlength=len(kept)) for w in (q, p, q * r))
    fit = isotonic_regression(sum_p / sum_q, weights=sum_q)
    first = fit.blocks[:-1]
    at, of_block = sum_qr / sum_q, np.add.reduceat(sum_qr, first) / np.add.reduceat(sum_q, first)
    x, knot = np.unique(np.r_[at[0], of_block, at[-1]], return_index=True)  # the outer blocks are flat to their ends
    y = np.r_[fit.x[0], fit.x[first], fit.x[-1]][knot]
    if (p >= 0).all():  # a density of one sign: its ratio goes to zero at zero
        positive = (x > 0) & (y > 0)
        x, y = np.r_[0.0, x[positive]], np.r_[0.0, y[positive]]
    return Increasing(x, y)


def _gain(before: Floats, after: Floats, p: Floats, q: Floats) -> dict[str, Any]:
    """Risks E_q[r^2] / 2 - E_p[r] of two ratios at the same events, and the error of their difference."""
    losses = [q * r**2 / 2 - p * r for r in (before, after)]
    gains = losses[0] - losses[1]
    return {
        "before": float(losses[0].sum()),
        "risk": float(losses[1].sum()),
        "gain": float(gains.sum()),
        "error": float(np.sqrt(len(gains)) * gains.std()),
    }
