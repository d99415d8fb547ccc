"""Everything a review asks for about one analysis, in one result: `statistical_report`.

What cannot be computed (a limit beyond the bounds, an asymptotic formula that does not hold) is left out, and the
report says why; the rest is there.
"""

import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import NuratioError
from nuratio.infer.binned.projection import project
from nuratio.infer.fitting.fit import fit, require_poi
from nuratio.infer.goodness.goodness import goodness_of_fit
from nuratio.infer.hypotheses.hypotest import significance
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.infer.impacts.breakdown import breakdown
from nuratio.infer.impacts.ranking import ranking
from nuratio.infer.profiles.intervals import interval
from nuratio.infer.profiles.scan import scan
from nuratio.infer.results import FitResult, _Result, result_of
from nuratio.infer.toys.coverage import coverage
from nuratio.infer.toys.p_values import toy_significance
from nuratio.workspace.workspace import Workspace

__all__ = ["StatisticalReport", "Yields", "statistical_report"]

Floats = NDArray[np.float64]

_PACKAGES = ("nuratio", "numpy", "scipy", "numba", "iminuit", "pyhf", "torch")
_DRAWN = 4  # features of a channel that are drawn


@dataclass(frozen=True)
class Yields(_Result):
    """Expected and observed events of a channel.

    Attributes
    ----------
    channel, type : str
        ``binned`` or ``unbinned``.
    bins : int
        Of its companion.
    observed : float
    nominal, fitted : dict
        Sample -> expected events at the suggested parameters and at the best fit.
    """

    kind: ClassVar[str] = "yields"

    channel: str
    type: str
    bins: int
    observed: float
    nominal: dict[str, float]
    fitted: dict[str, float]


