"""Is PARE's pole far enough below every ratio? The events that networks have not seen answer after every epoch.

The risk of PARE is convex in the last layer where rho^2 G_q + G_p is positive, G being second moments of the last
hidden features under q and under a signed sample: where rho^2 exceeds -l, l being the lowest average that the ratio has
under a squared combination of features. That average has an error, from the half of the events it was not found on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nuratio.errors import PoleTooNear
from nuratio.ratios.losses import Loss
from nuratio.ratios.network import NetworkStack
from nuratio.training.loop import Split
from nuratio.training.objective import SimulatedEvents

__all__ = ["PoleWatch"]

_MOST = 20_000  # events per network
_RIDGE = 1e-5  # of the mean diagonal element
_SIGNIFICANT = 3.0  # standard errors of an average below the pole
_CLOSE = 0.9  # of the way to the pole: outputs there have left the region where the risk says anything


@dataclass(frozen=True, eq=False)
class PoleWatch:
    """Compares the pole with the ratios at held-out events, see `Objective`.

    Attributes
    ----------
    events : SimulatedEvents
    loss : Loss
        PARE, whose pole is finite.
    """

    events: SimulatedEvents
    loss: Loss

    def __call__(self, networks: NetworkStack, splits: Sequence[Split]) -> dict[str, Any]:
        """``rho``, the ``pole``, the smallest ``eigenvalue`` rho^2 + l and the ``lowest_ratio`` at held-out events.

        Raises
        ------
        PoleTooNear
            The eigenvalue is negative, by three standard errors or with ratios within 10% of the pole.
        """
        pole, names = self.loss.pole, list(self.events.samples)
        signed = [k for k, sample in enumerate(self.events.samples.values()) if np.ptp(np.sign(sample.weights)) == 2]
        lowest_average, lowest_ratio = 0.0, math.inf
        for m, split in enumerate(splits):
            rows = torch.from_numpy(split.validation[:: -(-len(split.validation) // _MOST)])  # of all samples
            with torch.no_grad():
                x = self.events.x[rows]
                phi = networks.last_hidden(x, m)
                r = self.loss.ratio(networks(x[None], slice(m, m + 1))[0].double())
            lowest_ratio = min(lowest_ratio, float(r.min()))
            q, p = (weights[rows].double() for weights in (self.events.reference, self.events.signed))
            sample = self.events.sample[rows]
            for k in signed:
                average, found, error = _lowest_average(phi, q, p * (sample == k))
                lowest_average = min(lowest_average, average)
                left = not bool(r[:, k].isfinite().all()) or float(r[:, k].min()) < _CLOSE * pole
                if average < pole and (left or found + _SIGNIFICANT * error < pole):
                    raise PoleTooNear(
                        f"PARE with rho = {math.sqrt(-pole):.4g}: sample {names[k]!r} has ratios below the pole "
                        f"-rho^2 = {pole:.4g}, where the risk has no minimum (average {found:.3g} +- {error:.2g} "
                        f"at held-out events; the lowest eigenvalue is {average - pole:.3g} and must be positive); "
                        "raise rho, take rho: auto, or a loss without a pole (lsif, revert)",
                        average - pole,
                    )
        eigenvalue = lowest_average - pole
        numbers = {"rho": math.sqrt(-pole), "pole": pole, "eigenvalue": eigenvalue, "lowest_ratio": lowest_ratio}
        return {"pole": numbers}


def _lowest_average(phi: Tensor, q: Tensor, p: Tensor) -> tuple[float, float, float]:
    """l = min over v of v.G_p.v / v.G_q.v; and, with v from the other half of the events, its value and error."""
    halves = [slice(h, None, 2) for h in (0, 1)]
    g_q, g_p = ([_moments(phi[half], weights[half]) for half in halves] for weights in (q, p))
    whole, _ = _lowest(g_q[0] + g_q[1], g_p[0] + g_p[1])
    found = variance = 0.0
    for h, half in enumerate(halves):
        _, v = _lowest(g_q[1 - h], g_p[1 - h])
        square = (phi[half] @ v) ** 2
        weight = max(float(q[half] @ square), math.ulp(0.0))
        ratio = float(p[half] @ square) / weight
        found += ratio / 2
        variance += float((((p[half] - ratio * q[half]) * square) ** 2).sum()) / weight**2 / 4
    return whole, found, math.sqrt(variance)


def _moments(phi: Tensor, weights: Tensor) -> Tensor:
    used = weights != 0
    return phi[used].T @ (weights[used, None] * phi[used])


def _lowest(g_q: Tensor, g_p: Tensor) -> tuple[float, Tensor]:
    """The lowest eigenvalue of G_q^-1 G_p and its vector; directions that no event has count as zero."""
    ridge = _RIDGE * g_q.trace() / len(g_q) * torch.eye(len(g_q)).to(g_q)
    root = torch.linalg.inv(torch.linalg.cholesky(g_q + ridge))
    values, vectors = torch.linalg.eigh(root @ g_p @ root.T)
    return float(values[0]), root.T @ vectors[:, 0]
