"""Profile-likelihood scans of one parameter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nuratio.infer.fitting.fit import Fitter, require_poi
from nuratio.infer.profiles.profile import profile
from nuratio.infer.results import ScanResult

__all__ = ["scan"]


def scan(
    model: Any,
    data: ArrayLike,
    parameter: str | None = None,
    values: Sequence[float] | None = None,
    *,
    points: int = 41,
    width: float = 3.0,
) -> ScanResult:
    """2 Delta NLL against one parameter, all others profiled.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    parameter : str, optional
        The POI by default.
    values : sequence of float, optional
        Scan points; by default ``points`` of them within ``width`` standard deviations of the best fit and the bounds.

    Returns
    -------
    ScanResult
        If a conditional fit finds a lower -2 ln L than the free fit did, the free fit is repeated from there.
    """
    parameter = require_poi(model) if parameter is None else parameter
    fitter = Fitter(model, data)
    k = fitter.index(parameter)
    free = fitter.minimum()
    if values is None:
        sigma = fitter.result(free).uncertainty[k]
        low, high = fitter.bounds[k]
        ends = free.theta[k] + width * np.array([-1, 1]) * sigma
        grid = np.linspace(max(low, ends[0]), min(high, ends[1]), points)
    else:
        grid = np.sort(np.asarray(values, dtype=np.float64))
    fits = profile(fitter, parameter, grid, [free])
    lowest = min(fits, key=lambda m: m.value)
    if lowest.valid and lowest.value < free.value - 1e-6:
        free = fitter.minimum(near=lowest)
    return ScanResult(
        parameter=parameter,
        values=grid,
        delta_twice_nll=np.array([m.value - free.value for m in fits]),
        valid=tuple(m.valid and not fitter.likelihood.nonpositive(m.theta) for m in fits),
        profiled=np.array([m.theta for m in fits]),
        bestfit=fitter.result(free),
    )
