"""The exact likelihood of the demo: what a likelihood of learned density ratios should reproduce.

Use it in place of a `nuratio.Model`, for fits, scans, tests and limits on the same events:
``ExactLikelihood.from_events(mll, yll, costh)`` takes a data set, selects the signal region (unbinned) and counts the
control region. Its parameters are the strength ``kappa`` of the new amplitude and the nuisances ``mass_scale`` and
``efficiency``, shared by both regions and constrained by unit Gaussians. The densities are evaluated at every value of
the mass scale, with no interpolation.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy

from nuratio.demo.drellyan import CR, MAX_RAPIDITY, SR, densities, efficiency_factor, quadrature, yields
from nuratio.errors import InvalidData, InvalidModel, NonPositiveDensity

__all__ = ["ExactConfig", "ExactLikelihood", "ExactObjective"]

Floats = NDArray[np.float64]

_CR_BINS = len(CR.edges) - 1
_RATES = _CR_BINS + 1  # expected counts that enter -2 ln L by themselves: the CR bins and the SR
_STEP = 1e-3  # in mass_scale: truncation and rounding of both numerical derivatives stay below 1e-8 of their scale


@dataclass(frozen=True)
class ExactConfig:
    """The parameters and the data layout, by pyhf's names."""

    nmaindata: int
    poi_name: str = "kappa"
    poi_index: int = 0
    npars: int = 3
    nauxdata: int = 2

    @property
    def par_names(self) -> list[str]:
        """Parameter names."""
        return ["kappa", "mass_scale", "efficiency"]

    @property
    def auxdata(self) -> list[float]:
        """Observed auxiliary data, of mass_scale and efficiency."""
        return [0.0, 0.0]

    @property
    def channel_slices(self) -> dict[str, slice]:
        """Where each channel sits in the main data."""
        return {CR.name: slice(0, _CR_BINS), SR.name: slice(_CR_BINS, self.nmaindata)}

    def suggested_init(self) -> list[float]:
        """Start values."""
        return [1.0, 0.0, 0.0]

    def suggested_bounds(self) -> list[tuple[float, float]]:
        """Bounds."""
        return [(0.0, 10.0), (-5.0, 5.0), (-5.0, 5.0)]

    def suggested_fixed(self) -> list[bool]:
        """Which parameters are held constant: none."""
        return [False] * self.npars


