import copy

import numpy as np
import pyhf
import pytest
from iminuit import Minuit

import analytic
from nuratio.errors import InvalidModel, UnknownName
from nuratio.infer.fitting.fit import fit, fixed_poi_fit
from nuratio.infer.profiles.scan import scan
from nuratio.workspace.workspace import Workspace


@pytest.mark.parametrize("n", [55.0, 60.0, 72.0, 130.0])
def test_a_counting_experiment(n):
    ws = Workspace.from_pyhf(analytic.counting(n))
    model = ws.model()
    result = fit(model, ws.data(model), minos=["mu"])
    assert result.valid, result.message
    assert result["mu"].value == pytest.approx((n - 50) / 10, abs=1e-7)
    assert result["mu"].uncertainty == pytest.approx(np.sqrt(n) / 10, rel=1e-6)
    if result["mu"].lower > 0:  # closed form of the crossing: 2(lam - n - n ln(lam / n)) = 1
        for end in (result["mu"].lower, result["mu"].upper):
            lam = 50 + 10 * end
            assert 2 * (lam - n - n * np.log(lam / n)) == pytest.approx(1, abs=1e-5)


def test_a_fit_that_ends_at_a_bound_is_exactly_there():
    ws = Workspace.from_pyhf(analytic.counting(41.0))
    model = ws.model()
    result = fit(model, ws.data(model), minos=["mu"])
    assert result.valid
    assert result["mu"].value == 0.0
    assert result.at_bound == (True,)
    assert result["mu"].lower == 0.0


def test_the_minimum_is_migrads(analytic_model):
    """Against iminuit on its own, without our derivatives."""
    model, data = analytic_model
    ours = fit(model, data, minos=["mu"])
    assert ours.valid, ours.message
    m = Minuit(lambda p: model.twice_nll(p, data), model.config.suggested_init(), name=model.config.par_names)
    m.errordef, m.strategy, m.tol = 1, 2, 1e-4
    m.limits = model.config.suggested_bounds()
    m.migrad()
    m.hesse()
    m.minos("mu")
    assert ours.twice_nll <= m.fval + 1e-8
    assert np.abs((ours.bestfit - list(m.values)) / ours.uncertainty).max() < 5e-3
    np.testing.assert_allclose(ours.uncertainty, list(m.errors), rtol=1e-2)  # HESSE's are numerical, good to a percent
    np.testing.assert_allclose(ours.correlation, np.array(m.covariance.correlation()), atol=1e-2)
    assert ours["mu"].lower == pytest.approx(m.values["mu"] + m.merrors["mu"].lower, abs=4e-3)
    assert ours["mu"].upper == pytest.approx(m.values["mu"] + m.merrors["mu"].upper, abs=4e-3)


def test_the_fit_is_pyhfs_on_a_binned_workspace():
    spec = analytic.binned_spec()
    workspace = pyhf.Workspace(spec)
    pdf = workspace.model()
    data = workspace.data(pdf)
    ours = fit(pdf, data)
    state = pyhf.get_backend()
    try:
        pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-4, strategy=2))
        best, value = pyhf.infer.mle.fit(data, pdf, return_fitted_val=True)
    finally:
        pyhf.set_backend(*state)
    assert ours.valid, ours.message
    assert ours.twice_nll <= float(value) + 1e-8
    free = ~np.array(ours.fixed)
    np.testing.assert_allclose(ours.bestfit[free], best[free], atol=2e-3)


def test_asimov_data_return_the_generating_point(analytic_workspace):
    model = analytic_workspace.model()
    truth = np.array(model.config.suggested_init())
    truth[model.config.poi_index] = 0.7
    result = fit(model, model.asimov(truth))
    free = ~np.array(result.fixed)
    assert np.abs((result.bestfit - truth)[free] / result.uncertainty[free]).max() < 1e-3


def test_fixing_and_starting(analytic_model):
    model, data = analytic_model
    free = fit(model, data)
    held = fit(model, data, fixed={"tilt": 0.0, "mu": 1.0})
    assert held["tilt"].value == 0 == held["tilt"].uncertainty
    assert held.twice_nll >= free.twice_nll
    again = fixed_poi_fit(1.0, model, data, fixed={"tilt": 0.0})
    # edm below 1e-9 puts each parameter within 5e-5 of its uncertainty
    np.testing.assert_allclose(again.bestfit, held.bestfit, atol=5e-5)
    np.testing.assert_allclose(fit(model, data, init={"mu": 4.0}).bestfit, free.bestfit, atol=5e-5)
    assert np.isnan(fit(model, data, hesse=False).uncertainty).all()
    everything = dict(zip(model.config.par_names, model.config.suggested_init(), strict=True))
    assert fit(model, data, fixed=everything).valid


def test_constraints_are_reported(analytic_model):
    model, data = analytic_model
    result = fit(model, data)
    center = dict(zip(result.names, result.constraint_center, strict=True))
    width = dict(zip(result.names, result.constraint_width, strict=True))
    assert center["tilt"] == 0
    assert width["tilt"] == 1
    assert center["stat[1]"] == 1
    assert width["stat[1]"] == pytest.approx(6 / 120)
    assert np.isnan(center["mu"])


