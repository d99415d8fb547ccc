"""Density ratios with parameters as inputs of the network, r(x; theta), for what does not factorise.

`train_parametrised` takes a sample for each of some points theta, or one sample whose events carry theta in columns.
Theta says nothing about the class: reference events carry thetas copied at random from the numerator, so that the
network can only learn how x depends on theta (CARL, arXiv:1506.02169). It interpolates between points; how densely
they have to lie is seen at a point that is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.errors import BiasedMethodWarning, InvalidData, NormalisationWarning
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import Pool
from nuratio.ratios.heads import Direct
from nuratio.ratios.losses import make_loss
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.parametrised import ParametrisedEstimator, Theta, label_of, theta_values
from nuratio.training.baselines import BIAS
from nuratio.training.checkpoint import Checkpoint, fingerprint
from nuratio.training.loop import fit_networks, require_device, split_events
from nuratio.training.statistics import check_statistics

__all__ = ["train_parametrised"]

Floats = NDArray[np.float64]

_WHAT = "parametrised ratio"  # in messages
_ROUNDING = 1e-6  # of the trained range: thetas in columns of events are float32
_CHECKED = 9  # points at which E_q[r] is compared with 1
_OFF = 0.05  # of 1


@dataclass(frozen=True, eq=False)
class _Numerator:
    """All events of p(x|theta), with theta in columns after the features.

    Attributes
    ----------
    events : EventSample
        Weights with the sum 1 at each point, or in all where theta is continuous.
    share : ndarray, shape (n,)
        How often a reference event gets an event's theta; positive, sum 1.
    points : ndarray, shape (J, k)
        Where there are samples: the J points, or all n thetas.
    bounds : ndarray, shape (m, k + 1)
        See `ParametrisedEstimator`.
    """

    events: EventSample
    share: Floats
    points: Floats
    bounds: Floats


def train_parametrised(
    samples: Mapping[Any, EventSample] | Iterable[tuple[Theta, EventSample]] | EventSample,
    reference: EventSample | None = None,
    *,
    names: Sequence[str],
    loss: str = "auto",
    loss_options: Mapping[str, float] | None = None,
    seed: int = 0,
    options: TrainingOptions | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
) -> ParametrisedEstimator:
    """Train r(x; theta) = p(x|theta) / q(x) with one network for all theta.

    Parameters
    ----------
    samples : mapping of theta to EventSample, sequence of (theta, EventSample), or EventSample
        Simulations of p(x|theta), weights of either sign, at two points or more: all points count alike, whatever their
        yields. Or one sample with a column for each parameter, drawn from any distribution that fills the range of
        interest; where the mean weight at theta is small, r is learned from few events.
    reference : EventSample or None
        Sample of q, with positive weights; it must cover the support of all p(x|theta). None: the mixture of the |p| of
        all samples, in equal shares, which does and bounds the ratios.
    names : sequence of str
        Names of the k parameters.
    loss : str
        ``auto``: ``bce`` if all weights are positive (the logit is ln r), else ``revert``. Or any key of
        `nuratio.ratios.losses.LOSSES`.
    loss_options : mapping or None
        ``rho`` of ``pare``.
    seed : int
        Of the copied thetas, initialisation and shuffling.
    options : TrainingOptions or None
        None: `TrainingOptions()`.
    progress : bool or None
        Show a progress bar on stderr; None: on a terminal, if it takes long.
    checkpoint : path or None
        A file to continue from after an interruption; see `nuratio.train`.
    device : str
        Where networks learn; see `nuratio.train`.

    Returns
    -------
    ParametrisedEstimator
        Cross-fitted by event id, normalised to E_q[r(.; theta)] = 1 at every theta.

    Raises
    ------
    InvalidData
        Fewer than two points, points that do not span all parameters, features that differ, a sample whose weights
        cancel, a reference with negative weights, too few events for the folds.
    InvalidConfig
        Options with ``bootstrap``.
    UnknownName
        An unknown loss or column.
    FitFailed
        A training that diverged.

    Warns
    -----
    BiasedMethodWarning
        ``bce`` or ``mse`` with weights of both signs.
    StatisticsWarning
        An effective size of all samples together (the points alike), or of the reference, below 1000.
    NormalisationWarning
        E_q[r] that had to be corrected by more than 5% and 5 standard errors at a point.

    Notes
    -----
    Events that are in numerator and reference need the same ids in both. Small errors of ln r matter: where 5000 events
    of N(theta, 1) are fitted after training on some 10 000 events at each of five points, estimates were off by up to
    0.7 of their error, mostly towards the middle of the points, and by up to 1.8 after a short training.
    """
    require_device(device)
    options = TrainingOptions() if options is None else options.without_bootstrap("parametrised ratios")
    names = tuple(names)
    numerator = _with_columns(samples, names) if isinstance(samples, EventSample) else _at_points(samples, names)
    events = numerator.events
    q = _pooled(numerator) if reference is None else _comparable(reference, numerator)
    signed = bool((events.weights < 0).any())
    name = ("revert" if signed else "bce") if loss == "auto" else loss
    head = Direct(make_loss(name, **(loss_options or {})), name)
    if signed and f"{name}_signed" in BIAS:
        warn(f"loss {name!r} with signed weights: {BIAS[f'{name}_signed']}", BiasedMethodWarning, stacklevel=2)
    low, high = numerator.points.min(axis=0), numerator.points.max(axis=0)
    report: dict[str, Any] = {
        "range": ", ".join(f"{p} from {a:.6g} to {b:.6g}" for p, a, b in zip(names, low, high, strict=True)),
        "loss": name,
        "reference": "pooled" if reference is None else "given",
        "seed": seed,
    } | check_statistics({"numerator": events, "reference": q}, options)

    x, ids, of_p, of_q = _joint(numerator, q, np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)
    networks = NetworkStack([len(events.names), *options.hidden, 1], options.folds * options.ensemble)
    networks.standardise(x, np.abs(of_p) + of_q)
    networks.initialise(generator, head.loss.output(torch.ones(1, dtype=torch.float32)).tolist())
    networks.to(device)
    inputs, weight_p, weight_q = (torch.from_numpy(array.astype(np.float32)).to(device) for array in (x, of_p, of_q))
    kept = None
    if checkpoint is not None:
        settings = {"names": names, "loss": name, "loss_options": dict(loss_options or {}), "seed": seed}
        trained_on = {"numerator": events, "reference": q}
        kept = Checkpoint.open(checkpoint, fingerprint(trained_on, **settings, options=options.to_dict()))

    def cost(rows: Tensor, chosen: slice) -> Tensor:
        u = networks(inputs[rows], chosen)[..., 0]
        return weight_p[rows] * head.loss.numerator(u) + weight_q[rows] * head.loss.denominator(u)

    splits = split_events(ids, options)
    report |= fit_networks(networks, cost, splits, options, generator, label=_WHAT, progress=progress, checkpoint=kept)
    if kept:
        kept.remove()
    estimator = ParametrisedEstimator(
        parameters=names,
        bounds=numerator.bounds,
        head=head,
        pool=Pool(q.features, q.weights / q.total, q.ids, np.zeros(len(q), dtype=np.int64), ("reference",)),
        networks=CrossFit(networks.cpu(), events.names, options),
        report=report,
    )
    return _checked(estimator, numerator.points)


def _joint(
    numerator: _Numerator, q: EventSample, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64], Floats, Floats]:
    """Features with theta, ids, and weights of numerator and reference, of the events of both: shapes (n, d + k), (n,).

    The reference is repeated, with other thetas each time, until it has the size of the numerator.
    """
    p = numerator.events
    copies = -(-len(p) // len(q))
    theta = _copied_thetas(numerator, len(q), copies, rng)
    x = np.concatenate([p.features, np.column_stack([np.tile(q.features, (copies, 1)), theta])])
    weights = np.concatenate([p.weights / p.total, np.tile(q.weights, copies) / (copies * q.total)]) * len(x) / 2
    of_p = np.arange(len(x)) < len(p)
    return x, np.concatenate([p.ids, np.tile(q.ids, copies)]), np.where(of_p, weights, 0), np.where(of_p, 0, weights)


def _copied_thetas(numerator: _Numerator, n: int, copies: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Thetas of n reference events, repeated: drawn at random from the numerator's, shape (copies * n, k).

    Quantiles are spread evenly over the events and over the copies of each, which leaves less to chance than
    independent ones: with as many copies as points every event has every theta.
    """
    first = (rng.permutation(n) + rng.random(n)) / n
    quantiles = (first + np.arange(copies)[:, None] / copies) % 1
    rows = np.searchsorted(np.cumsum(numerator.share), quantiles.ravel()).clip(max=len(numerator.share) - 1)
    return numerator.events.features[rows, -numerator.points.shape[1] :]


