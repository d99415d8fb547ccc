"""Data and fitted samples of one channel, histogrammed in a feature: the post-fit plot of an unbinned channel.

The pool of an unbinned channel is filled with reference weight x fitted density, so the histogram is the fitted model
integrated over the bin, with the uncertainty the fit's covariance gives it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.results import FitResult, Projection
from nuratio.model.unbinned import EventCell, UnbinnedChannel

__all__ = ["project"]

Floats = NDArray[np.float64]


def project(
    model: Any,
    data: ArrayLike,
    fit: FitResult,
    channel: str,
    feature: str | None = None,
    edges: Sequence[float] | int = 30,
) -> Projection:
    """Histogram a channel's data and fitted samples.

    Parameters
    ----------
    model : Model
    data : array_like
        Flat data vector.
    fit : FitResult
        Gives the parameters and their covariance.
    channel : str
    feature : str, optional
        For an unbinned channel the feature to draw (the first one by default); for a binned one its axis' name.
    edges : sequence of float, or int
        Bin edges; or, for an unbinned channel, a number of equal bins over the range of the observed events. A binned
        channel is drawn in its own bins, numbered if no edges are given.

    Raises
    ------
    UnknownName
        No such channel or feature.
    InvalidModel
        Edges that do not fit; an unbinned channel without stored features.
    """
    if channel not in model.rates.channels:
        raise UnknownName(f"no channel {channel!r}; {did_you_mean(channel, model.rates.channels, 'channels')}")
    expansion = model.parameters.expand(fit.bestfit)
    rates = model.rates.rates(expansion.values)
    cells, names = model.rates.cells(channel), model.rates.channels[channel][1]
    main = np.asarray(data, dtype=np.float64)[model.config.channel_slices[channel]]
    if channel in model.unbinned:
        unbinned = model.unbinned[channel]
        pool, observed, feature = _features(unbinned, feature)
        bounds = _edges(edges, observed)
        n = len(unbinned.cells)
        nu, slopes = rates.nu[cells].reshape(-1, n), rates.jacobian[cells].reshape(len(names), n, -1)
        parts = [
            _fill(cell, cell.pool.of(pool), bounds, nu[:, b], slopes[:, b], expansion.values)
            for b, cell in enumerate(unbinned.cells)
        ]
        by_sample, jacobian = (np.sum(arrays, axis=0) for arrays in zip(*parts, strict=True))
        seen = np.concatenate([observed, pool])
        counts = np.histogram(seen, bounds, weights=main)[0]
    else:
        bins = len(main)
        bounds = np.asarray(range(bins + 1) if isinstance(edges, int) else edges, dtype=np.float64)
        if len(bounds) != bins + 1:
            raise InvalidModel(f"channel {channel!r} has {bins} bins, but {len(bounds)} edges were given")
        by_sample = rates.nu[cells].reshape(-1, bins)
        jacobian = rates.jacobian[cells].reshape(len(by_sample), bins, -1).sum(0)
        counts, feature = main, feature or "bin"
    gradient = expansion.pull_gradient(jacobian)
    variance = np.einsum("ba,ac,bc->b", gradient, fit.covariance, gradient)
    samples: dict[str, Floats] = {}
    for name, values in zip(names, by_sample, strict=True):
        label = name.removesuffix("[+]").removesuffix("[-]")
        samples[label] = samples.get(label, 0.0) + values
    return Projection(
        channel=channel,
        feature=feature,
        edges=bounds,
        data=counts,
        samples=samples,
        total=by_sample.sum(0),
        uncertainty=np.sqrt(np.maximum(variance, 0.0)),
    )


def _features(channel: UnbinnedChannel, feature: str | None) -> tuple[Floats, Floats, str]:
    tables = channel.pool_features, channel.observed_features
    if tables[0] is None:
        raise InvalidModel(f"channel {channel.name!r}: the workspace stores no features, so none can be drawn")
    name = tables[0].names[0] if feature is None else feature
    pool, observed = (np.asarray((t or tables[0].head(0))[name], dtype=np.float64) for t in tables)
    return pool, observed, name


def _edges(edges: Sequence[float] | int, observed: Floats) -> Floats:
    if not isinstance(edges, int):
        return np.asarray(edges, dtype=np.float64)
    if not len(observed):
        raise InvalidModel("no observed events to take a range from: give the bin edges")
    return np.linspace(observed.min(), np.nextafter(observed.max(), np.inf), edges + 1)


def _fill(
    cell: EventCell, feature: Floats, edges: Floats, nu: Floats, nu_jacobian: Floats, theta: Floats
) -> tuple[Floats, Floats]:
    """Fitted counts (samples, bins) and the derivatives of their sum in the companion's parameters (bins, F)."""
    bins = len(edges) - 1
    where = np.digitize(feature, edges) - 1
    where[(where < 0) | (where >= bins)] = bins  # outside the edges: an extra bin that is dropped
    shape = np.zeros((len(nu), bins + 1))
    slope = np.zeros((bins + 1, len(theta)))
    for events, t, slopes in cell.evaluate(cell.pool, theta):
        w, b = cell.pool_weights[events], where[events]
        for c, sample in enumerate(cell.samples):
            shape[c] += np.bincount(b, w * t[c], bins + 1)
            for par, first in zip(sample.par, slopes[c], strict=True):
                slope[:, par] += nu[c] * np.bincount(b, w * first, bins + 1)
    counts = nu[:, None] * shape
    return counts[:, :-1], (shape.T @ nu_jacobian + slope)[:-1]
