"""From the outputs of networks to ratios: what a method of training decides about an estimator.

`Softmax` is the classifier of sign-split parts, `Separate` a binary one for each; `Direct` has an output per sample and
a loss whose minimum is the ratio; `Resampled` and `Complementary` are the baselines with heads of their own.
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

__all__ = ["HEADS", "Complementary", "Direct", "Head", "Resampled", "Separate", "Softmax", "head_from_dict"]

Floats = NDArray[np.float64]


class Head(Protocol):
    """How K ratios follow from network outputs."""

    def mean(self, outputs: Tensor) -> Tensor:
        """Outputs of m networks, shape (m, n, k), combined to shape (n, k)."""
        ...

    def ratios(self, combined: Floats) -> Floats:
        """Ratios to q, shape (n, K), from the combined outputs."""
        ...

    def response(self, combined: Floats, change: Floats) -> Floats:
        """Change of the ratios by a small one of the combined outputs, shapes (..., n, K) at (n, K)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `head_from_dict` makes the same head."""
        ...


@dataclass(frozen=True)
class Softmax:
    """s_k is the probability of part k, trained with fractions t_k, and rho_k the fractions of q:

        r_k = (s_k / t_k) / sum_j (rho_j s_j / t_j),

    and the ratios of several networks are averaged, so that each of them has its share in E_q[r]. For the pooled
    reference (rho = t) r_k = s_k / rho_k, at most 1 / rho_k.

    Attributes
    ----------
    training, reference : tuple of float
        t and rho, each with the sum 1.
    """

    training: tuple[float, ...]
    reference: tuple[float, ...]

    def mean(self, outputs: Tensor) -> Tensor:
        """Log of the mean over networks of the ratios."""
        t, rho = (torch.tensor(f, dtype=outputs.dtype).log() for f in (self.training, self.reference))
        log_s = torch.log_softmax(outputs, dim=-1) - t  # ln(s_k / t_k)
        log_r = log_s - (log_s + rho).logsumexp(dim=-1, keepdim=True)
        return log_r.logsumexp(dim=0) - math.log(len(outputs))

    def ratios(self, combined: Floats) -> Floats:
        """See `Head`."""
        return np.asarray(np.exp(combined))

    def response(self, combined: Floats, change: Floats) -> Floats:
        """See `Head`."""
        return np.asarray(self.ratios(combined) * change)

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

    def response(self, combined: Floats, change: Floats) -> Floats:
        """See `Head`."""
        return change

    def to_dict(self) -> dict[str, Any]:
        """See `Head`."""
        options = {k: v for k, v in vars(self.loss).items() if k != "pole"}
        return {"type": "direct", "loss": self.name, "options": options}


@dataclass(frozen=True)
class Separate:
    """Binary classifiers of K parts against q, in networks of their own: ln r_k = u_k.

    Attributes
    ----------
    parts : int
        K; networks come in groups of K.
    """

    parts: int

    def mean(self, outputs: Tensor) -> Tensor:
        """Mean over networks of the ratios, a column for each part."""
        groups: Tensor = outputs[..., 0].unflatten(0, (-1, self.parts))  # type: ignore[no-untyped-call]
        return groups.exp().mean(dim=0).T

    def ratios(self, combined: Floats) -> Floats:
        """See `Head`."""
        return combined

    def response(self, combined: Floats, change: Floats) -> Floats:
        """See `Head`."""
        return change

    def to_dict(self) -> dict[str, Any]:
        """See `Head`."""
        return {"type": "separate"} | asdict(self)


@dataclass(frozen=True)
class Resampled:
    """A classifier of samples with |w| and the mean sign e of each: r_k = s_k / t_k x e_k x sum |w| / sum w.

    Attributes
    ----------
    training : tuple of float
        t, fractions of the samples.
    gain : tuple of float
        sum |w| / sum w.
    """

    training: tuple[float, ...]
    gain: tuple[float, ...]

    def mean(self, outputs: Tensor) -> Tensor:
        """Mean over networks of s_k e_k."""
        k = len(self.training)
        signs = 2 * torch.sigmoid(outputs[..., k:]) - 1
        return (torch.softmax(outputs[..., :k], dim=-1) * signs).mean(dim=0)

    def ratios(self, combined: Floats) -> Floats:
        """See `Head`."""
        return np.asarray(combined * np.array(self.gain) / np.array(self.training))

    def response(self, combined: Floats, change: Floats) -> Floats:
        """See `Head`."""
        return self.ratios(change)

    def to_dict(self) -> dict[str, Any]:
        """See `Head`."""
        return {"type": "resampled"} | asdict(self)


@dataclass(frozen=True)
class Complementary:
    """A classifier of samples in which negative events count for all others (`nuratio.training.baselines`).

    ``debiased``: with e the share of negative weight, the signed share of sample k is p_k (1 - 2 e + K e) - e.

    Attributes
    ----------
    training, gain : tuple of float
        As of `Resampled`.
    debiased : bool
    """

    training: tuple[float, ...]
    gain: tuple[float, ...]
    debiased: bool

    def mean(self, outputs: Tensor) -> Tensor:
        """Mean over networks of the (signed) shares."""
        k = len(self.training)
        p = torch.softmax(outputs[..., :k], dim=-1)
        if self.debiased:
            e = torch.sigmoid(outputs[..., k:])
            p = p * (1 - 2 * e + k * e) - e
        return p.mean(dim=0)

    def ratios(self, combined: Floats) -> Floats:
        """See `Head`."""
        return np.asarray(combined * np.array(self.gain if self.debiased else 1.0) / np.array(self.training))

    def response(self, combined: Floats, change: Floats) -> Floats:
        """See `Head`."""
        return self.ratios(change)

    def to_dict(self) -> dict[str, Any]:
        """See `Head`."""
        return {"type": "complementary"} | asdict(self)


def _softmax(values: Mapping[str, Any]) -> Head:
    return Softmax(tuple(values["training"]), tuple(values["reference"]))


def _direct(values: Mapping[str, Any]) -> Head:
    return Direct(make_loss(values["loss"], **values["options"]), values["loss"])


def _separate(values: Mapping[str, Any]) -> Head:
    return Separate(values["parts"])


def _resampled(values: Mapping[str, Any]) -> Head:
    return Resampled(tuple(values["training"]), tuple(values["gain"]))


def _complementary(values: Mapping[str, Any]) -> Head:
    return Complementary(tuple(values["training"]), tuple(values["gain"]), values["debiased"])


HEADS = {
    "softmax": _softmax,
    "direct": _direct,
    "separate": _separate,
    "resampled": _resampled,
    "complementary": _complementary,
}


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
