"""CLs upper limits: observed and the five expected ones, by root finding on warm-started fits."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from nuratio.errors import FitFailed, InvalidModel
from nuratio.infer.fitting.asymptotics import asymptotics_option, test_concerns, warn_or_refuse
from nuratio.infer.hypotheses.hypotest import Tester
from nuratio.infer.results import HypotestResult, LimitResult

__all__ = ["require_level", "upper_limit"]


def upper_limit(
    model: Any,
    data: ArrayLike,
    *,
    level: float = 0.05,
    test_stat: str = "qtilde",
    points: int = 31,
    rtol: float = 1e-6,
    asymptotics: str = "check",
) -> LimitResult:
    """CLs upper limit on the POI.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    level : float
        1 - confidence level.
    test_stat : str
        ``qtilde`` or ``q``.
    points : int
        Tested values for the band, evenly spaced from 0 to beyond the largest limit, besides those of the root finding.
    rtol : float
        Relative precision of each limit.
    asymptotics : str
        ``check`` warns where the formulas do not hold, ``force`` does not look.

    Raises
    ------
    InvalidModel
        No POI; a limit beyond the POI's upper bound; a level outside (0, 1); a parameter that the data do not know
        without signal, unless the formulas are forced.
    FitFailed
        CLs is not a number at a tested value.

    Warns
    -----
    AsymptoticsWarning
        See `nuratio.infer.fitting.asymptotics`.
    """
    require_level(level)
    if test_stat not in ("qtilde", "q"):
        raise InvalidModel(f"a limit needs the test statistic 'qtilde' or 'q', not {test_stat!r}")
    look = asymptotics_option(asymptotics)
    tester = Tester(model, data, test_stat=test_stat)
    fitter = tester.observed.fitter
    low, bound = fitter.bounds[tester.observed.k]
    low = max(low, 0.0)
    done: dict[float, HypotestResult] = {}

    def test(value: float) -> HypotestResult:
        if value not in done:
            done[value] = tester.test(value)
            if not np.isfinite(done[value].CLs):
                raise FitFailed(f"CLs is not a number at {tester.poi} = {value:.6g}: {done[value].message}")
        return done[value]

    def curve(value: float, which: int) -> float:
        result = test(value)
        return float(np.log(max((result.CLs, *result.CLs_expected)[which], 1e-300) / level))

    free = fitter.result(tester.observed.free)
    sigma = free.uncertainty[tester.observed.k]
    sigma = sigma if np.isfinite(sigma) and sigma > 0 else 0.1 * (bound - low)
    top = min(bound, max(free[tester.poi].value, low) + 3 * sigma)
    while any(curve(top, which) > 0 for which in range(6)):
        if top >= bound:
            raise InvalidModel(
                f"CLs is still above {level} at the upper bound {bound:.6g} of {tester.poi!r}; widen its bounds in the "
                "measurement"
            )
        top = min(bound, low + 1.5 * (top - low))
    limits = []
    for which in range(6):
        above = max((v for v in done if curve(v, which) > 0), default=low)
        below = min((v for v in done if v > above and curve(v, which) <= 0), default=top)
        if curve(above, which) <= 0:
            raise FitFailed(f"CLs is below {level} already at {tester.poi} = {above:.6g}")
        limits.append(float(brentq(curve, above, below, args=(which,), rtol=rtol, xtol=rtol * below)))
    band = [v for v in np.linspace(low, 1.1 * max(limits), points).tolist() if v <= bound]
    tester.prepare(band)
    for value in band:
        test(value)
    if look:
        warn_or_refuse(test_concerns(tester.observed, limits[0], test_stat), stacklevel=2)
    scan = tuple(done[v] for v in sorted(done))
    problems = [r.message for r in scan if not r.valid]
    return LimitResult(
        poi=tester.poi,
        test_stat=test_stat,
        level=level,
        observed=limits[0],
        expected=tuple(limits[1:]),
        scan=scan,
        valid=not problems,
        message=problems[-1] if problems else "",
    )


def require_level(level: float) -> None:
    """Raise `InvalidModel` if the level of a limit is not between 0 and 1."""
    if not 0 < level < 1:
        raise InvalidModel(f"level is 1 - confidence level, between 0 and 1; got {level}")
