"""The unbinned term of the likelihood.

    -2 ln L = 2 [ nu_tot(theta) - sum_i w_i ln( sum_c nu_c(theta) T_c(x_i | alpha) ) ]

up to a number that `nuratio.model.likelihood` adds, without parameters. An unbinned channel is a histogram with one bin
per event: its list of events is the observed ones, then the pool of simulated ones, and a data set is a weight for
each. nu_tot belongs to the companion channel (`Model` adds it).

Where the companion has several bins, events lie in coarse cells, and the density is that of a hybrid between a binned
and an unbinned channel, nu_cb(theta) p_c(x | b, alpha): rates with parameters per bin (staterror, shapesys,
shapefactor), shapes within the cell.

Kernels sum over events with effective yields nu_c / N_c(alpha) (`nuratio.model.kernels.program`); the chain rule from
there to yields and nuisances is here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nuratio.model.kernels.arrays import sample_blocks
from nuratio.model.kernels.kernel import Kernel
from nuratio.model.kernels.loops import Coefficients
from nuratio.model.kernels.program import Mode, Program, Sums
from nuratio.model.shapes import SampleShape
from nuratio.model.simulation import Simulation
from nuratio.ratios.table import RatioTable

__all__ = ["EventCell", "EventTerm", "Events", "PoolSum", "UnbinnedChannel"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
N = TypeVar("N", np.float64, np.int64)


@dataclass(frozen=True, eq=False)
class Events:
    """Events of a table: all of them, or those at ``index``.

    Attributes
    ----------
    table : RatioTable
    index : ndarray of int, shape (n,), or None
    """

    table: RatioTable
    index: Ints | None = None

    def __reduce__(self) -> Any:
        return Events, (self.table, self.index)  # without the rows, which may be a copy

    def __len__(self) -> int:
        return len(self.table) if self.index is None else len(self.index)

    @cached_property
    def rows(self) -> RatioTable:
        """Their rows: the table itself, without a copy, if that is all of them."""
        return self.table if self.index is None else self.table.take(self.index)

    def chunks(self, size: int) -> Iterator[tuple[slice, Floats]]:
        """Some events at a time: (which of the n, columns in float64 of shape (columns, m)), m <= ``size``."""
        if self.index is None:
            yield from self.table.chunks(size)
            return
        for start in range(0, len(self.index), size):
            part = self.index[start : start + size]
            yield slice(start, start + len(part)), self.table.take(part).values.astype(np.float64)

    def of(self, values: NDArray[N]) -> NDArray[N]:
        """What numbers of the table's events are for these ones, shape (n,)."""
        return values if self.index is None else values[self.index]

    def where(self, kept: NDArray[np.bool_]) -> "Events":
        """Some of them; shape of the mask (n,)."""
        if kept.all():
            return self
        return Events(self.table, np.flatnonzero(kept) if self.index is None else self.index[kept])


@dataclass(frozen=True, eq=False)
class UnbinnedChannel:
    """One unbinned channel: its events, in one cell or in several coarse ones.

    Attributes
    ----------
    name : str
        Also the companion channel's.
    observed, pool : RatioTable
        The two event tables.
    cells : tuple of EventCell
        One for each bin of the companion.
    observed_features, pool_features : RatioTable or None
        Features of the same events, for drawing.
    simulation : Simulation or None
        Whose events the pool's are, if that is known.
    """

    name: str
    observed: RatioTable
    pool: RatioTable
    cells: "tuple[EventCell, ...]"
    observed_features: RatioTable | None = None
    pool_features: RatioTable | None = None
    simulation: Simulation | None = None

    def __len__(self) -> int:
        return len(self.observed) + len(self.pool)

    @property
    def samples(self) -> tuple[str, ...]:
        """Names of the samples."""
        return tuple(s.name for s in self.cells[0].samples)

    @cached_property
    def nuisances(self) -> tuple[int, ...]:
        """The nuisances with a shape effect in this channel (companion indices, sorted)."""
        return tuple(sorted({p for cell in self.cells for p in cell.nuisances}))

    @property
    def kinks(self) -> tuple[int, ...]:
        """Nuisances in which shapes may have a kink at zero: those of codes 0 and 1."""
        variations = [v for cell in self.cells for s in cell.samples for v in (*s.factors, *s.shifts)]
        return tuple(sorted({v.par for v in variations if v.code in ("code0", "code1")}))

    def terms(self, weights: Floats) -> "tuple[EventTerm, ...]":
        """The likelihood terms of a data set, given the weights of all events: observed ones, then the pool."""
        n = len(self.observed)
        return tuple(term for cell in self.cells for term in cell.terms(weights[:n], weights[n:]))


