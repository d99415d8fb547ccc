"""Trained ratios against exact densities. Tolerances come from the number of events; a wrong answer fails."""

import re

import numpy as np
import pytest
import torch

import nuratio
from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, NormalisationWarning, StatisticsWarning, UnknownName
from nuratio.ratios.options import TrainingOptions
from nuratio.training.train import METHODS, train

QUICK = TrainingOptions(hidden=(16, 16), epochs=10, batch_size=1024, learning_rate=1e-2, folds=2, ensemble=1)
TINY = TrainingOptions(hidden=(4,), epochs=1, learning_rate=1e-3, folds=2, ensemble=1)


def normal(x, mean=0.0, sd=1.0):
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


def gaussians(n=20_000, seed=1, shift=0.5):
    rng = np.random.default_rng(seed)
    return {"a": EventSample(rng.normal(-shift, 1, n)), "b": EventSample(rng.normal(shift, 1, n))}


def dip(n, seed):
    """The density 2 N(0, 1) - N(0, 0.3) over N(0, 1.5): r(0) = -2; |p| has three events in four of weight +1."""
    rng = np.random.default_rng(seed)
    n_minus = n // 3
    x = np.r_[rng.normal(0, 1, n - n_minus), rng.normal(0, 0.3, n_minus)]
    w = np.r_[np.ones(n - n_minus), -np.ones(n_minus)]
    return {"flat": EventSample(rng.normal(0, 1.5, n)), "dip": EventSample(x, w)}


def dip_ratio(x):
    return (2 * normal(x) - normal(x, sd=0.3)) / normal(x, sd=1.5)


@pytest.fixture(scope="module")
def gaussian_estimator():
    return train(gaussians(), options=QUICK, progress=False)


@pytest.fixture(scope="module")
def dip_estimator():
    return train(dip(60_000, 1), options=QUICK, seed=3, progress=False)


def test_log_ratio_of_two_gaussians_is_linear(gaussian_estimator):
    x = np.random.default_rng(9).choice(np.r_[gaussians(seed=2)["a"].features[:, 0]], 5000)
    log_r = np.log(gaussian_estimator.ratio(x, "b") / gaussian_estimator.ratio(x, "a"))
    assert np.sqrt(np.mean((log_r - x) ** 2)) < 0.06  # the spread of x is 1; a few 1/sqrt(20000)
    assert nuratio.train is train


def test_held_out_loss_reaches_the_entropy_of_the_exact_classifier(gaussian_estimator):
    x = gaussians(200_000, seed=5)["b"].features[:, 0].astype(float)
    exact = np.logaddexp(0, -x)
    error = exact.std() * np.sqrt(1 / len(x) + 1 / 1800)  # 1800 held-out events
    for loss in gaussian_estimator.report["held_out_loss"]:
        assert abs(loss - exact.mean()) < 4 * error
        assert loss < np.log(2) - 4 * error


def test_signed_ratio_with_a_negative_region(dip_estimator):
    assert dip_estimator.parts == ("flat", "dip[+]", "dip[-]")
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    r = dip_estimator.ratio(x, "dip") / dip_estimator.ratio(x, "flat")
    exact = dip_ratio(x)
    assert np.mean((r - exact) ** 2) < 0.02  # |w| in place of w gives 14, a clipped r 0.3
    assert np.mean((np.maximum(exact, 0) - exact) ** 2) > 0.2
    at_zero = np.zeros(1)
    assert dip_estimator.ratio(at_zero, "dip") / dip_estimator.ratio(at_zero, "flat") == pytest.approx(-2, abs=0.35)


def test_every_part_is_normalised_on_the_pool_and_on_fresh_events(dip_estimator):
    own = dip_estimator.pool(dip(60_000, 1))
    table = dip_estimator.ratios(own.features, event_ids=own.event_ids)
    fresh = dip_estimator.pool(dip(60_000, 2))
    fresh_table = dip_estimator.ratios(fresh.features)
    for name in dip_estimator.parts:
        assert own.weights @ table[name] == pytest.approx(1, abs=1e-12)
        z, error = dip_estimator.normalisation[name]
        assert abs(z - 1) < max(5 * error, 0.02)
        assert 0 < error < 0.01
        assert abs(fresh.weights @ fresh_table[name] - 1) < 4 * np.hypot(error, error) + 0.002  # 0.002: mean of folds


def test_ratios_are_bounded_by_the_fractions(dip_estimator):
    x = np.linspace(-20, 20, 4001)
    table = dip_estimator.ratios(x)
    for name, fraction in dip_estimator.reference_fractions.items():
        assert table[name].max() * dip_estimator.normalisation[name][0] <= (1 + 1e-12) / fraction
    assert dip_estimator.reference_fractions == pytest.approx({"flat": 1 / 2, "dip[+]": 1 / 3, "dip[-]": 1 / 6})


def test_a_named_reference_is_the_denominator():
    est = train(dip(60_000, 1), reference="flat", options=QUICK, seed=3, progress=False)
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    assert np.mean((est.ratio(x, "dip") - dip_ratio(x)) ** 2) < 0.02
    np.testing.assert_allclose(est.ratio(x, "flat"), 1, rtol=1e-12)
    spread = np.std(dip_ratio(x))
    assert abs(est.ratio(x, "dip").mean() - 1) < 4 * spread * np.sqrt(1 / 20_000 + 1 / 60_000)
    assert est.reference_fractions == {"flat": 1.0, "dip[+]": 0.0, "dip[-]": 0.0}


