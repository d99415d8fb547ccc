"""Profile-likelihood scans; several can share one pair of axes (a learned and an exact likelihood, say)."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from nuratio.infer.results import Estimate, ScanResult
from nuratio.plots.look import PETROFF, figure, font, legend_above, number, quote, rounded

__all__ = ["ProfileArtists", "profile"]

_LEVELS = {1.0: "68.3%", 4.0: "95.4%"}
_GID = "nuratio:profile-level"


@dataclass(frozen=True, eq=False)
class ProfileArtists:
    """What `profile` drew.

    Attributes
    ----------
    ax : Axes
    curve : Line2D
        2 Delta NLL at every scan point.
    levels : tuple of Line2D
        The lines at 1 and 4; empty if not asked for, or if the axes have them already.
    invalid : Line2D or None
        Scan points where the fit is not valid.
    legend : Legend
        Of all scans on the axes.
    """

    ax: Axes
    curve: Line2D
    levels: tuple[Line2D, ...]
    invalid: Line2D | None
    legend: Legend


def profile(
    scan: ScanResult,
    *,
    ax: Axes | None = None,
    intervals: bool = True,
    label: str | None = None,
    parameter_label: str | None = None,
    color: str | None = None,
    linestyle: str = "-",
) -> ProfileArtists:
    """Draw -2 Delta ln L against the scanned parameter; the legend quotes the best fit.

    The uncertainties quoted are those of MINOS where the fit has them, else the symmetric one.

    Parameters
    ----------
    scan : ScanResult
    ax : Axes, optional
        A new figure by default; the ``ax`` of an earlier call adds this scan to it.
    intervals : bool
        Lines at 1 and 4: the ends of the 68.3% and 95.4% intervals of one parameter (Wilks).
    label : str, optional
        Name of this scan in the legend.
    parameter_label : str, optional
        Name of the x axis, with the unit in brackets: ``"mass [GeV]"``. By default the parameter's name.
    color, linestyle : str, optional
        Of the curve; by default the next of Petroff's colours, solid.
    """
    ax = figure()[1] if ax is None else ax
    parameter_label = scan.parameter if parameter_label is None else parameter_label
    earlier = ax.get_legend_handles_labels()[0]
    color = PETROFF[len(earlier) % len(PETROFF)] if color is None else color
    x, y = scan.values, scan.delta_twice_nll
    ax.set_xlabel(parameter_label, loc="right")
    ax.set_ylabel(r"$-2\,\Delta\,\ln\,L$", loc="top")

    levels: list[Line2D] = []
    if intervals and all(line.get_gid() != _GID for line in ax.lines):
        for height, text in _LEVELS.items():
            levels.append(ax.axhline(height, color="gray", linewidth=1.2, linestyle=":", gid=_GID, zorder=1))
            ax.text(1.01, height, text, va="center", transform=ax.get_yaxis_transform(), fontproperties=font(ax))
    best = quote(parameter_label, f"= {_measured(scan.bestfit[scan.parameter])}")
    entry = best if label is None else f"{label}: {best}"
    (curve,) = ax.plot(x, y, color=color, linestyle=linestyle, linewidth=2, label=entry)
    invalid = None
    bad = ~np.array(scan.valid, dtype=bool)
    if bad.any():
        (invalid,) = ax.plot(x[bad], y[bad], "o", color=color, markerfacecolor="white", label="Fit not valid")
    handles, labels = ax.get_legend_handles_labels()
    extent = ax.dataLim
    ax.set_xlim(extent.x0, extent.x1)
    ax.set_ylim(min(0.0, extent.y0))
    legend = legend_above(ax, handles, labels, extent.y1)
    return ProfileArtists(ax, curve, tuple(levels), invalid, legend)


def _measured(estimate: Estimate) -> str:
    lower, upper = estimate.value - estimate.lower, estimate.upper - estimate.value
    if not (lower > 0 and upper > 0):
        lower = upper = estimate.uncertainty
    return rounded(estimate.value, lower, upper) if lower > 0 else number(estimate.value)