@dataclass(frozen=True, eq=False)
class EventCell:
    """The events of an unbinned channel that share a bin of the companion, and so their yields; usually all of them.

    Attributes
    ----------
    samples : tuple of SampleShape
        In the companion's order (C of them), normalised to 1 over the cell.
    observed, pool : Events
    pool_weights : ndarray, shape (pool events of the cell,)
        Reference weights of the pool: the measure q(x) dx, summing to 1 over the channel.
    bin : int
        Of the companion.
    kernel : Kernel
        What evaluates the events.
    """

    samples: tuple[SampleShape, ...]
    observed: Events
    pool: Events
    pool_weights: Floats
    bin: int = 0
    kernel: Kernel = field(default_factory=Kernel)

    @cached_property
    def nuisances(self) -> tuple[int, ...]:
        """The K nuisances with a shape effect here (companion indices, sorted)."""
        return tuple(sorted({p for s in self.samples for p in s.par}))

    @cached_property
    def share_of_q(self) -> float:
        """Integral of q over the cell; 1 if no pool event says so."""
        return float(self.pool_weights.sum()) or 1.0

    def program(self, table: RatioTable) -> Program:
        """The samples, compiled for the columns of a table."""
        return Program.compile(self.samples, table.names, self.nuisances)

    @cached_property
    def _programs(self) -> tuple[Program, Program]:
        return self.program(self.observed.table), self.program(self.pool.table)

    def normalise(self, theta: Floats, *, hessian: bool = False) -> tuple[Floats, Floats, tuple[Floats, ...]]:
        """1 / N_c (C,), gradient (C, K) and (if asked for) Hessians (C of (K, K)) of ln |N_c| at ``theta``."""
        c, k = len(self.samples), len(self.nuisances)
        scale, first = np.ones(c), np.zeros((c, k))
        second = tuple(np.zeros((k, k)) for _ in self.samples) if hessian else ()
        for j, sample in enumerate(self.samples):
            at = np.searchsorted(self.nuisances, sample.par)
            scale[j], first[j, at], curvature = sample.norm.at(theta[list(sample.par)], hessian=hessian)
            if hessian:
                second[j][np.ix_(at, at)] = curvature
        return scale, first, second

    def terms(self, observed: Floats, pool: Floats) -> "tuple[EventTerm, ...]":
        """One for each table with a non-zero weight, given the weights of all its events; others are dropped."""
        parts = ((self.observed, observed, 0), (self.pool, pool, len(observed)))
        return tuple(
            EventTerm.select(self, program, events, events.of(weights), first)
            for (events, weights, first), program in zip(parts, self._programs, strict=True)
            if np.any(events.of(weights))
        )

    def densities(self, events: Events, theta: Floats) -> Floats:
        """T of all samples at some events, shape (C, n)."""
        program = self.program(events.table)
        found = self.kernel.densities(program, program.at(self.normalise(theta)[0], theta), events.rows)
        return found.values.astype(np.float64, copy=False)

    def evaluate(
        self, events: Events, theta: Floats, *, size: int = 8192
    ) -> Iterator[tuple[slice, Floats, list[Floats]]]:
        """Blocks of (events, T of shape (C, m), d T_c / d alpha of shape (nuisances of sample c, m))."""
        program = self.program(events.table)
        scale, slope, _ = self.normalise(theta)
        coefficients = program.at(scale, theta)
        for some, x in events.chunks(size):
            blocks = sample_blocks(program, coefficients, x)
            t = scale[:, None] * np.array([b.t for b in blocks])
            first = []
            for c, (sample, b) in enumerate(zip(self.samples, blocks, strict=True)):
                at = np.searchsorted(self.nuisances, sample.par)
                first.append(scale[c] * b.first() - slope[c, at][:, None] * t[c] if sample.par else np.empty((0, 0)))
            yield some, t, first


