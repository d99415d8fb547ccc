"""Expected events per bin: the channels of the pyhf part, binned ones and the companions of unbinned ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.data.sample import EventSample
from nuratio.data.templates import histogram
from nuratio.data.varied import VariedSample
from nuratio.errors import InvalidConfig, InvalidData
from nuratio.ratios.estimator import Part
from nuratio.workspace.config import Config
from nuratio.workspace.inputs import RegionEvents

__all__ = ["Cells", "binned_channel", "companion_channel", "cross_coefficients", "cross_rates"]


def _modifiers(config: Config, region: str, sample: str) -> list[dict[str, Any]]:
    """Normfactors and normalisation systematics of a sample."""
    factors = [{"name": n["Name"], "type": "normfactor", "data": None} for n in config.norm_factors(region, sample)]
    systematics = [
        _normsys(s["Name"], 1 + s["Up"]["Normalization"], _down(s))
        for s in config.systematics(region, sample)
        if s["Type"] == "Normalization"
    ]
    return factors + systematics


def _down(systematic: Mapping[str, Any]) -> float:
    down = systematic["Down"]
    value: float = 1 - systematic["Up"]["Normalization"] if "Symmetrize" in down else 1 + down["Normalization"]
    return value


def _normsys(name: str, hi: float, lo: float) -> dict[str, Any]:
    return {"name": name, "type": "normsys", "data": {"hi": hi, "lo": lo}}


def _yield_ratios(nominal: float, up: float, down: float | None, where: str) -> tuple[float, float]:
    """hi and lo of a normsys; a missing down direction mirrors up."""
    hi = up / nominal
    lo = 2 - hi if down is None else down / nominal
    if min(hi, lo) <= 0:
        raise InvalidData(f"{where}: the yield changes sign ({nominal:.4g} -> {up:.4g}, {down}); it has no normsys")
    return hi, lo


@dataclass(frozen=True)
class Cells:
    """Coarse cells of an unbinned region: bins of one of its features.

    Attributes
    ----------
    variable : str
    edges : list of float
    """

    variable: str
    edges: list[float]

    @classmethod
    def of_region(cls, region: Mapping[str, Any]) -> "Cells | None":
        """Those a region of the configuration asks for."""
        return cls(region["Variable"], region["Binning"]) if "Binning" in region else None

    def __len__(self) -> int:
        return len(self.edges) - 1

    def of(self, values: ArrayLike, where: str) -> NDArray[np.int64]:
        """The cell of each event, shape (n,), from the values of its variable.

        Raises
        ------
        InvalidData
            Some events lie in none.
        """
        x = np.asarray(values, dtype=np.float64)
        outside = int(((x < self.edges[0]) | (x >= self.edges[-1])).sum())
        if outside:
            raise InvalidData(
                f"{where}: {outside} of {len(x)} events lie outside the cells, {self.edges[0]:g} <= {self.variable} < "
                f"{self.edges[-1]:g}; widen the Binning or add the range to the region's Filter"
            )
        return np.digitize(x, self.edges) - 1


def companion_channel(
    config: Config,
    region: str,
    parts: Mapping[Part, EventSample],
    varied: Mapping[str, Sequence[VariedSample]],
    cells: Cells | None,
    *,
    directions: Sequence[str] = (),
    statistics: bool = False,
) -> dict[str, Any]:
    """The rates of an unbinned region.

    Parameters
    ----------
    config : Config
    region : str
    parts : mapping
        Part -> its nominal events.
    varied : mapping
        Part name -> its varied simulations.
    cells : Cells or None
    directions : sequence of str
        Nuisances of the networks, which change shapes alone.
    statistics : bool
        Whether the statistics of the simulated yields are in the likelihood without cells, too: a normsys for each part
        (a staterror would be common to all), unless the sample disables its staterror.
    """
    samples = []
    for part, events in parts.items():
        points = varied[part.name]
        if cells is not None:
            for point in points:
                cells.of(point.events.column(cells.variable), f"region {region!r}, {point} of {part.name!r}")
            if any(len(p.alpha) > 1 for p in points):
                raise InvalidConfig(
                    f"region {region!r}: Cross changes the rates of cells in a way that has no modifier; leave out the "
                    "Binning or the Cross"
                )
            samples.append({"name": part.name} | _rates(config, region, part.sample, events, points, cells))
            samples[-1]["modifiers"] += [_normsys(name, 1.0, 1.0) for name in directions]
            continue
        modifiers = _modifiers(config, region, part.sample)
        for name, (up, down) in _up_down(points).items():
            where = f"region {region!r}, {name!r} of {part.name!r}"
            modifiers.append(
                _normsys(name, *_yield_ratios(part.total, up.total, None if down is None else down.total, where))
            )
        modifiers += [
            {"name": p["name"], "type": "normfactor", "data": None} for p in cross_rates(region, part, points)
        ]
        if statistics and _has_staterror(config, region, part.sample):
            hi = 1 + events.effective_size**-0.5
            modifiers.append(_normsys(f"stat_{region}_{part.name}", hi, 1 / hi))
        modifiers += [_normsys(name, 1.0, 1.0) for name in directions]
        samples.append({"name": part.name, "data": [part.total], "modifiers": modifiers})
    return {"name": region, "samples": samples}


def cross_rates(region: str, part: Part, varied: Sequence[VariedSample]) -> list[dict[str, str]]:
    """Factors exp(c alpha_j alpha_k) on the yield of a part, one for each pair of nuisances varied together."""
    return [
        {"name": f"cross_{region}_{part.name}_{j}_{k}", "expression": f"exp({c:.9g} * {j} * {k})"}
        for (j, k), c in cross_coefficients(part.total, varied).items()
    ]


def cross_coefficients(total: float, varied: Sequence[VariedSample]) -> dict[tuple[str, str], float]:
    """Pair of nuisances -> c of the factor exp(c alpha_j alpha_k) on a yield, nominally ``total``.

    c is the least-squares fit to the yields of the off-axis points over the product of the normsys of both nuisances,
    which extrapolate exponentially from -1 and 1.
    """
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    sides = {(k, a): p.events.total for p in varied for k, a in p.alpha.items() if len(p.alpha) == 1 and abs(a) == 1}
    for point in (p for p in varied if len(p.alpha) > 1):
        (j, a), (k, b) = sorted(point.alpha.items())  # whichever of the two it was given for
        factorised = 0.0
        for name, alpha in ((j, a), (k, b)):
            up = sides[name, 1.0]
            side = up if alpha > 0 else sides.get((name, -1.0), 2 * total - up)
            factorised += abs(alpha) * float(np.log(side / total))
        pairs.setdefault((j, k), []).append((a * b, float(np.log(point.events.total / total)) - factorised))
    return {pair: sum(x * y for x, y in points) / sum(x * x for x, _ in points) for pair, points in pairs.items()}


def binned_channel(config: Config, region: Mapping[str, Any], events: RegionEvents) -> dict[str, Any]:
    """The rates of a binned region."""
    name, bins = region["Name"], Cells(region["Variable"], region["Binning"])
    samples = [
        {"name": label} | _rates(config, name, label, nominal, events.varied[label], bins)
        for label, nominal in events.nominal.items()
    ]
    return {"name": name, "samples": samples}


def _up_down(varied: Sequence[VariedSample]) -> dict[str, tuple[EventSample, EventSample | None]]:
    """Nuisance -> simulations at 1 and -1; the second may be missing."""
    alone = {next(iter(p.alpha.items())): p.events for p in varied if len(p.alpha) == 1}
    return {name: (events, alone.get((name, -1.0))) for (name, alpha), events in alone.items() if alpha == 1}


def _has_staterror(config: Config, region: str, sample: str) -> bool:
    return not next(s for s in config.samples(region) if s["Name"] == sample).get("DisableStaterror", False)


def _rates(
    config: Config,
    region: str,
    sample: str,
    events: EventSample,
    varied: Sequence[VariedSample],
    bins: Cells,
) -> dict[str, Any]:
    """Yields per bin and their modifiers."""
    template = histogram(events, bins.variable, bins.edges)
    nominal, total = template.values, float(template.values.sum())
    modifiers = _modifiers(config, region, sample)
    if _has_staterror(config, region, sample):
        modifiers.append({"name": f"staterror_{region}", "type": "staterror", "data": template.staterror.tolist()})
    for systematic, (up, down) in _up_down(varied).items():
        hi = histogram(up, bins.variable, bins.edges).values
        lo = 2 * nominal - hi if down is None else histogram(down, bins.variable, bins.edges).values
        ratios = (hi.sum() / total, lo.sum() / total) if total else (0.0, 0.0)
        if min(ratios) > 0:  # rate as a normsys, the rest as a histosys, as cabinetry does it
            modifiers.append(_normsys(systematic, *ratios))
            hi, lo = hi / ratios[0], lo / ratios[1]
        if len(nominal) > 1 or min(ratios) <= 0:
            data = {"hi_data": hi.tolist(), "lo_data": lo.tolist()}
            modifiers.append({"name": systematic, "type": "histosys", "data": data})
    return {"data": nominal.tolist(), "modifiers": modifiers}
