"""The samples of a channel as flat arrays: what a kernel reads, and the sums it returns.

A kernel evaluates at every event, for every sample c,

    t_c = [ r_c + sum a (hi - r_c) + b (r_c - lo) ] x prod F x exp( sum_t u_t D_t ),        d = sum_c nu_c t_c,

and sums w L(d), L being the logarithm (`Mode.LOG`) or d itself (`Mode.INTEGRAL`), with its derivatives in nu and in the
nuisances. Normalisations and rates are numbers of the sample, not of the event: they are absorbed in nu.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nuratio.model.interpolation import ADDITIVE, code4_polynomial
from nuratio.model.kernels.loops import Coefficients, Structure
from nuratio.model.normalisation import Powers
from nuratio.model.shapes import SampleShape

__all__ = ["Mode", "Program", "Sums"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Mode(IntEnum):
    """What is summed: w ln(d), or w d."""

    LOG = 0
    INTEGRAL = 1


@dataclass(frozen=True, eq=False)
class Sums:
    """What a pass over the events gives at one point, L1 = dL/dd and L2 the second derivative.

    Attributes
    ----------
    value : float
        sum_i w_i L(d_i).
    rate : ndarray, shape (C,)
        sum w L1 t_c.
    exponent, factor, shift : ndarray, shape (T,), (F,), (A,)
        sum w L1 times t_c D_t, t_c F'/F, and the shift's derivative; all without the factor nu_c.
    hessian : ndarray, shape (C + K, C + K)
        sum w [L2 d_a d_b + L1 d_ab] for a, b in (nu, nuisances), but for what the second derivatives of phi add.
    nonpositive : int
        Events with a weight where d is not positive.
    """

    value: float
    rate: Floats
    exponent: Floats
    factor: Floats
    shift: Floats
    hessian: Floats
    nonpositive: int


@dataclass(frozen=True, eq=False)
class Program:
    """C samples with K nuisances on a table, and how their coefficients follow from the nuisances.

    Attributes
    ----------
    samples : tuple of SampleShape
    nuisances : tuple of int
        The channel's K nuisances, as companion indices.
    structure : Structure
    powers : tuple of Powers
        phi of each sample.
    """

    samples: tuple[SampleShape, ...]
    nuisances: tuple[int, ...]
    structure: Structure
    powers: tuple[Powers, ...]

    @classmethod
    def compile(cls, samples: Sequence[SampleShape], columns: Sequence[str], nuisances: Sequence[int]) -> "Program":
        """For a table with these columns."""
        row = {name: j for j, name in enumerate(columns)}
        position = {p: k for k, p in enumerate(nuisances)}

        def first(counts: Sequence[int]) -> Ints:
            return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

        def ints(values: Sequence[object], width: int = 0) -> Ints:
            return np.array(values, dtype=np.int64).reshape((-1, width) if width else (-1,))

        powers = tuple(Powers.compile([m.powers for m in s.exponent], s.par) for s in samples)
        structure = Structure(
            ratio=ints([row[s.ratio] for s in samples]),
            slot_first=first([len(s.par) for s in samples]),
            par=ints([position[p] for s in samples for p in s.par]),
            multiplied=ints([len(s.par) - len({v.par for v in s.shifts}) for s in samples]),
            exponent_first=first([len(s.exponent) for s in samples]),
            exponent_row=ints([row[m.column] for s in samples for m in s.exponent]),
            exponent_slot=np.concatenate([p.slot for p in powers]),
            factor_first=first([len(s.factors) for s in samples]),
            factor_row=ints([(row[v.hi], row[v.lo]) for s in samples for v in s.factors], 2),
            factor_slot=ints([s.par.index(v.par) for s in samples for v in s.factors]),
            shift_first=first([len(s.shifts) for s in samples]),
            shift_row=ints([(row[v.hi], row[v.lo]) for s in samples for v in s.shifts], 2),
            shift_slot=ints([s.par.index(v.par) for s in samples for v in s.shifts]),
        )
        return cls(tuple(samples), tuple(nuisances), structure, powers)

    def at(self, nu: Floats, theta: Floats) -> Coefficients:
        """Coefficients for effective yields ``nu`` (C,) at the companion's parameters ``theta`` (F,)."""
        phi = [p.at(theta[list(s.par)]) for p, s in zip(self.powers, self.samples, strict=True)]
        factors = [v for s in self.samples for v in s.factors]
        shifts = [v for s in self.samples for v in s.shifts]
        alpha = theta[[v.par for v in factors]]
        inside = np.array([v.code == "code4" for v in factors], dtype=bool) & (np.abs(alpha) < 1)
        return Coefficients(
            nu=nu[None],
            exponent=np.concatenate([value for value, _ in phi])[None],
            exponent_first=np.concatenate([slope for _, slope in phi])[None],
            factor_kind=np.where(inside, 2, np.where(alpha >= 0, 0, 1)).astype(np.int64)[None],
            factor_alpha=alpha[None],
            factor_poly=np.array([code4_polynomial(a) for a in alpha], dtype=np.float64).reshape(1, -1, 3, 6),
            shift=np.array([ADDITIVE[v.code](theta[v.par]) for v in shifts], dtype=np.float64).reshape(1, -1, 3, 2),
        )

    @cached_property
    def _slots(self) -> tuple[Ints, Ints]:
        """Slots, counted through all samples, of each monomial (two), factor and shift; and the sample of each slot."""
        s = self.structure
        exponent, factor, shift = (
            np.repeat(s.slot_first[:-1], np.diff(first)) for first in (s.exponent_first, s.factor_first, s.shift_first)
        )
        slots = [(exponent[:, None] + s.exponent_slot).ravel(), factor + s.factor_slot, shift + s.shift_slot]
        return np.concatenate(slots), np.repeat(np.arange(len(self.samples)), np.diff(s.slot_first))

    def gradient(self, sums: Sums, coefficients: Coefficients) -> Floats:
        """sum w L1 d t_c / d alpha_k without the factor nu_c, shape (C, K)."""
        slots, sample = self._slots
        exponent = (coefficients.exponent_first[0] * sums.exponent[:, None]).ravel()
        by_slot = np.zeros(len(sample))
        np.add.at(by_slot, slots, np.concatenate([exponent, sums.factor, sums.shift]))
        out = np.zeros((len(self.samples), len(self.nuisances)))
        out[sample, self.structure.par] = by_slot
        return out

    def hessian(self, sums: Sums, nu: Floats, theta: Floats) -> Floats:
        """``sums.hessian`` with the second derivatives of phi, at effective yields ``nu`` (C,)."""
        s, out = self.structure, sums.hessian.copy()
        c_all = len(self.samples)
        for c, (sample, powers) in enumerate(zip(self.samples, self.powers, strict=True)):
            if sample.exponent:
                at = c_all + s.par[s.slot_first[c] : s.slot_first[c + 1]]
                second = powers.second(theta[list(sample.par)])
                weight = nu[c] * sums.exponent[s.exponent_first[c] : s.exponent_first[c + 1]]
                out[np.ix_(at, at)] += powers.curvature(weight, second, len(at))
        return out
