"""Data and fitted samples of one channel, histogrammed in a feature: the post-fit plot of an unbinned channel.

The pool of an unbinned channel is filled with reference weight x fitted density, so the histogram is the fitted model
integrated over the bin, with the uncertainty the fit's covariance gives it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.binned.histogram import EventBins, whole_sample
from nuratio.infer.results import FitResult, Projection

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
        bins = EventBins.of(model.unbinned[channel], feature, edges)
        n = len(bins.channel.cells)
        nu, slopes = rates.nu[cells].reshape(-1, n), rates.jacobian[cells].reshape(len(names), n, -1)
        parts = [
            bins.with_slopes(cell, nu[:, j], slopes[:, j], expansion.values)
            for j, cell in enumerate(bins.channel.cells)
        ]
        by_sample, jacobian = (np.sum(arrays, axis=0) for arrays in zip(*parts, strict=True))
        counts, bounds, feature = bins.counts(main), bins.edges, bins.feature
    else:
        size = len(main)
        bounds = np.asarray(range(size + 1) if isinstance(edges, int) else edges, dtype=np.float64)
        if len(bounds) != size + 1:
            raise InvalidModel(f"channel {channel!r} has {size} bins, but {len(bounds)} edges were given")
        by_sample = rates.nu[cells].reshape(-1, size)
        jacobian = rates.jacobian[cells].reshape(len(by_sample), size, -1).sum(0)
        counts, feature = main, feature or "bin"
    gradient = expansion.pull_gradient(jacobian)
    variance = np.einsum("ba,ac,bc->b", gradient, fit.covariance, gradient)
    samples: dict[str, Floats] = {}
    for name, values in zip(names, by_sample, strict=True):
        samples[whole_sample(name)] = samples.get(whole_sample(name), 0.0) + values
    return Projection(
        channel=channel,
        feature=feature,
        edges=bounds,
        data=counts,
        samples=samples,
        total=by_sample.sum(0),
        uncertainty=np.sqrt(np.maximum(variance, 0.0)),
    )
