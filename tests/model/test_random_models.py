"""Rates and binned likelihoods of random models: the numbers are pyhf's, the derivatives those of a twin in torch."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyhf_models import SETTINGS, build, points, specs, twin_rates, twin_twice_nll

from nuratio.model.binned import BinnedTerm
from nuratio.model.constraints import Constraints
from nuratio.model.histfactory import HistFactory

SEEDS = st.integers(0, 2**32 - 1)


def profile(examples):
    # examples are small as they come: no search for smaller ones, which takes minutes
    generate = (Phase.explicit, Phase.generate)
    return settings(derandomize=True, deadline=None, database=None, phases=generate, max_examples=examples)


def bin_rates(rates, nu):
    return np.concatenate([nu[rates.cells(c)].reshape(-1, b).sum(0) for c, (_, _, b) in rates.channels.items()])


def term(pdf, main, aux):
    rates = HistFactory.compile(pdf)
    counts = {channel: main[where] for channel, where in rates.bins.items()}
    return BinnedTerm.compile(rates, Constraints.compile(pdf.config), counts, aux, 1e-100)


def draw_data(pdf, rng):
    """Counts near the expectation, some bins empty; auxiliary data off their centres."""
    main = rng.poisson(pdf.expected_data(pdf.config.suggested_init(), include_auxdata=False)).astype(float)
    return main, np.array(pdf.config.auxdata) * rng.uniform(0.9, 1.1, pdf.config.nauxdata)


def positive(pdf, theta):
    """No bin without expectation (pyhf has no number there), no Poisson constraint at zero."""
    aux = [pdf.config.param_set(n).pdf_type == "poisson" for n in pdf.config.auxdata_order]
    names = [n for n, poisson in zip(pdf.config.auxdata_order, aux, strict=True) if poisson]
    gammas = [theta[pdf.config.par_slice(n)] for n in names]
    return (pdf.expected_data(theta, include_auxdata=False) > 0).all() and all((g > 0).all() for g in gammas)


@pytest.mark.parametrize("codes", SETTINGS, ids=lambda s: "-".join(v["interpcode"] for v in s.values()))
@profile(20)
@given(spec=specs(), seed=SEEDS)
def test_rates_and_twice_nll_are_pyhfs(codes, spec, seed):
    rng = np.random.default_rng(seed)
    pdf = build(spec, codes)
    main, aux = draw_data(pdf, rng)
    binned = term(pdf, main, aux)
    for theta in points(pdf, rng):
        nu = binned.rates.nu(theta)
        oracle = pdf.expected_data(theta, include_auxdata=False)
        # shifts of 400 events may cancel to nothing
        np.testing.assert_allclose(bin_rates(binned.rates, nu), oracle, rtol=1e-12, atol=1e-11)
        np.testing.assert_array_equal(binned.rates.rates(theta).nu, nu)
        if positive(pdf, theta):
            expected = -2 * float(pdf.logpdf(theta, np.concatenate([main, aux]))[0])
            assert binned.value(nu, theta) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("codes", SETTINGS, ids=lambda s: "-".join(v["interpcode"] for v in s.values()))
@profile(4)
@given(spec=specs(), seed=SEEDS)
def test_rate_derivatives_are_autograds(codes, spec, seed):
    """Of a weighted sum of cells and of squared bins: exact also where factors vanish."""
    rng = np.random.default_rng(seed)
    pdf = build(spec, codes)
    rates = HistFactory.compile(pdf)
    weight, square = rng.normal(size=len(rates.nominal)), rng.normal(size=len(rates.scale))

    def twin(theta):
        parts = list(twin_rates(pdf, codes, theta).values())
        cells, bins = torch.cat([p.ravel() for p in parts]), torch.cat([p.sum(0) for p in parts])
        return (torch.tensor(weight) * cells).sum(), (torch.tensor(square) * (bins - bins.detach()) ** 2 / 2).sum()

    for theta in points(pdf, rng):
        x = torch.tensor(theta, requires_grad=True)
        gradient = torch.autograd.grad(twin(x)[0], x)[0].numpy()
        hessian = torch.autograd.functional.hessian(lambda t: sum(twin(t)), x.detach()).numpy()
        here = rates.rates(theta)
        scale = 1 + np.abs(hessian).max()
        np.testing.assert_allclose(here.gradient(weight), gradient, rtol=1e-11, atol=1e-11 * scale)
        np.testing.assert_allclose(weight @ here.jacobian, gradient, rtol=1e-11, atol=1e-11 * scale)
        np.testing.assert_allclose(here.curvature(weight, square), hessian, rtol=1e-10, atol=1e-11 * scale)


@pytest.mark.parametrize("codes", SETTINGS, ids=lambda s: "-".join(v["interpcode"] for v in s.values()))
@profile(4)
@given(spec=specs(), seed=SEEDS)
def test_likelihood_derivatives_are_autograds_and_differences(codes, spec, seed):
    rng = np.random.default_rng(seed)
    pdf = build(spec, codes)
    main, aux = draw_data(pdf, rng)
    binned = term(pdf, main, aux)
    for theta in points(pdf, rng):
        theta = theta + 1e-3  # off the kinks, for the differences
        if not positive(pdf, theta):
            continue
        value, gradient, hessian = binned.derivatives(binned.rates.rates(theta), theta, hessian=True)
        assert value == pytest.approx(binned.value(binned.rates.nu(theta), theta), rel=1e-13)
        x = torch.tensor(theta, requires_grad=True)
        twin = twin_twice_nll(pdf, codes, x, main, aux)
        assert value == pytest.approx(float(twin.detach()), rel=1e-10, abs=1e-10)
        exact = torch.autograd.functional.hessian(
            lambda t: twin_twice_nll(pdf, codes, t, main, aux), x.detach()
        ).numpy()
        scale = 1 + np.abs(np.diag(exact)).max()
        np.testing.assert_allclose(gradient, torch.autograd.grad(twin, x)[0].numpy(), rtol=1e-9, atol=1e-11 * scale)
        np.testing.assert_allclose(hessian, exact, rtol=1e-9, atol=1e-11 * scale)

        h = 1e-6
        differences = np.array(
            [
                binned.derivatives(binned.rates.rates(theta + s), theta + s, hessian=False)[1]
                - binned.derivatives(binned.rates.rates(theta - s), theta - s, hessian=False)[1]
                for s in h * np.eye(len(theta))
            ]
        ) / (2 * h)
        if theta.min() > 0.1:  # third derivatives are not small where a rate is
            np.testing.assert_allclose(hessian, differences, rtol=1e-4, atol=1e-6 * scale)
