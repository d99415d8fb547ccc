"""The loops of the compiled kernel, and the flat arrays they read.

All that numba compiles for the events is in this file: its cache on disk knows of changes in a file, not of changes in
what the file imports. The arrays' meaning is explained in `nuratio.model.kernels.program`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from nuratio.model.compiling import compiler

__all__ = ["Coefficients", "Structure", "add_sums", "write_densities"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums may be reordered; NaN and infinities are respected
_jit = compiler(fastmath=_FAST)

_AHEAD = 4096  # numbers between the one in use and the one that is fetched


class Structure(NamedTuple):
    """Rows of the event table and nuisance slots of C samples; ``*_first[c] : *_first[c + 1]`` are those of sample c.

    A slot is a nuisance of one sample, in the order of `SampleShape.par`; ``par`` gives its position among the
    channel's nuisances. The first ``multiplied[c]`` slots of a sample come from exponent and factors.
    """

    ratio: Ints  # (C,) rows
    slot_first: Ints  # (C + 1,)
    par: Ints
    multiplied: Ints  # (C,)
    exponent_first: Ints
    exponent_row: Ints  # (T,)
    exponent_slot: Ints  # (T, 2), within the sample
    factor_first: Ints
    factor_row: Ints  # (F, 2): hi, lo
    factor_slot: Ints
    shift_first: Ints
    shift_row: Ints  # (A, 2): hi, lo
    shift_slot: Ints


class Coefficients(NamedTuple):
    """The numbers of one or several parameter points (leading axis M).

    ``factor_kind`` is 0 for (hi / r)**alpha, 1 for (lo / r)**(-alpha), 2 for code4's polynomial
    1 + sum_j c_j m_j(x), whose c and their derivatives are in ``factor_poly``.
    """

    nu: Floats  # (M, C)
    exponent: Floats  # (M, T): phi
    exponent_first: Floats  # (M, T, 2): d phi / d slots
    factor_kind: Ints  # (M, F)
    factor_alpha: Floats  # (M, F)
    factor_poly: Floats  # (M, F, 3, 6)
    shift: Floats  # (M, A, 3, 2): [value, first, second derivative] of [a, b]

    @classmethod
    def join(cls, points: "Sequence[Coefficients]") -> "Coefficients":
        """Several points as one."""
        return cls(*(np.concatenate(numbers) for numbers in zip(*points, strict=True)))

    def point(self, i: int) -> "Coefficients":
        """One of several points."""
        return Coefficients(*(numbers[i : i + 1] for numbers in self))  # type: ignore[arg-type]


@_jit
def _exp(x):  # type: ignore[no-untyped-def]
    """Branch-free, so that a loop of it runs in vector registers; within 1e-14 relative."""
    k = np.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
    p = 1.6059043836821613e-10
    p = p * r + 2.08767569878680989792e-9
    p = p * r + 2.50521083854417187751e-8
    p = p * r + 2.75573192239858906526e-7
    p = p * r + 2.75573192239858906526e-6
    p = p * r + 2.48015873015873015873e-5
    p = p * r + 1.98412698412698412698e-4
    p = p * r + 1.38888888888888888889e-3
    p = p * r + 8.33333333333333333333e-3
    p = p * r + 4.16666666666666666667e-2
    p = p * r + 1.66666666666666666667e-1
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    bits = np.float64(k + 6755399441056767.0).view(np.int64)  # 1.5 * 2**52 + 1023 + k: its last bits are the exponent
    y = p * np.int64(bits << np.int64(52)).view(np.float64)
    y = np.inf if x > 709.0 else y
    return 0.0 if x < -708.0 else y


@_jit
def _log(x):  # type: ignore[no-untyped-def]
    """Of a positive normal number, branch-free; within 4e-16 relative (the polynomial is fdlibm's)."""
    b = np.float64(x).view(np.int64)
    e = np.int64((b - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52))
    k = np.float64(e)
    f = np.int64(b - np.int64(e << np.int64(52))).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 1.479819860511658591e-1
    p = p * z + 1.531383769920937332e-1
    p = p * z + 1.818357216161805012e-1
    p = p * z + 2.222219843214978396e-1
    p = p * z + 2.857142874366239149e-1
    p = p * z + 3.999999999940941908e-1
    p = p * z + 6.666666666666735130e-1
    h = 0.5 * f * f
    return k * 6.93147180369123816490e-01 - ((h - (s * (h + p * z) + k * 1.90821492927058770002e-10)) - f)


_intrinsic: Any = intrinsic  # what it makes is called without the first argument


@_intrinsic
def _prefetch(typing_context, a, index):  # type: ignore[no-untyped-def]
    """Ask for the cache line of a[index], which may lie beyond the end of the array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        number, byte = ir.IntType(32), ir.PointerType(ir.IntType(8))
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        offset = builder.mul(arguments[1], ir.Constant(arguments[1].type, size))
        address = builder.gep(builder.bitcast(array.data, byte), [offset])
        function_type = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], function_type)
        builder.call(function, [address, number(0), number(3), number(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(a, index), generate


@_jit
def _add_columns(a, base, step, rows, first, last, u, m, out):  # type: ignore[no-untyped-def]
    """out[i] += sum_t u[t] a[column t, i].

    Columns follow each other in memory. The processor's own prefetching ends with each page of 4 kB, about one column:
    it is told what comes next.
    """
    whole = np.uint64(m - m % 64)
    for t in range(first, last):
        x, at = u[t], base + np.uint64(rows[t]) * step
        for start in range(np.uint64(0), whole, np.uint64(64)):
            for i in range(np.uint64(0), np.uint64(64), np.uint64(64 // a.itemsize)):
                _prefetch(a, at + start + i + np.uint64(_AHEAD))
            for i in range(np.uint64(64)):
                out[start + i] += x * np.float64(a[at + start + i])
        for i in range(whole, np.uint64(m)):
            out[i] += x * np.float64(a[at + i])


@_jit
def _add_columns_tile(a, base, step, rows, first, last, u, m, out):  # type: ignore[no-untyped-def]
    """The same for four parameter points: u (4, T), out (4, m); what is loaded serves four columns or four points."""
    o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
    t = first
    while t < last:
        n = min(4, last - t)
        x = np.zeros((4, 4))
        for j in range(n):
            for g in range(4):
                x[j, g] = u[g, t + j]
        b0, b1 = base + np.uint64(rows[t]) * step, base + np.uint64(rows[t + min(1, n - 1)]) * step
        b2, b3 = base + np.uint64(rows[t + min(2, n - 1)]) * step, base + np.uint64(rows[t + n - 1]) * step
        x00, x01, x02, x03, x10, x11, x12, x13 = x[0, 0], x[0, 1], x[0, 2], x[0, 3], x[1, 0], x[1, 1], x[1, 2], x[1, 3]
        x20, x21, x22, x23, x30, x31, x32, x33 = x[2, 0], x[2, 1], x[2, 2], x[2, 3], x[3, 0], x[3, 1], x[3, 2], x[3, 3]
        for i in range(np.uint64(m)):
            y0, y1 = np.float64(a[b0 + i]), np.float64(a[b1 + i])
            y2, y3 = np.float64(a[b2 + i]), np.float64(a[b3 + i])
            o0[i] += x00 * y0 + x10 * y1 + x20 * y2 + x30 * y3
            o1[i] += x01 * y0 + x11 * y1 + x21 * y2 + x31 * y3
            o2[i] += x02 * y0 + x12 * y1 + x22 * y2 + x32 * y3
            o3[i] += x03 * y0 + x13 * y1 + x23 * y2 + x33 * y3
        t += n


@_jit
def _dot_columns(a, base, step, rows, first, last, q, m, out):  # type: ignore[no-untyped-def]
    """out[t] += sum_i q[i] a[column t, i]."""
    t = first
    while t + 4 <= last:
        b0, b1 = base + np.uint64(rows[t]) * step, base + np.uint64(rows[t + 1]) * step
        b2, b3 = base + np.uint64(rows[t + 2]) * step, base + np.uint64(rows[t + 3]) * step
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for i in range(np.uint64(m)):
            x = q[i]
            s0 += x * np.float64(a[b0 + i])
            s1 += x * np.float64(a[b1 + i])
            s2 += x * np.float64(a[b2 + i])
            s3 += x * np.float64(a[b3 + i])
        out[t] += s0
        out[t + 1] += s1
        out[t + 2] += s2
        out[t + 3] += s3
        t += 4
    while t < last:
        b0, s0 = base + np.uint64(rows[t]) * step, 0.0
        for i in range(np.uint64(m)):
            s0 += q[i] * np.float64(a[b0 + i])
        out[t] += s0
        t += 1


@_jit
def _dot_columns_tile(a, base, step, rows, first, last, q, m, out):  # type: ignore[no-untyped-def]
    """The same for four parameter points: q (4, m), out (4, T)."""
    q0, q1, q2, q3 = q[0], q[1], q[2], q[3]
    for t in range(first, last, 2):
        pair = t + 1 < last
        b0, b1 = base + np.uint64(rows[t]) * step, base + np.uint64(rows[t + 1 if pair else t]) * step
        s00, s01, s02, s03 = 0.0, 0.0, 0.0, 0.0
        s10, s11, s12, s13 = 0.0, 0.0, 0.0, 0.0
        for i in range(np.uint64(m)):
            y0, y1 = np.float64(a[b0 + i]), np.float64(a[b1 + i])
            x0, x1, x2, x3 = q0[i], q1[i], q2[i], q3[i]
            s00 += x0 * y0
            s01 += x1 * y0
            s02 += x2 * y0
            s03 += x3 * y0
            s10 += x0 * y1
            s11 += x1 * y1
            s12 += x2 * y1
            s13 += x3 * y1
        out[0, t] += s00
        out[1, t] += s01
        out[2, t] += s02
        out[3, t] += s03
        if pair:
            out[0, t + 1] += s10
            out[1, t + 1] += s11
            out[2, t + 1] += s12
            out[3, t + 1] += s13


@_jit
def _sample(a, base, step, c, s, k, g, d, t, e, h, h2, m):  # type: ignore[no-untyped-def]
    """From the exponent in e (m,): t = bracket exp(e) prod F, d += nu t; e = t / bracket if sample c has shifts.

    Rows of h and h2, F'/F and F''/F - h^2, are those of the factors of the sample, numbered from 0; g is the parameter
    point.
    """
    r = base + np.uint64(s.ratio[c]) * step
    mm = np.uint64(m)
    nu = k.nu[g, c]
    if s.factor_first[c] == s.factor_first[c + 1] and s.shift_first[c] == s.shift_first[c + 1]:
        if s.exponent_first[c] < s.exponent_first[c + 1]:
            for i in range(mm):
                x = _exp(e[i]) * np.float64(a[r + i])
                t[i] = x
                d[i] += nu * x
        else:
            for i in range(mm):
                x = np.float64(a[r + i])
                t[i] = x
                d[i] += nu * x
        return
    if s.exponent_first[c] < s.exponent_first[c + 1]:
        for i in range(mm):
            e[i] = _exp(e[i])
    else:
        for i in range(mm):
            e[i] = 1.0
    for f in range(s.factor_first[c], s.factor_first[c + 1]):
        kind, alpha, poly = k.factor_kind[g, f], k.factor_alpha[g, f], k.factor_poly[g, f]
        hi, lo = base + np.uint64(s.factor_row[f, 0]) * step, base + np.uint64(s.factor_row[f, 1]) * step
        row, row2 = h[f - s.factor_first[c]], h2[f - s.factor_first[c]]
        if kind < 2:
            side, sign = (hi, 1.0) if kind == 0 else (lo, -1.0)
            for i in range(mm):
                slope = sign * _log(np.float64(a[side + i]) / np.float64(a[r + i]))
                e[i] *= _exp(alpha * slope)
                row[i] = slope
                row2[i] = 0.0
        else:
            for i in range(mm):
                up, down = np.float64(a[hi + i]) / np.float64(a[r + i]), np.float64(a[lo + i]) / np.float64(a[r + i])
                ln_up, ln_down = _log(up), _log(down)
                m0, m1, m2, m3 = up - 1.0, down - 1.0, ln_up * up, -ln_down * down
                m4, m5 = ln_up * m2, -ln_down * m3
                v = 1.0 + poly[0, 0] * m0 + poly[0, 1] * m1 + poly[0, 2] * m2
                v += poly[0, 3] * m3 + poly[0, 4] * m4 + poly[0, 5] * m5
                v1 = poly[1, 0] * m0 + poly[1, 1] * m1 + poly[1, 2] * m2
                v1 += poly[1, 3] * m3 + poly[1, 4] * m4 + poly[1, 5] * m5
                v2 = poly[2, 0] * m0 + poly[2, 1] * m1 + poly[2, 2] * m2
                v2 += poly[2, 3] * m3 + poly[2, 4] * m4 + poly[2, 5] * m5
                e[i] *= v
                row[i] = v1 / v
                row2[i] = v2 / v - row[i] * row[i]
    for i in range(mm):
        t[i] = np.float64(a[r + i])
    for f in range(s.shift_first[c], s.shift_first[c + 1]):
        up, down = k.shift[g, f, 0, 0], k.shift[g, f, 0, 1]
        hi, lo = base + np.uint64(s.shift_row[f, 0]) * step, base + np.uint64(s.shift_row[f, 1]) * step
        for i in range(mm):
            x = np.float64(a[r + i])
            t[i] += up * (np.float64(a[hi + i]) - x) + down * (x - np.float64(a[lo + i]))
    for i in range(mm):
        t[i] *= e[i]
        d[i] += nu * t[i]


@_jit
def _logarithm(d, w, m, mode, threshold, order, w2):  # type: ignore[no-untyped-def]
    """(sum w L, events with w and d not positive); for the derivatives d becomes w L1, and w2 becomes w L2."""
    mm = np.uint64(m)
    total, bad = 0.0, 0
    if mode == 1:
        for i in range(mm):
            total += w[i] * d[i]
            d[i] = w[i]
        for i in range(np.uint64(w2.size)):
            w2[i] = 0.0
        return total, bad
    low = 0
    for i in range(mm):
        total += w[i] * _log(d[i])
        low += 0 if d[i] >= threshold and d[i] > 1e-300 and d[i] < 1e300 else 1
    if low == 0:
        if order == 1:
            for i in range(mm):
                d[i] = w[i] / d[i]
        elif order == 2:
            for i in range(mm):
                x = 1.0 / d[i]
                d[i] = w[i] * x
                w2[i] = -w[i] * x * x
        return total, bad
    total = 0.0
    for i in range(mm):
        x = d[i]
        safe = threshold if x < threshold else x
        u = (x - safe) / threshold if x < threshold else 0.0
        if w[i] != 0.0:
            total += w[i] * (np.log(safe) + u - 0.5 * u * u)
            bad += 0 if x > 0.0 else 1
        if w2.size:
            w2[i] = -w[i] / (safe * safe)
        d[i] = w[i] * (1.0 - u) / safe
    return total, bad


@_jit
def _gram(rows, x0, x1, y0, y1, w, m, scratch, par, offset, out):  # type: ignore[no-untyped-def]
    """out[par[j], par[k]] += sum_i w[i] rows[j, i] rows[k, i] in the upper triangle, j in [x0, x1), k in [y0, y1).

    If the two ranges are the same, each pair counts once. Rows beyond the ranges are read, up to three, and dropped.
    """
    mm = np.uint64(m)
    sums = np.empty(16)
    same = x0 == y0
    a0, a1, a2, a3 = scratch[0], scratch[1], scratch[2], scratch[3]
    for j in range(x0, x1, 4):
        r0, r1, r2, r3 = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        for i in range(mm):
            x = w[i]
            a0[i] = x * r0[i]
            a1[i] = x * r1[i]
            a2[i] = x * r2[i]
            a3[i] = x * r3[i]
        for k in range(j if same else y0, y1, 4):
            b0, b1, b2, b3 = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = 0.0
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = 0.0
            for i in range(mm):
                p0, p1, p2, p3 = a0[i], a1[i], a2[i], a3[i]
                q0, q1, q2, q3 = b0[i], b1[i], b2[i], b3[i]
                s00 += p0 * q0
                s01 += p0 * q1
                s02 += p0 * q2
                s03 += p0 * q3
                s10 += p1 * q0
                s11 += p1 * q1
                s12 += p1 * q2
                s13 += p1 * q3
                s20 += p2 * q0
                s21 += p2 * q1
                s22 += p2 * q2
                s23 += p2 * q3
                s30 += p3 * q0
                s31 += p3 * q1
                s32 += p3 * q2
                s33 += p3 * q3
            sums[0], sums[1], sums[2], sums[3] = s00, s01, s02, s03
            sums[4], sums[5], sums[6], sums[7] = s10, s11, s12, s13
            sums[8], sums[9], sums[10], sums[11] = s20, s21, s22, s23
            sums[12], sums[13], sums[14], sums[15] = s30, s31, s32, s33
            for n in range(16):
                jj, kk = j + n // 4, k + n % 4
                if jj < x1 and kk < y1 and (jj <= kk or not same):
                    p, q = par[jj] + offset, par[kk] + offset
                    out[min(p, q), max(p, q)] += sums[n]


@_jit
def add_sums(  # type: ignore[no-untyped-def]
    a, where, weights, s, k, mode, threshold, order, first, last, values, bad, rate, exponent, factor, shift, hessian
):
    """Portions first to last of one pass; see `nuratio.model.kernels.compiled.sums`."""
    columns, size, events, unit, per_block, units, portions = where
    points, c_all = k.nu.shape
    n_all = hessian.shape[1]
    factors, slots = 0, 0
    for c in range(c_all):
        factors = max(factors, s.factor_first[c + 1] - s.factor_first[c])
        slots = max(slots, s.slot_first[c + 1] - s.slot_first[c])
    tile = 4 if points >= 4 else 1
    step = np.uint64(size)
    t = np.empty((c_all, tile, unit))
    e = np.empty((c_all, tile, unit))
    h = np.empty((c_all, tile, factors, unit))
    h2 = np.empty((c_all, tile, factors, unit))
    d = np.empty((tile, unit))
    q = np.empty((tile, unit))
    w2 = np.empty(unit if order > 1 else 0)
    rows = np.zeros((slots + 3 if order > 1 else 0, unit))
    full = np.zeros((n_all + 3 if order > 1 else 0, unit))
    scratch = np.empty((4, unit))
    identity = np.arange(n_all + 3)
    for portion in range(first, last):
        for u in range(units * portion // portions, units * (portion + 1) // portions):
            block, o = u // per_block, (u % per_block) * unit
            base = np.uint64(block) * np.uint64(columns) * step + np.uint64(o)
            event = block * size + o
            m = min(unit, min(size - o, events - event))
            mm = np.uint64(m)
            g0 = 0
            while g0 < points:
                together = tile if g0 + tile <= points else 1
                d[:together] = 0.0
                for c in range(c_all):
                    e[c, :together] = 0.0
                    j0, j1 = s.exponent_first[c], s.exponent_first[c + 1]
                    if together == 4:
                        _add_columns_tile(a, base, step, s.exponent_row, j0, j1, k.exponent[g0 : g0 + 4], m, e[c])
                    else:
                        _add_columns(a, base, step, s.exponent_row, j0, j1, k.exponent[g0], m, e[c, 0])
                    for g in range(together):
                        _sample(a, base, step, c, s, k, g0 + g, d[g], t[c, g], e[c, g], h[c, g], h2[c, g], m)
                for g in range(together):
                    wg = weights[g0 + g if len(weights) > 1 else 0, event : event + m]
                    value, wrong = _logarithm(d[g], wg, m, mode, threshold, order, w2[:m])
                    values[portion, g0 + g] += value
                    bad[portion, g0 + g] += wrong
                if order > 0:
                    for c in range(c_all):
                        for g in range(together):
                            tc, dg, qg, total = t[c, g], d[g], q[g], 0.0
                            for i in range(mm):
                                qg[i] = tc[i] * dg[i]
                                total += qg[i]
                            rate[portion, g0 + g, c] += total
                            for f in range(s.factor_first[c], s.factor_first[c + 1]):
                                row, total = h[c, g, f - s.factor_first[c]], 0.0
                                for i in range(mm):
                                    total += qg[i] * row[i]
                                factor[portion, g0 + g, f] += total
                            r = base + np.uint64(s.ratio[c]) * step
                            eg = e[c, g]
                            for f in range(s.shift_first[c], s.shift_first[c + 1]):
                                up, down, total = k.shift[g0 + g, f, 1, 0], k.shift[g0 + g, f, 1, 1], 0.0
                                hi = base + np.uint64(s.shift_row[f, 0]) * step
                                lo = base + np.uint64(s.shift_row[f, 1]) * step
                                for i in range(mm):
                                    x = np.float64(a[r + i])
                                    y = up * (np.float64(a[hi + i]) - x) + down * (x - np.float64(a[lo + i]))
                                    total += dg[i] * eg[i] * y
                                shift[portion, g0 + g, f] += total
                        j0, j1 = s.exponent_first[c], s.exponent_first[c + 1]
                        if together == 4:
                            out = exponent[portion, g0 : g0 + 4]
                            _dot_columns_tile(a, base, step, s.exponent_row, j0, j1, q, m, out)
                        else:
                            _dot_columns(a, base, step, s.exponent_row, j0, j1, q[0], m, exponent[portion, g0])
                g0 += together
            if order > 1:
                out = hessian[portion]
                _curvature(a, base, step, m, s, k, t, e, h, h2, d[0], w2, mode == 0, rows, full, scratch, identity, out)


@_jit
def _curvature(  # type: ignore[no-untyped-def]
    a, base, step, m, s, k, t, e, h, h2, w1, w2, curved, rows, full, scratch, identity, out
):
    """Adds w [L2 d_a d_b + L1 d_ab] of m events to the upper triangle; w1 = w L1, w2 = w L2 (0 if not curved)."""
    c_all = k.nu.shape[1]
    mm = np.uint64(m)
    weight = np.empty(m)
    full[:] = 0.0
    for c in range(c_all):
        nu, first = k.nu[0, c], s.slot_first[c]
        tc, ec = t[c, 0], e[c, 0]
        n, mult = s.slot_first[c + 1] - first, s.multiplied[c]
        par = s.par[first : first + n]
        r = base + np.uint64(s.ratio[c]) * step
        rows[:n] = 0.0
        for j in range(s.exponent_first[c], s.exponent_first[c + 1]):
            at = base + np.uint64(s.exponent_row[j]) * step
            for side in range(2):
                x, row = k.exponent_first[0, j, side], rows[s.exponent_slot[j, side]]
                if x != 0.0:
                    for i in range(mm):
                        row[i] += x * np.float64(a[at + i])
        for f in range(s.factor_first[c], s.factor_first[c + 1]):
            slot, total = s.factor_slot[f], 0.0
            row, first_f, second_f = rows[slot], h[c, 0, f - s.factor_first[c]], h2[c, 0, f - s.factor_first[c]]
            for i in range(mm):
                row[i] += first_f[i]
                total += w1[i] * tc[i] * second_f[i]
            out[c_all + par[slot], c_all + par[slot]] += nu * total
        for f in range(s.shift_first[c], s.shift_first[c + 1]):
            slot, total = s.shift_slot[f], 0.0
            up, down, up2, down2 = k.shift[0, f, 1, 0], k.shift[0, f, 1, 1], k.shift[0, f, 2, 0], k.shift[0, f, 2, 1]
            hi, lo = base + np.uint64(s.shift_row[f, 0]) * step, base + np.uint64(s.shift_row[f, 1]) * step
            row = rows[slot]
            for i in range(mm):
                x = np.float64(a[r + i])
                y, z = np.float64(a[hi + i]) - x, x - np.float64(a[lo + i])
                row[i] += up * y + down * z
                total += w1[i] * ec[i] * (up2 * y + down2 * z)
            out[c_all + par[slot], c_all + par[slot]] += nu * total
        own = full[c]
        for i in range(mm):
            own[i] = tc[i]
        for j in range(n):
            row, target = rows[j], full[c_all + par[j]]
            total = 0.0
            if j < mult:
                for i in range(mm):
                    x = tc[i] * row[i]
                    target[i] += nu * x
                    total += w1[i] * x
            else:
                for i in range(mm):
                    x = ec[i] * row[i]
                    target[i] += nu * x
                    total += w1[i] * x
            out[c, c_all + par[j]] += total
        if mult > 0:
            for i in range(mm):
                weight[i] = nu * w1[i] * tc[i]
            _gram(rows, 0, mult, 0, mult, weight, m, scratch, par, c_all, out)
            if n > mult:
                for i in range(mm):
                    weight[i] = nu * w1[i] * ec[i]
                _gram(rows, 0, mult, mult, n, weight, m, scratch, par, c_all, out)
    if curved:
        _gram(full, 0, len(out), 0, len(out), w2, m, scratch, identity, 0, out)


@_jit
def write_densities(a, where, s, k, first, last, out):  # type: ignore[no-untyped-def]
    """nu_c t_c of blocks first to last; see `nuratio.model.kernels.compiled.densities`."""
    columns, size, events, unit, _ = where
    c_all = k.nu.shape[1]
    factors = 0
    for c in range(c_all):
        factors = max(factors, s.factor_first[c + 1] - s.factor_first[c])
    step = np.uint64(size)
    d, e, h, h2 = np.zeros(unit), np.empty(unit), np.empty((factors, unit)), np.empty((factors, unit))
    for block in range(first, last):
        for o in range(0, min(size, events - block * size), unit):
            base = np.uint64(block) * np.uint64(columns) * step + np.uint64(o)
            m = min(unit, min(size - o, events - block * size - o))
            for c in range(c_all):
                start = (block * c_all + c) * size + o
                e[:] = 0.0
                rows, j0, j1 = s.exponent_row, s.exponent_first[c], s.exponent_first[c + 1]
                _add_columns(a, base, step, rows, j0, j1, k.exponent[0], m, e)
                t = out[start : start + m]
                _sample(a, base, step, c, s, k, 0, d, t, e, h, h2, m)
                t *= k.nu[0, c]
