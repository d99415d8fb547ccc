"""Conditional minima close to a known one, from gradients alone.

A predicted point is corrected by quasi-Newton steps: the Hessian of the known minimum, updated by BFGS with what the
gradients show, inside the bounds (`nuratio.infer.fitting.newton.box_step`). Two or three gradients do where the
prediction is good; where they do not converge, the exact Hessian has to. Several points are corrected side by side, so
that an objective that evaluates many points in one pass can.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuratio.infer.fitting.newton import EDM, box_step, moved
from nuratio.infer.fitting.objective import Objective

__all__ = ["Corrected", "correct"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STEPS = 8


@dataclass(frozen=True, eq=False)
class Corrected:
    """Where the corrector ended after some ``calls``; ``curvature`` is the updated, approximate Hessian."""

    theta: Floats
    value: float
    gradient: Floats
    curvature: Floats
    edm: float
    calls: int
    converged: bool


def correct(
    objective: Objective,
    starts: Sequence[tuple[Floats, Floats]],
    lower: Floats,
    upper: Floats,
    fixed: Mask,
) -> list[Corrected]:
    """Correct predicted points, side by side.

    Parameters
    ----------
    objective : Objective
    starts : sequence of pairs
        Predicted parameters (P,) and the Hessian (P, P) to start from.
    lower, upper, fixed : ndarray, shape (P,)
    """
    running = {i: _corrector(theta, curvature, lower, upper, fixed) for i, (theta, curvature) in enumerate(starts)}
    asked = {i: next(corrector) for i, corrector in running.items()}
    done: dict[int, Corrected] = {}
    while asked:
        answers = _evaluate(objective, list(asked.values()))
        for i, answer in zip(list(asked), answers, strict=True):
            try:
                asked[i] = running[i].send(answer)
            except StopIteration as end:
                done[i] = end.value
                del asked[i]
    return [done[i] for i in range(len(starts))]


def _evaluate(objective: Objective, thetas: list[Floats]) -> list[tuple[float, Floats]]:
    with np.errstate(all="ignore"):
        if len(thetas) > 1 and hasattr(objective, "many"):
            values, gradients = objective.many(np.array(thetas))
            return list(zip(values.tolist(), gradients, strict=True))
        return [objective.derivatives(theta, hessian=False)[:2] for theta in thetas]


def _corrector(
    theta: Floats, curvature: Floats, lower: Floats, upper: Floats, fixed: Mask
) -> Generator[Floats, tuple[float, Floats], Corrected]:
    """Yields points to evaluate, is sent value and gradient, returns where it ended."""
    value, gradient = yield theta
    for calls in range(1, _STEPS + 1):
        outward = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
        free = np.flatnonzero(~(fixed | (outward & ~np.isfinite(gradient))))
        block = curvature[np.ix_(free, free)]
        edm = np.inf
        if not (np.isfinite(value) and np.isfinite(gradient[free]).all() and np.isfinite(block).all()):
            break
        try:
            step, edm = box_step(block, gradient[free], (lower - theta)[free], (upper - theta)[free])
        except np.linalg.LinAlgError:
            break
        if edm < EDM or calls == _STEPS:
            break
        trial = moved(theta, free, step, lower, upper)
        new_value, new_gradient = yield trial
        with np.errstate(invalid="ignore"):  # infinite slopes of what is held, a square root at zero, say
            change = new_gradient - gradient
        curvature = _bfgs(curvature, trial - theta, change)
        if not new_value <= value + 1e-11 * max(abs(value), 1.0):
            return Corrected(theta, value, gradient, curvature, edm, calls + 1, converged=False)
        theta, value, gradient = trial, new_value, new_gradient
    return Corrected(theta, value, gradient, curvature, edm, calls, converged=edm < EDM)


def _bfgs(hessian: Floats, s: Floats, y: Floats) -> Floats:
    """The Hessian after a step s that changed the gradient by y; as it was if -2 ln L is not convex along s."""
    finite = np.flatnonzero(np.isfinite(y) & np.isfinite(np.diag(hessian)))
    block = np.ix_(finite, finite)
    h, s, y = hessian[block], s[finite], y[finite]
    hs = h @ s
    sy, shs = s @ y, s @ hs
    if not sy > 1e-3 * shs > 0:
        return hessian
    updated = hessian.copy()
    updated[block] = h + np.outer(y, y) / sy - np.outer(hs, hs) / shs
    return updated
