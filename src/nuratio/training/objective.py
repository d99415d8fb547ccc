"""What a method of training minimises, and on which events: methods differ in nothing else.

`SimulatedEvents` is one list of all events with the weights that a loss may need; an `Objective` is the loss of network
outputs at them, with the head that turns trained outputs into ratios.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import Part, RatioEstimator, fluctuations, split_by_sign
from nuratio.ratios.heads import Head
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.checkpoint import Checkpoint
from nuratio.training.loop import Split, fit_networks, split_events
from nuratio.training.reference import Reference, mixture_fractions

__all__ = [
    "Objective",
    "SimulatedEvents",
    "multiplicities",
    "of_own_sample",
    "train_networks",
    "whole_samples",
]


@dataclass(frozen=True, eq=False)
class SimulatedEvents:
    """All n simulated events in the order of the parts, as tensors; weights are scaled to a mean of about 1.

    Attributes
    ----------
    samples : dict
        Name -> EventSample.
    parts : tuple of Part
    training_fractions, reference_fractions : dict
        Part name -> t and rho.
    x : Tensor, shape (n, d)
    ids : ndarray of int, shape (n,)
    part, sample : Tensor of int, shape (n,)
        Indices into ``parts`` and ``samples``.
    mixed, reference : Tensor, shape (n,)
        Weights of the mixtures of the |p| with fractions t and rho (q).
    signed, absolute : Tensor, shape (n,)
        w / sum w and |w| / sum |w| of the event's sample.
    """

    samples: Mapping[str, EventSample]
    parts: tuple[Part, ...]
    training_fractions: dict[str, float]
    reference_fractions: dict[str, float]
    x: Tensor
    ids: NDArray[np.int64]
    part: Tensor
    sample: Tensor
    mixed: Tensor
    reference: Tensor
    signed: Tensor
    absolute: Tensor

    @classmethod
    def of(
        cls, samples: Mapping[str, EventSample], reference: Reference, precision: type[np.floating[Any]] = np.float32
    ) -> "SimulatedEvents":
        """All events of the samples, weights in this precision.

        Raises
        ------
        InvalidData, UnknownName
            A reference that is none.
        """
        split = split_by_sign(samples)
        training, fractions = mixture_fractions(reference, tuple(split))
        n = sum(map(len, split.values()))
        names = list(samples)

        def weights(share: Callable[[Part, EventSample], NDArray[np.float64]]) -> Tensor:
            return torch.from_numpy((np.concatenate([share(*p) for p in split.items()]) * n).astype(precision))

        def net(sample: str) -> float:
            return samples[sample].total

        def gross(sample: str) -> float:
            return float(np.abs(samples[sample].weights).sum())

        return cls(
            samples=samples,
            parts=tuple(split),
            training_fractions=training,
            reference_fractions=fractions,
            x=torch.from_numpy(np.concatenate([events.features for events in split.values()])),
            ids=np.concatenate([events.ids for events in split.values()]),
            part=torch.cat([torch.full((len(e),), k) for k, e in enumerate(split.values())]),
            sample=torch.cat([torch.full((len(e),), names.index(p.sample)) for p, e in split.items()]),
            mixed=weights(lambda p, e: training[p.name] * e.weights / p.total),
            reference=weights(lambda p, e: fractions[p.name] * e.weights / p.total),
            signed=weights(lambda p, e: e.weights / (net(p.sample) or np.inf)),
            absolute=weights(lambda p, e: np.abs(e.weights) / gross(p.sample)),
        )

    def to(self, device: str) -> "SimulatedEvents":
        """The same with its tensors on a device."""
        tensors: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True, eq=False)
class Objective:
    """What is minimised.

    Attributes
    ----------
    components : tuple of Part
        What gets a ratio.
    start : sequence of float
        Outputs to start with, one for each output of a network.
    cost : callable
        (outputs (m, b, k), events (m, b), group (m,)) -> weighted loss per event (m, b).
    head : Head
    groups : int
        Networks that share the work: each sees all events, ``group`` says which of them one is.
    joint : bool
        The networks of all groups have one loss together: their single outputs are the k outputs of one model.
    watch : callable or None
        (networks, splits) -> numbers for the report; called after every epoch and at the end; may raise.
    """

    components: tuple[Part, ...]
    start: Sequence[float]
    cost: Callable[[Tensor, Tensor, Tensor], Tensor]
    head: Head
    groups: int = 1
    joint: bool = False
    watch: Callable[[NetworkStack, Sequence[Split]], dict[str, Any]] | None = None


def train_networks(
    events: SimulatedEvents,
    objective: Objective,
    seed: int,
    options: TrainingOptions,
    progress: bool | None,
    *,
    begin: NetworkStack | None = None,
    checkpoint: Checkpoint | None = None,
    executor: Executor | None = None,
) -> RatioEstimator:
    """Minimise an objective; the estimator is not normalised yet. With ``begin`` these networks go on learning."""
    features = next(iter(events.samples.values())).names
    generator = torch.Generator().manual_seed(seed)
    members = options.folds * options.ensemble * objective.groups
    networks = NetworkStack([len(features), *options.hidden, len(objective.start)], members)
    if begin is None:
        networks.standardise(events.x.cpu().numpy(), events.mixed.cpu().double().numpy())
        networks.initialise(generator, objective.start)
    else:
        networks.load_state_dict(begin.state_dict())
    networks.to(events.x.device)
    width = objective.groups if objective.joint else 1  # networks of a model
    group = torch.arange(members // width, device=events.x.device) % objective.groups
    splits = [split for split in split_events(events.ids, options) for _ in range(objective.groups // width)]
    replicated = multiplicities(events, objective.components, options) if options.bootstrap else None
    member = torch.arange(len(splits), device=events.x.device) // (objective.groups // width) % options.ensemble

    def loss(rows: Tensor, chosen: slice) -> Tensor:
        first, last, _ = chosen.indices(len(splits))
        outputs = networks(events.x[rows.repeat_interleave(width, 0)], slice(first * width, last * width))
        if objective.joint:
            outputs = outputs[..., 0].unflatten(0, (-1, width)).movedim(1, -1)
        cost = objective.cost(outputs, rows, group[chosen])
        return cost if replicated is None else cost * replicated[member[chosen, None], rows]

    watch = objective.watch and partial(objective.watch, networks, splits)
    report = fit_networks(
        networks,
        loss,
        splits,
        options,
        generator,
        label="density ratios",
        progress=progress,
        checkpoint=checkpoint,
        watch=watch,
        executor=executor,
    )
    numbers = watch() if watch else {}
    return RatioEstimator(
        components=objective.components,
        reference_fractions=events.reference_fractions,
        head=objective.head,
        normalisation={part.name: (1.0, 0.0) for part in objective.components},
        networks=CrossFit(networks.cpu(), features, options),
        report=report | numbers,
    )


def multiplicities(events: SimulatedEvents, components: Sequence[Part], options: TrainingOptions) -> Tensor:
    """How often each event counts for the members of a bootstrap, shape (ensemble, n), with fixed yields of components.

    It depends on the ids and ``fold_seed`` alone, so that members of all folds, and estimators of other events, are
    replicas of one simulation. Events held out for the early stopping count as often.
    """
    drawn = fluctuations(events.samples, components, "bootstrap", options.ensemble, options.fold_seed)
    return torch.from_numpy(drawn.factors(events.ids, events.part.cpu().numpy())).to(events.mixed)


def of_own_sample(events: SimulatedEvents, outputs: Tensor, rows: Tensor) -> Tensor:
    """Of outputs (m, b, samples) at events (m, b) the one of each event's own sample, shape (m, b)."""
    return outputs.gather(-1, events.sample[rows].unsqueeze(-1)).squeeze(-1)


def whole_samples(samples: Mapping[str, EventSample]) -> tuple[Part, ...]:
    """Each sample as one part, whatever the signs of its weights.

    Raises
    ------
    InvalidData
        A sample whose weights cancel: it has no normalised density.
    """
    found = []
    for name, events in samples.items():
        if events.cancels:
            raise InvalidData(
                f"sample {name!r}: its weights cancel (sum {events.total:.3g}), so it has no normalised density; "
                "method 'mixture' keeps the parts of both signs"
            )
        found.append(Part(name, name, 1 if events.total > 0 else -1, events.total, len(events), events.effective_size))
    return tuple(found)
