"""The benchmark of the training's error: densities, simulations, data, and that all of its fits are there."""

import dataclasses

import numpy as np
import pytest
import training_statistics as statistics
from scipy.integrate import quad


@pytest.mark.parametrize("problem", statistics.PROBLEMS)
def test_densities_are_normalised_and_the_total_is_positive(problem):
    components = statistics.PROBLEMS[problem]
    for parts in components.values():
        total, _ = quad(lambda x, parts=parts: float(statistics.density(parts, x)), -10, 10, limit=200)
        assert total == pytest.approx(1, abs=1e-9)
    x = np.linspace(-8, 8, 4001)
    assert sum(statistics.SHARES[n] * statistics.density(p, x) for n, p in components.items()).min() > 0
    assert sum(statistics.SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("problem", statistics.PROBLEMS)
def test_a_simulation_and_data_have_the_moments_of_the_densities(problem):
    components, rng, n = statistics.PROBLEMS[problem], np.random.default_rng(3), 200_000
    samples = statistics.simulate(rng, components, n, 1000.0)
    assert sum(len(s) for s in samples.values()) == n
    expected = {}
    for name, sample in samples.items():
        assert sample.total == pytest.approx(1000 * statistics.SHARES[name])
        assert np.ptp(np.abs(sample.weights)) < 1e-9 * np.abs(sample.weights).max()
        expected[name] = sum(w * m for w, m, _ in components[name])
        f = sample.weights / sample.total * (sample.features[:, 0] - expected[name])
        assert abs(f.sum()) < 5 * np.sqrt((f**2).sum())
    for mu in (0.0, 1.0, 2.0):
        data = statistics.observe(rng, components, 1e5, mu)
        yields = {name: 1e5 * share * (mu if name == "signal" else 1) for name, share in statistics.SHARES.items()}
        total = sum(yields.values())
        assert abs(len(data) - total) < 5 * np.sqrt(total)
        mean = sum(n * expected[name] for name, n in yields.items())
        assert abs(data.sum() - mean) < 5 * np.sqrt((data**2).sum())


def test_the_quick_run_has_a_valid_fit_of_every_kind():
    args = statistics.parse(["--quick", "--problems", "interference", "--events", "600"])
    assert args.simulations == 2
    (section,) = statistics.main(args)
    sizes = [f"{size:g}" for size in args.sizes]
    assert len(section.rows) == len(sizes) * len(statistics.KINDS)
    for size in sizes:
        for kind in statistics.KINDS:
            assert section.numbers[f"{size}, {kind}, valid"] == 1
        sigma = {kind: section.numbers[f"{size}, {kind}, sigma"] for kind in statistics.KINDS}
        for kind in ("influence", "last_layer", "bootstrap"):
            assert sigma[kind] > 1.02 * min(sigma["none"], sigma["none, bagged"])
        assert 0 <= section.numbers[f"{size}, exact minimum"] <= 1


def test_results_are_those_of_the_seed():
    work = {
        "problem": "signal",
        "method": "linear",
        "events": 400,
        "sizes": (0.5,),
        "members": 2,
        "draws": 4,
        "mu": 1.0,
    }
    first, again, other = (statistics.one_simulation(seed, **work) for seed in (1, 1, 2))
    assert set(first) == {(0.5, kind) for kind in statistics.KINDS}
    for key, found in first.items():
        assert dataclasses.astuple(found)[:2] == dataclasses.astuple(again[key])[:2]
        assert found.mu != other[key].mu
