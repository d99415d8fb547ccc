import math
from dataclasses import replace

import numpy as np
import pytest

import analytic
from nuratio.errors import InvalidModel, UnknownName
from nuratio.infer.binned import compare as module
from nuratio.infer.binned.binned_twin import binned_twin, point
from nuratio.infer.binned.compare import ComparedAnalysis, CompareResult, compare
from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.hypotest import significance
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.infer.results import load_result
from nuratio.parallel.tasks import Serial
from nuratio.workspace.workspace import Workspace


@pytest.fixture(scope="module")
def workspace():
    return analytic.workspace()


@pytest.fixture(scope="module")
def model(workspace):
    return workspace.model(threads=1)


def uncertainties(result, name):
    return np.array([a.uncertainty for a in result.analyses if a.name in ("counting", name)])


@pytest.mark.parametrize("at", [None, {"mu": 3.0, "norm": -0.5}])
def test_more_bins_know_more_and_no_bins_know_most(workspace, model, at):
    result = compare(workspace, model, observable="x", at=at, bins=(2, 4, 8, 16, 128), limits=False)
    assert result.valid
    for name in ("quantile", "optimised"):
        sigma = uncertainties(result, name)
        assert len(sigma) == 6
        assert np.all(np.diff(sigma) < 0)
        assert np.all(sigma > result.unbinned.uncertainty)
        # in the limit of fine bins nothing is lost
        assert sigma[-1] == pytest.approx(result.unbinned.uncertainty, rel=2e-3)
    assert np.all(uncertainties(result, "optimised") <= uncertainties(result, "quantile") * (1 + 1e-9))
    assert result.best() is result.analysis("optimised", 128)
    pars = point(model, at)
    exact = fit(model, model.expected_data(pars), simulation=False)["mu"].uncertainty
    assert result.unbinned.uncertainty == pytest.approx(exact, rel=1e-6)


def test_the_score_loses_what_the_nuisances_need_and_the_profiled_score_does_not(workspace, model):
    options = {"bins": (2, 20), "limits": False}
    score = compare(workspace, model, observable="score", **options)
    profiled = compare(workspace, model, **options)
    assert profiled.observable == "profiled score"
    assert score.gain(score.best()) > 4
    assert 0 < profiled.gain(profiled.best()) < 0.5


def test_without_nuisances_the_score_is_sufficient(model):
    ws = analytic.workspace()
    config = ws.spec["measurements"][0]["config"]
    config["parameters"] = [{"name": n, "fixed": True} for n in ("norm", "tilt", "xs", "stat")]
    result = compare(ws, observable="score", bins=(3, 6, 100), limits=False)
    assert result.gain(result.analysis("quantile", 100)) == pytest.approx(0, abs=0.1)
    assert result.gain(result.analysis("optimised", 6)) < result.gain(result.analysis("quantile", 6))
    # one parameter: 1 / variance is the sum of lambda_b s_b^2
    fixed = ws.model()
    expected = fixed.expected_data(np.array(fixed.config.suggested_init()))
    assert result.unbinned.uncertainty == pytest.approx(
        math.sqrt(2 / fixed.hessian(point(fixed, None), expected)[0, 0])
    )


def test_limits_and_significances_are_those_of_the_twins(workspace, model):
    result = compare(workspace, model, bins=(5,))
    for analysis in result.analyses:
        other = model
        if analysis.bins:
            other = binned_twin(workspace, analysis.edges, observable="profiled score", model=model).model()
        asimov, background = (other.expected_data(point(other, {"mu": mu})) for mu in (1.0, 0.0))
        assert analysis.uncertainty == pytest.approx(fit(other, asimov)["mu"].uncertainty, rel=1e-6)
        assert analysis.limit == pytest.approx(upper_limit(other, background, points=2).expected[2], rel=1e-4)
        assert analysis.significance == pytest.approx(significance(other, asimov).expected_significance, rel=1e-4)
    assert result.limit_gain(result.unbinned) == result.significance_gain(result.unbinned) == 0
    assert result.limit_gain(result.analysis("counting")) > 100
    assert result.significance_gain(result.analysis("counting")) > 100


