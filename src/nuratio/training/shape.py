"""Shape variations of one positive part under one nuisance parameter, from its varied simulations.

Use `train_shape` once per part and nuisance: changing one systematic then retrains it and nothing else.
"""

from collections.abc import Mapping
from pathlib import Path
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, LeakageWarning
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.shape import ShapeEstimator
from nuratio.training.checkpoint import Checkpoint, fingerprint
from nuratio.training.loop import fit_networks, require_device, split_events
from nuratio.training.statistics import check_statistics

__all__ = ["SHAPE_OPTIONS", "train_shape"]

SHAPE_OPTIONS = TrainingOptions(
    hidden=(32, 32), epochs=15, batch_size=2048, learning_rate=1e-2, weight_decay=1e-2, ensemble=1
)
"""Defaults for shapes: they vary gently, so a small network and a stronger pull to zero."""

_ALPHA = {"up": 1.0, "down": -1.0}
_HEAD_SCALE = 0.1  # D1 and D2 of most systematics are small


def train_shape(
    nominal: EventSample,
    up: EventSample | None = None,
    down: EventSample | None = None,
    *,
    name: str = "shape variation",
    seed: int = 0,
    options: TrainingOptions | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
) -> ShapeEstimator:
    """Train D1, D2 of ln[p(x|alpha) / p(x|0)] = alpha D1 + alpha^2 D2 from simulations at alpha = +1 and -1.

    Binary cross-entropy of varied against nominal events with the logit alpha D1 + alpha^2 D2 (arXiv:2406.19076);
    shapes only: the weights |w| of each simulation are normalised. With one direction alone the form is linear, D2 = 0.

    Parameters
    ----------
    nominal, up, down : EventSample
        One part (all weights of one sign) at alpha = 0, +1 and -1; at least one of ``up`` and ``down``. Event ids link
        the variations of a generated event. Where only the weights vary, pass the same features.
    name : str
        Names the variation in messages.
    seed : int
        Of initialisation and shuffling.
    options : TrainingOptions or None
        None: `SHAPE_OPTIONS`. Take ``folds`` and ``fold_seed`` from the ratio estimator used beside it.
    progress : bool or None
        Show a progress bar on stderr; None: on a terminal, if it takes long.
    checkpoint : path or None
        A file to continue from after an interruption; see `nuratio.train`.
    device : str
        Where networks learn; see `nuratio.train`.

    Raises
    ------
    InvalidData
        No variation, weights of both signs, differing features, or too few events for the folds; a checkpoint of
        another training.
    FitFailed
        A training that diverged.

    Warns
    -----
    StatisticsWarning
        An effective sample size below 1000.
    LeakageWarning
        Samples of different lengths without event ids: a generated event and its variation may sit on both sides.
    """
    require_device(device)
    options = SHAPE_OPTIONS if options is None else options
    varied = {direction: v for direction, v in (("up", up), ("down", down)) if v is not None}
    given = {f"{name}: {which}": events for which, events in ({"nominal": nominal} | varied).items()}
    _require_comparable(name, given)
    if len({len(v) for v in given.values()}) > 1 and any(v.event_ids is None for v in given.values()):
        warn(
            f"{name}: the samples differ in length and lack event ids, so a generated event cannot be kept on one "
            "side of the split in all of them; pass event_ids",
            LeakageWarning,
            stacklevel=2,
        )
    kept = None
    if checkpoint is not None:
        kept = Checkpoint.open(
            checkpoint,
            fingerprint({"nominal": nominal} | varied, shape=list(varied), seed=seed, options=options.to_dict()),
        )
    report = {"name": name, "seed": seed, "directions": list(varied)} | check_statistics(given, options)
    x, ids, weight = _linked([nominal, *varied.values()])
    networks = NetworkStack(
        [len(nominal.names), *options.hidden, len(varied)], options.folds * options.ensemble, output_scale=_HEAD_SCALE
    )
    generator = torch.Generator().manual_seed(seed)
    networks.standardise(nominal.features, np.abs(nominal.weights))
    networks.initialise(generator, [0.0] * len(varied))
    networks.to(device)
    events, weights = torch.from_numpy(x).to(device), torch.from_numpy(weight).to(device)
    alpha = torch.tensor([_ALPHA[direction] for direction in varied], dtype=torch.float32, device=device)
    powers = torch.stack([alpha, alpha**2])[: len(varied)]  # (outputs, directions); linear with one direction

    def loss(rows: Tensor, members: slice) -> Tensor:
        outputs = networks(events[rows].flatten(1, 2), members)
        logits = (outputs @ powers).unflatten(1, (rows.shape[1], -1)).expand(-1, -1, len(given), -1)
        at_nominal, at_varied = logits[:, :, 0], logits[:, :, 1:].diagonal(dim1=2, dim2=3)  # (members, b, directions)
        w = weights[rows]
        return (w[..., :1] * softplus(at_nominal) + w[..., 1:] * softplus(-at_varied)).sum(-1)

    splits = split_events(ids, options)
    history = fit_networks(networks, loss, splits, options, generator, label=name, progress=progress, checkpoint=kept)
    if kept:
        kept.remove()
    return ShapeEstimator(CrossFit(networks.cpu(), nominal.names, options), report | history)


