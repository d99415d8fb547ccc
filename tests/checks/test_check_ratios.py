"""Checks that pass for good ratios, and fail for each way of being wrong."""

import json

import numpy as np
import pytest

from nuratio.checks.report import Check, CheckReport
from nuratio.checks.run import check_ratios
from nuratio.data.sample import EventSample
from nuratio.errors import StatisticsWarning
from nuratio.ratios.options import TrainingOptions
from nuratio.training.train import train

OPTIONS = {"hidden": (24, 24), "epochs": 12, "batch_size": 1024, "learning_rate": 1e-2, "folds": 2, "ensemble": 1}


def samples(n=40_000, seed=1):
    """A broad positive sample, and one with a third of its weights negative; two features, correlated in the second."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(0, 1.5, (n, 2))
    x = np.r_[rng.normal(0, 1, (2 * n // 3, 2)), rng.normal(0, 0.5, (n // 3, 2))]
    x[:, 1] += 0.5 * x[:, 0]
    w = np.r_[np.ones(2 * n // 3), -np.ones(n // 3)]
    return {"flat": EventSample(flat), "signed": EventSample(x, w)}


def learned(method, **options):
    made = TrainingOptions(**(OPTIONS | options))
    return train(samples(), method=method, options=made, seed=3, progress=False)


@pytest.mark.parametrize("method", ["mixture", "linear"])
def test_good_ratios_pass(method):
    est = learned(method)
    report = check_ratios(est, samples(), samples(seed=2)["flat"])
    assert report.passed, str(report)
    assert {c.sample for c in report.checks} >= {"flat", "signed", "data"}
    assert "closure in x0, x1" in {c.name for c in report.checks}
    written = json.loads(report.to_json())
    assert written["passed"]
    assert len(written["checks"]) == len(report.checks)


@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
@pytest.mark.parametrize("method", ["bce_abs", "bce_drop", "bce_flip"])
def test_a_biased_method_fails(method):
    report = check_ratios(learned(method), samples())
    failed = {c.name for c in report.checks if not c.passed and c.sample == "signed"}
    assert {"closure in ratio", "distance", "calibration"} <= failed


@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
def test_a_training_that_runs_away_fails():
    """The risk of signed cross entropy has no minimum where the density is negative."""
    report = check_ratios(learned("bce_signed", epochs=6), samples())
    failed = {c.name for c in report.checks if not c.passed and c.sample == "signed"}
    assert {"closure in ratio", "calibration"} <= failed


@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
@pytest.mark.parametrize("over", [True, False])
def test_an_overfitted_ratio_fails(monkeypatch, over):
    """Nearly as many coefficients as events, and nothing that holds them: E_q[r] is 1, and r is overconfident."""
    if over:
        monkeypatch.setattr("nuratio.training.linear._RIDGES", np.array([1e-6]))
    few, made = samples(1500), TrainingOptions(**OPTIONS)
    est = train(few, method="linear", method_options={"features": 600}, options=made, progress=False)
    checks = check_ratios(est, few).checks
    failed = {c.name for c in checks if not c.passed}
    assert ({"calibration", "closure in ratio"} <= failed) == over
    assert not any(name.startswith(("normalisation", "mean of x")) for name in failed)
    if over:
        assert all(c.value < 0 for c in checks if c.name == "calibration")


def test_too_short_a_training_fails():
    report = check_ratios(learned("mixture", epochs=1, learning_rate=1e-4), samples())
    assert not report.passed
    assert "FAIL" in str(report)


def test_a_ratio_that_ignores_a_feature_fails_there_alone():
    """Trained without the correlation: each feature closes, the pair does not."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (60_000, 2))
    y = rng.normal(0, 1, (60_000, 2))
    shuffled = {"a": EventSample(x), "b": EventSample(y)}
    est = train(shuffled, options=TrainingOptions(**OPTIONS), progress=False)
    y[:, 1] = 0.6 * y[:, 0] + 0.8 * y[:, 1]
    report = check_ratios(est, {"a": EventSample(x), "b": EventSample(y)})
    verdict = {c.name: c.passed for c in report.checks if c.sample == "b"}
    assert verdict["closure in x0"]
    assert not verdict["closure in x0, x1"]
    assert not verdict["distance"]


def test_data_beyond_the_simulation_are_counted():
    data = np.array(samples(seed=2)["flat"].features) * 0.5
    data[:200, 0] = 50.0
    report = check_ratios(learned("linear"), samples(), EventSample(data))
    (support,) = [c for c in report.checks if c.name == "support"]
    assert support.value == pytest.approx(200 / len(data))
    assert not support.passed
    assert "200 observed events lie beyond" in support.meaning


def test_values_are_allowed_their_errors():
    check = Check("mean", "s", 0.05, 0.01, 0.02, "")
    assert check.passed
    assert not Check("mean", "s", 0.07, 0.01, 0.02, "").passed
    assert not Check("mean", "s", float("nan"), 0.01, 0.02, "").passed
    assert CheckReport((check,)).passed


def test_a_sample_that_cancels_is_checked_part_by_part():
    given = samples(12_000)
    n = len(given["signed"])
    zero = EventSample(given["signed"].features, np.r_[np.ones(n // 2), -np.ones(n // 2) * (1 - 1e-12)])
    made = TrainingOptions(**(OPTIONS | {"epochs": 8}))
    given = {"flat": given["flat"], "zero": zero}
    with pytest.warns(StatisticsWarning):
        est = train(given, options=made, progress=False)
    report = check_ratios(est, given)
    assert {c.sample for c in report.checks if c.name == "calibration"} == {"flat", "zero[+]", "zero[-]"}
    assert {c.sample for c in report.checks if c.name == "two-sample test"} == {"flat", "zero[+]", "zero[-]"}
    assert all(c.passed for c in report.checks if c.name in ("calibration", "distance")), str(report)
