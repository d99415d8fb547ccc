"""Test statistics of arXiv:1007.1727 on one data set, from its free and conditional fits.

With lambda(mu) the likelihood ratio of the conditional fit at mu to the free one:

    t       -2 ln lambda(mu), for intervals (Sec. 2.1); with bounds on the POI the ordering of Feldman and Cousins
    ttilde  the same with the POI not below zero (Eq. 11)
    q0      t(0), zero if the best fit is negative (Eq. 12)
    q       t(mu), zero if the best fit is above mu (Eq. 14)
    qtilde  ttilde(mu), zero if the best fit is above mu (Eq. 16)

References
----------
G. Cowan, K. Cranmer, E. Gross, O. Vitells, Eur. Phys. J. C 71 (2011) 1554. G. Feldman, R. Cousins, Phys. Rev. D 57
(1998) 3873.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nuratio.infer.fitting.fit import Fitter, cancellation
from nuratio.infer.fitting.minimum import Minimum
from nuratio.infer.profiles.profile import profile

__all__ = ["STATISTICS", "Profile", "Statistic"]


@dataclass(frozen=True)
class Statistic:
    """What tells a test statistic from -2 ln lambda(mu).

    Attributes
    ----------
    zero : callable
        Best fit and tested value of the POI -> whether the statistic is zero, whatever the likelihoods.
    bounded : bool
        A best fit below zero counts as one at zero.
    """

    zero: Callable[[float, float], bool]
    bounded: bool


STATISTICS = {
    "t": Statistic(lambda poi_hat, value: False, bounded=False),
    "ttilde": Statistic(lambda poi_hat, value: False, bounded=True),
    "q0": Statistic(lambda poi_hat, value: poi_hat < value, bounded=False),
    "q": Statistic(lambda poi_hat, value: poi_hat > value, bounded=False),
    "qtilde": Statistic(lambda poi_hat, value: poi_hat > value, bounded=True),
}


class Profile:
    """Free and conditional minima of one data set; conditional fits start from the nearest one known.

    Parameters
    ----------
    fitter : Fitter
    poi : str
    generated_at : Minimum, optional
        Of Asimov data: the point they were generated at, which is their best fit.
    init : mapping, optional
        Where the free fit starts.
    starts : sequence of float
        Values of the POI from which it starts, too; the lowest minimum counts.
    """

    def __init__(
        self,
        fitter: Fitter,
        poi: str,
        *,
        generated_at: Minimum | None = None,
        init: Mapping[str, float] | None = None,
        starts: Sequence[float] = (),
    ) -> None:
        self.fitter, self.poi = fitter, poi
        self.k = fitter.index(poi)
        self.conditional: dict[float, Minimum] = {}
        self.problems: dict[str, str] = {}
        if generated_at is None:
            inits = [init, *({**(init or {}), poi: value} for value in starts)]
            found = [fitter.minimum(init=start) for start in inits]
            minimum = min(found, key=lambda m: (not m.valid, m.value))
        else:  # Asimov data: the best fit is the point they were generated at
            value = float(generated_at.theta[self.k])
            minimum = self.conditional[value] = fitter.minimum(fixed={poi: value}, near=generated_at)
        self.free = self._note("free fit", minimum)

    def at(self, value: float) -> Minimum:
        """The conditional minimum at a POI value."""
        self.prepare([value])
        return self.conditional[value]

    def prepare(self, values: Iterable[float]) -> None:
        """Find the conditional minima at all of these POI values, sharing passes over the events."""
        missing = np.array(sorted(set(values) - self.conditional.keys()), dtype=np.float64)
        known = [self.free, *self.conditional.values()]
        for value, minimum in zip(missing.tolist(), profile(self.fitter, self.poi, missing, known), strict=True):
            if minimum.valid and minimum.value < self.free.value - 1e-7:  # a better minimum than the free fit found
                self.free = self._note("free fit", self.fitter.minimum(near=minimum))
            self.conditional[value] = self._note(f"{self.poi} = {value:.6g}", minimum)

    def statistic(self, value: float, test_stat: str) -> float:
        """The test statistic for a POI value, never below zero."""
        conditional, free = self.at(value), self.free  # in this order: the first may find a better minimum
        poi_hat = free.theta[self.k]
        if STATISTICS[test_stat].zero(poi_hat, value):
            return 0.0
        if STATISTICS[test_stat].bounded and poi_hat < 0:
            free = self.at(0.0)
        return max(conditional.value - free.value, 0.0)

    @property
    def wrong(self) -> list[str]:
        """What is wrong with the fits, a line each."""
        return [f"{fit}: {what}" for fit, what in self.problems.items()]

    def _note(self, name: str, minimum: Minimum) -> Minimum:
        """Keep what is wrong with a fit, if anything."""
        lines = self.fitter.likelihood.nonpositive(minimum.theta)
        self.problems.pop(name, None)
        if not minimum.valid:
            self.problems[name] = minimum.message
        elif lines:
            self.problems[name] = cancellation(lines)
        return minimum
