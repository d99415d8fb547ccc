"""Damped Newton with the exact Hessian, inside bounds.

Each step minimises the quadratic model in a box, `box_step`: the bounds, and a reach of a few constraint widths while
the model is not to be trusted. So the parameters that sit at a bound, and those that leave one, come out of the same
linear algebra, and a quadratic objective takes one step. A line search makes every step a descent.

Interpolation codes 0 and 1 have a kink at zero, where a minimum may sit with a gradient that never vanishes. Where
the line search meets one, `find_kinks` looks for them; then no step crosses one, and a parameter stays at its kink if
-2 ln L rises to both sides.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

from nuratio.infer.fitting.objective import Evaluations, Point

__all__ = ["EDM", "Ending", "box_step", "find_kinks", "moved", "newton"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EDM = 1e-9  # accepted distance to the minimum, in -2 ln L, from gradients alone
_EDM = 1e-12  # from the exact Hessian, where the next step squares it
_ROUNDING = 1e-11  # of -2 ln L: differences below are lost in its sum
_STEPS = 60
_REACH = 2.0  # constraint widths of the first step
_PIVOT = 1e-13  # of a Hessian scaled to a unit diagonal: smaller is singular
_ASIDE = 1e-300  # a side of a kink at zero


@dataclass(frozen=True, eq=False)
class Ending:
    """Where Newton ended; ``message`` says why it cannot be trusted and is empty if it can.

    ``at_kink`` are the parameters held at a kink, ``kinks`` those known to have one (None: not looked for, or none).
    """

    point: Point
    edm: float
    steps: int
    message: str
    at_kink: Mask
    kinks: Mask | None


def newton(
    evaluations: Evaluations,
    theta: Floats,
    lower: Floats,
    upper: Floats,
    fixed: Mask,
    *,
    widths: Floats,
    kinks: Mask | None = None,
) -> Ending:
    """Minimise from ``theta``; converged where the quadratic model promises no further descent.

    Parameters
    ----------
    evaluations : Evaluations
    theta, lower, upper : ndarray, shape (P,)
        Start, inside the bounds, and the bounds.
    fixed : ndarray of bool, shape (P,)
        Parameters that do not move.
    widths : ndarray, shape (P,)
        Constraint widths, NaN for unconstrained parameters; the first step reaches two of them.
    kinks : ndarray of bool, shape (P,), optional
        Parameters known to have a kink at zero.
    """
    point, held = _sides(evaluations, theta, kinks)
    reach, edm, fraction, message = _REACH, np.inf, 1.0, f"not converged in {_STEPS} steps"
    for n in range(_STEPS):  # noqa: B007
        theta, g, h = point.theta, point.gradient, point.hessian
        outward = ((theta <= lower) & (g > 0)) | ((theta >= upper) & (g < 0))
        free = np.flatnonzero(~(fixed | held | (outward & ~np.isfinite(g))))  # a square root holds at its bound
        g, h = g[free], h[np.ix_(free, free)]
        if not (np.isfinite(point.value) and np.isfinite(g).all()):
            message = "-2 ln L or its gradient is not finite"
            break
        if not np.isfinite(h).all():
            message = "the Hessian is not finite"
            break
        before = edm
        step, edm, definite = _model_step(h, g, *_box(theta, lower, upper, kinks, free, reach * widths))
        if edm < _EDM or before / 4 < edm < EDM:
            message = "" if definite else "the Hessian is not positive definite"
            break
        fraction = _descend(evaluations, point, free, step, float(g @ step), lower, upper, eager=fraction == 1.0)
        if fraction < 0.3 and (found := find_kinks(evaluations, theta, lower, upper, fixed, kinks)) is not kinks:
            kinks = found  # one is in the way: the step again, with all of them known
            point, held = _sides(evaluations, theta, kinks)
            continue
        if not fraction:
            lost = definite and edm < _ROUNDING * max(abs(point.value), 1.0)  # rounding hides any further descent
            message = "" if lost else "no descent along the Newton step"
            break
        reach = 2 * reach if fraction == 1.0 else max(reach / 2, _REACH / 2)
        point, held = _sides(evaluations, moved(theta, free, fraction * step, lower, upper), kinks)
    return Ending(point, edm, n, f"{message}, edm {edm:.2g}" if message else "", held, kinks)


def box_step(hessian: Floats, gradient: Floats, low: Floats, high: Floats) -> tuple[Floats, float]:
    """The step s in the box that minimises g.s + s.H.s / 2, and the descent it promises.

    A projected Newton method on the quadratic (Bertsekas, SIAM J. Control Optim. 20 (1982) 221): the parameters that do
    not push against their bound take the Newton step, cut at the bounds if that lowers the quadratic, up to the first
    bound if not. It ends for every positive definite H, mostly after one to three linear solutions.

    Parameters
    ----------
    hessian, gradient : ndarray, shapes (n, n) and (n,)
    low, high : ndarray, shape (n,)
        The box around zero: low <= 0 <= high, infinite where there is no bound.

    Raises
    ------
    numpy.linalg.LinAlgError
        H is not positive definite where the parameters are free.
    """
    n = len(gradient)
    scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)), np.finfo(float).tiny))
    h, g = hessian / scale[:, None] / scale, gradient / scale
    box = low, high
    low, high = low * scale, high * scale
    s, slope, small = np.zeros(n), g, 1e-12 * np.abs(g).max(initial=0.0)
    at_minimum = np.zeros(n, dtype=bool)  # where the slope is known to vanish
    for _ in range(20 * (n + 1)):
        free = ~(((s <= low) & (slope >= -small)) | ((s >= high) & (slope <= small)))
        if not (free & ~at_minimum).any():
            break
        d = np.zeros(n)
        while True:
            d[free] = -_solve(h if free.all() else h[np.ix_(free, free)], slope[free])
            outward = free & (((s <= low) & (d < 0)) | ((s >= high) & (d > 0)))
            if not outward.any():
                break
            free &= ~outward
            d[outward] = 0.0
        trial = np.clip(s + d, low, high)
        whole = bool((trial == s + d).all())
        if not whole:
            change = trial - s
            if slope @ change + change @ h @ change / 2 > 0.01 * (slope @ change):
                room = np.where(d < 0, low - s, high - s)
                fraction = np.divide(room, d, out=np.full(n, np.inf), where=d != 0)
                trial = np.where(fraction <= fraction.min(), s + room, np.clip(s + fraction.min() * d, low, high))
        s = trial
        slope = g + h @ s
        at_minimum = free if whole else np.zeros(n, dtype=bool)
    step = np.where(s <= low, box[0], np.where(s >= high, box[1], s / scale))
    return step, float(-(g @ s) - (s @ h @ s) / 2)


def find_kinks(
    evaluations: Evaluations, theta: Floats, lower: Floats, upper: Floats, fixed: Mask, known: Mask | None
) -> Mask | None:
    """Parameters for which -2 ln L has a kink at zero, besides the known ones; ``known`` itself if there are no more.

    An objective may declare them (``kinks``); else a kink is where the slopes on both sides of zero differ, with all
    parameters looked at at once.
    """
    candidates = ~fixed & (lower < 0) & (upper > 0)
    declared = getattr(evaluations.objective, "kinks", None)
    if declared is not None:
        return known if known is not None or not (declared & candidates).any() else declared & candidates
    if not candidates.any():
        return known
    right, left = (evaluations.gradient(np.where(candidates, side, theta)) for side in (_ASIDE, -_ASIDE))
    kinks = candidates & (np.abs(right - left) > 1e-9 * np.maximum(np.abs(right) + np.abs(left), 1.0))
    if known is not None:
        kinks |= known
    return known if kinks.sum() == (0 if known is None else known.sum()) else kinks


def _solve(h: Floats, g: Floats) -> Floats:
    """H^-1 g for H with a unit diagonal."""
    factor, info = dpotrf(h, lower=1, clean=0)
    if info or np.diag(factor).min() ** 2 < _PIVOT:
        raise np.linalg.LinAlgError("the Hessian is not positive definite")
    return np.asarray(dpotrs(factor, g, lower=1)[0])


def _model_step(hessian: Floats, gradient: Floats, low: Floats, high: Floats) -> tuple[Floats, float, bool]:
    """The step, the descent it promises, and whether the Hessian is positive definite."""
    try:
        return *box_step(hessian, gradient, low, high), True
    except np.linalg.LinAlgError:
        return *_indefinite_step(hessian, gradient, low, high), False


def _indefinite_step(hessian: Floats, gradient: Floats, low: Floats, high: Floats) -> tuple[Floats, float]:
    """The step for the Hessian with its eigenvalues made positive; at a saddle along the most negative one.

    The box is cut to where a parameter alone changes -2 ln L by some units: nothing else limits the step.
    """
    size = np.abs(np.diag(hessian))
    scale = np.sqrt(np.maximum(size, 1e-24 * size.max() + np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(hessian / scale[:, None] / scale)
    positive = (vectors * np.maximum(np.abs(values), 1e-6)) @ vectors.T
    reach = _REACH * np.sqrt(2)
    gradient, low, high = gradient / scale, np.maximum(low * scale, -reach), np.minimum(high * scale, reach)
    step, edm = box_step(positive, gradient, low, high)
    if edm < _EDM and values[0] < -_PIVOT:
        away = np.clip(vectors[:, 0] * np.copysign(1.0, -vectors[:, 0] @ gradient), low, high)
        descent = float(-gradient @ away - values[0] * (away @ away) / 2)
        if descent > _EDM:
            step, edm = away, descent
    return step / scale, edm


def _box(
    theta: Floats, lower: Floats, upper: Floats, kinks: Mask | None, free: NDArray[np.intp], reach: Floats
) -> tuple[Floats, Floats]:
    """How far each free parameter may go: to its bound, to its kink, or as far as it can reach."""
    if kinks is not None:
        lower = np.where(kinks & (theta >= 0), np.maximum(lower, 0), lower)
        upper = np.where(kinks & (theta < 0), np.minimum(upper, 0), upper)
    reach = np.where(reach > 0, reach, np.inf)
    low, high = np.maximum(lower - theta, -reach), np.minimum(upper - theta, reach)
    return np.minimum(low[free], 0.0), np.maximum(high[free], 0.0)


def moved(theta: Floats, free: NDArray[np.intp], step: Floats, lower: Floats, upper: Floats) -> Floats:
    """The point after a step; what rounding keeps off a bound is on it."""
    to, close = theta[free] + step, 4 * np.finfo(float).eps * np.abs(theta[free])
    low, high = lower[free], upper[free]
    result = theta.copy()
    result[free] = np.where(to <= low + close, low, np.where(to >= high - close, high, to))
    return result


def _descend(
    evaluations: Evaluations,
    point: Point,
    free: NDArray[np.intp],
    step: Floats,
    slope: float,
    lower: Floats,
    upper: Floats,
    *,
    eager: bool,
) -> float:
    """The largest tried fraction of the step that lowers -2 ln L; 0 if none does.

    ``eager`` expects the whole step to: it asks for the value together with the Hessian needed next.
    """
    noise = 0.1 * _ROUNDING * max(abs(point.value), 1.0)
    fraction = 1.0
    while fraction > 1e-10:
        trial = moved(point.theta, free, fraction * step, lower, upper)
        together = eager and fraction == 1.0
        value = evaluations.point(trial, hessian=True).value if together else evaluations.value(trial)
        if value <= point.value + min(1e-4 * fraction * slope, 0.0) + noise:
            return fraction
        excess = value - point.value - fraction * slope
        best = -slope * fraction / (2 * excess) if np.isfinite(excess) and excess > 0 else 0.0
        fraction *= min(max(best, 0.1), 0.5)
    return 0.0


def _sides(evaluations: Evaluations, theta: Floats, kinks: Mask | None) -> tuple[Point, Mask]:
    """The point, on the side of each kink to which -2 ln L falls, and the parameters where it falls to neither."""
    on = np.zeros(len(theta), dtype=bool) if kinks is None else kinks & (np.abs(theta) <= _ASIDE)
    if not on.any():
        return evaluations.point(theta, hessian=True), on
    right, left = (evaluations.gradient(np.where(on, side, theta)) for side in (_ASIDE, -_ASIDE))
    leftwards = on & (left > np.maximum(-right, 0))
    aside = np.where(on, np.where(leftwards, -_ASIDE, _ASIDE), theta)
    return evaluations.point(aside, hessian=True), on & (left <= 0) & (right >= 0)
