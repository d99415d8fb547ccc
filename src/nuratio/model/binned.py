"""The binned channels and the constraint terms of one data set: -2 ln L with exact gradient and Hessian.

Everything about the model is compiled once (`HistFactory`, `Constraints`); a `BinnedTerm` adds what belongs to the
data, so that another data set (a toy) costs little. Rates are handed in: the same ones serve the unbinned channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel
from nuratio.model.constraints import Constraints
from nuratio.model.histfactory import HistFactory, Rates
from nuratio.model.terms import poisson_bins, saturated

__all__ = ["BinnedTerm"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BinnedTerm:
    """-2 ln of the Poisson terms of all binned channels and of all constraint terms, for fixed data.

    Attributes
    ----------
    rates : HistFactory
    constraints : Constraints
    bins : ndarray of int, shape (n,)
        The bins with counts, among those of all channels.
    counts : ndarray, shape (n,)
        Observed counts.
    aux : ndarray
        Auxiliary data.
    thresholds : ndarray, shape (n,)
        Rates below are continued smoothly (`nuratio.model.terms`).
    constant : float
        The part of -2 ln L that does not depend on the parameters.
    """

    rates: HistFactory
    constraints: Constraints
    bins: Ints
    counts: Floats
    aux: Floats
    thresholds: Floats
    constant: float

    @classmethod
    def compile(
        cls,
        rates: HistFactory,
        constraints: Constraints,
        counts: Mapping[str, Floats],
        aux: Floats,
        relative_threshold: float,
    ) -> "BinnedTerm":
        """For a data set.

        Parameters
        ----------
        rates : HistFactory
        constraints : Constraints
        counts : dict
            Binned channel -> observed counts, shape (bins of the channel,).
        aux : ndarray
            Auxiliary data.
        relative_threshold : float
            Rates are continued below this share of a bin's nominal yield, or of one event if that is more.

        Raises
        ------
        InvalidModel
            A channel has more or fewer counts than bins.
        """
        where = [rates.bins[channel] for channel in counts]
        for (channel, n), bins in zip(counts.items(), where, strict=True):
            if n.shape != (bins.stop - bins.start,):
                raise InvalidModel(f"channel {channel!r} has {bins.stop - bins.start} bins, its counts shape {n.shape}")
        index = np.array([b for bins in where for b in range(bins.start, bins.stop)], dtype=np.int64)
        n = np.concatenate([*counts.values(), np.empty(0)])
        thresholds = relative_threshold * np.maximum(rates.scale[index], 1.0)
        constant = saturated(n) + constraints.constant(aux)
        return cls(rates, constraints, index, n, aux, thresholds, constant)

    def value(self, nu: Floats, theta: Floats) -> float:
        """-2 ln L at the rates ``nu`` (cells,) and the companion's parameters ``theta`` (F,)."""
        nowhere = np.empty(len(theta))
        constraints = self.constraints.add_derivatives(theta, self.aux, nowhere, nowhere)
        return self.constant + self._poisson(nu)[0] + constraints

    def derivatives(self, rates: Rates, theta: Floats, *, hessian: bool) -> tuple[float, Floats, Floats]:
        """-2 ln L, its gradient (F,) and its Hessian (F, F); without ``hessian`` the last is empty."""
        value, first, second = self._poisson(rates.nu)
        gradient, diagonal = rates.gradient(first), np.zeros(len(theta))
        value += self.constant + self.constraints.add_derivatives(theta, self.aux, gradient, diagonal)
        if not hessian:
            return value, gradient, np.empty((0, 0))
        matrix = rates.curvature(first, second)
        matrix.flat[:: len(theta) + 1] += diagonal
        return value, gradient, matrix

    def _poisson(self, nu: Floats) -> tuple[float, Floats, Floats]:
        value, first, second = poisson_bins(*self.rates.cells_of_bins, nu, self.bins, self.counts, self.thresholds)
        return float(value), first, second
