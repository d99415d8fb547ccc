"""Confidence regions of two parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from nuratio.infer.profiles.contour import ContourResult
from nuratio.plots.look import PETROFF, RED, figure, legend_above

__all__ = ["ContourArtists", "contours"]

_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True, eq=False)
class ContourArtists:
    """What `contours` drew.

    Attributes
    ----------
    ax : Axes
    levels : tuple of tuples of Line2D
        The pieces of each level.
    bestfit, minima : Line2D
        The lowest minimum, and all others (no points if there are none).
    reference : Line2D or None
    legend : Legend
        Of all contours on the axes.
    """

    ax: Axes
    levels: tuple[tuple[Line2D, ...], ...]
    bestfit: Line2D
    minima: Line2D
    reference: Line2D | None
    legend: Legend


def contours(
    contour: ContourResult,
    *,
    ax: Axes | None = None,
    reference: tuple[float, float] | None = None,
    reference_label: str = "SM",
    label: str | None = None,
    parameter_labels: Sequence[str] | None = None,
    color: str | None = None,
) -> ContourArtists:
    """Draw the contours of each level, the best fit and, if given, a reference point.

    Parameters
    ----------
    contour : ContourResult
    ax : Axes, optional
        A new figure by default; the ``ax`` of an earlier call adds these contours to it.
    reference : pair of float, optional
        The values that theory expects: (1, 1) for signal strengths in the Standard Model.
    reference_label : str
    label : str, optional
        Name of these contours in the legend.
    parameter_labels : sequence of 2 str, optional
        Names of the axes, with units in brackets. By default those of the parameters.
    color : str, optional
        By default the next of Petroff's colours.
    """
    ax = figure()[1] if ax is None else ax
    names = contour.parameters if parameter_labels is None else parameter_labels
    ax.set_xlabel(names[0], loc="right")
    ax.set_ylabel(names[1], loc="top")
    earlier = sum(line.get_gid() == "nuratio:best-fit" for line in ax.lines)
    color = PETROFF[earlier % len(PETROFF)] if color is None else color
    before = "" if label is None else f"{label}: "
    drawn = []
    order = np.argsort(contour.levels)
    for n, pieces in enumerate(contour.pieces):
        style = _STYLES[int(np.flatnonzero(order == n)[0]) % len(_STYLES)]
        name = f"{before}{100 * contour.levels[n]:g}% CL"
        drawn.append(
            tuple(
                ax.plot(*piece.T, linestyle=style, color=color, linewidth=2, label=name if j == 0 else "_piece")[0]
                for j, piece in enumerate(pieces)
            )
        )
    x, y = contour.minima.T
    options: Any = {"linestyle": "none", "color": color, "zorder": 4}
    (bestfit,) = ax.plot(
        x[:1],
        y[:1],
        "P",
        markersize=10,
        markeredgewidth=0,
        label=f"{before}Best fit",
        gid="nuratio:best-fit",
        **options,
    )
    others = np.isfinite(x[1:])
    (minima,) = ax.plot(
        x[1:], y[1:], "o", markersize=8, markerfacecolor="white",
        label=f"{before}Other minimum" if others.any() else "_minima", **options,
    )  # fmt: skip
    point = None
    if reference is not None:
        (point,) = ax.plot(
            [reference[0]],
            [reference[1]],
            "*",
            linestyle="none",
            color=RED,
            markersize=15,
            label=reference_label,
            zorder=5,
        )
    ax.relim()
    ax.margins(0.08)
    ax.autoscale(True)
    ax.autoscale_view()
    handles, labels = ax.get_legend_handles_labels()
    legend = legend_above(ax, handles, labels, ax.get_ylim()[1])
    return ContourArtists(ax, tuple(drawn), bestfit, minima, point, legend)
