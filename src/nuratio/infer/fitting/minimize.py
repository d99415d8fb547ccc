"""Minimising -2 ln L: damped Newton with the exact Hessian, then MIGRAD, which must agree.

`minimize` is for a fit from anywhere: Newton (`nuratio.infer.fitting.newton`) finds the minimum, iminuit's MIGRAD
confirms it as the minimiser of record (`nuratio.infer.fitting.migrad`). What fails falls back: to MIGRAD from the
start, with the exact and then with a numerical gradient, polished by Newton. `follow` is for conditional minima close
to a known one: predicted along the tangent and corrected with gradients alone (`nuratio.infer.fitting.corrector`), by
Newton where that does not converge. Every result says what was done.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nuratio.infer.fitting.corrector import Corrected, correct
from nuratio.infer.fitting.migrad import confirm, consistent, minuit, reasons
from nuratio.infer.fitting.minimum import Minimum
from nuratio.infer.fitting.newton import find_kinks, newton
from nuratio.infer.fitting.objective import CallLimit, Evaluations, Objective, total

__all__ = ["MAX_CALLS", "follow", "minimize"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_CALLS = 10_000
_AGREE = 1e-6  # of -2 ln L, between Newton and MIGRAD


def minimize(
    objective: Objective,
    start: Floats,
    bounds: Sequence[tuple[float, float]],
    fixed: Mask,
    *,
    names: Sequence[str],
    widths: Floats | None = None,
    max_calls: int = MAX_CALLS,
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
        For MIGRAD and messages.
    widths : ndarray, shape (P,), optional
        Constraint widths, NaN for unconstrained parameters.
    max_calls : int
        Calls of the objective, of any kind, before the fit is given up as not valid.
    """
    lower, upper = np.array(bounds, dtype=np.float64).T
    start = np.where(fixed, start, np.clip(start, lower, upper))
    widths = np.full(len(start), np.nan) if widths is None else widths
    return _Search(Evaluations(objective, max_calls), lower, upper, fixed, widths, names).run(start)


def follow(
    objective: Objective,
    starts: Sequence[tuple[Floats, Minimum]],
    bounds: Sequence[tuple[float, float]],
    fixed: Mask,
    *,
    names: Sequence[str],
    widths: Floats | None = None,
    max_calls: int = MAX_CALLS,
) -> list[Minimum]:
    """Conditional minima from predicted parameters, each with the known minimum it was predicted from.

    Parameters as for `minimize`. The Hessian of a minimum that the gradients alone found is None.
    """
    lower, upper = np.array(bounds, dtype=np.float64).T
    widths = np.full(len(fixed), np.nan) if widths is None else widths
    thetas = [np.where(fixed, theta, np.clip(theta, lower, upper)) for theta, _ in starts]
    kinks = next((near.kinks for _, near in starts if near.kinks is not None), None)
    found: list[Minimum | None] = [None] * len(thetas)
    if kinks is None:  # with kinks, the derivatives on both sides are needed
        curvatures = [near.curvature for _, near in starts]
        ends = correct(objective, list(zip(thetas, curvatures, strict=True)), lower, upper, fixed)
        found = [_corrected(end, lower, upper, fixed) for end in ends]
    minima = []
    for theta, minimum in zip(thetas, found, strict=True):
        if minimum is None or not minimum.valid:
            search = _Search(Evaluations(objective, max_calls), lower, upper, fixed, widths, names, kinks)
            again = search.run(theta if minimum is None else minimum.theta, near=True)
            if minimum is not None:
                again = replace(again, steps=minimum.steps + again.steps, calls=total(minimum.calls, again.calls))
            minimum = again
        minima.append(minimum)
    return minima


