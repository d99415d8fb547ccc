"""The profile of -2 ln L with the confidence intervals that it gives, in one piece or several."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from nuratio.infer.profiles.intervals import IntervalResult
from nuratio.plots.look import GREEN, YELLOW, figure, font, legend_above, number, quote

__all__ = ["IntervalArtists", "interval_profile"]

_SHADES = (GREEN, YELLOW, "#e6e6e6")


@dataclass(frozen=True, eq=False)
class IntervalArtists:
    """What `interval_profile` drew.

    Attributes
    ----------
    ax : Axes
    curve : Line2D
        2 Delta ln L, up to somewhat above the largest level (NaN beyond, where the legend is).
    pieces : tuple of tuples of PolyCollection
        The shaded intervals of each level, in the order of the result.
    levels : tuple of Line2D
        The height of each level.
    bestfit, minima : Line2D
        The lowest minimum, and all others (no points if there are none).
    legend : Legend
    """

    ax: Axes
    curve: Line2D
    pieces: tuple[tuple[PolyCollection, ...], ...]
    levels: tuple[Line2D, ...]
    bestfit: Line2D
    minima: Line2D
    legend: Legend


def interval_profile(
    interval: IntervalResult, *, ax: Axes | None = None, parameter_label: str | None = None
) -> IntervalArtists:
    """Draw -2 Delta ln L against the parameter, its minima, and the intervals of each level shaded.

    Parameters
    ----------
    interval : IntervalResult
    ax : Axes, optional
        A new figure by default.
    parameter_label : str, optional
        Name of the x axis, with the unit in brackets: ``"mass [GeV]"``. By default the parameter's name.
    """
    ax = figure()[1] if ax is None else ax
    label = interval.parameter if parameter_label is None else parameter_label
    heights, top = interval.heights, 1.35 * max(interval.heights)
    x, y = interval.values, interval.delta_twice_nll
    inside = x[y <= top]
    margin = 0.06 * (inside.max() - inside.min())
    ax.set_xlim(max(inside.min() - margin, x[0]), min(inside.max() + margin, x[-1]))
    ax.set_ylim(0.0, top)
    ax.set_xlabel(label, loc="right")
    ax.set_ylabel(r"$-2\,\Delta\,\ln\,L$", loc="top")

    order = sorted(range(len(heights)), key=lambda n: heights[n])
    shades = {n: _SHADES[min(rank, len(_SHADES) - 1)] for rank, n in enumerate(order)}
    pieces = [
        tuple(
            ax.fill_between([low, high], heights[n], color=shades[n], linewidth=0, zorder=0.5 - 0.01 * order.index(n))
            for low, high in interval.pieces[n]
            if np.isfinite([low, high]).all()
        )
        for n in range(len(heights))
    ]
    levels = []
    for n, height in enumerate(heights):
        levels.append(ax.axhline(height, color="gray", linewidth=1.2, linestyle=":", zorder=1))
        ax.text(
            1.01, height, f"{100 * interval.levels[n]:g}%",
            va="center", transform=ax.get_yaxis_transform(), fontproperties=font(ax),
        )  # fmt: skip
    (curve,) = ax.plot(x, np.where(y <= top, y, np.nan), color="black", linewidth=2)
    style: Any = {"linestyle": "none", "color": "black", "markersize": 9, "clip_on": False, "zorder": 4}
    others = interval.minima_rise[1:] <= top
    (minima,) = ax.plot(
        interval.minima[1:][others], interval.minima_rise[1:][others], "o", markerfacecolor="white", **style
    )
    (bestfit,) = ax.plot(interval.minima[:1], interval.minima_rise[:1], "o", **style)

    entries = {f"Best fit: {quote(label, f'= {number(float(interval.minima[0]))}')}": bestfit}
    if others.any():
        entries["Other minimum" if others.sum() == 1 else "Other minima"] = minima
    for n in order:
        text = " \N{UNION} ".join(
            _bracket(*ends) for ends in zip(interval.pieces[n], interval.at_bound[n], strict=True)
        )
        if pieces[n]:
            entries[f"{100 * interval.levels[n]:g}%: {quote(label, text)}"] = pieces[n][0]
    legend = legend_above(ax, list(entries.values()), list(entries), top)
    return IntervalArtists(ax, curve, tuple(pieces), tuple(levels), bestfit, minima, legend)


def _bracket(piece: tuple[float, float], at_bound: tuple[bool, bool]) -> str:
    """An interval as text: ``[0.61, 1.42]``, an end at a bound with a bar, one that was not found as ``?``."""
    low, high = (number(end) if np.isfinite(end) else "?" for end in piece)
    return f"{'|' if at_bound[0] else '['}{low}, {high}{'|' if at_bound[1] else ']'}"
