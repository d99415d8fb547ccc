"""Increasing functions of ratios: exact problems, in which a network of one layer is given its weights."""

import dataclasses

import numpy as np
import pytest
import torch

from nuratio.data.sample import EventSample
from nuratio.errors import FitFailed, InvalidData
from nuratio.ratios.calibration import Increasing
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import RatioEstimator, split_by_sign
from nuratio.ratios.heads import Direct, Softmax
from nuratio.ratios.losses import LSIF, Sinh
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.calibration import calibrate
from nuratio.training.objective import whole_samples

OPTIONS = TrainingOptions(hidden=(1,), folds=2, ensemble=1)
GRID = np.linspace(-0.98, 0.98, 197)


def truth(x):
    """The ratio of the signed sample to the uniform one: negative below x = -1/3."""
    return 1 + 3 * x


def samples(n=40_000, seed=1):
    rng = np.random.default_rng(seed)
    flat, x = rng.uniform(-1, 1, (2, n)).astype(np.float32)
    return {"flat": EventSample(flat), "signed": EventSample(x, truth(x.astype(float)))}


def linear(head, slopes, constants, given, components, reference):
    """An estimator whose networks are the linear functions slope * x + constant."""
    stack = NetworkStack([1, len(slopes)], OPTIONS.folds).requires_grad_(False)
    stack.weights[0].copy_(torch.tensor([slopes]))
    stack.biases[0].copy_(torch.tensor([constants]))
    z = {part.name: (1.0, 0.0) for part in components}
    return RatioEstimator(components, reference, head, z, CrossFit(stack, ("x0",), OPTIONS), {})


def signed(loss, given):
    """Learned ratios of `samples` to the uniform one: 1 and loss.ratio(truth)."""
    constants = (float(loss.output(torch.tensor(1.0))), 1.0)
    reference = {"flat": 1.0, "signed[+]": 0.0, "signed[-]": 0.0}
    return linear(
        Direct(loss, type(loss).__name__.lower()), (0.0, 3.0), constants, given, whole_samples(given), reference
    )


@pytest.fixture(scope="module")
def given():
    return samples()


@pytest.fixture(scope="module")
def distorted(given):
    """sinh(r) in the place of r."""
    return calibrate(signed(Sinh(), given), given)


def test_the_truth_is_restored_from_a_distorted_ratio(given, distorted):
    before = dataclasses.replace(distorted, calibration=None).ratio(GRID, "signed")
    np.testing.assert_allclose(before, np.sinh(truth(GRID)), rtol=1e-4, atol=1e-5)
    after = distorted.ratio(GRID, "signed")
    assert np.abs(before - truth(GRID)).max() > 20
    assert np.sqrt(np.mean((after - truth(GRID)) ** 2)) < 0.1  # cells of 0.06 in r, 600 events of weights to 4 in each
    assert np.abs(after - truth(GRID)).max() < 0.4
    assert after.min() < -1.5
    found = distorted.report["calibration"]["signed"]
    assert found["gain"] > 10 * found["error"] > 0
    assert found["risk"] == pytest.approx(-2, abs=0.1)  # -E_q[r^2] / 2
    assert found["before"] - found["risk"] == pytest.approx(found["gain"])


def test_what_is_calibrated_changes_by_less_than_its_errors(given):
    right = signed(LSIF(), given)
    again = calibrate(right, given)
    x = np.random.default_rng(3).uniform(-1, 1, 20_000)
    change = again.ratio(x, "signed") - right.ratio(x, "signed")
    found = again.report["calibration"]["signed"]
    n = len(given["signed"])
    assert np.sqrt(np.mean(change**2)) < 2 * np.sqrt(found["knots"] * 4 / n)  # knots free, Var[w] = 3 + 1
    assert abs(found["gain"]) < 5 * max(found["error"], found["knots"] * 4 / n)
    np.testing.assert_allclose(again.ratio(x, "flat"), 1, rtol=1e-6)  # nothing to learn from


def test_the_calibrated_ratios_integrate_to_one(given, distorted):
    pool = distorted.pool(given)
    table = distorted.ratios(pool.features, event_ids=pool.event_ids)
    for name in distorted.parts:
        assert pool.weights @ table[name] == pytest.approx(1, abs=1e-12)
    fresh = distorted.ratio(np.random.default_rng(5).uniform(-1, 1, 100_000), "signed")
    assert fresh.mean() == pytest.approx(1, abs=4 * np.sqrt(3 / 40_000 + 3 / 100_000))


