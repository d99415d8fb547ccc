"""-2 ln L of a model on one data set, with exact gradient and Hessian: what a minimiser calls.

`Likelihood` is made by `Model.likelihood(data)`. Its ``value`` and ``derivatives`` continue the logarithm smoothly
where a density is not positive (see `nuratio.model.positivity`); ``require_positive`` and ``nonpositive`` say where
that is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import lgamma, log
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import NonPositiveDensity
from nuratio.model.binned import BinnedTerm
from nuratio.model.passes import IN_PROCESS, EventSums, Point
from nuratio.model.positivity import RELATIVE_THRESHOLD
from nuratio.model.unbinned import EventCell, EventTerm

if TYPE_CHECKING:
    from nuratio.model.model import Model

__all__ = ["Likelihood"]

Floats = NDArray[np.float64]

_EXACT = 1e-100  # a relative threshold that no density of a physical model is below


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
    held : tuple of str
        Unbinned channels whose shapes do not change: derivatives in their shape nuisances are left out (see `holding`).
    sums : EventSums
        What sums over the events of the terms.
    """

    model: "Model"
    counts: Mapping[str, Floats]
    terms: Mapping[str, tuple[EventTerm, ...]]
    aux: Floats
    relative_threshold: float = RELATIVE_THRESHOLD
    held: tuple[str, ...] = ()
    sums: EventSums = IN_PROCESS

    def __reduce__(self) -> Any:
        return Likelihood, tuple(getattr(self, f.name) for f in fields(self))  # without what is remembered

    @cached_property
    def binned(self) -> BinnedTerm:
        """Binned channels and constraint terms."""
        model = self.model
        return BinnedTerm.compile(model.rates, model.constraints, self.counts, self.aux, self.relative_threshold)

    @cached_property
    def counts_of_events(self) -> float:
        """What makes -2 ln L of N events of a cell that of a Poisson count and of densities p(x | cell) / q(x | cell).

        2 [ln Gamma(N + 1) - N ln Q] for each cell, Q being its share of q: no parameter in it, but minimisers that
        differentiate numerically lose no digits to N ln N.
        """
        events: dict[EventCell, float] = {}
        for term in (t for terms in self.terms.values() for t in terms):
            events[term.cell] = events.get(term.cell, 0.0) + float(term.weights.sum())
        return 2 * sum(lgamma(n + 1) - n * log(cell.share_of_q) for cell, n in events.items())

    @cached_property
    def kinks(self) -> NDArray[np.bool_]:
        """Parameters in which -2 ln L may have a kink at zero, shape (P,): interpolation codes 0 and 1."""
        full = self.model.rates.kinks.copy()
        for channel in self.model.unbinned.values():
            full[list(channel.kinks)] = True
        out = np.zeros(len(self.model.parameters.names), dtype=bool)
        out[: len(self.model.parameters.own)] = full[list(self.model.parameters.own)]
        return out

    @cached_property
    def exact(self) -> "Likelihood":
        """The same without any continuation: right wherever all densities are positive, however small."""
        return replace(self, relative_threshold=_EXACT)

    def holding(self, fixed: ArrayLike) -> "Likelihood":
        """For a fit in which some parameters stay where they are.

        Channels whose shape nuisances are all among them are summed over precomputed densities: only rates change, and
        the table is not read again. Derivatives in these nuisances come out without their shape part.

        Parameters
        ----------
        fixed : array_like of bool, shape (P,)
        """
        still = set(np.flatnonzero(np.asarray(fixed)).tolist())
        own = {index: j for j, index in enumerate(self.model.parameters.own)}
        channels = self.model.unbinned.items()
        held = tuple(n for n, c in channels if c.nuisances and all(own.get(p) in still for p in c.nuisances))
        return replace(self, held=held) if held != self.held else self

    def value(self, theta: Floats) -> float:
        """-2 ln L."""
        return self._value(theta)[0]

    def _value(self, theta: Floats) -> tuple[float, int]:
        """-2 ln L, and the number of events where the density is not positive."""
        full = self.model.parameters.values(theta)
        nu = self.model.rates.nu(full)
        total, bad = self.binned.value(nu, full) + self.counts_of_events, 0
        for channel in self.terms:
            total += 2 * float(nu[self.model.rates.cells(channel)].sum())
        for value, wrong in self.sums.values(self._all_terms, self._points(nu, full)):
            total, bad = total + value, bad + wrong
        return total, bad

    @cached_property
    def _all_terms(self) -> list[EventTerm]:
        return [term for terms in self.terms.values() for term in terms]

    @cached_property
    def _where(self) -> list[tuple[str, slice, float]]:
        """Of each term: channel, cells of the companion, threshold."""
        cells = self.model.rates.cells
        return [
            (channel, cells(channel, term.cell.bin), self._threshold(channel, term.cell.bin))
            for channel, terms in self.terms.items()
            for term in terms
        ]

    def _points(self, nu: Floats, full: Floats) -> list[Point]:
        """Of each term, from the rates (cells,) and the companion's parameters (F,); or from several: rows."""
        return [(nu[..., cells], full, threshold) for _, cells, threshold in self._where]

    def derivatives(self, theta: Floats, *, hessian: bool) -> tuple[float, Floats, Floats]:
        """-2 ln L, its gradient (P,) and its Hessian (P, P); without ``hessian`` the last is empty."""
        model = self.model
        expansion = model.parameters.expand(theta)
        full = expansion.values
        rates = model.rates.rates(full)
        total, gradient, second = self.binned.derivatives(rates, full, hessian=hessian)
        if self.terms:
            total += self.counts_of_events
            by_cell = np.zeros_like(rates.nu)  # d(-2 ln L) / d nu of the companions
            for channel in self.terms:
                all_cells = model.rates.cells(channel)
                total += 2 * float(rates.nu[all_cells].sum())
                by_cell[all_cells] = 2.0
            held = [channel in self.held for channel, _, _ in self._where]
            found = self.sums.derivatives(self._all_terms, self._points(rates.nu, full), held=held, hessian=hessian)
            for term, (_, cells, _), still, (value, first, curve) in zip(
                self._all_terms, self._where, held, found, strict=True
            ):
                nuisances = [] if still else list(term.cell.nuisances)
                c = len(first) - len(nuisances)
                total += value
                by_cell[cells] += first[:c]
                gradient[nuisances] += first[c:]
                if hessian:
                    slope = rates.jacobian[cells]
                    second += slope.T @ curve[:c, :c] @ slope
                    mixed = slope.T @ curve[:c, c:]
                    second[:, nuisances] += mixed
                    second[nuisances, :] += mixed.T
                    second[np.ix_(nuisances, nuisances)] += curve[c:, c:]
            gradient += rates.gradient(by_cell)
            if hessian:
                second += rates.curvature(by_cell)
        if hessian:
            second = expansion.pull_hessian(gradient, second)
        return total, expansion.pull_gradient(gradient), second

    def many(self, thetas: Sequence[Floats]) -> tuple[Floats, Floats]:
        """-2 ln L (M,) and gradients (M, P) at M points in one pass over the events."""
        model = self.model
        expansions = [model.parameters.expand(np.asarray(theta)) for theta in thetas]
        full = np.array([e.values for e in expansions])
        rates = [model.rates.rates(f) for f in full]
        binned = [self.binned.derivatives(r, f, hessian=False) for r, f in zip(rates, full, strict=True)]
        values, gradients = np.array([b[0] for b in binned]), np.array([b[1] for b in binned])
        values += self.counts_of_events
        by_cell = np.zeros((len(full), len(model.rates.nominal)))
        for channel in self.terms:
            all_cells = model.rates.cells(channel)
            values += [2 * r.nu[all_cells].sum() for r in rates]
            by_cell[:, all_cells] = 2.0
        found = self.sums.many(self._all_terms, self._points(np.array([r.nu for r in rates]), full))
        for term, (_, cells, _), (value, first) in zip(self._all_terms, self._where, found, strict=True):
            c = first.shape[1] - len(term.cell.nuisances)
            values += value
            by_cell[:, cells] += first[:, :c]
            gradients[:, list(term.cell.nuisances)] += first[:, c:]
        if self.terms:
            gradients += [r.gradient(b) for r, b in zip(rates, by_cell, strict=True)]
        return values, np.array([e.pull_gradient(g) for e, g in zip(expansions, gradients, strict=True)])

    def gradient(self, theta: Floats) -> Floats:
        """d(-2 ln L) / d theta, shape (P,)."""
        return self.derivatives(theta, hessian=False)[1]

    def hessian(self, theta: Floats) -> Floats:
        """Second derivatives of -2 ln L, shape (P, P)."""
        return self.derivatives(theta, hessian=True)[2]

    def shape_hessians(self, theta: Floats) -> dict[str, Floats]:
        """Nuisance with shapes per event -> what these add to the Hessian, (P, P).

        That is the rows and columns of the nuisance in the sum over events. Where it is zero, the Hessian without them
        is that of a model in which it changes rates alone.
        """
        model = self.model
        expansion = model.parameters.expand(theta)
        full = expansion.values
        rates, unit = model.rates.rates(full), np.eye(len(full))
        added: dict[int, Floats] = {}
        still = [False] * len(self._all_terms)
        found = self.sums.derivatives(self._all_terms, self._points(rates.nu, full), held=still, hessian=True)
        for term, (_, cells, _), (_, _, curve) in zip(self._all_terms, self._where, found, strict=True):
            nuisances = list(term.cell.nuisances)
            c = len(curve) - len(nuisances)
            along = curve[c:] @ np.concatenate([rates.jacobian[cells], unit[nuisances]])
            for j, k in enumerate(nuisances):
                own = added.setdefault(k, np.zeros((len(full), len(full))))
                own[k] += along[j]
                own[:, k] += along[j]
                own[k, k] -= curve[c + j, c + j]
        names = dict(zip(model.parameters.own, model.parameters.names, strict=False))
        nowhere = np.zeros(len(full))
        return {names[k]: expansion.pull_hessian(nowhere, own) for k, own in added.items()}

    def positive_value(self, theta: Floats) -> float:
        """-2 ln L without any continuation, in one pass.

        Raises
        ------
        NonPositiveDensity
            As `require_positive`.
        """
        value, bad = self.exact._value(theta)
        if bad or self._empty_bins(self.model.rates.nu(self.model.parameters.values(theta))):
            self.require_positive(theta)
        return value

    def nonpositive(self, theta: Floats) -> list[str]:
        """One line for each bin or event with a weight where the total density is not positive."""
        full = self.model.parameters.values(theta)
        nu = self.model.rates.nu(full)
        lines = self._empty_bins(nu)
        points = self._points(nu, full)
        bad = [k for k, (_, wrong) in enumerate(self.sums.values(self._all_terms, points)) if wrong]
        if not bad:
            return lines
        found = self.sums.nonpositive([self._all_terms[k] for k in bad], [points[k] for k in bad])
        for k, (index, density, parts) in zip(bad, found, strict=True):
            channel = self._where[k][0]
            names = self.model.unbinned[channel].samples
            for i, d, part in zip(index, density, parts.T, strict=True):
                shares = ", ".join(f"{name} {p:+.3g}" for name, p in zip(names, part, strict=True))
                lines.append(f"density {d:.3g} at event {i} of channel {channel!r} ({shares})")
        return lines

    def _empty_bins(self, nu: Floats) -> list[str]:
        lines = []
        for channel, n in self.counts.items():
            rate = nu[self.model.rates.cells(channel)].reshape(-1, len(n)).sum(0)
            for b in np.flatnonzero(~((rate > 0) | ((rate == 0) & (n == 0)))):
                lines.append(f"expectation {rate[b]:.4g} with {n[b]:g} observed in bin {b} of channel {channel!r}")
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

    def _threshold(self, channel: str, bin: int) -> float:
        """Of the density over the reference density, in expected events."""
        scale = float(self.model.rates.scale[self.model.rates.bins[channel]][bin])
        return self.relative_threshold * max(scale, 1.0)
