"""Breakdowns: against closed forms, a slow twin of the score's variance, fits made one by one, and the sums."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyhf
import pytest
from discrete import Channel, simulate
from discrete import workspace as discrete

import analytic
from nuratio.errors import InvalidData, InvalidModel, UnknownName
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.breakdown import BreakdownResult, breakdown
from nuratio.infer.impacts.fluctuations import score_variances
from nuratio.infer.results import load_result
from nuratio.model.model import Model
from nuratio.workspace.workspace import Workspace

HELD, FLUCTUATED = ["freeze", "cumulative"], ["covariance", "auxdata"]


def binned(factor=100.0):
    """Every modifier, with enough events that nothing is at a bound."""
    spec = analytic.binned_spec()
    for channel in spec["channels"]:
        for sample in channel["samples"]:
            sample["data"] = (factor * np.array(sample["data"])).tolist()
            for modifier in sample["modifiers"]:
                if modifier["type"] == "histosys":
                    modifier["data"] = {k: (factor * np.array(v)).tolist() for k, v in modifier["data"].items()}
                elif modifier["type"] in ("staterror", "shapesys"):
                    modifier["data"] = (factor * np.array(modifier["data"])).tolist()
    spec["measurements"][0]["config"]["parameters"].append({"name": "mu", "bounds": [[-10.0, 10.0]]})
    model = Model.from_pyhf(pyhf.Workspace(spec).model())
    return model, model.asimov(np.array(model.config.suggested_init()))


def squares(result):
    return sum(v**2 for v in result.components.values())


def on_asimov_data(make):
    model = make()
    return model, model.asimov(np.array(model.config.suggested_init()))


def kappa():
    workspace = analytic.workspace()
    analytic.make_kappa_the_poi(workspace.spec)
    return Workspace(workspace.spec, workspace.tables)


def cells():
    return discrete((Channel(cells=True, staterror=True), simulate(np.random.default_rng(5))))


@pytest.mark.parametrize("make", [analytic.workspace, kappa, cells], ids=["rates and shapes", "expression", "cells"])
def test_the_variance_of_the_score_is_the_sum_over_data(make):
    """Slow twin: the gradient of -2 ln L with one datum in the data, minus that with none, is -2 times its score."""
    workspace = make()
    model = workspace.model()
    data = workspace.data(model)
    if not data[: model.config.nmaindata].any():
        data = model.sample(np.array(model.config.suggested_init()), np.random.default_rng(1))
    theta = np.array(model.config.suggested_init())
    for name, value in {"tilt": 0.6, "norm": -0.4, "mu": 1.3, "kappa": 1.2}.items():
        if name in model.config.par_names:
            theta[model.config.par_names.index(name)] = value
    found = score_variances(model, data, theta)
    nothing, rng = data.copy(), np.random.default_rng(2)
    nothing[: model.config.nmaindata] = 0
    for channel, where in model.config.channel_slices.items():
        present = where.start + np.flatnonzero(data[where])
        few = rng.choice(present, min(len(present), 40), replace=False)
        chosen, twin = nothing.copy(), np.zeros((len(theta),) * 2)
        chosen[few] = data[few] * (1 + np.arange(len(few)) % 3)  # weights as of toys
        for datum in few:
            one = nothing.copy()
            one[datum] = 1.0
            score = -(model.gradient(theta, one) - model.gradient(theta, nothing)) / 2
            twin += chosen[datum] * np.outer(score, score)
        told = score_variances(model, chosen, theta)
        scale = np.sqrt(np.diag(twin).max())
        np.testing.assert_allclose(told[channel], twin, rtol=1e-9, atol=1e-9 * scale)
        assert all(not told[other].any() for other in told if other != channel)
        assert np.abs(found[channel]).max() > 0


def test_components_of_a_counting_experiment():
    """n ~ Pois(mu s + gamma b), a ~ Pois(gamma f): n / s^2 of the data and b^2 a / (f s)^2 of the auxiliary count."""
    s, b, f, a = 1000.0, 40_000.0, 100.0, 196.0
    spec = analytic.counting(1, s=s, b=b, bounds=(-100, 200))
    spec["channels"][0]["samples"][1]["modifiers"] = [
        {"name": "gamma", "type": "shapesys", "data": [b / np.sqrt(f)]},
        analytic.normsys("rate", 1.0),
    ]
    model = Model.from_pyhf(pyhf.Workspace(spec).model())
    n = b * a / f + s
    data = np.array([n, *(a if v == f else v for v in np.round(model.config.auxdata, 9))])
    for method in (*FLUCTUATED, *HELD):
        found = breakdown(model, data, method=method)
        assert found.valid
        assert found.components == pytest.approx(
            {"statistics": np.sqrt(n) / s, "uncorrelated shapes": b * np.sqrt(a) / (f * s), "systematics": 0.0},
            rel=1e-5,
            abs=1e-9,
        )
        assert found.total == pytest.approx(found.uncertainty, rel=1e-5)


def test_components_add_up_to_the_uncertainty_of_asimov_data():
    """Of every modifier: luminosity, gammas of both kinds, rates, shapes, factors."""
    model, data = binned()
    found, same = (breakdown(model, data, {"rates": ["norm"]}, statistics=s) for s in ("score", "hessian"))
    assert same.components == pytest.approx(found.components, rel=1e-7)
    assert same.channels == {}
    assert set(found.components) == {
        *("statistics", "rates", "other", "luminosity", "MC statistics", "uncorrelated shapes")
    }
    assert found.members["MC statistics"] == ("stat[0]", "stat[2]", "stat_A[0]", "stat_A[1]")
    assert found.members["uncorrelated shapes"] == ("uncorrelated[0]", "uncorrelated[2]")
    assert found.members["other"] == ("shape",)
    assert found.total == pytest.approx(found.uncertainty, rel=1e-9)
    assert found.total**2 == pytest.approx(squares(found), rel=1e-12)
    assert found["statistics"] ** 2 == pytest.approx(sum(v**2 for v in found.channels.values()))
    assert found.remainder == 0


@pytest.mark.parametrize("make", [analytic.workspace, kappa])
def test_components_of_observed_events_add_up_to_the_uncertainty(make):
    """With the data's own part of the Hessian exactly, with the variance of their score up to its fluctuations."""
    workspace = make()
    model = workspace.model()
    data = workspace.data(model)
    exact = breakdown(model, data)
    assert exact.total == pytest.approx(exact.uncertainty, rel=1e-12)
    assert exact.total**2 == pytest.approx(squares(exact), rel=1e-12)
    best = fit(model, data)
    own = model.likelihood(data).hessian(best.bestfit) / 2
    measured = np.nan_to_num(best.constraint_width, nan=np.inf)
    own -= np.diag(1 / measured**2)  # all of them are Gaussian
    response = best.covariance[best.index(exact.poi)]
    assert exact["statistics"] ** 2 == pytest.approx(response @ own @ response, rel=1e-9)
    found = breakdown(model, data, statistics="score")
    assert {k: v for k, v in found.components.items() if k != "statistics"} == {
        k: v for k, v in exact.components.items() if k != "statistics"
    }
    assert found.total**2 == pytest.approx(squares(found), rel=1e-12)
    assert found.total != found.uncertainty
    n = data[: model.config.nmaindata].sum()
    assert found.total == pytest.approx(found.uncertainty, rel=4 / np.sqrt(n))


