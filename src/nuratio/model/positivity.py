"""The logarithm a minimiser sees: exact where the density is positive, continued smoothly where it is not.

Below a small threshold eps, ln d is continued by its second-order Taylor polynomial at eps (value, slope and curvature
agree), so that an excursion of the minimiser through a non-positive density stays finite and is pushed back. A result
that ends there is reported as not valid; a likelihood asked for by the user raises instead.
"""

from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["RELATIVE_THRESHOLD", "extended_log"]

RELATIVE_THRESHOLD = 1e-8  # of the nominal expected events: density / reference density, or expectation in a bin


def extended_log(density: Any, threshold: Any, xp: ModuleType = np) -> tuple[Any, Any, Any]:
    """ln d for d >= eps, ln eps + u - u^2 / 2 with u = (d - eps) / eps below; with two derivatives.

    Parameters
    ----------
    density : array, shape (n,)
        Densities d, of any sign; of numpy, or of the library ``xp`` (torch).
    threshold : float or array of shape (n,)
        eps > 0.
    """
    low = density < threshold
    safe = xp.where(low, threshold, density)
    u = xp.where(low, (density - safe) / threshold, 0.0)
    return xp.log(safe) + u - u * u / 2, (1 - u) / safe, -1 / safe**2