def test_wrong_requests_are_named(analytic_model):
    model, data = analytic_model
    with pytest.raises(UnknownName, match="did you mean 'tilt'"):
        fit(model, data, fixed={"tillt": 0})
    with pytest.raises(InvalidModel, match=r"'mu' = 20 is outside its bounds \[0, 10\]"):
        fit(model, data, fixed={"mu": 20})
    with pytest.raises(InvalidModel, match="MINOS: parameter 'mu' is fixed"):
        fit(model, data, fixed={"mu": 1}, minos=["mu"])
    model.config.set_poi(None)
    with pytest.raises(InvalidModel, match="no parameter of interest"):
        fixed_poi_fit(1.0, model, data)


def test_a_fit_that_ends_where_samples_cancel_is_not_valid(analytic_workspace):
    """Data without events under the peak pull a negative signal down until densities would turn negative."""
    x = np.array(analytic_workspace.tables["observed features"]["x"])
    ws = analytic.workspace(observed=np.concatenate([x[abs(x - 5) > 2.5], [5.0]]), n_signal=400.0, mu=0)
    spec = copy.deepcopy(ws.spec)
    spec["measurements"][0]["config"]["parameters"] = [{"name": "mu", "inits": [0.0], "bounds": [[-10, 10]]}]
    model = Workspace(spec, ws.tables).model()
    result = fit(model, ws.data(model), fixed={"mu": -1.0, "norm": 0.0, "tilt": 0.0, "xs": 0.0})
    assert not result.valid
    assert result.nonpositive_events == 1
    assert "event" in result.message
    free = fit(model, ws.data(model))
    assert free.valid
    assert free["mu"].value < 0


# --- scans


def test_a_scan_of_a_counting_experiment():
    n = 72.0
    ws = Workspace.from_pyhf(analytic.counting(n))
    model = ws.model()
    result = scan(model, ws.data(model), points=11)
    lam = 50 + 10 * result.values
    np.testing.assert_allclose(result.delta_twice_nll, 2 * (lam - n - n * np.log(lam / n)), atol=1e-8)
    assert all(result.valid)


def test_scan_points_are_conditional_fits(analytic_model):
    model, data = analytic_model
    result = scan(model, data, values=[0.2, 1.0, 2.5])
    best = fit(model, data)
    for value, delta, profiled in zip(result.values, result.delta_twice_nll, result.profiled, strict=True):
        cold = fit(model, data, fixed={"mu": value})
        assert delta == pytest.approx(cold.twice_nll - best.twice_nll, abs=1e-6)
        np.testing.assert_allclose(profiled, cold.bestfit, atol=1e-4)
    nuisance = scan(model, data, "tilt", points=5)
    assert nuisance.parameter == "tilt"
    assert nuisance.delta_twice_nll.min() >= -1e-9


def two_valleys():
    """Both variations of b2 go down with code 0: a minimum on either side of alpha = 0."""
    mu = [{"name": "mu", "type": "normfactor", "data": None}]

    def histosys(hi, lo):
        return [{"name": "shape", "type": "histosys", "data": {"hi_data": hi, "lo_data": lo}}]

    return {
        "version": "1.0.0",
        "channels": [
            {
                "name": "SR",
                "samples": [
                    {"name": "signal", "data": [30.0, 35.0], "modifiers": mu},
                    {"name": "b1", "data": [100.0, 100.0], "modifiers": histosys([110.0, 110.0], [90.0, 90.0])},
                    {"name": "b2", "data": [50.0, 120.0], "modifiers": histosys([55.0, 55.0], [45.0, 45.0])},
                ],
            },
            {
                "name": "CR",
                "samples": [
                    {"name": "b1", "data": [105.0, 100.0], "modifiers": histosys([110.0, 115.0], [95.0, 90.0])}
                ],
            },
        ],
        "observations": [{"name": "SR", "data": [170.0, 220.0]}, {"name": "CR", "data": [110.0, 105.0]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "unbinned": {
            "version": "1.0.0",
            "files": [],
            "channels": [],
            "modifier_settings": {"normsys": {"interpcode": "code1"}, "histosys": {"interpcode": "code0"}},
        },
    }


@pytest.mark.parametrize("fixed", [{}, {"mu": 1.0}])
def test_the_lower_of_two_valleys_is_found_from_either_side(fixed):
    ws = Workspace(two_valleys())
    model = ws.model()
    data = ws.data(model)
    fits = [fit(model, data, fixed=fixed, init={"shape": start}) for start in (-0.3, 0.0, 0.3)]
    held = [
        fit(model, data, fixed=fixed | {"shape": alpha}, hesse=False).twice_nll for alpha in np.linspace(-1.5, 1.5, 121)
    ]
    valleys = [min(held[:60]), min(held[61:])]
    assert abs(valleys[0] - valleys[1]) > 0.3
    for found in fits:
        assert found.valid
        assert found.twice_nll == pytest.approx(fits[0].twice_nll, abs=1e-8)
        assert min(valleys) - 0.02 < found.twice_nll <= min(valleys) + 1e-9
    assert any("another minimum beyond its kink" in step for found in fits for step in found.steps)
