"""The kernel written as array arithmetic, in numpy or in torch: the plain twin of `nuratio.model.kernels.compiled`.

In numpy it is the oracle the compiled kernel is tested against; in torch it runs on a GPU. Whole arrays, no loops over
events, float64 arithmetic.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nuratio.model.kernels.loops import Coefficients
from nuratio.model.kernels.program import Mode, Program, Sums
from nuratio.model.positivity import extended_log
from nuratio.ratios.table import RatioTable

__all__ = ["SampleBlock", "densities", "sample_blocks", "sums"]

Array = Any  # of numpy or torch

_EVENTS = 8192  # evaluated together in numpy: they stay in the processor's cache
_EVENTS_ON_DEVICE = 1 << 18


class SampleBlock(NamedTuple):
    """One sample at m events.

    t (m,) is the density; t times ``log_first`` (J, m) are its derivatives in the nuisances of exponent and factors;
    ``shift_first`` (S, m) are those in the nuisances of the shifts. ``factor_second`` (J, m) is F''/F - (F'/F)^2 and
    ``shift_second`` (S, m) the second derivative of the shifts; ``slopes`` are F'/F (m,) of each factor.
    """

    t: Array
    slopes: list[Array]
    log_first: Array
    factor_second: Array
    shift_first: Array
    shift_second: Array

    def first(self) -> Array:
        """d t / d alpha in the order of `SampleShape.par`, shape (J + S, m)."""
        if not len(self.shift_first):
            return self.t * self.log_first
        xp = _namespace(self.t)
        return xp.concatenate([self.t * self.log_first, self.shift_first], 0)


def _namespace(x: Array) -> ModuleType:
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def _like(values: Any, x: Array) -> Array:
    """A numpy array as an array of the kind, and on the device, of x."""
    return np.asarray(values) if isinstance(x, np.ndarray) else _namespace(x).tensor(values, device=x.device)


def sample_blocks(program: Program, coefficients: Coefficients, x: Array) -> list[SampleBlock]:
    """All samples at the m events of x, shape (columns, m), at the first parameter point of the coefficients."""
    return [_sample(program, coefficients, c, x) for c in range(len(program.samples))]


def _sample(program: Program, k: Coefficients, c: int, x: Array) -> SampleBlock:
    xp, s = _namespace(x), program.structure
    r, zero = x[int(s.ratio[c])], 0 * x[0]
    n = int(s.slot_first[c + 1] - s.slot_first[c])
    multiplied = int(s.multiplied[c])
    terms = slice(s.exponent_first[c], s.exponent_first[c + 1])
    columns = x[s.exponent_row[terms].tolist()]
    jacobian = program.powers[c].jacobian(k.exponent_first[0, terms], n).T
    factor = xp.exp(_like(k.exponent[0, terms], x) @ columns) if len(columns) else zero + 1
    log_first = _like(jacobian[:multiplied], x) @ columns if len(columns) else xp.stack([zero] * multiplied + [zero], 0)
    log_first, factor_second = log_first[:multiplied], 0 * log_first[:multiplied]
    slopes = []
    for f in range(s.factor_first[c], s.factor_first[c + 1]):
        up, down = (x[int(row)] / r for row in s.factor_row[f])
        alpha, slot = float(k.factor_alpha[0, f]), int(s.factor_slot[f])
        if k.factor_kind[0, f] < 2:
            slope = xp.log(up) if k.factor_kind[0, f] == 0 else -xp.log(down)
            factor = factor * xp.exp(alpha * slope)
        else:
            ln_up, ln_down = xp.log(up), xp.log(down)
            matched = xp.stack([up - 1, down - 1, ln_up * up, -ln_down * down, ln_up**2 * up, ln_down**2 * down], 0)
            value, first, second = _like(k.factor_poly[0, f], x) @ matched
            slope = first / (1 + value)
            factor = factor * (1 + value)
            factor_second[slot] += second / (1 + value) - slope**2
        log_first[slot] += slope
        slopes.append(slope)
    bracket = r
    first_rows, second_rows = [zero] * (n - multiplied), [zero] * (n - multiplied)
    for f in range(s.shift_first[c], s.shift_first[c + 1]):
        up, down = x[int(s.shift_row[f, 0])] - r, r - x[int(s.shift_row[f, 1])]
        (a, b), (a1, b1), (a2, b2) = k.shift[0, f].tolist()
        slot = int(s.shift_slot[f]) - multiplied
        bracket = bracket + a * up + b * down
        first_rows[slot] = first_rows[slot] + factor * (a1 * up + b1 * down)
        second_rows[slot] = second_rows[slot] + factor * (a2 * up + b2 * down)
    empty = log_first[:0]
    return SampleBlock(
        bracket * factor,
        slopes,
        log_first,
        factor_second,
        xp.stack(first_rows, 0) if first_rows else empty,
        xp.stack(second_rows, 0) if second_rows else empty,
    )


def sums(
    program: Program,
    coefficients: Coefficients,
    table: RatioTable,
    weights: Array,
    *,
    mode: Mode = Mode.LOG,
    threshold: float = 0.0,
    order: int = 1,
    on_device: Array | None = None,
) -> list[Sums]:
    """The same as `nuratio.model.kernels.compiled.sums`.

    ``on_device`` holds the table's columns as a torch tensor of shape (columns, n), float32 or float64.
    """
    points = [coefficients.point(i) for i in range(len(coefficients.nu))]
    every = np.broadcast_to(np.atleast_2d(weights), (len(points), len(table)))
    return [
        _total(_point(program, k, x, w, mode, threshold, order) for x, w in _blocks(table, row, on_device))
        for k, row in zip(points, every, strict=True)
    ]


def densities(
    program: Program, coefficients: Coefficients, table: RatioTable, on_device: Array | None = None
) -> NDArray[np.float64]:
    """nu_c t_c at every event, shape (C, n)."""
    parts = []
    for x, _ in _blocks(table, np.zeros(len(table)), on_device):
        t = _namespace(x).stack([b.t for b in sample_blocks(program, coefficients, x)], 0)
        parts.append(coefficients.nu[0][:, None] * np.asarray(t.cpu() if hasattr(t, "cpu") else t))
    return np.concatenate(parts, axis=1)


def _blocks(table: RatioTable, weights: Array, on_device: Array | None) -> Iterator[tuple[Array, Array]]:
    if on_device is None:
        for events, x in table.chunks(_EVENTS):
            yield x, weights[events]
    else:
        for start in range(0, len(table), _EVENTS_ON_DEVICE):
            x = on_device[:, start : start + _EVENTS_ON_DEVICE].double()
            yield x, _like(weights[start : start + _EVENTS_ON_DEVICE], x)


def _total(parts: Iterator[tuple[Array, ...]]) -> Sums:
    total: list[Any] = []
    for part in parts:
        total = [a + b for a, b in zip(total, part, strict=True)] if total else list(part)
    if not total:
        raise ValueError("no events")
    value, *arrays, bad = (np.asarray(p.cpu() if hasattr(p, "cpu") else p) for p in total)
    rate, exponent, factor, shift, hessian = arrays
    return Sums(float(value), rate, exponent, factor, shift, hessian, int(bad))


def _point(
    program: Program, k: Coefficients, x: Array, w: Array, mode: Mode, threshold: float, order: int
) -> tuple[Array, ...]:
    xp, s = _namespace(x), program.structure
    blocks = sample_blocks(program, k, x)
    nu = _like(k.nu[0], x)
    t = xp.stack([b.t for b in blocks], 0)
    d = nu @ t
    log, log1, log2 = extended_log(d, threshold, xp) if mode is Mode.LOG else (d, 0 * d + 1, 0 * d)
    used = w != 0
    value = (xp.where(used, w * log, 0.0)).sum()
    bad = ((~(d > 0)) & used).sum() if mode is Mode.LOG else 0
    w1, w2 = w * log1, w * log2
    exponent, factor, shift = [], [], []
    for c, block in enumerate(blocks):
        q = block.t * w1
        exponent.append(x[s.exponent_row[s.exponent_first[c] : s.exponent_first[c + 1]].tolist()] @ q)
        factor += [slope @ q for slope in block.slopes]
        for f in range(s.shift_first[c], s.shift_first[c + 1]):
            shift.append(block.shift_first[int(s.shift_slot[f] - s.multiplied[c])] @ w1)
    empty = 0 * w[:0]
    hessian = xp.zeros((0, 0)) if order < 2 else _hessian(program, k, blocks, t, w1, w2)
    return (
        value,
        t @ w1,
        xp.concatenate(exponent, 0),
        xp.stack(factor, 0) if factor else empty,
        xp.stack(shift, 0) if shift else empty,
        hessian,
        bad,
    )


def _hessian(program: Program, k: Coefficients, blocks: list[SampleBlock], t: Array, w1: Array, w2: Array) -> Array:
    xp, s = _namespace(t), program.structure
    c_all, n = len(blocks), len(program.nuisances)
    gradient = xp.concatenate([t, xp.stack([0 * t[0]] * n, 0)], 0) if n else 1 * t
    own = _like(np.zeros((c_all + n, c_all + n)), t)
    for c, b in enumerate(blocks):
        at = [c_all + int(p) for p in s.par[s.slot_first[c] : s.slot_first[c + 1]]]
        if not at:
            continue
        first, nu = b.first(), float(k.nu[0, c])
        gradient[at] += nu * first
        own[c, at] += first @ w1
        own[at, c] += first @ w1
        j = int(s.multiplied[c])
        up, down = np.ix_(at[:j], at[:j]), np.ix_(at[j:], at[:j])
        own[up] += nu * (b.log_first * (w1 * b.t)) @ b.log_first.T + nu * xp.diag(b.factor_second @ (w1 * b.t))
        if len(at) > j:
            mixed = nu * (b.shift_first * w1) @ b.log_first.T
            own[down] += mixed
            own[down[1].T, down[0].T] += mixed.T
            own[at[j:], at[j:]] += nu * (b.shift_second @ w1)
    return own + (gradient * w2) @ gradient.T
