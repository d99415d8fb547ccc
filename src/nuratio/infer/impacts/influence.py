"""How the statistics of the simulation move a fit, without a refit: the influence function.

Use `simulation_covariance` for the error that a fit inherits from the finite simulation behind its ratios (every
`nuratio.fit` reports it), `simulation_covariances` for the samples it comes from, `influence` for single events.

The density of a channel is lambda(x | theta) = sum_c nu_c(theta) p_c(x | theta). In it, simulated event j of sample c
stands for the mass

    m_j = nu_c(theta) (w_j / W_c) S_c(x_j | alpha) / Z_c(alpha)      at x_j,

W_c being the sum of the sample's weights. If its weight changes by the factor 1 + eps, lambda changes by eps m_j
delta(x - x_j), and the minimum of -ln L, for data that are distributed like lambda, by

    d theta = - eps m_j H^-1 s(x_j),      s = d ln lambda / d theta,

H being the Hessian of -ln L with its constraint terms: simulated events that look as if theta were large pull theta
down. That is rate and shape together; variations of the event are taken to change with it. If the yield nu_c does not
fluctuate with these events (it is known, or the companion has a staterror or shapesys for it), the density of the
sample stays normalised, and s(x_j) becomes s(x_j) - E_c[s], the mean being that of the sample (in its cell). Weights
fluctuate independently, each by its own size, so that

    V = sum_j (d theta_j) (d theta_j)^T,      d theta_j at eps = 1.

For a sample without events in the pool, sums over events are integrals over the pool, as if n_eff = W^2 / sum w^2
events were distributed like the sample: sum_j m_j^2 s s^T = nu_c^2 / n_eff E_c[(S_c / Z_c)^2 s s^T].

For a network that learns p_c from the events this is the error of any regular estimator of integrals of p_c. Not in it:
what the training adds (random start, early stopping), the statistics of the variations behind S_c, and templates of
binned channels without a staterror. Two events of the pool that were made from one generated event count as two.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.results import FitResult
from nuratio.model.asimov import MAX_NEGATIVE
from nuratio.model.simulation import Simulation
from nuratio.model.unbinned import EventCell

__all__ = ["influence", "simulation_covariance", "simulation_covariances"]

Floats = NDArray[np.float64]

_CHUNK = 8192


def simulation_covariance(model: Any, fit: FitResult) -> Floats:
    """Covariance of the best fit from the statistics of the simulation, shape (P, P): the sum over all samples.

    Parameters
    ----------
    model : Model
    fit : FitResult
        With its covariance. Of observed or of Asimov data: the latter predicts the error before any fit of data.

    Returns
    -------
    ndarray
        NaN where it is unknown: a fit without a covariance, a model without unbinned channels, or one with a sample
        that does not say what simulation is behind it.
    """
    parts = simulation_covariances(model, fit)
    return np.sum(list(parts.values()), axis=0) if parts else np.full_like(fit.covariance, np.nan)


def simulation_covariances(model: Any, fit: FitResult) -> dict[tuple[str, str], Floats]:
    """The same for each (unbinned channel, sample); arguments as for `simulation_covariance`."""
    if not getattr(model, "unbinned", None) or not np.isfinite(fit.covariance).all():
        return {}
    found: dict[tuple[str, str], Floats] = {}
    for name, channel in model.unbinned.items():
        if channel.simulation is None:
            found |= {(name, sample): np.full_like(fit.covariance, np.nan) for sample in channel.samples}
            continue
        for cell in channel.cells:
            view = _View.of(model, fit, name, cell)
            sums = reduce(add, model.passes.over_pool(name, cell, _Sums.of, view.simulation, view.nu, view.theta))
            for sample, matrix in zip(channel.samples, view.covariances(sums), strict=True):
                found[name, sample] = found.get((name, sample), 0.0) + matrix
    return found


def influence(model: Any, fit: FitResult, channel: str, parameter: str | None = None) -> Floats:
    """How far the best fit of a parameter moves with the weight of each simulated event; shape (pool events,).

    A weight larger by the factor 1 + eps moves it by eps times this, to first order, for data that are distributed like
    the model at the best fit. The sum of squares is what these events contribute to `simulation_covariance`.

    Parameters
    ----------
    model : Model
    fit : FitResult
        With its covariance.
    channel : str
        An unbinned channel.
    parameter : str, optional
        The parameter of interest by default.

    Raises
    ------
    UnknownName
        No such unbinned channel or parameter.
    InvalidModel
        The fit has no covariance; the channel does not say whose events those of the pool are.
    """
    if channel not in model.unbinned:
        raise UnknownName(f"no unbinned channel {channel!r}; {did_you_mean(channel, model.unbinned, 'channels')}")
    own = model.unbinned[channel]
    if own.simulation is None:
        raise InvalidModel(
            f"channel {channel!r}: not every sample has the key 'simulation', which says what its events in the pool "
            "are; build the workspace again"
        )
    if not np.isfinite(fit.covariance).all():
        raise InvalidModel("the fit has no covariance, which the influence of an event is made of: fit with hesse=True")
    k = fit.index(model.config.poi_name if parameter is None else parameter)
    out = np.zeros(len(own.pool))
    for cell in own.cells:
        of_cell = _View.of(model, fit, channel, cell).influence(k)
        out[slice(None) if cell.pool.index is None else cell.pool.index] = of_cell
    return out


@dataclass(frozen=True, eq=False)
class _View:
    """A cell of C samples at a fit: its pool events as the fit sees them.

    Attributes
    ----------
    cell : EventCell
    simulation : Simulation
    nu : ndarray, shape (C,)
        Yields.
    theta : ndarray, shape (F,)
        The companion's parameters.
    response : ndarray, shape (P, C + K)
        H^-1 J^T: what a score in the cell's yields and K nuisances does to the parameters.
    """

    cell: EventCell
    simulation: Simulation
    nu: Floats
    theta: Floats
    response: Floats

    @classmethod
    def of(cls, model: Any, fit: FitResult, channel: str, cell: EventCell) -> "_View":
        expansion = model.parameters.expand(fit.bestfit)
        rates, where = model.rates.rates(expansion.values), model.rates.cells(channel, cell.bin)
        nuisances = np.eye(len(expansion.values))[list(cell.nuisances)]
        jacobian = expansion.pull_gradient(np.concatenate([rates.jacobian[where], nuisances]))
        simulation = model.unbinned[channel].simulation
        return cls(cell, simulation, rates.nu[where], expansion.values, fit.covariance @ jacobian.T)

    def scores(self) -> Iterator[tuple[slice, Floats, Floats, Floats]]:
        """Pool events some at a time: densities T (C, m), S / Z (C, m), scores in yields and nuisances (C + K, m)."""
        cell, c = self.cell, len(self.nu)
        rows = [cell.pool.table.row(sample.ratio) for sample in cell.samples]
        blocks = zip(cell.evaluate(cell.pool, self.theta, size=_CHUNK), cell.pool.chunks(_CHUNK), strict=True)
        for (events, t, slopes), (_, x) in blocks:
            score = np.concatenate([t, np.zeros((len(cell.nuisances), t.shape[1]))])
            for n, sample, slope in zip(self.nu, cell.samples, slopes, strict=True):
                if sample.par:
                    score[c + np.searchsorted(cell.nuisances, sample.par)] += n * slope
            density = self.nu @ t
            score = np.divide(score, density, out=np.zeros_like(score), where=density > 0)
            r = x[rows]
            yield events, t, np.divide(t, r, out=np.ones_like(t), where=r != 0), score

    def owned(self, part: NDArray[np.int64], q: Floats, c: int) -> tuple[NDArray[np.bool_], Floats]:
        """Which pool events, given their parts and reference weights, are of sample c, and the shares w / W of them."""
        weights = self.simulation.parts[c]
        of_sample = np.isin(part, list(weights))
        share = np.sum([w * (part[of_sample] == p) for p, w in weights.items()], axis=0)
        return of_sample, q[of_sample] * share

    @property
    def part(self) -> NDArray[np.int64]:
        """Of each pool event of the cell; -1 where nothing is known."""
        if self.simulation.column is None:
            return np.full(len(self.cell.pool), -1)
        column = np.asarray(self.cell.pool.table[self.simulation.column])
        return self.cell.pool.of(column.astype(np.int64))

    def covariances(self, sums: "_Sums") -> list[Floats]:
        """What each sample contributes, (P, P) each."""
        if sums.lost > MAX_NEGATIVE * sums.kept:  # no data are distributed like this
            return [np.full((len(self.response),) * 2, np.nan) for _ in sums.samples]
        fixed = self.simulation.fixed_yield[:, self.cell.bin]
        return [
            self.response @ m.covariance(float(n), bool(f)) @ self.response.T
            for m, n, f in zip(sums.samples, self.nu, fixed, strict=True)
        ]

    def influence(self, k: int) -> Floats:
        """Of each pool event of the cell on parameter k."""
        n = len(self.cell.pool)
        moved, mass, owner, part = np.zeros(n), np.zeros(n), np.full(n, -1), self.part
        for events, _, s_over_z, score in self.scores():
            q, here = self.cell.pool_weights[events], part[events]
            moved[events] = self.response[k] @ score
            for c in range(len(self.nu)):
                mine, share = self.owned(here, q, c)
                mass[events][mine], owner[events][mine] = share * s_over_z[c, mine], c
        for c, n_c in enumerate(self.nu):
            mine = owner == c
            if mine.any():
                mass[mine] *= n_c / mass[mine].sum()
                if self.simulation.fixed_yield[c, self.cell.bin]:
                    moved[mine] -= mass[mine] @ moved[mine] / mass[mine].sum()
        return -mass * moved


@dataclass(eq=False)
class _Moments:
    """Sums over the events of a sample: of masses m, m s, and with squares of masses, of 1, s, s s^T."""

    mass: float
    first: Floats
    square: float
    square_first: Floats
    square_second: Floats

    @classmethod
    def zero(cls, size: int) -> "_Moments":
        return cls(0.0, np.zeros(size), 0.0, np.zeros(size), np.zeros((size, size)))

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def add(self, mass: Floats, square: Floats, score: Floats) -> None:
        weighted = score * square
        self.mass += float(mass.sum())
        self.first += score @ mass
        self.square += float(square.sum())
        self.square_first += weighted.sum(1)
        self.square_second += weighted @ score.T

    def covariance(self, nu: float, fixed_yield: bool) -> Floats:
        """sum m^2 (s - mean)(s - mean)^T with masses that add up to nu; the mean is 0 if the yield fluctuates too."""
        if nu == 0:
            return np.zeros_like(self.square_second)
        if self.mass == 0:  # expected events, none of them simulated
            return np.full_like(self.square_second, np.nan)
        mean = self.first / self.mass if fixed_yield else np.zeros_like(self.first)
        cross = np.outer(self.square_first, mean)
        centred = self.square_second - cross - cross.T + self.square * np.outer(mean, mean)
        return np.asarray(centred * (nu / self.mass) ** 2)


@dataclass(frozen=True, eq=False)
class _Sums:
    """What the covariances need of the pool events of a cell.

    Attributes
    ----------
    samples : tuple of _Moments
    lost, kept : float
        The expectation at events with a negative density, and with a positive one.
    """

    samples: tuple[_Moments, ...]
    lost: float
    kept: float

    @classmethod
    def of(cls, cell: EventCell, simulation: Simulation, nu: Floats, theta: Floats) -> "_Sums":
        size = len(nu) + len(cell.nuisances)
        view = _View(cell, simulation, nu, theta, np.empty((0, size)))
        sums = tuple(_Moments.zero(size) for _ in nu)
        part, lost, kept = view.part, 0.0, 0.0
        for events, t, s_over_z, score in view.scores():
            q, here = cell.pool_weights[events], part[events]
            expected = q * (nu @ t)
            lost, kept = lost - expected[expected < 0].sum(), kept + expected[expected > 0].sum()
            for c, moments in enumerate(sums):
                if simulation.parts[c]:
                    mine, share = view.owned(here, q, c)
                    mass = share * s_over_z[c, mine]
                    moments.add(mass, mass**2, score[:, mine])
                else:
                    mass = q * t[c]
                    moments.add(mass, np.abs(mass * s_over_z[c]) / simulation.effective[c], score)
        return cls(sums, float(lost), float(kept))

    def __add__(self, other: "_Sums") -> "_Sums":
        both = zip(self.samples, other.samples, strict=True)
        return _Sums(tuple(a + b for a, b in both), self.lost + other.lost, self.kept + other.kept)
