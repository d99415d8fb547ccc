"""Simulated events and pseudo-data drawn from the exact densities of `nuratio.demo.drellyan`.

`generate` makes the events of one component, `pseudo_experiment` one data set, `write_ntuples` everything an analysis
starts from: ROOT files with signed weights, systematic variations and data. Events are drawn by accept-reject under an
envelope that is constant in small cells of log(mll) and yll, and by inverting the distribution of costh.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.demo.drellyan import (
    COMPONENTS,
    CR,
    LUMINOSITY,
    MAX_RAPIDITY,
    REGIONS,
    SR,
    configurations,
    efficiency_factor,
    quadrature,
    scale_factor,
    yields,
)
from nuratio.errors import InvalidData, NuratioError, UnknownName, did_you_mean

__all__ = ["EVENTS", "SLICES", "VARIATIONS", "generate", "pseudo_experiment", "write_ntuples"]

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

VARIATIONS = {"nominal": 0.0, "mass_scale_up": 1.0, "mass_scale_down": -1.0}
"""The trees of each file, and the mass scale they are reconstructed with."""

SLICES = (CR.edges[0] / scale_factor(1), SR.edges[0] / scale_factor(1), 600.0, SR.edges[-1] / scale_factor(-1))
"""Edges in true mll [GeV] of the slices simulated separately; all that any variation brings into a region is inside."""

EVENTS = {
    "sm": (300_000, 200_000, 80_000),
    "interference": (40_000, 100_000, 100_000),
    "newphys": (20_000, 40_000, 80_000),
}
"""Default number of simulated events of each component in each slice."""


def generate(
    component: str, events: Sequence[int], rng: np.random.Generator, *, first_event: int = 0
) -> dict[str, NDArray[Any]]:
    """Simulated events of one component, with weights of constant size in each slice of true mass.

    An event stands for one quark flavour, direction and helicity configuration, and its weight has the sign of that
    configuration's density, as in a Monte-Carlo generator that samples these: interference events of both signs occur
    at the same point. The expected sum of weights is the exact yield in any part of phase space.

    Parameters
    ----------
    component : str
        ``sm``, ``interference`` or ``newphys`` (at kappa = 1).
    events : sequence of int
        How many in each of the `SLICES`.
    rng : numpy.random.Generator
        The source of randomness.
    first_event : int
        The number of the first event.

    Returns
    -------
    dict
        ``event`` (consecutive), ``mll`` (true, GeV), ``yll``, ``costh`` and ``weight`` (expected events at nominal
        luminosity), each of shape (sum(events),), slice by slice.

    Raises
    ------
    UnknownName
        No such component.
    InvalidData
        Not one positive number of events for each slice.
    """
    if component not in COMPONENTS:
        raise UnknownName(f"no component {component!r}; {did_you_mean(component, COMPONENTS, 'components')}")
    if len(events) != len(SLICES) - 1 or min(events) <= 0:
        raise InvalidData(f"{component}: {len(SLICES) - 1} positive numbers of events needed, got {list(events)}")
    mixture = [float(component == c) for c in COMPONENTS]
    parts = []
    for (low, high), n in zip(pairwise(SLICES), events, strict=True):
        mll, yll, costh, sign = _draw(mixture, low, high, n, rng)
        m, y, w = quadrature(low, high)
        total = 2 * (w * np.abs(configurations(mixture, m, y))).sum()  # the quark comes from either proton
        parts.append((mll, yll, costh, sign * (total / n)))
    columns = dict(zip(("mll", "yll", "costh", "weight"), map(np.concatenate, zip(*parts, strict=True)), strict=True))
    return {"event": first_event + np.arange(sum(events), dtype=np.int64)} | columns


def pseudo_experiment(
    kappa: float, rng: np.random.Generator, *, mass_scale: float = 0.0, efficiency: float = 0.0
) -> dict[str, NDArray[np.float64]]:
    """One data set in the union of the regions: a Poisson number of events from the exact total density.

    Parameters
    ----------
    kappa : float
        Strength of the new amplitude.
    rng : numpy.random.Generator
        The source of randomness.
    mass_scale, efficiency : float
        Nuisance parameters, in standard deviations.

    Returns
    -------
    dict
        Reconstructed ``mll`` [GeV], ``yll`` and ``costh`` of each event.
    """
    mixture = np.array([1.0, kappa, kappa**2])
    rate = sum((mixture @ yields(region, mass_scale)).sum() for region in REGIONS.values())
    n = int(rng.poisson(efficiency_factor(efficiency)[0] * rate))
    scale = scale_factor(mass_scale)
    mll, yll, costh, _ = _draw(mixture, CR.edges[0] / scale, SR.edges[-1] / scale, n, rng)
    return {"mll": mll * scale, "yll": yll, "costh": costh}


def write_ntuples(
    directory: str | Path, *, seed: int, events: Mapping[str, Sequence[int]] = EVENTS, kappa_true: float = 1.0
) -> dict[str, Any]:
    """Write the demo's inputs to ``directory``: one ROOT file per component, ``data.root`` and ``truth.json``.

    The component files hold the trees `VARIATIONS`, with the same simulated events (branch ``event``) where they fall
    into a region, and the branches ``mll`` [GeV], ``yll``, ``costh`` and ``weight``. ``data.root`` holds the tree
    ``data``, a pseudo-experiment at ``kappa_true`` and nominal nuisances, independent of the simulated events.

    Parameters
    ----------
    directory : path
        Made if it does not exist.
    seed : int
        Seed of the simulation and the data.
    events : mapping
        Component -> number of simulated events per slice of `SLICES`.
    kappa_true : float
        Strength of the new amplitude in the data.

    Returns
    -------
    dict
        What ``truth.json`` says: exact yields at kappa = 1 and events observed by region, and the settings.

    Raises
    ------
    InvalidData
        ``events`` does not give one positive number per component and slice.
    """
    import uproot

    if set(events) != set(COMPONENTS):
        raise InvalidData(f"numbers of events are needed for {list(COMPONENTS)}, got them for {list(events)}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    *component_seeds, data_seed = np.random.SeedSequence(seed).spawn(len(COMPONENTS) + 1)
    first_event = 0
    for component, component_seed in zip(COMPONENTS, component_seeds, strict=True):
        rng = np.random.default_rng(component_seed)
        sample = generate(component, events[component], rng, first_event=first_event)
        first_event += len(sample["event"])
        with uproot.recreate(directory / f"{component}.root", compression=uproot.LZ4(1)) as file:
            for tree, alpha in VARIATIONS.items():
                _write_tree(file, tree, _reconstruct(sample, alpha))
    data = pseudo_experiment(kappa_true, np.random.default_rng(data_seed))
    with uproot.recreate(directory / "data.root", compression=uproot.LZ4(1)) as file:
        _write_tree(file, "data", data)

    exact = {name: dict(zip(COMPONENTS, yields(region).tolist(), strict=True)) for name, region in REGIONS.items()}
    observed = {name: np.histogram(data["mll"], region.edges)[0].tolist() for name, region in REGIONS.items()}
    truth = {
        "kappa_true": kappa_true,
        "seed": seed,
        "luminosity": LUMINOSITY,
        "events": {component: list(events[component]) for component in COMPONENTS},
        "edges": {name: list(region.edges) for name, region in REGIONS.items()},
        "yields": exact,
        "observed": observed,
    }
    (directory / "truth.json").write_text(json.dumps(truth, indent=1))
    return truth


def _reconstruct(sample: Columns, alpha: float) -> Columns:
    """The events that fall into a region with the mass scale at ``alpha``."""
    mll = sample["mll"] * scale_factor(alpha)
    selected = (mll >= CR.edges[0]) & (mll < SR.edges[-1])
    return {name: column[selected] for name, column in (sample | {"mll": mll}).items()}


def _write_tree(file: Any, name: str, columns: Columns) -> None:
    file.mktree(name, {branch: column.dtype for branch, column in columns.items()}).extend(columns)


def _draw(
    mixture: Sequence[float] | Floats, low: float, high: float, n: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats]:
    """n independent events (true mll, yll, costh) and their signs, by |density| of the configurations."""
    log_m = np.linspace(np.log(low), np.log(high), int(np.log(high / low) / 0.01) + 2)
    y = np.linspace(-MAX_RAPIDITY, MAX_RAPIDITY, 57)
    corners = np.abs(_log_density(mixture, log_m[:, None], y))
    corners = np.maximum(corners[..., :-1, :], corners[..., 1:, :])
    envelope = 1.05 * np.maximum(corners[..., :-1], corners[..., 1:])  # cells are small: checked for every proposal
    cumulative = np.cumsum(envelope)
    chunks = []
    missing = n
    while missing > 0:
        size = min(missing + missing // 8 + 100, 100_000)
        cell = np.searchsorted(cumulative, cumulative[-1] * rng.random(size), side="right")
        q, h, i, j = np.unravel_index(cell, envelope.shape)
        t = log_m[i] + rng.random(size) * (log_m[1] - log_m[0])
        yll = y[j] + rng.random(size) * (y[1] - y[0])
        value = _log_density(mixture, t, yll)[q, h, np.arange(size)]
        if np.any(np.abs(value) > envelope[q, h, i, j]):
            raise NuratioError(
                f"the density exceeds its envelope between {low:.1f} and {high:.1f} GeV: use finer cells"
            )
        costh = (2 * np.cbrt(rng.random(size)) - 1) * np.where(h == 0, 1, -1)  # (1 + c)^2 and (1 - c)^2
        side = rng.choice([-1.0, 1.0], size)  # which proton the quark comes from
        accepted = np.flatnonzero(rng.random(size) * envelope[q, h, i, j] < np.abs(value))[:missing]
        chunks.append(np.stack([np.exp(t), side * yll, side * costh, np.sign(value)])[:, accepted])
        missing -= len(accepted)
    mll, yll, costh, sign = np.concatenate(chunks, axis=1) if chunks else np.empty((4, 0))
    return mll, yll, costh, sign


def _log_density(mixture: Sequence[float] | Floats, log_m: Floats, yll: Floats) -> Floats:
    """Density of the `configurations` in (log(mll), yll)."""
    m: Floats = np.exp(log_m)
    return m * configurations(mixture, m, yll)
