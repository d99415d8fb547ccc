import json
from itertools import pairwise

import numpy as np
import pytest
import uproot

from nuratio.demo.drellyan import (
    COMPONENTS,
    CR,
    SR,
    Region,
    density,
    efficiency_factor,
    integrate,
    scale_factor,
    yields,
)
from nuratio.demo.generator import EVENTS, SLICES, VARIATIONS, generate, pseudo_experiment, write_ntuples
from nuratio.errors import InvalidData, UnknownName

MLL = Region("test", (170.0, 190.0, 210.0, 240.0, 300.0, 360.0, 450.0, 600.0, 750.0, 950.0, 1050.0, 1300.0, 3000.0))
SMALL = {
    "sm": (300_000, 100_000, 20_000),
    "interference": (20_000, 30_000, 30_000),
    "newphys": (10_000, 10_000, 20_000),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("ntuples")
    write_ntuples(path, seed=5, events=SMALL)
    return path


def read(path, tree):
    with uproot.open(path) as file:
        return file[tree].arrays(library="np")


def chi2(values, weights, edges, expected):
    """Of a weighted histogram, with its variance estimated by the sum of squared weights."""
    content, _ = np.histogramdd(values, edges, weights=weights)
    variance, _ = np.histogramdd(values, edges, weights=weights**2)
    return float(((content - expected) ** 2 / variance).sum())


def compatible(chi2, n):
    return abs(chi2 - n) < 4 * np.sqrt(2 * n)  # 4 sigma of a chi2 with n degrees of freedom


@pytest.mark.parametrize("component", COMPONENTS)
def test_events_follow_the_exact_density(component):
    sample = generate(component, (100_000, 100_000, 100_000), np.random.default_rng(1))
    edges = [
        np.array([170.0, 200.0, 290.0, 310.0, 500.0, 800.0, 1100.0, 3000.0]),
        np.array([-1.4, -0.7, 0, 0.7, 1.4]),
        np.array([-1, -0.6, 0.1, 1]),
    ]
    x, w = np.polynomial.legendre.leggauss(40)
    nodes, weights = [], []
    for e in edges:
        half = np.diff(e) / 2
        nodes.append(e[:-1, None] + half[:, None] * (1 + x))
        weights.append(half[:, None] * w)
    m, y, c = nodes
    expected = np.zeros([len(e) - 1 for e in edges])
    for i, j, k in np.ndindex(expected.shape):
        values = density(component, m[i, :, None, None], y[j, :, None], c[k])
        expected[i, j, k] = np.einsum("myc,m,y,c->", values, weights[0][i], weights[1][j], weights[2][k])
    values = np.stack([sample["mll"], sample["yll"], sample["costh"]], axis=1)
    assert compatible(chi2(values, sample["weight"], edges, expected), expected.size)
    assert not compatible(chi2(values * [1.01, 1, 1], sample["weight"], edges, expected), expected.size)


@pytest.mark.parametrize("component", COMPONENTS)
def test_weights_have_constant_size_in_a_slice_and_add_up_to_the_yield(component):
    sample = generate(component, (20_000, 10_000, 5000), np.random.default_rng(2))
    for low, high in pairwise(SLICES):
        weights = sample["weight"][(sample["mll"] >= low) & (sample["mll"] < high)]
        assert np.ptp(np.abs(weights)) == 0
        assert np.any(weights < 0) == (component == "interference")
        exact = integrate(component, Region("slice", (low, high)))[0]
        assert weights.sum() == pytest.approx(exact, rel=1e-7, abs=4 * weights.std() * np.sqrt(len(weights)))


def test_interference_events_of_both_signs_occur_at_the_same_point():
    sample = generate("interference", (1, 200_000, 1), np.random.default_rng(3))
    near = (abs(sample["mll"] - 400) < 20) & (abs(sample["yll"]) < 0.2) & (abs(sample["costh"]) < 0.2)
    assert 0.02 < np.mean(sample["weight"][near] < 0) < 0.5


@pytest.mark.parametrize(("tree", "alpha"), VARIATIONS.items())
@pytest.mark.parametrize("component", COMPONENTS)
def test_trees_follow_the_density_at_their_mass_scale(directory, component, tree, alpha):
    sample = read(directory / f"{component}.root", tree)
    exact, n = integrate(component, MLL, alpha), len(MLL.edges) - 1
    assert compatible(chi2(sample["mll"], sample["weight"], [MLL.edges], exact), n)
    if component == "sm":  # enough events to see other densities fail
        wrong_scale = integrate(component, MLL, 0.0 if alpha else 0.3)
        without_jacobian = integrate(component, MLL, 1.0) * 1.01
        assert not compatible(chi2(sample["mll"], sample["weight"], [MLL.edges], wrong_scale), n)
        if alpha == 1:
            assert not compatible(chi2(sample["mll"], sample["weight"], [MLL.edges], without_jacobian), n)


def test_trees_hold_the_same_generated_events(directory):
    numbers = []
    for component in COMPONENTS:
        nominal = read(directory / f"{component}.root", "nominal")
        for tree, alpha in VARIATIONS.items():
            shifted = read(directory / f"{component}.root", tree)
            assert len(np.unique(shifted["event"])) == len(shifted["event"])
            assert shifted["mll"].min() >= 170
            assert shifted["mll"].max() < 3000
            _, i, j = np.intersect1d(nominal["event"], shifted["event"], return_indices=True)
            assert len(i) > 0.9 * len(nominal["event"])
            assert shifted["mll"][j] / nominal["mll"][i] == pytest.approx(1 + 0.01 * alpha, rel=1e-12)
            for branch in ("yll", "costh", "weight"):
                assert np.array_equal(nominal[branch][i], shifted[branch][j])
        assert nominal["event"].dtype == np.int64
        numbers.append(nominal["event"])
    assert len(np.unique(np.concatenate(numbers))) == sum(map(len, numbers))


def test_variations_are_complete_at_the_edges_of_the_regions(directory):
    """A true mass beyond a region must be simulated if a variation brings it in."""
    for tree, alpha in VARIATIONS.items():
        assert SLICES[0] * scale_factor(alpha) <= CR.edges[0] + 1e-9
        assert SLICES[-1] * scale_factor(alpha) >= SR.edges[-1] - 1e-9
        sample = read(directory / "sm.root", tree)
        for region in (Region("low", (170.0, 171.7)), Region("middle", (297.0, 303.0))):
            weights = sample["weight"][(sample["mll"] > region.edges[0]) & (sample["mll"] < region.edges[1])]
            exact = integrate("sm", region, alpha)[0]
            assert weights.sum() == pytest.approx(exact, abs=4 * np.sqrt((weights**2).sum()))


@pytest.mark.parametrize(("kappa", "mass_scale", "efficiency"), [(0.0, 0.0, 0.0), (4.0, 1.0, -2.0)])
def test_pseudo_experiment_is_poisson_around_the_exact_total(kappa, mass_scale, efficiency):
    data = pseudo_experiment(kappa, np.random.default_rng(4), mass_scale=mass_scale, efficiency=efficiency)
    counts = np.histogram(data["mll"], MLL.edges)[0]
    expected = np.array([1, kappa, kappa**2]) @ yields(MLL, mass_scale) * efficiency_factor(efficiency)[0]
    assert len(data["mll"]) == counts.sum()
    assert compatible(((counts - expected) ** 2 / expected).sum(), len(counts))
    other = np.array([1, 2.0, 4.0]) @ yields(MLL, mass_scale) * efficiency_factor(efficiency)[0]
    assert not compatible(((counts - other) ** 2 / other).sum(), len(counts))


def test_truth_says_what_was_written(directory):
    truth = json.loads((directory / "truth.json").read_text())
    data = read(directory / "data.root", "data")
    for region in (SR, CR):
        assert truth["observed"][region.name] == np.histogram(data["mll"], region.edges)[0].tolist()
        assert truth["yields"][region.name]["newphys"] == integrate("newphys", region).tolist()
    assert sum(map(sum, truth["observed"].values())) == len(data["mll"])
    assert truth["kappa_true"] == 1.0
    assert truth["events"] == {component: list(n) for component, n in SMALL.items()}


def test_equal_seeds_write_equal_ntuples(tmp_path):
    few = dict.fromkeys(COMPONENTS, (200, 100, 100))
    trees = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_ntuples(tmp_path / name, seed=seed, events=few)
        trees.append(
            [read(tmp_path / name / "sm.root", "nominal")["mll"], read(tmp_path / name / "data.root", "data")["mll"]]
        )
    assert all(np.array_equal(x, y) for x, y in zip(trees[0], trees[1], strict=True))
    assert not any(np.array_equal(x[:100], y[:100]) for x, y in zip(trees[0], trees[2], strict=True))


def test_wrong_requests_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(UnknownName, match="newphys"):
        generate("newphy", EVENTS["sm"], rng)
    with pytest.raises(InvalidData, match="3 positive numbers"):
        generate("sm", (10, 10), rng)
    with pytest.raises(InvalidData, match="newphys"):
        write_ntuples(tmp_path, seed=1, events={"sm": (1, 1, 1), "interference": (1, 1, 1)})