def _at_points(
    samples: Mapping[Any, EventSample] | Iterable[tuple[Theta, EventSample]], names: tuple[str, ...]
) -> _Numerator:
    """Events of samples at points: the weights of each have the sum 1."""
    given = list(samples.items() if isinstance(samples, Mapping) else samples)
    points = np.array([theta_values(theta, names) for theta, _ in given])
    if len(np.unique(points, axis=0)) < max(len(given), 2):
        raise InvalidData(f"{_WHAT} needs samples at two or more different points, got {points.tolist()}")
    parts = [events for _, events in given]
    for label, events in zip((label_of(point, names) for point in points), parts, strict=True):
        _require_net(events, f"the sample at {label}")
        if events.names != parts[0].names:
            raise InvalidData(
                f"the sample at {label} has the features {list(events.names)}, the first one {list(parts[0].names)}; "
                "read both with the same features in the same order"
            )
    theta = np.repeat(points, [len(events) for events in parts], axis=0)
    together = EventSample(
        np.column_stack([np.concatenate([events.features for events in parts]), theta]),
        np.concatenate([events.weights / events.total for events in parts]),
        parts[0].names + names,
        np.concatenate([events.ids for events in parts]),
    )
    share = np.concatenate([np.abs(events.weights) / np.abs(events.weights).sum() for events in parts])
    return _Numerator(together, share / len(parts), points, _half_spaces(points, names, hull=True))


