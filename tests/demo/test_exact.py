import numpy as np
import pytest
from iminuit import Minuit
from scipy.stats import poisson

from nuratio.demo.drellyan import CR, SR, densities, density, efficiency_factor, integrate, yields
from nuratio.demo.exact import ExactLikelihood
from nuratio.demo.generator import pseudo_experiment
from nuratio.errors import InvalidData, InvalidModel, NonPositiveDensity
from nuratio.infer.fitting.fit import fit

POINTS = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.4, 0.8, -0.6), (0.3, -1.5, 2.0)]


@pytest.fixture(scope="module")
def exact():
    return ExactLikelihood.from_events(**pseudo_experiment(1.0, np.random.default_rng(11)))


def minimise(exact, data, start=(0.5, 0.3, -0.3)):
    objective = exact.likelihood(data)
    m = Minuit(objective.value, np.array(start), grad=objective.gradient, name=exact.config.par_names)
    m.errordef, m.limits = 1, exact.config.suggested_bounds()
    m.migrad()
    m.hesse()
    assert m.valid
    return m


@pytest.mark.parametrize("theta", POINTS)
def test_value_is_the_extended_likelihood(exact, theta):
    kappa, mass_scale, efficiency = theta
    data = exact.data
    data[-2:] = 0.4, -1.1
    factor = efficiency_factor(efficiency)[0]

    def total(function, *args):
        parts = (function(c, *args, mass_scale) for c in ("sm", "interference", "newphys"))
        return factor * sum(kappa**power * part for power, part in enumerate(parts))

    expected = 2 * (total(integrate, SR)[0] - np.log(total(density, *exact.events)).sum())
    expected -= 2 * poisson.logpmf(exact.counts, total(integrate, CR)).sum()
    expected += (mass_scale - 0.4) ** 2 + (efficiency + 1.1) ** 2
    assert exact.twice_nll(theta, data) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("theta", POINTS)
