"""Per-event shapes of the samples of an unbinned channel, normalised at every nuisance value.

The density of sample c relative to the reference is nu_c(theta) T_c(x | alpha) with

    T_c = [ r_c + sum_k delta_k(alpha_k) ] / z_c(alpha)  x  exp( sum_k alpha_k D1_k + alpha_k^2 D2_k - ln Z_c(alpha) ).

The bracket holds the additive codes (per-event code0, code2, code4p with the density ratios of the variations, which
carry their own yields), the exponential is quadexp (arXiv:2406.19076). Both are divided by their integrals under the
reference, z_c and Z_c, so that T_c integrates to 1 at every alpha and rates stay in the companion channel. The
integrals are numbers of the workspace; where the cumulant form of ln Z is not good enough, they are pool sums.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nuratio.model.interpolation import ADDITIVE

__all__ = ["AdditiveShift", "Cumulant", "PoolIntegral", "QuadExp", "SampleShape", "ShapeBlock"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cumulant:
    """ln Z to second order, phi.m + phi.Sigma.phi / 2 with phi = (alpha, alpha^2): closed form.

    Attributes
    ----------
    mean : ndarray, shape (2K,)
        Of the 2K columns (D1, D2) under the sample's density.
    covariance : ndarray, shape (2K, 2K)
    """

    mean: Floats
    covariance: Floats

    def ln_z(self, alpha: Floats) -> tuple[float, Floats, Floats]:
        """ln Z with gradient (K,) and Hessian (K, K) at alpha of shape (K,)."""
        phi = np.concatenate([alpha, alpha**2])
        tilt = self.mean + self.covariance @ phi
        return float(phi @ (self.mean + tilt)) / 2, *_in_alpha(alpha, tilt, self.covariance)


@dataclass(frozen=True, eq=False)
class PoolIntegral:
    """ln Z summed over the pool, ln sum_i p_i exp(phi.D_i): exact, at the cost of a pass over the pool.

    Attributes
    ----------
    columns : ndarray, shape (2K, n)
        (D1, D2) at the pool events.
    weights : ndarray, shape (n,)
        p: the sample's density at them, reference weight x ratio, with sum 1.
    """

    columns: NDArray[np.floating]
    weights: Floats
    _memo: dict[bytes, tuple[float, Floats, Floats]] = field(default_factory=dict, repr=False)

    def ln_z(self, alpha: Floats) -> tuple[float, Floats, Floats]:
        """ln Z with gradient (K,) and Hessian (K, K) at alpha of shape (K,); the last point is remembered."""
        key = alpha.tobytes()
        if key not in self._memo:
            self._memo.clear()
            self._memo[key] = self._integrate(alpha)
        return self._memo[key]

    def _integrate(self, alpha: Floats) -> tuple[float, Floats, Floats]:
        phi = np.concatenate([alpha, alpha**2])
        columns = np.asarray(self.columns, dtype=np.float64)
        exponent = phi @ columns
        shift = float(exponent.max())
        tilted = self.weights * np.exp(exponent - shift)
        total = float(tilted.sum())
        tilted /= total
        mean = columns @ tilted
        centred = columns - mean[:, None]
        return shift + float(np.log(total)), *_in_alpha(alpha, mean, (centred * tilted) @ centred.T)


def _in_alpha(alpha: Floats, tilt: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Gradient and Hessian in alpha of a function whose derivatives in phi = (alpha, alpha^2) are given."""
    k = len(alpha)
    s11, s12, s22 = covariance[:k, :k], covariance[:k, k:], covariance[k:, k:]
    mixed = s12 * (2 * alpha)
    hessian = s11 + mixed + mixed.T + s22 * np.outer(2 * alpha, 2 * alpha) + np.diag(2 * tilt[k:])
    return tilt[:k] + 2 * alpha * tilt[k:], hessian


@dataclass(frozen=True)
class QuadExp:
    """Factor exp(sum_k alpha_k D1_k + alpha_k^2 D2_k) / Z over K nuisances.

    Attributes
    ----------
    par : tuple of int
        The nuisances, as indices of the companion's parameters.
    d1, d2 : tuple of int
        Rows of the event table.
    norm : Cumulant or PoolIntegral
        Z.
    """

    par: tuple[int, ...]
    d1: tuple[int, ...]
    d2: tuple[int, ...]
    norm: Cumulant | PoolIntegral


@dataclass(frozen=True)
class AdditiveShift:
    """Shift of the density ratio by one nuisance, with an additive interpolation code.

    Attributes
    ----------
    par : int
        The nuisance, as an index of the companion's parameters.
    code : str
        A key of `nuratio.model.interpolation.ADDITIVE`.
    hi, lo : int
        Rows of the event table: the varied density relative to the reference, in units of the nominal yield.
    hi_integral, lo_integral : float
        Their integrals under the reference: varied over nominal yield.
    """

    par: int
    code: str
    hi: int
    lo: int
    hi_integral: float
    lo_integral: float


