"""The benchmark with three nuisances: its simulation, a quick run, and the error of small simulations."""

import numpy as np
import profiled
import pytest
import small_simulations as small
import varied_minimum
from minimum import Library
from varied_minimum import NUISANCES, Fitted


@pytest.mark.parametrize("sample", NUISANCES)
def test_simulated_rates_are_those_of_the_derivatives(sample):
    nominal, varied = varied_minimum.simulate(np.random.default_rng(1), sample, 30_000)
    for v in varied:
        ((nuisance, alpha),) = v.alpha.items()
        if nuisance != "theory":  # second order alone is exact for the theory, whose derivatives are those of +-1
            continue
        d1, d2 = varied_minimum.derivatives(nominal.features, sample, nuisance)
        factor = np.exp(alpha * d1 + d2)
        common = np.isin(nominal.ids, v.events.ids).sum()
        changed = len(nominal) + len(v.events) - 2 * common  # the others cancel in the ratio of yields
        error = np.hypot(np.sqrt(changed) / len(nominal), factor.std() / np.sqrt(len(nominal)))
        assert abs(v.events.total / nominal.total - factor.mean()) < 4 * error
        assert np.abs(factor.mean() - 1) > 4 * error


def test_variations_are_the_same_generated_events():
    nominal, varied = varied_minimum.simulate(np.random.default_rng(2), "signal", 2_000)
    up = next(v.events for v in varied if v.alpha == {"response": 1.0})
    _, i, j = np.intersect1d(nominal.ids, up.ids, return_indices=True)
    assert len(i) > 0.8 * len(nominal)
    correlation = np.corrcoef(nominal.features[i, 1], up.features[j, 1])[0, 1]
    assert correlation > 0.99  # a good resolution and a shift by 10%
    other = np.corrcoef(nominal.features[i, 1], up.features[np.roll(j, 1), 1])[0, 1]
    assert abs(other) < 5 / np.sqrt(len(i))


def test_the_signal_is_normalised_as_well_as_the_background_tells():
    """A pool of signal events alone moved the minimum of the exact likelihood by most of a standard deviation."""
    library = Library.draw(np.random.default_rng(4), 100_000, 4_000)
    reference = profiled.exact(library)
    background, n = slice(library.background), 4_000
    alone = []
    for nuisance, alpha in (("theory", 1.0), ("theory", -1.0), ("response", 0.3), ("resolution", -0.3)):

        def shape(columns, nuisance=nuisance, alpha=alpha):
            d1, d2 = (np.asarray(columns[f"signal/{nuisance}/d{power}"], dtype=np.float64) for power in (1, 2))
            return np.exp(alpha * d1 + alpha**2 * d2)

        r = library.ratio[background]
        expected = (r * shape(reference.table)[background]).mean() / r.mean()
        of_pool = shape(reference.pool)
        assert reference.pool["weight"] @ of_pool == pytest.approx(expected, abs=5e-4)
        alone.append(of_pool.mean() - expected)
    assert np.abs(alone).max() > 2e-3
    assert reference.pool["weight"].min() > 0
    assert len(reference.pool["weight"]) == n


def test_the_quick_run_is_sane():
    minimum, coverage = profiled.main(profiled.parse(["--quick"]))
    assert minimum.numbers["1: abs(shift)"] < 5 * 1.5 / 0.63  # 1.5 is predicted for 10 000 events of background
    assert minimum.numbers["1: width"] == pytest.approx(1, abs=0.5)
    assert len(coverage.rows) == len(coverage.numbers) / 3 == 3
    assert all(0 <= share <= 1 for share in coverage.numbers.values())


@pytest.fixture(scope="module")
def two():
    """Two small simulations, with sets that share a library."""
    library = Library.for_sets(2)
    sets = list(library.disjoint(np.random.default_rng(1), 2))
    reference = profiled.exact(library)
    truth = [reference.fit(events, 1.0) for events in sets]
    settings = small.Settings(10_000, 5_000, hidden=16, epochs=2, draws=20)
    return small.simulations(library, sets, truth, reference.rates, settings).numbers


def test_small_simulations_have_valid_fits_of_every_kind(two):
    assert two["failed"] == 0
    for kind in small.KINDS:
        assert np.isfinite(two[f"{kind}, found"])
        assert 0 <= two[f"{kind}, mu +- sigma"] <= 1
        assert 0 < two[f"{kind}, sigma"] < 4


def test_the_nuisance_adds_the_predicted_error_and_keeps_the_minimum(two):
    assert two["nuisance, found"] == pytest.approx(two["learned, found"], rel=1e-3)
    assert two["nuisance, sigma"] == pytest.approx(np.hypot(two["learned, sigma"], two["learned, predicted"]), rel=0.05)
    assert 0.7 < two["learned, predicted"] < 3  # 0.65 for five times the background
    assert two["learned, found"] < 4 * two["learned, predicted"]


def test_variations_move_the_minimum_too(two):
    for how in ("from exact derivatives", "from other events"):
        assert 0 < two[how] < 3 * two["learned, predicted"]


def made(rng, n, size):
    """Results whose error from the simulation is ``size`` times the predicted one, 0.6, for an exact sigma of 0.8."""
    exact = [Fitted(1 + 0.8 * z, 0.8, z**2) for z in rng.normal(size=n)]

    def found(mu, sigma):
        return small.Found(mu, sigma, 0.6, ((mu - 1) / sigma) ** 2, True)

    replicas = []
    for e in exact:
        mu = e.mu + 0.6 * size * rng.normal()
        fits = dict.fromkeys((*small.KINDS, "common"), found(mu, 0.8)) | {"nuisance": found(mu, 1.0)}
        replicas.append(small.Replica(0.6, 0.6, fits))
    return replicas, exact


def test_shares_are_those_of_normal_errors():
    n, settings = 2000, small.Settings(1, 1)
    error = 4 * np.sqrt(0.683 * 0.317 / n)
    right = small.section(*made(np.random.default_rng(3), n, 1.0), settings, 1.0).numbers
    assert right["learned, exact minimum"] == pytest.approx(0.683, abs=error)
    assert right["nuisance, mu +- sigma"] == pytest.approx(0.683, abs=error)
    assert right["nuisance, 2 dlnL"] == right["nuisance, mu +- sigma"]
    assert right["exact, 2 dlnL"] == pytest.approx(0.683, abs=error)
    assert right["learned, mu +- sigma"] == pytest.approx(0.576, abs=error)  # 0.8 of a deviation
    assert right["learned, pull width"] == pytest.approx(1, abs=4 / np.sqrt(2 * n))
    assert right["learned, found"] == pytest.approx(0.6, abs=0.6 * 4 / np.sqrt(2 * n))
    wrong = small.section(*made(np.random.default_rng(3), n, 1.5), settings, 1.0).numbers
    assert wrong["learned, exact minimum"] < 0.683 - error
    assert wrong["nuisance, mu +- sigma"] < 0.683 - error
