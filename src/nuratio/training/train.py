"""Density ratios of signed samples: `train` is the way from simulated samples to a `RatioEstimator`.

`METHODS` lists what it can do. ``mixture``, the default, is a classifier of sign-split parts (``rosmm``: one for each;
``rosmm_c``, ``rosmm_r``: refined afterwards); the names of losses (``lsif``, ``pare``, ``revert``, ...) learn the
signed ratio of each sample directly. The rest are baselines to compare with, most of them biased.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np

from nuratio.data.sample import EventSample
from nuratio.errors import (
    BiasedMethodWarning,
    InvalidData,
    NormalisationWarning,
    PoleTooNear,
    UnknownName,
    did_you_mean,
)
from nuratio.ratios.estimator import Pool, RatioEstimator, split_by_sign
from nuratio.ratios.losses import LOSSES, make_loss
from nuratio.ratios.options import TrainingOptions
from nuratio.training import baselines
from nuratio.training.checkpoint import Checkpoint, fingerprint
from nuratio.training.choice import MARGIN, choose, pilot_rho
from nuratio.training.direct import direct
from nuratio.training.linear import train_linear
from nuratio.training.loop import require_device
from nuratio.training.mixture import mixture, rosmm
from nuratio.training.objective import Objective, SimulatedEvents, train_networks, whole_samples
from nuratio.training.pole import PoleWatch
from nuratio.training.reference import Reference
from nuratio.training.refine import lowest_ratio, refined, refit_coefficients
from nuratio.training.statistics import check_statistics

__all__ = ["METHODS", "train"]

Method = Callable[..., Objective]
Training = Callable[..., RatioEstimator]

_DIRECT = tuple(name for name in LOSSES if name not in ("bce", "mse"))
_BASELINES: dict[str, Method] = {
    "bce_signed": baselines.signed_bce,
    "mse_signed": baselines.signed_mse,
    "bce_abs": baselines.absolute,
    "bce_drop": baselines.dropped,
    "bce_flip": baselines.flipped,
    "resampled": baselines.resampled,
    "ccl": baselines.complementary,
    "ccl_shared": partial(baselines.complementary, shared=True),
    "ccl_debiased": partial(baselines.complementary, debiased=True),
}
_NETWORKS: dict[str, Method] = {
    "mixture": mixture,
    "rosmm": rosmm,
    "rosmm_c": mixture,
    "rosmm_r": mixture,
    **dict.fromkeys(_DIRECT, direct),
    **_BASELINES,
}
METHODS = (*_NETWORKS, "linear", "auto")
_POOLED = ("resampled", "ccl", "ccl_shared", "ccl_debiased")  # their ratios are to the mixture they are trained on
_MOST_POLES = 10  # that rho: auto tries
_REFINEMENT = 0.1  # learning rate of a refinement, in units of that before


def train(
    samples: Mapping[str, EventSample],
    *,
    method: str = "mixture",
    method_options: Mapping[str, Any] | None = None,
    reference: Reference = None,
    seed: int = 0,
    options: TrainingOptions | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
) -> RatioEstimator:
    """Train the density ratios of samples to a common positive reference density q.

    Parameters
    ----------
    samples : mapping of str to EventSample
        At least two samples (processes) with the same features; weights may have both signs.
    method : str
        One of `METHODS`. ``mixture``: one softmax classifier over the parts {sample x sign of weight}. The name of a
        loss of `nuratio.ratios.losses`: the signed ratio of every sample, by one network with an output for each.
        ``linear``: least squares in random features. ``auto``: the best of these three on a subsample, see
        `nuratio.training.choice`; the report says what was chosen and why.
    method_options : mapping or None
        ``rho`` of ``pare``: a number, or ``auto``, which moves the pole away while ratios reach below it (the report
        has every rho tried). ``loss`` (and its options) of ``rosmm_r``, ``lsif`` by default, and its ``networks``:
        ``softmax``, or ``separate`` binary ones as of ``rosmm``. ``features`` of ``linear``.
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
    checkpoint : path or None
        A file for the state of the training, written every ten seconds or more and deleted in the end. After an
        interruption the same call continues from it, to the same networks bit for bit. (``linear`` needs none.)
    device : str
        Where networks learn: ``cpu``, or a device of torch such as ``cuda``, which pays for large networks. They are
        evaluated on the CPU.
    executor : concurrent.futures.Executor or None
        Where the networks are trained, each as a task of its own; None: in this process, all at once. They do not
        depend on the executor and its workers, and are those of None up to rounding. ``pare``, whose
        pole is watched over all networks, and ``linear`` learn here.

    Returns
    -------
    RatioEstimator
        Cross-fitted by event id and normalised to E_q[r] = 1 for every part.

    Raises
    ------
    InvalidData
        Fewer than two samples, differing features, too few events for the folds, fractions that are no mixture; a
        checkpoint of another training, or one together with an executor.
    UnknownName
        An unknown method or reference.
    FitFailed
        A training that diverged; a ratio below the pole of PARE (`PoleTooNear`).

    Warns
    -----
    StatisticsWarning
        A signed effective sample size below 1000, or below 1% of the number of events.
    BiasedMethodWarning
        A baseline, with what it learns in place of the ratio.
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
    require_device(device)
    options = TrainingOptions() if options is None else options
    parts = {part.name: events for part, events in split_by_sign(samples).items()}
    report = check_statistics({**samples, **parts}, options)
    chosen = dict(method_options or {})
    if method in _POOLED and reference is not None:
        raise InvalidData(f"method {method!r} learns ratios to the pooled mixture only: reference must be None")
    if method in baselines.BIAS:
        warn(f"method {method!r} is a baseline: {baselines.BIAS[method]}", BiasedMethodWarning, stacklevel=2)
    made = {"method": method, "method_options": chosen, "seed": seed}
    kept = None
    if checkpoint is not None:
        settings = made | {"reference": reference, "options": options.to_dict()}
        kept = Checkpoint.open(checkpoint, fingerprint(samples, **settings))

    def learn(name: str, some: Mapping[str, EventSample]) -> RatioEstimator:
        where: dict[str, Any] = {"progress": progress, "checkpoint": kept, "executor": executor}
        training = partial(train_networks, seed=seed, options=options, **where)
        learned = _learn(name, chosen, SimulatedEvents.of(some, reference).to(device), seed, options, training)
        return replace(learned, normalisation=_normalisation(learned, learned.pool(some)))

    if method == "auto":
        estimator, comparison = choose(samples, reference, learn)
        report |= {"auto": comparison}
    else:
        estimator = learn(method, samples)
    if kept:
        kept.remove()
    estimator = replace(estimator, report=made | report | estimator.report)
    off = {
        name: f"{z:.3f} +- {error:.3f}"
        for name, (z, error) in estimator.normalisation.items()
        if abs(z - 1) > max(0.02, 5 * error)
    }
    if off:
        warn(
            f"E_q[r] was not 1 before normalisation: {off}; train longer, or with a reference that covers these parts",
            NormalisationWarning,
            stacklevel=2,
        )
    return estimator


