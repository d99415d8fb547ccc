"""Conditional minima from gradients: as good as Newton's, in a few calls, and never with a made-up covariance."""

import numpy as np
import pyhf
import pytest

import analytic
from nuratio.infer.fitting.corrector import correct
from nuratio.infer.fitting.fit import Fitter, fit
from nuratio.infer.fitting.minimize import follow, minimize
from nuratio.infer.fitting.newton import newton
from nuratio.infer.fitting.objective import Evaluations
from nuratio.infer.profiles.scan import scan
from nuratio.model.likelihood import Likelihood
from nuratio.model.model import Model
from nuratio.model.unbinned import EventTerm
from objectives import Counting, Exponentials


def many_nuisances(rng, n=40):
    """A pyhf specification with n correlated shape and rate nuisances and statistical ones in ten bins."""
    bins = np.arange(10)
    background, signal = 200 * np.exp(-bins / 4), 30 * np.exp(-0.5 * (bins - 6) ** 2)

    def modifiers(nominal):
        for k in range(n):
            shape = 1 + 0.05 * rng.normal() * np.cos(bins * rng.uniform(0, 1) + rng.uniform(0, 6))
            hi, lo = nominal * shape, nominal * (2 - shape) * (1 + 0.01 * rng.normal())
            yield {"name": f"s{k}", "type": "histosys", "data": {"hi_data": [*hi], "lo_data": [*lo]}}
            yield analytic.normsys(f"s{k}", 1 + 0.04 * rng.normal())

    mu = {"name": "mu", "type": "normfactor", "data": None}
    stat = {"name": "stat", "type": "staterror", "data": [*(0.05 * background)]}
    return {
        "version": "1.0.0",
        "channels": [
            {
                "name": "SR",
                "samples": [
                    {"name": "signal", "data": [*signal], "modifiers": [mu, *modifiers(signal)]},
                    {"name": "background", "data": [*background], "modifiers": [stat, *modifiers(background)]},
                ],
            }
        ],
        "observations": [{"name": "SR", "data": [*rng.poisson(background + 1.3 * signal).astype(float)]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
    }


@pytest.fixture(params=["binned", "unbinned"])
def problem(request, rng):
    """A model and data, with the calls of the likelihood counted."""
    if request.param == "binned":
        workspace = pyhf.Workspace(many_nuisances(rng))
        settings = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
        pdf = workspace.model(modifier_settings=settings)
        return Model.from_pyhf(pdf), np.array(workspace.data(pdf))
    ws = analytic.workspace()
    model = ws.model()
    return model, ws.data(model)


def newton_value(likelihood, fitter, theta, name):
    held = fitter.fixed | (np.array(fitter.names) == name)
    end = newton(Evaluations(likelihood, 1000), theta, *np.array(fitter.bounds).T, held, widths=fitter.constraints[1])
    assert not end.message
    return end.point.value


@pytest.mark.parametrize("many", [False, True], ids=["one by one", "many at a time"])
def test_a_scan_costs_a_few_gradients_per_point_and_is_newtons(problem, many, monkeypatch):
    model, data = problem
    fitter = Fitter(model, data)
    likelihood = fitter.likelihood
    counting = Counting(likelihood, many=many)
    monkeypatch.setattr(model, "likelihood", lambda data: counting)
    free = fit(model, data)
    before = counting.gradient_equivalents  # scan's own fit costs as much
    grid = free["mu"].value + np.linspace(-2.5, 2.5, 41) * free["mu"].uncertainty
    result = scan(model, data, values=grid[grid >= 0])
    points = len(result.values)
    cost = (counting.gradient_equivalents - 2 * before) / points
    if many:  # more evaluations in far fewer passes
        assert cost <= 4
        assert 0 < counting.calls["passes"] < points
    else:
        assert cost <= 3
    assert all(result.valid)
    exact = [newton_value(likelihood, fitter, theta, "mu") for theta in result.profiled]
    np.testing.assert_allclose(result.delta_twice_nll, np.array(exact) - free.twice_nll, atol=1e-7)


def test_a_conditional_minimum_has_no_hessian_but_its_result_has_the_exact_covariance(problem):
    fitter = Fitter(*problem)
    free = fitter.minimum()
    value = float(free.theta[fitter.index("mu")]) + 0.3
    (conditional,) = fitter.conditional("mu", [value], [free])
    assert conditional.valid
    assert conditional.hessian is None
    assert conditional.calls["hessian"] == 0
    assert conditional.steps[0].startswith("corrector: ")
    carried = fitter.result(conditional, fixed={"mu": value})
    cold = fitter.result(fitter.minimum(fixed={"mu": value}), fixed={"mu": value})
    np.testing.assert_allclose(carried.covariance, cold.covariance, rtol=1e-3, atol=1e-6)
    assert carried.twice_nll == pytest.approx(cold.twice_nll, abs=1e-8)


def test_the_tangent_is_the_derivative_of_the_profile(problem):
    fitter = Fitter(*problem)
    free = fitter.minimum()
    k = fitter.index("mu")
    held = fitter.fixed | (np.arange(len(fitter.names)) == k)
    low, high = np.array(fitter.bounds).T
    sigma = fitter.result(free)["mu"].uncertainty
    misses = []
    for h in (0.1 * sigma, 0.05 * sigma):
        moved = free.theta.copy()
        moved[k] += h
        predicted = free.predict(moved, held, low, high)
        exact = fitter.minimum(fixed={"mu": moved[k]}).theta
        misses.append(np.abs(predicted - exact).max())
    assert misses[1] < 0.35 * misses[0]  # second order


def test_where_the_corrector_fails_newton_takes_over():
    """A carried Hessian that is 50 times too small sends the corrector too far."""
    n = np.array([30.0, 400.0, 5.0])
    bounds, fixed, names = [(-15.0, 15.0)] * 3, np.array([True, False, False]), ["a", "b", "c"]
    free = minimize(Exponentials(n), np.zeros(3), bounds, np.zeros(3, bool), names=names)
    object.__setattr__(free, "curvature", free.curvature / 50)
    (minimum,) = follow(Exponentials(n), [(np.array([3.0, 4.0, 3.0]), free)], bounds, fixed, names=names)
    assert minimum.valid
    assert "not converged" in minimum.steps[0]
    assert minimum.steps[1].startswith("Newton: ")
    assert minimum.hessian is not None
    np.testing.assert_allclose(minimum.theta[1:], np.log(n[1:]), atol=1e-6)


def test_the_corrector_stops_on_bounds():
    n = np.array([30.0, 400.0, 5.0])
    low, high = np.full(3, -15.0), np.array([15.0, 5.5, 15.0])
    start = np.array([3.0, 5.4, 1.4])
    (end,) = correct(Exponentials(n), [(start, np.diag(2 * n))], low, high, np.zeros(3, bool))
    assert end.converged
    assert end.theta[1] == 5.5
    np.testing.assert_allclose(end.theta[[0, 2]], np.log([30, 5]), atol=2e-5)


def test_a_pole_in_the_way_of_the_corrector():
    """NaN beyond x = 2: the corrector gives up, nothing is made up."""

    class Domain(Exponentials):
        def derivatives(self, theta, *, hessian):
            value, gradient, second = super().derivatives(theta, hessian=hessian)
            return (np.nan, gradient * np.nan, second) if theta[0] > 4 else (value, gradient, second)

    (end,) = correct(
        Domain(np.array([30.0])), [(np.array([1.0]), np.eye(1))], np.array([-9.0]), np.array([9.0]), np.zeros(1, bool)
    )
    assert not end.converged
    assert end.theta[0] <= 4


@pytest.mark.parametrize("parameter", ["mu", "norm"])
def test_fixed_shapes_give_the_same_fits_without_reading_the_table(analytic_model, parameter, monkeypatch):
    """With the only shape nuisance fixed, densities are evaluated once for each value it has."""
    model, data = analytic_model
    frozen, evaluated = fit(model, data, fixed={"tilt": 0.7}), []
    values = np.linspace(0.5, 1.5, 5) if parameter == "mu" else np.linspace(-1, 1, 5)
    profile = [fit(model, data, fixed={"tilt": 0.7, parameter: v}) for v in values]
    freeze = EventTerm._freeze
    monkeypatch.setattr(EventTerm, "_freeze", lambda *a: evaluated.append(1) or freeze(*a))
    monkeypatch.setattr(Likelihood, "holding", lambda self, fixed: self)
    full = fit(model, data, fixed={"tilt": 0.7})
    assert not evaluated
    assert frozen.twice_nll == pytest.approx(full.twice_nll, rel=1e-13)
    np.testing.assert_allclose(frozen.bestfit, full.bestfit, atol=1e-7)
    np.testing.assert_allclose(frozen.covariance, full.covariance, rtol=1e-6, atol=1e-9)
    for value, one in zip(values, profile, strict=True):
        other = fit(model, data, fixed={"tilt": 0.7, parameter: value})
        assert one.twice_nll == pytest.approx(other.twice_nll, rel=1e-12)
    monkeypatch.undo()
    monkeypatch.setattr(EventTerm, "_freeze", lambda *a: evaluated.append(1) or freeze(*a))
    model._last = None
    fitter = Fitter(model, data)
    best = fitter.minimum(fixed={"tilt": 0.7})
    fitter.conditional(parameter, values.tolist(), [best], fixed={"tilt": 0.7})
    assert len(evaluated) == 1
