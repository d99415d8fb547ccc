"""HistFactory rates with exact derivatives.

A *cell* is one (channel, sample, bin). Its rate is (nominal + sum of additive shifts) x (product of factors),

    nu(theta) = A(theta) M(theta),

in pyhf's order of operations (CERN-OPEN-2012-016). pyhf owns the parameters: names, order and mapping are read from a
`pyhf.Model`, and its numbers are the oracle this module is tested against.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel
from nuratio.model.interpolation import ADDITIVE, MULTIPLICATIVE, Code1, Code4

__all__ = ["HistFactory", "Rates"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A factor of exactly zero (mu = 0) is replaced by this where the product is divided by it again: M and its logarithmic
# derivative then multiply to the exact derivative, for up to three vanishing factors in one cell.
_TINY = 1e-100


@dataclass(frozen=True)
class _Additive:
    """Histosys entries of one code: cell, parameter, hi - nominal and nominal - lo of each."""

    code: str
    cell: Ints
    par: Ints
    up: Floats
    down: Floats


@dataclass(frozen=True)
class Rates:
    """Cell rates at one parameter point and what their derivatives need.

    Attributes
    ----------
    nu : ndarray, shape (cells,)
        Expected events.
    jacobian : ndarray, shape (cells, P)
        d nu / d theta.
    """

    nu: Floats
    jacobian: Floats
    _a: Floats
    _m: Floats
    _a1: Floats
    _log_m1: Floats
    _a2: tuple[tuple[Ints, Ints, Floats], ...]
    _m2: tuple[Ints, Ints, Floats]

    def curvature(self, weight: Floats) -> Floats:
        """sum_cells weight d2 nu / d theta d theta', shape (P, P), for weights of shape (cells,)."""
        g = weight * self._m
        cross = (g[:, None] * self._a1).T @ self._log_m1
        ga = g * self._a
        h = self._log_m1.T @ (ga[:, None] * self._log_m1)
        cell, par, second = self._m2  # the product's diagonal is f''/f, not (f'/f)^2
        n = len(h)
        np.fill_diagonal(h, np.bincount(par, ga[cell] * second, n))
        h += cross + cross.T
        for cell, par, second in self._a2:
            h[np.diag_indices(n)] += np.bincount(par, g[cell] * second, n)
        return h


