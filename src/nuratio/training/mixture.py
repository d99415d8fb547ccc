"""Density ratios of signed samples by one softmax classifier over the sign-split parts.

`train` is the way from simulated samples to a `RatioEstimator`. Each sample is split by the sign of its weights, so the
classifier learns ordinary positive densities with weights |w|: its risk is bounded whatever the cancellations
(RoSMM, arXiv:2410.10216, with one classifier in place of up to four).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from warnings import warn

import numpy as np
import torch
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, NormalisationWarning, UnknownName, did_you_mean
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import Pool, RatioEstimator, split_by_sign
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.loop import fit_networks, split_events
from nuratio.training.reference import Reference, mixture_fractions
from nuratio.training.statistics import check_statistics

__all__ = ["METHODS", "train"]


def train(
    samples: Mapping[str, EventSample],
    *,
    method: str = "mixture",
    reference: Reference = None,
    seed: int = 0,
    options: TrainingOptions | None = None,
    progress: bool | None = None,
) -> RatioEstimator:
    """Train the density ratios of samples to a common positive reference density q.

    Parameters
    ----------
    samples : mapping of str to EventSample
        At least two samples (processes) with the same features; weights may have both signs.
    method : str
        A key of `METHODS`. ``mixture``: one softmax classifier over the parts {sample x sign of weight}.
    reference : None, str or mapping
        What q is. None: the mixture of the |p| of all samples in equal fractions, which bounds the ratios and covers
        every sample. A mapping of samples or parts to fractions (positive, sum 1): that mixture. A sample's name: its
        density; it needs positive weights only and must cover the support of all others. Within a sample the parts
        share by their sums of |w|.
    seed : int
        Of initialisation and shuffling; the same seed gives the same networks bit for bit on one machine.
    options : TrainingOptions or None
        None: `TrainingOptions()`.
    progress : bool or None
        Show a progress bar on stderr; None: on a terminal, if it takes long.

    Returns
    -------
    RatioEstimator
        Cross-fitted by event id and normalised to E_q[r] = 1 for every part.

    Raises
    ------
    InvalidData
        Fewer than two samples, differing features, too few events for the folds, fractions that are no mixture.
    UnknownName
        An unknown method or reference.
    FitFailed
        A training that diverged.

    Warns
    -----
    StatisticsWarning
        A signed effective sample size below 1000.
    NormalisationWarning
        A normalisation that had to be corrected by more than 2% and 5 standard errors.

    Notes
    -----
    265 000 events of three features and four parts take 16 s with the defaults on two free cores, 32 s on one. Where
    other jobs hold the cores, run with ``OMP_NUM_THREADS=1``: threads that wait for each other are then far slower.
    """
    if method not in METHODS:
        raise UnknownName(f"no training method {method!r}; {did_you_mean(method, METHODS, 'methods')}")
    _require_comparable(samples)
    options = TrainingOptions() if options is None else options
    parts = {part.name: events for part, events in split_by_sign(samples).items()}
    report = check_statistics({**samples, **parts}, options)
    estimator = METHODS[method](samples, reference, seed, options, progress)
    estimator = replace(estimator, report={"method": method, "seed": seed} | report | estimator.report)
    normalisation = _normalisation(estimator, estimator.pool(samples))
    off = {
        name: f"{z:.3f} +- {error:.3f}"
        for name, (z, error) in normalisation.items()
        if abs(z - 1) > max(0.02, 5 * error)
    }
    if off:
        warn(
            f"E_q[r] was not 1 before normalisation: {off}; train longer, or with a reference that covers these parts",
            NormalisationWarning,
            stacklevel=2,
        )
    return replace(estimator, normalisation=normalisation)


def _train_mixture(
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
        training_fractions=training_fractions,
        reference_fractions=training_fractions,  # of the events to train on
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


METHODS: dict[
    str, Callable[[Mapping[str, EventSample], Reference, int, TrainingOptions, bool | None], RatioEstimator]
] = {"mixture": _train_mixture}


def _require_comparable(samples: Mapping[str, EventSample]) -> None:
    if len(samples) < 2:
        raise InvalidData(f"a density ratio needs at least two samples, got {list(samples)}")
    first, *rest = samples
    for name in rest:
        if samples[name].names != samples[first].names:
            raise InvalidData(
                f"sample {name!r} has the features {list(samples[name].names)}, but sample {first!r} has "
                f"{list(samples[first].names)}; read both with the same features in the same order"
            )


def _normalisation(estimator: RatioEstimator, pool: Pool) -> dict[str, tuple[float, float]]:
    """E_q[r_k] on the pool, by networks that did not see the event, and its error (parts have fixed fractions)."""
    table = estimator.ratios(pool.features, event_ids=pool.event_ids)
    fraction = np.bincount(pool.part, pool.weights, minlength=len(pool.names))
    result = {}
    for name in pool.names:
        r = table[name]
        sums = np.bincount(pool.part, pool.weights * r, minlength=len(fraction))
        mean_of_part = sums / np.where(fraction > 0, fraction, 1.0)
        error = np.linalg.norm(pool.weights * (r - mean_of_part[pool.part]))
        result[name] = (float(sums.sum()), float(error))
    return result
