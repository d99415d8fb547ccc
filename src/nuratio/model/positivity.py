"""The logarithm a minimiser sees: exact where the density is positive, continued smoothly where it is not.

Below a small threshold eps, ln d is continued by its second-order Taylor polynomial at eps (value, slope and curvature
agree), so that an excursion of the minimiser through a non-positive density stays finite and is pushed back. A result
that ends there is reported as not valid; a likelihood asked for by the user raises instead.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["RELATIVE_THRESHOLD", "extended_log"]

Floats = NDArray[np.float64]

RELATIVE_THRESHOLD = 1e-8  # of the nominal expected events: density / reference density, or expectation in a bin


def extended_log(density: Floats, threshold: float | Floats) -> tuple[Floats, Floats, Floats]:
    """ln d for d >= eps, ln eps + u - u^2 / 2 with u = (d - eps) / eps below; with two derivatives.

    Parameters
    ----------
    density : ndarray, shape (n,)
        Densities d, of any sign.
    threshold : float or ndarray of shape (n,)
        eps > 0.
    """
    safe = np.maximum(density, threshold)
    u = (density - safe) / threshold  # 0 where the density is fine
    return np.log(safe) + u - u * u / 2, (1 - u) / safe, -1 / safe**2
