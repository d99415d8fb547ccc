"""Trained networks on disk, found again by the content of what they were trained on.

The key of a training is a hash of its events (features, weights, ids), its options and its seed: a new cut or a changed
file retrains what depends on it and nothing else.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, NuratioWarning
from nuratio.parallel.tasks import run_tasks
from nuratio.training.checkpoint import sample_digest

__all__ = ["CHECKPOINT", "content_key", "load_or_train", "load_or_train_all"]

CHECKPOINT = "checkpoint.safetensors"
"""File in the directory of a training with which an interrupted one goes on."""

_FORMAT = 2  # raised when the same inputs would train to something else


class _Estimator(Protocol):
    def save(self, directory: str | Path, /) -> None: ...

    @classmethod
    def load(cls, directory: str | Path, /) -> Self: ...


E = TypeVar("E", bound=_Estimator)


def content_key(kind: str, samples: Mapping[str, EventSample | None], settings: Mapping[str, Any]) -> str:
    """Hash of everything a training depends on, 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps([_FORMAT, kind, list(samples), settings], sort_keys=True).encode())
    for sample in samples.values():
        if sample is None:
            digest.update(b"none")
            continue
        digest.update(sample_digest(sample).encode())
    return digest.hexdigest()[:16]


def load_or_train(kind: type[E], directory: Path, train: Callable[[], E]) -> tuple[E, bool]:
    """The estimator in ``directory``, or a newly trained one saved there; and whether it was trained now.

    See `load_or_train_all`.
    """
    ((estimator, new),) = load_or_train_all(kind, [(directory, train)])
    return estimator, new


def load_or_train_all(
    kind: type[E], jobs: Sequence[tuple[Path, Callable[[], E]]], executor: Executor | None = None
) -> list[tuple[E, bool]]:
    """For each directory and training the estimator in it, or a newly trained one saved there; and whether it is new.

    A directory that cannot be read (a run that was killed while writing) is trained again. If saving fails in the end
    (the disk is full) the result is not lost with it: a warning says that it is not in the cache.

    Parameters
    ----------
    kind : type
        Of the estimators.
    jobs : sequence of (Path, callable)
        Directories and trainings; one that occurs twice is trained once.
    executor : concurrent.futures.Executor, optional
        Where trainings run side by side; by default one after the other in this process.

    Raises
    ------
    InvalidData
        Nothing can be written to a directory; said before any training.
    """
    found: dict[Path, tuple[E, bool]] = {}
    missing: dict[Path, Callable[[], E]] = {}
    for directory, train in jobs:
        known = _known(kind, directory)
        if known is None:
            missing[directory] = train
        else:
            found[directory] = known, False
    for directory, estimator in _trained(missing, executor):
        found[directory] = estimator, True
        try:
            estimator.save(directory)
        except OSError as error:
            warnings.warn(
                f"the trained networks could not be kept in {directory} and will be trained again next time: {error}",
                NuratioWarning,
                stacklevel=3,
            )
    new = set()
    result = []
    for directory, _ in jobs:
        estimator, trained_now = found[directory]
        result.append((estimator, trained_now and directory not in new))
        new.add(directory)
    return result


def _known(kind: type[E], directory: Path) -> E | None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidData(f"trained networks cannot be kept in {directory}: {error}; choose another cache") from error
    try:
        return kind.load(directory)
    except InvalidData:
        if not os.access(directory, os.W_OK):
            raise InvalidData(f"trained networks cannot be kept in {directory}: no permission to write") from None
    return None


def _trained(jobs: Mapping[Path, Callable[[], E]], executor: Executor | None) -> Iterator[tuple[Path, E]]:
    """Results as they are done."""
    if executor is None:
        yield from ((directory, train()) for directory, train in jobs.items())
        return
    from nuratio.training.loop import one_torch_thread

    directories, tasks = list(jobs), [(number, os.getpid()) for number in range(len(jobs))]
    with one_torch_thread():
        for position, (estimator, warned) in run_tasks(_train, list(jobs.values()), tasks, executor=executor):
            for text, category in warned:
                warnings.warn(text, category, stacklevel=4)
            yield directories[position], estimator


def _train(jobs: Sequence[Callable[[], Any]], task: tuple[int, int]) -> tuple[Any, list[tuple[str, type[Warning]]]]:
    """In a worker: one training, and the warnings that nobody sees there."""
    import torch

    torch.set_num_threads(1)
    number, asking = task
    if os.getpid() == asking:
        return jobs[number](), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NuratioWarning)
        estimator = jobs[number]()
    return estimator, [(str(w.message), w.category) for w in caught if issubclass(w.category, NuratioWarning)]
