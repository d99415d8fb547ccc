"""The two-sample test for signed weights, and the distance, on ratios that are known exactly."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from nuratio.checks.distance import distance
from nuratio.checks.reweighting import CrossFitted, Reweighting, half_of
from nuratio.checks.two_sample import two_sample_checks
from nuratio.data.sample import EventSample
from nuratio.ratios.closure import Weighted
from nuratio.ratios.estimator import RatioEstimator, split_by_sign
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.table import RatioTable


def gauss(x, sd):
    return np.exp(-0.5 * (x**2).sum(1) / sd**2) / (2 * np.pi * sd**2)


def densities(x):
    """Net densities, and those of the parts by sign."""
    flat, plus, minus = gauss(x, 2.0), 1.5 * gauss(x, 1.2), 0.5 * gauss(x, 0.7)
    return {"flat": flat, "signed": plus - minus}, {"flat": flat, "signed[+]": plus / 1.5, "signed[-]": minus / 0.5}


def samples(n, seed):
    rng = np.random.default_rng(seed)
    plus, minus = rng.normal(0, 1.2, (3 * n // 4, 2)), rng.normal(0, 0.7, (n // 4, 2))
    signed = EventSample(np.r_[plus, minus], np.r_[np.ones(len(plus)), -np.ones(len(minus))])
    return {"flat": EventSample(rng.normal(0, 2.0, (n, 2))), "signed": signed}


@dataclass
class Exact:
    """As much of an estimator as checks use, with exact ratios; ``wrong`` multiplies that of the signed sample."""

    fractions: dict = field(default_factory=lambda: {"flat": 0.5, "signed[+]": 0.375, "signed[-]": 0.125})
    wrong: object = None
    features = ("x0", "x1")
    options = TrainingOptions(folds=2, ensemble=1)
    parts = ("flat", "signed")

    @property
    def reference_fractions(self):
        return self.fractions

    @property
    def networks(self):
        return self

    def inputs(self, events):
        return events.features

    def ratios(self, x, *, event_ids=None, member=None):
        x = np.asarray(getattr(x, "features", x), dtype=np.float64)
        net, part = densities(x)
        q = sum(share * part[name] for name, share in self.fractions.items())
        columns = {name: p / q for name, p in net.items()}
        if self.wrong is not None:
            columns["signed"] *= self.wrong(x)
        return RatioTable.from_columns(columns, np.float64)

    def net(self, table, name):
        return np.asarray(table[name])

    def ratio(self, x, name, *, event_ids=None):
        return self.net(self.ratios(x), name)

    def pool(self, given):
        assert [p.name for p in split_by_sign(given)] == list(self.fractions)
        return RatioEstimator.pool(self, given)


def checked(n, seed, **options):
    checks = two_sample_checks(CrossFitted(Exact(**options), samples(n, seed)))
    return {(c.name, c.sample): c for c in checks}


@pytest.fixture(scope="module")
def exact():
    return [checked(5000, seed) for seed in range(16)]


@pytest.mark.parametrize("sample", ["flat", "signed"])
def test_exact_ratios_leave_no_residual(exact, sample):
    pulls = np.array([c["two-sample test", sample].value / c["two-sample test", sample].error for c in exact])
    assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls))
    assert 0.6 < pulls.std(ddof=1) < 1.5  # the two ways of using the halves are nearly independent


def test_the_control_is_seen_where_nothing_is_wrong(exact):
    assert all(c["two-sample control", name].passed for c in exact for name in ("flat", "signed"))
    mean = np.mean([c["two-sample control", "signed"].value for c in exact])
    assert mean < 0.5  # most of the 30% put in is found


def test_a_wrong_ratio_is_found_and_its_size_told():
    def wrong(x):
        return 1 + 0.4 * np.sin(x[:, 0])

    size = np.sqrt(np.mean((0.4 * np.sin(np.random.default_rng(0).normal(0, 1.5, 10000))) ** 2))
    found = checked(20_000, 1, wrong=wrong)["two-sample test", "signed"]
    assert not found.passed
    assert 0.6 * size < found.value < 1.4 * size


def test_a_reference_sample_of_its_own():
    fractions = {"flat": 1.0, "signed[+]": 0.0, "signed[-]": 0.0}
    found = checked(20_000, 2, fractions=fractions)
    assert all(c.passed for c in found.values()), found
    found = checked(20_000, 2, fractions=fractions, wrong=lambda x: np.where(x[:, 0] > 0, 1.5, 0.5))
    assert not found["two-sample test", "signed"].passed


def reweighting(seed, wrong=1.0, n=2000):
    given = samples(n, seed)
    estimator = Exact()
    pool = estimator.pool(given)
    half = half_of(pool.event_ids) == 0
    x, q = pool.features[half], pool.weights[half]
    r = np.asarray(estimator.ratios(x)["signed"])
    r = np.where(x[:, 0] > 0, wrong * r, r)
    other = half_of(given["signed"].ids) == 1
    target = Weighted(given["signed"].features[other], given["signed"].weights[other])
    return Reweighting("signed", ("x0", "x1"), Weighted(x, q * r), q, (q * r,), target, np.ones(len(target.weights)))


def test_the_null_of_the_distance_is_that_of_equal_samples():
    """The rank of the distance among its null draws is uniform if the ratio is exact, and at the top if it is not."""
    ranks = []
    for seed in range(30):
        _, curve = distance([reweighting(seed)])
        ranks.append(np.mean(curve.null < curve.learned))
    assert abs(np.mean(ranks) - 0.5) < 4 / np.sqrt(12 * len(ranks))
    assert 0.15 < np.std(ranks) < 0.4  # 0.29 if uniform
    check, curve = distance([reweighting(1, wrong=1.6, n=20_000)])
    assert curve.learned > curve.null.max()
    assert not check.passed
    assert curve.unlearned > curve.learned
