"""The best binned analysis of the same events: a workspace in which unbinned channels are histograms.

Use `binned_twin` for a workspace that pyhf can read (unless parameters are given by expressions, which only nuratio
knows). What is done with the events of an unbinned channel is what an analyst would do with them:

- A template is a sum over the pool of weight x ratio x shape, normalised to the companion's yield. The weights are
  calibrated at the point where the observable is taken, as those of Asimov data are: expected data of the twin are
  those of the model, binned.
- A nuisance with a shape is a histosys between the templates at -1 and 1, each normalised to the nominal yield, beside
  the companion's normsys: yields are the same in both. In between and beyond, templates move as histosys do, bin by bin
  with the workspace's code; what events know of cross terms of two nuisances is lost.
- A staterror from the pool is an option: uncertainties of a sample are the roots of its sums of squared weights, times
  a factor for each bin that makes the total that of the pool, whose events all samples share. The model has none, and
  without it the two differ in nothing but the bins.
- Normfactors, expressions, other channels and auxiliary data stay as they are. Observed events are counted.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.binned.binning import FineBins, Starts, merged
from nuratio.infer.binned.discriminant import discriminant
from nuratio.infer.binned.histogram import EventBins
from nuratio.infer.fitting.fit import point
from nuratio.model.asimov import pool_weights
from nuratio.workspace.workspace import DEFAULT_SETTINGS, Workspace

__all__ = ["EventTemplates", "Measure", "binned_twin", "twin_workspace"]

Floats = NDArray[np.float64]

_PER_BIN = ("staterror", "shapesys", "shapefactor")
_SIDES = ("hi", "lo")


def binned_twin(
    workspace: Workspace,
    edges: Mapping[str, Sequence[float]],
    *,
    observable: str = "score",
    at: Mapping[str, float] | None = None,
    model: Any = None,
    data: ArrayLike | None = None,
    measurement: str | None = None,
    staterror: bool = False,
) -> Workspace:
    """The workspace with all unbinned channels binned.

    Parameters
    ----------
    workspace : Workspace
    edges : mapping
        Unbinned channel -> inner edges of its bins, increasing: the outermost bins are open. None are needed for one
        bin. `nuratio.compare` finds good ones.
    observable : str
        What to bin in: ``score``, ``profiled score``, ``density``, or a stored feature; see
        `nuratio.infer.binned.discriminant`.
    at : mapping of str to float, optional
        Parameters at which scores are taken and pools calibrated; the suggested values for those that are not given.
    model : Model, optional
        Of the workspace, with the POI of the scores; made if it is not given.
    data : array_like, optional
        The model's data vector, to be counted; the observed data by default.
    measurement : str, optional
        Of the model to be made; the first by default.
    staterror : bool
        Add the statistics of the pool as a staterror for each channel.

    Returns
    -------
    Workspace
        Without event tables. Its key ``unbinned`` holds parameters given by expressions and other settings, and is
        missing if there are none.

    Raises
    ------
    UnknownName
        No such unbinned channel, observable or parameter.
    InvalidModel
        An unbinned channel without edges, or whose companion has cells or parameters per bin; edges that do not
        increase; a pool too small to be calibrated.
    """
    model = workspace.model(measurement) if model is None else model
    for name in edges:
        if name not in model.unbinned:
            raise UnknownName(f"no unbinned channel {name!r}; {did_you_mean(name, model.unbinned, 'channels')}")
    missing = sorted(set(model.unbinned) - set(edges))
    if missing:
        raise InvalidModel(f"unbinned channels {missing} need edges; give an empty list for a single bin")
    pars, templates = point(model, at), {}
    for name, inner in edges.items():
        bounds = np.asarray(inner, dtype=np.float64)
        if bounds.ndim != 1 or not np.all(np.diff(bounds) > 0) or not np.all(np.isfinite(bounds)):
            raise InvalidModel(f"channel {name!r}: inner edges must be increasing numbers, got {list(inner)}")
        observed, pool = discriminant(model, name, pars, observable)
        bins = EventBins.of_values(model.unbinned[name], observable, observed, pool, bounds)
        templates[name] = EventTemplates.of(model, pars, bins, Measure.of(model, name, pars))
    starts = {name: tuple(range(1, len(t.bins.edges) - 1)) for name, t in templates.items()}
    seen = workspace.data(model) if data is None else np.asarray(data, dtype=np.float64)
    return twin_workspace(workspace, model, templates, starts, seen, staterror=staterror)


@dataclass(frozen=True, eq=False)
class Measure:
    """The pool of an unbinned channel, calibrated at a point.

    Attributes
    ----------
    weights : ndarray, shape (n,)
        The reference measure: sums of weight x T of each sample are 1 there.
    expected : ndarray, shape (n,)
        Expected events.
    """

    weights: Floats
    expected: Floats

    @classmethod
    def of(cls, model: Any, name: str, pars: Floats) -> "Measure":
        """Of a channel at parameters of shape (P,)."""
        channel = model.unbinned[name]
        if len(channel.cells) > 1:
            raise InvalidModel(
                f"channel {name!r} has {len(channel.cells)} cells with parameters of their own, which bins across them "
                "cannot have: there is no binned twin"
            )
        values = model.parameters.values(pars)
        (cell,), nu = channel.cells, model.rates.nu(values)[model.rates.cells(name)]
        expected = pool_weights(channel, nu[:, None], values)
        density = nu @ cell.densities(cell.pool, values)
        weights = np.where(density < 0, 0.0, cell.pool_weights)
        return cls(np.divide(expected, density, where=density > 0, out=weights), expected)


@dataclass(frozen=True, eq=False)
class EventTemplates:
    """The samples of an unbinned channel in fine bins, nominal and varied; f bins, C samples.

    Attributes
    ----------
    bins : EventBins
    fine : FineBins
        Expectation and slopes at the point.
    samples : tuple of str
    shares : ndarray, shape (C, f)
        Of the nominal densities, with the sum 1.
    varied : dict
        (sample, nuisance) -> shares at 1 and at -1, shape (2, f).
    squares, total_squares : ndarray, shape (C, f), (f,)
        Sums of squares of what each pool event adds to the nominal expectation of a sample, and to that of all.
    """

    bins: EventBins
    fine: FineBins
    samples: tuple[str, ...]
    shares: Floats
    varied: Mapping[tuple[str, str], Floats]
    squares: Floats
    total_squares: Floats

    @classmethod
    def of(cls, model: Any, pars: Floats, bins: EventBins, measure: Measure) -> "EventTemplates":
        """Of a model's channel in these bins, filled from a pool calibrated at ``pars``, shape (P,)."""
        channel = bins.channel
        (cell,), n = channel.cells, len(bins.edges) - 1
        expansion = model.parameters.expand(pars)
        rates, where = model.rates.rates(expansion.values), model.rates.cells(channel.name)
        weighted = replace(cell, pool_weights=measure.weights)
        counts, slopes = bins.with_slopes(weighted, rates.nu[where], rates.jacobian[where], expansion.values)
        fine = FineBins(counts.sum(0), expansion.pull_gradient(slopes))

        def filled(values: Floats) -> Floats:
            return np.bincount(bins.pool, values, n).astype(np.float64)

        def shares(t: Floats) -> Floats:
            sums = np.array([filled(measure.weights * row) for row in t])
            total = sums.sum(1, keepdims=True)
            return np.asarray(np.divide(sums, total, where=total != 0, out=np.zeros_like(sums)))

        nominal = expansion.values.copy()
        nominal[list(channel.nuisances)] = 0.0
        densities = cell.densities(cell.pool, nominal)
        terms = _nominal_yields(model, channel.name)[:, None] * densities * measure.weights
        varied: dict[tuple[str, str], Floats] = {}
        names = model.pyhf_model.config.par_names
        for k in channel.nuisances:
            both = []
            for alpha in (1.0, -1.0):
                theta = nominal.copy()
                theta[k] = alpha
                both.append(shares(cell.densities(cell.pool, theta)))
            for c, sample in enumerate(cell.samples):
                if k in sample.par:
                    varied[sample.name, names[k]] = np.array([side[c] for side in both])
        return cls(
            bins=bins,
            fine=fine,
            samples=channel.samples,
            shares=shares(densities),
            varied=varied,
            squares=np.array([filled(row**2) for row in terms]),
            total_squares=filled(terms.sum(0) ** 2),
        )

    def entries(self, companion: Mapping[str, Any], starts: Starts, *, staterror: bool) -> list[dict[str, Any]]:
        """Samples of the binned channel, in pyhf's JSON, from those of the companion."""
        factor = merged(self.total_squares, starts) / np.maximum(merged(self.squares, starts).sum(0), 1e-300)
        found = []
        for entry in companion["samples"]:
            c, name, channel = self.samples.index(entry["name"]), entry["name"], self.bins.channel.name
            (total,), share = entry["data"], merged(self.shares[c], starts)
            moved = {nuisance: merged(v, starts) for (sample, nuisance), v in self.varied.items() if sample == name}
            rates = dict.fromkeys(moved, (total, total))
            modifiers = []
            for m in entry["modifiers"]:
                if m["type"] == "histosys":
                    rates[m["name"]] = tuple(m["data"][f"{side}_data"][0] for side in _SIDES)
                elif m["type"] not in _PER_BIN:
                    modifiers.append(copy.deepcopy(m))
                elif m["type"] != "staterror" or not staterror:
                    raise InvalidModel(
                        f"channel {channel!r}, sample {name!r}: {m['type']} {m['name']!r} is one parameter of all its "
                        "events; bins would have one each"
                        + (". A staterror from the pool can replace it" if m["type"] == "staterror" else "")
                    )
            for nuisance, yields in rates.items():
                sides = moved.get(nuisance, (share, share))
                data = {f"{s}_data": (y * v).tolist() for s, y, v in zip(_SIDES, yields, sides, strict=True)}
                modifiers.append({"name": nuisance, "type": "histosys", "data": data})
            if staterror:
                error = np.sqrt(merged(self.squares[c], starts) * factor)
                modifiers.append({"name": f"staterror_{channel}", "type": "staterror", "data": error.tolist()})
            found.append({"name": name, "data": (total * share).tolist(), "modifiers": modifiers})
        return found


