"""A two-sample test for signed weights: can a regression tell the reweighted reference from the sample?

A classifier has no area under its curve where weights are negative. In its place, half of the events of a fold teach a
function h(x) = a . phi(x) the relative residual (p - q r) / q by least squares, and the other half says how much of it
is true:

    E_p[h] - E_q[r h]  in units of  (E_q[h^2] E_q[r^2])^(1/2),

with an error from the sum of its squared terms; it is zero on average if r = p / q, whatever h is. The control puts a
distortion of known size into r, which the same regression has to find.

`two_sample_checks` is for ratios; `nuratio.checks.systematics` uses the same `RandomFunctions` and `Residuals`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.report import Check
from nuratio.checks.reweighting import CrossFitted, keeping_shares
from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.ratios.estimator import Part, split_by_sign

__all__ = ["INJECTED", "RandomFunctions", "Residuals", "two_sample_checks"]

Floats = NDArray[np.float64]

_FEATURES = 64
_SPREAD = 3.0  # of the random functions, in standard deviations of the inputs
_RIDGE = 1e-3  # of the mean diagonal element
_MOST = 500_000  # events
_CHUNK = 32768
_ALLOWED = 0.05
INJECTED = 0.3  # the distortion of the control
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
    functions = RandomFunctions.of(x[q > 0], q[q > 0])
    gram = np.zeros((2 * estimator.options.folds, functions.size, functions.size))
    tests = [Residuals.zero(gram) for _ in names]
    for group in range(len(gram)):
        chosen = used & (groups == group)
        q_here, p_here = keeping_shares(q, index, chosen), keeping_shares(p, index, chosen)
        p_own = [p_here * (own[chosen] == k) for k in range(len(names))]
        _add(tests, group, functions, x[chosen], q_here, r[:, chosen], p_own)
    size = np.sqrt(r**2 @ q / q.sum())
    for k, (name, test) in enumerate(zip(names, tests, strict=True)):
        value, error = test.found(size[k])
        meaning = "relative rms of p - q r along what a regression finds in one half of the events, tested on the other"
        yield Check("two-sample test", name, value, error, _ALLOWED, meaning)
        yield test.control("two-sample control", name, size[k])


def _add(
    tests: "list[Residuals]",
    group: int,
    functions: "RandomFunctions",
    x: NDArray[np.float32],
    q: Floats,
    r: Floats,
    p: list[Floats],
) -> None:
    """The events of a half of a fold: q of shape (n,), r and p of shape (samples, n)."""
    u = functions.wave(x)
    strength = np.sqrt(r**2 @ q / ((r * u) ** 2 @ q))
    for start in range(0, len(x), _CHUNK):
        some = slice(start, start + _CHUNK)
        phi = functions(x[some])
        tests[0].gram[group] += phi.T @ (q[some, None] * phi)  # that of all of them
        for k, (test, own) in enumerate(zip(tests, p, strict=True)):
            model = q[some] * r[k, some]
            terms = (own[some] - model)[:, None] * phi
            test.add(group, terms.sum(0), terms)
            test.distorted[group] += strength[k] * (model * u[some]) @ phi


@dataclass(frozen=True, eq=False)
class RandomFunctions:
    """Smooth random functions of d features, SiLU of h - 1 linear ones and a constant; the same for the same features.

    Attributes
    ----------
    center, inverse_scale : ndarray, shape (d,)
    directions : ndarray, shape (d, h - 1)
    offsets : ndarray, shape (h - 1,)
    """

    center: Floats
    inverse_scale: Floats
    directions: Floats
    offsets: Floats

    @classmethod
    def of(cls, x: NDArray[np.float32], q: Floats) -> Self:
        """For events x, shape (n, d), of positive weights q, shape (n,)."""
        share = q / q.sum()
        center = share @ x
        scale = np.sqrt(share @ (x - center) ** 2)
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        rng = np.random.default_rng(_SEED)
        directions = rng.normal(size=(x.shape[1], _FEATURES)) * _SPREAD / np.sqrt(x.shape[1])
        return cls(center, inverse, directions, -(rng.normal(size=directions.shape) * directions).sum(0))

    @property
    def size(self) -> int:
        """h."""
        return len(self.offsets) + 1

    def __call__(self, x: NDArray[np.float32]) -> Floats:
        """Their values at x, shape (n, h)."""
        z = self._along(x) + self.offsets
        return np.column_stack([z / (1 + np.exp(-z)), np.ones(len(z))])

    def wave(self, x: NDArray[np.float32]) -> Floats:
        """A function that is none of them, shape (n,): what the control distorts densities with."""
        return np.cos(self._along(x)[:, 0])

    def _along(self, x: NDArray[np.float32]) -> Floats:
        return np.asarray(np.clip((x - self.center) * self.inverse_scale, -8, 8) @ self.directions)


@dataclass(frozen=True, eq=False)
class Residuals:
    """Moments of h functions phi under a residual p - q r, in each of g halves of folds (2 x fold + half).

    Attributes
    ----------
    gram : ndarray, shape (g, h, h)
        E_q[phi phi].
    residual, distorted : ndarray, shape (g, h)
        E_p[phi] - E_q[r phi], and E_q[r u phi] of a function u with E_q[(r u)^2] = E_q[r^2].
    noise : ndarray, shape (g, h, h)
        Covariance of ``residual``.
    """

    gram: Floats
    residual: Floats
    distorted: Floats
    noise: Floats

    @classmethod
    def zero(cls, gram: Floats) -> Self:
        """Empty sums; residuals relative to the same q share its moments."""
        return cls(gram, np.zeros(gram.shape[:2]), np.zeros(gram.shape[:2]), np.zeros_like(gram))

    def add(self, group: int, residual: Floats, terms: Floats) -> None:
        """A contribution to the residual, shape (h,), that fluctuates like the sum of n independent terms (n, h)."""
        self.residual[group] += residual
        self.noise[group] += terms.T @ terms

    def found(self, size: float, injected: float = 0.0) -> tuple[float, float]:
        """The relative residual that is found, averaged over folds and both ways of using halves; its error.

        Parameters
        ----------
        size : float
            E_q[r^2]^(1/2).
        injected : float
            Size of a distortion that is put into r.
        """
        residual = self.residual - injected * self.distorted
        values, variances = [], []
        for side in range(len(self.gram)):
            other, gram = side ^ 1, self.gram[side]
            ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
            a = np.linalg.solve(gram + ridge, residual[side])
            unit = np.sqrt(a @ self.gram[other] @ a) * size
            if unit == 0:
                return 0.0, 0.0  # p is q r, event by event
            values.append(a @ residual[other] / unit)
            variances.append(a @ self.noise[other] @ a / unit**2)
        return float(np.mean(values)), float(np.sqrt(np.sum(variances)) / len(values))

    def control(self, name: str, sample: str, size: float) -> Check:
        """Of a distortion of known size, the share that is not found."""
        seen, error = self.found(size, INJECTED)
        meaning = f"of a distortion of {INJECTED:.0%} put into r on purpose, the share that the test does not see"
        return Check(name, sample, max(1 - seen / INJECTED, 0.0), error / INJECTED, 0.5, meaning)
