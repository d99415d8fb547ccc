"""The only place where the benchmarks know how the engine is made: its tables, its threads, its calls."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.model.kernels.compiled import available_threads
from nuratio.ratios.table import RatioTable, block_size

__all__ = ["CountingModel", "create_table", "stored", "threads"]

_CALLS = ("value", "derivatives", "gradient", "hessian", "many", "nonpositive")


def threads() -> int:
    """Threads the engine uses for one likelihood call."""
    return available_threads()


def stored(table: RatioTable) -> NDArray[np.float32]:
    """A table's numbers as they lie in memory, flat, without a copy."""
    return table.blocks.reshape(-1)


def create_table(
    names: tuple[str, ...], events: int, parts: Iterable[NDArray[np.floating]], path: Path | None = None
) -> RatioTable:
    """A float32 table in memory, or memory-mapped on disk, from parts of shape (columns, m) as they come."""
    size = min(block_size(len(names)), events)
    shape = (-(-events // size), len(names), size)
    blocks = np.zeros(shape, np.float32) if path is None else np.lib.format.open_memmap(path, "w+", np.float32, shape)
    event = 0
    for part in parts:
        done = 0
        while done < part.shape[1]:
            block, at = divmod(event + done, size)
            piece = part[:, done : done + size - at]
            blocks[block, :, at : at + piece.shape[1]] = piece
            done += piece.shape[1]
        event += done
    return RatioTable(names, blocks, events)


class CountingModel:
    """A model whose likelihood counts the calls it gets, by kind; ``derivatives`` as ``gradient`` or ``hessian``."""

    def __init__(self, model: Any) -> None:
        self._model, self.calls = model, Counter[str]()

    def likelihood(self, data: Any) -> Any:
        """The likelihood, counting."""
        return _Counting(self._model.likelihood(data), self.calls)

    def equivalents(self, cost: Mapping[str, float], unit: str) -> float:
        """All calls counted, in units of one kind of call; ``cost`` gives the seconds of each kind."""
        return sum(n * cost[kind] for kind, n in self.calls.items()) / cost[unit]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Counting:
    def __init__(self, likelihood: Any, calls: Counter[str]) -> None:
        self._likelihood, self._calls = likelihood, calls

    def __getattr__(self, name: str) -> Any:
        if name == "holding":  # would hand out a likelihood that does not count
            raise AttributeError(name)
        target = getattr(self._likelihood, name)
        if name not in _CALLS:
            return target

        def counted(*args: Any, **options: Any) -> Any:
            kind = name
            if name == "derivatives":
                kind = "hessian" if options.get("hessian") else "gradient"
            elif name == "nonpositive":
                kind = "value"  # one look at every density
            self._calls[kind] += len(args[0]) if name == "many" else 1
            return target(*args, **options)

        return counted
