"""Interrupted trainings go on where they stopped: their state, now and then, in one file.

Give `nuratio.train` or `nuratio.training.shape.train_shapes` a ``checkpoint`` where a training takes long or may be cut
off. Training again with the same inputs then continues, to the same numbers bit for bit as without the interruption.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, NuratioWarning
from nuratio.ratios.storage import write_whole

__all__ = ["Checkpoint", "State", "fingerprint", "sample_digest"]

_FORMAT = 1
_INTERVAL = 10.0  # seconds between two writings


@dataclass(frozen=True, eq=False)
class State:
    """What the rest of a training depends on: plain values (JSON) and arrays."""

    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


@dataclass(eq=False)
class Checkpoint:
    """A file with the states of a training, which may have several stages one after the other.

    Every stage starts from the seed, so one without a state is done again to the same numbers.

    Attributes
    ----------
    path : Path
    inputs : dict
        The `fingerprint` of what is trained.
    stages : dict
        Number of the stage -> its latest state.
    """

    path: Path
    inputs: dict[str, Any]
    stages: dict[int, State]
    _begun: int = 0
    _written: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: str | Path, inputs: Mapping[str, Any]) -> Self:
        """The checkpoint at ``path``, without states where there is none yet.

        Raises
        ------
        InvalidData
            A file of another training, with what differs; or no checkpoint.
        """
        path, mine = Path(path), json.loads(json.dumps(inputs))
        if not path.exists():
            return cls(path, mine, {})
        document, arrays = _read(path)
        theirs = document["inputs"]
        differing = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        if differing:
            changes = ", ".join(
                key if key.startswith("events") else f"{key} ({theirs.get(key)!r} there, {mine.get(key)!r} now)"
                for key in differing
            )
            raise InvalidData(
                f"checkpoint {str(path)!r} belongs to another training; what differs: {changes}. Train with the inputs "
                "and options it was begun with, or delete it to start anew"
            )
        stages = {
            int(stage): State(
                values, {n.removeprefix(f"{stage}."): a for n, a in arrays.items() if n.startswith(f"{stage}.")}
            )
            for stage, values in document["stages"].items()
        }
        return cls(path, mine, stages)

    def begin(self) -> int:
        """The number of the next stage."""
        self._begun += 1
        return self._begun

    def save(self, stage: int, state: Callable[[], State]) -> None:
        """Write the state of a stage, unless the file was written less than ten seconds ago.

        Warns
        -----
        NuratioWarning
            The file cannot be written (a full disk); the training goes on.
        """
        if time.monotonic() - self._written < _INTERVAL:
            return
        self.stages[stage] = state()
        try:
            _write(self.path, self.inputs, self.stages)
        except OSError as error:
            warnings.warn(
                f"checkpoint {str(self.path)!r} cannot be written, the training goes on without: {error}",
                NuratioWarning,
                stacklevel=2,
            )
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the file, if there is one: the training is complete."""
        self.path.unlink(missing_ok=True)


def fingerprint(samples: Mapping[str, EventSample], **settings: Any) -> dict[str, Any]:
    """What a training depends on, by name: its settings, one level of mappings opened, and hashes of the events."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return found | {f"events of {name!r}": sample_digest(sample) for name, sample in samples.items()}


def sample_digest(sample: EventSample) -> str:
    """SHA-256 of the names, features, weights and ids of a sample."""
    digest = hashlib.sha256(json.dumps([sample.names, len(sample)]).encode())
    for array in (sample.features, sample.weights, sample.ids):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _write(path: Path, inputs: Mapping[str, Any], stages: Mapping[int, State]) -> None:
    """One safetensors file with the plain values in its header, whole or not at all."""
    from safetensors.numpy import save

    document = {"format": _FORMAT, "inputs": inputs, "stages": {stage: s.values for stage, s in stages.items()}}
    arrays = {f"{stage}.{name}": array for stage, s in stages.items() for name, array in s.arrays.items()}
    write_whole(path, save(arrays, metadata={"training": json.dumps(document, allow_nan=False)}))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            document = json.loads(file.metadata()["training"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if document["format"] == _FORMAT:
            return document, arrays
        reason = f"format {document['format']!r}, not {_FORMAT}"
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        reason = str(error) or type(error).__name__
    raise InvalidData(f"{str(path)!r} is no checkpoint of this version: {reason}; delete it to train from the start")
