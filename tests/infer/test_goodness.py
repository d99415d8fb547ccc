import math

import numpy as np
import pyhf
import pytest
from rewriting import rewritten
from scipy.stats import chi2, poisson

import analytic
from nuratio.errors import InvalidModel, NonPositiveDensity
from nuratio.infer.fitting.fit import fit
from nuratio.infer.goodness import goodness
from nuratio.infer.goodness.goodness import goodness_of_fit
from nuratio.infer.results import load_result
from nuratio.model.model import Model
from nuratio.parallel.tasks import Serial

BINS = {"SR": ("x", np.linspace(0, 10, 9))}


def deviance(n, rate):
    return 2 * (rate - n + n * math.log(n / rate)) if n else 2 * rate


def test_a_counting_experiment_is_a_closed_form():
    pdf = pyhf.Workspace(analytic.counting(63)).model()
    best = fit(pdf, [63.0], fixed={"mu": 0.0})
    result = goodness_of_fit(pdf, [63.0], best, n_toys=1000, executor=Serial())
    assert result.statistic == pytest.approx(deviance(63, 50), rel=1e-12)
    assert (result.bins, result.free_parameters, result.constraints) == (1, 0, 0.0)
    assert result.asymptotic_p_value == pytest.approx(chi2.sf(result.statistic, 1), rel=1e-9)
    counts = np.arange(200)
    as_bad = [deviance(n, 50) >= result.statistic * (1 - 1e-12) for n in counts]
    exact = poisson.pmf(counts[as_bad], 50).sum()
    assert abs(result.p_value - exact) < 4 * result.p_value_error
    assert result.p_value_error == pytest.approx(math.sqrt(exact * (1 - exact) / 1000), rel=0.3)
    # the parameter was free: nothing is left to be tested
    free = goodness_of_fit(pdf, [63.0], fit(pdf, [63.0]), n_toys=0)
    assert free.statistic == pytest.approx(0, abs=1e-9)
    assert math.isnan(free.asymptotic_p_value)
    assert math.isnan(free.p_value)


def test_the_statistic_is_the_likelihood_ratio_to_the_saturated_model():
    pdf = pyhf.Workspace(analytic.binned_spec()).model()
    data = np.array([11, 23, 101, 130, 95, *pdf.config.auxdata], dtype=float)
    best = fit(pdf, data)
    result = goodness_of_fit(Model.from_pyhf(pdf), data, best, n_toys=0)
    aux = data[5:]
    at_aux = np.where(np.isnan(best.constraint_center), best.bestfit, best.constraint_center)
    saturated = poisson.logpmf(data[:5], data[:5]).sum() + pdf.constraint_logpdf(aux, at_aux)
    assert result.statistic == pytest.approx(best.twice_nll + 2 * saturated, abs=1e-8)
    assert result.statistic == pytest.approx(sum(result.channels.values()) + result.constraints)
    assert set(result.channels) == {"A", "B"}


@pytest.mark.parametrize("per_bin", [True, False])
def test_an_unbinned_channel_of_one_event_per_bin_is_the_binned_one(per_bin):
    model, unbinned, edges = rewritten(per_bin)
    data = np.array([11, 23, 101, 130, 95, *model.config.auxdata], dtype=float)
    best = fit(model, data)
    binned = goodness_of_fit(model, data, best, n_toys=0)
    projected = goodness_of_fit(unbinned, data, best, edges, n_toys=1, executor=Serial())
    assert projected.statistic == pytest.approx(binned.statistic, rel=1e-6)
    assert projected.channels == pytest.approx(binned.channels, rel=1e-6, abs=1e-9)
    assert projected.constraints == pytest.approx(binned.constraints, rel=1e-9)
    assert math.isnan(projected.asymptotic_p_value)


def data_at_truth(seed, pool):
    """Data of the generating model, auxiliary ones too."""
    ws = analytic.workspace(pool=pool, seed=seed)
    rng, model = np.random.default_rng([seed, 1]), ws.model()
    data = ws.data(model)
    data[model.config.channel_slices["CR"]] = rng.poisson([100, 120])
    truth = np.array(model.config.suggested_init())
    data[model.config.nmaindata :] = model.constraints.sample(model.parameters.values(truth), rng)
    return model, data


def p_values(n, toys, pool):
    found = []
    for seed in range(n):
        model, data = data_at_truth(seed, pool)
        found.append(goodness_of_fit(model, data, fit(model, data), BINS, n_toys=toys, executor=Serial()).p_value)
    return np.array(found)