@dataclass(frozen=True)
class SampleShape:
    """What the events of a channel say of one sample.

    Attributes
    ----------
    name : str
    ratio : int
        Row of the event table with r_c = p_c / q.
    additive : tuple of AdditiveShift
    quadexp : QuadExp or None
    """

    name: str
    ratio: int
    additive: tuple[AdditiveShift, ...] = ()
    quadexp: QuadExp | None = None

    @property
    def par(self) -> tuple[int, ...]:
        """All nuisances with a shape effect (companion indices, sorted)."""
        quad = self.quadexp.par if self.quadexp else ()
        return tuple(sorted({*quad, *(a.par for a in self.additive)}))

    def evaluate(self, block: Floats, theta: Floats, order: int) -> "ShapeBlock":
        """T_c and its derivatives at the events of a block.

        Parameters
        ----------
        block : ndarray, shape (columns, m)
            Event table rows, float64.
        theta : ndarray, shape (F,)
            The companion's parameters.
        order : int
            0: values; 1 or 2: also what the derivatives need.
        """
        position = {p: j for j, p in enumerate(self.par)}
        k, m = len(position), block.shape[1]
        r = block[self.ratio]
        # y = bracket / z, with its first derivatives and second derivatives (diagonal in the nuisances before the 1/z)
        bracket, z = r, 1.0
        b1, b2 = np.zeros((k, m if self.additive and order else 0)), np.zeros((k, m if self.additive and order else 0))
        z1, z2 = np.zeros(k), np.zeros(k)
        for shift in self.additive:
            a, b = ADDITIVE[shift.code](theta[shift.par]).transpose(1, 0)
            up, down = block[shift.hi] - r, r - block[shift.lo]
            z_up, z_down = shift.hi_integral - 1.0, 1.0 - shift.lo_integral
            bracket = bracket + a[0] * up + b[0] * down
            z += float(a[0] * z_up + b[0] * z_down)
            if order:
                j = position[shift.par]
                b1[j] += a[1] * up + b[1] * down
                b2[j] += a[2] * up + b[2] * down
                z1[j] += a[1] * z_up + b[1] * z_down
                z2[j] += a[2] * z_up + b[2] * z_down
        y = bracket / z
        factor = np.ones(m)
        h, h2, ln_z2 = np.zeros((k, m if self.quadexp and order else 0)), np.zeros((k, 0)), np.zeros((k, k))
        if self.quadexp:
            q = self.quadexp
            alpha = theta[list(q.par)]
            d1, d2 = block[list(q.d1)], block[list(q.d2)]
            ln_z, gradient, hessian = q.norm.ln_z(alpha)
            factor = np.exp(alpha @ d1 + alpha**2 @ d2 - ln_z)
            if order:
                at = [position[p] for p in q.par]
                h[at] = d1 + 2 * alpha[:, None] * d2 - gradient[:, None]
                ln_z2[np.ix_(at, at)] = hessian
                h2 = np.zeros((k, m))
                h2[at] = 2 * d2
        return ShapeBlock(y, factor, z, b1, b2, z1, z2, h, h2, ln_z2)


@dataclass(frozen=True)
class ShapeBlock:
    """T_c = y x factor at m events, and the ingredients of its derivatives in the sample's k nuisances."""

    y: Floats
    factor: Floats
    z: float
    b1: Floats
    b2: Floats
    z1: Floats
    z2: Floats
    h: Floats
    h2: Floats
    ln_z2: Floats

    @property
    def value(self) -> Floats:
        """T_c, shape (m,)."""
        return self.y * self.factor

    def _y1(self) -> Floats:
        return (self.b1 - self.z1[:, None] * self.y) / self.z

    def first(self) -> Floats:
        """d T_c / d alpha, shape (k, m)."""
        if not self.b1.size:
            return self.value * self.h
        slope = self._y1() * self.factor
        return slope + self.value * self.h if self.h.size else slope

    def contract_second(self, weight: Floats) -> Floats:
        """sum_events weight d2 T_c / d alpha d alpha', shape (k, k), for weights of shape (m,)."""
        k = len(self.z1)
        w = weight * self.factor
        total = np.zeros((k, k))
        if self.h.size:
            wy = w * self.y
            total += (self.h * wy) @ self.h.T + np.diag(self.h2 @ wy) - self.ln_z2 * wy.sum()
        if self.b1.size:
            y1 = self._y1()
            # y = bracket / z:  z y_kl = bracket_kl - y_k z_l - y_l z_k - y z_kl
            mixed = np.outer(y1 @ w, self.z1)
            total += (np.diag(self.b2 @ w - self.z2 * (w @ self.y)) - mixed - mixed.T) / self.z
            if self.h.size:
                cross = (y1 * w) @ self.h.T
                total += cross + cross.T
        return total
