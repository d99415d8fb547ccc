"""Parquet files as an `EventSample`, read with pyarrow and awkward."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import awkward as ak
import pyarrow.parquet as pq

from nuratio.data.files import Files
from nuratio.data.reading import Features, Table, read_events, readable, step_bytes
from nuratio.data.sample import EventSample
from nuratio.data.variation import Variation
from nuratio.errors import InvalidData

__all__ = ["read_parquet"]


def read_parquet(
    files: Files,
    features: Features,
    *,
    weight: str | None = None,
    cut: str | None = None,
    variation: Variation | None = None,
    event_id: str | None = None,
    scale: float = 1.0,
    aliases: Mapping[str, str] | None = None,
    step_size: int | str = "50 MB",
    progress: bool | None = None,
    label: str | None = None,
) -> EventSample:
    """Read one sample from Parquet files; the arguments are those of `nuratio.read_root`.

    Columns are branches, ``a.b`` is field ``b`` of the struct (or list of structs) ``a``, and missing values (nulls)
    count as NaN.

    Raises
    ------
    InvalidData
        As `nuratio.read_root`; also a variation that asks for another tree.
    """
    if variation is not None and variation.tree is not None:
        raise InvalidData(f"{variation}: a Parquet file holds no trees; give files, weight, aliases or branches")
    step_bytes(step_size)
    return read_events(
        partial(_open, step_size=step_size),
        files,
        features,
        weight=weight,
        cut=cut,
        variation=variation,
        event_id=event_id,
        scale=scale,
        aliases=aliases,
        progress=progress,
        label=label,
    )


@contextmanager
def _open(path: str, *, step_size: int | str) -> Iterator[Table]:
    where = f"file {path!r}"
    with readable(where):
        file = pq.ParquetFile(path)
    with file:
        leaves = [leaf for field in file.schema_arrow for leaf in _leaves(field.type, field.name)]

        def chunks(names: Sequence[str]) -> Iterator[ak.Array]:
            columns = [leaves.index(name) for name in names]
            with readable(where):
                paths = [file.schema.column(c).path for c in columns]
                for batch in file.iter_batches(batch_size=_rows(file, columns, step_size), columns=paths):
                    yield ak.from_arrow(batch)

        yield Table(where, file.metadata.num_rows, leaves, chunks)


def _leaves(kind: Any, path: str) -> Iterator[str]:
    """Names of the columns under an arrow type, in the order of the file; lists add no level to the name."""
    for child in (kind.field(i) for i in range(kind.num_fields)):
        yield from _leaves(child.type, path if hasattr(kind, "value_type") else f"{path}.{child.name}")
    if not kind.num_fields:
        yield path


def _rows(file: pq.ParquetFile, columns: Sequence[int], step_size: int | str) -> int:
    size = step_bytes(step_size)
    if size is None:
        return int(step_size)
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    total = sum(group.column(c).total_uncompressed_size for group in groups for c in columns)
    return max(1, int(size * file.metadata.num_rows / max(total, 1)))