@dataclass(frozen=True, eq=False)
class EventTerm:
    """Events of one cell with their weights: -2 sum_i w_i ln(density_i), and its derivatives.

    Attributes
    ----------
    cell : EventCell
    program : Program
    events : Events
        n of them.
    weights : ndarray, shape (n,)
    first : int
        Position in the channel's list of events of the first one of their table.
    """

    cell: EventCell
    program: Program
    events: Events
    weights: Floats
    first: int
    _memo: dict[str, Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> Any:
        return EventTerm, (self.cell, self.program, self.events, self.weights, self.first)  # without the memo

    @classmethod
    def select(cls, cell: EventCell, program: Program, events: Events, weights: Floats, first: int) -> "EventTerm":
        """Those of non-zero weight."""
        kept = weights != 0
        return cls(cell, program, events.where(kept), weights[kept], first)

    @property
    def table(self) -> RatioTable:
        """Their rows."""
        return self.events.rows

    def value(self, nu: Floats, theta: Floats, threshold: float) -> tuple[float, int]:
        """-2 sum w ln density, continued below the threshold, and the number of events where it is not positive.

        The threshold is in units of the density over the reference density, that is of expected events. Where the
        nuisances are those of the last calls, densities of the samples are remembered: a change of rates alone costs
        no pass over the table.
        """
        if self._seen_again(theta):
            return self.frozen(theta).value(nu, theta, threshold)
        scale, _, _ = self.cell.normalise(theta)
        (sums,) = self._sums(self.program.at(nu * scale, theta), threshold, order=0)
        return -2 * sums.value, sums.nonpositive

    def derivatives(
        self, nu: Floats, theta: Floats, threshold: float, *, hessian: bool
    ) -> tuple[float, Floats, Floats]:
        """Value, gradient (C + K,) and Hessian (C + K, C + K) in the C yields and K nuisances of the channel.

        Without ``hessian`` the last is empty.
        """
        scale, n1, n2 = self.cell.normalise(theta, hessian=hessian)
        effective = nu * scale
        coefficients = self.program.at(effective, theta)
        (sums,) = self._sums(coefficients, threshold, order=2 if hessian else 1)
        gradient = self._gradient(sums, coefficients, scale, n1)
        if not hessian:
            return -2 * sums.value, -2 * gradient, np.empty((0, 0))
        c, k = len(scale), len(self.cell.nuisances)
        chain = np.eye(c + k)  # d (nu / N, alpha) / d (nu, alpha)
        chain[:c, :c] = np.diag(scale)
        chain[:c, c:] = -effective[:, None] * n1
        second = chain.T @ self.program.hessian(sums, effective, theta) @ chain
        mixed = (sums.rate * scale)[:, None] * n1
        second[:c, c:] -= mixed
        second[c:, :c] -= mixed.T
        weight = sums.rate * effective
        second[c:, c:] += (n1.T * weight) @ n1 - sum(w * h for w, h in zip(weight, n2, strict=True))
        return -2 * sums.value, -2 * gradient, -2 * second

    def many(self, nu: Floats, theta: Floats, threshold: float) -> tuple[Floats, Floats]:
        """Values (M,) and gradients (M, C + K) at M points in one pass; nu (M, C), theta (M, F)."""
        points = []
        for n, t in zip(nu, theta, strict=True):
            scale, n1, _ = self.cell.normalise(t)
            points.append((self.program.at(n * scale, t), scale, n1))
        sums = self._sums(Coefficients.join([coefficients for coefficients, _, _ in points]), threshold, order=1)
        gradients = [self._gradient(s, *point) for s, point in zip(sums, points, strict=True)]
        return np.array([-2 * s.value for s in sums]), -2 * np.array(gradients)

    def _gradient(self, sums: Sums, coefficients: Coefficients, scale: Floats, n1: Floats) -> Floats:
        """Derivatives of sum w ln density in yields and nuisances, (C + K,), from those in the effective yields."""
        effective = coefficients.nu[0]
        slopes = self.program.gradient(sums, coefficients)
        return np.concatenate([sums.rate * scale, effective @ slopes - (sums.rate * effective) @ n1])

    def _sums(self, coefficients: Coefficients, threshold: float, *, order: int) -> list[Sums]:
        options = {"threshold": threshold, "order": order}
        return self.cell.kernel.sums(self.program, coefficients, self.table, self.weights, **options)

    def frozen(self, theta: Floats) -> "EventTerm":
        """The same term with all shapes evaluated at ``theta``: a table of one column per sample, without nuisances.

        The last one is remembered.
        """
        if not self.cell.nuisances:
            return self
        at, term = self._memo.get("frozen", (b"", self))
        return term if at == self._key(theta) else self._freeze(theta)

    def _seen_again(self, theta: Floats) -> bool:
        """Whether the nuisances are those that this was last asked for."""
        last, self._memo["seen"] = self._memo.get("seen"), self._key(theta)
        return bool(self.cell.nuisances) and last == self._memo["seen"]

    def _key(self, theta: Floats) -> bytes:
        return theta[list(self.cell.nuisances)].tobytes()

    def _freeze(self, theta: Floats) -> "EventTerm":
        scale, _, _ = self.cell.normalise(theta)
        densities = self.cell.kernel.densities(self.program, self.program.at(scale, theta), self.table)
        samples = tuple(SampleShape(s.name, s.name) for s in self.cell.samples)
        cell = replace(self.cell, samples=samples)
        term = EventTerm(cell, cell.program(densities), Events(densities), self.weights, self.first)
        self._memo["frozen"] = (self._key(theta), term)
        return term

    def nonpositive(self, nu: Floats, theta: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Events with a density <= 0: index in the channel, density, and nu_c T_c of each sample (C, events)."""
        found: list[tuple[int, float, Floats]] = []
        for some, t, _ in self.cell.evaluate(self.events, theta):
            parts = nu[:, None] * t
            density = parts.sum(0)
            found += [(some.start + i, density[i], parts[:, i]) for i in np.flatnonzero(~(density > 0))]
        where = np.array([f[0] for f in found], dtype=np.int64)
        index = self.first + (where if self.events.index is None else self.events.index[where])
        return index, np.array([f[1] for f in found]), np.array([f[2] for f in found]).reshape(-1, len(nu)).T


@dataclass(frozen=True, eq=False)
class PoolSum:
    """sum_i q_i t(x_i | alpha) of one sample as a function of its nuisances (K,), with gradient and Hessian.

    Attributes
    ----------
    sample : SampleShape
        Its normalisation is not used.
    pool : Events
    weights : ndarray, shape (n,)
        Their q.
    kernel : Kernel
    """

    sample: SampleShape
    pool: Events
    weights: Floats
    kernel: Kernel

    @cached_property
    def _program(self) -> Program:
        return Program.compile((self.sample,), self.pool.table.names, self.sample.par)

    def __call__(self, alpha: Floats) -> tuple[float, Floats, Floats]:
        """The sum, its gradient (K,) and its Hessian (K, K)."""
        program, one = self._program, np.ones(1)
        theta = np.zeros(max(self.sample.par) + 1)
        theta[list(self.sample.par)] = alpha
        coefficients = program.at(one, theta)
        (sums,) = self.kernel.sums(program, coefficients, self.pool.rows, self.weights, mode=Mode.INTEGRAL, order=2)
        gradient = program.gradient(sums, coefficients)[0]
        return sums.value, gradient, program.hessian(sums, one, theta)[1:, 1:]
