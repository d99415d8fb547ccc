"""Analytic shapes in place of trained ones: x and y are standard normal, and variations move events or reweight them.

A mean of 0.3 alpha has ln N(x - 0.3 alpha) / N(x) = 0.3 alpha x - 0.045 alpha^2; a weight exp(c alpha y) is its own
ratio, up to the normalisation exp(c^2 alpha^2 / 2).
"""

from dataclasses import dataclass, field

import numpy as np

from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample
from nuratio.ratios.estimator import split_by_sign
from nuratio.ratios.options import TrainingOptions
from nuratio.workspace.train import Trained

SHIFT, TILT, CROSS = 0.3, 0.2, 0.15


@dataclass(frozen=True)
class Exact:
    """As much of a ShapeEstimator as checks use; ``d`` gives the coefficients of features (n, 2) as a dict."""

    d: object
    options: TrainingOptions = field(default_factory=lambda: TrainingOptions(folds=2, ensemble=1))

    @property
    def terms(self):
        return tuple(self.d(np.zeros((1, 2))))

    @property
    def nuisances(self):
        return tuple(dict.fromkeys(name for term in self.terms for name, _ in term))

    def coefficients(self, x, *, event_ids=None, member=None):
        x = np.asarray(x, dtype=np.float64)
        return {term: np.broadcast_to(values, len(x)).copy() for term, values in self.d(x).items()}


def exact(x):
    """Of `simulate`."""
    return {
        (("shift", 1),): SHIFT * x[:, 0],
        (("shift", 2),): np.full(len(x), -(SHIFT**2) / 2),
        (("tilt", 1),): TILT * x[:, 1],
    }


def crossed(x):
    return exact(x) | {(("shift", 1), ("tilt", 1)): CROSS * x[:, 1]}


def simulate(points, *, n=8000, seed=1, sign=1.0, cross=0.0, rates=None, new=0.0):
    """Nominal and varied events: the shift moves x, the tilt weighs y, their product weighs y again.

    ``rates`` multiplies yields by exp(rate alpha), ``new`` is the share of events that each simulation has alone.
    """
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, 2))
    ids = rng.permutation(n)
    own = [np.ones(n, dtype=bool), *(rng.random((len(points), n)) > new)]
    varied = []
    for point, kept in zip(points, own[1:], strict=True):
        a, b = point.get("shift", 0.0), point.get("tilt", 0.0)
        x = base + np.array([SHIFT * a, 0.0])
        w = np.exp(TILT * b * base[:, 1] + cross * a * b * base[:, 1]) / (1 - new)
        w *= np.exp(sum((rates or {}).get(name, 0.0) * value for name, value in point.items()))
        varied.append(VariedSample(point, EventSample(x[kept], sign * w[kept], ("x", "y"), ids[kept])))
    return EventSample(base, np.full(n, sign), ("x", "y"), ids), varied


def trained(d, nominal, varied, *, pruned=(), codes=None, folds=2, name="sm"):
    """A region of one part with these shapes."""
    shape = Exact(d, TrainingOptions(folds=folds, ensemble=1))
    parts = split_by_sign({name: nominal})
    (part,) = (p.name for p in parts)
    return Trained(
        events=None,
        ratio=None,
        shapes={part: shape},
        parts=parts,
        varied={part: tuple(varied)},
        pruned={part: tuple(pruned)},
        codes=dict.fromkeys(shape.nuisances, "quadexp") | (codes or {}),
        keys={},
        new=0,
    )


AXES = [{"shift": 1}, {"shift": -1}, {"tilt": 1}, {"tilt": -1}]