def _learn(
    method: str,
    chosen: Mapping[str, Any],
    events: SimulatedEvents,
    seed: int,
    options: TrainingOptions,
    training: Training,
) -> RatioEstimator:
    """An estimator, not normalised yet."""
    if method == "linear":
        return train_linear(events, seed, options, **_features(chosen))
    if method == "pare":
        return _train_pare(events, dict(chosen), training)
    if method == "rosmm_r":
        return _train_refined(events, dict(chosen), options, training)
    if method == "rosmm_c":
        whole_samples(events.samples)
        return refit_coefficients(training(events, _objective(method, chosen, events)), events.samples)
    return training(events, _objective(method, chosen, events))


def _objective(method: str, options: Mapping[str, Any], events: SimulatedEvents) -> Objective:
    if method in _DIRECT:
        return direct(events, make_loss(method, **options), method)
    if options:
        raise InvalidData(f"method {method!r} has no options, got {dict(options)}")
    return _NETWORKS[method](events)


def _train_pare(events: SimulatedEvents, options: dict[str, Any], training: Training) -> RatioEstimator:
    """With its pole watched; ``rho: auto`` starts again where ratios reach below it, with the margin of the pilot."""
    whole_samples(events.samples)
    automatic = options.get("rho") == "auto"
    if automatic:
        options["rho"] = pilot_rho(events)
    tried: list[dict[str, float]] = []
    while True:
        loss = make_loss("pare", **options)
        rho = math.sqrt(-loss.pole)
        try:
            estimator = training(events, replace(direct(events, loss, "pare"), watch=PoleWatch(events, loss)))
        except PoleTooNear as error:
            tried.append({"rho": rho, "eigenvalue": error.eigenvalue})
            if not automatic or len(tried) == _MOST_POLES:
                raise
            options["rho"] = math.sqrt(max(2 * rho**2, MARGIN * (rho**2 - error.eigenvalue)))
            continue
        pole = estimator.report["pole"]
        tried.append({"rho": rho, "eigenvalue": pole["eigenvalue"]})
        return replace(estimator, report=estimator.report | {"pole": pole | {"tried": tried}})


