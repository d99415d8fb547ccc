"""Profile-likelihood intervals: where 2 Delta ln L stays below the chi2 quantile of a level, in one piece or several.

Use `interval` where MINOS (`nuratio.fit` with ``minos=``) may not be the whole answer: a likelihood with two minima (a
signal strength with interference, a coupling that enters as its square) or an interval that ends at a bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from nuratio.errors import InvalidModel
from nuratio.infer.fitting.asymptotics import asymptotics_option, interval_concerns, warn
from nuratio.infer.fitting.fit import Fitter, require_poi
from nuratio.infer.profiles.curve import Curve
from nuratio.infer.results import FitResult, _array, _number, _Result

__all__ = ["IntervalResult", "interval"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IntervalResult(_Result):
    """Profile-likelihood intervals of one parameter.

    Attributes
    ----------
    parameter : str
    levels : tuple of float
        Confidence levels.
    pieces : tuple of tuples of (low, high)
        The intervals of each level, in increasing order; NaN for an end that was not found.
    at_bound : tuple of tuples of (bool, bool)
        Which of these ends are bounds of the parameter, not crossings of the level.
    minima, minima_rise : ndarray, shape (n,)
        Local minima of the profile and their 2 Delta ln L, the best fit first.
    values, delta_twice_nll : ndarray, shape (m,)
        The profile where it was evaluated: values of the parameter, and 2 Delta ln L.
    bestfit : FitResult
        The fit at the lowest minimum.
    valid : bool
        The best fit is valid and all ends were found.
    message : str
        What is wrong if not valid.
    """

    kind: ClassVar[str] = "interval"

    parameter: str
    levels: tuple[float, ...]
    pieces: tuple[tuple[tuple[float, float], ...], ...]
    at_bound: tuple[tuple[tuple[bool, bool], ...], ...]
    minima: Floats
    minima_rise: Floats
    values: Floats = field(repr=False)
    delta_twice_nll: Floats = field(repr=False)
    bestfit: FitResult = field(repr=False)
    valid: bool
    message: str

    @property
    def heights(self) -> tuple[float, ...]:
        """The 2 Delta ln L of each level: the chi2 quantile for one degree of freedom."""
        return tuple(float(chi2.ppf(level, 1)) for level in self.levels)

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["levels"] = tuple(values["levels"])
        values["pieces"] = tuple(tuple((_number(a), _number(b)) for a, b in p) for p in values["pieces"])
        values["at_bound"] = tuple(tuple((bool(a), bool(b)) for a, b in p) for p in values["at_bound"])
        for key in ("minima", "minima_rise", "values", "delta_twice_nll"):
            values[key] = _array(values[key])
        return values | {"bestfit": FitResult.from_dict(values["bestfit"])}


def interval(
    model: Any,
    data: ArrayLike,
    parameter: str | None = None,
    *,
    level: float | Sequence[float] = 0.683,
    points: int = 31,
    width: float | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    asymptotics: str = "check",
) -> IntervalResult:
    """Confidence intervals from the profile likelihood: 2 Delta ln L below the chi2_1 quantile of the level.

    The whole range within the bounds is scanned for minima, and the scan is refined where the profile is low; every
    crossing of a level is exact to 1e-7 in 2 Delta ln L. If a minimum lower than the first fit is found, it is the best
    fit.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    parameter : str, optional
        The POI by default.
    level : float or sequence of float
        Confidence levels.
    points : int
        Of the scan over the bounds, and again over the part that is low.
    width : float, optional
        Up to how many standard deviations (square root of 2 Delta ln L) the profile is followed in detail; by default
        one more than the largest level needs.
    bounds : mapping, optional
        Bounds that replace the model's: those of the parameter are the range of the scan.
    asymptotics : str
        ``check`` warns where the chi2 quantiles do not hold, ``force`` does not look.

    Raises
    ------
    InvalidModel
        A level outside (0, 1); a parameter that is fixed, or has no finite bounds.
    UnknownName
        A parameter that does not exist.
    FitFailed
        The free fit is not valid.

    Warns
    -----
    AsymptoticsWarning
        See `nuratio.infer.fitting.asymptotics`.

    References
    ----------
    S. Wilks, Ann. Math. Statist. 9 (1938) 60. F. James, M. Roos, Comput. Phys. Commun. 10 (1975) 343 (MINOS).
    """
    levels, heights = chi2_heights(level, 1)
    look = asymptotics_option(asymptotics)
    fitter = Fitter(model, data, bounds=bounds)
    parameter = require_poi(fitter.model) if parameter is None else parameter
    require_free(fitter, parameter)
    height = max(heights) if width is None else max(width**2, max(heights))
    height = (np.sqrt(height) + 1) ** 2 if width is None else height
    curve = Curve(fitter, parameter, height=float(height), points=points)
    pieces = [curve.pieces(h) for h in heights]
    bestfit = fitter.result(curve.valleys.best)
    problems = [] if bestfit.valid else [f"the best fit: {bestfit.message}"]
    if not np.isfinite([end for found in pieces for piece in found for end in piece]).all():
        problems.append("conditional fits are not valid beyond an end that was not found")
    if look:
        warn(interval_concerns(curve, max(heights)), stacklevel=2)
    minima = curve.valleys.in_order()
    profile = [h for h in curve.heights() if np.isfinite(h.rise)]
    return IntervalResult(
        parameter=parameter,
        levels=levels,
        pieces=tuple(pieces),
        at_bound=tuple(tuple((low == curve.low, high == curve.high) for low, high in found) for found in pieces),
        minima=np.array([m.theta[curve.k] for m in minima]),
        minima_rise=np.array([curve.valleys.rise(m) for m in minima]),
        values=np.array([h.at for h in profile]),
        delta_twice_nll=np.array([h.rise for h in profile]),
        bestfit=bestfit,
        valid=not problems,
        message="; ".join(problems),
    )


def chi2_heights(level: float | Sequence[float], dof: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Confidence levels, and the chi2 quantile of each.

    Raises
    ------
    InvalidModel
        A level outside (0, 1), or none.
    """
    levels = (float(level),) if np.isscalar(level) else tuple(float(v) for v in level)  # type: ignore[union-attr, arg-type]
    if not levels or not all(0 < v < 1 for v in levels):
        raise InvalidModel(f"confidence levels are between 0 and 1, such as 0.683; got {levels}")
    return levels, tuple(float(chi2.ppf(v, dof)) for v in levels)


def require_free(fitter: Fitter, parameter: str) -> None:
    """Raise `InvalidModel` if a parameter is fixed in the model."""
    if fitter.fixed[fitter.index(parameter)]:
        raise InvalidModel(f"parameter {parameter!r} is fixed in the measurement: there is no profile to look at")
