"""Analyses in which simulated events have few different features: their ratios are counts, exact without training."""

from dataclasses import dataclass, replace

import numpy as np

from analytic import normsys
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

D1 = np.array([-0.3, -0.2, 0.0, 0.1, 0.25, 0.3])  # of the nuisance "tilt", for each of the six values of x
D2 = np.array([0.02, -0.03, 0.01, 0.0, 0.02, -0.02])
CELL = np.array([0, 0, 0, 1, 1, 1])
SHAPES = {"signal": [0.05, 0.1, 0.3, 0.3, 0.2, 0.05], "background": [0.35, 0.25, 0.15, 0.1, 0.1, 0.05]}
NEGATIVE = [0.3, 0.25, 0.2, 0.1, 0.1, 0.05]  # of the background's events with negative weights


@dataclass(frozen=True)
class Events:
    """Simulated events of one part: values of x, shape (n,), and signed weights."""

    x: np.ndarray
    w: np.ndarray

    @classmethod
    def draw(cls, rng, n, total, shape, *, spread=0.3):
        w = rng.uniform(1 - spread, 1 + spread, n)
        return cls(rng.choice(6, n, p=shape), w * total / w.sum())

    def scaled(self, j, factor):
        """The same with one weight changed."""
        w = self.w.copy()
        w[j] *= factor
        return replace(self, w=w)

    def share(self, *, cells=None):
        """Share of each value of x, or of each cell."""
        of = self.x if cells is None else cells[self.x]
        return np.bincount(of, self.w, minlength=6 if cells is None else 2) / self.w.sum()


def simulate(rng, *, n=120, signal=80.0, background=300.0, negative=True):
    """Events of the signal and of the background, whose weights have both signs."""
    parts = {"signal": Events.draw(rng, n, signal, SHAPES["signal"])}
    if negative:
        parts["background[+]"] = Events.draw(rng, n, 1.2 * background, SHAPES["background"])
        parts["background[-]"] = Events.draw(rng, n // 2, -0.2 * background, NEGATIVE)
    else:
        parts["background"] = Events.draw(rng, n, background, SHAPES["background"])
    return parts


@dataclass(frozen=True)
class Channel:
    """How a channel is made of its simulated events.

    ``yields`` that are given (part -> one for each cell) are known; others are sums of weights. Parts ``outside`` have
    no events in the pool.
    """

    name: str = "SR"
    yields: dict | None = None
    cells: bool = False
    staterror: bool = False
    tilt: bool = True
    outside: tuple = ()


def workspace(*channels):
    """A workspace of pairs (Channel, simulated events), and of a control region of the background's normalisation."""
    made = [_channel(*pair) for pair in channels]
    control = {"name": "background", "data": [50.0], "modifiers": [normsys("norm", 1.2)]}
    tables = {entry["name"]: table for _, entry, table in made}
    counts = {
        entry["name"]: np.bincount(
            table["cell"].astype(int), table["data"], minlength=len(companion["samples"][0]["data"])
        )
        for companion, entry, table in made
    }
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "CR", "samples": [control]}, *(companion for companion, _, _ in made)],
        "observations": [
            {"name": "CR", "data": [50.0]},
            *({"name": name, "data": n.tolist()} for name, n in counts.items()),
        ],
        "measurements": [
            {"name": "m", "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-10.0, 20.0]]}]}}
        ],
        "unbinned": {
            "version": "1.0.0",
            "files": [file_entry(name, table) for name, table in tables.items()],
            "channels": [entry for _, entry, _ in made],
        },
    }
    return Workspace(spec, tables)


def _tilted(of, nominal, how):
    """How the yields vary with the nuisance: the same events, reweighted; known yields vary as they are told to."""
    if how.yields is not None:
        return normsys("tilt", 1.1)
    cell = CELL[of.x] if how.cells else 0 * of.x
    sides = {}
    for side, alpha in (("hi_data", 1.0), ("lo_data", -1.0)):
        varied = of.w * np.exp(alpha * D1 + alpha**2 * D2)[of.x]
        sides[side] = np.bincount(cell, varied, minlength=len(nominal)).tolist()
    return {"name": "tilt", "type": "histosys", "data": sides}


def _channel(how, events):
    inside = [part for part in events if part not in how.outside]
    rho = {part: 1 / len(inside) for part in inside}
    p = {part: of.share() for part, of in events.items()}
    q = sum(rho[part] * p[part] for part in inside)
    x = np.concatenate([events[part].x for part in inside])
    weight = np.concatenate([rho[part] * np.abs(events[part].w / events[part].w.sum()) for part in inside])
    columns = {part: (p[part] / q)[x] for part in events}
    columns |= {"d1": D1[x], "d2": D2[x], "weight": weight, "data": 380.0 * weight}
    columns |= {"cell": CELL[x] if how.cells else 0 * x}
    columns |= {"part": np.concatenate([np.full(len(events[part].x), k) for k, part in enumerate(inside)])}
    samples, rates = [], []
    data = {"d1": {"column": "d1"}, "d2": {"column": "d2"}}
    for part, of in events.items():
        share = of.share(cells=CELL) if how.cells else np.ones(1)
        nominal = of.w.sum() * share if how.yields is None else np.array(how.yields[part])
        modifiers = [{"name": "mu", "type": "normfactor", "data": None}] if part == "signal" else [normsys("norm", 1.2)]
        entry = {"name": part, "ratio": {"column": part}, "modifiers": []}
        if part != "signal" and how.tilt:
            modifiers.append(_tilted(of, nominal, how))
            entry["modifiers"] = [{"name": "tilt", "type": "ratiosys", "interpcode": "quadexp", "data": data}]
            entry["normalisation"] = {"type": "pool", "parameters": ["tilt"]}
        if how.staterror:
            modifiers.append({"name": f"stat_{how.name}", "type": "staterror", "data": (0.1 * abs(nominal)).tolist()})
        if how.cells:
            entry["shares"] = share.tolist()
        entry["simulation"] = {"events": len(of.w), "effective": float(of.w.sum() ** 2 / (of.w**2).sum())}
        if part in inside:
            entry["simulation"]["parts"] = [{"number": inside.index(part), "weight": 1 / rho[part]}]
        if how.yields is not None and not how.staterror:
            entry["simulation"]["yield"] = "known"
        samples.append(entry)
        rates.append({"name": part, "data": nominal.tolist(), "modifiers": modifiers})
    entry = {
        "name": how.name,
        **({"ratiocell": {"column": "cell"}} if how.cells else {}),
        "samples": samples,
        "events": {
            "observed": {"weight": {"column": "data"}},
            "pool": {"file": how.name, "weight": {"column": "weight"}, "part": {"column": "part"}},
        },
    }
    return {"name": how.name, "samples": rates}, entry, RatioTable.from_columns(columns, np.float64)
