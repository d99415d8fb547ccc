"""Estimators on disk: a directory with ``estimator.json`` and its tensors in ``estimator.safetensors``.

Each file is written whole or not at all (a temporary file, then a rename), the JSON last and with the checksum of the
tensors, so a reader never sees a half of one writing and a half of another. Nothing is pickled.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidData, NuratioError

__all__ = ["made_of", "read_estimator", "write_estimator", "write_whole"]

_FORMAT = 1
_JSON, _TENSORS = "estimator.json", "estimator.safetensors"


def write_estimator(
    directory: str | Path, kind: str, document: Mapping[str, Any], tensors: Mapping[str, NDArray[np.floating]]
) -> None:
    """Write plain values and named arrays to ``directory`` (made if needed); ``kind`` says which class reads them."""
    from safetensors.numpy import save

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    blob = save(dict(tensors))
    header = {"kind": kind, "format": _FORMAT, "sha256": hashlib.sha256(blob).hexdigest()}
    text = json.dumps(header | dict(document), indent=1, allow_nan=False)
    write_whole(directory / _TENSORS, blob)
    write_whole(directory / _JSON, text.encode())


def read_estimator(directory: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[np.floating]]]:
    """The document and the tensors of an estimator of this kind.

    Raises
    ------
    InvalidData
        A missing or damaged file, another kind or format, or tensors that are not those the document was written with.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    directory = Path(directory)
    try:
        document: Any = json.loads((directory / _JSON).read_bytes())
        blob = (directory / _TENSORS).read_bytes()
    except FileNotFoundError as error:
        raise InvalidData(f"no estimator in {str(directory)!r}: {error.filename} is missing") from error
    except OSError as error:
        raise InvalidData(f"the estimator in {str(directory)!r} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{directory / _JSON} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidData(f"{directory / _JSON} holds no estimator, but a {type(document).__name__}")
    if document.get("kind") != kind or document.get("format") != _FORMAT:
        raise InvalidData(
            f"{directory / _JSON} holds {document.get('kind')!r}, format {document.get('format')!r}; "
            f"expected {kind!r}, format {_FORMAT}: load it with the class or the version of nuratio that wrote it"
        )
    if hashlib.sha256(blob).hexdigest() != document.get("sha256"):
        raise InvalidData(
            f"{directory / _TENSORS} is not the file {_JSON} was written with (checksum differs): copy both again"
        )
    try:
        return document, load(blob)
    except SafetensorError as error:
        raise InvalidData(f"{directory / _TENSORS} is damaged: {error}") from error


@contextmanager
def made_of(directory: str | Path) -> Iterator[None]:
    """Turns what fails when an estimator is made of a document with missing or odd values into `InvalidData`."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, NuratioError):
            raise
        raise InvalidData(
            f"{Path(directory) / _JSON} is damaged ({type(error).__name__}: {error}); train again, or copy it again"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary one beside it, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
