"""Per-event shapes of the samples of an unbinned channel: what is declared, before any number is computed.

The density of sample c relative to the reference q is nu_c(theta) T_c(x | alpha) with

    T_c = [ r_c + sum_k shift_k ]  x  prod_k factor_k  x  exp( sum_t phi_t(alpha) D_t ) / N_c(alpha).

The bracket holds the additive codes (code0, code2, code4p with the density ratios of the variations), the factors are
the multiplicative ones (code1, code4 of hi / r and lo / r), the exponential is quadexp with its cross terms
(arXiv:2406.19076): monomials phi of the nuisances times columns D. N_c, see `nuratio.model.normalisation`, makes T_c
integrate to 1 under q at every alpha, so that rates stay in the companion channel.
"""

from dataclasses import dataclass
from functools import cached_property

from nuratio.model.normalisation import Normalisation, Unit

__all__ = ["Monomial", "SampleShape", "Variation"]


@dataclass(frozen=True)
class Monomial:
    """A term of the exponent: a column times alpha_j^a, or alpha_j^a alpha_k^b.

    Attributes
    ----------
    column : str
        Of the event table.
    powers : tuple of (int, int)
        One or two pairs of nuisance (index of the companion's parameters) and power (at least 1).
    """

    column: str
    powers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Variation:
    """Interpolation between the density ratios of an up and a down variation.

    Attributes
    ----------
    par : int
        The nuisance, as an index of the companion's parameters.
    code : str
        code0, code2, code4p (a shift of the ratio) or code1, code4 (a factor; needs positive anchors).
    hi, lo : str
        Columns of the event table: the varied density relative to the reference, in units of the nominal yield.
    """

    par: int
    code: str
    hi: str
    lo: str


@dataclass(frozen=True)
class SampleShape:
    """What the events of a channel say of one sample.

    Attributes
    ----------
    name : str
    ratio : str
        Column of the event table with r_c = p_c / q.
    exponent : tuple of Monomial
    factors, shifts : tuple of Variation
        Multiplicative and additive codes.
    norm : Normalisation
        ln N_c as a function of the nuisances in ``par``.
    """

    name: str
    ratio: str
    exponent: tuple[Monomial, ...] = ()
    factors: tuple[Variation, ...] = ()
    shifts: tuple[Variation, ...] = ()
    norm: Normalisation = Unit()  # noqa: RUF009  (immutable)

    @cached_property
    def par(self) -> tuple[int, ...]:
        """All nuisances with a shape effect (companion indices): those of exponent and factors first, then shifts."""
        multiplied = {p for m in self.exponent for p, _ in m.powers} | {f.par for f in self.factors}
        return (*sorted(multiplied), *sorted({s.par for s in self.shifts}))
