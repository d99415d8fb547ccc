"""The CLs scan behind an upper limit, with the expected band ("Brazil band")."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from nuratio.errors import InvalidData
from nuratio.infer.results import LimitResult
from nuratio.infer.toys.p_values import ToyLimitResult
from nuratio.plots.look import GREEN, RED, YELLOW, figure, font, legend_above, number, quote

__all__ = ["ClsScanArtists", "cls_scan"]


@dataclass(frozen=True, eq=False)
class ClsScanArtists:
    """What `cls_scan` drew.

    Attributes
    ----------
    ax : Axes
    observed, expected : Line2D
        CLs at every tested value: observed, and the expected median.
    one_sigma, two_sigma : PolyCollection
        The expected bands.
    level : Line2D
        Where CLs excludes.
    limits : Line2D
        The observed and the median expected limit, at ``level``.
    invalid : Line2D or None
        Observed CLs where a fit is not valid.
    errors : ErrorbarContainer or None
        Those of observed CLs counted in toys.
    legend : Legend
    """

    ax: Axes
    observed: Line2D
    expected: Line2D
    one_sigma: PolyCollection
    two_sigma: PolyCollection
    level: Line2D
    limits: Line2D
    invalid: Line2D | None
    errors: ErrorbarContainer | None
    legend: Legend


def cls_scan(
    limit: LimitResult | ToyLimitResult,
    *,
    ax: Axes | None = None,
    label: str | None = None,
    poi_label: str | None = None,
    log: bool = False,
) -> ClsScanArtists:
    """Draw observed and expected CLs against the POI (arXiv:1007.1727; CLs: doi:10.1088/0954-3899/28/10/313).

    The lines go through every tested value; markers are thinned to an even subset of them.

    Parameters
    ----------
    limit : LimitResult or ToyLimitResult
    ax : Axes, optional
        A new figure by default.
    label : str, optional
        Title of the legend.
    poi_label : str, optional
        Name of the x axis, with the unit in brackets: ``"mass [GeV]"``. By default the POI's name.
    log : bool
        Logarithmic y axis.

    Raises
    ------
    InvalidData
        The result holds no tested values.
    """
    if not limit.scan:
        raise InvalidData(f"the limit on {limit.poi!r} holds no tested values, so there is no CLs scan to draw")
    ax = figure()[1] if ax is None else ax
    poi_label = limit.poi if poi_label is None else poi_label
    x = np.array([test.poi_value for test in limit.scan])
    cls = np.array([test.CLs for test in limit.scan])
    low2, low1, median, high1, high2 = np.array([test.CLs_expected for test in limit.scan]).T
    bad = np.array([not test.valid for test in limit.scan])

    bottom = limit.level / 50 if log else 0.0
    ax.set_yscale("log" if log else "linear")
    ax.set_ylim(bottom, 1.0)
    ax.set_yticks(10.0 ** np.arange(np.ceil(np.log10(bottom)), 1) if log else np.linspace(0, 1, 6))
    furthest = 1.1 * np.nanmax([limit.observed, *limit.expected])
    ax.set_xlim(x[0], furthest if x[0] < furthest < x[-1] else x[-1])
    ax.set_xlabel(poi_label, loc="right")
    ax.set_ylabel(r"$\mathrm{CL_s}$", loc="top")

    two_sigma = ax.fill_between(x, low2, high2, color=YELLOW, linewidth=0)
    one_sigma = ax.fill_between(x, low1, high1, color=GREEN, linewidth=0)
    (expected,) = ax.plot(x, median, "--", color="black", linewidth=1.8)
    (observed,) = ax.plot(x, cls, "-o", color="black", linewidth=1.8, markersize=5, markevery=0.05)
    errors = None
    if isinstance(limit, ToyLimitResult):
        spread = [test.CLs_error for test in limit.scan]
        errors = ax.errorbar(x, cls, spread, fmt="none", color="black", elinewidth=1.5, capsize=3)
    level = ax.axhline(limit.level, color=RED, linewidth=1.5)
    ax.text(
        1.01, limit.level, f"{100 * (1 - limit.level):g}% CL",
        color=RED, va="center", transform=ax.get_yaxis_transform(), fontproperties=font(ax),
    )  # fmt: skip
    (limits,) = ax.plot(
        [limit.observed, limit.expected[2]], [limit.level] * 2,
        "D", color=RED, markersize=8, markeredgecolor="white", zorder=4,
    )  # fmt: skip
    entries = {
        f"Observed: {quote(poi_label, f'< {number(limit.observed)}')}": observed,
        f"Expected: {quote(poi_label, f'< {number(limit.expected[2])}')}": expected,
        "Expected ±1σ": one_sigma,
        "Expected ±2σ": two_sigma,
    }
    invalid = None
    if bad.any():
        (invalid,) = ax.plot(x[bad], cls[bad], "o", color="black", markersize=7, markerfacecolor="white", zorder=3)
        entries["Fit not valid"] = invalid
    legend = legend_above(ax, list(entries.values()), list(entries), 1.0, label)
    return ClsScanArtists(ax, observed, expected, one_sigma, two_sigma, level, limits, invalid, errors, legend)