@pytest.fixture(scope="module")
def large():
    """Many events, so that the likelihood is nearly Gaussian; the background may have a bump where the signal is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(analytic, "tilt", lambda x: (0.01 * np.exp(-(((x - 5.0) / 2) ** 2)), 0.0 * x))
        workspace = analytic.workspace(n_signal=6000.0, n_background=100_000.0, observed=np.array([1.0, 5.0]))
    return on_asimov_data(workspace.model)


def test_refits_to_changed_auxiliary_data_are_the_linear_ones_in_the_gaussian_limit(large):
    groups = {"rates": ["norm", "xs"], "shapes": ["tilt"]}
    linear, refits = (breakdown(*large, groups, method=m) for m in FLUCTUATED)
    assert refits.valid
    assert refits.components == pytest.approx(linear.components, rel=0.01)
    assert linear.total == pytest.approx(linear.uncertainty, rel=0.01)
    assert refits.total**2 == pytest.approx(squares(refits), rel=1e-12)
    assert min(linear["rates"], linear["shapes"]) > 0.2 * linear.total


def test_the_systematic_part_is_how_far_fluctuating_auxiliary_data_move_the_fit(large):
    """The definition: the auxiliary data are drawn again, the data are not; everything is fitted again."""
    model, data = large
    found, rng, n = breakdown(model, data, method="auxdata"), np.random.default_rng(8), 150
    nominal, fitted = np.array(model.config.suggested_init()), []
    for _ in range(n):
        aux = model.constraints.sample(nominal, rng)
        fitted.append(fit(model, [*data[: model.config.nmaindata], *aux], hesse=False)["mu"].value)
    expected = np.sqrt(squares(found) - found["statistics"] ** 2)
    assert np.std(fitted, ddof=1) == pytest.approx(expected, rel=4 / np.sqrt(2 * n))
    assert found.total > 1.2 * expected


def test_statistics_are_the_scatter_of_fits_to_resampled_data(analytic_model):
    n = 200
    linear = breakdown(*analytic_model, statistics="score")
    drawn, again, other = (
        breakdown(*analytic_model, method="auxdata", bootstraps=n, seed=s, groups={"all": ["*"]}) for s in (3, 3, 4)
    )
    assert drawn.valid
    assert drawn.channels == {}
    assert drawn["statistics"] == pytest.approx(linear["statistics"], rel=4 / np.sqrt(2 * n))
    assert drawn.to_json() == again.to_json() != other.to_json()


def test_bootstraps_by_an_executor_are_the_same(analytic_model):
    options = {"method": "auxdata", "bootstraps": 10, "seed": 3}
    here = breakdown(*analytic_model, **options)
    with ThreadPoolExecutor(2) as threads:
        there = breakdown(*analytic_model, **options, executor=threads)
    assert there.components == pytest.approx(here.components, rel=1e-6)


def test_held_groups_are_fits_with_them_held(analytic_model):
    model, data = analytic_model
    best, groups = fit(model, data), {"rates": ["norm", "xs"], "shapes": ["tilt"], "gammas": ["stat"]}
    sigma = best["mu"].uncertainty

    def left(*names):
        return fit(model, data, fixed={n: best[n].value for n in names})["mu"].uncertainty

    everything = [n for n in best.names if n != "mu"]
    alone, in_turn = (breakdown(model, data, groups, method=m, fit=best) for m in HELD)
    for found in (alone, in_turn):
        assert found.members == {"rates": ("norm", "xs"), "shapes": ("tilt",), "gammas": ("stat[0]", "stat[1]")}
        assert found["statistics"] == pytest.approx(left(*everything), rel=1e-6)
        assert found.total == found.uncertainty == sigma
    for group, names in alone.members.items():
        assert alone[group] ** 2 == pytest.approx(sigma**2 - left(*names) ** 2, rel=1e-5)
    assert sigma**2 - squares(alone) == pytest.approx(alone.remainder * abs(alone.remainder))
    assert abs(alone.remainder) > 0.01 * sigma
    assert in_turn.remainder == 0
    assert squares(in_turn) == pytest.approx(sigma**2, rel=1e-9)
    assert in_turn["rates"] == alone["rates"]
    assert in_turn["shapes"] ** 2 == pytest.approx(left("norm", "xs") ** 2 - left("norm", "xs", "tilt") ** 2, rel=1e-5)
    turned = breakdown(model, data, dict(reversed(groups.items())), method="cumulative", fit=best)
    assert turned["gammas"] == pytest.approx(alone["gammas"])
    assert turned["rates"] != pytest.approx(in_turn["rates"], rel=0.01)


def test_factors_are_a_group_where_they_are_held_and_statistics_elsewhere():
    model, data = binned()
    held = breakdown(model, data, method="freeze")
    assert held.members["normalisation factors"] == ("free[0]", "free[1]")
    assert held["normalisation factors"] > 0
    for method in FLUCTUATED:
        assert "normalisation factors" not in breakdown(model, data, method=method).components
        named = breakdown(model, data, {"data driven": ["free*"]}, method=method)
        assert named["data driven"] == 0
        assert "in the statistics: free[0], free[1]" in named.message
        assert named.valid


def test_a_constrained_parameter_of_interest_has_its_own_measurement(analytic_model):
    found = breakdown(*analytic_model, poi="xs")
    assert found.members["systematics"] == ("norm", "tilt", "xs")
    assert found["systematics"] == pytest.approx(1.0, abs=0.02)


def test_the_simulation_is_added_where_it_is_known():
    model = discrete((Channel(), simulate(np.random.default_rng(5)))).model()
    data = model.asimov(np.array(model.config.suggested_init()))
    best = fit(model, data)
    for method in (*FLUCTUATED, *HELD):
        for start in (best, None):
            found = breakdown(model, data, method=method, fit=start)
            assert found["simulation"] == pytest.approx(best["mu"].simulation)
            assert list(found.components)[-1] == "simulation"
            assert found.total**2 == pytest.approx(squares(found) + found.remainder * abs(found.remainder))
            assert found.total == pytest.approx(best["mu"].total, rel=0.01)
            assert found.message == ""
    unknown = breakdown(*on_asimov_data(analytic.workspace().model))
    assert "simulation" not in unknown.components
    assert "statistics of the simulation is unknown" in unknown.message
    assert unknown.valid


def test_nuisances_of_the_simulation_have_groups(analytic_workspace):
    """Directions of networks go by their names, and so does the influence nuisance."""
    renamed = analytic_workspace.rename(modifiers={"tilt": "network_SR_1", "xs": "simulation"})
    found = breakdown(*on_asimov_data(renamed.model))
    assert found.members["network statistics"] == ("network_SR_1",)
    assert found.members["simulation"] == ("simulation",)
    assert found.members["systematics"] == ("norm",)
    assert found.message == ""
    elsewhere = breakdown(*on_asimov_data(analytic_workspace.rename(modifiers={"tilt": "network_CR_1"}).model))
    assert "network_CR_1" in elsewhere.members["systematics"]


def test_groups_that_are_none(analytic_model):
    model, data = analytic_model
    with pytest.raises(InvalidModel, match=r"'tilt' is in the groups 'a' and 'b' \(pattern 't\*'\)"):
        breakdown(model, data, {"a": ["tilt"], "b": ["t*"]})
    with pytest.raises(UnknownName, match=r"group 'a': no parameter .* matches 'tlit'; did you mean 'tilt'"):
        breakdown(model, data, {"a": ["tlit"]})
    with pytest.raises(UnknownName, match="matches 'mu'"):
        breakdown(model, data, {"a": ["mu"]})
    with pytest.raises(UnknownName, match="free in the fit matches 'xs'"):
        breakdown(model, data, {"a": ["xs"]}, fit=fit(model, data, fixed={"xs": 0.5}))
    with pytest.raises(InvalidModel, match="cannot be called 'statistics'"):
        breakdown(model, data, {"statistics": ["stat"]})
    assert breakdown(model, data, {"a": ["stat[1]", "stat*"]}).members["a"] == ("stat[0]", "stat[1]")
    assert breakdown(model, data, {"a": "t*"}).members["a"] == ("tilt",)


def test_what_is_refused(analytic_model):
    model, data = analytic_model
    with pytest.raises(InvalidModel, match="did you mean 'freeze'"):
        breakdown(model, data, method="freez")
    with pytest.raises(InvalidModel, match="did you mean 'score'"):
        breakdown(model, data, statistics="scores")
    for method, bootstraps in (("covariance", 10), ("auxdata", 1)):
        with pytest.raises(InvalidModel, match="bootstraps by method"):
            breakdown(model, data, method=method, bootstraps=bootstraps)
    with pytest.raises(InvalidData, match="'mu' was held"):
        breakdown(model, data, fit=fit(model, data, fixed={"mu": 1.0}))


def test_data_that_push_a_parameter_off_have_no_part_in_the_curvature():
    """A rate that rises to both sides, and an excess: the constraint alone makes a minimum."""
    spec = analytic.counting(1002, s=10.0, b=1000.0, bounds=(-10, 10))
    spec["channels"][0]["samples"][1]["modifiers"] = [analytic.normsys("rate", 1.1, 1.1)]
    model = Model.from_pyhf(pyhf.Workspace(spec).model())
    data = [1002.0, 0.0]
    best = fit(model, data, fixed={"mu": 0.0})
    assert best["rate"].uncertainty > 1
    found, score = (breakdown(model, data, poi="rate", fit=best, statistics=s) for s in ("hessian", "score"))
    assert not found.valid
    assert np.isnan([found["statistics"], found.total]).all()
    assert "use statistics='score'" in found.message
    assert load_result(found.to_json()).to_json() == found.to_json()
    assert score.valid
    assert score["statistics"] == pytest.approx(0, abs=1e-6)


def test_refits_and_bootstraps_that_fail_are_told():
    """A background that is hardly there: resampled data push the signal to its bound."""
    spec = analytic.counting(52, s=10.0, b=50.0, bounds=(0, 10))
    spec["channels"][0]["samples"][1]["modifiers"] = [analytic.normsys("rate", 1.2)]
    model = Model.from_pyhf(pyhf.Workspace(spec).model())
    found = breakdown(model, [52.0, 0.0], method="auxdata", bootstraps=20)
    assert not found.valid
    assert "rate: up, auxiliary datum 1: 'mu' ended on its bound 0" in found.message
    assert "of 20 bootstraps are not valid, the first because 'mu' ended on its bound" in found.message


def test_what_a_result_is(analytic_model):
    for method in (*FLUCTUATED, *HELD):
        found = breakdown(*analytic_model, method=method)
        read = load_result(found.to_json())
        assert isinstance(read, BreakdownResult)
        assert read == found
        lines = str(found).splitlines()
        assert lines[0] == f"mu = {found.value:.4g}"
        assert [line.rsplit(maxsplit=1)[0] for line in lines[1:]][: len(found.components)] == list(found.components)
        assert lines[-1].split() == ["total", f"{found.total:.3g}"]
    with pytest.raises(UnknownName, match="did you mean 'statistics'"):
        found["statistic"]
