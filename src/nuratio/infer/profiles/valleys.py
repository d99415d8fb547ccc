"""The local minima of one likelihood that are known so far, and heights above the lowest of them."""

import numpy as np

from nuratio.infer.fitting.fit import Fitter
from nuratio.infer.fitting.minimum import Minimum

__all__ = ["LOWER", "Valleys", "lower"]

LOWER = 1e-7  # of -2 ln L: less is no difference between two minima


class Valleys:
    """Local minima; whichever is the lowest is the best fit.

    Attributes
    ----------
    fitter : Fitter
    minima : list of Minimum
    """

    def __init__(self, fitter: Fitter) -> None:
        self.fitter = fitter
        self.minima: list[Minimum] = []
        self._valid: dict[Minimum, bool] = {}

    @property
    def best(self) -> Minimum:
        """The lowest one, of the valid ones if there are any; the one found first of those that are equal."""
        best = self.minima[0]
        for minimum in self.minima[1:]:
            if (self.valid(minimum), -minimum.value - LOWER) > (self.valid(best), -best.value):
                best = minimum
        return best

    def valid(self, minimum: Minimum) -> bool:
        """Whether a fit converged, where all densities are positive."""
        if minimum not in self._valid:
            self._valid[minimum] = minimum.valid and not self.fitter.likelihood.nonpositive(minimum.theta)
        return self._valid[minimum]

    def rise(self, minimum: Minimum) -> float:
        """2 Delta ln L of any fit with respect to the best one; infinite if it is not valid."""
        return minimum.value - self.best.value if self.valid(minimum) else float(np.inf)

    def in_order(self) -> list[Minimum]:
        """The minima, the best fit first."""
        best = self.best
        return sorted(self.minima, key=lambda m: (m is not best, self.rise(m)))


def lower(found: Minimum, known: Minimum | None) -> bool:
    """Whether a fit is better than a known one: it converged and the other one did not, or it is lower."""
    return known is None or (found.valid, -found.value - LOWER) > (known.valid, -known.value)