def test_derivatives_are_those_of_the_value(exact, theta):
    theta = np.array(theta)
    data = exact.expected_data([0.7, 0.2, -0.1])
    steps = 1e-3 * np.eye(3)
    slope = [(exact.twice_nll(theta + h, data) - exact.twice_nll(theta - h, data)) / 2e-3 for h in steps]
    curvature = [(exact.gradient(theta + h, data) - exact.gradient(theta - h, data)) / 2e-3 for h in steps]
    assert exact.gradient(theta, data) == pytest.approx(np.array(slope), rel=1e-5, abs=1e-4)
    assert exact.hessian(theta, data) == pytest.approx(np.array(curvature), rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("theta", POINTS)
def test_score_of_asimov_data_vanishes_where_it_was_made(exact, theta):
    assert exact.gradient(theta, exact.expected_data(theta)) == pytest.approx(np.zeros(3), abs=1e-6)
    assert np.abs(exact.gradient(theta, exact.expected_data(np.add(theta, [0.01, 0, 0])))).max() > 0.1


def test_asimov_data_hold_the_expected_events(exact):
    kappa, mass_scale, efficiency = theta = (1.3, 0.5, -1.2)
    data = exact.expected_data(theta)
    mixture, factor = np.array([1, kappa, kappa**2]), efficiency_factor(efficiency)[0]
    slices = exact.config.channel_slices
    assert data[slices["CR"]] == pytest.approx(factor * mixture @ yields(CR, mass_scale), rel=1e-13)
    assert data[slices["SR"]].sum() == pytest.approx((factor * mixture @ yields(SR, mass_scale))[0], rel=1e-8)
    assert data[-2:].tolist() == [mass_scale, efficiency]
    assert len(data) == exact.config.nmaindata + exact.config.nauxdata


def test_asimov_likelihood_has_converged_in_the_quadrature(exact):
    """2 Delta NLL of the Asimov data against an integral with many more nodes."""
    truth, theta = np.array([1.0, 0.0, 0.0]), np.array([2.5, 0.0, 0.0])
    rules = [np.polynomial.legendre.leggauss(n) for n in (160, 30, 24)]
    half = [np.log(10) / 2, 1.4, 1.0]
    t, y, c = (h * x for h, (x, _) in zip(half, rules, strict=True))
    m = np.exp(np.log(900_000) / 2 + t)
    values = densities(m[:, None, None], y[:, None], c)
    weights = np.einsum("m,y,c->myc", *(h * w for h, (_, w) in zip(half, rules, strict=True))) * m[:, None, None]
    before, after = (np.einsum("c,c...->...", [1, k, k**2], values) for k in (truth[0], theta[0]))
    lam, lam_after = ([1, k, k**2] @ yields(CR) for k in (truth[0], theta[0]))
    expected = 2 * (weights * (after - before - before * np.log(after / before))).sum()
    expected += 2 * (lam_after - lam - lam * np.log(lam_after / lam)).sum()
    data = exact.expected_data(truth)
    assert exact.twice_nll(theta, data) - exact.twice_nll(truth, data) == pytest.approx(expected, abs=1e-6)


def test_asimov_fit_returns_the_truth(exact):
    m = minimise(exact, exact.expected_data([1.0, 0.0, 0.0]))
    assert 0.2 < m.errors["kappa"] < 0.3
    assert abs(m.values["kappa"] - 1) < 1e-3 * m.errors["kappa"]
    assert m.errors["mass_scale"] < 0.6  # the control region constrains it


def test_fits_of_pseudo_experiments_cover_the_truth():
    """2 Delta NLL of the truth is chi2-distributed with three degrees of freedom."""
    rng, toys, drop, wrong = np.random.default_rng(12), 12, 0.0, 0.0
    for _ in range(toys):
        truth = np.array([1.5, *rng.normal(size=2)])
        events = pseudo_experiment(truth[0], rng, mass_scale=truth[1], efficiency=truth[2])
        exact = ExactLikelihood.from_events(**events)
        data = exact.data
        data[-2:] = truth[1:] + rng.normal(size=2)
        minimum = minimise(exact, data, truth).fval
        drop += exact.twice_nll(truth, data) - minimum
        wrong += exact.twice_nll(np.add(truth, [1.0, 0.0, 0.0]), data) - minimum
    assert abs(drop - 3 * toys) < 4 * np.sqrt(6 * toys)
    assert abs(wrong - 3 * toys) > 4 * np.sqrt(6 * toys)


def test_nuratio_fits_it_like_a_model(exact):
    result = fit(exact, exact.data, minos=["kappa"])
    m = minimise(exact, exact.data)
    assert result.valid
    assert result.bestfit == pytest.approx(np.array(m.values), abs=5e-3 * m.errors["kappa"])
    assert result.constraint_width[1:].tolist() == [1, 1]


def test_only_events_with_a_weight_count(exact):
    data = exact.data
    assert len(exact.likelihood(data).points.T) == len(exact.events.T)
    other = ExactLikelihood(exact.events[:, :0], exact.counts)
    theta = (1.2, 0.3, 0.1)
    assert other.twice_nll(theta, other.expected_data(theta)) == exact.twice_nll(theta, exact.expected_data(theta))


def test_from_events_selects_the_regions():
    mll = np.array([160.0, 175.0, 299.0, 300.0, 2999.0, 3100.0])
    exact = ExactLikelihood.from_events(mll, np.zeros(6), np.zeros(6))
    assert exact.counts.tolist() == [1, 0, 0, 0, 0, 1]
    assert exact.events[0].tolist() == [300.0, 2999.0]


def test_impossible_data_are_refused(exact):
    with pytest.raises(InvalidData, match=r"1 of 2 events.*event 1"):
        ExactLikelihood(np.array([[400.0, 200.0], [0, 0], [0, 0]]), exact.counts)
    with pytest.raises(InvalidData, match="6 bins"):
        ExactLikelihood(exact.events, exact.counts[1:])
    with pytest.raises(InvalidModel, match="auxiliary"):
        exact.twice_nll([1.0, 0.0, 0.0], exact.data[1:])
    edge = ExactLikelihood(np.array([[2999.0], [1.399], [0.0]]), exact.counts)
    with pytest.raises(NonPositiveDensity, match="mass_scale above -5"):
        edge.twice_nll([1.0, -8.0, 0.0], edge.data)
