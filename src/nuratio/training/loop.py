"""The training loop: which events each network sees, and gradient descent with early stopping.

`split_events` decides the first by event id alone and is a pure function; `fit_networks` trains a whole stack at once,
every network on its own events.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuratio.data.split import fold_of
from nuratio.errors import FitFailed, InvalidData
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.checkpoint import Checkpoint, State
from nuratio.training.progress import progress_bar

__all__ = ["Loss", "Split", "fit_networks", "require_device", "split_events"]

Loss = Callable[[Tensor, slice], Tensor]
"""(rows, members) -> weighted loss per event: ``rows``, shape (m, b), are the events of each of these m models."""

_MIN_STEPS = 16  # per epoch
_VALIDATION_SEED = 0x5EED  # offset from the fold seed: being held out is independent of the fold
_TOLERANCE = 2.0  # standard errors by which a state may be worse than the best
_CHUNK = 16384  # events per evaluation of the held-out loss
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of Adam


def require_device(device: str) -> None:
    """Raise `InvalidData` if torch cannot use a device; said before any work."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidData(f"torch cannot use device {device!r}: {error}") from error


@dataclass(frozen=True, eq=False)
class Split:
    """Event indices of one network: trained on, held out for early stopping, and never seen (its fold)."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split_events(event_ids: NDArray[np.int64], options: TrainingOptions) -> list[Split]:
    """One split per network, fold-major (network m belongs to fold m // ensemble); all rows of one id go together.

    Networks hold out different events, so that together they learn from all of them.
    """
    fold = fold_of(event_ids, options.folds, options.fold_seed)
    buckets = round(1 / options.validation_fraction)
    bucket = fold_of(event_ids, buckets, options.fold_seed + _VALIDATION_SEED)
    splits = []
    for k in range(options.folds):
        for member in range(options.ensemble):
            seen, held_out = fold != k, bucket == (k * options.ensemble + member) % buckets
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
    checkpoint: Checkpoint | None = None,
    watch: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Train every network of the stack in place: AdamW with a cosine learning rate, clipped gradients, early stopping.

    Each split has one network, or several in a row that make one model together: the ``members`` of the loss are
    these models. Each keeps its latest state that is not worse on its held-out events than the best one by more than
    two standard errors of the difference. (The best state itself is a pick among fluctuations: on 17000 held-out events
    it moved ratios by ten times the spread between the last, annealed states.) Models share steps, not events.

    Parameters
    ----------
    networks : NetworkStack
    loss : Loss
    splits : sequence of Split
    options : TrainingOptions
    generator : torch.Generator
        Shuffles the events.
    label : str
        Names the training in messages.
    progress : bool or None
        Show a progress bar on stderr; None: on a terminal, if it takes long.
    checkpoint : Checkpoint or None
        Continues from the state that it has, and keeps later ones.
    watch : callable or None
        Called after every epoch; it may raise.

    Returns
    -------
    dict
        For the report: per model the ``epoch`` (from 1) whose state it kept, and the ``held_out_loss`` there.

    Raises
    ------
    InvalidData
        So few events that a model has none to be held out.
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
    descent = _Descent(networks, splits, options, generator, steps)
    stage = checkpoint.begin() if checkpoint else 0
    if checkpoint and stage in checkpoint.stages:
        descent.restore(checkpoint.stages[stage])
    with progress_bar(label, options.epochs, progress, done=descent.epoch) as advance:
        while descent.epoch < options.epochs and descent.epoch - max(descent.kept_epoch) < options.patience:
            order = torch.stack(
                [rows[torch.randperm(len(rows), generator=generator)[: steps * batch]] for rows in training]
            )
            for start in range(0, steps * batch, batch):
                descent.step(loss(order[:, start : start + batch], slice(None)).mean(1).sum())
            descent.epoch += 1
            for m, split in enumerate(splits):
                held_out = _held_out_losses(loss, split, m)
                if not np.isfinite(held_out).all():
                    raise FitFailed(
                        f"{label}: the held-out loss is not finite after epoch {descent.epoch}; lower the learning "
                        f"rate ({options.learning_rate:g}) and look for extreme weights or features"
                    )
                descent.keep(m, held_out)
            if watch:
                watch()
            if checkpoint:
                checkpoint.save(stage, descent.state)
            advance(f"epoch {descent.epoch}, held-out loss {np.mean(descent.kept_loss):.5f}")
    descent.finish()
    return {"epoch": descent.kept_epoch, "held_out_loss": descent.kept_loss}


class _Descent:
    """The optimiser, and the states that models keep; `state` is all that the following epochs depend on."""

    def __init__(
        self,
        networks: NetworkStack,
        splits: Sequence[Split],
        options: TrainingOptions,
        generator: torch.Generator,
        steps: int,
    ) -> None:
        self._networks, self._generator, self._clip = networks, generator, options.clip
        self._parameters = list(networks.parameters())
        self._width = len(networks.weights[0]) // len(splits)
        rate, decay = options.learning_rate, options.weight_decay
        self._optimiser = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=decay)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimiser, options.epochs * steps)
        self._best = [np.full(len(split.validation), np.inf) for split in splits]
        self._kept = [p.detach().clone() for p in self._parameters]
        self.epoch = 0
        self.kept_loss, self.kept_epoch = [0.0] * len(splits), [0] * len(splits)

    def step(self, loss: Tensor) -> None:
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip is not None:
            _clip([p.grad for p in self._parameters if p.grad is not None], self._clip)
        self._optimiser.step()
        self._schedule.step()

    def keep(self, model: int, held_out: NDArray[np.float64]) -> None:
        """Keep the present state of a model, unless its losses are worse than its best ones."""
        if held_out.mean() < self._best[model].mean():
            self._best[model] = held_out
        worse = held_out - self._best[model]
        if worse.mean() <= _TOLERANCE * worse.std() / np.sqrt(len(worse)):
            self.kept_loss[model], self.kept_epoch[model] = float(held_out.mean()), self.epoch
            own = slice(model * self._width, (model + 1) * self._width)
            for copy, parameter in zip(self._kept, self._parameters, strict=True):
                copy[own] = parameter.detach()[own]

    def finish(self) -> None:
        """Put the kept states in place."""
        with torch.no_grad():
            for copy, parameter in zip(self._kept, self._parameters, strict=True):
                parameter.copy_(copy)
        self._networks.requires_grad_(False)

    def state(self) -> State:
        optimiser = self._optimiser.state_dict()
        arrays: dict[str, NDArray[Any]] = {"generator": self._generator.get_state().numpy()}
        for i, (parameter, kept) in enumerate(zip(self._parameters, self._kept, strict=True)):
            moments = {name: moment.cpu().numpy().copy() for name, moment in optimiser["state"][i].items()}
            arrays |= {
                f"parameter.{i}": parameter.detach().cpu().numpy().copy(),
                f"kept.{i}": kept.cpu().numpy().copy(),
            }
            arrays |= {f"{name}.{i}": moment for name, moment in moments.items()}
        arrays |= {f"best.{m}": losses for m, losses in enumerate(self._best)}
        values = {
            "epoch": self.epoch,
            "kept_epoch": self.kept_epoch,
            "kept_loss": self.kept_loss,
            "param_groups": optimiser["param_groups"],
            "schedule": self._schedule.state_dict(),
        }
        return State(json.loads(json.dumps(values)), arrays)

    def restore(self, state: State) -> None:
        """Go back to a state made by `state`."""
        values, arrays = state.values, {name: torch.from_numpy(array) for name, array in state.arrays.items()}
        self.epoch, self.kept_epoch, self.kept_loss = values["epoch"], values["kept_epoch"], values["kept_loss"]
        moments = {i: {name: arrays[f"{name}.{i}"] for name in _MOMENTS} for i in range(len(self._parameters))}
        self._optimiser.load_state_dict({"state": moments, "param_groups": values["param_groups"]})
        self._schedule.load_state_dict(values["schedule"])
        self._generator.set_state(arrays["generator"])
        self._best = [state.arrays[f"best.{m}"] for m in range(len(self._best))]
        with torch.no_grad():
            for i, (parameter, kept) in enumerate(zip(self._parameters, self._kept, strict=True)):
                parameter.copy_(arrays[f"parameter.{i}"])
                kept.copy_(arrays[f"kept.{i}"])


def _clip(gradients: Sequence[Tensor], limit: float) -> None:
    """Scale the gradient of each network to a norm of at most ``limit``, in place; shapes (m, ...)."""
    norm = torch.stack([torch.linalg.vector_norm(g, dim=(1, 2)) for g in gradients]).norm(dim=0)
    if bool((norm > limit).any()):
        scale = (limit / norm).clamp(max=1)[:, None, None]
        for gradient in gradients:
            gradient.mul_(scale)


def _held_out_losses(loss: Loss, split: Split, member: int) -> NDArray[np.float64]:
    """Loss of one model at each of its validation events."""
    rows = torch.from_numpy(split.validation)[None]
    with torch.no_grad():
        losses = [
            loss(rows[:, start : start + _CHUNK], slice(member, member + 1))[0]
            for start in range(0, rows.shape[1], _CHUNK)
        ]
    return torch.cat(losses).cpu().double().numpy()