def test_p_values_are_uniform_however_small_the_pool(monkeypatch):
    n, toys, pool = 24, 19, 500
    p = p_values(n, toys, pool)  # half as many simulated events as real ones
    assert abs(p.mean() - (toys + 2) / (toys + 1) / 2) < 4 / math.sqrt(12 * n)
    assert abs(np.mean(p <= 0.5) - 0.5) < 4 * math.sqrt(0.25 / n)
    monkeypatch.setattr(goodness, "_other_pool", lambda channel, rng: channel)
    assert p_values(n, toys, pool).mean() < 0.5 - 4 / math.sqrt(12 * n)  # without the pool's error they are too small


def test_a_wrong_model_has_a_small_p_value():
    rng = np.random.default_rng(3)
    bump = np.concatenate([analytic.draw_background(rng, 1000), rng.normal(5, 1, 60), rng.normal(8, 0.3, 60)])
    ws = analytic.workspace(observed=bump)
    model = ws.model()
    data = ws.data(model)
    result = goodness_of_fit(model, data, fit(model, data), BINS, n_toys=49, executor=Serial())
    assert result.p_value == 1 / 50
    assert result.channels["SR"] > 0.8 * result.statistic
    elsewhere = goodness_of_fit(
        model, data, fit(model, data), {"SR": ("x", np.linspace(0, 6, 7))}, n_toys=49, executor=Serial()
    )
    assert elsewhere.p_value > result.p_value  # the bump is not looked at
    # signal that the fit was not allowed to see
    ws = analytic.workspace(mu=4.0)
    model = ws.model()
    data = ws.data(model)
    background = fit(model, data, fixed={"mu": 0.0})
    assert goodness_of_fit(model, data, background, BINS, n_toys=49, executor=Serial()).p_value == 1 / 50
    assert goodness_of_fit(model, data, fit(model, data), BINS, n_toys=49, executor=Serial()).p_value > 1 / 50


def test_toys_do_not_depend_on_their_number_and_come_back_from_json(analytic_model):
    model, data = analytic_model
    best = fit(model, data)
    few, many, others = (
        goodness_of_fit(model, data, best, BINS, n_toys=n, seed=seed, executor=Serial())
        for n, seed in ((3, 1), (6, 1), (3, 2))
    )
    np.testing.assert_array_equal(few.toys, many.toys[:3])
    assert not np.any(few.toys == others.toys)
    assert few.statistic == others.statistic
    assert few.projections["SR"]["feature"] == "x"
    assert few.projections["SR"]["edges"] == BINS["SR"][1].tolist()
    assert load_result(few.to_json()).to_json() == few.to_json()
    assert few.bins == 10
    assert few.free_parameters == 1


def test_toys_that_cannot_be_fitted_are_reported(analytic_model, monkeypatch):
    model, data = analytic_model
    best, calls = fit(model, data), []

    def refit(*args, **options):
        calls.append(options)
        return fit(*args, **options, max_calls=1 if len(calls) == 2 else 1000)

    monkeypatch.setattr(goodness, "refit", refit)
    result = goodness_of_fit(model, data, best, BINS, n_toys=4, executor=Serial())
    assert len(result.toys) == 3
    assert not result.valid
    assert result.message.startswith("1 of 4 toy fits, the first: ")
    assert "call limit" in result.message
    assert result.p_value * 4 == pytest.approx(1 + np.count_nonzero(result.toys >= result.statistic))
    bad = fit(model, data, max_calls=1)
    assert "the fit: " in goodness_of_fit(model, data, bad, BINS, n_toys=1, executor=Serial()).message


def test_what_cannot_be_tested_is_said(analytic_model):
    model, data = analytic_model
    best = fit(model, data)
    with pytest.raises(InvalidModel, match="stored features: x"):
        goodness_of_fit(model, data, best)
    with pytest.raises(InvalidModel, match="n_toys = 0"):
        goodness_of_fit(model, data, best, BINS, n_toys=0)
    ws = analytic.workspace(observed=np.append(np.linspace(0.1, 9, 1000), 9.99999))
    lonely = ws.model()
    data = ws.data(lonely)
    with pytest.raises(
        NonPositiveDensity, match=r"1 events in bin 1 of channel 'SR', where 0 are expected.*4000 events"
    ):
        goodness_of_fit(lonely, data, fit(lonely, data), {"SR": ("x", [0.0, 9.9999, 10.0])})
