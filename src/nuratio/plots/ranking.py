"""The ranking of nuisances, with pulls and impacts on two axes, and the breakdown of an uncertainty."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nuratio.errors import InvalidData
from nuratio.infer.impacts.breakdown import BreakdownResult
from nuratio.infer.impacts.ranking import RankingResult
from nuratio.plots.look import PETROFF, RED, figure, font, legend_above, number, rounded

__all__ = ["ComponentsArtists", "ImpactsArtists", "components", "impacts"]

Floats = NDArray[np.float64]

_UP, _DOWN = PETROFF[0], PETROFF[1]
_HEIGHT = 0.72  # of a bar, in rows


@dataclass(frozen=True, eq=False)
class ImpactsArtists:
    """What `impacts` drew.

    Attributes
    ----------
    ax, pull_ax : Axes
        Shifts of the parameter of interest, on the upper axis, and pulls, on the lower one.
    names : tuple of str
        The parameters, from the top.
    up, down : BarContainer
        Shifts with the nuisance up and down.
    prefit_up, prefit_down : BarContainer or None
        Open bars; None for a ranking without them.
    points : ErrorbarContainer or None
        Pulls with their uncertainties; None if no parameter on the page is constrained.
    legend : Legend
    """

    ax: Axes
    pull_ax: Axes
    names: tuple[str, ...]
    up: BarContainer
    down: BarContainer
    prefit_up: BarContainer | None
    prefit_down: BarContainer | None
    points: ErrorbarContainer | None
    legend: Legend


def impacts(
    ranking: RankingResult,
    *,
    top: int = 20,
    page: int = 1,
    ax: Axes | None = None,
    poi_label: str | None = None,
    label: str | None = None,
) -> ImpactsArtists:
    """Draw the shifts of the parameter of interest as bars, the largest at the top, and the pulls as points.

    Filled bars are post-fit impacts, open ones pre-fit impacts; of a ranking by ``auxdata`` the filled ones are
    uncertainty components. Names of parameters whose refits are not valid are red.

    Parameters
    ----------
    ranking : RankingResult
    top, page : int
        So many parameters on a page, and which page, from 1.
    ax : Axes, optional
        A new figure, as high as the number of parameters asks for, by default.
    poi_label : str, optional
        Name of the parameter of interest, with the unit in brackets: ``"mass [GeV]"``.
    label : str, optional
        Title of the legend.

    Raises
    ------
    InvalidData
        Nothing to draw: no such page, or a ranking without parameters.
    """
    shown = ranking.page(page, top)
    if not len(shown):
        raise InvalidData(f"no ranking to draw: the fit has no parameter but {ranking.poi!r} that was free to move")
    if ax is None:  # inches: a row per parameter, and about 0.11 per character of the longest name
        longest = max(map(len, shown.names))
        ax = figure(figsize=(6.4 + 0.11 * longest, 3.0 + 0.36 * len(shown)))[1]
    pull_ax = ax.twiny()
    y = np.arange(len(shown))[::-1]
    options: dict[str, Any] = {"height": _HEIGHT, "linewidth": 1.3}
    open_bars = {**options, "facecolor": "none", "zorder": 2}

    prefit_up = prefit_down = None
    if np.isfinite([shown.prefit_up, shown.prefit_down]).any():
        prefit_up = ax.barh(y, _drawn(shown.prefit_up), edgecolor=_UP, label="Pre-fit, up", **open_bars)
        prefit_down = ax.barh(y, _drawn(shown.prefit_down), edgecolor=_DOWN, label="Pre-fit, down", **open_bars)
    what = "Auxiliary datum" if shown.method == "auxdata" else "Post-fit"
    filled = {**options, "height": 0.8 * _HEIGHT, "zorder": 1}
    up = ax.barh(y, _drawn(shown.up), color=_UP, label=f"{what}, up", **filled)
    down = ax.barh(y, _drawn(shown.down), color=_DOWN, label=f"{what}, down", **filled)
    points = None
    pulled = np.isfinite(shown.pull)
    if pulled.any():
        points = pull_ax.errorbar(
            shown.pull[pulled],
            y[pulled],
            xerr=shown.constraint[pulled],
            fmt="o",
            color="black",
            markersize=4.5,
            linewidth=1.5,
            label="Pull",
        )
    _axes(ax, pull_ax, shown, y, ranking.poi if poi_label is None else poi_label)
    handles = [drawn for drawn in (up, down, points, prefit_up, prefit_down) if drawn is not None]
    legend = legend_above(ax, handles, [str(h.get_label()) for h in handles], float(y[0]) + 0.6, label)
    if not ranking.valid:
        ax.set_title("Not valid", loc="left", color=RED, fontproperties=font(ax))
    return ImpactsArtists(ax, pull_ax, shown.names, up, down, prefit_up, prefit_down, points, legend)


def _drawn(shifts: Floats) -> Floats:
    """Bars of length 0 where there is no number."""
    return np.asarray(np.nan_to_num(shifts))


def _axes(ax: Axes, pull_ax: Axes, shown: RankingResult, y: NDArray[np.int64], poi_label: str) -> None:
    """Impacts above, pulls below, each symmetric about zero, which is the same place."""
    shifts = np.abs([shown.up, shown.down, shown.prefit_up, shown.prefit_down])
    reach = float(np.nanmax(shifts, initial=0.0)) or 1.0
    ax.set_xlim(-1.15 * reach, 1.15 * reach)
    pull_reach = 1.1 * float(np.nanmax(np.abs(shown.pull) + shown.constraint, initial=0.0))
    pull_ax.set_xlim(-max(2.0, pull_reach), max(2.0, pull_reach))
    ax.xaxis.set_label_position("top")
    ax.tick_params(axis="x", which="both", top=True, bottom=False, labeltop=True, labelbottom=False)
    pull_ax.xaxis.set_label_position("bottom")
    pull_ax.tick_params(axis="x", which="both", top=False, bottom=True, labeltop=False, labelbottom=True)
    for axes in (ax, pull_ax):
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    symbol, bracket, unit = poi_label.partition(" [")
    ax.set_xlabel(rf"$\Delta${symbol}{bracket}{unit}", loc="right")
    pull_ax.set_xlabel(
        r"$(\hat{\theta} - \theta_0)\,/\,\Delta\theta$",
        loc="right",
        fontproperties=ax.xaxis.label.get_fontproperties(),
    )
    pull_ax.tick_params(axis="x", labelsize=ax.xaxis.get_ticklabels()[0].get_fontsize())
    for line in (-1, 0, 1):  # not up into the legend
        style = "-" if line == 0 else ":"
        pull_ax.vlines(line, -0.6, len(shown) - 0.4, color="black", linestyle=style, linewidth=0.9, zorder=0)
    ax.set_ylim(-0.6, len(shown) - 0.4)
    ax.set_yticks(y, shown.names)
    ax.tick_params(axis="y", which="both", left=False, right=False)
    for name, valid in zip(ax.get_yticklabels(), shown.refits_valid, strict=True):
        name.set_fontproperties(font(ax))
        if not valid:
            name.set_color(RED)


@dataclass(frozen=True, eq=False)
class ComponentsArtists:
    """What `components` drew.

    Attributes
    ----------
    ax : Axes
    names : tuple of str
        Components from the top, the largest group first after the statistics; the remainder, if any, and the total.
    bars : BarContainer
    texts : tuple of Text
        Each component with its share of the variance.
    """

    ax: Axes
    names: tuple[str, ...]
    bars: BarContainer
    texts: tuple[Text, ...]


def components(
    breakdown: BreakdownResult, *, ax: Axes | None = None, poi_label: str | None = None, label: str | None = None
) -> ComponentsArtists:
    """Draw the components of an uncertainty as bars, with numbers and shares of the variance beside them.

    A remainder is hatched; where it is negative, components overlap. The title has the result, with the total.

    Parameters
    ----------
    breakdown : BreakdownResult
    ax : Axes, optional
        A new figure, as high as the number of components asks for, by default.
    poi_label : str, optional
        Name of the parameter of interest, with the unit in brackets: ``"mass [GeV]"``.
    label : str, optional
        Of the analysis, over the axes at the left.
    """
    poi_label = breakdown.poi if poi_label is None else poi_label
    first = next(iter(breakdown.components))
    groups = sorted((n for n in breakdown.components if n != first), key=lambda n: -breakdown.components[n])
    rows = [(n, breakdown.components[n]) for n in [first, *groups]]
    rows += [("remainder", breakdown.remainder)] if breakdown.remainder else []
    rows.append(("total", breakdown.total))
    names, values = tuple(n for n, _ in rows), np.array([v for _, v in rows])
    if ax is None:
        ax = figure(figsize=(7.0 + 0.13 * max(map(len, names)), 2.0 + 0.42 * len(rows)))[1]
    y = np.arange(len(rows))
    colors = [{first: PETROFF[0], "total": PETROFF[8], "remainder": "white"}.get(n, PETROFF[1]) for n in names]
    bars = ax.barh(y, _drawn(np.abs(values)), height=0.7, color=colors)
    for name, bar in zip(names, bars, strict=True):
        if name == "remainder":
            bar.set(hatch="////", edgecolor=PETROFF[3])
    shares = np.sign(values) * np.square(values / breakdown.total)
    texts = tuple(
        ax.annotate(
            f"{number(float(v))}  ({100 * share:.0f}%)".replace("(-", "(\N{MINUS SIGN}"),
            (0.0 if np.isnan(v) else abs(v), place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontproperties=font(ax),
        )
        for v, share, place in zip(values, shares, y, strict=True)
    )
    ax.set_xlim(0, 1.45 * float(np.nanmax(np.abs(values))))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(y, names)
    ax.tick_params(axis="y", which="both", left=False, right=False)
    symbol, bracket, unit = poi_label.partition(" [")
    ax.set_xlabel(f"Uncertainty of {symbol}{bracket}{unit}", loc="right")
    measured = (
        f"{symbol} = {rounded(breakdown.value, breakdown.total, breakdown.total)}{' ' + unit[:-1] if unit else ''}"
    )
    title = measured if breakdown.valid else f"{measured}, not valid"
    ax.set_title(title, loc="right", color="black" if breakdown.valid else RED, fontproperties=font(ax))
    if label is not None:
        ax.set_title(label, loc="left", fontproperties=font(ax))
    return ComponentsArtists(ax, names, bars, texts)
