"""A statistical report as one page of HTML that needs no other file."""

import html
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nuratio.infer.report import StatisticalReport
from nuratio.infer.results import FitResult
from nuratio.plots.page import page, picture, table
from nuratio.plots.save import drawing, has_drawing, in_folder
from nuratio.ratios.storage import write_whole

__all__ = ["write_report"]

_CHAPTERS = {  # results, in the order of the page -> what they are called, and what they say
    "interval": "Confidence intervals",
    "scan": "Profile likelihood",
    "ranking": "Ranking of the nuisances",
    "breakdown": "Breakdown of the uncertainty",
    "significance": "Significance",
    "limit": "Upper limit",
    "projection": "Data and fit",
    "goodness": "Goodness of fit",
    "coverage": "Toys at the best fit",
}
_LEFT_OUT = ("kind", "poi", "parameter", "channel", "feature", "scan", "bestfit", "toys", "message", "valid")


def write_report(report: StatisticalReport, path: str | Path) -> None:
    """Write a report into a file.

    Raises
    ------
    InvalidData
        A folder that does not exist.
    """
    write_whole(in_folder(path), page(report.title, _parts(report)).encode())


def _parts(report: StatisticalReport) -> Iterator[str]:
    best = report.fit[report.poi]
    style = "good" if report.fit.valid else "bad"
    word = "valid" if report.fit.valid else f"NOT VALID: {report.fit.message}"
    yield f"<p>Best fit <b>{html.escape(str(best))}</b>; the fit is <span class={style}>{html.escape(word)}</span>.</p>"
    if report.notes:
        yield "<h2>To be noted</h2><ul>" + "".join(f"<li>{html.escape(n)}</li>" for n in report.notes) + "</ul>"
    yield "<h2>Yields</h2>"
    rows: list[tuple[str, ...]]
    for y in report.yields:
        yield f"<h3>{html.escape(y.channel)} ({y.type}, {_number(y.observed)} observed)</h3>"
        rows = [(name, _number(y.nominal[name]), _number(y.fitted[name])) for name in y.nominal]
        rows.append(("total", *(_number(sum(v.values())) for v in (y.nominal, y.fitted))))
        yield table(("sample", "nominal", "fitted"), rows)
    yield "<h2>Fit</h2>"
    yield _parameters(report.fit)
    if has_drawing(report.fit) and (report.fit.constraint_width > 0).any():
        yield picture(drawing(report.fit).ax.figure.figure)
    yield f"<p>{html.escape('; '.join(report.fit.steps))}</p>"
    for prefix, title in _CHAPTERS.items():
        found = {name: result for name, result in report.results.items() if name.startswith(prefix)}
        if prefix == "coverage":
            found |= {name: r for name, r in report.results.items() if name == "significance by toys"}
        if prefix == "significance":
            found.pop("significance by toys", None)
        if found:
            yield f"<h2>{title}</h2>"
        for name, result in found.items():
            if len(found) > 1:
                yield f"<h3>{html.escape(name)}</h3>"
            yield _numbers(result.to_dict())
            if has_drawing(result):
                yield picture(drawing(result).ax.figure.figure)
    if report.checks:
        yield "<h2>Checks of the training</h2>"
        yield _checks(report.checks)
    yield "<h2>Inputs and provenance</h2>"
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    yield f"<p>Made with {html.escape(versions)}; seed of toys {report.seed}.</p>"
    yield table(
        ("what", "checksum"),
        [
            ("workspace", str(report.inputs["digest"])),
            ("data vector", str(report.inputs["data"])),
            *((name, str(entry.get("sha256", ""))) for name, entry in report.inputs["files"].items()),
        ],
        text=2,
    )
    if report.provenance:
        yield "<h3>Of the workspace</h3><table>" + "".join(_tree("", report.provenance)) + "</table>"


def _parameters(fit: FitResult) -> str:
    heads = ("parameter", "best fit", "uncertainty", "simulation", "pull", "constraint")
    rows = []
    for k, e in enumerate(fit):
        center, width = fit.constraint_center[k], fit.constraint_width[k]
        pull, constraint = ("", "")
        if width > 0:
            pull, constraint = f"{(e.value - center) / width:+.2f}", f"{e.uncertainty / width:.2f}"
        flag = "held" if fit.fixed[k] else _number(e.uncertainty)
        rows.append((e.name, _number(e.value), flag, _number(e.simulation), pull, constraint))
    return table(heads, rows)


def _numbers(values: Mapping[str, Any]) -> str:
    """The plain numbers and words of a result; what is in the drawing is left out."""
    rows = []
    for key, value in values.items():
        if key in _LEFT_OUT or value is None:
            continue
        if isinstance(value, str | bool):
            rows.append((key, str(value)))
        elif isinstance(value, int | float):
            rows.append((key, _number(value)))
        elif isinstance(value, list) and 0 < len(value) <= 5 and all(isinstance(v, int | float) for v in value):
            rows.append((key, ", ".join(_number(v) for v in value)))
        elif key == "pieces":
            levels = values["levels"] if "levels" in values else [values["level"]]
            by_level = value if "levels" in values else [value]
            rows += [(f"at {100 * level:g}%", _pieces(ends)) for level, ends in zip(levels, by_level, strict=True)]
    told = table(("", ""), rows, text=2) if rows else ""
    if values.get("valid") is False:
        told = f"<p class=bad>NOT VALID: {html.escape(str(values.get('message', '')))}</p>" + told
    elif values.get("message"):
        told += f"<p>{html.escape(str(values['message']))}</p>"
    return told


def _pieces(ends: Any) -> str:
    """Intervals as text; a bound that is open is left empty."""
    return ", ".join(f"[{_number(low)}, {_number(high)}]" for low, high in ends)


def _checks(checks: Mapping[str, Any]) -> str:
    rows = []
    for region, report in checks.items():
        for c in report.get("checks", []):
            verdict = "pass" if c["passed"] else "FAIL"
            rows.append((region, c["name"], c.get("sample", ""), verdict, _number(c["value"]), _number(c["threshold"])))
    return table(("region", "check", "sample", "", "value", "allowed"), rows, text=4)


def _tree(prefix: str, values: Any) -> Iterator[str]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _tree(f"{prefix} / {key}" if prefix else str(key), value)
        return
    text = str(values)
    shown = text if len(text) <= 200 else text[:197] + "..."
    yield f"<tr><td>{html.escape(prefix)}</td><td>{html.escape(shown)}</td></tr>"


def _number(value: float | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.5g}"