def _corrected(end: Corrected, lower: Floats, upper: Floats, fixed: Mask) -> Minimum:
    status = f"edm {end.edm:.2g}" if end.converged else "not converged"
    return Minimum(
        theta=end.theta,
        value=end.value,
        gradient=end.gradient,
        hessian=None,
        curvature=end.curvature,
        edm=end.edm,
        valid=end.converged,
        message="" if end.converged else "the corrector did not converge",
        at_bound=_at_bound(end.theta, lower, upper, fixed),
        at_kink=np.zeros(len(fixed), dtype=bool),
        kinks=None,
        steps=(f"corrector: {end.calls} gradients, {status}",),
        calls={"value": 0, "gradient": end.calls, "hessian": 0},
    )


def _at_bound(theta: Floats, lower: Floats, upper: Floats, fixed: Mask) -> Mask:
    return ~fixed & ((theta <= lower) | (theta >= upper))


class _Search:
    """One minimisation and its record."""

    def __init__(
        self,
        evaluations: Evaluations,
        lower: Floats,
        upper: Floats,
        fixed: Mask,
        widths: Floats,
        names: Sequence[str],
        kinks: Mask | None = None,
    ) -> None:
        self.evaluations, self.lower, self.upper, self.fixed = evaluations, lower, upper, fixed
        self.widths, self.names, self.kinks = widths, names, kinks
        self.steps: list[str] = []
        self.fallbacks: list[str] = []
        self.distrusted = False  # derivatives that are not those of the values: nothing found with them is valid

    def run(self, start: Floats, *, near: bool = False) -> Minimum:
        """Newton, the minimiser of record (unless the start is ``near`` a minimum it agreed to), and the fallbacks."""
        try:
            return self._run(start, near)
        except CallLimit as limit:
            return self._given_up(str(limit))

    def _run(self, start: Floats, near: bool) -> Minimum:
        start = self._where_smooth(start)
        minimum = self._newton(start)
        if minimum.valid and not near:
            minimum = self._record(minimum)
        if minimum.valid:
            return minimum
        for strategy, gradient in ((0, True), (1, True), (2, True), (1, False)):
            if self.distrusted:
                break
            self.fallbacks.append(self.steps[-1])
            minimum = self._migrad(start if strategy == 0 else minimum.theta, strategy, gradient)
            if minimum.valid:
                return replace(minimum, message="; ".join([*self.fallbacks, f"then {self.steps[-2]}"]))
        return replace(minimum, message="; ".join([*self.fallbacks, self.steps[-1]]))

    def _given_up(self, why: str) -> Minimum:
        """The lowest point seen, not valid."""
        value, theta = self.evaluations.lowest
        unknown = np.full(len(theta), np.nan)
        return Minimum(
            theta=theta,
            value=value,
            gradient=unknown,
            hessian=np.diag(unknown),
            curvature=np.diag(unknown),
            edm=np.inf,
            valid=False,
            message="; ".join([*self.fallbacks, why]),
            at_bound=_at_bound(theta, self.lower, self.upper, self.fixed),
            at_kink=np.zeros(len(theta), dtype=bool),
            kinks=self.kinks,
            steps=(*self.steps, why),
            calls=dict(self.evaluations.calls),
        )

    def _where_smooth(self, theta: Floats) -> Floats:
        """The start, moved inside where a slope is infinite: a square root at its bound."""
        if np.isfinite(self.evaluations.point(theta, hessian=True).gradient[~self.fixed]).all():
            return theta
        margin = np.where(self.fixed | ~np.isfinite(self.upper - self.lower), 0.0, 1e-3 * (self.upper - self.lower))
        return np.where(self.fixed, theta, np.clip(theta, self.lower + margin, self.upper - margin))

    def _newton(self, theta: Floats) -> Minimum:
        """Newton, which keeps the kinks it finds."""
        end = newton(self.evaluations, theta, self.lower, self.upper, self.fixed, widths=self.widths, kinks=self.kinks)
        self.kinks = end.kinks
        status = end.message or f"edm {end.edm:.2g}"
        kinks = f", at a kink: {end.at_kink.sum()} parameters" if end.at_kink.any() else ""
        self.steps.append(f"Newton: {end.steps} steps, {status}{kinks}")
        point = self.point = end.point
        theta = np.where(np.abs(point.theta) < 1e-299, 0.0, point.theta)
        return Minimum(
            theta=theta,
            value=point.value,
            gradient=point.gradient,
            hessian=point.hessian,
            curvature=point.hessian,
            edm=end.edm,
            valid=not end.message,
            message=end.message,
            at_bound=_at_bound(theta, self.lower, self.upper, self.fixed),
            at_kink=end.at_kink,
            kinks=self.kinks,
            steps=tuple(self.steps),
            calls=dict(self.evaluations.calls),
        )

    def _record(self, minimum: Minimum) -> Minimum:
        """MIGRAD from the minimum, and again as long as it finds a lower one."""
        for _ in range(3):
            held = self.fixed | minimum.at_bound | minimum.at_kink
            if held.all():
                return minimum
            before = sum(self.evaluations.calls.values())
            errors = np.where(held, 0.1, np.sqrt(2 / np.where(held, 1.0, np.diag(minimum.curvature))))
            theta, value, problem = confirm(
                self.evaluations, self.point, self.lower, self.upper, held, names=self.names, errors=errors
            )
            wrong = consistent(self.evaluations, self.point, *self._inside(minimum.theta), held)
            lower = f"{minimum.value - value:.2g} lower" if value < minimum.value - _AGREE else ""
            calls = sum(self.evaluations.calls.values()) - before
            self.steps.append(f"MIGRAD: {problem or wrong or lower or 'agrees'}, {calls} calls")
            if not (problem or wrong or lower):
                return self._recorded(minimum, valid=True)
            if problem or wrong:
                kinks = find_kinks(self.evaluations, theta, self.lower, self.upper, self.fixed, self.kinks)
                if kinks is self.kinks:
                    self.distrusted = bool(wrong)
                    return self._recorded(minimum, valid=False)
                self.kinks = kinks
            minimum = self._newton(theta)
            if not minimum.valid:
                return minimum
        return self._recorded(minimum, valid=False)

    def _inside(self, theta: Floats) -> tuple[Floats, Floats]:
        """The bounds, and the kinks as bounds."""
        if self.kinks is None:
            return self.lower, self.upper
        return (
            np.where(self.kinks & (theta >= 0), np.maximum(self.lower, 0), self.lower),
            np.where(self.kinks & (theta < 0), np.minimum(self.upper, 0), self.upper),
        )

    def _recorded(self, minimum: Minimum, *, valid: bool) -> Minimum:
        return replace(
            minimum,
            valid=valid,
            message="" if valid else self.steps[-1],
            steps=tuple(self.steps),
            calls=dict(self.evaluations.calls),
        )

    def _migrad(self, theta: Floats, strategy: int, gradient: bool) -> Minimum:
        """MIGRAD within the bounds, polished by Newton."""
        m = minuit(
            self.evaluations,
            theta,
            self.fixed,
            names=self.names,
            limits=(self.lower, self.upper),
            errors=np.where(np.abs(theta) < 1, 0.1, 0.1 * np.abs(theta)),
            gradient=gradient,
        )
        m.strategy = strategy
        m.migrad()
        kind = "" if gradient else ", numerical gradient"
        self.steps.append(f"MIGRAD strategy {strategy}{kind}: {reasons(m.fmin)}")
        minimum = self._newton(np.array(m.values))
        if not minimum.valid:
            return self._recorded(minimum, valid=False)
        held = self.fixed | minimum.at_bound | minimum.at_kink
        wrong = consistent(self.evaluations, self.point, *self._inside(minimum.theta), held)
        self.distrusted = bool(wrong)
        self.steps += [wrong] if wrong else []
        return self._recorded(minimum, valid=not wrong)
