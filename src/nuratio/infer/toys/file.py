"""Toys on disk, a line of JSON each: appended as they are made, so that a run that is killed loses next to nothing.

The first line holds the plan of the toys. A line that was cut short by a crash is dropped when the file is read.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from nuratio.errors import InvalidData

__all__ = ["ToyFile"]

_FORMAT = "nuratio toys 1"

Plan = Mapping[str, Any]


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
    def open(cls, path: str | Path | None, plan: Plan, require_same: Callable[[Plan, Plan, str], None]) -> Self:
        """Start a file, or go on with one of the same plan (``require_same`` raises if it is another).

        Raises
        ------
        InvalidData
            The file holds something else; there is no folder for it.
        """
        if path is None:
            return cls(None, {})
        path = Path(path)
        if not path.parent.is_dir():
            raise InvalidData(f"{path}: no folder {path.parent}; make it first")
        if path.exists() and path.stat().st_size:
            known, records = cls.read(path)
            require_same(known, plan, str(path))
            whole = path.read_bytes().rfind(b"\n") + 1
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
        try:
            lines = Path(path).read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise InvalidData(f"toys in {path} cannot be read: {error}") from error
        try:
            header, *rows = (json.loads(line) for line in lines)
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']!r}, not {_FORMAT!r}")
            return header["plan"], {int(row["toy"]): row for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidData(f"{path} is not a file of toys: {error}") from error

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
