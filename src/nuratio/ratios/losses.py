"""Losses whose minimiser is a known function of the ratio r = p1 / p0, for r of either sign where they allow it.

A network output u (one number per event) costs ``denominator(u)`` at an event of p0 and ``numerator(u)`` at one of p1,
times its signed weight; both samples have unit total weight. At the minimum ``ratio(u)`` is r. p0 has to be positive.

Which one: `LSIF` needs no choice and has no pole; `REVERT` and `Sinh` compress large ratios, so that heavy tails do not
rule the fit; `PARE` with a large ``rho`` is LSIF, with a small one it looks at the region of negative ratios. `BCE` is
for ratios that are positive everywhere, `MSE` for those above -1.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from nuratio.errors import InvalidData, UnknownName, did_you_mean

__all__ = ["BCE", "LOSSES", "LSIF", "MSE", "PARE", "REVERT", "Logit", "Loss", "Sinh", "make_loss"]


class Loss(Protocol):
    """A loss and its inverse."""

    @property
    def pole(self) -> float:
        """Ratios must stay above it: the risk is unbounded below where they do not. -inf if there is none."""
        ...

    def denominator(self, u: Tensor) -> Tensor:
        """Cost at an event of p0."""
        ...

    def numerator(self, u: Tensor) -> Tensor:
        """Cost at an event of p1."""
        ...

    def ratio(self, u: Tensor) -> Tensor:
        """r at the minimum; infinite where an output stands for no ratio."""
        ...

    def output(self, r: Tensor) -> Tensor:
        """The output that stands for a ratio: the inverse of ``ratio``."""
        ...


@dataclass(frozen=True)
class BCE:
    """Binary cross entropy: u = ln r. For positive ratios."""

    pole: float = 0.0

    def denominator(self, u: Tensor) -> Tensor:
        """ln(1 + e^u)."""
        return softplus(u)

    def numerator(self, u: Tensor) -> Tensor:
        """ln(1 + e^-u)."""
        return softplus(-u)

    def ratio(self, u: Tensor) -> Tensor:
        """e^u."""
        return u.exp()

    def output(self, r: Tensor) -> Tensor:
        """Ln r."""
        return r.log()


@dataclass(frozen=True)
class PARE:
    """Pole-adjustable ratio estimation (arXiv:2410.10216): (1 - t s)^2 with t0 = -rho for p0 and t1 = 1 for p1.

    s* = (r - rho) / (rho^2 + r), with the pole r = -rho^2; the risk is convex where rho^2 p0 + p1 > 0. The output is
    standardised, s = s*(1) + s*'(1) (u - 1), and so is the loss: u is near r and curvatures do not depend on rho.

    Attributes
    ----------
    rho : float
        -t0 / t1. With rho^2 above 4 times the largest -r the risk is well behaved; for large rho the loss is `LSIF`.
    """

    rho: float = 4.0

    def __post_init__(self) -> None:
        if not (self.rho > 0 and math.isfinite(self.rho)):
            raise InvalidData(f"PARE needs a positive, finite rho (-t0 / t1), not {self.rho}")

    @property
    def pole(self) -> float:
        """-rho^2."""
        return -(self.rho**2)

    @property
    def _slope(self) -> float:
        return self.rho * (1 + self.rho) / (1 + self.rho**2) ** 2

    def _s(self, u: Tensor) -> Tensor:
        return (1 - self.rho) / (1 + self.rho**2) + self._slope * (u - 1)

    def _standard(self, cost: Tensor) -> Tensor:
        return cost / (2 * self._slope**2 * (1 + self.rho**2))

    def denominator(self, u: Tensor) -> Tensor:
        """(1 + rho s)^2, standardised."""
        return self._standard((1 + self.rho * self._s(u)) ** 2)

    def numerator(self, u: Tensor) -> Tensor:
        """(1 - s)^2, standardised."""
        return self._standard((1 - self._s(u)) ** 2)

    def ratio(self, u: Tensor) -> Tensor:
        """rho (1 + rho s) / (1 - s); infinite from s = 1 on."""
        s = self._s(u)
        return torch.where(s < 1, self.rho * (1 + self.rho * s) / (1 - s).clamp(min=1e-300), torch.inf)

    def output(self, r: Tensor) -> Tensor:
        """1 + [s*(r) - s*(1)] / s*'(1); NaN at the pole and below."""
        s = torch.where(r > self.pole, (r - self.rho) / (self.rho**2 + r), torch.nan)
        return 1 + (s - (1 - self.rho) / (1 + self.rho**2)) / self._slope


