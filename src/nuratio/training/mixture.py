"""One softmax classifier over the sign-split parts of all samples.

Each sample is split by the sign of its weights, so the classifier learns ordinary positive densities with weights |w|:
its risk is bounded whatever the cancellations (RoSMM, arXiv:2410.10216, with one classifier in place of up to four).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import RatioEstimator, split_by_sign
from nuratio.ratios.heads import Softmax
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.loop import fit_networks, split_events
from nuratio.training.reference import Reference, mixture_fractions

__all__ = ["train_mixture"]


def train_mixture(
    samples: Mapping[str, EventSample],
    reference: Reference,
    seed: int,
    options: TrainingOptions,
    progress: bool | None,
) -> RatioEstimator:
    """A classifier of parts, not normalised yet."""
    parts = tuple(split_by_sign(samples))
    training_fractions, reference_fractions = mixture_fractions(reference, parts)
    features = next(iter(samples.values())).names
    networks = NetworkStack([len(features), *options.hidden, len(parts)], options.folds * options.ensemble)
    estimator = RatioEstimator(
        components=parts,
        reference_fractions=training_fractions,  # of the events to train on
        head=Softmax(tuple(training_fractions.values()), tuple(reference_fractions.values())),
        normalisation={part.name: (1.0, 0.0) for part in parts},
        networks=CrossFit(networks, features, options),
        report={},
    )
    pool = estimator.pool(samples)
    generator = torch.Generator().manual_seed(seed)
    networks.standardise(pool.features, pool.weights)
    networks.initialise(generator, np.log(list(training_fractions.values())).tolist())  # r = 1
    x, label = torch.from_numpy(pool.features), torch.from_numpy(pool.part)
    weight = torch.from_numpy((pool.weights * len(pool)).astype(np.float32))

    def loss(rows: Tensor, members: slice) -> Tensor:
        logits = networks(x[rows], members)
        entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), label[rows].flatten(), reduction="none")
        return entropy.view(rows.shape) * weight[rows]

    splits = split_events(pool.event_ids, options)
    report = fit_networks(networks, loss, splits, options, generator, label="density ratios", progress=progress)
    return replace(estimator, reference_fractions=reference_fractions, report=report)
