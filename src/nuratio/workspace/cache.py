"""Trained networks on disk, found again by the content of what they were trained on.

The key of a training is a hash of its events (features, weights, ids), its options and its seed: a new cut or a changed
file retrains what depends on it and nothing else.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, NuratioWarning
from nuratio.training.checkpoint import sample_digest

__all__ = ["CHECKPOINT", "content_key", "load_or_train"]

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

    A directory that cannot be read (a run that was killed while writing) is trained again. If saving fails in the end
    (the disk is full) the result is not lost with it: a warning says that it is not in the cache.

    Raises
    ------
    InvalidData
        Nothing can be written to ``directory``; said before the training, not after it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidData(f"trained networks cannot be kept in {directory}: {error}; choose another cache") from error
    try:
        return kind.load(directory), False
    except InvalidData:
        if not os.access(directory, os.W_OK):
            raise InvalidData(f"trained networks cannot be kept in {directory}: no permission to write") from None
    estimator = train()
    try:
        estimator.save(directory)
    except OSError as error:
        warnings.warn(
            f"the trained networks could not be kept in {directory} and will be trained again next time: {error}",
            NuratioWarning,
            stacklevel=2,
        )
    return estimator, True
