"""Expected uncertainty of binned analyses against their number of bins, beside that of the unbinned fit."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from nuratio.errors import InvalidData
from nuratio.infer.binned.compare import CompareResult
from nuratio.plots.look import PETROFF, figure, legend_above

__all__ = ["ComparisonArtists", "comparison"]

_SERIES = {  # analyses -> label, colour, marker
    "quantile": ("Bins of equal probability", PETROFF[1], "s"),
    "optimised": ("Optimised bins", PETROFF[0], "o"),
}
_ROOM = 1.25  # beside the outermost numbers of bins, a factor


@dataclass(frozen=True, eq=False)
class ComparisonArtists:
    """What `comparison` drew.

    Attributes
    ----------
    ax : Axes
    series : dict of Line2D
        ``quantile`` and ``optimised`` -> uncertainties against the number of bins; both start with the counting
        experiment.
    unbinned : Line2D
        The line at the unbinned uncertainty.
    invalid : Line2D or None
        Analyses whose fits are not valid.
    legend : Legend
    """

    ax: Axes
    series: dict[str, Line2D]
    unbinned: Line2D
    invalid: Line2D | None
    legend: Legend


def comparison(
    result: CompareResult, *, ax: Axes | None = None, log: bool = False, parameter_label: str | None = None
) -> ComparisonArtists:
    """Draw the expected uncertainty of the POI against the number of bins, for both kinds of bins.

    Parameters
    ----------
    result : CompareResult
    ax : Axes, optional
        A new figure by default.
    log : bool
        Logarithmic y axis.
    parameter_label : str, optional
        Name of the POI, with the unit in brackets: ``"mass [GeV]"``. By default the parameter's name.

    Raises
    ------
    InvalidData
        There is no binned analysis with a finite uncertainty.
    """
    drawn = [a for a in result.analyses[:-1] if np.isfinite(a.uncertainty)]
    if not drawn:
        raise InvalidData("no binned analysis has a finite uncertainty, so there is nothing to draw")
    ax = figure()[1] if ax is None else ax
    parameter_label = result.poi if parameter_label is None else parameter_label
    symbol, bracket, unit = parameter_label.partition(" [")
    series: dict[str, Line2D] = {}
    for name, (label, color, marker) in _SERIES.items():
        own = [a for a in drawn if a.name in ("counting", name)]
        x, y = [a.bins for a in own], [a.uncertainty for a in own]
        (series[name],) = ax.plot(x, y, color=color, marker=marker, markersize=8, linewidth=2, label=label)
    unbinned = ax.axhline(result.unbinned.uncertainty, color="black", linestyle="--", linewidth=2, label="Unbinned")
    invalid = None
    bad = [a for a in drawn if not a.valid]
    if bad:
        (invalid,) = ax.plot(
            [a.bins for a in bad], [a.uncertainty for a in bad], "o", color="black", markerfacecolor="white",
            markersize=11, label="Not valid",
        )  # fmt: skip
    numbers = sorted({a.bins for a in drawn})
    ax.set_xscale("log")
    ax.set_xlim(numbers[0] / _ROOM, numbers[-1] * _ROOM)
    ax.xaxis.set_major_locator(FixedLocator(numbers))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xticklabels([str(n) for n in numbers])
    ax.set_xlabel("Number of bins", loc="right")
    ax.set_ylabel(f"Expected uncertainty of {symbol}{bracket}{unit}", loc="top")
    top = max(a.uncertainty for a in drawn)
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(0.0, ax.get_ylim()[1])
    handles, labels = ax.get_legend_handles_labels()
    legend = legend_above(ax, handles, labels, top)
    return ComparisonArtists(ax, series, unbinned, invalid, legend)
