"""What each nuisance does to the parameter of interest: pulls, constraints and impacts, from the covariance of a fit.

Use `impacts` on any fit with its covariance, of observed or of Asimov data; no refit is needed. `shape_impacts` says
how much of an impact comes from the shapes of events, the rates of the nuisance being the same.

A nuisance that is held delta away from its best fit moves the profiled parameter of interest by delta cov(poi, k) /
var(k), to first order. The post-fit impact takes delta = sigma_k, the pre-fit one the width of its constraint.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidData
from nuratio.infer.results import FitResult, _array, _number, _Result

__all__ = ["Impacts", "impacts", "shape_impacts"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Impacts(_Result):
    """Pulls, constraints and impacts of the K constrained nuisances of a fit, the largest post-fit impact first.

    Attributes
    ----------
    poi : str
    uncertainty : float
        Of the parameter of interest.
    names : tuple of str
        Constrained parameters that were free to move.
    pull : ndarray, shape (K,)
        (best fit - centre of the constraint) / its width.
    constraint : ndarray, shape (K,)
        Post-fit uncertainty / width of the constraint; 0 for a parameter that ended on a bound.
    impact : ndarray, shape (K,)
        cov(poi, k) / sigma_k: what the parameter of interest moves with the nuisance by its post-fit uncertainty.
    prefit : ndarray, shape (K,)
        cov(poi, k) / sigma_k^2 times the width of the constraint.
    valid : bool
        The fit is.
    message : str
        What is wrong if not.
    """

    kind: ClassVar[str] = "impacts"

    poi: str
    uncertainty: float
    names: tuple[str, ...]
    pull: Floats
    constraint: Floats
    impact: Floats
    prefit: Floats
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["names"], values["uncertainty"] = tuple(values["names"]), _number(values["uncertainty"])
        return values | {k: _array(values[k]) for k in ("pull", "constraint", "impact", "prefit")}


def impacts(fit: FitResult, poi: str) -> Impacts:
    """Pulls, constraints and impacts on a parameter, from a fit's covariance.

    Parameters
    ----------
    fit : FitResult
        With its covariance.
    poi : str
        Usually the parameter of interest; any parameter that was free.

    Raises
    ------
    UnknownName
        No such parameter.
    InvalidData
        A fit without a covariance, or in which the parameter was held or ended on a bound.
    """
    k = fit.index(poi)
    variance = np.diag(fit.covariance)
    if not np.isfinite(fit.covariance).all():
        raise InvalidData("the fit has no covariance, which impacts are made of: fit with hesse=True")
    if variance[k] == 0:
        held = "was held" if fit.fixed[k] else "ended on a bound"
        raise InvalidData(f"impacts on {poi!r}, which {held} in the fit: choose a parameter with an uncertainty")
    width = fit.constraint_width
    rows = np.flatnonzero((width > 0) & ~np.array(fit.fixed) & (np.arange(len(width)) != k))
    impact = _impact(fit.covariance, k)[rows]
    rows = rows[np.argsort(-np.abs(impact), kind="stable")]
    impact, sigma, width = _impact(fit.covariance, k)[rows], np.sqrt(variance[rows]), width[rows]
    return Impacts(
        poi=poi,
        uncertainty=float(np.sqrt(variance[k])),
        names=tuple(fit.names[row] for row in rows),
        pull=(fit.bestfit[rows] - fit.constraint_center[rows]) / width,
        constraint=sigma / width,
        impact=impact,
        prefit=np.divide(impact * width, sigma, out=np.zeros_like(impact), where=sigma > 0),
        valid=fit.valid,
        message=fit.message,
    )


def shape_impacts(model: Any, data: ArrayLike, fit: FitResult, poi: str) -> dict[str, float]:
    """What of the post-fit impact of each nuisance there would not be without its shapes per event.

    The impact of the model minus that of a model in which the nuisance changes rates, as it does, but no shapes; each
    nuisance by itself, with the exact Hessian. Nothing is fitted again: at alpha = 0 the densities of the second model
    are those of the first, and its Hessian lacks the rows and columns that the shapes of the nuisance add in the sum
    over events. So this is for fits at nominal nuisances, that is of Asimov data; elsewhere it is an approximation.

    Parameters
    ----------
    model : Model
    data : array_like
    fit : FitResult
        Of these data, with its covariance.
    poi : str

    Returns
    -------
    dict
        Nuisance with shapes -> difference, in units of the parameter; NaN where the second Hessian is not positive
        definite.
    """
    likelihood, k = model.likelihood(data), fit.index(poi)
    hessian = likelihood.hessian(fit.bestfit)
    there = np.diag(fit.covariance) > 0
    free = np.ix_(there, there)
    with_shapes = _impact(fit.covariance, k)
    found = {}
    for name, added in likelihood.shape_hessians(fit.bestfit).items():
        covariance, row = np.zeros_like(hessian), fit.index(name)
        rest = (hessian - added)[free]
        positive = bool(np.linalg.eigvalsh(rest)[0] > 0)
        covariance[free] = 2 * np.linalg.inv(rest) if positive else np.nan
        found[name] = float(with_shapes[row] - _impact(covariance, k)[row])
    return found


def _impact(covariance: Floats, k: int) -> Floats:
    """cov(k, j) / sigma_j of all parameters j, shape (P,); 0 for those without an uncertainty."""
    sigma = np.sqrt(np.diag(covariance))
    return np.asarray(np.divide(covariance[k], sigma, out=np.zeros_like(sigma), where=sigma != 0))
