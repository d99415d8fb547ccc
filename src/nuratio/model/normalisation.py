"""Shapes stay shapes: N(alpha), the integral of one sample's varied density relative to the nominal one.

`Cumulant` is the closed form for quadexp, `LinearIntegral` the exact one for additive codes; `PoolIntegral` sums the
density over the pool, exact for every combination at the cost of a pass over the pool.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nuratio.model.interpolation import ADDITIVE

__all__ = ["Cumulant", "InCell", "LinearIntegral", "Normalisation", "PoolIntegral", "Powers", "Unit"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Normalisation(Protocol):
    """N of one sample."""

    def at(self, alpha: Floats, *, hessian: bool = True) -> tuple[float, Floats, Floats]:
        """1 / N, and gradient (K,) and Hessian (K, K) of ln |N|, at the sample's nuisances in the order of its ``par``.

        Without ``hessian`` the last may be empty. N is negative where an additive code extrapolates to a negative
        yield.
        """
        ...


@dataclass(frozen=True)
class Unit:
    """A shape without nuisances, or one that is normalised as it stands: N = 1."""

    def at(self, alpha: Floats, *, hessian: bool = True) -> tuple[float, Floats, Floats]:
        """See `Normalisation`."""
        return 1.0, np.zeros(len(alpha)), np.zeros((len(alpha), len(alpha)))


@dataclass(frozen=True, eq=False)
class InCell:
    """In one of several cells: N = nominal share of the sample in the cell x how its integral there varies.

    A share of 0 makes the density of the sample there 0.

    Attributes
    ----------
    share : float
        Integral of the sample's ratio over the cell: p(cell).
    variation : Normalisation
        The varied integral over the cell, relative to the nominal one.
    """

    share: float
    variation: Normalisation

    def at(self, alpha: Floats, *, hessian: bool = True) -> tuple[float, Floats, Floats]:
        """See `Normalisation`."""
        if self.share == 0:
            return 0.0, np.zeros(len(alpha)), np.zeros((len(alpha), len(alpha)))
        inverse, gradient, curvature = self.variation.at(alpha, hessian=hessian)
        return inverse / self.share, gradient, curvature


@dataclass(frozen=True, eq=False)
class Powers:
    """Monomials phi_t = alpha_j^a alpha_k^b of the nuisances of a sample, with derivatives.

    Attributes
    ----------
    slot : ndarray of int, shape (T, 2)
        j and k, positions among the sample's nuisances (k is ignored where b = 0).
    power : ndarray of int, shape (T, 2)
        a and b.
    """

    slot: Ints
    power: Ints

    @classmethod
    def compile(cls, terms: Sequence[Sequence[tuple[int, int]]], par: Sequence[int]) -> "Powers":
        """From the ``powers`` of monomials and the sample's nuisances, both as companion indices."""
        full = [[*term, (term[0][0], 0)][:2] for term in terms]
        numbers = np.array(full, dtype=np.int64).reshape(-1, 2, 2)
        position = {p: j for j, p in enumerate(par)}
        slot = np.array([position[p] for p in numbers[:, :, 0].ravel().tolist()], dtype=np.int64).reshape(-1, 2)
        return cls(slot, np.ascontiguousarray(numbers[:, :, 1]))

    def at(self, alpha: Floats) -> tuple[Floats, Floats]:
        """phi (T,) and its derivatives by j and k (T, 2)."""
        x, p, k = self._ladder(alpha), self.power, self.slot
        f = x[p, k]
        return f[:, 0] * f[:, 1], p * x[self._lower, k] * f[:, ::-1]

    def second(self, alpha: Floats) -> Floats:
        """Second derivatives by jj, kk, jk, shape (T, 3)."""
        x, p, k = self._ladder(alpha), self.power, self.slot
        own = p * (p - 1) * x[np.maximum(p - 2, 0), k] * x[p, k][:, ::-1]
        return np.column_stack([own, (p * x[self._lower, k]).prod(1)])

    def _ladder(self, alpha: Floats) -> Floats:
        """alpha to the powers 0, 1, 2, ..., a row each."""
        x = np.ones((self.power.max(initial=0) + 1, len(alpha)))
        for row in range(1, len(x)):
            x[row] = x[row - 1] * alpha
        return x

    @cached_property
    def _lower(self) -> Ints:
        return np.maximum(self.power - 1, 0)

    def pull(self, weight: Floats, first: Floats, n: int) -> Floats:
        """sum_t weight_t d phi_t / d alpha, shape (n,), with the derivatives from `at`."""
        return np.bincount(self.slot.ravel(), (weight[:, None] * first).ravel(), n).astype(np.float64, copy=False)

    def jacobian(self, first: Floats, n: int) -> Floats:
        """d phi_t / d alpha, shape (T, n), with the derivatives from `at`."""
        out = np.zeros((len(first), n))
        np.add.at(out, (np.arange(len(first))[:, None], self.slot), first)
        return out

    def curvature(self, weight: Floats, second: Floats, n: int) -> Floats:
        """sum_t weight_t d2 phi_t / d alpha d alpha', shape (n, n), with the second derivatives from `second`."""
        j, k = self.slot.T
        h = np.zeros((n, n))
        np.add.at(h, (j, j), weight * second[:, 0])
        np.add.at(h, (k, k), weight * second[:, 1])
        np.add.at(h, (j, k), weight * second[:, 2])
        np.add.at(h, (k, j), weight * second[:, 2])
        return h


