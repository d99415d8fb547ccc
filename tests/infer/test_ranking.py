"""Rankings: against closed forms, against fits made one by one, and the identities between the three methods."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyhf
import pytest

import analytic
from nuratio.errors import InvalidData, InvalidModel, UnknownName
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.fluctuations import score_variances
from nuratio.infer.impacts.ranking import RankingResult, ranking
from nuratio.infer.impacts.refits import Refits
from nuratio.infer.results import load_result
from nuratio.model.model import Model
from nuratio.parallel.tasks import own_pool

METHODS = ["refit", "auxdata", "covariance"]


def counting(*modifiers, s=1000.0, b=40_000.0, other=(), bounds=(-50.0, 50.0)):
    """One bin of signal and background: the best mu makes the expectation that of the data, whatever the nuisances."""
    mu = {"name": "mu", "type": "normfactor", "data": None}
    samples = [
        {"name": "s", "data": [s], "modifiers": [mu]},
        {"name": "b", "data": [b], "modifiers": list(modifiers)},
        *other,
    ]
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "bin", "samples": samples}],
        "observations": [{"name": "bin", "data": [s + b]}],
        "measurements": [
            {"name": "m", "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [list(bounds)]}]}}
        ],
    }
    return Model.from_pyhf(pyhf.Workspace(spec).model())


def gaussian(*, scale=1e9, seed=3):
    """Bins with so many events, and nuisances so small, that -2 ln L is a parabola; data and auxiliary data drawn."""
    rng = np.random.default_rng(seed)
    shape = scale * np.array([1.0, 0.8, 0.5, 0.3])
    root = np.sqrt(shape)

    def histosys(name, size):
        return {
            "name": name,
            "type": "histosys",
            "data": {"hi_data": (shape + size * root).tolist(), "lo_data": (shape - size * root).tolist()},
        }

    modifiers = [histosys(f"alpha_{j}", rng.normal(0, 1, 4)) for j in range(3)]
    modifiers.append({"name": "gamma", "type": "staterror", "data": (0.7 * root).tolist()})
    modifiers.append({"name": "free", "type": "normfactor", "data": None})
    mu = {"name": "mu", "type": "normfactor", "data": None}
    samples = [
        {"name": "s", "data": (root * [1, 3, 5, 4]).tolist(), "modifiers": [mu]},
        {"name": "b", "data": shape.tolist(), "modifiers": modifiers},
    ]
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "SR", "samples": samples}],
        "observations": [{"name": "SR", "data": shape.tolist()}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-50, 50]]}]}}],
    }
    options = {"modifier_settings": {"histosys": {"interpcode": "code0"}, "normsys": {"interpcode": "code1"}}}
    model = Model.from_pyhf(pyhf.Workspace(spec).model(**options))
    return model, model.sample(np.array(model.config.suggested_init()), rng)


def measured_parameters(model):
    """In the order of the auxiliary data."""
    slices = [model.config.par_slice(name) for name in model.config.auxdata_order]
    return [name for where in slices for name in model.config.par_names[where]]


def test_the_three_methods_in_the_gaussian_limit():
    """post-fit = cov / sigma, pre-fit = post-fit w / sigma, component = post-fit sigma / w; and the squares add up."""
    model, data = gaussian()
    best = fit(model, data)
    found = {method: ranking(model, data, method=method, fit=best) for method in METHODS}
    assert all(r.valid for r in found.values()), [r.message for r in found.values()]
    refit, auxdata, linear = (found[m] for m in METHODS)
    assert set(refit.names) == set(best.names) - {"mu"}
    assert set(auxdata.names) == set(refit.names) - {"free"}
    tolerance = 1e-3 * best["mu"].uncertainty
    for name in refit.names:
        k, own = refit.index(name), linear.index(name)
        for ends in ("up", "down", "prefit_up", "prefit_down"):
            assert getattr(refit, ends)[k] == pytest.approx(getattr(linear, ends)[own], abs=tolerance, nan_ok=True)
        if name == "free":
            assert np.isnan([refit.pull[k], refit.constraint[k], refit.prefit_up[k]]).all()
            continue
        j, constraint = auxdata.index(name), refit.constraint[k]
        assert 0 < constraint < 1
        assert auxdata.up[j] == pytest.approx(refit.up[k] * constraint, abs=tolerance)
        assert auxdata.down[j] == pytest.approx(-auxdata.up[j], abs=tolerance)
        assert auxdata.up[j] == pytest.approx(refit.prefit_up[k] * constraint**2, abs=tolerance)
    assert np.nanmin(refit.constraint) < 0.9  # the data constrain some: the methods differ
    response = best.covariance[best.index("mu")]
    (statistics,) = (response @ s @ response for s in score_variances(model, data, best.bestfit).values())
    assert statistics + np.sum(auxdata.up**2) == pytest.approx(best["mu"].uncertainty ** 2, rel=2e-3)
    assert np.sum(refit.up**2) > 1.2 * (best["mu"].uncertainty ** 2 - statistics)  # impacts do not


@pytest.mark.parametrize("method", METHODS)
def test_every_entry_is_a_fit(analytic_model, method):
    """Signed and asymmetric: the fits of a user who does it by hand."""
    model, data = analytic_model
    best = fit(model, data)
    found = ranking(model, data, method=method)
    assert found.valid
    assert found.method == method
    assert found.value == best["mu"].value
    assert found.uncertainty == best["mu"].uncertainty
    assert (np.diff(found.largest) <= 0).all()
    positions = {name: j for j, name in enumerate(measured_parameters(model))}
    for k, name in enumerate(found.names):
        i = best.index(name)
        assert found.bestfit[k] == best.bestfit[i]
        assert found.sigma[k] == best.uncertainty[i]
        assert found.pull[k] == (best.bestfit[i] - best.constraint_center[i]) / best.constraint_width[i]
        assert found.constraint[k] == best.uncertainty[i] / best.constraint_width[i]
        if method == "covariance":
            assert found.up[k] == pytest.approx(best.covariance[best.index("mu"), i] / best.uncertainty[i])
            assert found.down[k] == -found.up[k]
            continue
        post, pre = best.uncertainty[i], best.constraint_width[i]
        for told, step in ((found.up, post), (found.down, -post), (found.prefit_up, pre), (found.prefit_down, -pre)):
            if method == "refit":
                moved = fit(model, data, fixed={name: best.bestfit[i] + step}, hesse=False)
            elif told is found.up or told is found.down:
                changed = data.copy()
                changed[model.config.nmaindata + positions[name]] += np.sign(step) * pre
                moved = fit(model, changed, hesse=False)
            else:
                assert np.isnan(told[k])
                continue
            assert told[k] == pytest.approx(moved["mu"].value - best["mu"].value, abs=2e-5)


def test_counts_as_auxiliary_data():
    """n ~ Pois(mu s + gamma b), a ~ Pois(gamma f): mu = (n - b a / f) / s, whose variance is n / s^2 + b^2 a / (f s)^2.

    One standard deviation of the datum is sqrt(a), not sqrt(f): here they differ by a factor.
    """
    s, b, f = 1000.0, 40_000.0, 100.0
    model = counting({"name": "gamma", "type": "shapesys", "data": [b / np.sqrt(f)]})
    for a in (64.0, 196.0):
        n = b * a / f + s
        data = np.array([n, a])
        best = fit(model, data)
        assert best["mu"].value == pytest.approx(1.0)
        by_datum, held = (ranking(model, data, method=m) for m in ("auxdata", "refit"))
        assert by_datum.up == pytest.approx(-b * np.sqrt(a) / (f * s), rel=1e-6)
        assert by_datum.down == pytest.approx(-by_datum.up, rel=1e-6)
        assert held.up == pytest.approx(-np.sqrt(a) / f * b / s, rel=1e-6)
        assert held.prefit_up == pytest.approx(-b / np.sqrt(f) / s, rel=1e-6)
        assert n / s**2 + by_datum.up[0] ** 2 == pytest.approx(best["mu"].uncertainty ** 2, rel=1e-6)


def test_a_count_below_one_cannot_go_down():
    model = counting({"name": "gamma", "type": "shapesys", "data": [20_000.0]})
    found = ranking(model, [25_000.0, 0.25], method="auxdata")
    assert found.up[0] < 0
    assert np.isnan(found.down[0])
    assert found.messages == ("down, auxiliary datum -0.25: a count cannot be negative",)
    assert not found.valid


def test_lognormal_uncertainties_are_asymmetric():
    """n ~ Pois(mu s + b kappa^alpha), alpha a unit Gaussian: mu = (n - b kappa^a) / s."""
    s, b, kappa = 1000.0, 40_000.0, 1.2
    model = counting(analytic.normsys("b_rate", kappa, 1 / kappa))
    for method in ("auxdata", "refit"):
        found = ranking(model, [s + b, 0.0], method=method)
        assert found.up == pytest.approx(-b * (kappa - 1) / s, rel=1e-5)
        assert found.down == pytest.approx(-b * (1 / kappa - 1) / s, rel=1e-5)
    assert found.prefit_up == pytest.approx(found.up, rel=1e-5)  # nothing constrains it


def test_what_a_fit_held_stays_held(analytic_model):
    model, data = analytic_model
    best = fit(model, data, fixed={"norm": 0.4})
    found = ranking(model, data, fit=best)
    assert set(found.names) == {"tilt", "xs", "stat[0]", "stat[1]"}
    k = found.index("tilt")
    moved = fit(model, data, fixed={"norm": 0.4, "tilt": best["tilt"].value + best["tilt"].uncertainty}, hesse=False)
    assert found.up[k] == pytest.approx(moved["mu"].value - best["mu"].value, abs=2e-5)
    by_datum = ranking(model, data, fit=best, method="auxdata")
    assert set(by_datum.names) == set(found.names)
    changed = data.copy()
    changed[model.config.nmaindata + measured_parameters(model).index("tilt")] += 1.0
    moved = fit(model, changed, fixed={"norm": 0.4}, hesse=False)
    assert by_datum.up[by_datum.index("tilt")] == pytest.approx(moved["mu"].value - best["mu"].value, abs=2e-5)


def test_another_parameter_of_interest_and_a_constrained_one(analytic_model):
    """The auxiliary measurement of the parameter of interest itself is a component of its uncertainty."""
    model, data = analytic_model
    assert "mu" in ranking(model, data, "tilt", method="covariance").names
    found = ranking(model, data, "xs", method="auxdata")
    assert found.names[0] == found.poi == "xs"
    assert found.up[0] == pytest.approx(1.0, abs=0.01)  # nothing else measures it
    assert "xs" not in ranking(model, data, "xs").names


def test_refits_that_fail_are_told_one_by_one():
    """A gamma as wide as its value cannot be held at zero; the others are ranked."""
    model = counting({"name": "gamma", "type": "shapesys", "data": [40_000.0]}, analytic.normsys("rate", 1.1))
    found = ranking(model, [41_000.0, *model.config.auxdata])
    assert not found.valid
    k = found.index("gamma[0]")
    assert found.refits_valid == tuple(name == "rate" for name in found.names)
    assert "pre-fit down, held at 0: outside its bounds" in found.messages[k]
    assert np.isnan(found.prefit_down[k])
    assert np.isfinite(found.prefit_up[k])
    assert "not all refits are valid for gamma[0]" in found.message


def test_a_shift_that_a_bound_cuts_is_not_valid():
    model = counting(analytic.normsys("rate", 1.1), bounds=(0, 10))
    found = ranking(model, [41_000.0, 0.0])
    assert found.up == pytest.approx(-1.0)
    assert "post-fit up, held at 1: 'mu' ended on its bound 0" in found.messages[0]
    assert not found.valid


def test_a_fit_that_is_none_is_found_out(analytic_model):
    """Held nuisances find a lower minimum: the fit was not the best one."""
    model, data = analytic_model
    start = Refits.around(model, data)
    higher = replace(start, minimum=replace(start.minimum, value=start.minimum.value + 3.0))
    (shift, why), same = higher.held("tilt", [start.fit["tilt"].value + 0.1, start.fit["tilt"].value])
    assert np.isnan(shift)
    assert "lower by 3" in why
    assert same == (0.0, "")


@pytest.mark.parametrize("method", ["refit", "auxdata"])
def test_refits_by_an_executor_are_the_same(analytic_model, method):
    here = ranking(*analytic_model, method=method)
    with ThreadPoolExecutor(2) as threads:
        for executor in (threads, own_pool(1)):
            there = ranking(*analytic_model, method=method, executor=executor)
            assert there.names == here.names
            np.testing.assert_allclose([there.up, there.down], [here.up, here.down], atol=1e-8)


def test_what_cannot_be_ranked(analytic_model):
    model, data = analytic_model
    with pytest.raises(InvalidData, match="hesse=True"):
        ranking(model, data, fit=fit(model, data, hesse=False))
    with pytest.raises(InvalidData, match="'mu' was held"):
        ranking(model, data, fit=fit(model, data, fixed={"mu": 1.0}))
    with pytest.raises(InvalidData, match="not the minimum of this model on these data"):
        ranking(model, data, fit=fit(model, model.asimov(model.config.suggested_init())))
    with pytest.raises(InvalidData, match="the fit has the parameters"):
        ranking(model, data, fit=fit(counting(), [41_000.0]))
    with pytest.raises(UnknownName, match="did you mean 'mu'"):
        ranking(model, data, "mu_")
    with pytest.raises(InvalidModel, match="did you mean 'refit'"):
        ranking(model, data, method="refits")


def test_what_a_result_is(analytic_model):
    found = ranking(*analytic_model)
    read = load_result(found.to_json())
    assert isinstance(read, RankingResult)
    assert read.to_json() == found.to_json()
    assert json.loads(found.to_json())["kind"] == "ranking"
    free = ranking(*gaussian(), method="covariance")
    assert load_result(free.to_json()).to_json() == free.to_json()
    assert free.to_dict()["pull"][free.index("free")] is None


def test_pages(analytic_model):
    found = ranking(*analytic_model, method="covariance")
    pages = [found.page(n, 2) for n in (1, 2, 3)]
    assert [len(p) for p in pages] == [2, 2, 1]
    assert sum((p.names for p in pages), ()) == found.names
    np.testing.assert_array_equal(np.concatenate([p.up for p in pages]), found.up)
    assert found.page(1, 20).to_json() == found.to_json()
    for number, size in ((0, 2), (4, 2), (1, 0)):
        with pytest.raises(InvalidData, match="no page"):
            found.page(number, size)
    with pytest.raises(UnknownName, match="did you mean 'tilt'"):
        found.index("tlit")
