"""Toys on disk, a line of JSON each: appended as they are made, so that a run that is killed loses next to nothing.

The first line holds the plan of the toys. A line that was cut short by a crash is dropped when the file is read.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from nuratio.errors import InvalidData
from nuratio.infer.toys.plan import require_same

__all__ = ["ToyFile", "file_in", "point_label"]

_FORMAT = "nuratio toys 1"


class ToyFile:
    """The records of a run, in memory and, if there is a path, in a file.

    Attributes
    ----------
    records : dict
        Number of a toy -> its record.
    """

    def __init__(self, path: Path | None, records: dict[int, dict[str, Any]]) -> None:
        self.path, self.records = path, records
        self._stream = None if path is None else path.open("ab")

    @classmethod
    def open(cls, path: str | Path | None, plan: Mapping[str, Any]) -> Self:
        """Start a file, or go on with one of the same plan; without a path, keep the records in memory alone.

        Raises
        ------
        InvalidData
            The file holds something else, or toys of another plan; there is no folder for it.
        """
        if path is None:
            return cls(None, {})
        path = Path(path)
        if not path.parent.is_dir():
            raise InvalidData(f"{path}: no folder {path.parent}; make it first")
        if path.exists() and path.stat().st_size:
            known, records, whole = _parsed(path)
            require_same(known, plan, str(path))
            os.truncate(path, whole)  # a line that a crash has cut short
            return cls(path, records)
        file = cls(path, {})
        file._write([{"format": _FORMAT, "plan": dict(plan)}])
        return file

    @staticmethod
    def read(path: str | Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        """Plan and records of a file.

        Raises
        ------
        InvalidData
            It does not exist, or is no file of toys.
        """
        plan, records, _ = _parsed(path)
        return plan, records

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Keep some more, on disk before this returns."""
        records = list(records)
        self.records |= {record["toy"]: record for record in records}
        self._write(records)

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        if self._stream is not None:
            self._stream.write(b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows))
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()


def _parsed(path: str | Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]], int]:
    """Plan and records of a file, and the bytes that its whole lines make up."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidData(f"toys in {path} cannot be read: {error}") from error
    whole = content.rfind(b"\n") + 1
    try:
        header, *rows = (json.loads(line) for line in content[:whole].splitlines())
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']!r}, not {_FORMAT!r}")
        return header["plan"], {int(row["toy"]): row for row in rows}, whole
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidData(f"{path} is not a file of toys: {error}") from error


def file_in(folder: str | Path | None, point: str | Mapping[str, float]) -> Path | None:
    """The file of one hypothesis in a folder, which is made if it is not there; None without a folder.

    Parameters
    ----------
    folder : str or Path, optional
    point : str or mapping
        The hypothesis: its name, or values of parameters (see `point_label`).
    """
    if folder is None:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) / f"{point if isinstance(point, str) else point_label(point)}.jsonl"


def point_label(point: Mapping[str, float]) -> str:
    """``mu=1,jes=-1``."""
    return ",".join(f"{name}={value:.6g}" for name, value in point.items())