@dataclass(frozen=True, eq=False)
class Cumulant:
    """To second order, ln N = phi.m + phi.Sigma.phi / 2 for exp(phi.D): closed form.

    Attributes
    ----------
    mean : ndarray, shape (T,)
        Of the T columns D under the sample's density.
    covariance : ndarray, shape (T, T)
    powers : Powers
        phi.
    """

    mean: Floats
    covariance: Floats
    powers: Powers

    def at(self, alpha: Floats, *, hessian: bool = True) -> tuple[float, Floats, Floats]:
        """See `Normalisation`."""
        n = len(alpha)
        phi, first = self.powers.at(alpha)
        tilt = self.mean + self.covariance @ phi
        curvature = np.empty((0, 0))
        if hessian:
            jacobian = self.powers.jacobian(first, n)
            curvature = jacobian.T @ self.covariance @ jacobian
            curvature += self.powers.curvature(tilt, self.powers.second(alpha), n)
        return float(np.exp(-phi @ (self.mean + tilt) / 2)), self.powers.pull(tilt, first, n), curvature


@dataclass(frozen=True, eq=False)
class LinearIntegral:
    """For additive codes: N = 1 + sum_k a_k (hi_k - 1) + b_k (1 - lo_k), hi and lo being varied over nominal yields.

    Attributes
    ----------
    codes : tuple of str
        One per nuisance of the sample.
    hi, lo : ndarray, shape (K,)
    """

    codes: tuple[str, ...]
    hi: Floats
    lo: Floats

    def at(self, alpha: Floats, *, hessian: bool = True) -> tuple[float, Floats, Floats]:
        """See `Normalisation`."""
        basis = np.array([ADDITIVE[code](a) for code, a in zip(self.codes, alpha, strict=True)]).reshape(-1, 3, 2)
        z, z1, z2 = (basis @ [1.0, 0.0] * (self.hi - 1)[:, None] + basis @ [0.0, 1.0] * (1 - self.lo)[:, None]).T
        n = 1.0 + float(z.sum())
        gradient = z1 / n
        return 1 / n, gradient, np.diag(z2) / n - np.outer(gradient, gradient)


@dataclass(frozen=True, eq=False)
class PoolIntegral:
    """Summed over the pool: N = sum_i q_i t(x_i | alpha) / sum_i q_i t(x_i | 0), exact.

    Attributes
    ----------
    integral : callable
        alpha -> sum_i q_i t(x_i | alpha), gradient (K,) and Hessian (K, K).
    """

    integral: Callable[[Floats], tuple[float, Floats, Floats]]
    _memo: dict[bytes, tuple[float, Floats, Floats]] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> Any:
        return PoolIntegral, (self.integral,)  # without the memo

    def at(self, alpha: Floats, *, hessian: bool = True) -> tuple[float, Floats, Floats]:
        """See `Normalisation`; the last point is remembered."""
        nominal = self._at(np.zeros_like(alpha), "nominal")
        total, first, second = self._at(alpha, "last")
        gradient = first / total
        return nominal[0] / total, gradient, second / total - np.outer(gradient, gradient)

    def _at(self, alpha: Floats, which: str) -> tuple[float, Floats, Floats]:
        key = which.encode() + alpha.tobytes()
        if key not in self._memo:
            for old in [k for k in self._memo if k.startswith(which.encode())]:
                self._memo.pop(old, None)
            self._memo[key] = self.integral(alpha)
        return self._memo[key]
