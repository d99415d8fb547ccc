"""After a classifier of parts: what the signed risk itself says (RoSMM-c and RoSMM-r of arXiv:2410.10216).

`refit_coefficients` leaves the networks alone and asks which signed mixture of the two parts of a sample fits best;
`refined` lets all networks go on learning under a loss of the signed ratios.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, log_softmax

from nuratio.data.sample import EventSample
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.heads import Softmax
from nuratio.ratios.losses import Loss
from nuratio.training.direct import signed_risk
from nuratio.training.objective import Objective, SimulatedEvents, whole_samples

__all__ = ["refined", "refit_coefficients"]


def refined(events: SimulatedEvents, loss: Loss) -> Objective:
    """The risk of a loss in the signed ratio r = (W+ r+ + W- r-) / (W+ + W-) of every sample, r+- from a softmax.

    Raises
    ------
    InvalidData
        A sample whose weights cancel.
    """
    whole = whole_samples(events.samples)
    t, rho = (
        torch.tensor(list(f.values()), dtype=torch.float32)
        for f in (events.training_fractions, events.reference_fractions)
    )
    total = {part.sample: part.total for part in whole}
    mix = torch.tensor([[p.total / total[p.sample] * (p.sample == w.name) for p in events.parts] for w in whole])

    def cost(outputs: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        log_s = log_softmax(outputs, dim=-1) - t.log()
        parts = (log_s - (log_s + rho.log()).logsumexp(-1, keepdim=True)).exp()
        return signed_risk(events, loss, loss.output(parts @ mix.T.to(parts)), rows, events.signed)

    return Objective(events.parts, t.log().tolist(), cost, Softmax(tuple(t.tolist()), tuple(rho.tolist())))


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
