"""HistFactory interpolation codes, with first and second derivatives.

Use a *multiplicative* code (code1, code4) for factors with positive anchors, an *additive* code (code0, code2, code4p)
for shifts of a yield or of a density ratio, which may have either sign. Additive codes are linear in the two shifts:
``delta(alpha) = a(alpha) (hi - nominal) + b(alpha) (nominal - lo)``: one pair of numbers serves any number of events.

Each formula is a compiled function of one nuisance value (`additive_basis`, `exponential`, `code4_polynomial`);
`additive`, `multiplicative`, `ADDITIVE` and `MULTIPLICATIVE` evaluate them on arrays.

Compiled code is kept on disk, stamped with the text of its own file: a compiled function that called one of another
file would keep its old code when that file changes. Compiled functions therefore call none but those of their file, and
Python stands between the files.

References: HistFactory, CERN-OPEN-2012-016; the behaviour is pyhf's where pyhf and ROOT differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyhf.interpolators import code2 as _pyhf_code2

from nuratio.model.compiling import compiler

__all__ = [
    "ADDITIVE",
    "ADDITIVE_CODES",
    "MULTIPLICATIVE",
    "Code1",
    "Code4",
    "additive",
    "additive_basis",
    "code4_polynomial",
    "exponential",
    "matched_anchors",
    "multiplicative",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_jit = compiler()

# --- additive codes

_CODE2_OF_PYHF_07 = 27


def _code2() -> int:
    """Which code2 pyhf has: below alpha = -1 it is (b - 2a)(alpha + c), with c = 0 in pyhf 0.7 and 1 later."""
    value = _pyhf_code2([[[[0.0], [0.0], [2.0]]]], subscribe=False)(np.array([[-2.0]]))
    return 2 if np.ravel(value)[0] == 1.0 else _CODE2_OF_PYHF_07  # lo = nominal = 0, hi = 2: a = b = 1, value 2 - c


ADDITIVE_CODES = {"code0": 0, "code2": _code2(), "code4p": 4}


@_jit
def additive_basis(code: int, alpha: float) -> tuple[float, float, float, float, float, float]:
    """The two functions of an additive code and their derivatives, (a, a', a'', b, b', b'').

    - code0: piecewise linear.
    - code2: quadratic inside abs(alpha) <= 1, linear outside; discontinuous there, as in pyhf.
    - code4p: sixth-order polynomial inside abs(alpha) <= 1, linear outside; twice differentiable.

    Parameters
    ----------
    code : int
        One of the values of `ADDITIVE_CODES`.
    alpha : float
        Nuisance value.
    """
    if code == 0:
        if alpha > 0:
            return alpha, 1.0, 0.0, 0.0, 0.0, 0.0
        return 0.0, 0.0, 0.0, alpha, 1.0, 0.0
    if code == 4:
        if alpha > 1:
            return alpha, 1.0, 0.0, 0.0, 0.0, 0.0
        if alpha < -1:
            return 0.0, 0.0, 0.0, alpha, 1.0, 0.0
        x = alpha * alpha
        even = x * (15 + x * (-10 + 3 * x)) / 16
        even1 = alpha * (30 + x * (-40 + 18 * x)) / 16
        even2 = (30 + x * (-120 + 90 * x)) / 16
        return alpha / 2 + even, 0.5 + even1, even2, alpha / 2 - even, 0.5 - even1, -even2
    if alpha > 1:
        return 1.5 * (alpha - 1), 1.5, 0.0, -0.5 * (alpha - 1), -0.5, 0.0
    if alpha < -1:
        lower = alpha if code == _CODE2_OF_PYHF_07 else alpha + 1
        return -0.5 * lower, -0.5, 0.0, 1.5 * lower, 1.5, 0.0
    x = alpha * alpha
    return (x + alpha) / 2, alpha + 0.5, 1.0, (alpha - x) / 2, 0.5 - alpha, -1.0


@_jit
def additive(code: int, alpha: Floats) -> Floats:
    """[value, first, second derivative] of [a, b], shape (3, 2, n), at nuisance values of shape (n,)."""
    out = np.empty((3, 2, len(alpha)))
    for i, x in enumerate(alpha):
        basis = additive_basis(code, x)
        for j in range(3):
            out[j, 0, i], out[j, 1, i] = basis[j], basis[3 + j]
    return out


def _additive(code: int, alpha: ArrayLike) -> Floats:
    """[value, first, second derivative] of [a, b] at nuisance values of shape (...); shape (3, 2, ...)."""
    x = np.array(alpha, dtype=np.float64)
    return np.asarray(additive(code, x.ravel())).reshape(3, 2, *x.shape)


# --- multiplicative codes


@_jit
def exponential(alpha: float, ln_lo: float, ln_hi: float) -> tuple[float, float, float]:
    """Code 1 and the outside of code 4, with derivatives: hi**alpha above 0, lo**(-alpha) below."""
    slope = ln_hi if alpha >= 0 else -ln_lo
    f = np.exp(slope * alpha)
    return f, slope * f, slope * slope * f


@_jit
def code4_polynomial(alpha: float) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Code 4 inside abs(alpha) < 1: 1 + sum_j c_j m_j, m being `matched_anchors`.

    The six matching conditions at alpha = +-1 (value, slope and curvature of the exponentials) determine c.

    Returns
    -------
    tuple of three tuples of 6 float
        c_j(alpha), and its first and second derivatives.
    """
    x = alpha * alpha  # odd and even part of three polynomials: they multiply values, slopes and curvatures
    edge = (1 - x) * (1 - x)
    v, w = alpha * (15 + x * (-10 + 3 * x)) / 16, x * (24 + x * (-24 + 8 * x)) / 16
    s, t = alpha * (-7 + x * (10 - 3 * x)) / 16, x * (-9 + x * (14 - 5 * x)) / 16
    p, q = alpha * edge / 16, x * edge / 16
    v1, w1 = 15 * edge / 16, 48 * alpha * edge / 16
    s1, t1 = (-7 + x * (30 - 15 * x)) / 16, alpha * (-18 + x * (56 - 30 * x)) / 16
    p1, q1 = (1 + x * (-6 + 5 * x)) / 16, alpha * (2 + x * (-8 + 6 * x)) / 16
    v2, w2 = 60 * alpha * (x - 1) / 16, (48 + x * (-288 + 240 * x)) / 16
    s2, t2 = 60 * alpha * (1 - x) / 16, (-18 + x * (168 - 150 * x)) / 16
    p2, q2 = alpha * (-12 + 20 * x) / 16, (2 + x * (-24 + 30 * x)) / 16
    return (
        (w + v, w - v, t + s, s - t, q + p, q - p),
        (w1 + v1, w1 - v1, t1 + s1, s1 - t1, q1 + p1, q1 - p1),
        (w2 + v2, w2 - v2, t2 + s2, s2 - t2, q2 + p2, q2 - p2),
    )