def _with_columns(sample: EventSample, names: tuple[str, ...]) -> _Numerator:
    """Events that carry their own thetas."""
    _require_net(sample, "the numerator")
    features = tuple(name for name in sample.names if name not in names)
    columns = np.column_stack([sample.column(name) for name in features + names])
    points = columns[:, len(features) :].astype(np.float64)
    events = EventSample(columns, sample.weights / sample.total, features + names, sample.ids)
    share = np.abs(sample.weights) / np.abs(sample.weights).sum()
    return _Numerator(events, share, points, _half_spaces(points, names, hull=False))


def _require_net(events: EventSample, which: str) -> None:
    if events.cancels:
        raise InvalidData(f"{which}: its weights cancel (sum {events.total:.3g}), so it has no normalised density")


def _half_spaces(points: Floats, names: tuple[str, ...], *, hull: bool) -> Floats:
    """The convex hull of points, or the box around them, as `ParametrisedEstimator.bounds`."""
    low, width = points.min(axis=0), np.ptp(points, axis=0)
    for name, extent in zip(names, width, strict=True):
        if extent == 0:
            raise InvalidData(f"{_WHAT}: {name!r} has one value throughout; leave it out of the parameters")
    k = len(names)
    unit = np.block([[np.eye(k), np.full((k, 1), -1.0)], [-np.eye(k), np.zeros((k, 1))]])
    if hull and k > 1:
        try:
            unit = np.unique(ConvexHull((points - low) / width).equations.round(9), axis=0)
        except QhullError as error:
            raise InvalidData(
                f"{_WHAT}: the {len(points)} points do not span the parameters {list(names)}; they need "
                f"{k + 1} or more that do not lie in one plane"
            ) from error
    normal, offset = unit[:, :-1] / width, unit[:, -1:] - _ROUNDING
    return np.hstack([normal, offset - normal @ low[:, None]])


def _pooled(numerator: _Numerator) -> EventSample:
    """The mixture of the |p| of all points."""
    p, d = numerator.events, len(numerator.events.names) - numerator.points.shape[1]
    return EventSample(p.features[:, :d], numerator.share, p.names[:d], p.ids)


def _comparable(q: EventSample, numerator: _Numerator) -> EventSample:
    """The reference, if it is one."""
    features = numerator.events.names[: -numerator.points.shape[1]]
    if q.names != features:
        raise InvalidData(
            f"the reference has the features {list(q.names)}, the numerator {list(features)}; read both with the same "
            "features in the same order"
        )
    negative = np.flatnonzero(q.weights < 0)
    if negative.size:
        raise InvalidData(
            f"reference: {negative.size} of {len(q)} weights are negative (first: event {negative[0]}); it must be a "
            "positive density: take reference=None, the mixture of all |p|"
        )
    return q


def _checked(estimator: ParametrisedEstimator, points: Floats) -> ParametrisedEstimator:
    """The estimator with E_q[r] at some points in its report, and a warning where it is off."""
    some = np.unique(np.linspace(0, len(points) - 1, _CHECKED).astype(int))
    found = {label_of(points[i], estimator.parameters): estimator.normalisation(points[i]) for i in some}
    estimator.report["normalisation"] = {label: list(pair) for label, pair in found.items()}
    off = {at: f"{z:.3f} +- {error:.3f}" for at, (z, error) in found.items() if abs(z - 1) > max(_OFF, 5 * error)}
    if off:
        warn(
            f"E_q[r] was not 1 before normalisation: {off}; train longer, with more points, or with a reference that "
            "covers these densities",
            NormalisationWarning,
            stacklevel=3,
        )
    return estimator