def twin_workspace(
    workspace: Workspace,
    model: Any,
    templates: Mapping[str, EventTemplates],
    starts: Mapping[str, Starts],
    data: Floats,
    *,
    staterror: bool,
) -> Workspace:
    """The workspace with channels in bins put together from those of their templates.

    Parameters
    ----------
    workspace, model
    templates : mapping of str to EventTemplates
        One for each unbinned channel.
    starts : mapping of str to tuple of int
        The fine bins that start another bin.
    data : ndarray
        The model's data vector.
    staterror : bool
    """
    spec = workspace.counting
    for channel in spec["channels"]:
        if channel["name"] in templates:
            name = channel["name"]
            channel["samples"] = templates[name].entries(channel, starts[name], staterror=staterror)
    for observation in spec["observations"]:
        name = observation["name"]
        main = data[model.config.channel_slices[name]]
        counts = merged(templates[name].bins.counts(main), starts[name]) if name in templates else main
        observation["data"] = counts.tolist()
    extension = _without_events(workspace.spec.get("unbinned", {}))
    return Workspace(spec | ({"unbinned": extension} if extension else {}))


def _without_events(extension: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of the unbinned part without unbinned channels; empty if pyhf alone means the same."""
    kept = {key: copy.deepcopy(extension[key]) for key in ("parameters", "poi") if extension.get(key)}
    if extension.get("modifier_settings", DEFAULT_SETTINGS) != DEFAULT_SETTINGS:
        kept["modifier_settings"] = copy.deepcopy(extension["modifier_settings"])
    return {"version": extension["version"], "files": [], "channels": []} | kept if kept else {}


def _nominal_yields(model: Any, name: str) -> Floats:
    """At the suggested parameters, shape (C,)."""
    return np.asarray(model.rates.nu(model.parameters.values(point(model, None)))[model.rates.cells(name)])
