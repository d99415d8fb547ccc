"""Signed ratios learned directly: one output per sample, and a loss whose minimum is the ratio.

All samples share one network with an output each, and all simulated events carry q: an event costs ``denominator`` at
every output, with its share of q, and ``numerator`` at that of its own sample, with its signed weight. Samples stay
whole: the ratio of one with weights of both signs is the net one and may be negative.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import Part, RatioEstimator, split_by_sign
from nuratio.ratios.heads import Direct
from nuratio.ratios.losses import Loss
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.loop import fit_networks, split_events
from nuratio.training.reference import Reference, mixture_fractions

__all__ = ["train_direct"]

_CANCELLED = 1e-9  # a net yield below this share of the absolute one is rounding


def train_direct(
    samples: Mapping[str, EventSample],
    reference: Reference,
    seed: int,
    options: TrainingOptions,
    progress: bool | None,
    *,
    loss: Loss,
    name: str,
) -> RatioEstimator:
    """Networks of one output per sample, not normalised yet; ``name`` is that of the loss.

    Raises
    ------
    InvalidData
        A sample whose weights cancel: it has no normalised density.
    """
    parts = split_by_sign(samples)
    _, fractions = mixture_fractions(reference, tuple(parts))
    components = tuple(_whole(sample, events) for sample, events in samples.items())
    features = next(iter(samples.values())).names
    networks = NetworkStack([len(features), *options.hidden, len(components)], options.folds * options.ensemble)
    columns = [part.sample for part in parts]
    head = torch.cat(
        [torch.full((len(e),), list(samples).index(c)) for c, e in zip(columns, parts.values(), strict=True)]
    )
    x = np.concatenate([events.features for events in parts.values()])
    ids = np.concatenate([events.ids for events in parts.values()])
    in_q = [fractions[part.name] * np.abs(events.weights / part.total) for part, events in parts.items()]
    in_sample = [events.weights / samples[part.sample].total for part, events in parts.items()]
    q, p = (torch.from_numpy((np.concatenate(w) * len(x)).astype(np.float32)) for w in (in_q, in_sample))
    generator = torch.Generator().manual_seed(seed)
    networks.standardise(x, np.abs(np.concatenate(in_sample)))
    networks.initialise(generator, loss.output(torch.ones(len(components))).tolist())
    inputs = torch.from_numpy(x)

    def cost(rows: Tensor, members: slice) -> Tensor:
        u = networks(inputs[rows], members)
        own = u.gather(-1, head[rows].unsqueeze(-1)).squeeze(-1)
        return q[rows] * loss.denominator(u).sum(-1) + p[rows] * loss.numerator(own)

    splits = split_events(ids, options)
    report = fit_networks(
        networks, cost, splits, options, generator, label=f"density ratios, {name}", progress=progress
    )
    return RatioEstimator(
        components=components,
        reference_fractions=fractions,
        head=Direct(loss, name),
        normalisation={part.name: (1.0, 0.0) for part in components},
        networks=CrossFit(networks, features, options),
        report=report,
    )


def _whole(name: str, events: EventSample) -> Part:
    """A sample as one part, whatever the signs of its weights."""
    absolute = float(np.abs(events.weights).sum())
    if abs(events.total) <= _CANCELLED * absolute:
        raise InvalidData(
            f"sample {name!r}: its weights cancel (sum {events.total:.3g}, absolute {absolute:.3g}), so it has no "
            "normalised density; method 'mixture' keeps the parts of both signs"
        )
    return Part(name, name, 1 if events.total > 0 else -1, events.total, len(events), events.effective_size)