@dataclass(frozen=True, eq=False)
class ExactLikelihood:
    """Exact densities in the signal region and exact rates everywhere, for given observed events.

    The data vector is flat, [CR counts | weights of the SR events | auxiliary data]. The SR events are the observed
    ones (weight 1 in ``data``), then the nodes of a Gauss-Legendre quadrature, whose weights in Asimov data are density
    times quadrature weight: the integral of ln L over the expected density, not a sum over simulated events.

    Parameters
    ----------
    events : ndarray, shape (3, n)
        mll [GeV], yll and costh of the observed events in the signal region.
    counts : ndarray, shape (6,)
        Observed counts in the bins of the control region.

    Raises
    ------
    InvalidData
        An event outside the signal region, or a wrong number of counts.
    """

    events: Floats
    counts: Floats

    def __post_init__(self) -> None:
        if self.counts.shape != (_CR_BINS,):
            raise InvalidData(f"the control region has {_CR_BINS} bins, got counts of shape {self.counts.shape}")
        mll, yll, costh = self.events
        inside = (mll >= SR.edges[0]) & (mll <= SR.edges[-1]) & (abs(yll) <= MAX_RAPIDITY) & (abs(costh) <= 1)
        outside = np.flatnonzero(~inside)
        if outside.size:
            i = outside[0]
            raise InvalidData(
                f"{outside.size} of {inside.size} events are outside the signal region (first: event {i}, mll "
                f"{mll[i]:.6g} GeV, yll {yll[i]:.4g}, costh {costh[i]:.4g}); from_events selects the mass window"
            )

    @classmethod
    def from_events(cls, mll: ArrayLike, yll: ArrayLike, costh: ArrayLike) -> "ExactLikelihood":
        """The likelihood of a data set: mll [GeV], yll and costh of all its events, each of shape (n,)."""
        events = np.array([mll, yll, costh], dtype=np.float64)
        above = events[0] >= SR.edges[0]
        counts = np.histogram(events[0, ~above], CR.edges)[0].astype(np.float64)
        return cls(events[:, above & (events[0] <= SR.edges[-1])], counts)

    @property
    def config(self) -> ExactConfig:
        """Parameters and data layout."""
        return ExactConfig(nmaindata=_CR_BINS + self.events.shape[1] + len(_grid()[1]))

    @property
    def data(self) -> Floats:
        """The observed data vector, shape (nmaindata + 2,)."""
        observed, pool = np.ones(self.events.shape[1]), np.zeros(len(_grid()[1]))
        return np.concatenate([self.counts, observed, pool, self.config.auxdata])

    def expected_data(self, pars: ArrayLike) -> Floats:
        """Asimov data at ``pars``: exact expected counts, and exact weights of the quadrature nodes."""
        theta = np.asarray(pars, dtype=np.float64)
        nodes, weights = _grid()
        rates, expected = np.split(_expected(theta, nodes), [_RATES])
        return np.concatenate([rates[:_CR_BINS], np.zeros(self.events.shape[1]), weights * expected, theta[1:]])

    def likelihood(self, data: ArrayLike) -> "ExactObjective":
        """-2 ln L on this data vector; events of weight zero are left out.

        Raises
        ------
        InvalidModel
            A data vector of the wrong length.
        """
        d, config = np.asarray(data, dtype=np.float64), self.config
        if d.shape != (config.nmaindata + config.nauxdata,):
            raise InvalidModel(
                f"the data vector must have {config.nmaindata} main and {config.nauxdata} auxiliary entries, "
                f"got shape {d.shape}"
            )
        counts, weights, aux = np.split(d, [_CR_BINS, config.nmaindata])
        points = np.concatenate([self.events, _grid()[0]], axis=1)
        weighted = weights != 0
        return ExactObjective(points[:, weighted], np.concatenate([counts, [0.0], weights[weighted]]), aux)

    def twice_nll(self, pars: ArrayLike, data: ArrayLike) -> float:
        """-2 ln L at ``pars`` = (kappa, mass_scale, efficiency).

        Raises
        ------
        NonPositiveDensity
            An event whose true mass would be beyond the kinematic limit.
        """
        theta, objective = np.asarray(pars, dtype=np.float64), self.likelihood(data)
        if lines := objective.nonpositive(theta):
            raise NonPositiveDensity(f"{lines[0]}, one of {len(lines)}; keep mass_scale above -5")
        return objective.value(theta)

    def gradient(self, pars: ArrayLike, data: ArrayLike) -> Floats:
        """d(-2 ln L) / d pars, shape (3,)."""
        return self.likelihood(data).gradient(np.asarray(pars, dtype=np.float64))

    def hessian(self, pars: ArrayLike, data: ArrayLike) -> Floats:
        """Second derivatives of -2 ln L, shape (3, 3)."""
        return self.likelihood(data).hessian(np.asarray(pars, dtype=np.float64))

    def constraint_widths(self, aux: Floats) -> tuple[Floats, Floats]:
        """Where the auxiliary data put each parameter, and the width of its constraint; NaN for kappa."""
        return np.array([np.nan, *aux]), np.array([np.nan, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class ExactObjective:
    """-2 ln L for fixed data, as a function of theta = (kappa, mass_scale, efficiency).

    2 [nu_SR - sum_i w_i ln lambda(x_i)] for the signal region, with the expected density lambda, -2 ln Pois for the
    bins of the control region, and (alpha - a)^2 for each nuisance with auxiliary datum a.

    Attributes
    ----------
    points : ndarray, shape (3, n)
        The SR events with a weight.
    content : ndarray, shape (6 + 1 + n,)
        CR counts, a zero in place of the SR count, and the weights of the SR events.
    aux : ndarray, shape (2,)
        Auxiliary data.
    """

    points: Floats
    content: Floats
    aux: Floats

    def value(self, theta: Floats) -> float:
        """-2 ln L; infinite where an event has zero density."""
        return self._value(theta, _expected(theta, self.points))

    def gradient(self, theta: Floats) -> Floats:
        """d(-2 ln L) / d theta, shape (3,)."""
        return self.derivatives(theta, hessian=False)[1]

    def hessian(self, theta: Floats) -> Floats:
        """Second derivatives of -2 ln L, shape (3, 3)."""
        return self.derivatives(theta, hessian=True)[2]

    def derivatives(self, theta: Floats, *, hessian: bool) -> tuple[float, Floats, Floats]:
        """-2 ln L, its gradient (3,) and its Hessian (3, 3); without ``hessian`` the last is empty.

        The expectation factorises: efficiency(alpha) * sum_c kappa^c * column_c(mass_scale), so each derivative is a
        product of derivatives of the three. Those by the mass scale are central differences of exact densities.
        """
        kappa, mass_scale, efficiency = theta
        low, here, high = (_columns(mass_scale + step, self.points) for step in (-_STEP, 0.0, _STEP))
        columns = np.stack([here, (high - low) / (2 * _STEP), (high - 2 * here + low) / _STEP**2])
        mixtures = np.array([[1, kappa, kappa**2], [0, 1, 2 * kappa], [0, 0, 2]])
        # order of the derivative by kappa, mass_scale and efficiency, then the columns
        table = np.einsum("ic,jcn,k->ijkn", mixtures, columns, efficiency_factor(efficiency), optimize=True)
        once = np.eye(3, dtype=int)

        expected = table[0, 0, 0]
        residual = -self.content / expected
        residual[:_RATES] += 1
        contracted = np.einsum("ijkn,n->ijk", table, residual)
        gradient = 2 * np.array([contracted[*p] for p in once])
        gradient[1:] += 2 * (theta[1:] - self.aux)
        second = np.empty((0, 0))
        if hessian:
            slopes = np.stack([table[*p] for p in once]) / expected
            spread = np.einsum("pn,qn,n->pq", slopes, slopes, self.content)
            curvature = np.array([[contracted[*(p + q)] for q in once] for p in once])
            second = 2 * (spread + curvature + np.diag([0, 1, 1]))
        return self._value(theta, expected), gradient, second

    def nonpositive(self, theta: Floats) -> list[str]:
        """One line for each event with a weight where the density is not positive."""
        density = _expected(theta, self.points)[_RATES:]
        return [
            f"exact density is {density[i]:.3g} at mll = {self.points[0, i]:.6g} GeV, yll = {self.points[1, i]:.4g} "
            f"for mass_scale = {theta[1]:.4g}"
            for i in np.flatnonzero(~(density > 0))
        ]

    def _value(self, theta: Floats, expected: Floats) -> float:
        poisson = expected[:_RATES].sum() - xlogy(self.content, expected).sum()
        poisson += gammaln(self.content[:_CR_BINS] + 1).sum()
        return float(2 * poisson + ((theta[1:] - self.aux) ** 2).sum())


def _columns(mass_scale: float, points: Floats) -> Floats:
    """Rates in the CR bins and in the SR, and densities at the SR ``points``, by component: shape (3, 6 + 1 + n)."""
    mll, yll, costh = points
    rates = [yields(CR, mass_scale), yields(SR, mass_scale)]
    return np.concatenate([*rates, densities(mll, yll, costh, mass_scale)], axis=1)


def _expected(theta: Floats, points: Floats) -> Floats:
    """The `_columns` of the total at ``theta``."""
    kappa, mass_scale, efficiency = theta
    total = np.einsum("c,cn->n", [1, kappa, kappa**2], _columns(mass_scale, points))
    result: Floats = efficiency_factor(efficiency)[0] * total
    return result


@cache
def _grid() -> tuple[Floats, Floats]:
    """Nodes (3, n) and weights (n,) of a Gauss-Legendre quadrature over the signal region."""
    mll, yll, weights = quadrature(*SR.edges)
    costh, v = np.polynomial.legendre.leggauss(12)
    nodes = np.broadcast_arrays(mll[..., None], yll[..., None], costh)
    return np.stack([node.ravel() for node in nodes]), (weights[..., None] * v).ravel()