def test_an_event_has_no_part_in_its_own_calibration(given):
    """Changed weights in one fold move the ratios of the other folds, and no shape in its own."""
    from nuratio.data.split import fold_of

    estimator = signed(Sinh(), given)
    events = given["signed"]
    fold = fold_of(events.ids, OPTIONS.folds, OPTIONS.fold_seed)
    changed = given | {
        "signed": EventSample(events.features, np.where(fold == 0, np.roll(events.weights, 7), events.weights))
    }
    first, second = (
        calibrate(estimator, some).ratio(events, "signed", event_ids=events.ids) for some in (given, changed)
    )
    own = second[fold == 0] / first[fold == 0]
    np.testing.assert_allclose(own, own[0], rtol=1e-9)  # the common normalisation
    assert np.std(second[fold == 1] / first[fold == 1]) > 0.1


def test_saved_and_loaded_it_is_the_same_bit_for_bit(given, distorted, tmp_path):
    distorted.save(tmp_path / "ratio")
    again = RatioEstimator.load(tmp_path / "ratio")
    assert again.report == distorted.report
    for ids in (None, given["signed"].ids):
        a, b = (e.ratios(given["signed"], event_ids=ids).values for e in (again, distorted))
        np.testing.assert_array_equal(a, b)


def test_parts_of_one_sign_stay_positive(given):
    """A classifier of the parts with its logits stretched by two: an event has ratios above zero still."""
    parts = split_by_sign(given)
    reference = {"flat": 0.5, "signed[+]": 0.4, "signed[-]": 0.1}
    head = Softmax(tuple(reference.values()), tuple(reference.values()))
    estimator = linear(head, (0.0, 2.0, -6.0), (0.0, 0.0, -3.0), given, tuple(parts), reference)
    again = calibrate(estimator, given)
    x = np.linspace(-3, 3, 601)
    for name in again.parts:
        assert (again.ratio(x, name) > 0).all()
        assert again.report["calibration"][name]["gain"] > -again.report["calibration"][name]["error"]
    inside = np.linspace(-0.9, 0.9, 19)
    r = again.ratio(inside, "signed[-]")
    assert (np.diff(r) <= 0).all()
    with pytest.raises(InvalidData, match="trained on"):
        calibrate(estimator, {"flat": given["flat"], "signed": given["flat"]})


def test_a_second_calibration_replaces_the_first(given, distorted):
    again = calibrate(distorted, given)
    np.testing.assert_array_equal(again.ratio(GRID, "signed"), distorted.ratio(GRID, "signed"))


def test_a_ratio_that_says_the_opposite_becomes_constant(given, monkeypatch):
    """The best increasing function of one that falls where the truth rises."""
    estimator = signed(LSIF(), given)
    x, w = given["signed"].features[:, 0], given["signed"].weights
    constant = calibrate(estimator, given | {"signed": EventSample(-x, w)})
    assert np.ptp(constant.ratio(GRID, "signed")) < 2.5 < np.ptp(estimator.ratio(GRID, "signed"))
    inside = constant.ratio(GRID[10:-10], "signed")
    assert np.ptp(inside) < 0.8
    nothing = Increasing(np.zeros(1), -np.ones(1))
    monkeypatch.setattr("nuratio.training.calibration._fitted", lambda r, p, q: nothing)
    with pytest.raises(FitFailed, match=r"must be positive"):
        calibrate(estimator, given)


def test_beyond_its_knots_an_increasing_function_goes_on_gently():
    g = Increasing(np.array([-2.0, 1.0, 4.0]), np.array([-1.0, 1.0, 2.0]))
    np.testing.assert_allclose(g(np.array([-4.0, -2.0, 2.5, 4.0, 10.0])), [-2, -1, 1.5, 2, 5])
    steep = Increasing(np.array([1.0, 2.0]), np.array([-3.0, 50.0]))
    np.testing.assert_allclose(steep(np.array([0.0, 5.0])), [-3, 53])
    one = Increasing(np.array([2.0]), np.array([1.0]))
    np.testing.assert_allclose(one(np.array([0.0, 2.0, 4.0])), [0, 1, 2])