@dataclass(frozen=True, eq=False)
class StatisticalReport(_Result):
    """One analysis and what was concluded from it.

    Attributes
    ----------
    title, poi : str
    inputs : dict
        ``digest`` of the workspace, ``files`` (event table -> sha256 of its file and number of events), ``data``
        (sha256 of the data vector), ``measurements``.
    provenance : dict
        Of the workspace: training reports, versions.
    versions : dict
        Of what made this report.
    seed : int
        Of the toys.
    yields : tuple of Yields
    fit : FitResult
    results : dict
        Name -> any other result: ``interval``, ``scan``, ``ranking``, ``breakdown``, ``significance``, ``limit``,
        ``projection of ...``, ``goodness ...``, ``coverage``, ``significance by toys``.
    checks : dict
        What ``nuratio check`` found, if it was given; else empty.
    notes : tuple of str
        What was left out and why, and warnings.
    """

    kind: ClassVar[str] = "report"

    title: str
    poi: str
    inputs: dict[str, Any]
    provenance: dict[str, Any]
    versions: dict[str, str]
    seed: int
    yields: tuple[Yields, ...]
    fit: FitResult
    results: dict[str, Any]
    checks: dict[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["yields"] = tuple(Yields.from_dict(v) for v in values["yields"])
        values["fit"] = FitResult.from_dict(values["fit"])
        values["results"] = {name: result_of(v) for name, v in values["results"].items()}
        return values | {"notes": tuple(values["notes"])}


def statistical_report(
    workspace: Workspace,
    model: Any,
    data: ArrayLike,
    *,
    title: str = "Statistical report",
    toys: int = 0,
    seed: int = 1,
    checks: Mapping[str, Any] | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> StatisticalReport:
    """Fit, and compute all that is asked for.

    Parameters
    ----------
    workspace : Workspace
    model : Model
        Of this workspace, with a POI.
    data : array_like
        Observed or Asimov.
    title : str
    toys : int
        For coverage and p0 at the best fit, and the goodness of fit of unbinned channels; none by default.
    seed : int
        Of the toys.
    checks : mapping, optional
        JSON of ``nuratio check``, to be shown with the rest.
    executor, progress
        See `nuratio.toys`.

    Raises
    ------
    InvalidModel
        No POI.
    """
    poi, data = require_poi(model), np.asarray(data, dtype=np.float64)
    notes: list[str] = []
    results: dict[str, Any] = {}

    def add(name: str, make: Callable[[], Any]) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                results[name] = make()
            except NuratioError as error:
                notes.append(f"{name} is left out: {error}")
        told = dict.fromkeys(f"{name}: {w.message}" for w in caught)
        notes.extend(told)
        return results.get(name)

    best = fit(model, data)
    common: dict[str, Any] = {"executor": executor, "progress": progress}
    add("interval", lambda: interval(model, data, level=(0.683, 0.954)))
    add("scan", lambda: scan(model, data))
    add("ranking", lambda: ranking(model, data, fit=best))
    add("breakdown", lambda: breakdown(model, data, fit=best))
    add("significance", lambda: significance(model, data))
    add("limit", lambda: upper_limit(model, data))
    for where in _features(workspace, model):
        add(f"projection of {where[0]} on {where[1]}", partial(project, model, data, best, *where))
    for test in _goodness_tests(model, toys):
        options: dict[str, Any] = {"test": test, "n_toys": toys, "seed": seed, "executor": executor}
        add(f"goodness of fit, {test}", partial(goodness_of_fit, model, data, best, **options))
    if toys:
        at_best = {poi: float(np.clip(best[poi].value, *_bounds(model, poi)))}
        add("coverage", lambda: coverage(model, [at_best], toys, seed=seed, **common))
        add("significance by toys", lambda: toy_significance(model, data, n=toys, seed=seed, **common))
    return StatisticalReport(
        title=title,
        poi=poi,
        inputs={
            "digest": workspace.digest(),
            "files": {f["id"]: {k: f[k] for k in ("sha256", "events")} for f in _files(workspace)},
            "data": hashlib.sha256(data.tobytes()).hexdigest(),
            "measurements": list(workspace.measurements),
        },
        provenance=json.loads(json.dumps(workspace.spec.get("unbinned", {}).get("provenance", {}), default=str)),
        versions={"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
        seed=seed,
        yields=tuple(_yields(model, data, best)),
        fit=best,
        results=results,
        checks=dict(checks or {}),
        notes=tuple(notes),
    )


def _files(workspace: Workspace) -> list[dict[str, Any]]:
    return list(workspace.spec.get("unbinned", {}).get("files", []))


def _bounds(model: Any, name: str) -> tuple[float, float]:
    low, high = model.config.suggested_bounds()[list(model.config.par_names).index(name)]
    return float(low), float(high)


def _features(workspace: Workspace, model: Any) -> list[tuple[str, str, Any]]:
    """What can be drawn: binned channels on their axes, unbinned ones on the first features stored with events."""
    found: list[tuple[str, str, Any]] = []
    for channel in model.config.channels:
        if channel in model.unbinned:
            stored = model.unbinned[channel].pool_features
            found += [(channel, name, 25) for name in (() if stored is None else stored.names[:_DRAWN])]
        elif channel in workspace.axes:
            found.append((channel, workspace.axes[channel]["name"], workspace.axes[channel]["edges"]))
        else:
            found.append((channel, "bin", model.config.channel_nbins[channel]))
    return found


def _goodness_tests(model: Any, toys: int) -> list[str]:
    if not model.unbinned:
        return ["projection"]
    return ["score", "density"] if toys else []


def _yields(model: Any, data: Floats, best: FitResult) -> list[Yields]:
    nominal, fitted = (
        model.rates.nu(model.parameters.values(np.asarray(pars, dtype=np.float64)))
        for pars in (model.config.suggested_init(), best.bestfit)
    )
    found = []
    for channel, where in model.config.channel_slices.items():
        _, samples, bins = model.rates.channels[channel]
        by_sample = [nu[model.rates.cells(channel)].reshape(len(samples), -1).sum(1) for nu in (nominal, fitted)]
        at_nominal, at_best = (dict(zip(samples, values.tolist(), strict=True)) for values in by_sample)
        kind = "unbinned" if channel in model.unbinned else "binned"
        found.append(Yields(channel, kind, bins, float(data[where].sum()), at_nominal, at_best))
    return found
