"""Data over the stacked samples of a channel, with a ratio panel. Samples may be negative."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr

from nuratio.errors import InvalidData, UnknownName, did_you_mean
from nuratio.infer.results import Projection
from nuratio.plots.look import PETROFF, RED, figure, legend_above

__all__ = ["StackArtists", "stack"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StackArtists:
    """What `stack` drew.

    Attributes
    ----------
    ax, ratio_ax : Axes
        The histogram and the ratio panel.
    positive, negative : dict of StepPatch
        Sample name -> its positive bins, stacked upwards from zero, and its negative ones, stacked downwards (on a
        logarithmic axis: their absolute value as a dashed line). Samples without such bins are absent.
    total : StepPatch
        Sum of all samples.
    data, ratio : ErrorbarContainer
        Data, and data / total where the total is positive, with their Poisson errors.
    outside : Line2D
        Triangles at the edge of the ratio panel: ratios beyond it.
    band, ratio_band : StepPatch or None
        Uncertainty of the total; None where the projection has none.
    legend : Legend
    """

    ax: Axes
    ratio_ax: Axes
    positive: dict[str, StepPatch]
    negative: dict[str, StepPatch]
    total: StepPatch
    data: ErrorbarContainer
    ratio: ErrorbarContainer
    outside: Line2D
    band: StepPatch | None
    ratio_band: StepPatch | None
    legend: Legend


def stack(
    projection: Projection,
    *,
    axes: Sequence[Axes] | None = None,
    labels: Mapping[str, str] | None = None,
    colors: Mapping[str, str] | None = None,
    log: bool = False,
    per_unit: str | None = None,
    feature_label: str | None = None,
) -> StackArtists:
    """Draw data and fitted samples, stacked from the bottom in the projection's order.

    Negative contributions (destructive interference) hang below zero, hatched, so the line of the total is lower than
    the stack. The error bars of the data are central 68.3% Poisson intervals (Garwood, doi:10.1093/biomet/28.3-4.437).

    Parameters
    ----------
    projection : Projection
    axes : two Axes, optional
        For the histogram and the ratio; a new figure by default.
    labels, colors : mapping, optional
        Sample name -> text in the legend, and colour. By default the names, and Petroff's ten colours in turn.
    log : bool
        Logarithmic y axis.
    per_unit : str, optional
        Divide by the bin width; the unit named on the y axis: ``"GeV"`` gives "Events / GeV".
    feature_label : str, optional
        Name of the x axis, with the unit in brackets: ``"mass [GeV]"``. By default the feature's name.

    Raises
    ------
    UnknownName
        A label or a colour for a sample that is not in the projection.
    InvalidData
        Not two axes; a total that is nowhere positive, on a logarithmic axis.
    """
    labels, colors = labels or {}, colors or {}
    for name in (*labels, *colors):
        if name not in projection.samples:
            raise UnknownName(f"no sample {name!r}; {did_you_mean(name, projection.samples, 'samples')}")
    if log and not (projection.total > 0).any():
        raise InvalidData(f"the total of channel {projection.channel!r} is nowhere positive: draw it with log=False")
    axes = _panels() if axes is None else axes
    if len(axes) != 2:
        raise InvalidData(f"stack draws on two axes, histogram and ratio, but got {len(axes)}")
    ax, ratio_ax = axes
    edges = projection.edges
    unit = np.ones(len(edges) - 1) if per_unit is None else 1 / np.diff(edges)
    counts, total, uncertainty = projection.data * unit, projection.total * unit, projection.uncertainty * unit
    errors = _poisson_errors(projection.data) * unit

    ax.set_yscale("log" if log else "linear")
    positive: dict[str, StepPatch] = {}
    negative: dict[str, StepPatch] = {}
    entries: list[tuple[str, Any]] = []
    up, down = np.zeros_like(total), np.zeros_like(total)
    for j, (name, values) in enumerate(projection.samples.items()):
        color, text = colors.get(name, PETROFF[j % len(PETROFF)]), labels.get(name, name)
        above, below = np.maximum(values * unit, 0.0), np.minimum(values * unit, 0.0)
        if below.any() and log:
            negative[name] = _dashed(ax, edges, below, color)
            entries.append((f"\N{MINUS SIGN}1 × {text}", negative[name]))
        elif below.any():
            negative[name] = _hanging(ax, edges, down, below, color)
        if above.any() or not below.any():
            positive[name] = ax.stairs(up + above, edges, baseline=up, fill=True, color=color)
        if name in positive or not log:
            entries.append((text, positive.get(name, negative.get(name))))
        up, down = up + above, down + below
    if down.any() and not log:
        ax.axhline(0, color="black", linewidth=1)
    line = ax.stairs(total, edges, baseline=None, color="black", linewidth=1.8)
    band = _band(ax, edges, total, uncertainty)
    points = _points(ax, edges, counts, errors)
    whole = ("Total", line) if band is None else ("Total ± 1σ", (band, line))
    texts, handles = zip(("Data", points), *reversed(entries), whole, strict=True)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0.3 * total[total > 0].min() if log else 1.1 * down.min())
    ax.set_ylabel("Events" if per_unit is None else f"Events / {per_unit}", loc="top")
    ratio_ax.set_xlabel(projection.feature if feature_label is None else feature_label, loc="right")

    ratio, outside, ratio_band = _ratio(ratio_ax, edges, counts, errors, total, uncertainty)
    highest = np.nanmax([up, total + np.nan_to_num(uncertainty), counts + errors[1], -down if log else down])
    legend = legend_above(ax, handles, texts, float(highest))
    return StackArtists(ax, ratio_ax, positive, negative, line, points, ratio, outside, band, ratio_band, legend)


def _panels() -> Sequence[Axes]:
    layout = ConstrainedLayoutEngine(hspace=0.0, h_pad=0.04)
    fig, (ax, ratio_ax) = figure(
        nrows=2, sharex=True, figsize=(8.0, 8.0), layout=layout, gridspec_kw={"height_ratios": (3, 1)}
    )
    fig.align_ylabels()
    ratio_ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], prune="both"))
    return ax, ratio_ax


def _ratio(
    ax: Axes, edges: Floats, counts: Floats, errors: Floats, total: Floats, uncertainty: Floats
) -> tuple[ErrorbarContainer, Line2D, StepPatch | None]:
    scale = np.where(total > 0, total, np.nan)
    ratio = counts / scale
    ax.axhline(1, color="black", linewidth=1.2)
    band = _band(ax, edges, total / scale, uncertainty / scale)
    points = _points(ax, edges, ratio, errors / scale)
    reach = float(np.clip(1.2 * np.nanmax(np.abs(ratio - 1), initial=0.0), 0.1, 1.0))
    beyond = ratio > 1 + reach
    edge = np.full(beyond.sum(), 1 + 0.9 * reach)
    (outside,) = ax.plot(_centers(edges)[beyond], edge, "^", color=RED, markersize=8)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(1 - reach, 1 + reach)
    ax.set_ylabel("Data / Total")
    return points, outside, band


def _hanging(ax: Axes, edges: Floats, down: Floats, below: Floats, color: str) -> StepPatch:
    options: dict[str, Any] = {"facecolor": (color, 0.3), "edgecolor": color, "hatch": "\\\\\\"}
    return ax.stairs(down + below, edges, baseline=down, fill=True, **options)


def _dashed(ax: Axes, edges: Floats, below: Floats, color: str) -> StepPatch:
    heights = np.where(below < 0, -below, np.nan)
    return ax.stairs(heights, edges, baseline=None, color=color, linestyle="--", linewidth=2)


def _band(ax: Axes, edges: Floats, center: Floats, half_width: Floats) -> StepPatch | None:
    if not np.isfinite(half_width[np.isfinite(center)]).all():
        return None
    return ax.stairs(
        center + half_width, edges, baseline=center - half_width,
        fill=True, facecolor="none", edgecolor="dimgray", hatch="////", linewidth=0,
    )  # fmt: skip


def _points(ax: Axes, edges: Floats, values: Floats, errors: Floats) -> ErrorbarContainer:
    return ax.errorbar(_centers(edges), values, yerr=errors, fmt="o", color="black", markersize=6, linewidth=1.5)


def _centers(edges: Floats) -> Floats:
    return 0.5 * (edges[1:] + edges[:-1])


def _poisson_errors(counts: Floats) -> Floats:
    """Distances (2, b) to the ends of the central 68.3% Poisson interval; also for the fractions of Asimov data."""
    tail = ndtr(-1.0)
    lower = np.where(counts > 0, gammaincinv(counts, tail), counts)
    return np.stack([counts - lower, gammaincinv(counts + 1, 1 - tail) - counts])
