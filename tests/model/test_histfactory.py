import numpy as np
import pyhf
import pytest

import analytic
from nuratio.errors import InvalidModel
from nuratio.model.constraints import Constraints
from nuratio.model.histfactory import HistFactory
from nuratio.model.model import Model

SETTINGS = [
    {"normsys": {"interpcode": n}, "histosys": {"interpcode": h}}
    for n in ("code1", "code4")
    for h in ("code0", "code2", "code4p")
]


def companion(settings):
    return pyhf.Workspace(analytic.binned_spec()).model(modifier_settings=settings)


def expected(rates, nu):
    return np.concatenate([nu[rates.cells(c)].reshape(-1, b).sum(0) for c, (_, _, b) in rates.channels.items()])


def random_points(pdf, rng, n=20):
    low, high = np.array(pdf.config.suggested_bounds()).T
    for i in range(n):
        theta = np.clip(np.array(pdf.config.suggested_init()) + rng.normal(0, 0.8, pdf.config.npars), low, high)
        if i < 5:
            theta[pdf.config.poi_index] = 0.0  # a vanishing factor
        yield theta


@pytest.mark.parametrize("settings", SETTINGS)
def test_rates_are_pyhfs(settings, rng):
    pdf = companion(settings)
    rates = HistFactory.compile(pdf)
    for theta in random_points(pdf, rng):
        oracle = pdf.expected_data(theta, include_auxdata=False)
        np.testing.assert_allclose(expected(rates, rates.nu(theta)), oracle, rtol=1e-12)
        np.testing.assert_array_equal(rates.rates(theta).nu, rates.nu(theta))


@pytest.mark.parametrize("settings", SETTINGS)
def test_rate_derivatives_are_those_of_the_rates(settings, rng):
    pdf = companion(settings)
    rates = HistFactory.compile(pdf)
    h = 1e-6
    for theta in random_points(pdf, rng, 6):
        theta = theta + 1e-3  # off the kinks of code0 and code1
        here = rates.rates(theta)
        steps = h * np.eye(len(theta))
        numeric = np.array([rates.nu(theta + s) - rates.nu(theta - s) for s in steps]).T / (2 * h)
        np.testing.assert_allclose(here.jacobian, numeric, atol=1e-6)
        weight = rng.normal(size=len(here.nu))
        numeric = np.array(
            [(rates.rates(theta + s).jacobian - rates.rates(theta - s).jacobian).T @ weight for s in steps]
        ) / (2 * h)
        np.testing.assert_allclose(here.curvature(weight), numeric, atol=1e-5)


def test_several_vanishing_factors_have_the_exact_derivatives():
    spec = analytic.binned_spec()
    factor = {"name": "second", "type": "normfactor", "data": None}
    spec["channels"][0]["samples"][1]["modifiers"].append(factor)
    pdf = pyhf.Workspace(spec).model()
    rates = HistFactory.compile(pdf)
    theta = np.array(pdf.config.suggested_init())
    a, b = (pdf.config.par_names.index(n) for n in ("mu", "second"))
    theta[[a, b]] = 0.0
    signal = rates.cells("B").start + 3  # first bin of the signal: 3 events x mu x second
    here = rates.rates(theta)
    assert here.nu[signal] == 0
    assert abs(here.jacobian[signal, [a, b]]).max() < 1e-90
    weight = np.zeros(len(here.nu))
    weight[signal] = 1.0
    curvature = here.curvature(weight)
    assert curvature[a, b] == pytest.approx(3.0)
    assert curvature[a, a] == 0


def test_constraints_are_pyhfs(rng):
    pdf = companion(SETTINGS[-1])
    constraints = Constraints.compile(pdf.config)
    lower = np.array(pdf.config.suggested_bounds())[:, 0]
    aux = np.array(pdf.config.auxdata) * rng.uniform(0.9, 1.1, pdf.config.nauxdata)
    for theta in random_points(pdf, rng):
        theta = np.maximum(theta, np.where(lower >= 0, 0.3, -10.0))
        value, gradient, diagonal = constraints.twice_nll(theta, aux)
        assert value == pytest.approx(-2 * float(pdf.constraint_logpdf(aux, theta)), rel=1e-12)
        np.testing.assert_allclose(constraints.expected(theta), pdf.expected_auxdata(theta), rtol=1e-14)
        h = 1e-6
        for k, step in enumerate(h * np.eye(len(theta))):
            high, low = constraints.twice_nll(theta + step, aux), constraints.twice_nll(theta - step, aux)
            assert gradient[k] == pytest.approx((high[0] - low[0]) / (2 * h), rel=1e-5, abs=1e-5)
            assert diagonal[k] == pytest.approx((high[1][k] - low[1][k]) / (2 * h), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_twice_nll_is_pyhfs(settings, rng):
    pdf = companion(settings)
    model, data = Model.from_pyhf(pdf), pyhf.Workspace(analytic.binned_spec()).data(pdf)
    for theta in random_points(pdf, rng):
        try:
            value = model.twice_nll(theta, data)
        except ArithmeticError:
            assert not (pdf.expected_data(theta, include_auxdata=False) > 0).all()
            continue
        assert value == pytest.approx(-2 * float(pdf.logpdf(theta, data)[0]), rel=1e-9)
        assert model.logpdf(theta, data)[0] == pdf.logpdf(theta, data)[0]


def test_a_normsys_without_positive_anchors_is_refused():
    spec = analytic.binned_spec()
    spec["channels"][0]["samples"][0]["modifiers"][0]["data"]["lo"] = -0.1
    with pytest.raises(InvalidModel, match=r"channel 'B', sample 'background', normsys 'norm'.*lo = -0.1"):
        HistFactory.compile(
            pyhf.Workspace(spec, validate=False).model(
                validate=False, modifier_settings={"normsys": {"interpcode": "code1"}}
            )
        )


@pytest.mark.parametrize("norm", ["code1", "code4"])
@pytest.mark.parametrize("hist", ["code0", "code2", "code4p"])
def test_declared_kinks_are_where_slopes_jump(norm, hist, rng):
    settings = {"normsys": {"interpcode": norm}, "histosys": {"interpcode": hist}}
    pdf = pyhf.Workspace(analytic.binned_spec()).model(modifier_settings=settings)
    likelihood = Model.from_pyhf(pdf).likelihood(pyhf.Workspace(analytic.binned_spec()).data(pdf))
    theta = analytic.random_point(likelihood.model, rng, 0.3)
    jumps = []
    for k in range(len(theta)):
        sides = [np.where(np.arange(len(theta)) == k, side, theta) for side in (1e-300, -1e-300)]
        right, left = (likelihood.gradient(s)[k] if np.isfinite(s[k]) else 0.0 for s in sides)
        jumps.append(pdf.config.suggested_bounds()[k][0] < 0 and abs(right - left) > 1e-9)
    np.testing.assert_array_equal(jumps, likelihood.kinks)
