"""Templates against numpy's histogram."""

import numpy as np
import pytest

from nuratio.data.sample import EventSample
from nuratio.data.templates import histogram
from nuratio.errors import InvalidData, UnknownName

RNG = np.random.default_rng(5)
SAMPLE = EventSample(RNG.normal(size=(5000, 2)), RNG.normal(0.3, 1, 5000), ["a", "b"])
EDGES = [-1.0, -0.2, 0.5, 2.0]


def test_bins_hold_sums_of_signed_weights_and_of_their_squares():
    template = histogram(SAMPLE, "b", EDGES)
    x, w = SAMPLE.column("b").astype(float), SAMPLE.weights
    np.testing.assert_allclose(template.values, np.histogram(x, EDGES, weights=w)[0], rtol=1e-12)
    np.testing.assert_allclose(template.variances, np.histogram(x, EDGES, weights=w**2)[0], rtol=1e-12)
    np.testing.assert_array_equal(template.staterror, np.sqrt(template.variances))


def test_overflow_is_left_out_or_folded_into_the_end_bins():
    outside = histogram(SAMPLE, "a", EDGES)
    folded = histogram(SAMPLE, "a", EDGES, overflow=True)
    np.testing.assert_allclose(folded.values.sum(), SAMPLE.total, rtol=1e-12)
    np.testing.assert_allclose(folded.variances.sum(), (SAMPLE.weights**2).sum(), rtol=1e-12)
    assert folded.values[1] == outside.values[1]
    below = SAMPLE.weights[SAMPLE.column("a") < EDGES[0]].sum()
    np.testing.assert_allclose(folded.values[0] - outside.values[0], below)
    single = histogram(SAMPLE, "a", [0.0, 1.0], overflow=True)
    np.testing.assert_allclose(single.values, [SAMPLE.total])


def test_the_template_of_two_samples_is_the_sum_of_theirs():
    half = np.arange(len(SAMPLE)) % 2 == 0
    parts = [histogram(SAMPLE.select(m), "a", EDGES) for m in (half, ~half)]
    whole = histogram(SAMPLE, "a", EDGES)
    np.testing.assert_allclose(parts[0].values + parts[1].values, whole.values)
    np.testing.assert_allclose(parts[0].variances + parts[1].variances, whole.variances)


def test_a_number_per_event_is_as_good_as_a_feature():
    np.testing.assert_array_equal(
        histogram(SAMPLE, SAMPLE.column("a"), EDGES).values, histogram(SAMPLE, "a", EDGES).values
    )


def test_a_bin_contains_its_lower_edge_only():
    sample = EventSample([0.0, 1.0, 2.0])
    assert histogram(sample, "x0", [0.0, 1.0, 2.0]).values.tolist() == [1, 1]
    assert histogram(sample, "x0", [0.0, 1.0, 2.0], overflow=True).values.tolist() == [1, 2]


@pytest.mark.parametrize("edges", [[0.0], [0.0, 0.0], [1.0, 0.0], [0.0, np.nan, 1.0], [[0.0, 1.0]]])
def test_edges_must_increase(edges):
    with pytest.raises(InvalidData, match="strictly increasing"):
        histogram(SAMPLE, "a", edges)


def test_a_variable_that_does_not_fit_the_sample_is_refused():
    with pytest.raises(UnknownName, match="'aa'; did you mean 'a'"):
        histogram(SAMPLE, "aa", EDGES)
    with pytest.raises(InvalidData, match="5000 events, got shape"):
        histogram(SAMPLE, np.ones(3), EDGES)
    with pytest.raises(InvalidData, match="NaN for 1 of 5000"):
        histogram(SAMPLE, np.r_[np.nan, np.ones(4999)], EDGES)
