"""What was counted in toys: distributions of a test statistic, Neyman belts, coverage."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from scipy.stats import chi2, norm

from nuratio.errors import InvalidData
from nuratio.infer.toys.coverage import CoverageResult
from nuratio.infer.toys.neyman import NeymanResult
from nuratio.infer.toys.result import ToyResult
from nuratio.plots.look import GREEN, PETROFF, RED, YELLOW, figure, font, legend_above, number, quote

__all__ = ["BeltArtists", "CoverageArtists", "ToyArtists", "belt", "coverage", "toy_statistic"]


@dataclass(frozen=True, eq=False)
class ToyArtists:
    """What `toy_statistic` drew.

    Attributes
    ----------
    ax : Axes
    histogram : Line2D
        Share of toys in each bin, divided by its width.
    asymptotic : Line2D
        The density of Wilks' theorem, where it has one for this statistic.
    observed : LineCollection or None
    legend : Legend
    """

    ax: Axes
    histogram: Line2D
    asymptotic: Line2D
    observed: LineCollection | None
    legend: Legend


def toy_statistic(
    toys: ToyResult, test: int = 0, *, observed: float | None = None, bins: int = 40, ax: Axes | None = None
) -> ToyArtists:
    """Draw the distribution of a test statistic in toys, on a logarithmic axis, beside its asymptotic form.

    That form is for toys of the tested hypothesis: chi2 with one degree of freedom for ``t`` and ``ttilde``, half of
    it above zero for the one-sided statistics. Statistics of zero are in the first bin.

    Parameters
    ----------
    toys : ToyResult
    test : int
        Which of its tests.
    observed : float, optional
        The statistic of the data, to be marked.
    bins : int
    ax : Axes, optional
        A new figure by default.

    Raises
    ------
    InvalidData
        Toys without a test, or none that did not fail.
    """
    if not toys.tests:
        raise InvalidData("these toys have no test statistic to draw; ask for one with tests=")
    name, value = toys.tests[test]
    q = toys.statistic(name, value)
    if not len(q):
        raise InvalidData("no toy is left to draw: all fits failed")
    ax = figure()[1] if ax is None else ax
    top = max(float(q.max()), observed or 0.0, 1.0) * 1.05
    counts, edges = np.histogram(q, bins, (0, top))
    density = counts / (len(q) * np.diff(edges))
    (histogram,) = ax.step(edges, [*density, density[-1]], where="post", color=PETROFF[0], linewidth=2)
    x = np.linspace(top / 500, top, 500)
    share = 1.0 if name.startswith("t") else 0.5
    (asymptotic,) = ax.plot(x, share * chi2.pdf(x, 1), "--", color="black", linewidth=1.8)
    entries = {f"{len(q)} toys at {quote(toys.poi, f'= {number(toys.pars[toys.names.index(toys.poi)])}')}": histogram}
    entries[r"$\chi^2$ with one degree of freedom" if share == 1 else r"half a $\chi^2$"] = asymptotic
    line = None
    if observed is not None:
        line = ax.vlines(observed, 0, float(density.max()), color=RED, linewidth=2)
        p, error = toys.p_value(name, value, observed)
        entries[f"Observed: p = {p:.3g} ± {error:.1g}"] = line
    ax.set_yscale("log")
    floor = 0.5 / (len(q) * (edges[1] - edges[0]))
    highest = 3 * float(density.max())
    ax.set_xlim(0, top)
    ax.set_ylim(floor, highest)
    ax.set_xlabel(f"{_SYMBOLS.get(name, name)}({value:g})", loc="right")
    ax.set_ylabel("Density", loc="top")
    legend = legend_above(ax, list(entries.values()), list(entries), highest)
    return ToyArtists(ax, histogram, asymptotic, line, legend)


_SYMBOLS = {"t": "$t$", "ttilde": r"$\tilde{t}$", "q0": "$q_0$", "q": "$q$", "qtilde": r"$\tilde{q}$"}


@dataclass(frozen=True, eq=False)
class BeltArtists:
    """What `belt` drew.

    Attributes
    ----------
    ax : Axes
    critical : ErrorbarContainer
        Critical values from toys with their errors.
    asymptotic : Line2D
    statistic : Line2D or None
        Of the data.
    pieces : list of Rectangle
        The confidence interval.
    legend : Legend
    """

    ax: Axes
    critical: ErrorbarContainer
    asymptotic: Line2D
    statistic: Line2D | None
    pieces: list[Rectangle]
    legend: Legend


def belt(result: NeymanResult, *, ax: Axes | None = None, poi_label: str | None = None) -> BeltArtists:
    """Draw the test statistic of the data and its critical values against the POI; the interval is shaded.

    Parameters
    ----------
    result : NeymanResult
    ax : Axes, optional
        A new figure by default.
    poi_label : str, optional
        Name of the x axis, with the unit in brackets.
    """
    ax = figure()[1] if ax is None else ax
    label = result.poi if poi_label is None else poi_label
    critical = ax.errorbar(
        result.values, result.critical, result.critical_error, color=RED, linewidth=2, elinewidth=1.2, capsize=2
    )
    asymptotic = ax.axhline(result.asymptotic, color="gray", linestyle=":", linewidth=1.5)
    entries: dict[str, object] = {
        f"Critical value at {100 * result.level:g}%, {result.toys} toys each": critical,
        "Wilks": asymptotic,
    }
    highest = float((result.critical + result.critical_error).max())
    statistic, pieces = None, []
    if len(result.statistic):
        (statistic,) = ax.plot(result.values, result.statistic, "-", color="black", linewidth=2)
        entries["Data"] = statistic
        pieces = [
            ax.axvspan(low, high, color=PETROFF[9], alpha=0.5, linewidth=0, zorder=0) for low, high in result.pieces
        ]
        told = ", ".join(f"[{number(low)}, {number(high)}]" for low, high in result.pieces)
        if pieces:
            entries[quote(label, f"in {told}")] = pieces[0]
        highest = max(highest, min(float(result.statistic.max()), 4 * highest))
    if statistic is not None:  # not into the legend
        room = Rectangle((result.values[0], 0), np.ptp(result.values), highest, transform=ax.transData)
        statistic.set_clip_path(room)
    ax.set_xlim(result.values[0], result.values[-1])
    ax.set_ylim(0, highest)
    ax.set_xlabel(label, loc="right")
    ax.set_ylabel(f"{_SYMBOLS.get(result.test_stat, result.test_stat)}({result.poi})", loc="top")
    legend = legend_above(ax, list(entries.values()), list(entries), highest)
    return BeltArtists(ax, critical, asymptotic, statistic, pieces, legend)


@dataclass(frozen=True, eq=False)
class CoverageArtists:
    """What `coverage` drew.

    Attributes
    ----------
    ax : Axes
    points : tuple of ErrorbarContainer
        Coverage of all points with errors, for each level.
    levels : tuple of Line2D
    legend : Legend
    """

    ax: Axes
    points: tuple[ErrorbarContainer, ...]
    levels: tuple[Line2D, ...]
    legend: Legend


def coverage(result: CoverageResult, *, ax: Axes | None = None) -> CoverageArtists:
    """Draw the coverage at each point of the grid, with the levels and what counting allows (68% and 95% of points).

    Parameters
    ----------
    result : CoverageResult
    ax : Axes, optional
        A new figure by default.
    """
    ax = figure(figsize=(max(8.0, 1.5 + 0.8 * len(result.points)), 6.5))[1] if ax is None else ax
    x = np.arange(len(result.points), dtype=float)
    n = np.array([p.toys for p in result.points])
    drawn, lines = [], []
    for j, level in enumerate(result.levels):
        color = (PETROFF[0], RED, *PETROFF[3:])[j % 8]
        error = np.sqrt(level * (1 - level) / n)
        for width, shade in ((norm.isf(0.025), YELLOW), (1.0, GREEN)):
            ends = np.concatenate([x - 0.5, x[-1:] + 0.5])
            bands = [np.append(level + side * width * error, level + side * width * error[-1]) for side in (-1, 1)]
            low, high = bands
            ax.fill_between(ends, low, high, step="post", color=shade, linewidth=0, zorder=1)
        lines.append(ax.axhline(level, color="gray", linestyle=":", linewidth=1.5, zorder=2))
        shares = np.array([p.coverage[j] for p in result.points])
        errors = np.array([p.coverage_error[j] for p in result.points])
        drawn.append(ax.errorbar(x, shares, errors, fmt="o", color=color, markersize=7, zorder=3))
        ax.text(
            1.01, level, f"{100 * level:g}%",
            color=color, va="center", transform=ax.get_yaxis_transform(), fontproperties=font(ax),
        )  # fmt: skip
    labels = ["\n".join(f"{name} = {value:g}" for name, value in p.point.items()) for p in result.points]
    ax.set_xticks(x, labels, fontproperties=font(ax, 0.6), rotation=90 if len(x) > 6 else 0)
    ax.tick_params(axis="x", which="minor", bottom=False, top=False)
    ax.set_xlim(-0.5, len(x) - 0.5)
    ax.set_ylabel("Coverage", loc="top")
    lowest = min(float((p.coverage - 2 * p.coverage_error).min()) for p in result.points)
    ax.set_ylim(min(lowest, min(result.levels) - 0.1), 1.0)
    names = [f"{100 * level:g}% intervals" for level in result.levels]
    legend = legend_above(ax, drawn, names, 1.0, f"{min(n)} toys each" if min(n) == max(n) else None)
    return CoverageArtists(ax, tuple(drawn), tuple(lines), legend)