@dataclass(frozen=True)
class HistFactory:
    """The rates of all cells of a pyhf model as functions of its parameters.

    Attributes
    ----------
    channels : dict
        Channel name -> (first cell, sample names, number of bins); the cells of a channel are samples x bins.
    nominal : ndarray, shape (cells,)
        Nominal yields.
    n_parameters : int
        P.
    """

    channels: Mapping[str, tuple[int, tuple[str, ...], int]]
    nominal: Floats
    n_parameters: int
    _additive: tuple[_Additive, ...]
    _normsys: Code1 | Code4
    _cell: Ints  # of each factor: first the normsys, then the parameters that are factors themselves
    _par: Ints

    @classmethod
    def compile(cls, pdf: Any) -> "HistFactory":
        """Read the rates of a `pyhf.Model` from its ``spec`` and ``config``.

        Raises
        ------
        InvalidModel
            An unknown modifier type; a normsys anchor that is not positive.
        """
        config = pdf.config
        # pyhf: settings that are given replace the defaults (code4, code4p) as a whole; what they lack is code1, code0
        codes = {
            kind: config.modifier_settings.get(kind, {}).get("interpcode", fallback)
            for kind, fallback in (("normsys", "code1"), ("histosys", "code0"))
        }
        spec = {c["name"]: {s["name"]: s for s in c["samples"]} for c in pdf.spec["channels"]}
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
                first = len(nominal)
                yields = spec[channel][sample]["data"]
                nominal += yields
                for b, modifier, par in _modifiers(channel, spec[channel][sample], bins, config, gammas):
                    kind, data, cell = modifier["type"], modifier["data"], first + b
                    where = f"channel {channel!r}, sample {sample!r}, {kind} {modifier['name']!r}"
                    if kind == "histosys":
                        n = yields[b]
                        shifts.append((cell, par, data["hi_data"][b] - n, n - data["lo_data"][b]))
                    elif kind == "normsys":
                        if min(data["lo"], data["hi"]) <= 0:
                            raise InvalidModel(
                                f"{where}: lo = {data['lo']}, hi = {data['hi']} must both be positive for "
                                f"{codes[kind]}; use a histosys"
                            )
                        norms.append((cell, par, data["lo"], data["hi"]))
                    elif kind in ("normfactor", "lumi", "shapefactor", "shapesys", "staterror"):
                        factors.append((cell, par))
                    else:
                        raise InvalidModel(f"{where}: unknown modifier type")
        s, f = np.array(shifts).reshape(-1, 4), np.array(norms).reshape(-1, 4)
        fac = np.array(factors, dtype=np.int64).reshape(-1, 2)
        additive = _Additive(codes["histosys"], s[:, 0].astype(int), s[:, 1].astype(int), s[:, 2], s[:, 3])
        return cls(
            channels,
            np.array(nominal, dtype=np.float64),
            config.npars,
            (additive,) if len(s) else (),
            MULTIPLICATIVE[codes["normsys"]](f[:, 2], f[:, 3]),
            np.concatenate([f[:, 0].astype(np.int64), fac[:, 0]]),
            np.concatenate([f[:, 1].astype(np.int64), fac[:, 1]]),
        )

    def cells(self, channel: str) -> slice:
        """The cells of a channel; reshape to (samples, bins)."""
        first, samples, bins = self.channels[channel]
        return slice(first, first + len(samples) * bins)

    def _parts(self, theta: Floats) -> tuple[Floats, tuple[Floats, Floats, Floats], list[Floats]]:
        a = self.nominal.copy()
        bases = []
        for term in self._additive:
            basis = ADDITIVE[term.code](theta[term.par])
            bases.append(basis)
            a += np.bincount(term.cell, basis[0, 0] * term.up + basis[0, 1] * term.down, len(a))
        f, f1, f2 = self._normsys(theta[self._par[: len(self._normsys.lo)]])
        free = theta[self._par[len(f) :]]
        value = np.concatenate([f, free])
        first = np.concatenate([f1, np.ones_like(free)])
        second = np.concatenate([f2, np.zeros_like(free)])
        return a, (value, first, second), bases

    def nu(self, theta: Floats) -> Floats:
        """Expected events of every cell, shape (cells,)."""
        a, (value, _, _), _ = self._parts(theta)
        np.multiply.at(a, self._cell, value)
        return a

    def rates(self, theta: Floats) -> Rates:
        """Expected events of every cell with exact first and second derivatives."""
        a, (value, first, second), bases = self._parts(theta)
        n = len(a)
        safe = np.where(value == 0, _TINY, value)
        m = np.ones(n)
        np.multiply.at(m, self._cell, safe)
        log_m1 = np.zeros((n, self.n_parameters))
        log_m1[self._cell, self._par] = first / safe
        a1 = np.zeros((n, self.n_parameters))
        a2 = []
        for term, basis in zip(self._additive, bases, strict=True):
            np.add.at(a1, (term.cell, term.par), basis[1, 0] * term.up + basis[1, 1] * term.down)
            a2.append((term.cell, term.par, basis[2, 0] * term.up + basis[2, 1] * term.down))
        nu = a.copy()
        np.multiply.at(nu, self._cell, value)
        jacobian = m[:, None] * a1 + (a * m)[:, None] * log_m1
        return Rates(nu, jacobian, a, m, a1, log_m1, tuple(a2), (self._cell, self._par, second / safe))


def _bin_parameters(spec: Mapping[str, Mapping[str, Any]], config: Any) -> dict[tuple[str, str, int], int]:
    """(modifier name, channel, bin) -> parameter of staterror and shapesys: one per bin that carries it, in order."""
    index: dict[tuple[str, str, int], int] = {}
    used: dict[str, int] = {}
    for channel in config.channels:
        names = {
            m["name"] for s in spec[channel].values() for m in s["modifiers"] if m["type"] in ("staterror", "shapesys")
        }
        for name in names:
            start = config.par_slice(name).start
            for b in range(config.channel_nbins[channel]):
                index[name, channel, b] = start + used.get(name, 0)
                used[name] = used.get(name, 0) + 1
    return index


def _modifiers(
    channel: str, sample: Mapping[str, Any], bins: int, config: Any, gammas: Mapping[tuple[str, str, int], int]
) -> Iterator[tuple[int, Mapping[str, Any], int]]:
    """(bin, modifier, parameter) of one sample."""
    for modifier in sample["modifiers"]:
        start = config.par_slice(modifier["name"]).start
        for b in range(bins):
            match modifier["type"]:
                case "staterror" | "shapesys":
                    yield b, modifier, gammas[modifier["name"], channel, b]
                case "shapefactor":
                    yield b, modifier, start + b
                case _:
                    yield b, modifier, start
