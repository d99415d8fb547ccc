"""The training loop: which events each network sees, and gradient descent with early stopping.

`split_events` decides the first by event id alone and is a pure function; `fit_networks` trains a whole stack at once,
every network on its own events.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuratio.data.split import fold_of
from nuratio.errors import FitFailed, InvalidData
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.progress import progress_bar

__all__ = ["Loss", "Split", "fit_networks", "split_events"]

Loss = Callable[[Tensor, slice], Tensor]
"""(rows, members) -> weighted loss per event: ``rows``, shape (m, b), are the events of each of the m members."""

_MIN_STEPS = 16  # per epoch
_VALIDATION_SEED = 0x5EED  # offset from the fold seed: being held out is independent of the fold
_TOLERANCE = 2.0  # standard errors by which a state may be worse than the best
_CHUNK = 16384  # events per evaluation of the held-out loss


@dataclass(frozen=True, eq=False)
class Split:
    """Event indices of one network: trained on, held out for early stopping, and never seen (its fold)."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split_events(event_ids: NDArray[np.int64], options: TrainingOptions) -> list[Split]:
    """One split per network, fold-major (network m belongs to fold m // ensemble); all rows of one id go together.

    The members of a fold hold out different events, so that together they learn from all of them.
    """
    fold = fold_of(event_ids, options.folds, options.fold_seed)
    buckets = round(1 / options.validation_fraction)
    bucket = fold_of(event_ids, buckets, options.fold_seed + _VALIDATION_SEED)
    splits = []
    for k in range(options.folds):
        for member in range(options.ensemble):
            seen, held_out = fold != k, bucket == member % buckets
            splits.append(
                Split(np.flatnonzero(seen & ~held_out), np.flatnonzero(seen & held_out), np.flatnonzero(~seen))
            )
    return splits


def fit_networks(
    networks: NetworkStack,
    loss: Loss,
    splits: Sequence[Split],
    options: TrainingOptions,
    generator: torch.Generator,
    *,
    label: str,
    progress: bool | None = None,
) -> dict[str, list[float]]:
    """Train every network of the stack in place: AdamW with a cosine learning rate, early stopping.

    Each network keeps its latest state that is not worse on its held-out events than the best one by more than two
    standard errors of the difference. (The best state itself is a pick among fluctuations: on 17000 held-out events it
    moved ratios by ten times the spread between the last, annealed states.) Members share steps, not events.

    Returns
    -------
    dict
        For the report: per network the ``epoch`` (from 1) whose state it kept, and the ``held_out_loss`` there.

    Raises
    ------
    InvalidData
        So few events that a network has none to be held out.
    FitFailed
        A held-out loss that is not finite.
    """
    if min(len(split.validation) for split in splits) == 0:
        raise InvalidData(
            f"{label}: too few events ({len(splits[0].training)} to train on) to hold out "
            f"{options.validation_fraction:g} of them for the early stopping; simulate more or hold out more"
        )
    training = [torch.from_numpy(split.training) for split in splits]
    fewest = min(len(rows) for rows in training)
    batch = max(1, min(options.batch_size, fewest // _MIN_STEPS))
    steps = fewest // batch
    parameters = list(networks.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.epochs * steps)
    best = [np.full(len(split.validation), np.inf) for split in splits]
    kept = [p.detach().clone() for p in parameters]
    kept_loss, kept_epoch = np.zeros(len(splits)), np.zeros(len(splits), dtype=int)
    with progress_bar(label, options.epochs, progress) as advance:
        for epoch in range(1, options.epochs + 1):
            order = torch.stack(
                [rows[torch.randperm(len(rows), generator=generator)[: steps * batch]] for rows in training]
            )
            for start in range(0, steps * batch, batch):
                optimiser.zero_grad()
                loss(order[:, start : start + batch], slice(None)).mean(1).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
            for m, split in enumerate(splits):
                held_out = _held_out_losses(loss, split, m)
                if not np.isfinite(held_out).all():
                    raise FitFailed(
                        f"{label}: the held-out loss is not finite after epoch {epoch}; lower the learning rate "
                        f"({options.learning_rate:g}) and look for extreme weights or features"
                    )
                if held_out.mean() < best[m].mean():
                    best[m] = held_out
                worse = held_out - best[m]
                if worse.mean() <= _TOLERANCE * worse.std() / np.sqrt(len(worse)):
                    kept_loss[m], kept_epoch[m] = held_out.mean(), epoch
                    for copy, parameter in zip(kept, parameters, strict=True):
                        copy[m] = parameter.detach()[m]
            advance(f"epoch {epoch}, held-out loss {kept_loss.mean():.5f}")
            if epoch - kept_epoch.max() >= options.patience:
                break
    with torch.no_grad():
        for copy, parameter in zip(kept, parameters, strict=True):
            parameter.copy_(copy)
    networks.requires_grad_(False)
    return {"epoch": kept_epoch.tolist(), "held_out_loss": kept_loss.tolist()}


def _held_out_losses(loss: Loss, split: Split, member: int) -> NDArray[np.float64]:
    """Loss of one network at each of its validation events."""
    rows = torch.from_numpy(split.validation)[None]
    with torch.no_grad():
        losses = [
            loss(rows[:, start : start + _CHUNK], slice(member, member + 1))[0]
            for start in range(0, rows.shape[1], _CHUNK)
        ]
    return torch.cat(losses).double().numpy()
