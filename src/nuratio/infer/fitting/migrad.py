"""iminuit's MIGRAD: the minimiser of record, and the one to fall back on.

`confirm` starts it at a minimum that Newton found, with the exact gradient and Hessian, where it has a few calls to
make. MIGRAD works in internal coordinates in which the Hessian at a limit is singular, so parameters at a bound are
fixed, and limits that are out of reach are dropped. As MIGRAD believes the derivatives it is given, `consistent`
compares them with values around the minimum.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from iminuit import Minuit
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from nuratio.infer.fitting.objective import Evaluations, Point

__all__ = ["confirm", "consistent", "minuit", "reasons"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STEP = 0.02  # of `consistent`, in sqrt(2) standard deviations: -2 ln L rises by 2e-4


def minuit(
    evaluations: Evaluations,
    theta: Floats,
    fixed: Mask,
    *,
    names: Sequence[str],
    limits: tuple[Floats, Floats] | None,
    errors: Floats,
    gradient: bool = True,
    hessian: bool = False,
) -> Minuit:
    """An iminuit `Minuit` on the objective, errordef 1.

    Parameters
    ----------
    evaluations : Evaluations
    theta, fixed, errors : ndarray, shape (P,)
        Start, parameters that are held, first steps.
    names : sequence of P str
    limits : pair of ndarray of shape (P,), or None
    gradient, hessian : bool
        Use the exact ones.
    """
    options: dict[str, Any] = {"name": names}
    if gradient:
        options["grad"] = evaluations.gradient
    if hessian:  # iminuit asks for g2 where the Hessian is not positive definite, though it warns of giving both
        options |= {"hessian": evaluations.hessian, "g2": lambda x: np.diag(evaluations.hessian(x))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="hessian overrides g2")
        m = Minuit(evaluations.value, theta, **options)
    m.errordef = Minuit.LEAST_SQUARES
    m.print_level = 0
    m.errors = errors
    if limits is not None:
        m.limits = [
            (a if np.isfinite(a) else None, b if np.isfinite(b) else None) for a, b in zip(*limits, strict=True)
        ]
    for k in np.flatnonzero(fixed):
        m.fixed[int(k)] = True
    return m


def confirm(
    evaluations: Evaluations,
    point: Point,
    lower: Floats,
    upper: Floats,
    held: Mask,
    *,
    names: Sequence[str],
    errors: Floats,
) -> tuple[Floats, float, str]:
    """Run MIGRAD from a minimum; where it ends, the value there, and why it is not valid (empty if it is).

    Parameters
    ----------
    evaluations : Evaluations
    point : Point
        The minimum, with its Hessian.
    lower, upper : ndarray, shape (P,)
    held : ndarray of bool, shape (P,)
        Fixed parameters, and those at a bound.
    names : sequence of P str
    errors : ndarray, shape (P,)
        First steps.
    """
    m = minuit(evaluations, point.theta, held, names=names, limits=None, errors=errors, hessian=True)
    m.strategy = 0
    m.migrad()
    theta = np.array(m.values)
    if not np.all(held | ((theta >= lower) & (theta <= upper))):  # the limits do matter
        m = minuit(evaluations, point.theta, held, names=names, limits=(lower, upper), errors=errors)
        m.strategy = 0
        m.migrad()
        theta = np.array(m.values)
    return theta, float(m.fval), "" if m.valid else reasons(m.fmin)


def reasons(fmin: Any) -> str:
    """Why MIGRAD says that a minimum is not valid, or what is special about one that is."""
    found = [f"edm {fmin.edm:.2g}"] + [
        text
        for flag, text in (
            (fmin.has_reached_call_limit, "call limit"),
            (fmin.is_above_max_edm, "edm above its goal"),
            (fmin.has_parameters_at_limit, "a parameter at its bound"),
            (not fmin.has_posdef_covar, "covariance not positive definite"),
        )
        if flag
    ]
    return ", ".join(found)


def consistent(evaluations: Evaluations, point: Point, lower: Floats, upper: Floats, held: Mask) -> str:
    """Whether the derivatives at a minimum are those of the values; empty, or what is wrong.

    A small step d of all free parameters at once, to a point with value f' and gradient g': f' - f must be the mean of
    the slopes g.d and g'.d, and their difference d.H.d. A wrong component of the gradient moves the minimum away from
    where the values have it, and shows in the first.
    """
    free = np.flatnonzero(~held)
    if not len(free):
        return ""
    hessian = evaluations.hessian(point.theta)[np.ix_(free, free)]
    signs = np.where(np.random.default_rng(len(free)).uniform(size=len(free)) < 0.5, -1.0, 1.0)
    step = solve_triangular(np.linalg.cholesky(hessian).T, signs / np.sqrt(len(free)))
    step = np.clip(_STEP * step, (lower - point.theta)[free], (upper - point.theta)[free])
    theta = point.theta.copy()
    theta[free] += step
    there = evaluations.point(theta)
    rise, change = float(step @ hessian @ step) / 2, there.value - point.value
    slope, slope_there = float(point.gradient[free] @ step), float(there.gradient[free] @ step)
    expected, curved = (slope + slope_there) / 2, (slope_there - slope) / 2
    noise = 1e-12 * max(abs(point.value), 1.0)
    if not abs(change - expected) <= 0.3 * rise + noise:
        return f"the gradient is not that of -2 ln L: it promises a change of {expected:.2g} where it is {change:.2g}"
    if not 0.25 * rise - noise <= curved <= 4 * rise + noise:
        return f"the Hessian is not that of -2 ln L: it promises a rise of {rise:.2g} where it is {curved:.2g}"
    return ""
