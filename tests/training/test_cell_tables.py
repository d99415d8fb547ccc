"""What each method learns, on a table of cells with the outputs of a cell as free parameters: no networks, no noise."""

import numpy as np
import pytest
import torch

from nuratio.data.sample import EventSample
from nuratio.ratios.losses import LOSSES, make_loss
from nuratio.training.baselines import BIAS
from nuratio.training.objective import SimulatedEvents
from nuratio.training.refine import refined
from nuratio.training.train import METHODS, _objective

Q = np.array([0.1, 0.2, 0.3, 0.2, 0.1, 0.1])  # a positive sample
A = np.array([0.05, 0.25, 0.50, 0.60, 0.40, 0.30])  # the parts of a signed one
B = np.array([0.17, 0.20, 0.25, 0.18, 0.10, 0.20])  # negative in the first cell


def table(a=A, b=B):
    cells = np.arange(len(Q), dtype=float)
    signed = EventSample(np.r_[cells, cells], np.r_[a, -b])
    return SimulatedEvents.of({"flat": EventSample(cells, Q), "signed": signed}, None, np.float64)


def learned(events, objective):
    """Ratios (cells, K) at the minimum over the outputs of each cell."""
    cell = events.x[:, 0].long()
    outputs = torch.tensor(objective.start, dtype=torch.float64).repeat(len(Q), 1)
    outputs = outputs.repeat(objective.groups, 1, 1).requires_grad_()
    models = 1 if objective.joint else objective.groups
    rows = torch.arange(len(cell)).repeat(models, 1)
    optimiser = torch.optim.LBFGS(
        [outputs], max_iter=4000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def risk():
        optimiser.zero_grad()
        of_models = outputs[..., 0].T[None] if objective.joint else outputs
        total = objective.cost(of_models[:, cell], rows, torch.arange(models)).sum()
        total.backward()
        return total

    optimiser.step(risk)
    return objective.head.ratios(objective.head.mean(outputs.detach()).numpy())


def q_of(a, b):
    return (Q + (a + b) / (a + b).sum()) / 2


def expected(method, a=A, b=B):
    """The signed sample's ratio, or what the method has in its place."""
    q, w, gross = q_of(a, b), (a - b).sum(), (a + b).sum()
    if method in BIAS:
        flat, plus, minus = Q / 2, a / gross / 2, b / gross / 2  # of the pooled mixture
        complementary = plus / (plus + flat + minus)
        return {
            "bce_abs": (a + b) / gross / q,
            "bce_drop": a / a.sum() / q,
            "bce_flip": a / w / (q + b / w),
            "ccl": complementary / 0.5,
            "ccl_shared": complementary / 0.5,
        }[method]
    return (a - b) / w / q


def signed_column(events, objective, ratios):
    """The ratio of the signed sample from those of the components."""
    own = [k for k, part in enumerate(objective.components) if part.sample == "signed"]
    totals = np.array([objective.components[k].total for k in own])
    return ratios[:, own] @ totals / totals.sum()


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("bce_signed", "mse_signed", "linear", "auto")])
def test_each_method_learns_what_it_says(method):
    events = table()
    objective = _objective(method, {}, events)
    found = signed_column(events, objective, learned(events, objective))
    np.testing.assert_allclose(found, expected(method), atol=1e-6)
    assert (np.abs(expected(method) - expected("mixture")).max() > 0.1) == (method in BIAS)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("bce", "mse")])
def test_refined_under_a_loss_the_signed_mixture_is_exact(name, separate):
    events = table()
    objective = refined(events, make_loss(name), separate=separate)
    found = signed_column(events, objective, learned(events, objective))
    np.testing.assert_allclose(found, expected("mixture"), atol=1e-6)


@pytest.mark.parametrize("method", ["bce_signed", "mse_signed"])
def test_signed_weights_in_a_classifier_are_right_where_the_net_density_is_positive(method):
    events = table(A, 0.2 * B)
    objective = _objective(method, {}, events)
    found = signed_column(events, objective, learned(events, objective))
    np.testing.assert_allclose(found, expected("mixture", A, 0.2 * B), atol=1e-6)


def test_a_net_negative_sample_has_the_ratio_of_its_mirror_image():
    """c = W+ / (W+ + W-) is negative; the algebra is the same."""
    for method in ("mixture", "rosmm", "lsif", "revert"):
        ratios = []
        for a, b in ((A, 0.5 * B), (0.5 * B, A)):
            events = table(a, b)
            objective = _objective(method, {}, events)
            ratios.append(signed_column(events, objective, learned(events, objective)))
        np.testing.assert_allclose(ratios[0], ratios[1], atol=1e-6)


def test_parts_of_a_sample_without_net_yield_are_exact():
    """c is infinite: only the parts, with their yields, mean anything."""
    b = B * A.sum() / B.sum()
    events = table(A, b)
    objective = _objective("mixture", {}, events)
    ratios = learned(events, objective)
    q = (Q + (A + b) / (A + b).sum()) / 2
    yields = np.array([part.total for part in objective.components])
    np.testing.assert_allclose(ratios[:, 1:] @ yields[1:], (A - b) / q, atol=1e-6)


def test_flipping_a_label_is_not_a_negative_weight():
    """L_flip = L_signed + |w| [l(u, 0) + l(u, 1)]: for BCE a pull towards u = 0, never below ln 4."""
    u = torch.linspace(-6, 6, 101, dtype=torch.float64)
    bce = make_loss("bce")
    pull = bce.denominator(u) + bce.numerator(u)
    assert float(pull.min()) == pytest.approx(np.log(4), rel=1e-12)
    assert float(pull.argmin()) == 50
    slope_signed, slope_flipped = 1 - torch.sigmoid(u), torch.sigmoid(u)
    np.testing.assert_allclose((slope_signed == slope_flipped).numpy(), (u == 0).numpy())
