"""Drawings of results: each takes one result, draws what is in it, and returns the artists with their axes.

`cls_scan` for an upper limit, `profile` for a likelihood scan, `pulls` for a fit, `stack` for data over fitted samples,
`impacts` for a ranking, `components` for a breakdown, `interval_profile`, `contours` and `local_p_values`;
`save_plot` draws any of these results into a file. Needs ``pip install 'nuratio[plots]'``.
"""

from nuratio.errors import MissingExtra

try:
    from nuratio.plots.comparison import ComparisonArtists, comparison
    from nuratio.plots.contours import ContourArtists, contours
    from nuratio.plots.intervals import IntervalArtists, interval_profile
    from nuratio.plots.likelihood import ProfileArtists, profile
    from nuratio.plots.limit import ClsScanArtists, cls_scan
    from nuratio.plots.look_elsewhere import LocalPArtists, local_p_values
    from nuratio.plots.nuisances import PullsArtists, pulls
    from nuratio.plots.ranking import ComponentsArtists, ImpactsArtists, components, impacts
    from nuratio.plots.save import save_plot
    from nuratio.plots.stacked import StackArtists, stack
    from nuratio.plots.toys import BeltArtists, CoverageArtists, ToyArtists, belt, coverage, toy_statistic
except ModuleNotFoundError as error:
    raise MissingExtra(f"drawing needs {error.name}: pip install 'nuratio[plots]'") from error

__all__ = [
    "BeltArtists",
    "ClsScanArtists",
    "ComparisonArtists",
    "ComponentsArtists",
    "ContourArtists",
    "CoverageArtists",
    "ImpactsArtists",
    "IntervalArtists",
    "LocalPArtists",
    "ProfileArtists",
    "PullsArtists",
    "StackArtists",
    "ToyArtists",
    "belt",
    "cls_scan",
    "comparison",
    "components",
    "contours",
    "coverage",
    "impacts",
    "interval_profile",
    "local_p_values",
    "profile",
    "pulls",
    "save_plot",
    "stack",
    "toy_statistic",
]
