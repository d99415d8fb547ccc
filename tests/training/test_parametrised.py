"""Ratios with parameters as inputs, against N(theta, 1) / N(0, 1): ln r = theta x - theta^2 / 2."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from scipy.stats import expon, norm

from nuratio.data.sample import EventSample
from nuratio.errors import BiasedMethodWarning, InvalidData, NormalisationWarning, StatisticsWarning, UnknownName
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.parametrised import ParametrisedEstimator
from nuratio.ratios.shape import ShapeEstimator
from nuratio.training import parametrised
from nuratio.training.parametrised import train_parametrised

POINTS = np.linspace(-1, 1, 5)
GRID = np.linspace(-2, 2, 81)
QUICK = TrainingOptions(hidden=(32, 32), epochs=10, batch_size=512, learning_rate=2e-2, folds=2, ensemble=1)
TINY = TrainingOptions(hidden=(4,), epochs=1, folds=2, ensemble=1)


def normal(n, seed):
    """Quantiles of a unit normal, one in each of n equal shares: fluctuates far less than a random sample."""
    rng = np.random.default_rng(seed)
    return norm.ppf((rng.permutation(n) + rng.random(n)) / n)


def gaussians(n, points=POINTS):
    return [(theta, EventSample(theta + normal(n, j))) for j, theta in enumerate(points)]


def unit(n, seed=100):
    return EventSample(normal(n, seed))


def train(samples, reference=None, *, options=QUICK, names=("mean",), **kwargs):
    return train_parametrised(samples, reference, names=names, options=options, progress=False, **kwargs)


def log_error(estimator, theta):
    """Root mean square over q of the error of ln r."""
    error = np.log(estimator.ratio(GRID, theta)) - (theta * GRID - theta**2 / 2)
    return np.sqrt(np.average(error**2, weights=norm.pdf(GRID)))


@pytest.fixture(scope="module")
def gaussian():
    options = replace(QUICK, epochs=20, learning_rate=3e-2, ensemble=2)
    return train(gaussians(12_000), unit(12_000), options=options)


@pytest.fixture(scope="module")
def tiny():
    return train(gaussians(600), unit(1200), options=TINY)


@pytest.fixture(scope="module")
def two():
    rng = np.random.default_rng(0)
    corners = [{"a": a, "b": 100 * b} for a, b in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return train([(t, EventSample(rng.normal(size=(600, 2)))) for t in corners], options=TINY, names=("a", "b"))


def test_unseen_parameters(gaussian):
    """About 20 effective parameters from 60 000 events of each class, and what an interpolation adds."""
    assert max(log_error(gaussian, theta) for theta in (-0.75, -0.3, 0.25, 0.75)) < 0.05
    assert log_error(gaussian, 0.0) < 0.03  # the reference itself: r = 1
    assert gaussian.report["loss"] == "bce"
    assert log_error(gaussian, 0.75) < 0.1 * log_error_of_nothing(0.75)


def log_error_of_nothing(theta):
    return np.sqrt(np.average((theta * GRID - theta**2 / 2) ** 2, weights=norm.pdf(GRID)))


def test_thetas_have_to_be_copied_to_the_reference(monkeypatch):
    def construct():
        return max(log_error(train(gaussians(4000), unit(4000)), theta) for theta in (-0.75, 0.75))

    assert construct() < 0.1
    monkeypatch.setattr(parametrised, "_copied_thetas", lambda _, n, copies, rng: np.zeros((n * copies, 1), "f4"))
    with pytest.warns(NormalisationWarning, match="mean=-1"):
        assert construct() > 0.2


def test_copied_thetas_are_those_of_the_numerator_and_know_nothing_of_x():
    numerator = parametrised._at_points([(0, EventSample([1, 2], [1, -3])), (1, EventSample(np.ones(10)))], ("t",))
    theta = parametrised._copied_thetas(numerator, 1000, 2, np.random.default_rng(0)).reshape(2, 1000)
    np.testing.assert_array_equal(theta.sum(axis=0), 1)  # every event once with each of the two
    alone = parametrised._copied_thetas(numerator, 1000, 1, np.random.default_rng(0)).ravel()
    assert alone.sum() == 500  # points alike, whatever their events and signs
    assert abs(np.corrcoef(alone, np.arange(1000))[0, 1]) < 4 / np.sqrt(1000)


def test_normalised_exactly_at_every_theta(gaussian):
    q = unit(12_000)
    for theta in (-1, -0.123, 0.9):
        r = gaussian.ratio(q, theta, event_ids=q.ids)
        assert r.mean() == pytest.approx(1, abs=1e-12)
        moment = r * q.features[:, 0]
        assert moment.mean() == pytest.approx(theta, abs=4 * moment.std() / np.sqrt(len(q)))
        z, error = gaussian.normalisation(theta)
        assert abs(z - 1) < max(0.02, 4 * error)
        assert z != 1


def test_kappa_is_the_ratio_of_the_priors_of_theta(monkeypatch):
    """Were theta distributed otherwise in the reference, E_q[r] before normalisation would be P(theta) / P_q(theta)."""
    prior = (1 + 0.6 * POINTS) / 5

    def skewed(numerator, n, copies, rng):
        return rng.choice(POINTS, (n * copies, 1), p=prior).astype(np.float32)

    monkeypatch.setattr(parametrised, "_copied_thetas", skewed)
    with pytest.warns(NormalisationWarning):
        estimator = train(gaussians(4000), unit(4000))
    z = [estimator.normalisation(theta)[0] for theta in POINTS]
    np.testing.assert_allclose(z, 0.2 / prior, rtol=0.1)
    assert max(log_error(estimator, theta) for theta in (-0.75, 0.75)) < 0.1  # divided out


def test_estimate_of_the_parameter(gaussian):
    """Minimum of -2 ln L over theta on 5000 events, in units of its error, against the mean of the events."""
    thetas = np.linspace(-0.2, 0.8, 11)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(0.3, 1, 5000)
        curve = CubicSpline(thetas, -2 * np.log(gaussian.at(thetas, x).values).sum(axis=1))
        best = min(curve.derivative().roots(extrapolate=False), key=curve)
        low, high = curve.solve(curve(best) + 1, extrapolate=False)
        assert abs(best - x.mean()) < 3 / np.sqrt(5 * 12_000)  # errors of the simulation
        assert (high - low) / 2 == pytest.approx(1 / np.sqrt(5000), rel=0.1)


def test_signed_numerator():
    """2 N(theta, 1.2) - N(theta, 0.5), negative at its centre: the default loss finds it, cross entropy cannot."""
    n, width = 2500, 1.4

    def density(x, theta):
        return 2 * norm.pdf(x, theta, 1.2) - norm.pdf(x, theta, 0.5)

    assert density(0, 0) < -0.1
    weights = np.r_[np.ones(2 * n), -np.ones(n)]
    samples = [
        (theta, EventSample(theta + np.r_[1.2 * normal(2 * n, j), 0.5 * normal(n, 10 + j)], -3 * weights))
        for j, theta in enumerate(POINTS)
    ]
    reference = EventSample(width * normal(3 * n, 20))
    options = replace(QUICK, epochs=12, batch_size=256, learning_rate=3e-2)
    x = np.linspace(-4, 4, 161)

    def squared_error(estimator):
        q = norm.pdf(x, 0, width)
        return max(
            np.average((estimator.ratio(x, theta) - density(x, theta) / q) ** 2, weights=q) for theta in (0.25, 0.75)
        )

    signed = train(samples, reference, options=options)
    assert signed.report["loss"] == "revert"
    assert squared_error(signed) < 0.02
    assert signed.ratio([0.25], 0.25) < -0.2
    with pytest.warns(BiasedMethodWarning, match="bce"), pytest.warns(NormalisationWarning):
        positive = train(samples, reference, options=options, loss="bce")
    assert squared_error(positive) > 0.1


def test_theta_in_columns():
    rng = np.random.default_rng(5)
    theta = rng.uniform(-1, 1, 20_000)
    events = EventSample(np.column_stack([theta, theta + normal(20_000, 6)]), np.full(20_000, 7.0), names=["mean", "x"])
    estimator = train(events, EventSample(normal(5000, 7), names=["x"]))
    assert estimator.features == ("x",)
    assert max(log_error(estimator, theta) for theta in (-0.75, 0.0, 0.75)) < 0.1
    with pytest.raises(InvalidData, match="outside the points"):
        estimator.ratio(GRID, 1.01)


def test_pooled_reference():
    """Without a reference q is the mixture of all points: their mean ratio is 1 at every event."""
    estimator = train(gaussians(4000))
    assert estimator.report["reference"] == "pooled"
    np.testing.assert_allclose(estimator.at(POINTS, GRID).values.mean(axis=0), 1, atol=0.1)
    ratio = estimator.ratio(GRID, 0.75) / estimator.ratio(GRID, -0.75)
    np.testing.assert_allclose(np.log(ratio), 1.5 * GRID, atol=0.3)


def test_one_point_or_one_for_each_event(tiny):
    each = np.repeat([-0.5, 0.3, 1.0], 27)
    expected = np.concatenate([tiny.ratio(GRID[each == t], t) for t in (-0.5, 0.3, 1.0)])
    np.testing.assert_allclose(tiny.ratio(GRID, each), expected, rtol=1e-6)
    np.testing.assert_array_equal(tiny.ratio(GRID, {"mean": 0.3}), tiny.ratio(EventSample(GRID), [0.3]))


def test_columns_of_a_table(tiny):
    table = tiny.at([-0.5, {"mean": 0.25}], GRID)
    assert table.names == ("mean=-0.5", "mean=0.25")
    named = tiny.at({"nominal": 0.25, "lo": -0.5}, GRID)
    np.testing.assert_array_equal(named["lo"], table["mean=-0.5"])
    np.testing.assert_array_equal(named["nominal"], tiny.ratio(GRID, 0.25))


def test_the_trained_range_is_the_hull_of_the_points(two):
    x = np.zeros((1, 2))
    two.ratio(x, {"b": 50.0, "a": 0.5})
    two.ratio(x, [1, 0])
    with pytest.raises(InvalidData, match=r"'a=0.7,b=70' lies outside .* b from -100 to 100.*extrapolation=True"):
        two.ratio(x, [0.7, 70])
    with pytest.raises(InvalidData, match=r"'a=1.01,b=0'"):
        two.at([[1.0, 0.0], [1.01, 0.0]], x)
    assert np.isfinite(two.ratio(x, [0.7, 70], extrapolation=True))


@pytest.mark.parametrize("name", ["tiny", "two"])
def test_saved_and_loaded_bit_for_bit(name, request, tmp_path):
    estimator = request.getfixturevalue(name)
    estimator.save(tmp_path)
    loaded = ParametrisedEstimator.load(tmp_path)
    x = np.random.default_rng(0).normal(size=(50, len(estimator.features)))
    theta = [0.1] * len(estimator.parameters)
    for ids in (None, np.arange(50)):
        np.testing.assert_array_equal(loaded.ratio(x, theta, event_ids=ids), estimator.ratio(x, theta, event_ids=ids))
    assert loaded.normalisation(theta) == estimator.normalisation(theta)
    assert (loaded.report, repr(loaded), loaded.options) == (estimator.report, repr(estimator), estimator.options)
    with pytest.raises(InvalidData, match="outside"):
        loaded.ratio(x, [2.0] * len(estimator.parameters))
    with pytest.raises(InvalidData, match="shape-estimator"):
        ShapeEstimator.load(tmp_path)


def test_the_seed_decides_all():
    def ratios(seed):
        return train(gaussians(600), unit(1200), options=TINY, seed=seed).ratio(GRID, 0.5)

    first = ratios(1)
    np.random.seed(99)
    torch.manual_seed(99)
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(ratios(1), first)
    finally:
        torch.set_default_dtype(torch.float32)
    assert not np.array_equal(ratios(2), first)


def test_simulation_is_evaluated_by_networks_that_have_not_seen_it(tiny):
    both = tiny.ratio(np.zeros(200), 0.5, event_ids=np.arange(200))
    assert len(np.unique(both)) == 2  # one value for each fold
    assert tiny.ratio([0.0], 0.5)[0] == pytest.approx(np.unique(both).mean())


def few(names=("x0",)):
    return EventSample(np.zeros((600, len(names))), names=names)


@pytest.mark.parametrize(
    ("samples", "reference", "changed", "message"),
    {
        "one point": ([(0, few())], few(), {}, "two or more different points"),
        "a point twice": ([(0, few()), (1, few()), (0, few())], few(), {}, "two or more different points"),
        "no mean": ([({"mass": 0}, few()), (1, few())], few(), {}, r"parameters \['mean'\], got \['mass'\]"),
        "not finite": ([(np.nan, few()), (1, few())], few(), {}, "theta must be finite"),
        "other features": ([(0, few()), (1, few(("y",)))], few(), {}, r"at mean=1 has the features \['y'\]"),
        "cancels": ([(0, few()), (1, EventSample([1, 2], [1, -1]))], few(), {}, "at mean=1: its weights cancel"),
        "reference features": ([(0, few()), (1, few())], few(("y",)), {}, r"reference has the features \['y'\]"),
        "reference signs": ([(0, few()), (1, few())], EventSample([1, 2], [1, -1]), {}, "1 of 2 weights are negative"),
        "one line": (
            [((t, t), few()) for t in (0, 1, 2)],
            few(),
            {"names": ("a", "b")},
            "3 points do not span the parameters",
        ),
        "one value": ([((0, t), few()) for t in (0, 1)], few(), {"names": ("a", "b")}, "'a' has one value"),
        "few events": ([(0, few()), (1, few())], EventSample(np.zeros(5)), {}, "'reference' has 5 events"),
    }.values(),
)
def test_what_cannot_be_trained(samples, reference, changed, message):
    with pytest.raises(InvalidData, match=message):
        train(samples, reference, options=TINY, **changed)


def test_unknown_names():
    with pytest.raises(UnknownName, match="did you mean 'revert'"):
        train(gaussians(600), loss="revet")
    with pytest.raises(UnknownName, match="no feature 'mean'"):
        train(few())


def test_few_events_warn():
    with pytest.warns(StatisticsWarning, match="numerator"):
        train(gaussians(100), unit(2000), options=TINY)


def test_what_cannot_be_evaluated(tiny, two):
    with pytest.raises(InvalidData, match=r"shape \(events, 1\)"):
        tiny.ratio(np.zeros((3, 2)), 0.5)
    with pytest.raises(InvalidData, match="NaN or infinite for 1 events"):
        tiny.ratio([np.nan], 0.5)
    with pytest.raises(InvalidData, match="2 points theta for 3 events"):
        tiny.ratio(np.zeros(3), [0.1, 0.2])
    with pytest.raises(InvalidData, match=r"shape \(2,\) for one point"):
        two.ratio(np.zeros((3, 2)), 0.5)
    with pytest.raises(InvalidData, match="theta needs the parameters"):
        two.ratio(np.zeros((3, 2)), {"a": 0.5})


def test_the_page_is_true():
    """The recipe of the documentation, against the exact profile likelihood of the same events."""
    page = (Path(__file__).parents[2] / "docs" / "parametrised_ratios.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "parametrised_ratios.md", "exec"), names)
    x = names["observed"]

    def exact(mass):
        s, b = norm.pdf(x, mass, 8), expon.pdf(x, 80, 50)
        # with free yields their sum is the number of events at the minimum, and their shares are profiled
        return minimize_scalar(lambda f: -2 * np.log(f * s + (1 - f) * b).sum(), bounds=(0, 1), method="bounded").fun

    curve = CubicSpline(names["masses"], [exact(mass) for mass in names["masses"]])
    best = min(curve.derivative().roots(extrapolate=False), key=curve)
    low, high = curve.solve(curve(best) + 1, extrapolate=False)
    error = (high - low) / 2
    assert abs(names["best"] - best) < 0.5 * error  # as many simulated events as 10 times the data
    assert (names["high"] - names["low"]) / 2 == pytest.approx(error, rel=0.15)
    assert set(names["columns"].names) == {"signal", "scale_lo", "scale_hi"}
