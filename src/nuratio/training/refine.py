"""After a classifier of parts: what the signed risk itself says (RoSMM-c and RoSMM-r of arXiv:2410.10216).

`refit_coefficients` leaves the networks alone and asks which signed mixture of the two parts of a sample fits best;
`refined` lets all networks go on learning under a loss of the signed ratios.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, log_softmax

from nuratio.data.sample import EventSample
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.heads import Separate, Softmax
from nuratio.ratios.losses import Loss
from nuratio.training.direct import signed_risk
from nuratio.training.objective import Objective, SimulatedEvents, whole_samples

__all__ = ["lowest_ratio", "refined", "refit_coefficients"]


def refined(events: SimulatedEvents, loss: Loss, *, separate: bool = False) -> Objective:
    """The risk of a loss in the signed ratio r = (W+ r+ + W- r-) / (W+ + W-) of every sample.

    r+- come from the softmax of `mixture`, or (``separate``) from the binary networks of `rosmm`.

    Raises
    ------
    InvalidData
        A sample whose weights cancel.
    """
    whole = whole_samples(events.samples)
    t, rho = tuple(events.training_fractions.values()), tuple(events.reference_fractions.values())
    log_t, log_rho = (torch.tensor(f, dtype=torch.float64).log().to(events.mixed) for f in (t, rho))
    total = {part.sample: part.total for part in whole}
    mix = torch.tensor(
        [[p.total / total[p.sample] * (p.sample == w.name) for p in events.parts] for w in whole],
        dtype=torch.float64,
        device=events.x.device,
    )

    def risk(log_parts: Tensor, rows: Tensor) -> Tensor:
        parts = log_parts.exp()
        return signed_risk(events, loss, loss.output(parts @ mix.T.to(parts)), rows, events.signed)

    def of_softmax(outputs: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        log_s = log_softmax(outputs, dim=-1) - log_t
        return risk(log_s - (log_s + log_rho).logsumexp(-1, keepdim=True), rows)

    def of_separate(outputs: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        return risk(outputs, rows)

    if separate:
        return Objective(events.parts, [0.0], of_separate, Separate(len(t)), groups=len(t), joint=True)
    return Objective(events.parts, [math.log(share) for share in t], of_softmax, Softmax(t, rho))


def lowest_ratio(estimator: RatioEstimator, events: SimulatedEvents) -> float:
    """The lowest net ratio of any sample at the events, by networks that have not seen them."""
    table = estimator.ratios(events.x.cpu().numpy(), event_ids=events.ids)
    return min(float(estimator.net(table, name).min()) for name in events.samples)


def refit_coefficients(estimator: RatioEstimator, samples: Mapping[str, EventSample]) -> RatioEstimator:
    """Weights of the parts from the least-squares risk in place of the sums of weights; net yields stay.

    With r = c r+ + (1 - c) r-, the risk E_q[r^2] / 2 - E_p[r] has its minimum at
    c = (E_p[d] - E_q[r- d]) / E_q[d^2], d = r+ - r-: on events that the networks have not seen. The report has c from
    the sums of weights and from this fit, with its error, for each sample of both signs.
    """
    pool = estimator.pool(samples)
    at_pool = estimator.ratios(pool.features, event_ids=pool.event_ids)
    components, found = list(estimator.components), {}
    for name, events in samples.items():
        own = [k for k, part in enumerate(components) if part.sample == name]
        if len(own) < 2:
            continue
        at_sample = estimator.ratios(events, event_ids=events.ids)
        (first, second), net = own, events.total
        q_plus, q_minus = at_pool[components[first].name], at_pool[components[second].name]
        d = at_sample[components[first].name] - at_sample[components[second].name]
        curvature = float(pool.weights @ (q_plus - q_minus) ** 2)
        p = events.weights / net
        c = float(p @ d - pool.weights @ (q_minus * (q_plus - q_minus))) / curvature
        pull = q_minus + c * (q_plus - q_minus)
        noise = [p * (d - p @ d), pool.weights * (q_plus - q_minus) * pull]
        error = float(np.sqrt(sum(np.sum(n**2) for n in noise))) / curvature
        found[name] = {"weights": components[first].total / net, "fit": c, "error": error}
        components[first] = replace(components[first], total=c * net)
        components[second] = replace(components[second], total=(1 - c) * net)
    return replace(estimator, components=tuple(components), report=estimator.report | {"coefficients": found})
