"""The loop that turns tables of events into an `EventSample`, whatever the file format.

A format offers a function that opens one file as a `Table`; `read_events` does the rest. Trees, branches and
expressions are checked in all files before any event is read; then each chunk is cut, evaluated and checked, and only
the features (float32), the weights (float64) and the ids are kept.
"""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from nuratio.data.expression import Expression, as_column, compile_expression
from nuratio.data.files import Files, expand_files
from nuratio.data.sample import EventSample
from nuratio.data.variation import Variation
from nuratio.errors import InvalidData, LeakageWarning

__all__ = ["Features", "Table", "read_events", "readable", "step_bytes"]

Features = str | Sequence[str] | Mapping[str, str]
_LARGE = 1_000_000  # entries, above which progress is shown by default


@dataclass(frozen=True)
class Table:
    """The events of one open file.

    Attributes
    ----------
    where : str
        File and tree, for messages.
    entries : int
        Number of events.
    branches : collection of str
        What can be read; ``a.b`` may be field ``b`` of the struct ``a``.
    chunks : callable
        Branch names -> iterator over record arrays of consecutive events.
    """

    where: str
    entries: int
    branches: Collection[str]
    chunks: Callable[[Sequence[str]], Iterator[ak.Array]]


def read_events(
    open_table: Callable[[str], AbstractContextManager[Table]],
    files: Files,
    features: Features,
    *,
    weight: str | None,
    cut: str | None,
    variation: Variation | None,
    event_id: str | None,
    scale: float,
    aliases: Mapping[str, str] | None,
    progress: bool | None,
    label: str | None,
) -> EventSample:
    """Read a sample from the tables ``open_table`` opens; the other arguments are those of `nuratio.read_root`."""
    what, replaced = label or "", None
    if variation is not None:
        what = f"{what}, {variation}" if what else str(variation)
        files = files if variation.files is None else variation.files
        weight = weight if variation.weight is None else variation.weight
        aliases = {**(aliases or {}), **(variation.aliases or {})}
        replaced = variation.branches
        if event_id is None and (variation.tree is not None or variation.files is not None):
            warnings.warn(
                f"{what}: the nominal and the varied copy of a generated event cannot be recognised as one, and may "
                "end up on both sides of the train/test split; pass event_id",
                LeakageWarning,
                stacklevel=3,
            )
    with _blame(what):
        if not np.isfinite(scale) or scale == 0:
            raise InvalidData(f"scale multiplies every weight, so it must be finite and not 0; got {scale}")
        named = _named(features)
        paths = expand_files(files)
        plans, places, total = [], [], 0
        for path in paths:
            with open_table(path) as table, _blame(table.where):
                plans.append(_Plan.bind(table.branches, aliases, replaced, named.values(), weight, cut, event_id))
                places.append(table.where)
                total += table.entries
        where = places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")
        parts: list[_Part] = []
        with _progress(total, total > _LARGE if progress is None else progress, label or "events") as advance:
            offset = 0  # of the entry numbers, so that the files' ids differ
            for path, plan in zip(paths, plans, strict=True):
                with open_table(path) as table:
                    parts.extend(_read_table(table, plan, offset, advance))
                    offset += table.entries
        if not any(len(w) for _, w, _ in parts):
            missing = "there are no events" if cut is None else f"no event passes the cut {cut!r}"
            raise InvalidData(f"{where}: {missing} ({total} entries read)")
        x, w, ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        parts.clear()
        if not w.any():
            raise InvalidData(f"{where}: weight {weight!r} is zero for all of the {len(w)} events")
        return EventSample(x, w * scale, list(named), ids, label=where)


