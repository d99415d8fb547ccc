"""Results into picture files, for the command line and for scripts that need no control over the axes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from nuratio.errors import InvalidData
from nuratio.infer.binned.compare import CompareResult
from nuratio.infer.hypotheses.look_elsewhere import GlobalSignificance, SignificanceScan
from nuratio.infer.impacts.breakdown import BreakdownResult
from nuratio.infer.impacts.ranking import RankingResult
from nuratio.infer.profiles.contour import ContourResult
from nuratio.infer.profiles.intervals import IntervalResult
from nuratio.infer.results import FitResult, LimitResult, Projection, ScanResult
from nuratio.infer.toys.coverage import CoverageResult
from nuratio.infer.toys.neyman import NeymanResult
from nuratio.infer.toys.p_values import ToyLimitResult
from nuratio.infer.toys.result import ToyResult
from nuratio.plots.comparison import comparison
from nuratio.plots.contours import contours
from nuratio.plots.intervals import interval_profile
from nuratio.plots.likelihood import profile
from nuratio.plots.limit import cls_scan
from nuratio.plots.look_elsewhere import local_p_values
from nuratio.plots.nuisances import pulls
from nuratio.plots.ranking import components, impacts
from nuratio.plots.stacked import stack
from nuratio.plots.toys import belt, coverage, toy_statistic

__all__ = ["drawing", "has_drawing", "in_folder", "save_plot"]


def save_plot(result: object, path: str | Path, *, log: bool = False) -> None:
    """Draw a result into a file.

    Parameters
    ----------
    result
        Of any type that has a drawing: a limit, a scan, a fit, a projection, ...
    path : str or Path
        Its suffix chooses the format: ``.png``, ``.pdf``, ``.svg``.
    log : bool
        Logarithmic y axis, for limits and projections.

    Raises
    ------
    InvalidData
        A result that has no drawing, an unknown suffix, or a folder that does not exist.
    """
    path = Path(path)
    artists = drawing(result, log=log)
    figure = artists.ax.figure.figure
    try:
        formats = figure.canvas.get_supported_filetypes()
        if path.suffix.removeprefix(".").lower() not in formats:
            raise InvalidData(f"{path}: no picture format {path.suffix!r}; there are {', '.join(sorted(formats))}")
        figure.savefig(in_folder(path), dpi=150)
    finally:
        plt.close(figure)


def has_drawing(result: object) -> bool:
    """Whether `drawing` knows how."""
    return type(result) in _DRAWINGS


def drawing(result: object, *, log: bool = False) -> Any:
    """The artists of any result that has a drawing, on a figure of their own.

    Raises
    ------
    InvalidData
        It has none.
    """
    if not has_drawing(result):
        kinds = ", ".join(t.__name__ for t in _DRAWINGS)
        raise InvalidData(f"a {type(result).__name__} has no drawing; give one of {kinds}")
    return _DRAWINGS[type(result)](result, log)


def in_folder(path: str | Path) -> Path:
    """The path of a file to be written, if there is a folder for it; raises `InvalidData`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InvalidData(f"{path}: no folder {path.parent}; make it first")
    return path


_DRAWINGS: dict[type, Callable[[Any, bool], Any]] = {  # type of a result -> its artists, log or not
    CoverageResult: lambda result, _: coverage(result),
    NeymanResult: lambda result, _: belt(result),
    ToyLimitResult: lambda result, log: cls_scan(result, log=log),
    ToyResult: lambda result, _: toy_statistic(result),
    BreakdownResult: lambda result, _: components(result),
    CompareResult: lambda result, log: comparison(result, log=log),
    RankingResult: lambda result, _: impacts(result),
    ContourResult: lambda result, _: contours(result),
    GlobalSignificance: lambda result, _: local_p_values(result),
    IntervalResult: lambda result, _: interval_profile(result),
    SignificanceScan: lambda result, _: local_p_values(result),
    LimitResult: lambda result, log: cls_scan(result, log=log),
    ScanResult: lambda result, _: profile(result),
    FitResult: lambda result, _: pulls(result),
    Projection: lambda result, log: stack(result, log=log),
}
