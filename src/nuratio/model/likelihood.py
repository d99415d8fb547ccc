"""-2 ln L of a model on one data set, with exact gradient and Hessian: what a minimiser calls.

`Likelihood` is made by `Model.likelihood(data)`. Its ``value`` and ``derivatives`` continue the logarithm smoothly
where a density is not positive (see `nuratio.model.positivity`); ``require_positive`` and ``nonpositive`` say where
that is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from nuratio.errors import NonPositiveDensity
from nuratio.model.positivity import RELATIVE_THRESHOLD, extended_log
from nuratio.model.unbinned import EventTerm

if TYPE_CHECKING:
    from nuratio.model.model import Model

__all__ = ["Likelihood"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """-2 ln L(theta) for fixed data, theta being the P free parameters.

    Attributes
    ----------
    model : Model
    counts : dict
        Binned channel -> observed counts.
    terms : dict
        Unbinned channel -> its event terms.
    aux : ndarray
        Auxiliary data.
    relative_threshold : float
        Densities and rates below this share of the nominal expectation are continued smoothly.
    """

    model: "Model"
    counts: Mapping[str, Floats]
    terms: Mapping[str, tuple[EventTerm, ...]]
    aux: Floats
    relative_threshold: float = RELATIVE_THRESHOLD

    @property
    def exact(self) -> "Likelihood":
        """The same without any continuation: right wherever all densities are positive, however small."""
        return replace(self, relative_threshold=1e-100)

    def value(self, theta: Floats) -> float:
        """-2 ln L."""
        full = self.model.parameters.values(theta)
        nu = self.model.rates.nu(full)
        total = self.model.constraints.twice_nll(full, self.aux)[0]
        for channel, n in self.counts.items():
            cells = nu[self.model.rates.cells(channel)].reshape(-1, len(n))
            total += _poisson(cells.sum(0), n, self._threshold(channel))[0]
        for channel, terms in self.terms.items():
            yields = nu[self.model.rates.cells(channel)]
            limit = self._threshold(channel)[0]
            total += 2 * float(yields.sum()) + sum(t.value(yields, full, limit) for t in terms)
        return total

    def derivatives(self, theta: Floats, *, hessian: bool) -> tuple[float, Floats, Floats]:
        """-2 ln L, its gradient (P,) and its Hessian (P, P); without ``hessian`` the last is empty."""
        model = self.model
        expansion = model.parameters.expand(theta)
        full = expansion.values
        rates = model.rates.rates(full)
        total, gradient, diagonal = model.constraints.twice_nll(full, self.aux)
        second = np.diag(diagonal) if hessian else np.empty((0, 0))
        by_cell = np.zeros_like(rates.nu)  # d(-2 ln L) / d nu
        for channel, n in self.counts.items():
            cells = model.rates.cells(channel)
            value, first, curve = _poisson(rates.nu[cells].reshape(-1, len(n)).sum(0), n, self._threshold(channel))
            total += value
            by_cell[cells] = np.tile(first, (cells.stop - cells.start) // len(n))
            if hessian:
                bins = rates.jacobian[cells].reshape(-1, len(n), len(full)).sum(0)
                second += (bins * curve[:, None]).T @ bins
        for channel, terms in self.terms.items():
            cells = model.rates.cells(channel)
            yields, slope = rates.nu[cells], rates.jacobian[cells]
            c = len(yields)
            total += 2 * float(yields.sum())
            by_cell[cells] = 2.0
            limit = self._threshold(channel)[0]
            nuisances = list(model.unbinned[channel].nuisances)
            for term in terms:
                value, first, curve = term.derivatives(yields, full, limit, hessian=hessian)
                total += value
                by_cell[cells] += first[:c]
                gradient[nuisances] += first[c:]
                if hessian:
                    second += slope.T @ curve[:c, :c] @ slope
                    mixed = slope.T @ curve[:c, c:]
                    second[:, nuisances] += mixed
                    second[nuisances, :] += mixed.T
                    second[np.ix_(nuisances, nuisances)] += curve[c:, c:]
        gradient += by_cell @ rates.jacobian
        if hessian:
            second += rates.curvature(by_cell)
            second = expansion.pull_hessian(gradient, second)
        return total, expansion.pull_gradient(gradient), second

    def gradient(self, theta: Floats) -> Floats:
        """d(-2 ln L) / d theta, shape (P,)."""
        return self.derivatives(theta, hessian=False)[1]

    def hessian(self, theta: Floats) -> Floats:
        """Second derivatives of -2 ln L, shape (P, P)."""
        return self.derivatives(theta, hessian=True)[2]

    def nonpositive(self, theta: Floats) -> list[str]:
        """One line for each bin or event with a weight where the total density is not positive."""
        full = self.model.parameters.values(theta)
        nu = self.model.rates.nu(full)
        lines = []
        for channel, n in self.counts.items():
            rate = nu[self.model.rates.cells(channel)].reshape(-1, len(n)).sum(0)
            for b in np.flatnonzero(~((rate > 0) | ((rate == 0) & (n == 0)))):
                lines.append(f"expectation {rate[b]:.4g} with {n[b]:g} observed in bin {b} of channel {channel!r}")
        for channel, terms in self.terms.items():
            names = [s.name for s in self.model.unbinned[channel].samples]
            for term in terms:
                index, density, parts = term.nonpositive(nu[self.model.rates.cells(channel)], full)
                for i, d, part in zip(index, density, parts.T, strict=True):
                    shares = ", ".join(f"{name} {p:+.3g}" for name, p in zip(names, part, strict=True))
                    lines.append(f"density {d:.3g} at event {i} of channel {channel!r} ({shares})")
        return lines

    def require_positive(self, theta: Floats) -> None:
        """Raise if the total density is not positive at an observed event or bin.

        Raises
        ------
        NonPositiveDensity
            Channel, event, the samples that cancel, and the parameter values.
        """
        lines = self.nonpositive(theta)
        if lines:
            at = ", ".join(f"{n} = {v:.4g}" for n, v in zip(self.model.config.par_names, theta, strict=True))
            raise NonPositiveDensity(
                f"{lines[0]}{f', and {len(lines) - 1} more' if len(lines) > 1 else ''}, at {at}; "
                "check yields and ratios of the samples that cancel, or restrict the parameters' bounds"
            )

    def _threshold(self, channel: str) -> Floats:
        cells = self.model.rates.cells(channel)
        bins = self.model.rates.channels[channel][2]
        scale = np.abs(self.model.rates.nominal[cells]).reshape(-1, bins).sum(0)
        return np.asarray(self.relative_threshold * np.maximum(scale, 1.0))


def _poisson(rate: Floats, n: Floats, threshold: Floats) -> tuple[float, Floats, Floats]:
    """-2 ln Pois(n | rate) summed over bins, with derivatives per bin; continued where the rate is not positive."""
    log, log1, log2 = extended_log(rate, threshold)
    empty = n == 0  # no logarithm: a cubic wall keeps an empty bin's rate from running below zero
    wall = np.where(empty & (rate < 0), rate / threshold, 0.0)
    log, log1, log2 = (np.where(empty, 0.0, x) for x in (log, log1, log2))
    value = 2 * float(np.sum(rate - n * log + gammaln(n + 1) - wall**3))
    return value, 2 * (1 - n * log1 - 3 * wall**2 / threshold), -2 * (n * log2 + 6 * wall / threshold**2)