def test_weights_make_the_density():
    """Uniform events with Gaussian weights: the density is the Gaussian, not the uniform."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-3, 3, 30_000)
    samples = {"flat": EventSample(x), "peak": EventSample(x, normal(x, 0.5, 0.8))}
    est = train(samples, options=QUICK, progress=False)
    grid = np.linspace(-2, 2.5, 200)
    log_r = np.log(est.ratio(grid, "peak") / est.ratio(grid, "flat"))
    exact = np.log(normal(grid, 0.5, 0.8) * 6)
    assert np.sqrt(np.mean((log_r - exact) ** 2)) < 0.1
    assert np.std(exact) > 1  # what ignoring the weights would give


def test_the_scale_of_a_samples_weights_is_not_in_the_ratios():
    samples = dip(12_000, 1)
    scaled = samples | {"dip": EventSample(samples["dip"].features, samples["dip"].weights * 1024)}
    x = np.linspace(-3, 3, 50)
    ratios = [train(s, options=TINY, progress=False).ratios(x) for s in (samples, scaled)]
    np.testing.assert_array_equal(ratios[0].values, ratios[1].values)


def test_seeds_reproduce_bit_for_bit_and_differ():
    x = np.linspace(-2, 2, 50)
    first, again, other = (
        train(gaussians(3000), seed=s, options=TINY, progress=False).ratios(x).values for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_global_state_is_left_alone():
    def state():
        return (
            torch.get_rng_state().tolist(),
            [np.asarray(part).tolist() for part in np.random.get_state()[1:]],
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )

    before = state()
    train(gaussians(3000), options=TINY, progress=False).ratios(np.zeros(5))
    assert state() == before


def test_constant_features_are_ignored_and_large_units_do_not_matter():
    given = gaussians(20_000)
    padded = {
        name: EventSample(np.c_[s.features * 1e6 + 1e7, np.full(len(s), 13.0)], names=("mass", "energy"))
        for name, s in given.items()
    }
    est = train(padded, options=QUICK, progress=False)
    x = np.linspace(-2, 2, 100)
    features = np.c_[x * 1e6 + 1e7, np.full(100, 13.0)]
    log_r = np.log(est.ratio(features, "b") / est.ratio(features, "a"))
    assert np.sqrt(np.mean((log_r - x) ** 2)) < 0.1
    features[:, 1] = 7.0
    np.testing.assert_array_equal(np.log(est.ratio(features, "b") / est.ratio(features, "a")), log_r)


def test_few_effective_events_are_warned_about():
    given = gaussians(2000)
    sign = np.where(np.arange(2000) % 20 < 9, -1.0, 1.0)
    given["b"] = EventSample(given["b"].features, sign)
    with pytest.warns(StatisticsWarning, match=r"\{'b': 20.0, 'b\[-\]': 900.0\}"):
        est = train(given, options=TINY, progress=False)
    assert est.report["effective_size"] == pytest.approx({"a": 2000, "b": 20, "b[+]": 1100, "b[-]": 900})
    assert est.report["events"] == {"a": 2000, "b": 2000, "b[+]": 1100, "b[-]": 900}


def test_weights_that_all_but_cancel_are_warned_about():
    given = gaussians(20_000)
    given["b"] = EventSample(given["b"].features, np.where(np.arange(20_000) % 100 < 48, -1.0, 1.0))  # 4% net
    match = r"'b': n_eff / n = .* = 0.0016 is below 0.01; the error of its ratio .* is 25 times that of 20000 events"
    with pytest.warns(StatisticsWarning) as seen:
        train(given, options=TINY, progress=False)
    assert any(re.match(match, str(w.message)) for w in seen)
    assert not any("'a'" in str(w.message) or "'b[" in str(w.message) for w in seen)


def test_a_reference_that_does_not_cover_a_sample_is_warned_about():
    with pytest.warns(NormalisationWarning, match="{'b': '0.0"):
        train(gaussians(4000, shift=3), reference="a", options=QUICK, progress=False)


def fails(match, error=InvalidData, samples=None, **kwargs):
    with pytest.raises(error, match=match):
        train(gaussians(2000) if samples is None else samples, options=TINY, progress=False, **kwargs)


@pytest.mark.parametrize(
    ("reference", "error", "match"),
    [
        ("c", UnknownName, "no sample 'c'"),
        ({"a": 0.5, "c": 0.5}, UnknownName, "no sample or part 'c'"),
        ({"a": 0.5, "b": 0.6}, InvalidData, "sum 1"),
        ({"a": 1.2, "b": -0.2}, InvalidData, "positive"),
        ({"a": 1.0}, InvalidData, r"\['b'\]"),
    ],
)
def test_references_that_are_no_mixture_are_refused(reference, error, match):
    fails(match, error, reference=reference)


def test_a_reference_with_negative_weights_is_refused():
    fails("negative", samples=dip(12_000, 1), reference="dip")
    fails("two", samples=dip(12_000, 1), reference={"flat": 0.4, "dip": 0.3, "dip[-]": 0.3})


def test_fractions_of_samples_and_parts():
    by_sample = train(dip(12_000, 1), reference={"flat": 0.1, "dip": 0.9}, options=TINY, progress=False)
    assert by_sample.reference_fractions == pytest.approx({"flat": 0.1, "dip[+]": 0.6, "dip[-]": 0.3})
    by_part = train(dip(12_000, 1), reference={"dip[-]": 0.5, "flat": 0.2, "dip[+]": 0.3}, options=TINY, progress=False)
    assert by_part.reference_fractions == {"flat": 0.2, "dip[+]": 0.3, "dip[-]": 0.5}


def test_unusable_samples_are_refused():
    good = gaussians(2000)
    fails("two samples", samples={"a": good["a"]})
    fails(r"\['pt'\]", samples=good | {"b": EventSample(good["b"].features, names=["pt"])})
    fails("fold", samples=good | {"b": EventSample(good["b"].features[:15])})
    fails("mixture", UnknownName, method="mixtur")
    assert "mixture" in METHODS