def _require_comparable(name: str, given: Mapping[str, EventSample]) -> None:
    if len(given) == 1:
        raise InvalidData(f"{name}: neither an up nor a down variation was given")
    (label, nominal), *varied = given.items()
    for other, events in varied:
        if events.names != nominal.names:
            raise InvalidData(f"{other!r} has the features {list(events.names)}, {label!r} has {list(nominal.names)}")
    sign = np.sign(nominal.total)
    for label, events in given.items():
        wrong = np.count_nonzero(events.weights * sign < 0)
        if wrong:
            raise InvalidData(
                f"{label!r}: {wrong} of {len(events)} weights have the other sign than the nominal sum; "
                "train each sign of a sample by itself (EventSample.sign)"
            )


def _linked(given: list[EventSample]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Features, shape (n, v, d), ids, shape (n,), and weights, shape (n, v), of n generated events in v samples.

    A generated event and its variations share a row, so that they share every batch and their common fluctuation
    cancels in the gradient. A sample without the event has weight 0 there. Where all samples have the same features
    (only the weights vary), features have shape (n, 1, d): one evaluation serves all.
    """
    nominal, *varied = given
    share = [events.weights / events.total for events in given]
    if all(np.array_equal(v.ids, nominal.ids) and np.array_equal(v.features, nominal.features) for v in varied):
        x, ids, weight = nominal.features[:, None].copy(), nominal.ids, np.stack(share, axis=1)
    else:
        keys = np.concatenate([_keys(events.ids) for events in given])
        unique, row = np.unique(keys, return_inverse=True)
        sample = np.repeat(np.arange(len(given)), [len(events) for events in given])
        x = np.zeros((len(unique), len(given), len(nominal.names)), dtype=np.float32)
        x[row, sample] = np.concatenate([events.features for events in given])
        weight = np.zeros((len(unique), len(given)))
        weight[row, sample] = np.concatenate(share)
        ids = unique["id"].copy()
    scale = len(x) / (2 * len(varied))  # an untrained network then has a loss of ln 2
    return x, ids, (weight * scale).astype(np.float32)


def _keys(ids: NDArray[np.int64]) -> NDArray[np.void]:
    """(id, how many of the same id came before): unique within a sample."""
    order = np.argsort(ids, kind="stable")
    first = np.r_[True, np.diff(ids[order]) != 0]
    position = np.arange(len(ids))
    keys = np.empty(len(ids), dtype=[("id", np.int64), ("copy", np.int64)])
    keys["id"] = ids
    keys["copy"][order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return keys
