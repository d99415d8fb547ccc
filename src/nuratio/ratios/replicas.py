"""Replicas of trained ratios: how far another simulation, or another random start, would have moved them.

A `RatioEstimator` with `Replicas` gives, besides its ratios, the deviations delta_j(x) of R replicas of them
(`RatioEstimator.deviations`), whose covariance over j is theirs. `nuratio.training.replicas` makes them,
`nuratio.workspace.directions` turns them into nuisances. There are three kinds, `SOURCES`:

- ``bootstrap``: member j of every fold has learned from events with Poisson(1) multiplicities
  (`TrainingOptions.bootstrap`), the same ones in all folds. Everything that the training does is in their spread; the
  random start of a single member, too, where the result is the mean of all. (For networks that are trained to the end
  the error of an integral came out at 1.0 to 1.16 of that of the last layer, +- 0.11, after too few epochs at 1.3.)
- ``last_layer``: the hidden layers stay, the last one moves by its response to the fluctuation of single events: the
  sandwich covariance. Costs one pass over the events, and as many replicas as one likes.
- ``ensemble``: members that differ by their random start (and the events they held out) alone: what the training adds
  to the statistics of the simulation, not those statistics.

The yields do not fluctuate: the sum of weights of whatever has a ratio, a part or a signed sample, is the same in all
replicas. A ratio is one of normalised densities, and yields have an entry and an error of their own in a likelihood; in
a Poisson process the two are independent. Replicas that let yields fluctuate would learn odds with them in, and lose
them again when they are normalised.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuratio.data.bootstrap import multiplicity_of, normal_of
from nuratio.data.split import fold_of
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.heads import Head
from nuratio.ratios.network import NetworkStack

__all__ = ["SOURCES", "Fluctuations", "Replicas"]

Floats = NDArray[np.float64]

_CHUNK = 4096  # events at a time


def _unchanged(event_ids: NDArray[np.int64], replica: int, seed: int = 0) -> Floats:
    return np.ones(len(event_ids))


SOURCES: dict[str, Callable[[NDArray[np.int64], int, int], NDArray[Any]]] = {
    "bootstrap": multiplicity_of,
    "last_layer": normal_of,
    "ensemble": _unchanged,
}
"""Source -> the factors of the events' weights in a replica, from (ids, number of the replica, seed)."""


