"""Losses and their inverses, on tables of cells where the ratio is known."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from nuratio.errors import InvalidData, UnknownName
from nuratio.ratios.losses import LOSSES, LSIF, PARE, make_loss

P0 = np.array([0.1, 0.2, 0.3, 0.2, 0.1, 0.1])
P1 = np.array([-0.12, 0.05, 0.25, 0.42, 0.30, 0.10])  # negative in the first cell: r = -1.2
ALL = [make_loss(name) for name in LOSSES]
ANY_SIGN = [make_loss(name) for name in LOSSES if name not in ("bce", "mse")]


def output(loss, *ratios):
    u = loss.output(torch.tensor(ratios, dtype=torch.float64))
    return u if len(ratios) > 1 else u[0]


def minimum(loss, p0, p1):
    """Output at the minimum of the risk, cell by cell, from r = 1."""

    def risk(u):
        t = torch.tensor(u, requires_grad=True)
        total = (torch.tensor(p0) * loss.denominator(t) + torch.tensor(p1) * loss.numerator(t)).sum()
        (gradient,) = torch.autograd.grad(total, t)
        return float(total.detach()), gradient.numpy()

    start = np.full(len(p0), float(output(loss, 1.0)))
    return minimize(risk, start, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 2000})


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_minimising_the_loss_recovers_positive_ratios(loss):
    p1 = np.abs(P1)
    found = loss.ratio(torch.tensor(minimum(loss, P0, p1).x)).numpy()
    np.testing.assert_allclose(found, p1 / P0, rtol=1e-6)


@pytest.mark.parametrize("loss", [*ANY_SIGN, *(PARE(rho) for rho in (1.2, 1.5, 2.0))], ids=str)
def test_minimising_the_loss_recovers_negative_ratios(loss):
    found = loss.ratio(torch.tensor(minimum(loss, P0, P1).x)).numpy()
    np.testing.assert_allclose(found, P1 / P0, atol=1e-6)


@pytest.mark.parametrize("rho", [1.0, 1.05])
def test_below_the_pole_the_minimisation_runs_away(rho):
    """r = -1.2 in the first cell, poles at -1 and -1.1."""
    found = minimum(PARE(rho), P0, P1)
    assert found.fun < -1e5
    ratios = PARE(rho).ratio(torch.tensor(found.x)).numpy()
    assert not np.allclose(ratios, P1 / P0, atol=0.1)


@pytest.mark.parametrize("loss", [*ALL, PARE(1.05)], ids=str)
def test_the_risk_has_a_minimum_just_where_the_ratio_is_above_the_pole(loss):
    """Below the pole it falls without end, on one side at least."""
    far = torch.tensor([-1e6, -500.0, 500.0, 1e6], dtype=torch.float64)
    if loss in (make_loss("sinh"),):
        far = far[1:3]  # cosh
    r = P1[0] / P0[0]
    risk = loss.denominator(far) + r * loss.numerator(far)
    if loss.pole < r:
        at = output(loss, r)
        assert float(risk.min()) > float(loss.denominator(at) + r * loss.numerator(at))
    else:
        assert float(risk.min()) < -1e4


@pytest.mark.parametrize("loss", ALL, ids=str)
@pytest.mark.parametrize("r", [-3.0, -0.5, 0.0, 0.02, 1.0, 4.0, 50.0])
def test_outputs_and_ratios_are_inverse(loss, r):
    if r <= loss.pole:
        return
    u = output(loss, r)
    assert float(loss.ratio(u)) == pytest.approx(r, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_the_minimum_is_where_the_ratio_says(loss):
    """d L0/du + r dL1/du = 0 at u(r), and the second derivative is positive there."""
    for r in (-0.5, 0.3, 1.0, 6.0):
        if r <= loss.pole:
            continue
        u = output(loss, r).requires_grad_()
        total = loss.denominator(u) + r * loss.numerator(u)
        (first,) = torch.autograd.grad(total, u, create_graph=True)
        (second,) = torch.autograd.grad(first, u)
        assert abs(float(first.detach())) < 1e-9
        assert float(second.detach()) > 0


def test_pare_with_a_far_pole_is_lsif():
    """Differences of the standardised risk: E0[v^2] / 2 - E1[v] + O(1 / rho^2)."""
    u = torch.linspace(-2, 5, 50, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    far, lsif = PARE(1e4), LSIF()
    for name in ("denominator", "numerator"):
        ours, theirs = getattr(far, name), getattr(lsif, name)
        scale = 1 + 1e-8
        shift = ours(u) - ours(one) - (theirs(u) - theirs(one))
        slope = shift / (u - 1 + 1e-12)
        assert float((slope.max() - slope.min()).abs()) < 1e-3 * scale  # a linear term moves between the two classes


def test_the_published_excess_risk_of_pare():
    """Excess of v instead of r: p0 rho^2 (1 + rho)^2 (v - r)^2 / [(rho^2 + v)^2 (rho^2 + r)], arXiv:2410.10216."""
    r, v = 0.7, -0.4
    for rho in (1.0, 2.0, 10.0):
        loss = PARE(rho)
        u = output(loss, r, v)
        risk = loss.denominator(u) + r * loss.numerator(u)
        expected = rho**2 * (1 + rho) ** 2 * (v - r) ** 2 / ((rho**2 + v) ** 2 * (rho**2 + r))
        scale = 2 * (rho * (1 + rho) / (1 + rho**2) ** 2) ** 2 * (1 + rho**2)
        assert float(risk[1] - risk[0]) * scale == pytest.approx(expected, rel=1e-9)


def test_an_output_beyond_every_ratio_is_infinite():
    loss = PARE(2.0)
    assert loss.ratio(output(loss, 1e6) + 1.0).isinf()


def test_wrong_requests_are_named():
    with pytest.raises(UnknownName, match="no loss 'pear'; did you mean 'pare'"):
        make_loss("pear")
    with pytest.raises(InvalidData, match=r"loss 'lsif'.*rho"):
        make_loss("lsif", rho=2.0)
    with pytest.raises(InvalidData, match="positive, finite rho"):
        PARE(-1.0)
    assert PARE(2.0).output(torch.tensor([-5.0, -4.0])).isnan().all()