@dataclass(frozen=True)
class MSE(PARE):
    """Squared error on the targets -1 and 1: PARE with its pole at r = -1."""

    rho: float = 1.0


@dataclass(frozen=True)
class LSIF:
    """Least-squares importance fitting (Kanamori et al., JMLR 10, 2009): E0[r^2] / 2 - E1[r]. Any ratio; no pole."""

    pole: float = -math.inf

    def denominator(self, u: Tensor) -> Tensor:
        """u^2 / 2."""
        return u**2 / 2

    def numerator(self, u: Tensor) -> Tensor:
        """-u."""
        return -u

    def ratio(self, u: Tensor) -> Tensor:
        """u itself."""
        return u

    def output(self, r: Tensor) -> Tensor:
        """r itself."""
        return r


@dataclass(frozen=True)
class Sinh:
    """The link loss E0[cosh u] - E1[u], r = sinh u: convex in u for every p1, linear costs in ln r for large ratios."""

    pole: float = -math.inf

    def denominator(self, u: Tensor) -> Tensor:
        """cosh u."""
        return u.cosh()

    def numerator(self, u: Tensor) -> Tensor:
        """-u."""
        return -u

    def ratio(self, u: Tensor) -> Tensor:
        """sinh u."""
        return u.sinh()

    def output(self, r: Tensor) -> Tensor:
        """asinh r."""
        return r.asinh()


@dataclass(frozen=True)
class Logit:
    """The link loss of s = 1 / (1 + e^-r), with the ratio itself as output: E0[s ln s + (1 - s) ln(1 - s)] - E1[s]."""

    pole: float = -math.inf

    def denominator(self, u: Tensor) -> Tensor:
        """s ln s + (1 - s) ln(1 - s) = u s - ln(1 + e^u)."""
        return u * torch.sigmoid(u) - softplus(u)

    def numerator(self, u: Tensor) -> Tensor:
        """-s."""
        return -torch.sigmoid(u)

    def ratio(self, u: Tensor) -> Tensor:
        """u itself."""
        return u

    def output(self, r: Tensor) -> Tensor:
        """r itself."""
        return r


@dataclass(frozen=True)
class REVERT:
    """E1[s] - E0[ln s + ln(1 - s)] with s = 1 / (1 + e^u) (arXiv:2512.19913): r = 1/s - 1/(1 - s) = 2 sinh u.

    Written in u nothing has to be kept away from 0 or 1.
    """

    pole: float = -math.inf

    def denominator(self, u: Tensor) -> Tensor:
        """-ln s - ln(1 - s)."""
        return softplus(u) + softplus(-u)

    def numerator(self, u: Tensor) -> Tensor:
        """s."""
        return torch.sigmoid(-u)

    def ratio(self, u: Tensor) -> Tensor:
        """2 sinh u."""
        return 2 * u.sinh()

    def output(self, r: Tensor) -> Tensor:
        """asinh(r / 2)."""
        return (r / 2).asinh()


LOSSES: dict[str, type[Any]] = {
    "bce": BCE,
    "lsif": LSIF,
    "logit": Logit,
    "mse": MSE,
    "pare": PARE,
    "revert": REVERT,
    "sinh": Sinh,
}


def make_loss(name: str, **options: float) -> Loss:
    """The loss of that name.

    Parameters
    ----------
    name : str
        A key of `LOSSES`.
    **options
        ``rho`` of PARE.

    Raises
    ------
    UnknownName
        No such loss.
    InvalidData
        An option that it does not have.
    """
    if name not in LOSSES:
        raise UnknownName(f"no loss {name!r}; {did_you_mean(name, LOSSES, 'losses')}")
    try:
        loss: Loss = LOSSES[name](**options)
    except TypeError as error:
        raise InvalidData(f"loss {name!r}: {error}") from error
    return loss
