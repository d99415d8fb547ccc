"""The check of the statistics: is the simulation large enough for the result?

Networks that pass every other check still carry the fluctuations of the events they learned from. What these do to the
best fit is known without training again (`nuratio.infer.impacts.influence`).
"""

import math
from typing import Any

from nuratio.checks.report import Check
from nuratio.infer.impacts.influence import simulation_covariances
from nuratio.infer.results import FitResult

__all__ = ["simulation_check"]

_ERROR = 0.3  # allowed error from the simulation, in units of the uncertainty: it adds 4% to the total


def simulation_check(model: Any, best: FitResult, poi: str) -> Check:
    """The error of the parameter of interest from the statistics of the simulation, in units of its uncertainty.

    Parameters
    ----------
    model : Model
    best : FitResult
        With its covariance.
    poi : str
    """
    k, sigma = best.index(poi), best[poi].uncertainty
    several = len(model.unbinned) > 1
    variances = {
        f"{channel}: {sample}" if several else sample: float(matrix[k, k])
        for (channel, sample), matrix in simulation_covariances(model, best).items()
    }
    total = math.fsum(variances.values()) if variances else math.nan
    value = math.sqrt(total) / sigma if total >= 0 and sigma > 0 else math.nan
    meaning = f"error of the best fit of {poi} from the finite simulation, in sigma"
    if math.isnan(value):
        meaning += ": unknown, because the fit has no covariance or a sample does not say what simulation it has"
    elif value > 0:
        largest = sorted(variances.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {100 * v / total:.0f}%" for name, v in largest if v >= 0.005 * total)
        meaning += f"; its variance is that of {shares}"
        if value > _ERROR:
            more = (value / _ERROR) ** 2
            meaning += f"; {more:.3g} times as many simulated events would bring it to {_ERROR:g}"
    return Check("simulation statistics", "model", value, 0.0, _ERROR, meaning)
