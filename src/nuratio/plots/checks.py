"""Check reports as pictures, and as one page of HTML that needs no other file."""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nuratio.checks.report import (
    Calibration,
    CheckReport,
    Closure,
    Coefficients,
    Curve,
    Distances,
    Ranking,
    Shifts,
    Sizes,
    VariedRatio,
)
from nuratio.plots.look import GREEN, PETROFF, YELLOW, figure, font, legend_above
from nuratio.plots.page import page, picture
from nuratio.plots.save import in_folder
from nuratio.plots.systematics import ranking, variations
from nuratio.ratios.storage import write_whole

__all__ = ["calibration", "closures", "distances", "shifts", "write_page"]

_COLUMNS = 3


def closures(found: Sequence[Closure]) -> Figure:
    """A panel per quantity: the sample, the reference, and the reference reweighted, with their ratio below.

    Shaded is the error of the reweighted reference, that of its training included.
    """
    rows = -(-len(found) // _COLUMNS)
    columns = min(len(found), _COLUMNS)
    heights = [3.0, 1.0] * rows
    fig, axes = figure(
        nrows=2 * rows, ncols=columns, squeeze=False, figsize=(5.4 * columns, 5.0 * rows), height_ratios=heights
    )
    for k in range(rows * columns):
        row, column = divmod(k, columns)
        top, below = axes[2 * row, column], axes[2 * row + 1, column]
        if k < len(found):
            _closure(found[k], top, below)
        else:
            top.set_axis_off()
            below.set_axis_off()
    return fig


def _closure(found: Closure, top: Axes, below: Axes) -> None:
    edges, center = found.edges, (found.edges[1:] + found.edges[:-1]) / 2
    total = np.hypot(found.error, found.training_error)
    top.stairs(found.reference, edges, color=PETROFF[3], linestyle="--", linewidth=1.5, label="Reference")
    top.stairs(found.reweighted, edges, color=PETROFF[0], linewidth=2, label="Reweighted")
    low, high = found.reweighted - total, found.reweighted + total
    top.stairs(high, edges, baseline=low, color=PETROFF[0], alpha=0.3, fill=True)
    top.errorbar(center, found.target, found.target_error, fmt="o", color="black", markersize=3.5, label=found.sample)
    top.axhline(0, color="black", linewidth=0.8)
    top.set_ylabel("Share of events")
    top.tick_params(labelbottom=False)
    highest = float(np.max(np.r_[found.target + found.target_error, high, found.reference]))
    title = rf"$\chi^2$ / bins = {found.chi2:.0f} / {found.bins}"
    handles, labels = top.get_legend_handles_labels()
    legend_above(top, handles, labels, highest, title)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, error = found.target / found.reweighted, np.abs(found.target_error / found.reweighted)
        band = np.abs(total / found.reweighted)
    drawn = np.isfinite(ratio) & np.isfinite(error)
    below.errorbar(center[drawn], ratio[drawn], error[drawn], fmt="o", color="black", markersize=3.5)
    below.stairs(np.nan_to_num(1 + band, posinf=9), edges, baseline=np.nan_to_num(1 - band, neginf=-9),
                 color=PETROFF[0], alpha=0.3, fill=True)  # fmt: skip
    below.axhline(1, color=PETROFF[0], linewidth=1.5)
    below.set_ylim(0.8, 1.2)
    for ax in (top, below):
        ax.set_xlim(edges[0], edges[-1])
    below.set_xlabel(found.quantity if found.quantity != "ratio" else "Learned ratio", loc="right")
    below.set_ylabel("Ratio")


def calibration(found: Calibration, *, ax: Axes | None = None) -> Axes:
    """The true ratio against the learned one."""
    ax = figure(figsize=(5.4, 5.0))[1] if ax is None else ax
    ends = [float(found.learned.min()), float(found.learned.max())]
    ax.plot(ends, ends, color=PETROFF[0], linewidth=1.5)
    ax.errorbar(found.learned, found.true, found.error, fmt="o", color="black", markersize=4)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xlabel("Learned ratio", loc="right")
    ax.set_ylabel("True ratio", loc="top")
    ax.set_title(found.sample, loc="left", fontproperties=font(ax))
    return ax


def distances(found: Distances, *, ax: Axes | None = None) -> Axes:
    """The distance before and after reweighting, over that of equal samples."""
    ax = figure(figsize=(5.4, 5.0))[1] if ax is None else ax
    counts, _, _ = ax.hist(found.null, bins=8, color=YELLOW, edgecolor="black", linewidth=0.8, label="Equal samples")
    ax.axvline(found.learned, color=PETROFF[0], linewidth=2.5, label="Reweighted")
    ax.axvline(found.unlearned, color=PETROFF[3], linestyle="--", linewidth=2, label="Reference")
    ax.set_xscale("log")
    ax.set_xlabel("Sliced Wasserstein distance", loc="right")
    ax.set_ylabel("Draws", loc="top")
    handles, labels = ax.get_legend_handles_labels()
    legend_above(ax, handles, labels, float(np.max(counts)))
    ax.set_title(found.sample, loc="left", fontproperties=font(ax))
    return ax


def shifts(found: Shifts, *, ax: Axes | None = None) -> Axes:
    """Best fits of single networks, fold by fold, in units of the uncertainty."""
    ax = figure(figsize=(5.4, 5.0))[1] if ax is None else ax
    ax.axhspan(-1, 1, color=GREEN, alpha=0.35, linewidth=0)
    ax.axhline(0, color=PETROFF[0], linewidth=2)
    for fold, row in enumerate(found.shifts):
        at = fold + np.linspace(-0.15, 0.15, len(row)) if len(row) > 1 else [fold]
        ax.plot(at, row, "o", color="black", markersize=6)
    reach = max(1.3, 1.2 * float(np.nanmax(np.abs(found.shifts), initial=0)))
    ax.set_ylim(-reach, reach)
    ax.set_xticks(range(len(found.shifts)), [f"fold {k + 1}" for k in range(len(found.shifts))])
    ax.set_ylabel(rf"Shift of {found.parameter} / $\sigma$", loc="top")
    ax.set_title("Single networks", loc="left", fontproperties=font(ax))
    return ax


def write_page(reports: Mapping[str, CheckReport], path: str | Path, *, title: str = "nuratio check") -> None:
    """Write reports (region -> report) as one HTML page: verdicts, pictures, and what each value means.

    Raises
    ------
    InvalidData
        A folder that does not exist.
    """
    path = in_folder(path)
    parts: list[str] = []
    for name, report in reports.items():
        bad = [c for c in report.checks if not c.passed]
        verdict = f"{len(bad)} of {len(report.checks)} checks fail" if bad else f"all {len(report.checks)} checks pass"
        parts.append(f"<h2>{html.escape(name)}: <span class={'bad' if bad else 'good'}>{verdict}</span></h2>")
        parts += [picture(fig) for fig in _figures(report)]
        parts += [_sizes(curve) for curve in report.curves if isinstance(curve, Sizes)]
        parts.append(_table(report))
    write_whole(path, page(title, parts).encode())


def _figures(report: CheckReport) -> Iterator[Figure]:
    """Closures of each sample in one figure; calibrations, distances and shifts side by side; variations; impacts."""
    by_sample: dict[str, list[Closure]] = {}
    varied: dict[tuple[str, tuple[str, ...]], list[VariedRatio]] = {}
    single: list[Curve] = []
    for curve in report.curves:
        match curve:
            case Closure():
                by_sample.setdefault(curve.sample, []).append(curve)
            case VariedRatio(nuisances=(_,)):
                varied.setdefault((curve.sample, curve.nuisances), []).append(curve)
            case VariedRatio():
                varied.setdefault((curve.sample, (curve.point,)), []).append(curve)
            case Calibration() | Distances() | Shifts():
                single.append(curve)
    for found in by_sample.values():
        yield closures(found)
    for start in range(0, len(single), _COLUMNS):
        some = single[start : start + _COLUMNS]
        fig, axes = figure(ncols=len(some), squeeze=False, figsize=(5.4 * len(some), 5.0))
        for curve, ax in zip(some, axes[0], strict=True):
            match curve:
                case Calibration():
                    calibration(curve, ax=ax)
                case Distances():
                    distances(curve, ax=ax)
                case Shifts():
                    shifts(curve, ax=ax)
        yield fig
    coefficients = [curve for curve in report.curves if isinstance(curve, Coefficients)]
    pruned = {(c.sample, (k,)) for c in report.curves if isinstance(c, Sizes) for k in np.array(c.nuisances)[~c.kept]}
    for key, ratios in varied.items():
        own = [c for c in coefficients if (c.sample, (c.nuisance,)) == key]
        yield variations(ratios, own, remark=" (pruned: the fit has its rate alone)" if key in pruned else "")
    for curve in report.curves:
        if isinstance(curve, Ranking) and curve.nuisances:
            yield ranking(curve).figure.figure


def _sizes(found: Sizes) -> str:
    """The table of what each nuisance does to a part."""
    heads = ("nuisance", "shape at +1", "in the simulation", "at -1", "in the simulation", "rate at +1", "at -1")
    head = "".join(f"<th>{h}</th>" for h in (*heads, "error of ln Z", ""))
    rows = []
    for k, name in enumerate(found.nuisances):
        cells = [
            f"{found.up[k]:.2%}",
            _with_error(found.up_seen[k], found.up_error[k]),
            f"{found.down[k]:.2%}",
            _with_error(found.down_seen[k], found.down_error[k]),
            *("" if np.isnan(rate) else f"{rate - 1:+.2%}" for rate in (found.rate_up[k], found.rate_down[k])),
            "" if np.isnan(found.normalisation[k]) else f"{found.normalisation[k]:.1g}",
        ]
        numbers = "".join(f"<td class=number>{cell}</td>" for cell in cells)
        rows.append(f"<tr><td>{html.escape(name)}</td>{numbers}<td>{'' if found.kept[k] else 'pruned'}</td></tr>")
    title = f"<h3>{html.escape(found.sample)}: shapes of the nuisances, rms of the log ratio</h3>"
    note = f"<p>{html.escape(found.note)}</p>" if found.note else ""
    return f"{title}<table><tr>{head}</tr>" + "\n".join(rows) + f"</table>{note}"


def _with_error(value: float, error: float) -> str:
    return "" if np.isnan(value) else f"{value:.2%} &plusmn; {error:.2%}"


def _table(report: CheckReport) -> str:
    cells = "".join(f"<th>{h}</th>" for h in ("check", "sample", "value", "error", "allowed", "", "what it is"))
    rows = [f"<tr>{cells}</tr>"]
    for c in report.checks:
        numbers = "".join(f"<td class=number>{v:.4g}</td>" for v in (c.value, c.error, c.threshold))
        verdict = "pass" if c.passed else "FAIL"
        style = "good" if c.passed else "bad"
        rows.append(
            f"<tr><td>{html.escape(c.name)}</td><td>{html.escape(c.sample)}</td>{numbers}"
            f"<td class={style}>{verdict}</td><td>{html.escape(c.meaning)}</td></tr>"
        )
    return "<table>" + "\n".join(rows) + "</table>"
