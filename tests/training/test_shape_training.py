"""Shape coefficients against the closed form of a shifted Gaussian: ln N(0.3 a, 1)/N(0, 1) = 0.3 a x - 0.045 a^2."""

import numpy as np
import pytest

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, LeakageWarning, StatisticsWarning
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.shape import ShapeEstimator
from nuratio.training.shape import SHAPE_OPTIONS, _linked, train_shape

N = 30_000
X = np.random.default_rng(1).normal(size=N)
IDS = np.random.default_rng(2).permutation(N)
GRID = np.linspace(-2, 2, 81)
OPTIONS = TrainingOptions(hidden=(16, 16), epochs=10, batch_size=1024, learning_rate=1e-2, folds=2, ensemble=1)


def shifted(alpha, weight=1.0, keep=slice(None)):
    return EventSample((X + 0.3 * alpha)[keep], np.full(N, weight)[keep], event_ids=IDS[keep])


def reweighted(alpha, factor=1.0):
    return EventSample(X, factor * np.exp(0.3 * alpha * X), event_ids=IDS)


def fit(*args, **kwargs):
    return train_shape(*args, options=OPTIONS, progress=False, **kwargs)


def worst(est, d1, d2):
    got = est.coefficients(GRID)
    return max(np.abs(got[0] - d1).max(), np.abs(got[1] - d2).max())


def test_shift_of_a_gaussian():
    est = fit(shifted(0), shifted(1), shifted(-1), name="jes")
    assert worst(est, 0.3 * GRID, -0.045) < 0.03
    assert worst(est, -0.3 * GRID, -0.045) > 0.5  # up and down exchanged
    assert est.report["directions"] == ["up", "down"]
    assert "jes" in repr(est)


def test_rates_do_not_enter():
    """Yields of the variations, and a sign common to all, leave the shapes alone bit for bit."""
    quick = TrainingOptions(hidden=(4,), epochs=1, folds=2, ensemble=1)
    plain, scaled = (
        train_shape(*s, options=quick, progress=False).coefficients(GRID)
        for s in (
            (shifted(0), shifted(1), shifted(-1)),
            (shifted(0, -4.0), shifted(1, -8.0), shifted(-1, -0.5)),
        )
    )
    np.testing.assert_array_equal(plain, scaled)


def test_events_that_migrate_out_of_a_variation():
    """Every variation has lost other events; ids still link the rest."""
    rng = np.random.default_rng(3)
    keep = [np.flatnonzero(rng.random(N) < 0.9) for _ in range(3)]
    est = fit(*(shifted(alpha, keep=k) for alpha, k in zip((0, 1, -1), keep, strict=True)))
    assert worst(est, 0.3 * GRID, -0.045) < 0.05


def test_linking_keeps_every_event_beside_its_variations():
    """Ids may repeat within a sample (several rows of one generated event): then the order links them."""
    nominal = EventSample([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 5], event_ids=[7, 5, 7, 9])
    up = EventSample([3.1, 2.1, 1.1, 6.1], [2, 1, 1, 4], event_ids=[7, 5, 7, 6])
    x, ids, weight = _linked([nominal, up])
    rows = {
        (int(i), *(float(f) if w > 0 else None for f, w in zip(row[:, 0], ws, strict=True)))
        for i, row, ws in zip(ids, x, weight, strict=True)
    }
    f32 = [float(np.float32(v)) for v in (3.1, 2.1, 1.1, 6.1)]
    assert rows == {(7, 1.0, f32[0]), (7, 3.0, f32[2]), (5, 2.0, f32[1]), (9, 4.0, None), (6, None, f32[3])}
    np.testing.assert_allclose(weight.sum(axis=0), len(x) / 2, rtol=1e-6)


def test_variation_of_weights_alone():
    est = fit(reweighted(0), reweighted(1, 1.3), reweighted(-1))
    assert worst(est, 0.3 * GRID, -0.045) < 0.03


@pytest.mark.parametrize("direction", ["up", "down"])
def test_one_direction_alone_is_linear(direction):
    alpha = {"up": 1, "down": -1}[direction]
    est = fit(reweighted(0), **{direction: reweighted(alpha)})
    d1, d2 = est.coefficients(GRID)
    np.testing.assert_array_equal(d2, 0)
    assert np.abs(d1 - (0.3 * GRID - alpha * 0.045)).max() < 0.05
    assert est.report["directions"] == [direction]


def test_no_variation_gives_no_shape():
    est = fit(shifted(0), shifted(0), shifted(0))
    assert worst(est, 0, 0) < 0.005
    unlinked = EventSample(np.random.default_rng(8).normal(size=N), event_ids=IDS + N)
    noise = fit(shifted(0), unlinked, unlinked)
    assert 0.005 < worst(noise, 0, 0) < 0.1  # without links the statistics of N events show


def test_seed_and_storage(tmp_path):
    quick = TrainingOptions(hidden=(4,), epochs=1, folds=3, ensemble=2, fold_seed=7)
    samples = shifted(0), shifted(1), shifted(-1)
    est, again = (train_shape(*samples, options=quick, seed=5, progress=False) for _ in range(2))
    est.save(tmp_path)
    loaded = ShapeEstimator.load(tmp_path)
    np.testing.assert_array_equal(est.coefficients(GRID), again.coefficients(GRID))
    np.testing.assert_array_equal(est.coefficients(X, event_ids=IDS), loaded.coefficients(X, event_ids=IDS))
    assert (est.coefficients(X)[0] != est.coefficients(X, event_ids=IDS)[0]).any()
    assert loaded.report == est.report
    assert loaded.options == quick
    assert SHAPE_OPTIONS.folds == TrainingOptions().folds  # the same folds as the ratios beside them
    assert SHAPE_OPTIONS.fold_seed == TrainingOptions().fold_seed


def test_unusable_variations_are_refused():
    signs = np.where(IDS % 10 == 0, -1.0, 1.0)
    for args, match in (
        ((shifted(0),), "neither"),
        ((shifted(0), EventSample(X, names=["pt"], event_ids=IDS)), r"\['pt'\]"),
        ((shifted(0), EventSample(X, signs, event_ids=IDS)), "3000 of 30000"),
        ((EventSample(X, signs, event_ids=IDS), shifted(1)), "jes: nominal"),
        ((shifted(0), shifted(1, keep=slice(12))), "fold"),
    ):
        with pytest.raises(InvalidData, match=match):
            fit(*args, name="jes")


def test_samples_that_cannot_be_linked_are_warned_about():
    quick = TrainingOptions(hidden=(4,), epochs=1, folds=2, ensemble=1)
    with pytest.warns(LeakageWarning, match="event_ids"):
        train_shape(EventSample(X), EventSample(X[1:] + 0.3), options=quick, progress=False)
    with pytest.warns(StatisticsWarning, match=r"jes: up.*500"):
        train_shape(shifted(0), shifted(1, keep=slice(500)), name="jes", options=quick, progress=False)
