"""The training loop: which events each network sees, and gradient descent with early stopping.

`split_events` decides the first by event id alone and is a pure function; `fit_networks` trains a whole stack at once,
every network on its own events.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuratio.data.split import fold_of
from nuratio.errors import FitFailed, InvalidData
from nuratio.parallel.frozen import Frozen
from nuratio.parallel.progress import progress_bar
from nuratio.parallel.tasks import run_tasks
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.checkpoint import Checkpoint, State

__all__ = ["Loss", "Split", "fit_networks", "one_torch_thread", "require_device", "split_events"]

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
    executor: Executor | None = None,
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
    executor : concurrent.futures.Executor or None
        Where models are trained, each as a task of its own on one thread; None: here, all at once. Networks do not
        depend on the executor and its workers, and are those of None up to rounding. What is watched is trained here.

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
    if executor is not None and checkpoint is not None:
        raise InvalidData(f"{label}: a training on an executor keeps no checkpoint; give one of the two")
    course = _Course(networks, loss, tuple(splits), options, label)
    descent = course.begin(generator)
    if executor is not None and watch is None:
        course.train_apart(descent, executor, progress)
        return {"epoch": descent.kept_epoch, "held_out_loss": descent.kept_loss}
    stage = checkpoint.begin() if checkpoint else 0
    if checkpoint and stage in checkpoint.stages:
        descent.restore(checkpoint.stages[stage])
    with progress_bar(label, options.epochs, progress, done=descent.epoch) as advance:
        while course.goes_on(descent):
            course.epoch(descent)
            if watch:
                watch()
            if checkpoint:
                checkpoint.save(stage, descent.state)
            advance(f"held-out loss {np.mean(descent.kept_loss):.5f}")
    descent.finish()
    return {"epoch": descent.kept_epoch, "held_out_loss": descent.kept_loss}


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Around tasks that may run in this process: they compute on one thread, as in workers."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class _Course:
    """What a training consists of, but for its state, which is a `_Descent`."""

    networks: NetworkStack
    loss: Loss
    splits: tuple[Split, ...]
    options: TrainingOptions
    label: str

    @property
    def _sizes(self) -> tuple[int, int]:
        """Steps of an epoch, and events of a step."""
        fewest = min(len(split.training) for split in self.splits)
        batch = max(1, min(self.options.batch_size, fewest // _MIN_STEPS))
        return fewest // batch, batch

    def begin(self, generator: torch.Generator) -> "_Descent":
        """The state at the start."""
        return _Descent(self.networks, self.splits, self.options, generator, self._sizes[0])

    def goes_on(self, descent: "_Descent", models: slice = slice(None)) -> bool:
        """Whether these models have another epoch before them."""
        patient = descent.epoch - max(descent.kept_epoch[models]) < self.options.patience
        return descent.epoch < self.options.epochs and patient

    def epoch(self, descent: "_Descent", models: slice = slice(None)) -> None:
        """One epoch of these models; all see the same events whichever are trained."""
        steps, batch = self._sizes
        training = [torch.from_numpy(split.training) for split in self.splits]
        shuffled = [rows[torch.randperm(len(rows), generator=descent.generator)[: steps * batch]] for rows in training]
        order = torch.stack(shuffled[models])
        for start in range(0, steps * batch, batch):
            descent.step(self.loss(order[:, start : start + batch], models).mean(1).sum())
        descent.epoch += 1
        for m in range(len(self.splits))[models]:
            held_out = _held_out_losses(self.loss, self.splits[m], m)
            if not np.isfinite(held_out).all():
                raise FitFailed(
                    f"{self.label}: the held-out loss is not finite after epoch {descent.epoch}; lower the learning "
                    f"rate ({self.options.learning_rate:g}) and look for extreme weights or features"
                )
            descent.keep(m, held_out)

    def train_apart(self, descent: "_Descent", executor: Executor, progress: bool | None) -> None:
        """Train the models one by one on an executor, all for as many epochs as together.

        Together they stop once none has improved for a while. A model alone does so earlier; it then goes on for as
        long as any other did.
        """
        frozen = Frozen.of((self, descent.generator.get_state().numpy()))
        states: dict[int, State] = {}
        waiting, until = list(range(len(self.splits))), 0
        with one_torch_thread(), progress_bar(self.label, len(waiting), progress) as advance:
            while waiting:
                tasks = [(m, states.get(m), until) for m in waiting]
                for position, state in run_tasks(_train_model, frozen, tasks, executor=executor):
                    if waiting[position] not in states:
                        advance(f"held-out loss {state.values['kept_loss'][waiting[position]]:.5f}")
                    states[waiting[position]] = state
                until = max(state.values["epoch"] for state in states.values())
                waiting = [m for m, state in sorted(states.items()) if state.values["epoch"] < until]
        for m, state in states.items():
            descent.take(m, state)
        descent.finish()


def _train_model(frozen: Frozen, task: tuple[int, State | None, int]) -> State:
    """In a worker: one model from a state, or from the start, until it stops by itself, and at least until an epoch."""
    torch.set_num_threads(1)
    m, state, until = task
    course, begin = frozen.thaw()
    generator = torch.Generator()
    generator.set_state(torch.from_numpy(begin))
    descent = course.begin(generator)
    if state is not None:
        descent.restore(state)
    own = slice(m, m + 1)
    while descent.epoch < until or course.goes_on(descent, own):
        course.epoch(descent, own)
    found: State = descent.state()
    return found


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
        self._networks, self.generator, self._clip = networks, generator, options.clip
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

    def take(self, model: int, state: State) -> None:
        """What a model kept in another descent."""
        own = slice(model * self._width, (model + 1) * self._width)
        self.kept_loss[model], self.kept_epoch[model] = (state.values[k][model] for k in ("kept_loss", "kept_epoch"))
        for i, copy in enumerate(self._kept):
            copy[own] = torch.from_numpy(state.arrays[f"kept.{i}"][own]).to(copy)

    def finish(self) -> None:
        """Put the kept states in place."""
        with torch.no_grad():
            for copy, parameter in zip(self._kept, self._parameters, strict=True):
                parameter.copy_(copy)
        self._networks.requires_grad_(False)

    def state(self) -> State:
        optimiser = self._optimiser.state_dict()
        arrays: dict[str, NDArray[Any]] = {"generator": self.generator.get_state().numpy()}
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
        self.generator.set_state(arrays["generator"])
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
