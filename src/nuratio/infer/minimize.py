"""Minimising -2 ln L: MIGRAD with the exact gradient, refined by projected Newton steps.

iminuit is the minimiser of record; it stops at an estimated distance (edm) of 1e-4 or so, which shows in a CLs. A few
Newton steps with the exact Hessian, projected onto the bounds, take the edm below 1e-9 and put parameters that sit at a
bound exactly there. From a good start (the last point of a scan) the Newton steps alone converge, and MIGRAD is called
only if they do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from iminuit import Minuit
from numpy.typing import NDArray

__all__ = ["Minimum", "Objective", "minimize", "minuit"]

Floats = NDArray[np.float64]

_EDM = 1e-9  # accepted distance to the minimum, in -2 ln L
_ROUNDING = 1e-11  # of -2 ln L: differences below are lost in its sum
_STEPS = 30


class Objective(Protocol):
    """What can be minimised; `nuratio.model.likelihood.Likelihood` is one."""

    def value(self, theta: Floats, /) -> float:
        """-2 ln L."""
        ...

    def gradient(self, theta: Floats, /) -> Floats:
        """First derivatives, shape (P,)."""
        ...

    def hessian(self, theta: Floats, /) -> Floats:
        """Second derivatives, shape (P, P)."""
        ...

    def derivatives(self, theta: Floats, /, *, hessian: bool) -> tuple[float, Floats, Floats]:
        """Value, gradient and (if asked for) Hessian."""
        ...

    def nonpositive(self, theta: Floats, /) -> list[str]:
        """Where the total density is not positive, a line each."""
        ...


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended: point, value, Hessian, distance to the minimum, and whether it can be trusted."""

    theta: Floats
    value: float
    hessian: Floats
    edm: float
    valid: bool
    message: str
    at_bound: NDArray[np.bool_]

    def predict(self, theta: Floats, fixed: NDArray[np.bool_]) -> Floats:
        """Where the free parameters go, to first order, when the fixed ones move to their values in ``theta``.

        The tangent of the profile, d free / d fixed = -H_ff^-1 H_fx (implicit function theorem).
        """
        free = np.flatnonzero(~(fixed | self.at_bound))
        moved = np.flatnonzero(fixed & (theta != self.theta))
        start = np.where(fixed, theta, self.theta)
        block = self.hessian[np.ix_(free, free)]
        slope = self.hessian[np.ix_(free, moved)] @ (theta - self.theta)[moved]
        if len(moved) and np.isfinite(block).all() and np.isfinite(slope).all():
            start[free] -= np.linalg.lstsq(block, slope, rcond=None)[0]
        return start


def minimize(
    objective: Objective,
    start: Floats,
    bounds: Sequence[tuple[float, float]],
    fixed: NDArray[np.bool_],
    *,
    names: Sequence[str],
    warm: bool = False,
) -> Minimum:
    """Minimum of ``objective`` over the parameters that are not ``fixed``.

    Parameters
    ----------
    objective : Objective
    start : ndarray, shape (P,)
        Start values; fixed parameters keep theirs.
    bounds : sequence of P pairs
    fixed : ndarray of bool, shape (P,)
    names : sequence of P str
        For messages.
    warm : bool
        The start is close: try Newton steps first.
    """
    lower, upper = np.array(bounds, dtype=np.float64).T
    start = np.where(fixed, start, np.clip(start, lower, upper))
    if warm or fixed.all():
        minimum = _newton(objective, start, lower, upper, fixed)
        if minimum.valid:
            return minimum
    notes: list[str] = []
    theta = start
    if not np.isfinite(objective.gradient(theta)[~fixed]).all():  # a square root at its bound: start inside
        inside = np.clip(theta, lower + 1e-3 * (upper - lower), upper - 1e-3 * (upper - lower))
        theta = np.where(fixed | ~np.isfinite(lower + upper), theta, inside)
    for strategy in (0, 1, 2):
        m = minuit(objective, theta, bounds, fixed, names=names)
        m.strategy = strategy
        m.migrad()
        minimum = _newton(objective, np.array(m.values), lower, upper, fixed)
        if minimum.valid:
            note = f"{'; '.join(notes)}; then converged" if notes else ""
            return replace(minimum, message=note)
        notes.append(
            f"MIGRAD strategy {strategy}: edm {m.fmin.edm:.2g}{_reasons(m.fmin)}, then Newton: {minimum.message}"
        )
        theta = minimum.theta
    return replace(minimum, message="; ".join(notes))


def minuit(
    objective: Objective,
    start: Floats,
    bounds: Sequence[tuple[float, float]],
    fixed: NDArray[np.bool_],
    *,
    names: Sequence[str],
) -> Minuit:
    """An iminuit `Minuit` on the objective, errordef 1, with the exact gradient."""
    m = Minuit(objective.value, start, grad=objective.gradient, name=list(names))
    m.errordef = Minuit.LEAST_SQUARES
    m.print_level = 0
    m.limits = [(low if np.isfinite(low) else None, high if np.isfinite(high) else None) for low, high in bounds]
    m.fixed = list(fixed)
    m.errors = [0.1 if abs(v) < 1 else 0.1 * abs(v) for v in start]
    return m


def _reasons(fmin: Any) -> str:
    found = [
        text
        for flag, text in (
            (fmin.has_reached_call_limit, "call limit"),
            (fmin.is_above_max_edm, "edm above its goal"),
            (fmin.has_parameters_at_limit, "a parameter at its bound"),
            (not fmin.has_posdef_covar, "covariance not positive definite"),
        )
        if flag
    ]
    return f" ({', '.join(found)})" if found else ""


def _newton(objective: Objective, theta: Floats, lower: Floats, upper: Floats, fixed: NDArray[np.bool_]) -> Minimum:
    """Newton steps projected onto the bounds; valid if they end where the projected gradient vanishes."""
    value, gradient, hessian = objective.derivatives(theta, hessian=True)
    edm, valid, message = np.inf, False, f"not converged in {_STEPS} steps"
    for _ in range(_STEPS):
        held = fixed | ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
        free = np.flatnonzero(~held)
        if not np.all(np.isfinite(hessian[np.ix_(free, free)])):
            message = "the Hessian is not finite"
            break
        step, definite = _newton_step(hessian[np.ix_(free, free)], gradient[free])
        edm = float(-gradient[free] @ step) / 2
        valid = definite and edm < _EDM
        if valid:
            break
        for shrink in 0.5 ** np.arange(20):
            trial = theta.copy()
            trial[free] = np.clip(theta[free] + shrink * step, lower[free], upper[free])
            new = objective.derivatives(trial, hessian=True)
            if new[0] < value:
                theta, (value, gradient, hessian) = trial, new
                break
        else:
            valid = definite and edm < _ROUNDING * max(abs(value), 1.0)  # rounding hides any further descent
            message = "no descent" if definite else "the Hessian is not positive definite"
            break
    at_bound = ~fixed & ((theta <= lower) | (theta >= upper))
    return Minimum(theta, value, hessian, edm, valid, "" if valid else f"{message}, edm {edm:.2g}", at_bound)


def _newton_step(hessian: Floats, gradient: Floats) -> tuple[Floats, bool]:
    """-H^-1 g, and whether H is positive definite; where it is not, its eigenvalues are made positive."""
    if not len(gradient):
        return gradient, True
    scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)), np.finfo(float).tiny))
    scaled = hessian / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(scaled)
    definite = bool(values[0] > 1e-14)
    if not definite:
        values = np.maximum(np.abs(values), 1e-6)
    return -(vectors @ ((vectors.T @ (gradient / scale)) / values)) / scale, definite
