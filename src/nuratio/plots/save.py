"""Results into picture files, for the command line and for scripts that need no control over the axes."""

from pathlib import Path

import matplotlib.pyplot as plt

from nuratio.errors import InvalidData
from nuratio.infer.results import FitResult, LimitResult, Projection, ScanResult
from nuratio.plots.likelihood import ProfileArtists, profile
from nuratio.plots.limit import ClsScanArtists, cls_scan
from nuratio.plots.nuisances import PullsArtists, pulls
from nuratio.plots.stacked import StackArtists, stack

__all__ = ["in_folder", "save_plot"]


def save_plot(result: object, path: str | Path, *, log: bool = False) -> None:
    """Draw a limit, scan, fit (its pulls) or projection into a file.

    Parameters
    ----------
    result : LimitResult, ScanResult, FitResult or Projection
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
    artists = _draw(result, log)
    figure = artists.ax.figure.figure
    try:
        formats = figure.canvas.get_supported_filetypes()
        if path.suffix.removeprefix(".").lower() not in formats:
            raise InvalidData(f"{path}: no picture format {path.suffix!r}; there are {', '.join(sorted(formats))}")
        figure.savefig(in_folder(path), dpi=150)
    finally:
        plt.close(figure)


def in_folder(path: str | Path) -> Path:
    """The path of a file to be written, if there is a folder for it; raises `InvalidData`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InvalidData(f"{path}: no folder {path.parent}; make it first")
    return path


def _draw(result: object, log: bool) -> ClsScanArtists | ProfileArtists | PullsArtists | StackArtists:
    match result:
        case LimitResult():
            return cls_scan(result, log=log)
        case ScanResult():
            return profile(result)
        case FitResult():
            return pulls(result)
        case Projection():
            return stack(result, log=log)
    raise InvalidData(
        f"a {type(result).__name__} has no drawing; give a LimitResult, a ScanResult, a FitResult or a Projection"
    )
