import numpy as np
import pytest

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import InvalidData, UnknownName


@pytest.fixture
def sample():
    return EventSample([[1, 2], [3, 4], [5, 6]], [1.0, -0.5, 2.0], ["a", "b"], [7, 8, 9])


def test_what_a_sample_says_of_itself(sample):
    assert len(sample) == 3
    assert sample.total == 2.5
    assert sample.effective_size == pytest.approx(2.5**2 / (1 + 0.25 + 4))
    assert sample.negative_fraction == pytest.approx(0.5 / 3.5)
    np.testing.assert_array_equal(sample.column("b"), [2, 4, 6])
    assert sample.sign(-1).weights.tolist() == [-0.5]
    assert sample.sign(1).ids.tolist() == [7, 9]
    assert "yield 2.5" in repr(sample)


def test_defaults():
    data = EventSample([1.0, 2.0])
    assert data.names == ("x0",)
    assert data.weights.tolist() == [1, 1]
    assert data.ids.tolist() == [0, 1]
    assert data.select(np.array([False, True])).ids.tolist() == [1]  # the row number survives


def test_the_arguments_are_copied_and_the_sample_cannot_be_changed():
    x, w = np.ones((2, 1), dtype=np.float32), np.ones(2)
    sample = EventSample(x, w)
    x[0] = w[0] = 5
    assert sample.features[0, 0] == sample.weights[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        sample.weights[0] = 2
    x[0] = 6  # and the caller's arrays stay writable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0], [np.nan], [np.inf]],), r"feature 'x0' is NaN or infinite for 2 of 3 events \(first: event 1\)"),
        (([[1.0], [2.0]], [1.0, np.nan]), "weight is NaN or infinite for 1 of 2 events"),
        (([[1.0], [2.0]], [1.0]), "2 events but weights of shape"),
        (([[1.0], [2.0]], [0.0, 0.0]), "every one of the 2 weights is zero"),
        ((np.empty((0, 2)),), "no events"),
        (([[1.0, 2.0]], None, ["a"]), "2 feature columns but 1 names"),
        (([[1.0, 2.0]], None, ["a", "a"]), "names repeat"),
        (([[1.0]], None, None, [1.5]), "event_ids must be 1 integers"),
        ((np.ones((2, 2, 2)),), r"must have shape \(events, features\)"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(InvalidData, match=message):
        EventSample(*arguments)


def test_an_unknown_feature_lists_the_close_ones():
    with pytest.raises(UnknownName, match="did you mean 'ln_mll'"):
        EventSample([[1.0]], names=["ln_mll"]).column("ln_ml")


def test_folds_depend_on_id_and_seed_alone_and_are_even():
    ids = np.arange(100_000)
    fold = fold_of(ids, 5, seed=3)
    np.testing.assert_array_equal(fold_of(ids[::-1], 5, seed=3)[::-1], fold)
    assert (fold_of(ids, 5, seed=4) != fold).mean() == pytest.approx(0.8, abs=0.01)
    counts = np.bincount(fold, minlength=5)
    assert np.all(np.abs(counts - 20_000) < 4 * np.sqrt(100_000 * 0.2 * 0.8))
    # neighbouring ids are independent
    assert np.mean(fold[1:] == fold[:-1]) == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 1e5))
