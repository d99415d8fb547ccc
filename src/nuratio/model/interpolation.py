"""HistFactory interpolation codes, with first and second derivatives.

Use a *multiplicative* code (code1, code4) for factors with positive anchors, an *additive* code (code0, code2, code4p)
for shifts of a yield or of a density ratio, which may have either sign. Additive codes are linear in the two shifts:
``delta(alpha) = a(alpha) (hi - nominal) + b(alpha) (nominal - lo)``: one pair of numbers serves any number of events.

References: HistFactory, CERN-OPEN-2012-016; the behaviour is pyhf's where pyhf and ROOT differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ADDITIVE", "MULTIPLICATIVE", "Code1", "Code4", "code0", "code2", "code4p"]

Floats = NDArray[np.float64]


def code0(alpha: ArrayLike) -> Floats:
    """Piecewise-linear additive shift: a = alpha above 0, b = alpha below.

    Parameters
    ----------
    alpha : array_like, shape (...)
        Nuisance values.

    Returns
    -------
    ndarray, shape (3, 2, ...)
        [value, first, second derivative] of [a, b].
    """
    x = np.asarray(alpha, dtype=np.float64)
    up = x > 0
    one, zero = np.ones_like(x), np.zeros_like(x)
    return np.array(
        [
            [np.where(up, x, zero), np.where(up, zero, x)],
            [np.where(up, one, zero), np.where(up, zero, one)],
            [zero, zero],
        ]
    )


@cache
def _code2_offset_below() -> float:
    """c in pyhf's code2 below alpha = -1, (b - 2a)(alpha + c): 0 in pyhf 0.7, 1 later; found by asking it."""
    from pyhf.interpolators import code2 as pyhf_code2

    value = pyhf_code2([[[[0.0], [0.0], [2.0]]]], subscribe=False)(np.array([[-2.0]]))
    return 2.0 - float(np.ravel(value)[0])  # lo = nom = 0, hi = 2: a = b = 1, so the value is -(alpha + c) = 2 - c


def code2(alpha: ArrayLike) -> Floats:
    """Quadratic additive shift inside abs(alpha) <= 1, linear outside (discontinuous at 1, as in pyhf).

    Same arguments and return as `code0`.
    """
    x = np.asarray(alpha, dtype=np.float64)
    above, below = x > 1, x < -1
    lower = x + _code2_offset_below()

    def pick(inside: Floats, over: ArrayLike, under: ArrayLike) -> Floats:
        return np.where(above, over, np.where(below, under, inside))

    half, one = np.full_like(x, 0.5), np.ones_like(x)
    return np.array(
        [
            [pick((x**2 + x) / 2, 1.5 * (x - 1), -0.5 * lower), pick((x - x**2) / 2, -0.5 * (x - 1), 1.5 * lower)],
            [pick(x + half, 1.5, -0.5), pick(half - x, -0.5, 1.5)],
            [pick(one, 0.0, 0.0), pick(-one, 0.0, 0.0)],
        ]
    )


def code4p(alpha: ArrayLike) -> Floats:
    """Sixth-order polynomial additive shift inside abs(alpha) <= 1, linear outside; twice differentiable.

    Same arguments and return as `code0`.
    """
    x = np.asarray(alpha, dtype=np.float64)
    above, below = x > 1, x < -1
    x2 = x * x
    even = x2 * (15 + x2 * (-10 + 3 * x2)) / 16
    even1 = x * (30 + x2 * (-40 + 18 * x2)) / 16
    even2 = (30 + x2 * (-120 + 90 * x2)) / 16

    def pick(inside: Floats, over: ArrayLike, under: ArrayLike) -> Floats:
        return np.where(above, over, np.where(below, under, inside))

    return np.array(
        [
            [pick(x / 2 + even, x, 0.0), pick(x / 2 - even, 0.0, x)],
            [pick(0.5 + even1, 1.0, 0.0), pick(0.5 - even1, 0.0, 1.0)],
            [pick(even2, 0.0, 0.0), pick(-even2, 0.0, 0.0)],
        ]
    )


@dataclass(frozen=True)
class Code1:
    """Piecewise-exponential factor: hi**alpha above 0, lo**(-alpha) below, relative to nominal = 1.

    ``lo`` and ``hi`` are positive arrays of shape (n,). Calling it with alpha of shape (n,) returns the factor and its
    first and second derivative, each of shape (n,).
    """

    lo: Floats
    hi: Floats

    def __call__(self, alpha: Floats) -> tuple[Floats, Floats, Floats]:
        """Factor, first and second derivative."""
        """Factor, first and second derivative."""
        slope = np.where(alpha >= 0, np.log(self.hi), -np.log(self.lo))
        f = np.exp(slope * alpha)
        return f, slope * f, slope**2 * f


# Solution of the six matching conditions at alpha = +-1: rows are the coefficients of alpha .. alpha^6, columns
# multiply (hi - 1, lo - 1, hi', lo', hi'', lo''), primes being derivatives of the exponentials at +-1.
_CODE4_SOLUTION = (
    np.array(
        [
            [15, -15, -7, -7, 1, -1],
            [24, 24, -9, 9, 1, 1],
            [-10, 10, 10, 10, -2, 2],
            [-24, -24, 14, -14, -2, -2],
            [3, -3, -3, -3, 1, -1],
            [8, 8, -5, 5, 1, 1],
        ],
        dtype=np.float64,
    )
    / 16
)
_POWERS = np.arange(1, 7)


@dataclass(frozen=True)
class Code4:
    """Sixth-order polynomial inside abs(alpha) < 1, exponential outside; twice differentiable.

    ``lo`` and ``hi`` are positive arrays of shape (n,). Calling it with alpha of shape (n,) returns the factor and its
    first and second derivative, each of shape (n,).
    """

    lo: Floats
    hi: Floats

    def __call__(self, alpha: Floats) -> tuple[Floats, Floats, Floats]:
        """Factor, first and second derivative."""
        """Factor, first and second derivative."""
        ln_lo, ln_hi = np.log(self.lo), np.log(self.hi)
        matched = np.array(
            [self.hi - 1, self.lo - 1, ln_hi * self.hi, -ln_lo * self.lo, ln_hi**2 * self.hi, ln_lo**2 * self.lo]
        )
        c = _CODE4_SOLUTION @ matched
        inside = np.abs(alpha) < 1
        x = np.where(inside, alpha, 0.0)
        powers = x ** np.arange(7)[:, None]
        f = 1 + (c * powers[1:]).sum(0)
        f1 = (c * _POWERS[:, None] * powers[:6]).sum(0)
        f2 = (c[1:] * (_POWERS * (_POWERS - 1))[1:, None] * powers[:5]).sum(0)
        slope = np.where(alpha >= 0, ln_hi, -ln_lo)
        outside = np.exp(slope * np.where(inside, 0.0, alpha))
        return (
            np.where(inside, f, outside),
            np.where(inside, f1, slope * outside),
            np.where(inside, f2, slope**2 * outside),
        )


ADDITIVE: dict[str, Callable[[ArrayLike], Floats]] = {"code0": code0, "code2": code2, "code4p": code4p}
MULTIPLICATIVE: dict[str, type[Code1] | type[Code4]] = {"code1": Code1, "code4": Code4}
