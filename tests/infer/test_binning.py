from itertools import combinations

import numpy as np
import pytest

from nuratio.errors import InvalidModel
from nuratio.infer.binned.binning import MEASURES, FineBins, merged, optimal_bins, quantile_edges


def made(rng, bins, parameters):
    expected = rng.uniform(1, 20, bins)
    scores = rng.normal(size=(bins, parameters))
    scores[:, 0] += 3 * np.linspace(-1, 1, bins) ** 2
    return FineBins(expected, expected[:, None] * scores)


def fisher(fine, starts):
    rate, slope = merged(fine.expected, starts), merged(fine.slopes, starts, axis=0)
    return (slope.T / rate) @ slope


def test_quantile_bins_have_equal_weights(rng):
    x, w = rng.normal(size=5000), rng.exponential(size=5000)
    for n in (1, 2, 7, 50):
        edges = quantile_edges(x, w, n)
        shares = np.bincount(np.digitize(x, edges), w, n) / w.sum()
        assert len(edges) == n - 1
        assert np.all(np.abs(shares - 1 / n) <= 1.0001 * w.max() / w.sum())
    assert set(quantile_edges(x, w, 4)) <= set(quantile_edges(x, w, 8))
    permuted = rng.permutation(5000)
    np.testing.assert_array_equal(quantile_edges(x[permuted], w[permuted], 7), quantile_edges(x, w, 7))


def test_equal_values_stay_together_and_weightless_events_make_no_bins():
    x = np.array([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(quantile_edges(x, np.array([1.0, 1, 1, 1, 0, 0]), 4), [1.0])
    np.testing.assert_array_equal(quantile_edges(x, np.ones(6), 2), [1.0])
    assert not len(quantile_edges(np.zeros(5), np.ones(5), 3))
    with pytest.raises(InvalidModel, match="at least one bin"):
        quantile_edges(x, np.ones(6), 0)
    with pytest.raises(InvalidModel, match="no event with a positive weight"):
        quantile_edges(x, np.zeros(6), 2)


def test_the_measures_are_what_they_say(rng):
    a, b, t = rng.uniform(1, 2, 100), rng.uniform(0, 1, 100), rng.normal(size=100)
    assert MEASURES["total"](a, b, t) is a
    assert MEASURES["background"](a, b, t) is b
    both = MEASURES["information"](a, b, t)
    assert both.sum() == pytest.approx(2)
    known = a * (t - np.average(t, weights=a)) ** 2
    np.testing.assert_allclose(both, a / a.sum() + known / known.sum())


def test_what_bins_know_is_fishers_information_beyond_that_of_their_sum(rng):
    fine = made(rng, 12, 3)
    for starts in ((), (4,), (1, 2, 9), tuple(range(1, 12))):
        beyond = fisher(fine, starts) - fisher(fine, ())
        np.testing.assert_allclose(fine.information(starts), beyond, atol=1e-10)


def test_what_a_cut_gains_has_rank_one(rng):
    fine = made(rng, 12, 3)
    where, factor, difference = fine.gains(3, 10)
    np.testing.assert_array_equal(where, np.arange(4, 10))
    for k, f, d in zip(where.tolist(), factor, difference, strict=True):
        gain = fine.information((3, k, 10)) - fine.information((3, 10))
        np.testing.assert_allclose(f * np.outer(d, d), gain, atol=1e-10)


@pytest.mark.parametrize("parameters", [1, 3])
def test_the_bins_are_the_best_there_are(parameters, rng):
    for _ in range(5):
        fine = made(rng, 14, parameters)
        known = fisher(fine, ()) + 2 * np.eye(parameters)

        def variance(starts, fine=fine, known=known):
            return np.linalg.inv(known + fine.information(starts))[0, 0]

        found = optimal_bins({"SR": fine}, known, 0, 4)
        everything = variance(tuple(range(1, 14)))
        for n, chosen in enumerate(found):
            assert len(chosen["SR"]) == n
            exact = min(variance(starts) for starts in combinations(range(1, 14), n))
            assert exact * (1 - 1e-9) <= variance(chosen["SR"])
            assert variance(chosen["SR"]) - everything <= (1 if parameters == 1 else 1.1) * (exact - everything) + 1e-12
        quarters = (3, 7, 10)
        assert variance(found[3]["SR"]) < variance(quarters)


def test_channels_are_binned_together_and_no_channel_gets_more_bins_than_it_has(rng):
    channels = {"A": made(rng, 20, 2), "B": made(rng, 3, 2)}
    known = sum(fisher(fine, ()) for fine in channels.values())
    found = optimal_bins(channels, known, 0, 6)
    assert [len(chosen["A"]) for chosen in found] == [0, 1, 2, 3, 4, 5]
    assert [len(chosen["B"]) for chosen in found] == [0, 1, 2, 2, 2, 2]
    variances = [
        np.linalg.inv(known + sum(fine.information(chosen[n]) for n, fine in channels.items()))[0, 0]
        for chosen in found
    ]
    assert np.all(np.diff(variances) < 0)


def test_a_parameter_that_one_bin_does_not_determine_is_no_obstacle(rng):
    fine = made(rng, 10, 2)
    found = optimal_bins({"SR": fine}, fisher(fine, ()), 0, 3)  # rank one: two unknowns, one number
    assert [len(chosen["SR"]) for chosen in found] == [0, 1, 2]
    best = min(np.linalg.inv(fisher(fine, starts))[0, 0] for starts in combinations(range(1, 10), 2))
    assert np.linalg.inv(fisher(fine, found[2]["SR"]))[0, 0] == pytest.approx(best, rel=0.05)
