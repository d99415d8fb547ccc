"""Per-event interpolation codes on the same inputs: a Gaussian whose mean and width move with one nuisance.

    python benchmarks/systematics.py --only codes

p(x | alpha) = N(0.3 alpha, exp(0.15 alpha)) on -4 < x < 4, from p(x | +-1) / p(x | 0), and +-2 where it says so: exact
ratios at every event, so that nothing but the interpolation is wrong. HistFactory's codes are those of the fit, per
event as in arXiv:2412.01600; quadexp is a polynomial of ln p through its points.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from measure import Section
from numpy.typing import NDArray
from one_channel import one_channel

from nuratio.data.sample import EventSample
from nuratio.data.varied import Term, VariedSample
from nuratio.infer.fitting.fit import fit
from nuratio.model.interpolation import ADDITIVE, MULTIPLICATIVE
from nuratio.ratios.table import RatioTable
from nuratio.training.shape import train_shapes
from nuratio.workspace.exponent import exponent_entry
from nuratio.workspace.workspace import Workspace

__all__ = ["Interpolation", "interpolations"]

Floats = NDArray[np.float64]

SHIFT, WIDTH = 0.3, 0.15
EDGE = 4.0
ALPHAS = (-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
YIELDS = {"signal": 300.0, "background": 10_000.0}
SIGNAL = (1.5, 0.3)  # mean and width


def log_ratio(x: Floats, alpha: float) -> Floats:
    """ln p(x | alpha) / p(x | 0), up to the normalisation on the interval."""
    u = (x - SHIFT * alpha) * np.exp(-WIDTH * alpha)
    return np.asarray(0.5 * (x**2 - u**2) - WIDTH * alpha)


@dataclass(frozen=True)
class Grid:
    """Points on which all integrals are sums: a midpoint rule.

    Attributes
    ----------
    x : ndarray, shape (n,)
    nominal, signal : ndarray, shape (n,)
        Shares of the nominal background and of the signal.
    """

    x: Floats
    nominal: Floats
    signal: Floats

    @classmethod
    def of(cls, n: int = 4000) -> "Grid":
        """So many points."""
        x = EDGE * (2 * np.arange(n) + 1 - n) / n
        densities = np.exp(-0.5 * x**2), np.exp(-0.5 * ((x - SIGNAL[0]) / SIGNAL[1]) ** 2)
        return cls(x, *(p / p.sum() for p in densities))

    def exact(self, alpha: float) -> Floats:
        """p(x | alpha) / p(x | 0), normalised; shape (n,)."""
        s = np.exp(log_ratio(self.x, alpha))
        return np.asarray(s / (self.nominal @ s))


@dataclass(frozen=True)
class Interpolation:
    """A way from ratios at some alpha to all others.

    Attributes
    ----------
    shape : callable
        alpha -> S(x | alpha), shape (n,), not normalised.
    columns : dict
        Of the event table, without the reference.
    entry : dict
        Modifiers and normalisation of the sample; ratios in ``columns`` are to the nominal density.
    """

    shape: Callable[[float], Floats]
    columns: Mapping[str, Floats]
    entry: Mapping[str, Any]


def exponential(powers: Mapping[int, Floats]) -> Interpolation:
    """exp(sum_n alpha^n D_n)."""
    terms: dict[Term, str] = {(("nu", n),): f"d{n}" for n in powers}
    return Interpolation(
        lambda alpha: np.exp(sum(alpha**n * d for n, d in powers.items())),
        {f"d{n}": d for n, d in powers.items()},
        exponent_entry(terms) | {"normalisation": {"type": "pool", "parameters": ["nu"]}},
    )


def polynomial(grid: Grid, points: Sequence[float], order: int) -> Interpolation:
    """quadexp with exact log ratios at some points; least squares where they are more than the order."""
    phi = np.array([[a**n for n in range(1, order + 1)] for a in points])
    d = np.linalg.lstsq(phi, np.array([np.log(grid.exact(a)) for a in points]))[0]
    return exponential(dict(enumerate(d, 1)))


def learned(grid: Grid, points: Sequence[float], order: int, events: int) -> Interpolation:
    """quadexp with D learned from so many events, the same at all points."""
    z = np.random.default_rng(0).normal(size=events)
    samples = {}
    for a in (0.0, *points):
        x = SHIFT * a + np.exp(WIDTH * a) * z
        inside = np.abs(x) < EDGE
        samples[a] = EventSample(x[inside], event_ids=np.flatnonzero(inside))
    varied = [VariedSample({"nu": a}, samples[a]) for a in points]
    shapes = train_shapes(samples[0.0], varied, order={"nu": order}, progress=False)
    return exponential({term[0][1]: d for term, d in shapes.coefficients(grid.x).items()})


def code(grid: Grid, name: str) -> Interpolation:
    """A code of HistFactory between the exact ratios at +1 and -1."""
    hi, lo = grid.exact(1.0), grid.exact(-1.0)

    def shape(alpha: float) -> Floats:
        if name in MULTIPLICATIVE:
            return MULTIPLICATIVE[name](lo, hi)(np.full(len(hi), alpha))[0]
        a, b = ADDITIVE[name](alpha)[0]
        return np.asarray(1 + a * (hi - 1) + b * (1 - lo))

    data = {"hi": {"column": "hi"}, "lo": {"column": "lo"}}
    modifier = {"name": "nu", "type": "ratiosys", "interpcode": name, "data": data}
    if name in MULTIPLICATIVE:
        entry = {"modifiers": [modifier], "normalisation": {"type": "pool", "parameters": []}}
    else:
        entry = {"modifiers": [modifier | {"integral": {"hi": 1.0, "lo": 1.0}}]}
    return Interpolation(shape, {"hi": hi, "lo": lo}, entry)


def workspace(grid: Grid, interpolation: Interpolation) -> Workspace:
    """A small signal on the background with free yields; the reference is flat, every point of the grid an event."""
    n = len(grid.x)
    ratio = n * grid.nominal
    of_density = {k: v * ratio if k in ("hi", "lo") else v for k, v in interpolation.columns.items()}
    columns = {"signal": n * grid.signal, "background": ratio} | of_density
    tables = {
        "observed": RatioTable.from_columns(columns),
        "pool": RatioTable.from_columns(columns | {"weight": np.full(n, 1 / n)}),
    }
    inert = {"name": "nu", "type": "normsys", "data": {"hi": 1.0, "lo": 1.0}}
    rates = [
        {"name": "signal", "data": [YIELDS["signal"]], "modifiers": [_normfactor("mu")]},
        {"name": "background", "data": [YIELDS["background"]], "modifiers": [_normfactor("k"), inert]},
    ]
    channel = {
        "name": "SR",
        "samples": [
            {"name": "signal", "ratio": {"column": "signal"}},
            {"name": "background", "ratio": {"column": "background"}} | dict(interpolation.entry),
        ],
        "events": {"observed": {"file": "observed"}, "pool": {"file": "pool", "weight": {"column": "weight"}}},
    }
    return one_channel("codes", rates, channel, tables, [{"name": "mu", "inits": [1.0], "bounds": [[-10.0, 20.0]]}])


def _normfactor(name: str) -> dict[str, Any]:
    return {"name": name, "type": "normfactor", "data": None}


def sigma(grid: Grid, alpha: float) -> float:
    """Uncertainty of mu of the exact likelihood at mu = k = 1, with k and the nuisance profiled."""
    h = 1e-4
    density = YIELDS["signal"] * grid.signal + YIELDS["background"] * grid.nominal * grid.exact(alpha)
    slope = grid.nominal * (grid.exact(alpha + h) - grid.exact(alpha - h)) / (2 * h)
    rows = YIELDS["signal"] * grid.signal, density - YIELDS["signal"] * grid.signal, YIELDS["background"] * slope
    information = np.array([[(a * b / density).sum() for b in rows] for a in rows])
    return float(np.sqrt(np.linalg.inv(information + np.diag([0, 0, 1]))[0, 0]))


def shift_of(grid: Grid, analysis: Workspace, alpha: float) -> tuple[float, bool]:
    """mu-hat - 1 in units of the exact sigma, and whether the fit is valid.

    Data are the exact expectation at mu = k = 1 and alpha, where the auxiliary measurement is, too: the exact
    likelihood has its minimum there.
    """
    model = analysis.model(threads=1)
    main = YIELDS["signal"] * grid.signal + YIELDS["background"] * grid.nominal * grid.exact(alpha)
    found = fit(model, np.concatenate([main, np.zeros_like(main), [alpha]]), hesse=False)
    return (found["mu"].value - 1) / sigma(grid, alpha), found.valid


def ways(grid: Grid, events: int) -> dict[str, Interpolation]:
    """All that are compared."""
    found = {
        "quadexp, order 2, +-1": polynomial(grid, (-1, 1), 2),
        "quadexp, order 2, +-1, +-2": polynomial(grid, (-2, -1, 1, 2), 2),
        "quadexp, order 4, +-1, +-2": polynomial(grid, (-2, -1, 1, 2), 4),
    }
    found |= {name: code(grid, name) for name in (*MULTIPLICATIVE, *ADDITIVE)}
    if events:
        found[f"quadexp, order 2, +-1, learned from {events}"] = learned(grid, (-1, 1), 2, events)
        found[f"quadexp, order 4, +-1, +-2, learned from {events}"] = learned(grid, (-2, -1, 1, 2), 4, events)
    return found


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # no minus of zero


def interpolations(events: int = 50_000) -> list[Section]:
    """Errors of ln p, of the normalisation, and of mu in a fit; D are learned from so many events, too, if not 0."""
    grid = Grid.of()
    cells: list[list[tuple[str, ...]]] = [[], [], []]
    numbers: list[dict[str, float]] = [{}, {}, {}]
    for name, way in ways(grid, events).items():
        analysis = workspace(grid, way)
        row: list[list[str]] = [[], [], []]
        for alpha in ALPHAS:
            s = way.shape(alpha)
            z, good = float(grid.nominal @ s), s > 0
            lost = float(grid.nominal @ ~good)
            error = np.log(s[good] / z / grid.exact(alpha)[good])
            rms = float(np.sqrt(grid.nominal[good] @ error**2 / grid.nominal[good].sum()))
            shift, valid = shift_of(grid, analysis, alpha)
            at = f"{name}, {alpha:g}"
            for store, value in zip(numbers, (rms, z - 1, shift), strict=True):
                store[at] = value
            numbers[0][f"{at}, negative"], numbers[2][f"{at}, valid"] = lost, float(valid)
            row[0].append(f"{rms:.4f}" + (f" ({100 * lost:.1f}%)" if lost else ""))
            row[1].append(_signed(z - 1, 4))
            row[2].append(_signed(shift, 3) if valid else "not valid")
        for table, line in zip(cells, row, strict=True):
            table.append((name, *line))
    texts = (
        "N(0.3 alpha, exp(0.15 alpha)) between the exact ratios at +-1 (and +-2). Error of ln p(x | alpha) / p(x | 0), "
        "normalised: rms over nominal events. In brackets the share of them where the interpolated density is not "
        "positive; they are left out.",
        "Integral of the interpolated density before it is normalised, minus 1.",
        f"Signal N({SIGNAL[0]:g}, {SIGNAL[1]:g}), {YIELDS['signal']:.0f} events on {YIELDS['background']:.0f} of the "
        "background, both yields free, the nuisance profiled, shapes normalised as in a fit; data are the exact "
        "expectation at mu = 1 and alpha, the auxiliary measurement is at alpha. mu-hat - 1 in units of the exact "
        f"sigma(mu), {sigma(grid, -2.0):.3f} at alpha = -2, {sigma(grid, 0.0):.3f} at 0, {sigma(grid, 2.0):.3f} at 2.",
    )
    titles = ("Codes: error of ln p", "Codes: normalisation", "Codes: a small signal with the nuisance profiled")
    header = ("interpolation", *(f"{alpha:+g}" for alpha in ALPHAS))
    return [
        Section(title, text, header, tuple(table), of)
        for title, text, table, of in zip(titles, texts, cells, numbers, strict=True)
    ]