def _train_refined(
    events: SimulatedEvents, chosen: dict[str, Any], options: TrainingOptions, training: Training
) -> RatioEstimator:
    """RoSMM-r: the classifiers of the parts, then a signed loss of what they say together."""
    name, networks = chosen.pop("loss", "lsif"), chosen.pop("networks", "softmax")
    if networks not in ("softmax", "separate"):
        known = did_you_mean(str(networks), ("softmax", "separate"), "networks")
        raise UnknownName(f"method 'rosmm_r' has no networks {networks!r}; {known}")
    separate, automatic = networks == "separate", name == "pare" and chosen.get("rho") == "auto"
    if automatic:
        chosen["rho"] = pilot_rho(events)
    loss = make_loss(name, **chosen)
    whole_samples(events.samples)
    first = training(events, rosmm(events) if separate else mixture(events))
    lowest = lowest_ratio(first, events)
    if automatic and lowest < loss.pole / MARGIN:
        loss = make_loss(name, rho=math.sqrt(-MARGIN * lowest))
    if lowest <= loss.pole:
        raise PoleTooNear(
            f"method 'rosmm_r': the parts give ratios down to {lowest:.4g}, but loss {name!r} has its pole at "
            f"{loss.pole:.4g}; raise rho, take rho: auto, or a loss without a pole (lsif, revert)",
            lowest - loss.pole,
        )
    again = replace(options, learning_rate=_REFINEMENT * options.learning_rate)
    estimator = training(events, refined(events, loss, separate=separate), options=again, begin=first.networks.stack)
    if math.isinf(loss.pole):
        return estimator
    pole = {"rho": math.sqrt(-loss.pole), "pole": loss.pole, "lowest_ratio": lowest_ratio(estimator, events)}
    return replace(estimator, report=estimator.report | {"pole": pole})


def _features(options: Mapping[str, Any]) -> dict[str, int]:
    n = options.get("features", 1)
    if options.keys() - {"features"} or not isinstance(n, int) or n < 1:
        raise InvalidData(f"method 'linear' has one option, features (1 or more), got {dict(options)}")
    return dict(options)


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
    for name in estimator.parts:
        r = table[name]
        sums = np.bincount(pool.part, pool.weights * r, minlength=len(fraction))
        mean_of_part = sums / np.where(fraction > 0, fraction, 1.0)
        error = np.linalg.norm(pool.weights * (r - mean_of_part[pool.part]))
        result[name] = (float(sums.sum()), float(error))
    return result
