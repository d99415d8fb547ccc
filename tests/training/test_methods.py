"""Every method of training, against exact ratios."""

import numpy as np
import pytest

from nuratio.data.sample import EventSample
from nuratio.errors import BiasedMethodWarning, FitFailed, InvalidData, StatisticsWarning, UnknownName
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.heads import Separate
from nuratio.ratios.options import TrainingOptions
from nuratio.training.baselines import BIAS
from nuratio.training.train import METHODS, train

OPTIONS = TrainingOptions(hidden=(32, 32), epochs=18, batch_size=1024, learning_rate=1e-2, folds=2, ensemble=1)
TINY = TrainingOptions(hidden=(4,), epochs=1, learning_rate=1e-3, folds=2, ensemble=1)
UNBIASED = [m for m in METHODS if m not in (*BIAS, "mixture", "auto")]  # the mixture has tests of its own


def normal(x, sd):
    return np.exp(-0.5 * (x / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


def dip(n, seed):
    """The density 2 N(0, 1) - N(0, 0.3), and N(0, 1.5): r(0) = -2."""
    rng = np.random.default_rng(seed)
    x = np.r_[rng.normal(0, 1, 2 * n // 3), rng.normal(0, 0.3, n // 3)]
    w = np.r_[np.ones(2 * n // 3), -np.ones(n // 3)]
    return {"flat": EventSample(rng.normal(0, 1.5, n)), "dip": EventSample(x, w)}


def exact(x):
    return (2 * normal(x, 1) - normal(x, 0.3)) / normal(x, 1.5)


@pytest.fixture(scope="module", params=UNBIASED)
def estimator(request):
    return train(dip(60_000, 1), method=request.param, options=OPTIONS, seed=3, progress=False)


def test_the_net_ratio_is_learned_where_it_is_negative(estimator):
    split = estimator.report["method"].startswith("rosmm")
    assert estimator.parts == (("flat", "dip[+]", "dip[-]") if split else ("flat", "dip"))
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    r = estimator.ratio(x, "dip") / estimator.ratio(x, "flat")
    assert np.mean((r - exact(x)) ** 2) < 0.03  # |w| in place of w gives 14, a clipped r 0.3
    zero = np.zeros(1)
    assert estimator.ratio(zero, "dip") / estimator.ratio(zero, "flat") == pytest.approx(-2, abs=0.4)


def test_ratios_integrate_to_one_under_the_reference(estimator):
    pool = estimator.pool(dip(60_000, 1))
    assert pool.weights.min() > 0
    table = estimator.ratios(pool.features, event_ids=pool.event_ids)
    for name, (z, error) in estimator.normalisation.items():
        assert pool.weights @ table[name] == pytest.approx(1, abs=1e-12)
        assert abs(z - 1) < max(5 * error, 0.02)


def test_saved_and_loaded_it_is_the_same_bit_for_bit(estimator, tmp_path):
    estimator.save(tmp_path / "ratio")
    again = RatioEstimator.load(tmp_path / "ratio")
    x = np.linspace(-3, 3, 101)
    np.testing.assert_array_equal(again.ratios(x).values, estimator.ratios(x).values)
    assert again.report["method"] == estimator.report["method"]


def test_a_named_reference_is_the_denominator():
    """One network for p1 / p0 as in the papers."""
    est = train(dip(60_000, 1), method="lsif", reference="flat", options=OPTIONS, seed=3, progress=False)
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    assert np.mean((est.ratio(x, "dip") - exact(x)) ** 2) < 0.03
    np.testing.assert_allclose(est.ratio(np.linspace(-2, 2, 9), "flat"), 1, atol=0.05)


def test_a_sample_of_negative_yield_has_a_positive_ratio():
    """Interference that is destructive everywhere: w < 0, p = w / W > 0."""
    rng = np.random.default_rng(1)
    samples = {
        "a": EventSample(rng.normal(0, 1.2, 20_000)),
        "b": EventSample(rng.normal(0.5, 1, 20_000), -np.ones(20_000)),
    }
    est = train(samples, method="lsif", options=OPTIONS, progress=False)
    assert est.yields["b"] == -20_000
    grid = np.linspace(-1, 2, 20)
    b = np.exp(-0.5 * (grid - 0.5) ** 2) / np.exp(-0.5 * (grid / 1.2) ** 2) * 1.2
    np.testing.assert_allclose(est.ratio(grid, "b") / est.ratio(grid, "a"), b, atol=0.12)


def test_pare_takes_rho():
    est = train(dip(12_000, 1), method="pare", method_options={"rho": 7.0}, options=TINY, progress=False)
    assert est.report["method_options"] == {"rho": 7.0}
    assert est.head.loss.rho == 7.0


def test_a_sample_whose_weights_cancel_has_no_ratio():
    samples = dip(12_000, 1)
    x = samples["dip"].features[:, 0]
    w = np.r_[np.ones(6000), -np.ones(6000) * (1 - 1e-12)]
    with (
        pytest.warns(StatisticsWarning),
        pytest.raises(InvalidData, match=r"sample 'zero': its weights cancel .* method 'mixture'"),
    ):
        train({**samples, "zero": EventSample(x, w)}, method="lsif", options=TINY, progress=False)


@pytest.mark.parametrize("loss", ["revert", "pare"])
def test_separate_networks_are_refined_together(loss):
    """The parts of a sample by binary networks, and then the signed risk of all of them."""
    samples, options = dip(60_000, 1), {"loss": loss, "networks": "separate"}
    if loss == "pare":
        options["rho"] = "auto"
    est = train(samples, method="rosmm_r", method_options=options, options=OPTIONS, seed=3, progress=False)
    assert est.head == Separate(3)
    assert est.report["method_options"] == options
    assert len(est.report["epoch"]) == OPTIONS.folds  # the three networks of a fold are one model
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    assert np.mean((est.ratio(x, "dip") / est.ratio(x, "flat") - exact(x)) ** 2) < 0.03
    if loss == "pare":
        pole = est.report["pole"]
        assert pole["rho"] ** 2 == pytest.approx(-pole["pole"])
        assert pole["pole"] < 2 * pole["lowest_ratio"] < 0


def test_the_options_of_a_refinement_are_checked_before_it_starts():
    fails = {"method": "rosmm_r", "options": TINY, "progress": False}
    with pytest.raises(UnknownName, match="no networks 'seperate'; did you mean 'separate'"):
        train(dip(12_000, 1), method_options={"networks": "seperate"}, **fails)
    with pytest.raises(InvalidData, match="loss 'lsif'"):
        train(dip(12_000, 1), method_options={"rho": 2.0}, **fails)


@pytest.mark.filterwarnings("ignore:fewer than 1000 effective")
@pytest.mark.parametrize("method", ["rosmm_r", "rosmm_c", "pare"])
def test_without_a_net_yield_signed_risks_are_refused_and_parts_are_learned(method):
    given = dip(12_000, 1)
    given["dip"] = EventSample(given["dip"].features, np.tile([1.0, -1.0], 6000))
    infinite = pytest.warns(StatisticsWarning, match=r"'dip': n_eff / n = .* is infinitely")
    with infinite, pytest.raises(InvalidData, match=r"'dip': its weights cancel .* method 'mixture'"):
        train(given, method=method, options=TINY, progress=False)
    with infinite:
        est = train(given, method="rosmm", options=TINY, progress=False)
    assert est.parts == ("flat", "dip[+]", "dip[-]")


def test_refitted_coefficients_are_those_of_the_weights_within_their_error():
    est = train(dip(60_000, 1), method="rosmm_c", options=OPTIONS, seed=3, progress=False)
    (found,) = est.report["coefficients"].values()
    assert found["weights"] == pytest.approx(2, abs=1e-9)
    assert abs(found["fit"] - 2) < 4 * found["error"] + 0.02  # the networks' own error
    assert 0 < found["error"] < 0.05
    assert est.yields["dip[+]"] / est.yields["dip[-]"] == pytest.approx(found["fit"] / (1 - found["fit"]))
    assert sum(est.yields[p] for p in ("dip[+]", "dip[-]")) == pytest.approx(20_000)


@pytest.mark.filterwarnings("ignore::nuratio.errors.NormalisationWarning")
@pytest.mark.parametrize("method", [m for m in BIAS if m not in ("bce_signed", "mse_signed")])
def test_a_baseline_says_what_it_learns_and_is_off(method):
    with pytest.warns(BiasedMethodWarning, match=f"method '{method}' is a baseline"):
        est = train(dip(60_000, 1), method=method, options=OPTIONS, seed=3, progress=False)
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    r = est.ratio(x, "dip") / est.ratio(x, "flat")
    assert np.mean((r - exact(x)) ** 2) > 0.15


@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
@pytest.mark.parametrize("method", ["bce_signed", "mse_signed"])
def test_signed_weights_in_a_bounded_classifier_run_away(method):
    """No minimum where the net density is negative: the fit fails, or the ratio is not even normalised."""
    options = TrainingOptions(hidden=(32, 32), epochs=30, batch_size=1024, learning_rate=1e-2, folds=2, ensemble=1)
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    try:
        est = train(dip(60_000, 1), method=method, reference="flat", options=options, seed=3, progress=False)
    except FitFailed:
        return
    assert np.mean((est.ratio(x, "dip") - exact(x)) ** 2) > 1


@pytest.mark.parametrize("method", ["mixture", "rosmm", "rosmm_c"])
def test_classifiers_of_parts_have_no_options(method):
    with pytest.raises(InvalidData, match=f"method '{method}' has no options"):
        train(dip(12_000, 1), method=method, method_options={"rho": 2.0}, options=TINY, progress=False)
