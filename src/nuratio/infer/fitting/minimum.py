"""Where a minimisation ended, and where the minimum goes when a parameter is moved."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nuratio.infer.fitting.newton import box_step

__all__ = ["Minimum", "predict_along"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_NODES = 5  # minima interpolated: a polynomial of degree 4


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a minimisation ended and how.

    Attributes
    ----------
    theta, value, gradient
        The point, -2 ln L and its gradient there.
    hessian : ndarray or None
        The exact Hessian there, if it was computed.
    curvature : ndarray, shape (P, P)
        Second derivatives to predict and to correct with: the Hessian, or one carried along and updated.
    edm : float
        Estimated distance to the minimum, in units of -2 ln L.
    valid : bool
        Converged.
    message : str
        Why it is not valid, or what fallback was needed; empty for an undisturbed minimisation.
    at_bound, at_kink : ndarray of bool, shape (P,)
        Parameters on a bound; parameters held at a kink of -2 ln L.
    kinks : ndarray of bool, shape (P,), or None
        Parameters known to have a kink at zero, where it was looked for.
    steps : tuple of str
        What was done, in order.
    calls : dict
        Number of value, gradient and Hessian calls.
    """

    theta: Floats
    value: float
    gradient: Floats
    hessian: Floats | None = field(repr=False)
    curvature: Floats = field(repr=False)
    edm: float
    valid: bool
    message: str
    at_bound: Mask
    at_kink: Mask
    kinks: Mask | None
    steps: tuple[str, ...]
    calls: dict[str, int]

    def predict(self, theta: Floats, fixed: Mask, lower: Floats, upper: Floats) -> Floats:
        """Where the free parameters go, to first order, when the fixed ones move to their values in ``theta``.

        The tangent of the profile, d free / d fixed = -H_ff^-1 H_fx (implicit function theorem), within the bounds.
        """
        start = np.where(fixed, theta, np.clip(self.theta, lower, upper))
        moved = start - self.theta
        changed = np.flatnonzero(moved)
        linear = self.gradient + self.curvature[:, changed] @ moved[changed]
        free = np.flatnonzero(~fixed & ~self.at_kink & np.isfinite(linear))
        block = self.curvature[np.ix_(free, free)]
        if len(free) and np.isfinite(block).all():
            try:
                start[free] += box_step(block, linear[free], (lower - start)[free], (upper - start)[free])[0]
            except np.linalg.LinAlgError:
                return start
        return np.where(fixed, theta, np.clip(start, lower, upper))


def predict_along(
    known: Sequence[Minimum], k: int, value: float, fixed: Mask, lower: Floats, upper: Floats
) -> tuple[Floats, Minimum]:
    """Where the conditional minimum is when parameter ``k`` is held at ``value``, and the nearest known minimum.

    A polynomial in the held parameter through the nearest minima, each improved by the Newton step its gradient asks
    for; the tangent at the nearest where fewer than three are known.
    """
    valid = sorted((m for m in known if m.valid), key=lambda m: abs(m.theta[k] - value)) or [known[0]]
    nodes: list[Minimum] = []
    for m in valid:  # minima that lie together say nothing about the curve and much about their errors
        apart = [abs(m.theta[k] - n.theta[k]) for n in nodes]
        if len(nodes) < _NODES and all(a > 0.25 * abs(m.theta[k] - value) for a in apart):
            nodes.append(m)
    start = np.where(fixed, nodes[0].theta, 0.0)
    start[k] = value
    if len(nodes) < 3:
        return nodes[0].predict(start, fixed, lower, upper), nodes[0]
    x = np.array([n.theta[k] for n in nodes])
    weights = [np.prod((value - np.delete(x, j)) / (x[j] - np.delete(x, j))) for j in range(len(x))]
    free = np.asarray(weights) @ np.array([n.predict(n.theta, fixed, lower, upper) for n in nodes])
    return np.where(fixed, start, np.clip(free, lower, upper)), nodes[0]