def test_toys_are_the_same_events_for_all(workspace, model):
    n = 40
    result = compare(workspace, model, bins=(2, 10), n_toys=n, limits=False, executor=Serial())
    pars = point(model, None)
    toy = model.sample(pars, np.random.default_rng(np.random.SeedSequence(1, spawn_key=(3,))))
    assert result.unbinned.estimates[3] == pytest.approx(fit(model, toy)["mu"].value, rel=1e-5)
    best = result.analysis("optimised", 10)
    twin = binned_twin(workspace, best.edges, observable="profiled score", model=model, data=toy)
    other = twin.model()
    binned = twin.data(other)
    names = [(name, j) for name in other.config.auxdata_order for j in range(other.config.param_set(name).n_parameters)]
    theirs = [
        (name, j) for name in model.config.auxdata_order for j in range(model.config.param_set(name).n_parameters)
    ]
    assert names != theirs
    aux = dict(zip(theirs, toy[model.config.nmaindata :], strict=True))
    binned[other.config.nmaindata :] = [aux[name] for name in names]
    assert best.estimates[3] == pytest.approx(fit(other, binned)["mu"].value, rel=1e-5)
    for analysis in result.analyses:
        spread = result.spread(analysis)
        assert spread.toys == n
        assert abs(spread.mean - 1) < 4 * spread.mean_error
        assert abs(spread.spread / analysis.uncertainty - 1) < 4 / math.sqrt(2 * n)
    itself = result.spread(result.unbinned)
    assert (itself.correlation, itself.efficiency, itself.efficiency_error) == pytest.approx((1, 1, 0), abs=1e-6)
    assert result.spread(best).correlation > 0.98 > result.spread(result.analysis("quantile", 2)).correlation
    fewer = compare(workspace, model, bins=(2,), n_toys=3, limits=False, executor=Serial())
    np.testing.assert_allclose(fewer.unbinned.estimates, result.unbinned.estimates[:3], rtol=1e-12)


def test_the_error_of_the_efficiency_is_its_spread(rng):
    def result(x, y):
        parts = [
            ComparedAnalysis(n, b, {}, 1.0, np.nan, np.nan, e, e, True, "")
            for n, b, e in (("counting", 1, x), ("unbinned", 0, y))
        ]
        return CompareResult("mu", {}, "score", "total", False, 1, tuple(parts), {}, True, "")

    found = []
    for _ in range(400):
        y = rng.normal(size=100)
        made = result(1.2 * (0.9 * y + math.sqrt(1 - 0.81) * rng.normal(size=100)), y)
        found.append(made.spread(made.analyses[0]))
    values = np.array([s.efficiency for s in found])
    assert abs(values.mean() - 1 / 1.44) < 4 * values.std() / 20 + 0.01
    assert np.mean([s.efficiency_error for s in found]) == pytest.approx(values.std(), rel=0.2)
    assert np.mean([s.spread_error for s in found]) == pytest.approx(np.std([s.spread for s in found]), rel=0.2)


def test_toys_that_cannot_be_fitted_are_reported(workspace, model, monkeypatch):
    calls = []

    def failing(*args, **options):
        calls.append(1)
        return fit(*args, **options, max_calls=1 if len(calls) == 2 else 1000)

    monkeypatch.setattr(module, "fit", failing)
    result = compare(workspace, model, bins=(2,), n_toys=3, limits=False, executor=Serial())
    assert list(result.failures) == ["0"]
    assert not result.valid
    assert result.message.startswith("1 of 3 toys failed, the first: toy 0: quantile 2: ")
    assert np.isnan(result.analysis("quantile").estimates).tolist() == [True, False, False]
    with pytest.raises(InvalidModel, match="2 toys with valid fits"):
        result.spread(result.analysis("quantile"))


def test_two_channels_and_statistics_of_the_pool(workspace):
    other = analytic.workspace(seed=5, n_signal=20.0, pool=2000)
    names = {"stat": "stat2"}
    other = Workspace.rename(
        other, modifiers=names, channels={"CR": "CR2", "SR": "SR2"}, measurements={"analytic": "b"}
    )
    for file in other.spec["unbinned"]["files"]:
        file["id"] += " 2"
    both = Workspace.combine(workspace, _with_other_files(other))
    result = compare(both, bins=(4,), limits=False, n_toys=2, executor=Serial())
    alone = compare(workspace, bins=(4,), limits=False)
    assert result.valid
    assert {len(edges) for edges in result.analysis("optimised").edges.values()} == {3}
    assert result.unbinned.uncertainty < alone.unbinned.uncertainty
    with_error = compare(both, bins=(4,), limits=False, staterror=True, n_toys=2, executor=Serial())
    assert with_error.staterror
    assert with_error.valid
    for a, b in zip(result.analyses[:-1], with_error.analyses[:-1], strict=True):
        assert a.uncertainty < b.uncertainty
    assert with_error.unbinned.uncertainty == result.unbinned.uncertainty
    np.testing.assert_array_equal(with_error.unbinned.estimates, result.unbinned.estimates)


