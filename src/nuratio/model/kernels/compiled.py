"""The kernel of the fits: numba, one pass over memory, threads that share no state.

A table is read block by block; a block is used twice, for the densities and for the gradient, the second time from the
core's cache. Columns are float32 or float64, all arithmetic is float64. Sums are collected in a fixed number of
portions and added in order: the result does not depend on the number of threads.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nuratio.model.kernels.loops import Coefficients, add_sums, write_densities
from nuratio.model.kernels.program import Mode, Program, Sums
from nuratio.parallel.threads import thread_limit
from nuratio.ratios.table import RatioTable, block_size

__all__ = ["available_threads", "densities", "sums"]

Floats = NDArray[np.float64]

_PORTIONS = 64
_HESSIAN_PORTIONS = 16
_PIECES = 2  # of the work, for each thread
_SMALL = 1 << 18  # numbers below which a second thread costs more than it gives


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sums(
    program: Program,
    coefficients: Coefficients,
    table: RatioTable,
    weights: Floats,
    *,
    mode: Mode = Mode.LOG,
    threshold: float = 0.0,
    order: int = 1,
    threads: int | None = None,
) -> list[Sums]:
    """One pass over a table at M parameter points.

    Parameters
    ----------
    program : Program
        Compiled for the table's columns.
    coefficients : Coefficients
        Of M points.
    table : RatioTable
        n events.
    weights : ndarray, shape (n,) or (M, n)
        Of the events; one set for all points or one for each.
    mode : Mode
    threshold : float
        Below it the logarithm is continued by its second-order Taylor polynomial.
    order : int
        0: values; 1: and first derivatives; 2: and Hessians (a single point).
    threads : int, optional
        All available processors by default. The result does not depend on it.
    """
    s = program.structure
    m, c = coefficients.nu.shape
    size = c + len(program.nuisances)
    unit = min(table.size, block_size(len(table.names), table.blocks.itemsize))
    per_block = -(-table.size // unit)
    units = (len(table) // table.size) * per_block + -(-(len(table) % table.size) // unit)
    portions = max(min(units, _PORTIONS if order < 2 else _HESSIAN_PORTIONS), 1)
    values = np.zeros((portions, m))
    bad = np.zeros((portions, m), dtype=np.int64)
    rate = np.zeros((portions, m, c))
    exponent = np.zeros((portions, m, len(s.exponent_row)))
    factor = np.zeros((portions, m, len(s.factor_row)))
    shift = np.zeros((portions, m, len(s.shift_row)))
    hessian = np.zeros((portions, size, size) if order > 1 else (portions, 0, 0))
    flat = table.blocks.reshape(-1)
    where = (len(table.names), table.size, len(table), unit, per_block, units, portions)
    w = np.ascontiguousarray(np.atleast_2d(weights))

    def work(first: int, last: int) -> None:
        out = (values, bad, rate, exponent, factor, shift, hessian)
        add_sums(flat, where, w, s, coefficients, int(mode), float(threshold), order, first, last, *out)

    _spread(work, portions, threads, small=len(table) * len(table.names) * m < _SMALL)
    total = hessian.sum(0)
    total = total + np.triu(total, 1).T
    sum_of = [a.sum(0) for a in (values, rate, exponent, factor, shift, bad)]
    return [Sums(float(v), r, e, f, a, total, int(b)) for v, r, e, f, a, b in zip(*sum_of, strict=True)]


def densities(program: Program, coefficients: Coefficients, table: RatioTable, *, threads: int | None = None) -> Floats:
    """nu_c t_c at every event, shape (blocks, C, events per block): the blocks of a `RatioTable`."""
    c = len(program.samples)
    out = np.zeros((len(table.blocks), c, table.size))
    flat, result = table.blocks.reshape(-1), out.reshape(-1)
    where = (len(table.names), table.size, len(table), min(table.size, 1024), len(out))

    def work(first: int, last: int) -> None:
        write_densities(flat, where, program.structure, coefficients, first, last, result)

    _spread(work, len(out), threads, small=table.blocks.size < _SMALL)
    return out


def _spread(work: Callable[[int, int], None], portions: int, threads: int | None, *, small: bool) -> None:
    n = min(available_threads() if threads is None else threads, thread_limit() or portions, portions)
    if n < 2 or small:
        work(0, portions)
        return
    pieces = min(_PIECES * n, portions)
    parts = iter(list(pairwise(portions * t // pieces for t in range(pieces + 1))))

    def take() -> None:
        for part in parts:  # whoever is free takes the next: a thread that wakes up late finds less to do
            work(*part)

    others = [_executor(os.getpid(), n - 1).submit(take) for _ in range(n - 1)]
    take()
    for other in others:
        other.result()


@cache
def _executor(pid: int, threads: int) -> ThreadPoolExecutor:
    """Of this process: a forked child gets its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="nuratio")
