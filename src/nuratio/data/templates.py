"""Binned templates of a sample: what a HistFactory channel is made of.

The values are a sample's yields per bin (nominal, or the ``hi_data``/``lo_data`` of a histosys); ``staterror`` is what
pyhf's modifier of that name holds.
"""

from dataclasses import dataclass

import boost_histogram as bh
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData

__all__ = ["Template", "histogram"]


@dataclass(frozen=True, eq=False)
class Template:
    """A histogram of weighted events.

    Attributes
    ----------
    edges : ndarray, shape (b + 1,)
        Bin edges; a bin contains its lower edge and not its upper one.
    values, variances : ndarray, shape (b,)
        Sums of the weights (expected events; may be negative) and of the squared weights.
    """

    edges: NDArray[np.float64]
    values: NDArray[np.float64]
    variances: NDArray[np.float64]

    @property
    def staterror(self) -> NDArray[np.float64]:
        """Absolute statistical uncertainty of each bin from the finite simulation, shape (b,)."""
        return np.sqrt(self.variances)


def histogram(sample: EventSample, variable: str | ArrayLike, edges: ArrayLike, *, overflow: bool = False) -> Template:
    """Fill a template with the weighted events of a sample.

    Parameters
    ----------
    sample : EventSample
        The events.
    variable : str or array_like, shape (n,)
        A feature of the sample, or a number per event.
    edges : array_like, shape (b + 1,)
        Strictly increasing bin edges.
    overflow : bool
        Add the events outside the edges to the first and last bin; otherwise they are left out.

    Raises
    ------
    InvalidData
        Edges that do not increase, a variable of another length or with NaN.
    UnknownName
        No such feature.
    """
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise InvalidData(f"bin edges must be two or more, strictly increasing numbers, got {edges.tolist()}")
    name = f"feature {variable!r}" if isinstance(variable, str) else "the variable"
    x = np.asarray(sample.column(variable) if isinstance(variable, str) else variable, dtype=np.float64)
    if x.shape != (len(sample),):
        raise InvalidData(f"{name} must have one number for each of the {len(sample)} events, got shape {x.shape}")
    if np.isnan(x).any():
        raise InvalidData(f"{name} is NaN for {np.isnan(x).sum()} of {len(x)} events; they belong to no bin")
    filled = bh.Histogram(bh.axis.Variable(edges), storage=bh.storage.Weight())
    filled.fill(x, weight=sample.weights)
    values, variances = (np.array(part) for part in (filled.values(flow=True), filled.variances(flow=True)))
    if overflow:
        for sums in (values, variances):
            sums[1] += sums[0]
            sums[-2] += sums[-1]
    return Template(edges, values[1:-1], variances[1:-1])