def _with_other_files(ws):
    spec = ws.spec
    for channel in spec["unbinned"]["channels"]:
        for events in channel["events"].values():
            events |= {role: events[role] + " 2" for role in ("file", "features")}
    return Workspace(spec, {f"{name} 2": table for name, table in ws.tables.items()})


def test_measures_of_quantiles(workspace, model):
    found = {
        measure: compare(workspace, model, observable="score", measure=measure, bins=(5,), limits=False)
        for measure in ("total", "background", "information")
    }
    pool = module.discriminant(model, "SR", point(model, None))[1]
    channel = model.unbinned["SR"]
    for mu, measure in ((1.0, "total"), (0.0, "background")):
        events = model.expected_actualdata(point(model, {"mu": mu}))[model.config.channel_slices["SR"]]
        where = np.digitize(pool, found[measure].analysis("quantile").edges["SR"])
        shares = np.bincount(where, events[len(channel.observed) :]) / events.sum()
        np.testing.assert_allclose(shares, 0.2, atol=2e-3)
    edges = {measure: r.analysis("quantile").edges["SR"] for measure, r in found.items()}
    assert edges["information"][-1] > edges["total"][-1] > edges["background"][-1]  # finer and finer where signal is
    best = [r.analysis("optimised").uncertainty for r in found.values()]
    assert max(best) < 1.002 * min(best)


def test_results_are_json(workspace, model):
    result = compare(workspace, model, bins=(2,), limits=False, n_toys=2, executor=Serial())
    again = load_result(result.to_json())
    assert again.to_json() == result.to_json()
    assert again.gain(again.best()) == result.gain(result.best())
    assert math.isnan(again.unbinned.limit)
    lines = result.table().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "",
        "counting",
        "quantile, 2 bins",
        "optimised, 2 bins",
        "unbinned",
    ]
    assert "nan" not in result.table()


def test_a_poi_that_cannot_be_zero_has_no_limit():
    ws = analytic.workspace()
    analytic.make_kappa_the_poi(ws.spec)
    result = compare(ws, bins=(3,))
    assert result.valid
    assert result.poi == "kappa"
    assert all(math.isnan(a.limit) and math.isnan(a.significance) for a in result.analyses)
    assert result.gain(result.analysis("counting")) > 50
    with pytest.raises(InvalidModel, match="'kappa' cannot be 0"):
        compare(ws, measure="background")


def test_a_limit_beyond_the_bounds_is_reported():
    ws = analytic.workspace()
    ws.spec["measurements"][0]["config"]["parameters"] = [{"name": "mu", "bounds": [[0.0, 1.5]]}]
    result = compare(ws, bins=(5,))
    counting = result.analysis("counting")
    assert math.isnan(counting.limit)
    assert not counting.valid
    assert "widen its bounds" in counting.message
    assert result.unbinned.valid
    assert not result.valid
    assert "counting: limit: " in result.message
    assert result.best().name == "optimised"


def test_what_cannot_be_compared_is_said(workspace, model):
    with pytest.raises(InvalidModel, match="no unbinned channel"):
        compare(Workspace.from_pyhf(analytic.binned_spec()))
    with pytest.raises(UnknownName, match="no measure 'totl' of bins; did you mean 'total'"):
        compare(workspace, model, measure="totl")
    with pytest.raises(InvalidModel, match="at least 1"):
        compare(workspace, model, bins=(0, 2))
    with pytest.raises(UnknownName, match="no parameter 'nu'"):
        compare(workspace, model, at={"nu": 1.0})
    with pytest.raises(InvalidModel, match="no parameter of interest"):
        compare(workspace, workspace.model(poi=None))
    result = compare(workspace, model, bins=(2,), limits=False)
    with pytest.raises(UnknownName, match="no analysis 'quantile, 7 bins'"):
        result.analysis("quantile", 7)
    with pytest.raises(UnknownName, match="no valid binned analysis of at most 0 bins"):
        result.best(0)
    assert result.best(1).name == "counting"
    assert replace(result.analyses[1], bins=1).title == "quantile"
