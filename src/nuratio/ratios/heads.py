"""From the outputs of networks to ratios: what a method of training decides about an estimator.

`Softmax` is the classifier of sign-split parts, `Direct` one output per sample and a loss whose minimum is the ratio.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuratio.errors import FitFailed, InvalidData
from nuratio.ratios.losses import LOSSES, Loss, make_loss

__all__ = ["HEADS", "Direct", "Head", "Softmax", "head_from_dict"]

Floats = NDArray[np.float64]


class Head(Protocol):
    """How K ratios follow from network outputs."""

    def mean(self, outputs: Tensor) -> Tensor:
        """Outputs of m networks, shape (m, n, k), combined to shape (n, k)."""
        ...

    def ratios(self, combined: Floats) -> Floats:
        """Ratios to q, shape (n, K), from the combined outputs."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `head_from_dict` makes the same head."""
        ...


@dataclass(frozen=True)
class Softmax:
    """s_k is the probability of part k, trained with fractions t_k, and rho_k the fractions of q:

        r_k = (s_k / t_k) / sum_j (rho_j s_j / t_j),

    s being the mean over networks. For the pooled reference (rho = t) r_k = s_k / rho_k, at most 1 / rho_k.

    Attributes
    ----------
    training, reference : tuple of float
        t and rho, each with the sum 1.
    """

    training: tuple[float, ...]
    reference: tuple[float, ...]

    def mean(self, outputs: Tensor) -> Tensor:
        """Log of the mean over networks of the probabilities."""
        return torch.log_softmax(outputs, dim=-1).logsumexp(dim=0) - math.log(len(outputs))

    def ratios(self, combined: Floats) -> Floats:
        """See `Head`."""
        log_s = combined - np.log(self.training)  # ln(s_k / t_k)
        with np.errstate(divide="ignore"):
            log_q = np.logaddexp.reduce(log_s + np.log(self.reference), axis=1)
        return np.asarray(np.exp(log_s - log_q[:, None]))

    def to_dict(self) -> dict[str, Any]:
        """See `Head`."""
        return {"type": "softmax"} | asdict(self)


@dataclass(frozen=True)
class Direct:
    """Each output stands for a ratio, as its loss says; the ratios of several networks are averaged.

    Attributes
    ----------
    loss : Loss
    name : str
        Of the loss, a key of `LOSSES`.
    """

    loss: Loss
    name: str

    def mean(self, outputs: Tensor) -> Tensor:
        """Mean over networks of the ratios."""
        return self.loss.ratio(outputs).mean(dim=0)

    def ratios(self, combined: Floats) -> Floats:
        """See `Head`.

        Raises
        ------
        FitFailed
            An output that stands for no ratio: the network left the domain of its loss.
        """
        bad = np.flatnonzero(~np.isfinite(combined).all(axis=1))
        if bad.size:
            raise FitFailed(
                f"the networks leave the domain of loss {self.name!r} at {bad.size} of {len(combined)} events (first: "
                f"event {bad[0]}); train with a pole further away (rho of PARE), or with lsif"
            )
        return combined

    def to_dict(self) -> dict[str, Any]:
        """See `Head`."""
        options = {k: v for k, v in vars(self.loss).items() if k != "pole"}
        return {"type": "direct", "loss": self.name, "options": options}


def _softmax(values: Mapping[str, Any]) -> Head:
    return Softmax(tuple(values["training"]), tuple(values["reference"]))


def _direct(values: Mapping[str, Any]) -> Head:
    return Direct(make_loss(values["loss"], **values["options"]), values["loss"])


HEADS = {"softmax": _softmax, "direct": _direct}


def head_from_dict(values: Mapping[str, Any]) -> Head:
    """The inverse of ``to_dict``.

    Raises
    ------
    InvalidData
        A kind of head, or a loss, that does not exist.
    """
    if values.get("type") not in HEADS or values.get("loss", "lsif") not in LOSSES:
        raise InvalidData(f"no head {values}; known are {list(HEADS)} with the losses {list(LOSSES)}")
    return HEADS[values["type"]](values)
