"""A two-sample test for signed weights: can a regression tell the reweighted reference from the sample?

A classifier has no area under its curve where weights are negative. In its place, half of the events of a fold teach a
function h(x) = a . phi(x) the relative residual (p - q r) / q by least squares, and the other half says how much of it
is true:

    E_p[h] - E_q[r h]  in units of  (E_q[h^2] E_q[r^2])^(1/2),

with an error from the sum of its squared terms; it is zero on average if r = p / q, whatever h is. The control puts a
distortion of known size into r, which the same regression has to find.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.report import Check
from nuratio.checks.reweighting import CrossFitted, keeping_shares
from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.ratios.estimator import Part, split_by_sign

__all__ = ["two_sample_checks"]

Floats = NDArray[np.float64]

_FEATURES = 64
_SPREAD = 3.0  # of the random functions, in standard deviations of the inputs
_RIDGE = 1e-3  # of the mean diagonal element
_MOST = 500_000  # events
_CHUNK = 32768
_ALLOWED = 0.05
_INJECTED = 0.3
_SEED = 0x2A


def two_sample_checks(fitted: CrossFitted) -> Iterator[Check]:
    """The test and its control for every sample."""
    estimator, names = fitted.estimator, list(fitted.targets)
    split = split_by_sign(fitted.samples)
    target = {part: part.sample if part.sample in names else part.name for part in split}
    rho, total = estimator.reference_fractions, {name: events.total for name, events in fitted.targets.items()}

    def joined(of: Callable[[Part, EventSample], NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([of(part, events) for part, events in split.items()])

    x, ids = joined(lambda _, events: estimator.networks.inputs(events)), joined(lambda _, events: events.ids)
    q = joined(lambda part, events: rho[part.name] * events.weights / part.total)
    p = joined(lambda part, events: events.weights / total[target[part]])
    own = joined(lambda part, events: np.full(len(events), names.index(target[part])))
    index = np.repeat(np.arange(len(split)), [len(events) for events in split.values()])
    r = np.zeros((len(names), len(x)))
    for k, name in enumerate(names):
        r[k, q > 0] = estimator.net(fitted.mean, name)
    groups, used = fitted.groups(ids), fold_of(ids, -(-len(x) // _MOST), _SEED) == 0
    test = _Sums(x[q > 0], q[q > 0], len(names), 2 * estimator.options.folds)
    for group in range(2 * estimator.options.folds):
        chosen = used & (groups == group)
        q_here, p_here = keeping_shares(q, index, chosen), keeping_shares(p, index, chosen)
        test.add(group, x[chosen], q_here, r[:, chosen], [p_here * (own[chosen] == k) for k in range(len(names))])
    size = np.sqrt(r**2 @ q / q.sum())
    for k, name in enumerate(names):
        value, error = test.found(k, size[k])
        meaning = "relative rms of p - q r along what a regression finds in one half of the events, tested on the other"
        yield Check("two-sample test", name, value, error, _ALLOWED, meaning)
        seen, error = test.found(k, size[k], _INJECTED)
        meaning = f"of a distortion of {_INJECTED:.0%} put into r on purpose, the share that the test does not see"
        yield Check("two-sample control", name, max(1 - seen / _INJECTED, 0.0), error / _INJECTED, 0.5, meaning)


class _Sums:
    """Moments of random functions phi in each of g halves of folds.

    Attributes
    ----------
    gram : ndarray, shape (g, h, h)
        E_q[phi phi].
    residual, distorted : ndarray, shape (samples, g, h)
        E_p[phi] - E_q[r phi], and E_q[r u phi] of a function u with E_q[(r u)^2] = E_q[r^2].
    noise : ndarray, shape (samples, g, h, h)
        Covariance of ``residual``.
    """

    def __init__(self, x: NDArray[np.float32], q: Floats, samples: int, groups: int) -> None:
        h, d = _FEATURES + 1, x.shape[1]
        self.gram = np.zeros((groups, h, h))
        self.residual, self.distorted = np.zeros((samples, groups, h)), np.zeros((samples, groups, h))
        self.noise = np.zeros((samples, groups, h, h))
        share = q / q.sum()
        self._center = share @ x
        scale = np.sqrt(share @ (x - self._center) ** 2)
        self._inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        rng = np.random.default_rng(_SEED)
        self._directions = rng.normal(size=(d, _FEATURES)) * _SPREAD / np.sqrt(d)
        self._offsets = -(rng.normal(size=(d, _FEATURES)) * self._directions).sum(0)

    def add(self, side: int, x: NDArray[np.float32], q: Floats, r: Floats, p: list[Floats]) -> None:
        """The events of a half of a fold: q of shape (n,), r and p of shape (samples, n)."""
        u = np.cos(self._along(x)[:, 0])
        strength = np.sqrt(r**2 @ q / ((r * u) ** 2 @ q))
        for start in range(0, len(x), _CHUNK):
            some = slice(start, start + _CHUNK)
            z = self._along(x[some]) + self._offsets
            phi = np.column_stack([z / (1 + np.exp(-z)), np.ones(len(z))])
            self.gram[side] += phi.T @ (q[some, None] * phi)
            for k, own in enumerate(p):
                model = q[some] * r[k, some]
                residual = own[some] - model
                self.residual[k, side] += residual @ phi
                self.noise[k, side] += phi.T @ (residual[:, None] ** 2 * phi)
                self.distorted[k, side] += strength[k] * (model * u[some]) @ phi

    def _along(self, x: NDArray[np.float32]) -> Floats:
        return np.asarray(np.clip((x - self._center) * self._inverse, -8, 8) @ self._directions)

    def found(self, k: int, size: float, injected: float = 0.0) -> tuple[float, float]:
        """The relative residual found for sample k, averaged over folds and both ways of using halves; its error."""
        residual = self.residual[k] - injected * self.distorted[k]
        values, variances = [], []
        for side in range(len(self.gram)):
            other, gram = side ^ 1, self.gram[side]
            ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
            a = np.linalg.solve(gram + ridge, residual[side])
            unit = np.sqrt(a @ self.gram[other] @ a) * size
            if unit == 0:
                return 0.0, 0.0  # a sample that is the reference itself
            values.append(a @ residual[other] / unit)
            variances.append(a @ self.noise[k, other] @ a / unit**2)
        return float(np.mean(values)), float(np.sqrt(np.sum(variances)) / len(values))