@dataclass(frozen=True, eq=False)
class Replicas:
    """What makes R replicas of the ratios of an estimator.

    Attributes
    ----------
    source : str
        A key of `SOURCES`.
    number : int
        R.
    layers : ndarray, shape (R, networks, h + 1, outputs), float32, or None
        Of ``last_layer``: what each replica adds to the last layers, weights and then the bias, in units of the
        outputs. The other sources are members of the estimator.
    """

    source: str
    number: int
    layers: NDArray[np.float32] | None = None

    @property
    def per_result(self) -> int:
        """How many independent replicas the ratio of the estimator is the mean of: R for the random start, else 1.

        Members of a bootstrap share the fluctuation of the one simulation there is: their mean is no better.
        """
        return self.number if self.source == "ensemble" else 1

    def deviations(
        self,
        networks: CrossFit,
        head: Head,
        x: NDArray[np.float32],
        event_ids: NDArray[np.int64] | None,
    ) -> Floats:
        """Deviations of the learned ratios, not normalised; see `RatioEstimator.deviations`."""
        if self.layers is None:
            return self._of_members(networks, head, x, event_ids)
        layers = self.layers - self.layers.mean(0, dtype=np.float64)
        if event_ids is None:
            return _moved(networks.stack, head, x, slice(0, layers.shape[1]), layers)
        folds, size = networks.options.folds, layers.shape[1] // networks.options.folds
        fold = fold_of(event_ids, folds, networks.options.fold_seed)
        rows = [np.flatnonzero(fold == k) for k in range(folds)]
        own = [slice(k * size, (k + 1) * size) for k in range(folds)]
        moved = [_moved(networks.stack, head, x[row], of, layers) for row, of in zip(rows, own, strict=True)]
        result = np.empty((len(layers), len(x), moved[0].shape[2]))
        for row, values in zip(rows, moved, strict=True):
            result[:, row] = values
        return result

    def _of_members(
        self, networks: CrossFit, head: Head, x: NDArray[np.float32], event_ids: NDArray[np.int64] | None
    ) -> Floats:
        """Members of the same number are one replica; observed events get the mean of its folds, as from all."""

        def ratios(member: int) -> Floats:
            return head.ratios(networks(x, event_ids, head.mean, member))

        if event_ids is not None:
            values = np.stack([ratios(j) for j in range(self.number)])
        else:
            folds = range(networks.options.folds)
            values = np.stack([np.mean([ratios(k * self.number + j) for k in folds], 0) for j in range(self.number)])
        return np.asarray(values - values.mean(0))

    def stored(self) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
        """Plain values and tensors from which `restored` makes the same replicas."""
        tensors = {} if self.layers is None else {"replicas.layers": self.layers}
        return {"source": self.source, "number": self.number}, tensors

    @classmethod
    def restored(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `stored`."""
        return cls(document["source"], document["number"], arrays.get("replicas.layers"))


@dataclass(frozen=True, eq=False)
class Fluctuations:
    """Factors 1 + xi_j of the weights of simulated events in R replicas; sums of weights of groups of parts are fixed.

    Attributes
    ----------
    source : str
        A key of `SOURCES`.
    seed : int
        ``fold_seed`` of the training options.
    means : ndarray, shape (R, parts)
        Weighted mean, over the group that a part belongs to, of what the factors are before it is fixed.
    """

    source: str
    seed: int
    means: Floats

    @classmethod
    def of(
        cls,
        source: str,
        number: int,
        seed: int,
        event_ids: NDArray[np.int64],
        part: NDArray[np.int64],
        weights: Floats,
        group: Sequence[int],
    ) -> Self:
        """Those of n events: ids, numbers of parts and weights, shape (n,) each; and the group that each part is in."""
        of_part = np.asarray(group)
        of_event, draw = of_part[part], SOURCES[source]
        total = np.bincount(of_event, weights)
        sums = [np.bincount(of_event, weights * draw(event_ids, j, seed)) for j in range(number)]
        return cls(source, seed, (np.stack(sums) / total)[:, of_part])

    def factors(self, event_ids: NDArray[np.int64], part: NDArray[np.int64]) -> Floats:
        """1 + xi of some of the events, shape (R, m)."""
        drawn = [SOURCES[self.source](event_ids, j, self.seed) for j in range(len(self.means))]
        return np.asarray(np.stack(drawn) / self.means[:, part])


def _moved(stack: NetworkStack, head: Head, x: NDArray[np.float32], members: slice, layers: Floats) -> Floats:
    """Response of the ratios to what layers, shape (R, networks, h + 1, outputs), add to these networks; (R, n, K)."""
    parts = [
        _moved_chunk(stack, head, torch.tensor(x[start : start + _CHUNK]), members, layers[:, members])
        for start in range(0, max(len(x), 1), _CHUNK)
    ]
    return np.concatenate(parts, axis=1)


def _moved_chunk(stack: NetworkStack, head: Head, x: Tensor, members: slice, layers: Floats) -> Floats:
    with torch.no_grad():
        outputs = stack(x[None], members).double()
        hidden = [stack.last_hidden(x, m).numpy() for m in range(members.start, members.stop)]
    combined = head.mean(outputs.requires_grad_())
    slopes = [torch.autograd.grad(column.sum(), outputs, retain_graph=True)[0].numpy() for column in combined.T]
    number, h, o = layers.shape[0], layers.shape[2], layers.shape[3]
    change = np.zeros((len(x), number, combined.shape[1]))
    for m, phi in enumerate(hidden):
        output = phi @ layers[:, m].transpose(1, 0, 2).reshape(h, number * o)  # an event has the R changes of u
        change += output.reshape(len(x), number, o) @ np.stack([slope[m] for slope in slopes], axis=-1)
    return head.response(combined.detach().numpy(), change.transpose(1, 0, 2))