_Part = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True)
class _Plan:
    """The expressions of a sample, bound to the branches of one file."""

    features: tuple[Expression, ...]
    weight: Expression | None
    cut: Expression | None
    event_id: Expression | None

    @classmethod
    def bind(
        cls,
        branches: Collection[str],
        aliases: Mapping[str, str] | None,
        replaced: Mapping[str, str] | None,
        features: Iterable[str],
        *others: str | None,
    ) -> "_Plan":
        def bound(text: str | None) -> Expression | None:
            return None if text is None else compile_expression(text, branches, aliases, replaced)

        return cls(tuple(compile_expression(f, branches, aliases, replaced) for f in features), *map(bound, others))

    def branches(self) -> list[str]:
        used = [e for e in (*self.features, self.weight, self.cut, self.event_id) if e is not None]
        return sorted(frozenset().union(*(e.branches for e in used)))

    def evaluate(self, columns: Mapping[str, Any], entries: NDArray[np.int64], offset: int) -> _Part:
        """Features, weights and ids of the events that pass the cut; ``entries`` are their numbers in the tree."""
        if self.cut is not None:
            passed = self.cut(columns)
            if passed.dtype.kind == "f":
                raise InvalidData(f"cut {self.cut.text!r} is a number, not a condition; compare it with something")
            passed = passed != 0
            columns, entries = {name: c[passed] for name, c in columns.items()}, entries[passed]
        x = np.empty((len(entries), len(self.features)), dtype=np.float32)
        for j, feature in enumerate(self.features):
            with np.errstate(over="ignore"):
                x[:, j] = feature(columns)
            _require_finite(x[:, j], f"feature {feature.text!r} (as float32)", entries)
        w = np.ones(len(entries)) if self.weight is None else self.weight(columns).astype(np.float64)
        _require_finite(w, f"weight {self.weight.text!r}" if self.weight else "", entries)
        ids = entries + offset if self.event_id is None else _integers(self.event_id, columns)
        return x, w, ids


def _read_table(table: Table, plan: _Plan, offset: int, advance: Callable[[int], None]) -> Iterator[_Part]:
    branches, start = plan.branches(), 0
    for chunk in table.chunks(branches):
        stop = start + len(chunk)
        with _blame(f"{table.where}, entries {start} to {stop - 1}"):
            columns = {branch: as_column(_field(chunk, branch), branch) for branch in branches}
            yield plan.evaluate(columns, np.arange(start, stop, dtype=np.int64), offset)
        advance(len(chunk))
        start = stop


def _require_finite(values: NDArray[np.floating], what: str, entries: NDArray[np.int64]) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InvalidData(
            f"{what} is NaN or infinite for {bad.size} of {len(values)} events (first: entry {entries[bad[0]]}); "
            "cut these events away or mend the input"
        )


def _integers(event_id: Expression, columns: Mapping[str, Any]) -> NDArray[np.int64]:
    values = event_id(columns)
    if values.dtype.kind == "f" and not (np.all(values == np.rint(values)) and np.all(np.abs(values) < 2**53)):
        raise InvalidData(
            f"event_id {event_id.text!r} must be a whole number, and below 2^53 where it is computed in floating point"
        )
    return values.astype(np.int64)


def _field(record: ak.Array, name: str) -> ak.Array:
    """The column ``name`` of a record array; ``a.b`` may be field ``b`` of the struct ``a``."""
    if name in record.fields:
        return record[name]
    for dot in re.finditer(r"\.", name):
        if name[: dot.start()] in record.fields:
            return _field(record[name[: dot.start()]], name[dot.end() :])
    raise InvalidData(f"branch {name!r} was not read; fields: {record.fields}")


def _named(features: Features) -> dict[str, str]:
    if isinstance(features, Mapping):
        named = dict(features)
    else:
        texts = [features] if isinstance(features, str) else list(features)
        named = dict(zip(texts, texts, strict=True))
        if len(named) != len(texts):
            raise InvalidData(f"features repeat: {texts}")
    if not named:
        raise InvalidData("no features were asked for; name at least one")
    return named


def step_bytes(step_size: int | str) -> float | None:
    """Bytes in ``"50 MB"``; None for a number of events.

    Raises
    ------
    InvalidData
        Neither of the two.
    """
    if isinstance(step_size, int) and step_size > 0:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMG])B\s*", str(step_size))
    if match is None:
        raise InvalidData(f"step_size is a number of events or a size such as '50 MB', got {step_size!r}")
    return float(match[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[match[2]]


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn whatever a reading library raises inside into an `InvalidData` that names ``what``."""
    try:
        yield
    except (InvalidData, MemoryError):
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).strip().partition("\n")[0]
        raise InvalidData(f"{what} cannot be read; is it complete? {type(error).__name__}: {reason}") from error


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Begin the message of an `InvalidData` raised inside with ``what``."""
    try:
        yield
    except InvalidData as error:
        raise InvalidData(f"{what}: {error}" if what else str(error)) from error.__cause__


@contextmanager
def _progress(total: int, show: bool, what: str) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"reading {what}", total=total)
        yield lambda n: bar.advance(task, n)
