"""Binned channels and constraints of one data set: published workspaces, and rates where no logarithm is."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyhf
import pytest

import analytic
from nuratio.errors import InvalidModel
from nuratio.model.binned import BinnedTerm
from nuratio.model.constraints import Constraints
from nuratio.model.histfactory import HistFactory
from nuratio.model.positivity import extended_log
from nuratio.model.terms import poisson_bins, saturated

WORKSPACES = Path(__file__).parents[2] / ".." / "shared" / "data" / "workspaces"
PUBLISHED = [
    "sbottom_multib/RegionA/BkgOnly.json",
    "sbottom_multib/RegionC/BkgOnly.json",
    "ATLAS-SUSY-2018-16_Sleptons_bkgonly.json",
]
SETTINGS = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}


def compile_term(pdf, data, relative_threshold=1e-8):
    rates = HistFactory.compile(pdf)
    counts = {channel: data[where] for channel, where in pdf.config.channel_slices.items()}
    aux = data[pdf.config.nmaindata :]
    return BinnedTerm.compile(rates, Constraints.compile(pdf.config), counts, aux, relative_threshold)


def evaluate(term, theta, *, hessian=True):
    return term.derivatives(term.rates.rates(theta), theta, hessian=hessian)


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request):
    path = WORKSPACES / request.param
    if not path.is_file():
        pytest.skip(f"no {request.param} in the shared data")
    workspace = pyhf.Workspace(json.loads(path.read_text()))
    pdf = workspace.model(poi_name=None, modifier_settings=SETTINGS)
    return pdf, np.array(workspace.data(pdf)), compile_term(pdf, np.array(workspace.data(pdf)))


def around_start(pdf, rng, spread):
    start, (low, high) = np.array(pdf.config.suggested_init()), np.array(pdf.config.suggested_bounds()).T
    return np.clip(start + rng.normal(0, spread, len(start)), low + 0.01, high)


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.2])
def test_published_rates_and_twice_nll_are_pyhfs(published, rng, spread):
    pdf, data, term = published
    for _ in range(3):
        theta = around_start(pdf, rng, spread)
        nu = term.rates.nu(theta)
        rate = np.concatenate(
            [nu[term.rates.cells(c)].reshape(-1, b).sum(0) for c, (_, _, b) in term.rates.channels.items()]
        )
        np.testing.assert_allclose(rate, pdf.expected_data(theta, include_auxdata=False), rtol=1e-12)
        assert term.value(nu, theta) == pytest.approx(-2 * float(pdf.logpdf(theta, data)[0]), rel=1e-9)


def test_published_derivatives_are_differences(published, rng):
    pdf, _, term = published
    theta = around_start(pdf, rng, 0.2)
    value, gradient, hessian = evaluate(term, theta)
    assert value == pytest.approx(term.value(term.rates.nu(theta), theta), rel=1e-14)
    np.testing.assert_array_equal(hessian, hessian.T)
    h = 1e-5
    steps = h * np.eye(len(theta))
    up, down = ([evaluate(term, theta + sign * s, hessian=False) for s in steps] for sign in (1, -1))
    scale = np.sqrt(np.abs(np.diag(hessian)) + 1)
    numeric = np.array([(a[0] - b[0]) / (2 * h) for a, b in zip(up, down, strict=True)])
    np.testing.assert_allclose(gradient / scale, numeric / scale, atol=1e-5)
    numeric = np.array([(a[1] - b[1]) / (2 * h) for a, b in zip(up, down, strict=True)])
    np.testing.assert_allclose(hessian / np.outer(scale, scale), numeric / np.outer(scale, scale), atol=1e-6)


def test_threads_do_not_disturb_each_other(published, rng):
    pdf, _, term = published
    points = [around_start(pdf, rng, 0.2) for _ in range(16)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda theta: evaluate(term, theta), points))
    for theta, (value, gradient, hessian) in zip(points, together, strict=True):
        alone = evaluate(term, theta)
        assert value == alone[0]
        np.testing.assert_array_equal(gradient, alone[1])
        np.testing.assert_array_equal(hessian, alone[2])


# --- Poisson terms where the rate is small or negative


def one_bin(rate, n, threshold=1e-3):
    one = np.zeros(1, dtype=np.int64)
    value, first, second = poisson_bins(
        np.array([0, 1]), one, np.array([rate]), one, np.array([n]), np.array([threshold])
    )
    return value, first[0], second[0]


@pytest.mark.parametrize("rate", [2.0, 1e-3, 5e-4, 0.0, -0.4])
def test_the_logarithm_is_continued_as_that_of_densities(rate):
    n = 3.0
    value, first, second = one_bin(rate, n)
    log, log1, log2 = (float(x[0]) for x in extended_log(np.array([rate]), 1e-3))
    assert value == pytest.approx(2 * (rate - n * log) - 2 * (n - n * np.log(n)), rel=1e-12)
    assert first == pytest.approx(2 * (1 - n * log1), rel=1e-12)
    assert second == pytest.approx(-2 * n * log2, rel=1e-12)


@pytest.mark.parametrize("n", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("rate", [0.7, 1e-3, 1e-3 - 1e-9, 2e-4, 0.0, -1e-9, -2e-3])
def test_a_bin_is_twice_differentiable_everywhere(rate, n):
    h = 1e-8
    low, here, high = (one_bin(rate + s, n) for s in (-h, 0, h))
    for order in (0, 1):
        # at a seam the third derivative jumps: n / threshold^3 at most
        assert (high[order] - low[order]) / (2 * h) == pytest.approx(here[order + 1], rel=1e-4, abs=20 * h / 1e-3**3)


def test_an_empty_bin_keeps_its_rate_from_running_below_zero():
    assert one_bin(0.0, 0.0) == (0.0, 2.0, 0.0)
    assert one_bin(-1.0, 0.0)[0] > 1e8


def test_nan_stays_nan():
    for n in (0.0, 2.0):
        assert np.isnan(one_bin(np.nan, n)[0])


def test_large_counts_keep_their_digits():
    """A shift of 1e-3 standard deviations at a billion events, which the logarithm of a factorial would swallow."""
    n = 1e9
    assert one_bin(n + 1e-3 * np.sqrt(n), n)[0] == pytest.approx(1e-6, rel=0.2)
    assert np.isfinite(saturated(np.array([0.0, 0.5, n])))


# --- data sets


def test_bins_without_counts_are_left_to_others():
    pdf = pyhf.Workspace(analytic.binned_spec()).model()
    rates, constraints = HistFactory.compile(pdf), Constraints.compile(pdf.config)
    aux, theta = np.array(pdf.config.auxdata), np.array(pdf.config.suggested_init())
    a, b, both, none = (
        BinnedTerm.compile(rates, constraints, counts, aux, 1e-8)
        for counts in (
            {"A": np.array([11.0, 23.0])},
            {"B": np.array([101.0, 130.0, 95.0])},
            {"B": np.array([101.0, 130.0, 95.0]), "A": np.array([11.0, 23.0])},
            {},
        )
    )
    for part in range(3):
        x, y, total, constraint = (evaluate(t, theta)[part] for t in (a, b, both, none))
        np.testing.assert_allclose(x + y - constraint, total, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(evaluate(none, theta)[1], constraints.twice_nll(theta, aux)[1])


def test_counts_and_points_of_another_model_are_refused():
    pdf = pyhf.Workspace(analytic.binned_spec()).model()
    rates, constraints = HistFactory.compile(pdf), Constraints.compile(pdf.config)
    with pytest.raises(InvalidModel, match="channel 'A' has 2 bins"):
        BinnedTerm.compile(rates, constraints, {"A": np.ones(3)}, np.array(pdf.config.auxdata), 1e-8)
    with pytest.raises(InvalidModel, match=f"need {rates.n_parameters} parameters"):
        rates.nu(np.ones(3))
    here = rates.rates(np.array(pdf.config.suggested_init()))
    with pytest.raises(InvalidModel, match="as many weights"):
        here.gradient(np.ones(3))
    with pytest.raises(InvalidModel, match="5 bins"):
        here.curvature(np.ones(len(here.nu)), np.ones(3))


def test_a_shapefactor_with_too_few_parameters_is_refused():
    """pyhf sizes it by the first channel and takes parameter 0 for the bins beyond."""

    def channel(name, bins):
        modifiers = [{"name": "free", "type": "shapefactor", "data": None}]
        return {"name": name, "samples": [{"name": "s", "data": [1.0] * bins, "modifiers": modifiers}]}

    HistFactory.compile(pyhf.Model({"channels": [channel("a", 3), channel("b", 2)]}, poi_name=None))
    with pytest.raises(InvalidModel, match="channel 'b' has 3 bins, but shapefactor 'free'"):
        HistFactory.compile(pyhf.Model({"channels": [channel("a", 2), channel("b", 3)]}, poi_name=None))
