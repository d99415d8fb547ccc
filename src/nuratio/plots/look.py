"""The look all drawings share: mplhep's ROOT style, Petroff's colours, a legend that never covers the data.

The style belongs to the figures made here and not to the session: rcParams stay as they are. Text added to given axes
takes the font of their labels, so a drawing on a user's own axes keeps the user's style.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

__all__ = ["GREEN", "PETROFF", "RED", "YELLOW", "figure", "font", "legend_above", "number", "quote", "rounded"]

# Accessible colour sequence of ten, M. Petroff, arXiv:2107.02270.
PETROFF = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadb",
)
RED = PETROFF[2]
# One and two standard deviations, told apart by brightness as well as by hue.
GREEN, YELLOW = "#5fb04f", "#fbe27a"

_STYLE: Any = {
    **mplhep.style.ROOT,
    "figure.figsize": (8.0, 6.5),
    "figure.constrained_layout.use": True,
    # Families and math fonts by name: those of a group (sans-serif, custom) are looked up again when a figure is saved.
    "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
    "mathtext.fontset": "stixsans",
    "font.size": 18.0,
    "axes.linewidth": 1.4,
    "xtick.major.size": 9.0,
    "xtick.minor.size": 4.5,
    "ytick.major.size": 9.0,
    "ytick.minor.size": 4.5,
}


def figure(**options: Any) -> tuple[Figure, Any]:
    """`matplotlib.pyplot.subplots` in nuratio's style; rcParams are as before afterwards."""
    with mpl.rc_context(_STYLE):
        fig, axes = plt.subplots(**options)
        for ax in fig.axes:
            ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    return fig, axes


def font(ax: Axes, scale: float = 0.78) -> FontProperties:
    """The font of the axes' labels at ``scale`` times their size."""
    properties = ax.xaxis.label.get_fontproperties().copy()
    properties.set_size(scale * properties.get_size_in_points())
    return properties


def legend_above(
    ax: Axes, handles: Sequence[Any], labels: Sequence[str], top: float, title: str | None = None
) -> Legend:
    """A legend at the top of the axes, and a y axis long enough that it covers nothing at or below ``top``.

    Two columns if they fit, in somewhat smaller type if need be; else one, in type as small as it takes.
    """
    properties = font(ax)

    def draw(columns: int) -> tuple[Legend, float]:
        legend = ax.legend(
            handles, labels, loc="upper right", ncols=columns, prop=properties, frameon=False,
            title=title, title_fontproperties=properties, alignment="left",
        )  # fmt: skip
        legend.set_in_layout(False)  # a legend still too wide must not squeeze the axes it is measured against
        ax.figure.figure.draw_without_rendering()
        return legend, legend.get_window_extent().width / ax.get_window_extent().width

    for columns, tolerated in ((2, 1.25), (1, np.inf)):
        legend, width = draw(columns)
        if 0.95 < width <= tolerated:
            properties.set_size(0.94 * properties.get_size_in_points() / width)
            legend, width = draw(columns)
        if width <= 0.95:
            break
    box, frame = legend.get_window_extent(), ax.get_window_extent()
    free = max((box.y0 - frame.y0) / frame.height - 0.01, 0.2)
    bottom = ax.get_ylim()[0]
    low, high = ax.transData.transform([(0, bottom), (0, top)])[:, 1]
    _, raised = ax.transData.inverted().transform((0, low + (high - low) / free))
    ax.set_ylim(bottom, float(raised))
    return legend


def number(value: float) -> str:
    """Three significant digits, as text."""
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return rf"${mantissa} \times 10^{{{int(exponent)}}}$"
    return np.format_float_positional(value, 3, fractional=False, trim="-").replace("-", "\N{MINUS SIGN}")


def rounded(value: float, lower: float, upper: float) -> str:
    """A value and its uncertainties (both positive) to two digits of the smaller one; ``±`` where they agree."""
    decimals = max(0, 1 - int(np.floor(np.log10(min(lower, upper)))))
    central, minus, plus = (f"{v:.{decimals}f}" for v in (value, lower, upper))
    central = central.replace("-", "\N{MINUS SIGN}")
    return f"{central} ± {plus}" if minus == plus else rf"{central}$_{{-{minus}}}^{{+{plus}}}$"


def quote(label: str, relation: str) -> str:
    """A statement about an axis' quantity: ``"mass [GeV]"`` and ``"< 91"`` give ``"mass < 91 GeV"``."""
    symbol, bracket, unit = label.partition(" [")
    return f"{symbol} {relation} {unit[:-1]}" if bracket and label.endswith("]") else f"{label} {relation}"
