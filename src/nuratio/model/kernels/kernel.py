"""Which kernel evaluates the events, and where."""

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel, did_you_mean
from nuratio.model.kernels import arrays, compiled
from nuratio.model.kernels.loops import Coefficients
from nuratio.model.kernels.program import Program, Sums
from nuratio.ratios.table import RatioTable

__all__ = ["KERNELS", "Kernel"]

Floats = NDArray[np.float64]

KERNELS = ("numba", "numpy", "torch")


@dataclass(frozen=True)
class Kernel:
    """How passes over event tables are made.

    Attributes
    ----------
    name : str
        ``numba`` (compiled, the default), ``numpy`` (its plain twin, slower) or ``torch`` (for a GPU).
    device : str
        Where torch computes, such as ``cuda``; tables are copied there once.
    threads : int, optional
        Of the compiled kernel; all available processors by default. Results do not depend on it.

    Raises
    ------
    InvalidModel
        An unknown kernel, a device other than the CPU without torch, less than one thread.
    """

    name: str = "numba"
    device: str = "cpu"
    threads: int | None = None
    _on_device: "WeakKeyDictionary[RatioTable, Any]" = field(default_factory=WeakKeyDictionary, repr=False)

    def __post_init__(self) -> None:
        if self.name not in KERNELS:
            raise InvalidModel(f"no kernel {self.name!r}; {did_you_mean(self.name, KERNELS, 'kernels')}")
        if self.name != "torch" and self.device != "cpu":
            raise InvalidModel(f"kernel {self.name!r} runs on the CPU, not on {self.device!r}; choose kernel 'torch'")
        if self.threads is not None and self.threads < 1:
            raise InvalidModel(f"at least one thread is needed, not {self.threads}")

    def __reduce__(self) -> tuple[type["Kernel"], tuple[str, str, int | None]]:
        """Copies on a device stay where they are."""
        return Kernel, (self.name, self.device, self.threads)

    def sums(
        self, program: Program, coefficients: Coefficients, table: RatioTable, weights: Floats, **options: Any
    ) -> list[Sums]:
        """See `nuratio.model.kernels.compiled.sums`."""
        if self.name == "numba":
            return compiled.sums(program, coefficients, table, weights, threads=self.threads, **options)
        device = self._copy(table) if self.name == "torch" else None
        return arrays.sums(program, coefficients, table, weights, on_device=device, **options)

    def densities(self, program: Program, coefficients: Coefficients, table: RatioTable) -> RatioTable:
        """nu_c t_c at every event, a column for each sample."""
        names = tuple(s.name for s in program.samples)
        if self.name == "numba":
            blocks = compiled.densities(program, coefficients, table, threads=self.threads)
            return RatioTable(names, blocks, len(table))
        device = self._copy(table) if self.name == "torch" else None
        columns = arrays.densities(program, coefficients, table, on_device=device)
        return RatioTable.from_columns(dict(zip(names, columns, strict=True)), np.float64)

    def _copy(self, table: RatioTable) -> Any:
        if table not in self._on_device:
            import torch

            try:
                self._on_device[table] = torch.tensor(table.values, device=self.device)
            except (RuntimeError, AssertionError) as error:
                raise InvalidModel(f"torch cannot use device {self.device!r}: {error}") from error
        return self._on_device[table]
