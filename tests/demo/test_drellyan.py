from itertools import pairwise

import numpy as np
import pytest
from pyhf.interpolators import code4
from scipy.special import beta

from nuratio.demo import drellyan as dy
from nuratio.errors import UnknownName

ALPHA_EM, SIN2 = 1 / 128, 0.2312
M_Z, GAMMA_Z = 91.1876, 2.4952
GEV_MINUS2_IN_FB = 0.3893794e12


def random_points(n, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(170, 3000, n), rng.uniform(-1.4, 1.4, n), rng.uniform(-1, 1, n)


def slow_density(kappa, m, y, c):
    """d3sigma from complex helicity amplitudes, one event at a time."""
    valence = {
        "u": lambda x: 2 / beta(0.7, 4) * x**0.7 * (1 - x) ** 3,
        "d": lambda x: x**0.7 * (1 - x) ** 4 / beta(0.7, 5),
    }
    sea = {"u": lambda x: 0.15 * x**-0.3 * (1 - x) ** 10, "d": lambda x: 1.2 * 0.15 * x**-0.3 * (1 - x) ** 10}
    s, x1, x2 = m**2, m / 13000 * np.exp(y), m / 13000 * np.exp(-y)
    total = 0.0
    for flavour, charge, t3 in (("u", 2 / 3, 0.5), ("d", -1 / 3, -0.5)):
        quark = [(valence[flavour](x) + sea[flavour](x)) for x in (x1, x2)]
        antiquark = [sea[flavour](x) for x in (x1, x2)]
        for i in "LR":
            for j in "LR":
                g_q = (t3 if i == "L" else 0) - charge * SIN2
                g_l = (-0.5 if j == "L" else 0) + SIN2
                axial = (2 * t3) * (1 if i == "L" else -1) * (1 if j == "L" else -1)
                z = g_q * g_l / (SIN2 * (1 - SIN2)) * s / (s - M_Z**2 + 1j * M_Z * GAMMA_Z)
                mass, width, coupling = dy.M_ZPRIME, dy.GAMMA_ZPRIME, dy.ZPRIME_COUPLING / (4 * np.pi * ALPHA_EM)
                zprime = coupling * axial * s / (s - mass**2 + 1j * mass * width)
                squared = abs(-charge + z + kappa * zprime) ** 2
                sign = 1 if i == j else -1
                angular = quark[0] * antiquark[1] * (1 + sign * c) ** 2 + antiquark[0] * quark[1] * (1 - sign * c) ** 2
                total += np.pi * ALPHA_EM**2 / (24 * s) * squared * angular
    return total * 2 / m * dy.LUMINOSITY * GEV_MINUS2_IN_FB


@pytest.mark.parametrize("kappa", [0.0, 1.0, 7.0])
def test_total_density_is_that_of_the_helicity_amplitudes(kappa):
    m, y, c = random_points(200)
    total = np.array([1, kappa, kappa**2]) @ dy.densities(m, y, c)
    assert total == pytest.approx(slow_density(kappa, m, y, c), rel=1e-11)


def test_total_density_is_positive_at_every_kappa():
    densities = dy.densities(*random_points(20_000))
    assert np.all(densities[[0, 2]] > 0)
    for kappa in (*np.random.default_rng(2).uniform(0, 10, 20), 100.0):
        assert np.all(np.array([1, kappa, kappa**2]) @ densities > 0)


@pytest.mark.parametrize("mll", [500.0, 1300.0])
def test_interference_has_both_signs_at_one_mass(mll):
    costh = np.linspace(-0.95, 0.95, 40)
    interference = dy.density("interference", mll, 1.2, costh)
    assert interference.min() < 0 < interference.max()


def test_interference_changes_sign_at_the_resonance():
    assert dy.density("interference", 900.0, 0.0, 0.5) > 0 > dy.density("interference", 1100.0, 0.0, 0.5)


def test_exchanging_the_protons_is_a_symmetry():
    m, y, c = random_points(100)
    assert dy.densities(m, -y, -c) == pytest.approx(dy.densities(m, y, c), rel=1e-12)
    assert not np.allclose(dy.densities(m, y, -c), dy.densities(m, y, c), rtol=0.01)


def test_density_vanishes_beyond_the_kinematic_limit():
    inside, outside = dy.density("sm", 3000.0, np.log(13_000 / 3000) + np.array([-0.01, 0.01]), 0.0)
    assert inside > 0 == outside


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 1.7])
@pytest.mark.parametrize("region", dy.REGIONS.values(), ids=lambda region: region.name)
@pytest.mark.parametrize("component", dy.COMPONENTS)
def test_yields_are_the_integral_of_the_density(component, region, alpha):
    x, w = np.polynomial.legendre.leggauss(150)
    v, u = np.polynomial.legendre.leggauss(30)
    c, k = np.polynomial.legendre.leggauss(2)
    for b, (low, high) in enumerate(pairwise(region.edges)):
        m = (low + high + (high - low) * x) / 2
        values = dy.density(component, m[:, None, None], 1.4 * v[:, None], c, alpha)
        brute = np.einsum("myc,m,y,c->", values, (high - low) / 2 * w, 1.4 * u, k)
        assert dy.integrate(component, region, alpha)[b] == pytest.approx(brute, rel=1e-8)


def test_configurations_add_up_to_the_density():
    m, y, _ = random_points(50)
    c, k = np.polynomial.legendre.leggauss(2)
    mixture = (1.0, 2.0, 4.0)
    both = dy.configurations(mixture, m, y).sum((0, 1)) + dy.configurations(mixture, m, -y).sum((0, 1))
    assert both == pytest.approx(
        np.einsum("j,jic,c->i", mixture, dy.densities(m[:, None], y[:, None], c), k), rel=1e-12
    )


def test_efficiency_is_the_normsys_of_pyhf():
    interpolate = code4([[[[0.98], [1.0], [1.02]]]], subscribe=False)
    for alpha in (-3.0, -1.0, -0.4, 0.0, 0.7, 1.0, 2.5):
        expected = float(np.ravel(interpolate(np.array([[alpha]])))[0])
        value, slope, curvature = dy.efficiency_factor(alpha)
        assert value == pytest.approx(expected, rel=1e-12)
        h = 1e-4
        low, high = dy.efficiency_factor(alpha - h), dy.efficiency_factor(alpha + h)
        assert [slope, curvature] == pytest.approx((high - low)[:2] / (2 * h), rel=1e-5, abs=1e-7)


def test_unknown_component_names_the_close_one():
    with pytest.raises(UnknownName, match="'interference'"):
        dy.density("interferance", 500.0, 0.0, 0.0)
