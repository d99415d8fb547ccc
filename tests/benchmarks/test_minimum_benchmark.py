"""The benchmark of the likelihood's minimum: densities, cut, and what a wrong normalisation does."""

import minimum
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.table import RatioTable


@pytest.fixture(scope="module")
def library():
    """Room for one data set."""
    return minimum.Library.draw(np.random.default_rng(1), 160_000, 4_000)


def test_events_have_the_density_of_their_component():
    component = minimum.MIXTURES["signal"][1]
    covariance = minimum.RESPONSE[:, None] * component.latent * minimum.RESPONSE + np.diag(minimum.RESOLUTION**2)
    n = 20_000
    x = component.draw(np.random.default_rng(0), n)
    density = multivariate_normal(minimum.RESPONSE * component.mean, covariance)
    np.testing.assert_allclose(component.density(x), component.fraction * density.pdf(x), rtol=1e-10)
    u = np.linalg.solve(np.linalg.cholesky(covariance), (x - density.mean).T)
    assert np.all(np.abs(u.mean(1)) < 5 / np.sqrt(n))
    assert np.all(np.abs(np.cov(u) - np.eye(5)) < 5 * np.sqrt(2 / n))


def test_ratios_are_normalised_after_the_cut(library):
    r = library.ratio[: library.background]
    second = np.mean(r**2)
    assert abs(r.mean() - 1) < 5 * r.std() / np.sqrt(len(r))
    assert abs(second - minimum.SECOND_MOMENT) < 5 * np.std(r**2) / np.sqrt(len(r))
    inverse = 1 / library.ratio[library.background :]
    assert abs(inverse.mean() - 1) < 5 * inverse.std() / np.sqrt(len(inverse))


def test_yields_are_those_of_the_loosest_cut_that_reaches_the_purity():
    n = 200_000
    signal, background, share = minimum.calibrate(np.random.default_rng(2), n)
    p = minimum.YIELDS["signal"] / 1_100
    error = np.sqrt((1 - p) / (p * n))
    assert signal == pytest.approx(minimum.YIELDS["signal"], rel=5 * error)
    assert background == pytest.approx(minimum.YIELDS["background"], rel=6 * error)
    assert share * minimum.INSIDE == pytest.approx(1, abs=5 * 0.5 / np.sqrt(p * n))
    assert 249 < minimum.YIELDS["background"] / minimum.YIELDS["signal"] <= 250


def test_a_wrong_normalisation_moves_the_minimum_as_predicted(library):
    exact = minimum.exact_table(library)
    wrong = RatioTable.from_columns({"signal": 1.002 * library.ratio, "background": np.ones(len(library.x))})
    found = minimum.compare(library, wrong, error=0.002, seconds=0.0, sets=1)
    assert found.predicted == pytest.approx(found.expected, rel=0.02)
    assert found.shifts[0] == pytest.approx(found.predicted, rel=0.1)
    assert found.predicted > 0.5
    assert found.rms < 1e-6
    same = minimum.compare(library, exact, error=0.0, seconds=0.0, sets=1)
    assert abs(same.shifts[0]) < 1e-9


def test_an_interval_holds_the_truth_as_often_as_it_should(library):
    numbers = minimum.coverage(library, [minimum.exact_table(library)], sets=12).numbers
    assert all(0.2 < share <= 1 for share in numbers.values())  # binomial: beyond 3.5 sigma
    assert [numbers[f"learned, mu = {mu:g}"] for mu in minimum.STRENGTHS] == [
        numbers[f"exact, mu = {mu:g}"] for mu in minimum.STRENGTHS
    ]


def test_data_sets_share_no_event(library):
    (events,) = library.disjoint(np.random.default_rng(3), 1)
    assert len(set(events.tolist())) == len(events)
    assert abs(len(events) - sum(minimum.YIELDS.values())) < 5 * np.sqrt(sum(minimum.YIELDS.values()))
    with pytest.raises(ValueError, match="3 data sets need"):
        list(library.disjoint(np.random.default_rng(3), 3))


def test_a_training_gives_ratios_to_the_background(library):
    how = TrainingOptions(hidden=(8,), epochs=2, folds=2, ensemble=1)
    table, error, _ = minimum.learn(library, "linear", 1, 4_000, 4_000, how)
    np.testing.assert_allclose(table["background"], 1, rtol=0.05)
    assert error == pytest.approx(np.sqrt((minimum.SECOND_MOMENT - 1) / 4_000), rel=0.3)
    correlation = np.corrcoef(table["signal"], library.ratio)[0, 1]
    assert correlation > 0.5
