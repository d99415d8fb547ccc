"""Shape variations as pictures: what was simulated and what was learned of them, their coefficients, and impacts."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nuratio.checks.report import Coefficients, Ranking, VariedRatio
from nuratio.plots.look import PETROFF, figure, font

__all__ = ["ranking", "variations"]

Floats = NDArray[np.float64]

_COLUMNS = 3
_UP = (PETROFF[2], PETROFF[6], PETROFF[1])  # from alpha = 0 outwards
_DOWN = (PETROFF[0], PETROFF[4], PETROFF[9])
_POWERS = ("black", PETROFF[6], PETROFF[4], PETROFF[5])
_MOST = 20  # nuisances in a ranking


def variations(ratios: Sequence[VariedRatio], coefficients: Sequence[Coefficients] = (), *, remark: str = "") -> Figure:
    """A panel per feature: the variation over the nominal shape, simulated and learned, and its coefficients below.

    Parameters
    ----------
    ratios : sequence of VariedRatio
        Of one nuisance at all of its points, or of one point off the axes; in all features.
    coefficients : sequence of Coefficients
        Of this nuisance: the mean of each, and a band with 68% of the nominal events of a bin.
    remark : str
        For the title, after part and nuisances.
    """
    features = list(dict.fromkeys(r.feature for r in ratios))
    below = {c.feature: c for c in coefficients}
    panels = 2 if below else 1
    columns, rows = min(len(features), _COLUMNS), -(-len(features) // _COLUMNS)
    fig, axes = figure(
        nrows=panels * rows,
        ncols=columns,
        squeeze=False,
        figsize=(5.4 * columns, (5.4 if below else 3.8) * rows + 1.0),
        height_ratios=[3.0, 2.2][:panels] * rows,
    )
    colors = _colors(list(dict.fromkeys(r.point for r in ratios)))
    for k in range(rows * columns):
        row, column = divmod(k, columns)
        mine = [axes[panels * row + panel, column] for panel in range(panels)]
        if k >= len(features):
            for ax in mine:
                ax.set_axis_off()
            continue
        _ratios([r for r in ratios if r.feature == features[k]], colors, mine[0])
        if below:
            mine[0].tick_params(labelbottom=False)
            _coefficients(below[features[k]], mine[1])
        mine[-1].set_xlabel(features[k], loc="right")
    shown = [ax.get_legend_handles_labels() for ax in axes[:panels, 0]]
    by_label = {label: handle for pair in shown for handle, label in zip(*pair, strict=True)}
    labels = [f"{point}, {what}" for point in colors for what in ("simulated", "learned")]
    labels += [label for label in by_label if label not in labels]
    properties = font(axes[0, 0])
    title = f"{ratios[0].sample}: {', '.join(ratios[0].nuisances)}{remark}"
    fig.legend(
        [by_label[label] for label in labels], labels, loc="outside upper left", ncols=2 * columns, frameon=False,
        prop=properties, title=title, title_fontproperties=font(axes[0, 0], 0.95), alignment="left",
    )  # fmt: skip
    return fig


def _colors(points: Sequence[str]) -> dict[str, str]:
    """Red from 0 upwards, blue downwards; a point of several nuisances is black."""
    if any("," in point for point in points):
        return dict.fromkeys(points, "black")
    alpha = {point: float(point.rpartition("= ")[2]) for point in points}
    found: dict[str, str] = {}
    for side, palette in ((1, _UP), (-1, _DOWN)):
        ordered = sorted((p for p in points if side * alpha[p] > 0), key=lambda p: abs(alpha[p]))
        found |= {p: palette[min(k, len(palette) - 1)] for k, p in enumerate(ordered)}
    return found


def _ratios(found: Sequence[VariedRatio], colors: Mapping[str, str], ax: Axes) -> None:
    """Points with errors for what was simulated, lines for what was learned, dashed without the cross term."""
    low, high = [1.0], [1.0]
    for k, r in enumerate(found):
        color, edges = colors[r.point], r.edges
        center = (edges[1:] + edges[:-1]) / 2
        ax.stairs(r.learned, edges, baseline=None, color=color, linewidth=1.8, label=f"{r.point}, learned")
        if len(r.product):
            ax.stairs(r.product, edges, baseline=None, color=PETROFF[8], linestyle="--", linewidth=1.8,
                      label="without its cross term")  # fmt: skip
        ax.errorbar(center, r.simulated, r.error, fmt="o", color=color, markersize=4, label=f"{r.point}, simulated")
        text = rf"$\chi^2$ / ndf = {r.chi2:.0f} / {r.bins}"
        ax.text(0.04, 0.96 - 0.085 * k, text, transform=ax.transAxes, va="top", color=color, fontproperties=font(ax))
        for values in (r.learned, r.product, r.simulated - r.error, r.simulated + r.error):
            if len(values):
                low.append(float(np.min(values)))
                high.append(float(np.max(values)))
    ax.axhline(1, color="black", linewidth=0.8)
    reach = max(max(high) - min(low), 0.004)
    ax.set_ylim(min(low) - 0.08 * reach, max(high) + (0.2 + 0.15 * len(found)) * reach)
    ax.set_xlim(found[0].edges[0], found[0].edges[-1])
    ax.set_ylabel("Varied / nominal", loc="top")


def _coefficients(found: Coefficients, ax: Axes) -> None:
    """Means as lines, with bands."""
    for power, mean, low, high in zip(found.powers, found.mean, found.low, found.high, strict=True):
        color = _POWERS[min(power, len(_POWERS)) - 1]
        ax.stairs(mean, found.edges, baseline=None, color=color, linewidth=1.8, label=rf"$D_{{{power}}}$")
        ax.stairs(high, found.edges, baseline=low, color=color, alpha=0.25, fill=True)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xlim(found.edges[0], found.edges[-1])
    ax.set_ylabel("Coefficient", loc="top")


def ranking(found: Ranking, *, ax: Axes | None = None) -> Axes:
    """Impacts on Asimov data as bars, the largest on top: by the post-fit and (outlined) the pre-fit uncertainty.

    Diamonds are what of the post-fit impact there would not be without shapes per event: more than all of it where
    rates work against shapes. At most twenty nuisances are drawn.
    """
    names = found.nuisances[:_MOST]
    n = len(names)
    if ax is None:  # inches: a row per nuisance, and about 0.115 per character of the longest name
        ax = figure(figsize=(5.0 + 0.115 * max(map(len, names), default=0), 2.4 + 0.32 * n))[1]
    y = np.arange(n)
    shapes = found.shapes[:n]
    outlined = ax.barh(y, found.prefit[:n], height=0.8, facecolor="none", edgecolor=PETROFF[8], linewidth=1.2)
    filled = ax.barh(y, found.impact[:n], height=0.8, color=PETROFF[0])
    (diamonds,) = ax.plot(shapes[shapes != 0], y[shapes != 0], "D", color="black", markersize=5)
    ax.axvline(0, color="black", linewidth=0.8)
    values = np.r_[found.prefit[:n], found.impact[:n], shapes, 0.01]
    reach = 1.15 * float(np.nanmax(np.abs(values)))
    ax.set_xlim(-reach, reach)
    ax.set_ylim(n - 0.4, -1.6)
    ax.set_yticks(y, names)
    ax.tick_params(axis="y", which="both", left=False, right=False)
    ax.set_xlabel(rf"Impact on {found.parameter} / $\sigma$", loc="right")
    properties = font(ax, 0.7)
    labels = ("Pre-fit", "Post-fit", "Due to shapes")
    ax.legend(
        [outlined, filled, diamonds], labels, loc="upper center", ncols=3, frameon=False, prop=properties,
        columnspacing=1.0, handletextpad=0.4,
    )  # fmt: skip
    if len(found.nuisances) > n:
        ax.set_title(f"{n} of {len(found.nuisances)} nuisances", loc="right", fontproperties=font(ax))
    return ax
