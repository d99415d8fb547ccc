import numpy as np
import pytest
from scipy.stats import chi2, wasserstein_distance

from nuratio.errors import InvalidData
from nuratio.ratios.closure import Weighted, closure_chi2, common_edges, sliced_wasserstein, tsallis_distance


def signed(rng, n, shift=0.0):
    x = rng.normal(shift, 1, (n, 3))
    return Weighted(x, np.where(rng.uniform(size=n) < 0.2, -1.0, 1.0))


def column(sample, k=0):
    return Weighted(sample.values[:, k], sample.weights)


def test_chi2_of_samples_of_one_density_follows_its_distribution(rng):
    values = []
    for _ in range(300):
        a, b = column(signed(rng, 4000)), column(signed(rng, 2500))
        statistic, dof = closure_chi2(a, b, np.linspace(-2, 2, 11))
        values.append(chi2.sf(statistic, dof))
    assert abs(np.mean(values) - 0.5) < 4 / np.sqrt(12 * 300)
    assert np.mean(np.array(values) < 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 300)
    statistic, dof = closure_chi2(column(signed(rng, 4000, 0.3)), b, np.linspace(-2, 2, 11))
    assert chi2.sf(statistic, dof) < 1e-3


def test_chi2_knows_the_variance_of_a_training(rng):
    """Source histograms that a training has distorted at random, by a known variance."""
    edges, plain, known = np.linspace(-2, 2, 11), 0.0, []
    variance = np.full(10, 0.01**2)
    for _ in range(200):
        a, b = column(signed(rng, 4000)), column(signed(rng, 4000))
        share = a.histogram(edges)[0] / a.histogram(edges)[0].sum()
        factor = 1 + rng.normal(0, 0.01, 10) / share
        cell = np.clip(np.digitize(a.values, edges) - 1, 0, 9)
        a = Weighted(a.values, a.weights * factor[cell])
        statistic, dof = closure_chi2(a, b, edges, training=variance)
        known.append(statistic / dof)
        plain += closure_chi2(a, b, edges)[0] / dof / 200
    assert abs(np.mean(known) - 1) < 4 * np.sqrt(2 / 9 / 200)
    assert plain > 1.3


def test_the_scale_of_weights_is_no_difference(rng):
    a, b = column(signed(rng, 1000)), column(signed(rng, 1000))
    scaled = Weighted(a.values, 7 * a.weights)
    edges = common_edges(a, b, bins=20)
    assert closure_chi2(a, b, edges)[0] == pytest.approx(closure_chi2(scaled, b, edges)[0], rel=1e-12)
    assert tsallis_distance(a, b, edges) == pytest.approx(tsallis_distance(scaled, b, edges), rel=1e-9)


def test_tsallis_of_order_two_is_the_chi2_distance(rng):
    a, b = column(signed(rng, 20_000)), column(signed(rng, 20_000, 0.2))
    edges = np.linspace(-1.5, 1.5, 13)
    s, t = (h.histogram(edges)[0] for h in (a, b))
    s, t = s / s.sum(), t / t.sum()
    assert tsallis_distance(a, b, edges) == pytest.approx(((t - s) ** 2 / s).sum(), rel=1e-9)


def test_edges_span_both_samples(rng):
    a, b = Weighted(rng.normal(size=1000)), Weighted(rng.normal(5, 1, size=1000))
    edges = common_edges(a, b, bins=10, range=(0, 100))
    assert (edges[0], edges[-1]) == (a.values.min(), b.values.max())


def test_the_sliced_distance_is_the_wasserstein_distance_of_both_sides(rng):
    """scipy's W1 of (source+ with |target-|) and (target+ with |source-|), along the same directions."""
    a, b = signed(rng, 3000), signed(rng, 2000, 0.3)
    ours, error = sliced_wasserstein(a, b, projections=20, rng=np.random.default_rng(5))
    directions = np.random.default_rng(5).normal(size=(3, 20))
    directions /= np.linalg.norm(directions, axis=0)
    u, v = a.weights / a.weights.sum(), b.weights / b.weights.sum()
    expected = []
    for d in directions.T:
        x, y = a.values @ d, b.values @ d
        left = np.r_[x[u > 0], y[v < 0]], np.r_[u[u > 0], -v[v < 0]]
        right = np.r_[y[v > 0], x[u < 0]], np.r_[v[v > 0], -u[u < 0]]
        expected.append(wasserstein_distance(left[0], right[0], left[1], right[1]))
    assert ours == pytest.approx(np.mean(expected), rel=1e-3)
    assert error == pytest.approx(np.std(expected) / np.sqrt(20), rel=1e-2)


def test_a_sample_is_at_no_distance_from_itself(rng):
    a = signed(rng, 1000)
    assert sliced_wasserstein(a, a)[0] < 1e-12


def test_wrong_input_is_named(rng):
    with pytest.raises(InvalidData, match="3 values need as many weights"):
        Weighted([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(InvalidData, match="finite"):
        Weighted([1.0, np.nan])
    with pytest.raises(InvalidData, match="weights cancel"):
        Weighted([1.0, 2.0], [1.0, -1.0])
    with pytest.raises(InvalidData, match="same features"):
        sliced_wasserstein(signed(rng, 5), Weighted(rng.normal(size=(5, 2))))
