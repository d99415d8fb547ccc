"""The tests of goodness of fit that need no stored feature, or no bins."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import cramervonmises, kstest

import analytic
from nuratio.errors import InvalidModel, UnknownName
from nuratio.infer.binned.discriminant import discriminant
from nuratio.infer.fitting.fit import fit
from nuratio.infer.goodness.goodness import GOODNESS_TESTS, goodness_of_fit
from nuratio.infer.goodness.slices import Slices
from nuratio.infer.results import GoodnessOfFit, load_result
from nuratio.parallel.tasks import Serial
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace

WITHOUT_FEATURE = [name for name in GOODNESS_TESTS if name != "projection"]


def judged(model, data, test, n_toys, **options):
    return goodness_of_fit(model, data, fit(model, data), test=test, n_toys=n_toys, executor=Serial(), **options)


def data_at_truth(seed, pool):
    """Data of the generating model, auxiliary ones too."""
    ws = analytic.workspace(pool=pool, seed=seed)
    rng, model = np.random.default_rng([seed, 1]), ws.model(threads=1)
    data = ws.data(model)
    data[model.config.channel_slices["CR"]] = rng.poisson([100, 120])
    truth = np.array(model.config.suggested_init())
    data[model.config.nmaindata :] = model.constraints.sample(model.parameters.values(truth), rng)
    return model, data


@pytest.mark.parametrize("test", ["score", "distance"])
def test_p_values_of_the_right_model_are_uniform(test):
    n, toys = 60, 9
    p = np.array([judged(*data_at_truth(seed, 1000), test, toys).p_value for seed in range(n)])
    rank = np.round(p * (toys + 1)) - 1  # one of 0 ... toys, each as likely
    between = (rank + np.random.default_rng(1).uniform(size=n)) / (toys + 1)
    assert kstest(between, "uniform").pvalue > 0.003


@pytest.mark.parametrize("test", WITHOUT_FEATURE)
@pytest.mark.parametrize("wrong", ["bump", "tilt"])
def test_a_wrong_model_has_a_small_p_value(test, wrong):
    rng = np.random.default_rng(3)
    events = {
        "bump": [analytic.draw_background(rng, 1000), rng.normal(5, 1, 60), rng.normal(8, 0.3, 120)],
        "tilt": [10 * rng.beta(0.6, 1.6, 1000), rng.normal(5, 1, 60)],
    }
    ws = analytic.workspace(observed=np.concatenate(events[wrong]))
    model = ws.model(threads=1)
    result = judged(model, ws.data(model), test, 49)
    assert result.valid
    assert result.p_value <= 0.04
    right = analytic.workspace(seed=11)
    assert judged(right.model(threads=1), right.data(right.model()), test, 49).p_value > 0.04


@pytest.mark.parametrize("test", ["score", "density"])
def test_bins_of_a_learned_observable_have_equal_probability(test, analytic_model):
    model, data = analytic_model
    nominal = np.array(model.config.suggested_init())
    for bins, expected in ((7, 7), (None, 20)):
        result = judged(model, data, test, 1, bins=bins)
        assert result.bins == expected + 2
        assert result.test == test
        assert result.projections["SR"]["feature"] == test
        inner = result.projections["SR"]["edges"][1:-1]
        observed, pool = discriminant(model, "SR", nominal, test)
        where = model.config.channel_slices["SR"]
        events = model.expected_actualdata(nominal)[where][len(observed) :]
        contents = np.bincount(np.digitize(pool, inner), events)
        np.testing.assert_allclose(contents, 1060 / expected, rtol=0.02)
        # the statistic is the deviance of counts in these bins
        best = fit(model, data)
        at_fit = model.expected_actualdata(best.bestfit)[where][len(observed) :]
        rate = np.bincount(np.digitize(pool, inner), at_fit)
        n = np.bincount(np.digitize(observed, inner))
        assert result.channels["SR"] == pytest.approx(2 * np.sum(rate - n + n * np.log(n / rate)), rel=1e-6)


def test_few_events_have_few_bins():
    ws = analytic.workspace(n_background=40.0, n_signal=15.0)
    model = ws.model(threads=1)
    assert judged(model, ws.data(model), "score", 1).bins == 5 + 2


@pytest.mark.parametrize("space", ["features", "ratios"])
def test_along_one_axis_the_distance_is_that_of_cramer_and_von_mises(space, rng):
    n, x = 20_000, np.linspace(0, 1, 200)
    pool = RatioTable.from_columns({"r": rng.normal(size=n)}, np.float64)
    observed = RatioTable.from_columns({"r": rng.normal(0.3, 1, size=len(x))}, np.float64)
    channel = plain_channel(observed, pool, features=space == "features")
    slices = Slices.of(channel)
    assert (slices.space, slices.columns, len(slices.positions)) == (space, ("r",), 1)
    weights = np.zeros(len(x) + n)
    data, expected = weights.copy(), weights.copy()
    data[: len(x)], expected[len(x) :] = 1, 3.0
    below = np.sort(pool["r"])
    exact = cramervonmises(observed["r"], lambda v: np.searchsorted(below, v) / n)
    assert slices.distance(data, expected) == pytest.approx(exact.statistic, rel=0.02)
    # the model itself, in samples of any size
    found = [slices.distance(rng.poisson(0.02, len(data)) * (expected > 0), expected) for _ in range(200)]
    assert abs(np.mean(found) - 1 / 6) < 4 * np.std(found) / math.sqrt(200)


def plain_channel(observed, pool, *, features):
    ws = analytic.workspace(pool=len(pool))
    channel = ws.model(threads=1).unbinned["SR"]
    (cell,) = channel.cells
    cell = replace(cell, samples=(replace(cell.samples[1], ratio="r"),))
    stored = {"observed_features": observed, "pool_features": pool}
    if not features:
        stored = dict.fromkeys(stored)
    return replace(channel, observed=observed, pool=pool, cells=(cell,), **stored)


def test_distances_do_not_depend_on_units_and_see_correlations(rng):
    n = 4000
    x, z = rng.normal(size=(2, n))
    turned = rng.permutation(n)

    def channel(scale, order):
        columns = {"a": scale * x, "b": np.exp(z[order])}
        pool = RatioTable.from_columns(columns, np.float64)
        return plain_channel(pool.head(0), pool, features=True)

    data = np.where(x * z > 0, 1.0, 0.0)
    expected = np.ones(n)
    distance = Slices.of(channel(1.0, slice(None))).distance(data, expected)
    assert Slices.of(channel(-7.0, slice(None))).distance(data, expected) == pytest.approx(distance, rel=0.3)
    assert Slices.of(channel(1e-6, slice(None))).distance(data, expected) == pytest.approx(distance, rel=1e-6)
    assert distance > 5 * Slices.of(channel(1.0, turned)).distance(data, expected)  # marginals are the same


def test_without_features_the_space_is_that_of_the_columns_that_are_read():
    ws = analytic.workspace(seed=11)
    for events in ws.spec["unbinned"]["channels"][0]["events"].values():
        del events["features"]
    model = ws.model(threads=1)
    result = judged(model, ws.data(model), "distance", 9)
    assert result.projections["SR"] == {"space": "ratios", "columns": ["background", "d1", "d2", "signal"]}
    assert (result.bins, result.constraints, set(result.channels)) == (0, 0.0, {"SR"})
    assert result.p_value > 0.1


def test_binned_channels_of_a_model_are_tested_with_it():
    ws = Workspace.from_pyhf(analytic.binned_spec(per_bin=False))
    model = ws.model()
    data = ws.data(model)
    projection = goodness_of_fit(model, data, fit(model, data), n_toys=0)
    score = goodness_of_fit(model, data, fit(model, data), test="score", n_toys=0)
    assert score.statistic == projection.statistic
    assert score.asymptotic_p_value == projection.asymptotic_p_value
    with pytest.raises(InvalidModel, match="no unbinned channel"):
        goodness_of_fit(model, data, fit(model, data), test="distance")


def test_results_are_json_and_older_ones_are_read(analytic_model):
    model, data = analytic_model
    for test in WITHOUT_FEATURE:
        result = judged(model, data, test, 2)
        assert load_result(result.to_json()).to_json() == result.to_json()
    old = result.to_dict()
    del old["test"]
    assert GoodnessOfFit.from_dict(old).test == "projection"


def test_wrong_requests_are_named(analytic_model):
    model, data = analytic_model
    best = fit(model, data)
    with pytest.raises(UnknownName, match="no goodness-of-fit test 'scores'; did you mean 'score'"):
        goodness_of_fit(model, data, best, test="scores")
    with pytest.raises(InvalidModel, match="test 'distance' has no option 'bins'; it is one of 'score' and 'density'"):
        goodness_of_fit(model, data, best, test="distance", bins=4)
    with pytest.raises(InvalidModel, match="test 'score' has no option 'projections'"):
        goodness_of_fit(model, data, best, {"SR": ("x", 4)}, test="score")
    with pytest.raises(InvalidModel, match="n_toys = 0"):
        goodness_of_fit(model, data, best, test="score", n_toys=0)
    slices = Slices.of(model.unbinned["SR"])
    n = len(model.unbinned["SR"])
    with pytest.raises(InvalidModel, match="the data have 0"):
        slices.distance(np.zeros(n), np.ones(n))
