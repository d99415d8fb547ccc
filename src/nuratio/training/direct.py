"""Signed ratios learned directly: one output per sample, and a loss whose minimum is the ratio.

All samples share one network, and all simulated events carry q: an event costs ``denominator`` at every output, with
its share of q, and ``numerator`` at that of its own sample, with its signed weight. Samples stay whole: the ratio of
one with weights of both signs is the net one and may be negative.
"""

import torch
from torch import Tensor

from nuratio.ratios.heads import Direct
from nuratio.ratios.losses import Loss
from nuratio.training.objective import Objective, SimulatedEvents, whole_samples

__all__ = ["direct"]


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
        own = outputs.gather(-1, events.sample[rows].unsqueeze(-1)).squeeze(-1)
        total = events.reference[rows] * loss.denominator(outputs).sum(-1) + p[rows] * loss.numerator(own)
        return total if denominator is None else total + denominator[rows] * loss.denominator(own)

    return Objective(
        components, loss.output(torch.ones(len(components), dtype=torch.float32)).tolist(), cost, Direct(loss, name)
    )