def matched_anchors(lo: Floats, hi: Floats) -> Floats:
    """What code 4 matches at alpha = +-1: (hi - 1, lo - 1, hi', lo', hi'', lo''), shape (n, 6), of positive anchors."""
    ln_lo, ln_hi = np.log(lo), np.log(hi)
    return np.stack([hi - 1, lo - 1, ln_hi * hi, -ln_lo * lo, ln_hi**2 * hi, ln_lo**2 * lo], axis=-1)


@_jit
def multiplicative(code4: bool, theta: Floats, par: Ints, ln_lo: Floats, ln_hi: Floats, matched: Floats) -> Floats:
    """Factors of n (parameter, anchors) and their first and second derivatives, shape (n, 3).

    Runs of one parameter share the coefficients of the polynomial: sort by parameter.

    Parameters
    ----------
    code4 : bool
        Code 4, else code 1.
    theta : ndarray
        Nuisance values.
    par : ndarray of int, shape (n,)
        Position of each one's nuisance in ``theta``.
    ln_lo, ln_hi : ndarray, shape (n,)
        Logarithms of the anchors.
    matched : ndarray, shape (n, 6)
        `matched_anchors`.
    """
    out = np.empty((len(par), 3))
    value, first, second = code4_polynomial(0.0)
    last = -1
    for i, p in enumerate(par):
        x = theta[p]
        if code4 and abs(x) < 1:
            if p != last:
                value, first, second = code4_polynomial(x)
                last = p
            out[i, 0] = 1 + _dot(value, matched[i])
            out[i, 1] = _dot(first, matched[i])
            out[i, 2] = _dot(second, matched[i])
        else:
            out[i, 0], out[i, 1], out[i, 2] = exponential(x, ln_lo[i], ln_hi[i])
    return out


@_jit
def _dot(c: tuple[float, ...], m: Floats) -> float:
    return float(c[0] * m[0] + c[1] * m[1] + c[2] * m[2] + c[3] * m[3] + c[4] * m[4] + c[5] * m[5])


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
        return _multiplicative(False, alpha, self.lo, self.hi)


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
        return _multiplicative(True, alpha, self.lo, self.hi)


def _multiplicative(code4: bool, alpha: Floats, lo: Floats, hi: Floats) -> tuple[Floats, Floats, Floats]:
    x = np.array(alpha, dtype=np.float64)
    out = multiplicative(code4, x, np.arange(len(x)), np.log(lo), np.log(hi), matched_anchors(lo, hi))
    return out[:, 0], out[:, 1], out[:, 2]


ADDITIVE: dict[str, Callable[[ArrayLike], Floats]] = {
    name: partial(_additive, code) for name, code in ADDITIVE_CODES.items()
}
MULTIPLICATIVE: dict[str, type[Code1] | type[Code4]] = {"code1": Code1, "code4": Code4}
