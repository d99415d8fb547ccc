"""Signed ratios learned directly: one output per sample, and a loss whose minimum is the ratio.

All samples share one network, and all simulated events carry q: an event costs ``denominator`` at every output, with
its share of q, and ``numerator`` at that of its own sample, with its signed weight. Samples stay whole: the ratio of
one with weights of both signs is the net one and may be negative.
"""

import torch
from torch import Tensor

from nuratio.ratios.heads import Direct
from nuratio.ratios.losses import Loss
from nuratio.training.objective import Objective, SimulatedEvents, of_own_sample, whole_samples

__all__ = ["direct", "signed_risk"]


def signed_risk(events: SimulatedEvents, loss: Loss, outputs: Tensor, rows: Tensor, numerator: Tensor) -> Tensor:
    """``denominator`` at every output with an event's share of q, ``numerator`` at its sample's with these weights.

    Outputs have the shape (m, b, samples), rows (m, b), weights (n,); the risk of each event (m, b).
    """
    own = of_own_sample(events, outputs, rows)
    return events.reference[rows] * loss.denominator(outputs).sum(-1) + numerator[rows] * loss.numerator(own)


def direct(
    events: SimulatedEvents, loss: Loss, name: str, numerator: Tensor | None = None, denominator: Tensor | None = None
) -> Objective:
    """The risk of a loss of that name.

    Parameters
    ----------
    events : SimulatedEvents
    loss : Loss
    name : str
    numerator : Tensor, shape (n,), optional
        Weights at the outputs of the events' own samples: the signed ones.
    denominator : Tensor, shape (n,), optional
        What is added there to the weights of q.

    Raises
    ------
    InvalidData
        A sample whose weights cancel.
    """
    components = whole_samples(events.samples)
    p = events.signed if numerator is None else numerator

    def cost(outputs: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        total = signed_risk(events, loss, outputs, rows, p)
        if denominator is None:
            return total
        return total + denominator[rows] * loss.denominator(of_own_sample(events, outputs, rows))

    return Objective(
        components, loss.output(torch.ones(len(components), dtype=torch.float32)).tolist(), cost, Direct(loss, name)
    )
