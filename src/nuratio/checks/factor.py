"""What a fit multiplies the density of a part with at a point of the nuisances: the reweighting that checks look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.data.varied import Term, monomial
from nuratio.model.interpolation import ADDITIVE, MULTIPLICATIVE
from nuratio.workspace.channel import exponent_at, shape_columns
from nuratio.workspace.train import Trained

__all__ = ["ShapeFactor"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShapeFactor:
    """What the density of a part is multiplied by in a fit, as a function of its coefficients D and of alpha.

    Attributes
    ----------
    terms : tuple of Term
        In the exponent.
    codes : dict
        Nuisance -> code, of those that are interpolated between their density ratios at +-1.
    anchors : dict
        Nuisance -> ln E[exp(sum phi D)] at +1 and at -1, which normalises these ratios.
    """

    terms: tuple[Term, ...]
    codes: Mapping[str, str]
    anchors: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, trained: Trained, part: str, d: Mapping[Term, Floats], weights: Floats) -> "ShapeFactor":
        """That of a part, given its D at nominal events of these weights; both of shape (n,)."""
        share = weights / weights.sum()
        codes = {k: trained.codes[k] for k in trained.nuisances(part) if trained.codes[k] != "quadexp"}
        anchors = {k: (_log_mean(exponent_at(d, k, 1), share), _log_mean(exponent_at(d, k, -1), share)) for k in codes}
        return cls(tuple(shape_columns(part, trained)), codes, anchors)

    def exponent(self, d: Mapping[Term, Floats], alpha: Mapping[str, float], *, crossed: bool = True) -> Any:
        """sum_t phi_t(alpha) D_t; without ``crossed`` that of one-nuisance terms alone."""
        phi = {term: monomial(term, alpha) for term in self.terms if crossed or len(term) == 1}
        return sum((value * d[term] for term, value in phi.items() if value != 0), start=0.0)

    def at(self, d: Mapping[Term, Floats], alpha: Mapping[str, float], *, crossed: bool = True) -> Floats:
        """S(x|alpha) at the events of the D, shape (n,), not normalised."""
        shape = next(iter(d.values())).shape
        shifts, factors = np.ones(shape), np.exp(np.broadcast_to(self.exponent(d, alpha, crossed=crossed), shape))
        for k, code in self.codes.items():
            if not alpha.get(k):
                continue
            hi, lo = (np.exp(exponent_at(d, k, s) - z) for s, z in zip((1, -1), self.anchors[k], strict=True))
            if code in MULTIPLICATIVE:
                factors = factors * MULTIPLICATIVE[code](lo, hi)(np.full(shape, alpha[k]))[0]
            else:
                up, down = ADDITIVE[code](alpha[k])[0]
                shifts = shifts + up * (hi - 1) + down * (1 - lo)
        return np.asarray(shifts * factors)


def _log_mean(exponent: Floats, share: Floats) -> float:
    return float(np.log(share @ np.exp(exponent)))
