"""Local p-values along a scan, with the significance of the whole."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from scipy.stats import norm

from nuratio.infer.hypotheses.look_elsewhere import GlobalSignificance, SignificanceScan
from nuratio.plots.look import RED, figure, font, legend_above, number, quote

__all__ = ["LocalPArtists", "local_p_values"]


@dataclass(frozen=True, eq=False)
class LocalPArtists:
    """What `local_p_values` drew.

    Attributes
    ----------
    ax : Axes
    curve : Line2D
        Local p-value at every value of the scan.
    sigmas : tuple of Line2D
        The p-values of 0, 1, 2, ... standard deviations.
    largest : Line2D
        The largest excess.
    legend : Legend
    """

    ax: Axes
    curve: Line2D
    sigmas: tuple[Line2D, ...]
    largest: Line2D
    legend: Legend


def local_p_values(
    result: SignificanceScan | GlobalSignificance, *, ax: Axes | None = None, parameter_label: str | None = None
) -> LocalPArtists:
    """Draw the local p-value of the background-only hypothesis along a scan; the legend quotes the largest excess.

    Parameters
    ----------
    result : SignificanceScan or GlobalSignificance
        The second one with the global significance, too.
    ax : Axes, optional
        A new figure by default.
    parameter_label : str, optional
        Name of the x axis, with the unit in brackets: ``"mass [GeV]"``. By default the parameter's name.
    """
    scan = result.scan if isinstance(result, GlobalSignificance) else result
    ax = figure()[1] if ax is None else ax
    label = scan.parameter if parameter_label is None else parameter_label
    best = int(np.argmax(scan.significance))
    deepest = int(np.ceil(scan.significance[best] + 0.5))
    ax.set_yscale("log")
    ax.set_ylim(float(norm.sf(deepest + 0.2)), 1.0)
    if len(scan.values) > 1:
        ax.set_xlim(scan.values[0], scan.values[-1])
    ax.set_xlabel(label, loc="right")
    ax.set_ylabel(r"Local $p_0$", loc="top")
    step = 1 if deepest <= 6 else 2
    sigmas = []
    for z in range(0, deepest + 1, step):
        sigmas.append(ax.axhline(float(norm.sf(z)), color=RED, linewidth=1.2, linestyle=":", zorder=1))
        ax.text(
            1.01, norm.sf(z), f"{z}σ",
            color=RED, va="center", transform=ax.get_yaxis_transform(), fontproperties=font(ax),
        )  # fmt: skip
    (curve,) = ax.plot(scan.values, scan.p0, color="black", linewidth=2)
    (largest,) = ax.plot(scan.values[best], scan.p0[best], "o", color="black", markersize=8, clip_on=False, zorder=4)
    where = quote(label, f"= {number(float(scan.values[best]))}")
    entries = {"Observed": curve, f"{scan.significance[best]:.2f}σ local at {where}": largest}
    if isinstance(result, GlobalSignificance):
        text = f"{result.global_significance:.2f}σ global (trials factor {number(result.trials_factor)})"
        entries[text] = Line2D([], [], linestyle="none")
    legend = legend_above(ax, list(entries.values()), list(entries), 1.0)
    return LocalPArtists(ax, curve, tuple(sigmas), largest, legend)
