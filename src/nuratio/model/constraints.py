"""Constraint terms: the auxiliary measurements of the constrained parameters, with exact derivatives.

Gaussian: a ~ N(theta, sigma). Poisson (shapesys): a ~ Pois(theta f), f = (yield / uncertainty)^2. Constants are those
of `pyhf.Model.logpdf`, so -2 ln L is the same number.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel
from nuratio.model.terms import add_constraints, saturated

__all__ = ["Constraints"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NARROWEST = 1e-100


@dataclass(frozen=True)
class Constraints:
    """All constraint terms of a pyhf model: parameter and auxiliary datum of each.

    Attributes
    ----------
    gauss_par, gauss_aux : ndarray of int
        Parameter and position in the auxiliary data of each Gaussian term.
    sigma : ndarray
        Their widths.
    pois_par, pois_aux : ndarray of int
        The same for the Poisson terms.
    factor : ndarray
        Their rate factors.
    """

    gauss_par: Ints
    gauss_aux: Ints
    sigma: Floats
    pois_par: Ints
    pois_aux: Ints
    factor: Floats

    @classmethod
    def compile(cls, config: Any) -> "Constraints":
        """Read them from a pyhf model's ``config``.

        Raises
        ------
        InvalidModel
            A constraint so narrow or wide that its logarithm is not a number.
        """
        gauss: list[tuple[int, int, float]] = []
        pois: list[tuple[int, int, float]] = []
        position = 0
        for name in config.auxdata_order:
            paramset = config.param_set(name)
            terms, values = (gauss, paramset.width()) if paramset.pdf_type == "normal" else (pois, paramset.factors)
            start = config.par_slice(name).start
            for j in range(paramset.n_parameters):
                if not _NARROWEST < values[j] < 1 / _NARROWEST:
                    raise InvalidModel(
                        f"parameter {name!r}: the constraint's {'width' if terms is gauss else 'rate factor'} is "
                        f"{values[j]:.3g}, not between {_NARROWEST} and {1 / _NARROWEST}; hold it fixed, or remove it"
                    )
                terms.append((start + j, position + j, float(values[j])))
            position += paramset.n_parameters
        g, p = np.array(gauss).reshape(-1, 3), np.array(pois).reshape(-1, 3)
        return cls(
            g[:, 0].astype(np.int64),
            g[:, 1].astype(np.int64),
            g[:, 2],
            p[:, 0].astype(np.int64),
            p[:, 1].astype(np.int64),
            p[:, 2],
        )

    def constant(self, aux: Floats) -> float:
        """The part of -2 ln of all terms that does not depend on the parameters."""
        return float(np.log(2 * np.pi * self.sigma**2).sum()) + saturated(aux[self.pois_aux])

    def twice_nll(self, theta: Floats, aux: Floats) -> tuple[float, Floats, Floats]:
        """-2 ln of all terms, its gradient (F,) and the diagonal of its Hessian (F,)."""
        gradient, diagonal = np.zeros(len(theta)), np.zeros(len(theta))
        return self.constant(aux) + self.add_derivatives(theta, aux, gradient, diagonal), gradient, diagonal

    def add_derivatives(self, theta: Floats, aux: Floats, gradient: Floats, diagonal: Floats) -> float:
        """-2 ln of all terms without `constant`; its derivatives are added to ``gradient`` and ``diagonal``, (F,)."""
        terms = self.gauss_par, self.gauss_aux, self.sigma, self.pois_par, self.pois_aux, self.factor
        value = add_constraints(
            *terms, np.array(theta, dtype=np.float64), np.ascontiguousarray(aux), gradient, diagonal
        )
        return float(value)

    def expected(self, theta: Floats) -> Floats:
        """Expected auxiliary data, shape (auxdata,)."""
        aux = np.empty(len(self.gauss_aux) + len(self.pois_aux))
        aux[self.gauss_aux] = theta[self.gauss_par]
        aux[self.pois_aux] = theta[self.pois_par] * self.factor
        return aux

    def sample(self, theta: Floats, rng: np.random.Generator) -> Floats:
        """One draw of the auxiliary data, shape (auxdata,)."""
        aux = np.empty(len(self.gauss_aux) + len(self.pois_aux))
        aux[self.gauss_aux] = rng.normal(theta[self.gauss_par], self.sigma)
        aux[self.pois_aux] = rng.poisson(theta[self.pois_par] * self.factor)
        return aux

    def centers(self, aux: Floats, size: int) -> tuple[Floats, Floats]:
        """Where the auxiliary data put each parameter, and the width: two arrays (size,), NaN for free parameters."""
        center, width = np.full(size, np.nan), np.full(size, np.nan)
        center[self.gauss_par], width[self.gauss_par] = aux[self.gauss_aux], self.sigma
        center[self.pois_par] = aux[self.pois_aux] / self.factor
        width[self.pois_par] = 1 / np.sqrt(self.factor)
        return center, width
