"""Ratios of the sign-split parts of samples, each an ordinary positive density with weights |w|.

Risks are bounded whatever the cancellations (RoSMM, arXiv:2410.10216): `mixture` has one softmax classifier in place of
up to four binary ones, `rosmm` a binary classifier for each part.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from nuratio.ratios.heads import Separate, Softmax
from nuratio.training.objective import Objective, SimulatedEvents

__all__ = ["mixture", "rosmm"]


def mixture(events: SimulatedEvents) -> Objective:
    """One classifier: the cross entropy of the part, with weights |w| and fractions t."""
    t, rho = events.training_fractions.values(), events.reference_fractions.values()

    def cost(outputs: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        entropy = cross_entropy(outputs.flatten(0, 1), events.part[rows].flatten(), reduction="none")
        return entropy.view(rows.shape) * events.mixed[rows]

    return Objective(events.parts, np.log(list(t)).tolist(), cost, Softmax(tuple(t), tuple(rho)))


def rosmm(events: SimulatedEvents) -> Objective:
    """A binary classifier of each part against q, with networks of its own."""
    share = torch.tensor(list(events.training_fractions.values()), dtype=torch.float64).to(events.mixed)

    def cost(outputs: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        u, own = outputs[..., 0], events.part[rows] == group[:, None]
        of_part = events.mixed[rows] / share[group][:, None]
        total: Tensor = events.reference[rows] * softplus(u) + own * of_part * softplus(-u)
        return total

    return Objective(events.parts, [0.0], cost, Separate(len(events.parts)), groups=len(events.parts))
