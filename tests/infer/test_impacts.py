"""Impacts from a covariance: against refits with the nuisance held, and against models without shapes."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

import analytic
from nuratio.checks.impacts import asimov_impacts
from nuratio.errors import InvalidData, UnknownName
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.impacts import Impacts, impacts, shape_impacts
from nuratio.infer.results import load_result
from nuratio.workspace.workspace import Workspace

NUISANCES = {"norm", "tilt", "xs", "stat[0]", "stat[1]"}


def asimov(workspace):
    model = workspace.model()
    data = model.asimov(model.config.suggested_init())
    return model, data, fit(model, data, simulation=False)


@pytest.fixture(scope="module")
def large():
    """Many events, so that the likelihood is nearly Gaussian."""
    return analytic.workspace(n_signal=6000.0, n_background=100_000.0, pool=4000, observed=np.array([1.0, 5.0]))


@pytest.fixture(scope="module")
def fitted(large):
    return asimov(large)


def test_impacts_are_those_of_refits(fitted):
    """The parameter of interest with the nuisance held where its uncertainty, post-fit or pre-fit, ends."""
    model, data, best = fitted
    found = impacts(best, "mu")
    assert set(found.names) == NUISANCES
    assert found.uncertainty == best["mu"].uncertainty
    assert (np.diff(np.abs(found.impact)) <= 0).all()
    for k, name in enumerate(found.names):
        post, pre = best[name].uncertainty, best.constraint_width[best.index(name)]
        for delta, told in ((post, found.impact[k]), (pre, found.prefit[k])):
            ends = [
                fit(model, data, fixed={name: best[name].value + side * delta}, hesse=False)["mu"].value
                for side in (1, -1)
            ]
            assert (ends[0] - ends[1]) / 2 == pytest.approx(told, rel=0.03, abs=1e-3 * found.uncertainty)
        assert found.constraint[k] == pytest.approx(post / pre)
        assert found.pull[k] == pytest.approx(0, abs=1e-3)  # of Asimov data


def test_a_squared_impact_is_what_the_nuisance_adds_to_the_variance(fitted):
    model, data, best = fitted
    held, found = fit(model, data, fixed={"xs": best["xs"].value}), impacts(best, "mu")
    squared = found.impact[found.names.index("xs")] ** 2
    assert found.uncertainty**2 - squared == pytest.approx(held["mu"].uncertainty ** 2, rel=1e-3)


def test_pulls_of_observed_data():
    workspace = analytic.workspace(seed=4)
    model = workspace.model()
    best = fit(model, workspace.data(model))
    found = impacts(best, "mu")
    for name, pull in zip(found.names, found.pull, strict=True):
        k = best.index(name)
        assert pull == pytest.approx((best.bestfit[k] - best.constraint_center[k]) / best.constraint_width[k])
    assert np.abs(found.pull).max() > 0.1


def test_what_a_result_is(fitted):
    _, _, best = fitted
    found = impacts(best, "mu")
    read = load_result(found.to_json())
    assert isinstance(read, Impacts)
    assert read.to_dict() == found.to_dict()
    assert json.loads(found.to_json())["kind"] == "impacts"


def test_impacts_need_a_covariance_and_a_free_parameter(fitted):
    model, data, best = fitted
    with pytest.raises(InvalidData, match="hesse=True"):
        impacts(fit(model, data, hesse=False), "mu")
    with pytest.raises(InvalidData, match="'mu', which was held"):
        impacts(fit(model, data, fixed={"mu": 1.0}), "mu")
    with pytest.raises(UnknownName, match="'nu'"):
        impacts(best, "nu")
    held = impacts(fit(model, data, fixed={"tilt": 0.0}), "mu")
    assert set(held.names) == NUISANCES - {"tilt"}
    at_bound = replace(best, covariance=np.where(np.arange(len(best.names)) == best.index("tilt"), 0, best.covariance))
    at_bound.covariance[best.index("tilt")] = 0
    found = impacts(at_bound, "mu")
    k = found.names.index("tilt")
    assert found.impact[k] == found.prefit[k] == found.constraint[k] == 0


def without_shapes(workspace, nuisance):
    """The workspace with the rates of a nuisance, and without its shapes."""
    spec = copy.deepcopy(workspace.spec)
    for sample in spec["unbinned"]["channels"][0]["samples"]:
        if nuisance in [m["name"] for m in sample.get("modifiers", [])]:
            del sample["modifiers"], sample["normalisation"]
    return Workspace(spec, workspace.tables)


def test_the_share_of_shapes_is_that_of_a_model_without_them(large, fitted):
    """Both models fitted to Asimov data; rates alone hardly tell the background's tilt from its normalisation."""
    model, data, best = fitted
    found, shapes = impacts(best, "mu"), shape_impacts(model, data, best, "mu")
    assert set(shapes) == {"tilt"}
    _, _, flat = asimov(without_shapes(large, "tilt"))
    there, rest = (f.impact[f.names.index("tilt")] for f in (found, impacts(flat, "mu")))
    assert shapes["tilt"] == pytest.approx(there - rest, abs=0.01 * abs(there - rest))
    assert abs(there - rest) > 0.05 * found.uncertainty


def test_impacts_of_an_analysis_are_told_on_asimov_data():
    """In units of the uncertainty; observed data do not enter."""
    few, many = (analytic.workspace(pool=3000, observed=np.linspace(1, 9, n)).model() for n in (3, 900))
    check, ranking = asimov_impacts(few, "mu")
    assert check.passed
    _, same = asimov_impacts(many, "mu")
    for name in ("impact", "prefit", "constraint", "shapes"):
        np.testing.assert_allclose(getattr(same, name), getattr(ranking, name), rtol=1e-6, atol=1e-9)
    assert set(ranking.nuisances) == NUISANCES
    assert (np.abs(ranking.impact) < 1).all()
    assert [n for n, s in zip(ranking.nuisances, ranking.shapes, strict=True) if s != 0] == ["tilt"]


def test_a_pool_too_small_for_asimov_data_is_said():
    check, ranking = asimov_impacts(analytic.workspace(pool=2).model(), "mu")
    assert ranking is None
    assert not check.passed
    assert "too small" in check.meaning


def test_a_fixed_parameter_of_interest_has_no_impacts():
    workspace = analytic.workspace(pool=3000)
    workspace.spec["measurements"][0]["config"]["parameters"].append({"name": "mu", "fixed": True})
    check, ranking = asimov_impacts(workspace.model(), "mu")
    assert check.passed
    assert ranking is None
