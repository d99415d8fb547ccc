"""Pulls and constraints of the nuisance parameters after a fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Polygon, Rectangle

from nuratio.errors import InvalidData
from nuratio.infer.results import FitResult
from nuratio.plots.look import GREEN, RED, YELLOW, figure, font

__all__ = ["PullsArtists", "pulls"]


@dataclass(frozen=True, eq=False)
class PullsArtists:
    """What `pulls` drew.

    Attributes
    ----------
    ax : Axes
    names : tuple of str
        The parameters, from the top.
    points : ErrorbarContainer
        Pulls with their uncertainties.
    one_sigma, two_sigma : Rectangle
        The pre-fit bands.
    """

    ax: Axes
    names: tuple[str, ...]
    points: ErrorbarContainer
    one_sigma: Rectangle | Polygon
    two_sigma: Rectangle | Polygon


def pulls(fit: FitResult, *, ax: Axes | None = None, exclude: Sequence[str] = ()) -> PullsArtists:
    """Draw (best fit - constraint centre) / constraint width of every constrained parameter that was not fixed.

    The error bar is the post-fit uncertainty in units of the constraint width: shorter than 1 where the data constrain
    the parameter.

    Parameters
    ----------
    fit : FitResult
        With uncertainties (HESSE).
    ax : Axes, optional
        A new figure, as high as the number of parameters asks for, by default.
    exclude : sequence of str
        Names or glob patterns of parameters to leave out: ``"staterror_*"``.

    Raises
    ------
    InvalidData
        A fit without uncertainties, or nothing to draw.
    """
    exclude = [exclude] if isinstance(exclude, str) else exclude
    chosen = [
        k
        for k, name in enumerate(fit.names)
        if fit.constraint_width[k] > 0
        and not fit.fixed[k]
        and not any(name == pattern or fnmatchcase(name, pattern) for pattern in exclude)
    ]
    if not chosen:
        raise InvalidData(
            f"no pulls to draw: of {len(fit.names)} parameters none is constrained, free to move and not excluded by "
            f"{list(exclude)}"
        )
    width = fit.constraint_width[chosen]
    uncertainty = fit.uncertainty[chosen] / width
    if not np.isfinite(uncertainty).all():
        name = fit.names[chosen[int(np.argmin(np.isfinite(uncertainty)))]]
        raise InvalidData(f"the fit has no uncertainty for {name!r}; pulls need a fit with HESSE (hesse=True)")
    pull = (fit.bestfit[chosen] - fit.constraint_center[chosen]) / width
    names = tuple(fit.names[k] for k in chosen)
    if ax is None:  # inches: a row per parameter, and about 0.11 per character of the longest name
        ax = figure(figsize=(4.5 + 0.115 * max(map(len, names)), 1.4 + 0.3 * len(names)))[1]
    y = np.arange(len(names))

    two_sigma = ax.axvspan(-2, 2, color=YELLOW, linewidth=0, zorder=0)
    one_sigma = ax.axvspan(-1, 1, color=GREEN, linewidth=0, zorder=0)
    ax.axvline(0, color="black", linestyle=":", linewidth=1.2, zorder=1)
    points = ax.errorbar(pull, y, xerr=uncertainty, fmt="o", color="black", markersize=5, linewidth=1.6)
    reach = max(2.5, 1.1 * float(np.max(np.abs(pull) + uncertainty)))
    ax.set_xlim(-reach, reach)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(y, names)
    ax.tick_params(axis="y", which="both", left=False, right=False)
    ax.set_xlabel(r"$(\hat{\theta} - \theta_0)\,/\,\Delta\theta$", loc="right")
    if not fit.valid:
        ax.set_title("Fit not valid", loc="right", color=RED, fontproperties=font(ax))
    return PullsArtists(ax, names, points, one_sigma, two_sigma)
