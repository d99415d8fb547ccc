"""The physics of the demo: exact densities and rates of pp -> l+ l- with a wide Z'.

Leading-order quark-antiquark annihilation into photon, Z and Z' at 13 TeV, with analytic parton densities, so that
every density is a closed form and every rate a smooth two-dimensional integral. The Z' amplitude is scaled by a
strength kappa >= 0 in every helicity configuration, hence

    d3sigma(kappa) = sm + kappa * interference + kappa**2 * newphys

is a sum of squares, positive at every kappa, while the interference alone takes both signs. Look here for what is
generated, in `nuratio.demo.generator` for events and in `nuratio.demo.exact` for the likelihood.

The observables are the dilepton mass ``mll`` [GeV], its rapidity ``yll`` and ``costh``, the cosine of the Collins-Soper
polar angle (Phys. Rev. D 16 (1977) 2219) between the negative lepton and the proton moving along +z; no sign of ``yll``
is folded into it. The quark comes from either proton, which dilutes the forward-backward asymmetry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import beta

from nuratio.errors import UnknownName, did_you_mean
from nuratio.model.interpolation import Code4

__all__ = [
    "COMPONENTS",
    "CR",
    "LUMINOSITY",
    "MAX_RAPIDITY",
    "REGIONS",
    "SR",
    "Region",
    "configurations",
    "densities",
    "density",
    "efficiency_factor",
    "integrate",
    "quadrature",
    "scale_factor",
    "yields",
]

Floats = NDArray[np.float64]

COMPONENTS = ("sm", "interference", "newphys")
"""The terms of the rate, in powers of kappa."""

SQRT_S = 13_000.0  # GeV
LUMINOSITY = 18.0  # fb^-1
MAX_RAPIDITY = 1.4  # below ln(sqrt(s) / mll) everywhere: the phase space is a box at every mass scale within 5 sigma
GEV_MINUS2_IN_FB = 0.3893794e12

E_SQUARED = 4 * pi / 128.0
SIN2_THETA_W = 0.2312
M_Z, GAMMA_Z = 91.1876, 2.4952  # GeV
M_ZPRIME, GAMMA_ZPRIME = 1000.0, 200.0  # GeV
ZPRIME_COUPLING = 0.005  # product of the axial couplings to quarks and leptons at kappa = 1

MASS_SCALE = 0.01  # relative shift of mll per standard deviation
_EFFICIENCY = Code4(lo=np.array([0.98]), hi=np.array([1.02]))


@dataclass(frozen=True)
class Region:
    """A selection in reconstructed mll, |yll| < 1.4 and any costh: its name and bin edges in GeV."""

    name: str
    edges: tuple[float, ...]


SR = Region("SR", (300.0, 3000.0))
CR = Region("CR", (170.0, 185.0, 200.0, 220.0, 240.0, 270.0, 300.0))
REGIONS = {region.name: region for region in (CR, SR)}
"""The control region (binned) and the signal region (unbinned)."""


def scale_factor(alpha: float) -> float:
    """Reconstructed over true mll at ``alpha`` standard deviations of the mass scale."""
    return 1.0 + MASS_SCALE * alpha


def efficiency_factor(alpha: float) -> Floats:
    """Factor on every rate at ``alpha`` standard deviations of the 2% efficiency uncertainty.

    HistFactory interpolation code 4, as of a normsys with hi = 1.02 and lo = 0.98. Returns the factor and its first and
    second derivative, shape (3,).
    """
    derivatives: Floats = np.concatenate(_EFFICIENCY(np.array([alpha])))
    return derivatives


def density(component: str, mll: ArrayLike, yll: ArrayLike, costh: ArrayLike, alpha: float = 0.0) -> Floats:
    """Exact expected events of one component per GeV of reconstructed mll, unit yll and unit costh.

    With the mass scale at ``alpha``, p(mll | alpha) = p_true(mll / s) / s where s = 1 + 0.01 alpha.

    Parameters
    ----------
    component : str
        ``sm``, ``interference`` (either sign) or ``newphys``, at kappa = 1.
    mll, yll, costh : array_like
        Reconstructed mass [GeV], rapidity and Collins-Soper cosine; broadcast against each other.
    alpha : float
        Mass scale in standard deviations.

    Returns
    -------
    ndarray
        Of the broadcast shape; zero beyond the kinematic limit.

    Raises
    ------
    UnknownName
        No such component.
    """
    result: Floats = densities(mll, yll, costh, alpha)[_row(component)]
    return result


def densities(mll: ArrayLike, yll: ArrayLike, costh: ArrayLike, alpha: float = 0.0) -> Floats:
    """The `density` of all `COMPONENTS` at once, shape (3, ...)."""
    scale = scale_factor(alpha)
    m, y, c = np.broadcast_arrays(np.asarray(mll, dtype=np.float64) / scale, yll, costh)
    towards, away = _parton_flux(m, y), _parton_flux(m, -y)  # quark from the proton along +z, along -z
    plus, minus = (1 + c) ** 2, (1 - c) ** 2
    angular = np.stack([towards * plus + away * minus, towards * minus + away * plus], axis=1)
    result: Floats = np.einsum("cqh...,qh...->c...", _helicity_rates(m), angular) / scale
    return result


def configurations(mixture: Sequence[float] | Floats, mll: Floats, yll: Floats) -> Floats:
    """Density in (mll, yll) of each quark flavour and helicity configuration, the quark moving along +z.

    Parameters
    ----------
    mixture : sequence or ndarray of 3 float
        Coefficients of the `COMPONENTS`: a unit vector for one of them, (1, kappa, kappa**2) for the total.
    mll, yll : ndarray
        True mass [GeV] and rapidity, of shapes that broadcast.

    Returns
    -------
    ndarray, shape (2, 2, ...)
        Expected events per GeV and unit yll at true kinematics, for u and d quarks (first axis) with lepton and quark
        of equal and opposite chirality (second axis), whose costh follows (1 + c)^2 and (1 - c)^2. A quark moving
        along -z adds the mirror image (yll, costh) -> (-yll, -costh).
    """
    rates = np.einsum("c,cqh...->qh...", mixture, _helicity_rates(mll))
    result: Floats = 8 / 3 * rates * _parton_flux(mll, yll)[:, None]
    return result


def integrate(component: str, region: Region, alpha: float = 0.0) -> Floats:
    """Exact expected events of one component in the bins of ``region``, shape (bins,), mass scale at ``alpha``."""
    result: Floats = yields(region, alpha)[_row(component)]
    return result


def yields(region: Region, alpha: float = 0.0) -> Floats:
    """Expected events of all `COMPONENTS` in the bins of ``region``, shape (3, bins), mass scale at ``alpha``.

    Integrals over the window of true mass that is reconstructed in each bin, relative accuracy better than 1e-8.
    """
    edges = np.asarray(region.edges) / scale_factor(alpha)
    result = np.empty((len(COMPONENTS), len(edges) - 1))
    for b, (low, high) in enumerate(pairwise(edges)):
        m, y, w = quadrature(low, high)
        rates = _helicity_rates(m[:, 0]).sum(axis=2)  # over helicities; both directions give 2 * 8/3
        flux = (_parton_flux(m, y) * w).sum(axis=-1)
        result[:, b] = 16 / 3 * np.einsum("cqm,qm->c", rates, flux)
    return result


def quadrature(low: float, high: float) -> tuple[Floats, Floats, Floats]:
    """Gauss-Legendre nodes over low < mll < high [GeV], |yll| < 1.4, for the densities of this module.

    Uniform in log(mll), with a break at the resonance.

    Returns
    -------
    mll : ndarray, shape (k, 1)
    yll : ndarray, shape (1, 20)
    weights : ndarray, shape (k, 20)
        Such that the integral of f is (weights * f(mll, yll)).sum().
    """
    breaks = np.log([low, M_ZPRIME, high] if low < M_ZPRIME < high else [low, high])
    x, w = _MASS_NODES
    half = np.diff(breaks)[:, None] / 2
    m = np.exp(breaks[:-1, None] + half * (1 + x)).reshape(-1, 1)
    y, v = _RAPIDITY_NODES
    return m, MAX_RAPIDITY * y[None], m * (half * w).reshape(-1, 1) * MAX_RAPIDITY * v


def _row(component: str) -> int:
    if component not in COMPONENTS:
        raise UnknownName(f"no component {component!r}; {did_you_mean(component, COMPONENTS, 'components')}")
    return COMPONENTS.index(component)


def _parton_flux(mll: Floats, yll: Floats) -> Floats:
    """x1 q(x1) x2 qbar(x2) for q = u, d, shape (2, ...); proton 1 moves along +z, x1,2 = mll / sqrt(s) exp(+-yll).

    x f(x) of valence quarks N x^0.7 (1-x)^{3,4} with the number sum rules, of sea quarks 0.15 x^-0.3 (1-x)^10 (20% more
    dbar): close to a modern PDF set at x around 0.1 and the scale of a TeV.
    """
    tau, boost = mll / SQRT_S, np.exp(yll)
    x1, x2 = tau * boost, tau / boost
    rest = np.maximum(1 - x1, 0)
    valence, sea = x1**0.7 * rest**3, _sea(x1)
    u = 2 / beta(0.7, 4) * valence + sea
    d = 1 / beta(0.7, 5) * valence * rest + 1.2 * sea
    flux: Floats = np.stack([u, 1.2 * d]) * _sea(x2)
    return flux


def _sea(x: Floats) -> Floats:
    sea: Floats = 0.15 * x**-0.3 * np.maximum(1 - x, 0) ** 10
    return sea


def _helicity_rates(mll: Floats) -> Floats:
    """Luminosity * d3sigma / (parton flux * (1 +- costh)^2) at true ``mll``, shape (3, 2, 2, ...).

    By component, flavour, and equal or opposite chirality. dsigma/dcosth = s |A|^2 (1 +- costh)^2 / (384 pi) for each
    pair of chiralities, averaged over spins and colours, times dx1 dx2 / (x1 x2) = 2 dmll dyll / mll.
    """
    s = mll**2
    z, zprime = s - M_Z**2, s - M_ZPRIME**2
    width_z, width_zprime = M_Z * GAMMA_Z, M_ZPRIME * GAMMA_ZPRIME
    z_squared, zprime_squared = 1 / (z**2 + width_z**2), 1 / (zprime**2 + width_zprime**2)  # |propagator|^2
    propagators = [
        1 / s**2,
        z * z_squared / s,
        z_squared,
        zprime * zprime_squared / s,
        (z * zprime + width_z * width_zprime) * z_squared * zprime_squared,
        zprime_squared,
    ]
    factor = LUMINOSITY * GEV_MINUS2_IN_FB / (192 * pi) * mll
    rates: Floats = np.einsum("cqhk,k...->cqh...", _COUPLINGS, factor * np.stack(propagators))
    return rates


def _coupling_table() -> Floats:
    """Coefficients of the six products of propagators in |A|^2, by component, flavour and chirality: (3, 2, 2, 6).

    A_ij = e^2 [Q_q Q_l / s + g_i g_j / (sin^2 cos^2) P_Z(s)] + kappa g'^2 a_i a_j P_Z'(s) for quark chirality i and
    lepton chirality j, with g = T3 - Q sin^2 (left), -Q sin^2 (right) and P = 1 / (s - M^2 + i M Gamma): PDG review
    "Electroweak model and constraints on new physics". The Z' couples axially, a_L = -a_R, to quarks as 2 T3 like the
    axial part of the Z and to leptons such that it interferes constructively below its mass where i = j, destructively
    where not. Its width is held fixed, as if other decays made it.
    """
    charge = np.array([2 / 3, -1 / 3])
    isospin = np.array([0.5, -0.5])
    quark = np.stack([isospin - charge * SIN2_THETA_W, -charge * SIN2_THETA_W], axis=1)
    lepton = np.array([-0.5 + SIN2_THETA_W, SIN2_THETA_W])
    axial = np.array([1.0, -1.0])
    axial_quark = 2 * isospin[:, None] * axial
    photon = E_SQUARED * np.broadcast_to(-charge[:, None, None], (2, 2, 2))
    z = E_SQUARED / (SIN2_THETA_W * (1 - SIN2_THETA_W)) * quark[:, :, None] * lepton
    zprime = ZPRIME_COUPLING * axial_quark[:, :, None] * axial

    table = np.zeros((3, 6, 2, 2, 2))
    table[0, :3] = photon**2, 2 * photon * z, z**2
    table[1, 3:5] = 2 * photon * zprime, 2 * z * zprime
    table[2, 5] = zprime**2
    equal, opposite = table[..., [0, 1], [0, 1]].sum(-1), table[..., [0, 1], [1, 0]].sum(-1)
    return np.moveaxis(np.stack([equal, opposite], axis=-1), 1, -1)


_COUPLINGS = _coupling_table()
_MASS_NODES, _RAPIDITY_NODES = np.polynomial.legendre.leggauss(32), np.polynomial.legendre.leggauss(20)
