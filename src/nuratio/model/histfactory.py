"""HistFactory rates with exact derivatives.

A *cell* is one (channel, sample, bin). Its rate is (nominal + sum of additive shifts) x (product of factors),

    nu(theta) = A(theta) M(theta),

in pyhf's order of operations (CERN-OPEN-2012-016). pyhf owns the parameters: names, order and mapping are read from a
`pyhf.Model`, and its numbers are the oracle this module is tested against.

A bin depends on few of the parameters. The derivatives of its cells are *rows*, one entry for each parameter of the
bin, so that sums over cells and bins are short loops over memory in order. With l = f'/f of a parameter's factor and
s = M dA/dtheta of its shift, d nu / d theta_k = nu l_k + s_k, and d2 nu / d theta_j d theta_k = nu l_j l_k + l_j s_k +
s_j l_k for j != k.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel
from nuratio.model.compiling import compiler
from nuratio.model.interpolation import (
    ADDITIVE_CODES,
    MULTIPLICATIVE,
    additive,
    matched_anchors,
    multiplicative,
)

__all__ = ["HistFactory", "Rates"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_jit = compiler()

# A factor of zero (mu = 0) is replaced by this where the product is divided by it again: M and its logarithmic
# derivative then multiply to the exact derivative. With four or more such factors M underflows, and all of them vanish.
_TINY = 1e-100


class _Layout(NamedTuple):
    """A model as flat arrays: ``x_first[i] : x_first[i + 1]`` are the entries of cell or bin i."""

    nominal: Floats  # (cells,)
    code4: bool  # of the normsys: code 4, else code 1
    norm_par: Ints  # (normsys,) sorted; equal ones of several bins or samples occur once
    norm_ln_lo: Floats
    norm_ln_hi: Floats
    norm_matched: Floats  # (normsys, 6)
    factor_first: Ints  # (cells + 1,)
    factor: Ints  # below len(norm_par) a normsys, above a parameter that is a factor itself
    factor_slot: Ints  # its parameter among those of the bin
    additive: int  # code of the histosys
    shifting: Ints  # parameters with a histosys
    shift_first: Ints  # (cells + 1,)
    shift: Ints  # its parameter among those shifting
    shift_slot: Ints
    up: Floats  # hi - nominal
    down: Floats  # nominal - lo
    par_first: Ints  # (bins + 1,)
    par: Ints  # the parameters of a bin, increasing
    cell_first: Ints  # (bins + 1,)
    cell: Ints  # the cells of a bin, one for each sample
    row_first: Ints  # (bins,) where the rows of a bin's cells start, one after the other


class _Rows(NamedTuple):
    """Rates and their derivatives at one point; all but the first have an entry per cell and parameter of its bin."""

    nu: Floats  # (cells,)
    first: Floats  # d nu
    log_factor: Floats  # l = f' / f
    shift: Floats  # s = M dA/dtheta
    second: Floats  # d2 nu / d theta^2, the diagonal


@dataclass(frozen=True, eq=False)
class Rates:
    """Cell rates at one parameter point and their derivatives; made by `HistFactory.rates`."""

    _layout: _Layout
    _rows: _Rows
    _n_parameters: int

    @property
    def nu(self) -> Floats:
        """Expected events, shape (cells,)."""
        return self._rows.nu

    @cached_property
    def jacobian(self) -> Floats:
        """d nu / d theta, shape (cells, F)."""
        return np.asarray(_jacobian(self._layout, self._rows, self._n_parameters))

    def gradient(self, weight: Floats) -> Floats:
        """sum_cells weight d nu / d theta, shape (F,), for weights of shape (cells,)."""
        return np.asarray(_gradient(self._layout, self._rows, self._checked(weight), self._n_parameters))

    def curvature(self, weight: Floats, bin_weight: Floats | None = None) -> Floats:
        """sum_cells weight d2 nu + sum_bins bin_weight (d rate)(d rate)', shape (F, F).

        Parameters
        ----------
        weight : ndarray, shape (cells,)
        bin_weight : ndarray, shape (bins,), optional
            For the bins of all channels, in order; the rate of a bin is the sum of its cells.
        """
        bins = len(self._layout.row_first)
        square = np.zeros(bins) if bin_weight is None else np.ascontiguousarray(bin_weight, dtype=np.float64)
        if square.shape != (bins,):
            raise InvalidModel(f"{bins} bins need as many weights, got an array of shape {square.shape}")
        return np.asarray(_hessian(self._layout, self._rows, self._checked(weight), square, self._n_parameters))

    def _checked(self, weight: Floats) -> Floats:
        if weight.shape != self.nu.shape:
            raise InvalidModel(f"{len(self.nu)} cells need as many weights, got an array of shape {weight.shape}")
        return np.ascontiguousarray(weight, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class HistFactory:
    """The rates of all cells of a pyhf model as functions of its parameters.

    Attributes
    ----------
    channels : dict
        Channel name -> (first cell, sample names, number of bins); the cells of a channel are samples x bins.
    nominal : ndarray, shape (cells,)
        Nominal yields.
    n_parameters : int
        F.
    """

    channels: Mapping[str, tuple[int, tuple[str, ...], int]]
    n_parameters: int
    _layout: _Layout

    @classmethod
    def compile(cls, pdf: Any) -> "HistFactory":
        """Read the rates of a `pyhf.Model` from its ``spec`` and ``config``.

        Raises
        ------
        InvalidModel
            An unknown modifier type or interpolation code; a normsys anchor that is not positive; a shapefactor with
            more bins than parameters.
        """
        config = pdf.config
        # pyhf: settings that are given replace the defaults (code4, code4p) as a whole; what they lack is code1, code0
        codes = {
            kind: config.modifier_settings.get(kind, {}).get("interpcode", fallback)
            for kind, fallback in (("normsys", "code1"), ("histosys", "code0"))
        }
        for kind, known in (("normsys", MULTIPLICATIVE), ("histosys", ADDITIVE_CODES)):
            if codes[kind] not in known:
                raise InvalidModel(f"{kind} interpolation {codes[kind]!r} is none of {list(known)}")
        spec = {c["name"]: {s["name"]: s for s in c["samples"]} for c in pdf.spec["channels"]}
        start = {name: config.par_slice(name).start for name in config.par_order}
        gammas = _bin_parameters(spec, config)
        channels: dict[str, tuple[int, tuple[str, ...], int]] = {}
        nominal: list[float] = []
        shifts: list[tuple[int, int, float, float]] = []
        norms: list[tuple[int, int, float, float]] = []
        factors: list[tuple[int, int]] = []
        for channel in config.channels:
            samples = tuple(s for s in config.samples if s in spec[channel])
            bins = config.channel_nbins[channel]
            channels[channel] = (len(nominal), samples, bins)
            for sample in samples:
                cells = range(len(nominal), len(nominal) + bins)
                yields = spec[channel][sample]["data"]
                nominal.extend(yields)
                # of two modifiers of one type and name on a sample, pyhf 0.7 takes the last
                modifiers = {(m["type"], m["name"]): m for m in spec[channel][sample]["modifiers"]}
                for (kind, name), modifier in modifiers.items():
                    data, par = modifier["data"], start[name]
                    if kind == "histosys":
                        anchors = zip(cells, yields, data["hi_data"], data["lo_data"], strict=True)
                        shifts += [(cell, par, hi - n, n - lo) for cell, n, hi, lo in anchors]
                    elif kind == "normsys":
                        lo, hi = data["lo"], data["hi"]
                        if lo <= 0 or hi <= 0:
                            raise InvalidModel(
                                f"channel {channel!r}, sample {sample!r}, normsys {name!r}: lo = {lo}, hi = {hi} must "
                                f"both be positive for {codes[kind]}; use a histosys"
                            )
                        norms += [(cell, par, lo, hi) for cell in cells]
                    elif kind in ("normfactor", "lumi"):
                        factors += [(cell, par) for cell in cells]
                    elif kind == "shapefactor":
                        if bins > config.param_set(name).n_parameters:
                            raise InvalidModel(
                                f"channel {channel!r} has {bins} bins, but shapefactor {name!r} has as many parameters "
                                f"as the first channel with it, {config.param_set(name).n_parameters} "
                                "(pyhf takes another parameter for the rest): use another name"
                            )
                        factors += [(cell, par + b) for b, cell in enumerate(cells)]
                    elif kind in ("shapesys", "staterror"):
                        factors += zip(cells, gammas[name, channel], strict=True)
                    else:
                        raise InvalidModel(
                            f"channel {channel!r}, sample {sample!r}: modifier {name!r} of unknown type {kind!r}"
                        )
        layout = _layout(channels, config.npars, codes, np.array(nominal, dtype=np.float64), shifts, norms, factors)
        return cls(channels, config.npars, layout)

    @property
    def nominal(self) -> Floats:
        """Nominal yields, shape (cells,)."""
        return self._layout.nominal

    def cells(self, channel: str, bin: int | None = None) -> slice:
        """The cells of a channel, to be reshaped to (samples, bins); or those of one bin, a cell for each sample."""
        first, samples, bins = self.channels[channel]
        stop = first + len(samples) * bins
        return slice(first, stop) if bin is None else slice(first + bin, stop, bins)

    @cached_property
    def bins(self) -> Mapping[str, slice]:
        """Channel name -> its bins among those of all channels."""
        sizes = [bins for _, _, bins in self.channels.values()]
        stops = np.cumsum(sizes).tolist()
        return {c: slice(stop - n, stop) for c, stop, n in zip(self.channels, stops, sizes, strict=True)}

    @cached_property
    def scale(self) -> Floats:
        """Sum of the absolute nominal yields of each bin, shape (bins of all channels,)."""
        first, cell = self.cells_of_bins
        bin_of = np.repeat(np.arange(len(first) - 1), np.diff(first))
        return np.bincount(bin_of, np.abs(self.nominal[cell])).astype(np.float64)

    @cached_property
    def kinks(self) -> NDArray[np.bool_]:
        """Parameters in which rates have a kink at zero, shape (F,): codes 0 and 1 between unequal sides."""
        layout, out = self._layout, np.zeros(self.n_parameters, dtype=bool)
        if not layout.code4:
            out[layout.norm_par[np.abs(layout.norm_ln_lo + layout.norm_ln_hi) > 1e-12]] = True
        if layout.additive == ADDITIVE_CODES["code0"]:
            out[layout.shifting[layout.shift[layout.up != layout.down]]] = True
        return out

    @property
    def cells_of_bins(self) -> tuple[Ints, Ints]:
        """(first, cell): the cells of bin b are ``cell[first[b] : first[b + 1]]``."""
        return self._layout.cell_first, self._layout.cell

    def nu(self, theta: Floats) -> Floats:
        """Expected events of every cell, shape (cells,)."""
        return self._evaluate(theta, False).nu

    def rates(self, theta: Floats) -> Rates:
        """Expected events of every cell with exact first and second derivatives."""
        return Rates(self._layout, self._evaluate(theta, True), self.n_parameters)

    def _evaluate(self, theta: Floats, derivatives: bool) -> _Rows:
        layout = self._layout
        point = np.array(theta, dtype=np.float64)  # a copy: compiled code for one kind of array
        if point.shape != (self.n_parameters,):
            raise InvalidModel(f"the rates need {self.n_parameters} parameters, got an array of shape {point.shape}")
        norm = multiplicative(
            layout.code4, point, layout.norm_par, layout.norm_ln_lo, layout.norm_ln_hi, layout.norm_matched
        )
        basis = additive(layout.additive, point[layout.shifting])
        return _Rows(*_evaluate(layout, point, norm, basis, derivatives))


# --- compiling a model


def _bin_parameters(spec: Mapping[str, Mapping[str, Any]], config: Any) -> dict[tuple[str, str], range]:
    """(modifier name, channel) -> parameters of staterror and shapesys: one per bin that carries it, in order."""
    index: dict[tuple[str, str], range] = {}
    position: dict[str, int] = {}
    for channel in config.channels:
        bins = config.channel_nbins[channel]
        names = {
            m["name"] for s in spec[channel].values() for m in s["modifiers"] if m["type"] in ("staterror", "shapesys")
        }
        for name in names:
            first = position.get(name, config.par_slice(name).start)
            index[name, channel] = range(first, first + bins)
            position[name] = first + bins
    return index


def _layout(
    channels: Mapping[str, tuple[int, tuple[str, ...], int]],
    n_parameters: int,
    codes: Mapping[str, str],
    nominal: Floats,
    shifts: list[tuple[int, int, float, float]],
    norms: list[tuple[int, int, float, float]],
    factors: list[tuple[int, int]],
) -> _Layout:
    """Entries (cell, parameter, ...) sorted by cell, parameters numbered within their bin."""
    groups = [first + np.arange(len(samples) * bins).reshape(-1, bins).T for first, samples, bins in channels.values()]
    cell = np.concatenate([g.ravel() for g in groups]).astype(np.int64)
    samples = np.concatenate([np.full(len(g), g.shape[1]) for g in groups])
    bin_of = np.empty_like(cell)
    bin_of[cell] = np.repeat(np.arange(len(samples)), samples)

    shift = np.array(shifts, dtype=np.float64).reshape(-1, 4)
    norm = np.array(norms, dtype=np.float64).reshape(-1, 4)
    free = np.array(factors, dtype=np.int64).reshape(-1, 2)
    order = np.lexsort((norm[:, 3], norm[:, 2], norm[:, 1]))
    new = np.ones(len(norm), dtype=bool)
    new[1:] = np.any(np.diff(norm[order, 1:], axis=0) != 0, axis=1)
    function = np.empty(len(norm), dtype=np.int64)
    function[order] = np.cumsum(new) - 1
    unique = norm[order][new]

    factor_cell = np.concatenate([norm[:, 0].astype(np.int64), free[:, 0]])
    factor_par = np.concatenate([norm[:, 1].astype(np.int64), free[:, 1]])
    factor = np.concatenate([function, len(unique) + free[:, 1]])
    shift_cell, shift_par = shift[:, 0].astype(np.int64), shift[:, 1].astype(np.int64)
    by_cell, shift_by_cell = np.argsort(factor_cell, kind="stable"), np.argsort(shift_cell, kind="stable")

    key = bin_of[np.concatenate([factor_cell, shift_cell])] * n_parameters + np.concatenate([factor_par, shift_par])
    present, position = np.unique(key, return_inverse=True)
    par_first = _starts(present // max(n_parameters, 1), len(samples))
    slot = position - par_first[key // max(n_parameters, 1)]
    width = np.diff(par_first)
    return _Layout(
        nominal=nominal,
        code4=codes["normsys"] == "code4",
        norm_par=unique[:, 1].astype(np.int64),
        norm_ln_lo=np.log(unique[:, 2]),
        norm_ln_hi=np.log(unique[:, 3]),
        norm_matched=np.ascontiguousarray(matched_anchors(unique[:, 2], unique[:, 3])),
        factor_first=_starts(factor_cell[by_cell], len(nominal)),
        factor=factor[by_cell],
        factor_slot=slot[: len(factor)][by_cell],
        additive=ADDITIVE_CODES[codes["histosys"]],
        shifting=np.unique(shift_par),
        shift_first=_starts(shift_cell[shift_by_cell], len(nominal)),
        shift=np.searchsorted(np.unique(shift_par), shift_par[shift_by_cell]),
        shift_slot=slot[len(factor) :][shift_by_cell],
        up=shift[shift_by_cell, 2],
        down=shift[shift_by_cell, 3],
        par_first=par_first,
        par=present % max(n_parameters, 1),
        cell_first=np.concatenate([[0], np.cumsum(samples)]),
        cell=cell,
        row_first=np.cumsum(width * samples) - width * samples,
    )


def _starts(sorted_index: Ints, n: int) -> Ints:
    """Where each of 0 .. n - 1 starts in a sorted array, and its length: shape (n + 1,)."""
    return np.searchsorted(sorted_index, np.arange(n + 1)).astype(np.int64)


# --- compiled code


@_jit
def _evaluate(
    layout: _Layout, theta: Floats, norm: Floats, basis: Floats, derivatives: bool
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """The arrays of `_Rows`; without ``derivatives`` all but the first are empty.

    ``norm`` (normsys, 3) and ``basis`` (3, 2, shifting): factors and shifts with their derivatives.
    """
    norms = len(norm)
    bins = len(layout.row_first)
    size = 0
    if derivatives:
        for g in range(bins):
            width = layout.par_first[g + 1] - layout.par_first[g]
            size += width * (layout.cell_first[g + 1] - layout.cell_first[g])
    nu = np.empty(len(layout.nominal))
    first, log_factor, shift, second = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    for g in range(bins):
        width = layout.par_first[g + 1] - layout.par_first[g]
        row = layout.row_first[g]
        for c in layout.cell[layout.cell_first[g] : layout.cell_first[g + 1]]:
            a = layout.nominal[c]
            for e in range(layout.shift_first[c], layout.shift_first[c + 1]):
                k, up, down = layout.shift[e], layout.up[e], layout.down[e]
                a += up * basis[0, 0, k] + down * basis[0, 1, k]
                if derivatives:
                    at = row + layout.shift_slot[e]
                    shift[at] = up * basis[1, 0, k] + down * basis[1, 1, k]
                    second[at] = up * basis[2, 0, k] + down * basis[2, 1, k]
            rate, m = a, 1.0
            for e in range(layout.factor_first[c], layout.factor_first[c + 1]):
                k = layout.factor[e]
                if k < norms:
                    f, f1, f2 = norm[k, 0], norm[k, 1], norm[k, 2]
                else:
                    f, f1, f2 = theta[k - norms], 1.0, 0.0
                rate *= f
                if derivatives:
                    safe = _TINY if abs(f) < _TINY else f
                    m *= safe
                    at = row + layout.factor_slot[e]
                    log_factor[at] = f1 / safe
                    second[at] += a * (f2 / safe) + 2 * shift[at] * log_factor[at]
            nu[c] = rate
            if derivatives:
                for i in range(row, row + width):
                    shift[i] *= m
                    second[i] *= m
                    first[i] = a * m * log_factor[i] + shift[i]
                row += width
    return nu, first, log_factor, shift, second


@_jit
def _jacobian(layout: _Layout, rows: _Rows, n_parameters: int) -> Floats:
    out = np.zeros((len(layout.nominal), n_parameters))
    for g in range(len(layout.row_first)):
        par = layout.par[layout.par_first[g] : layout.par_first[g + 1]]
        row = layout.row_first[g]
        for c in layout.cell[layout.cell_first[g] : layout.cell_first[g + 1]]:
            for i, p in enumerate(par):
                out[c, p] = rows.first[row + i]
            row += len(par)
    return out


@_jit
def _gradient(layout: _Layout, rows: _Rows, weight: Floats, n_parameters: int) -> Floats:
    out = np.zeros(n_parameters)
    for g in range(len(layout.row_first)):
        par = layout.par[layout.par_first[g] : layout.par_first[g + 1]]
        n, row = len(par), layout.row_first[g]
        line = np.zeros(n)
        for c in layout.cell[layout.cell_first[g] : layout.cell_first[g + 1]]:
            w = weight[c]
            if w != 0:
                for j in range(n):
                    line[j] += w * rows.first[row + j]
            row += n
        for j in range(n):
            out[par[j]] += line[j]
    return out


@_jit
def _hessian(layout: _Layout, rows: _Rows, weight: Floats, bin_weight: Floats, n_parameters: int) -> Floats:
    out = np.zeros((n_parameters, n_parameters))
    for g in range(len(layout.row_first)):
        par = layout.par[layout.par_first[g] : layout.par_first[g + 1]]
        n, row, used = len(par), layout.row_first[g], bin_weight[g] != 0
        slope, half, square = np.zeros(n), np.empty(n), np.zeros((n, n))
        for c in layout.cell[layout.cell_first[g] : layout.cell_first[g + 1]]:
            w = weight[c]
            for j in range(n):
                slope[j] += rows.first[row + j]
            if w != 0:  # off the diagonal d2 nu = l (d nu + s)' / 2 + its transpose; few parameters of a cell have an l
                used = True
                for j in range(n):
                    half[j] = w * (rows.first[row + j] + rows.shift[row + j]) / 2
                    out[par[j], par[j]] += w * rows.second[row + j]
                for e in range(layout.factor_first[c], layout.factor_first[c + 1]):
                    i = layout.factor_slot[e]
                    line, log_factor = square[i], rows.log_factor[row + i]
                    for j in range(n):
                        line[j] += log_factor * half[j]
            row += n
        if used:
            for i in range(n):
                z, target = bin_weight[g] * slope[i], out[par[i]]
                target[par[i]] += z * slope[i]
                for j in range(i):  # parameters increase: the lower triangle
                    target[par[j]] += square[i, j] + square[j, i] + z * slope[j]
    for p in range(n_parameters):
        for q in range(p):
            out[q, p] = out[p, q]
    return out
