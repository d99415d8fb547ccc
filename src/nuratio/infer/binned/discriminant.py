"""One number per event that says most about a parameter: what a binned analysis should be binned in.

Use `discriminant` for the numbers of an unbinned channel's events. For a small change of a parameter the likelihood
ratio of two hypotheses is a function of the score

    t(x) = d ln lambda(x | theta) / d theta_poi,      lambda = sum_c nu_c(theta) T_c(x | alpha),

so that nothing about the parameter is lost in fine bins of it, the others being known. For a signal strength it is
r_s / (mu r_s + ...), a function of S / (S + B); for a parameter that enters by an expression (kappa and kappa^2, say)
it depends on where it is taken. With nuisances profiled it is the efficient score: the part of the score that no change
of the nuisances imitates. The density itself, ln lambda, says nothing about any one parameter: goodness of fit is
tested in it.

References
----------
J. Brehmer, K. Cranmer, G. Louppe, J. Pavez, Phys. Rev. D 98 (2018) 052004 (arXiv:1805.00020): the score as the locally
optimal observable. A. van der Vaart, Asymptotic Statistics (1998), Sec. 25.4: efficient scores.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.fitting.fit import require_poi
from nuratio.model.unbinned import EventCell, Events

__all__ = ["OBSERVABLES", "discriminant"]

Floats = NDArray[np.float64]

_SINGULAR = 1e-10  # smallest eigenvalue of the information in units of its diagonal


def discriminant(
    model: Any, channel: str, pars: ArrayLike, observable: str = "score", *, parameter: str | None = None
) -> tuple[Floats, Floats]:
    """An observable of an unbinned channel at its observed events and at those of its pool.

    Parameters
    ----------
    model : Model
    channel : str
    pars : array_like, shape (P,)
        Where it is taken.
    observable : str
        Of `OBSERVABLES`: ``score``, ``profiled score`` or ``density``; or a feature that the workspace stores.
    parameter : str, optional
        The parameter of the scores; the POI by default.

    Returns
    -------
    (ndarray, ndarray)
        Shapes (observed events,) and (pool events,). Scores are 0 where the density is.

    Raises
    ------
    UnknownName
        No such unbinned channel, observable or parameter.
    InvalidModel
        Parameters that data of this model do not determine have no profiled score.
    """
    if channel not in model.unbinned:
        raise UnknownName(f"no unbinned channel {channel!r}; {did_you_mean(channel, model.unbinned, 'channels')}")
    own = model.unbinned[channel]
    stored = () if own.pool_features is None else own.pool_features.names
    if observable in OBSERVABLES:
        found = OBSERVABLES[observable](model, channel, np.asarray(pars, dtype=np.float64), parameter)
    elif observable in stored:
        seen = own.pool_features.head(0) if own.observed_features is None else own.observed_features
        found = np.asarray(seen[observable], np.float64), np.asarray(own.pool_features[observable], np.float64)
    else:
        known = [*OBSERVABLES, *stored]
        raise UnknownName(
            f"channel {channel!r} has no {observable!r}; {did_you_mean(observable, known, 'observables')}"
        )
    return found


def _score(model: Any, channel: str, pars: Floats, parameter: str | None) -> tuple[Floats, Floats]:
    """The score of a parameter."""
    direction = np.zeros(len(pars))
    direction[_index(model, parameter)] = 1.0
    return _slope(model, channel, pars, direction)


def _profiled_score(model: Any, channel: str, pars: Floats, parameter: str | None) -> tuple[Floats, Floats]:
    """The score along the nuisances' response: sum_k I^-1_pk s_k / I^-1_pp, I being the information of Asimov data."""
    p = _index(model, parameter)
    free = ~np.array(model.config.suggested_fixed(), dtype=bool)
    free[p] = True
    kept = np.flatnonzero(free)
    information = model.hessian(pars, model.expected_data(pars))[np.ix_(kept, kept)] / 2
    scale = np.sqrt(np.maximum(np.diag(information), np.finfo(float).tiny))
    if np.linalg.eigvalsh(information / np.outer(scale, scale))[0] < _SINGULAR:
        raise InvalidModel(
            f"{model.config.par_names[p]!r} has no profiled score: expected data do not determine all parameters; fix "
            "some, or take the observable 'score'"
        )
    response = np.linalg.solve(information, (kept == p).astype(np.float64))
    direction = np.zeros(len(pars))
    direction[kept] = response / response[kept == p]
    return _slope(model, channel, pars, direction)


def _log_density(model: Any, channel: str, pars: Floats, parameter: str | None) -> tuple[Floats, Floats]:
    """ln of the total density relative to the reference; -inf where it is not positive."""
    values = model.parameters.values(pars)
    nu = model.rates.nu(values)

    def of(cell: EventCell, events: Events) -> Floats:
        density = nu[model.rates.cells(channel, cell.bin)] @ cell.densities(events, values)
        return np.asarray(np.log(density, where=density > 0, out=np.full(len(density), -np.inf)))

    return _of_all_cells(model, channel, of)


OBSERVABLES: Mapping[str, Callable[[Any, str, Floats, str | None], tuple[Floats, Floats]]] = {
    "score": _score,
    "profiled score": _profiled_score,
    "density": _log_density,
}


def _index(model: Any, parameter: str | None) -> int:
    name, names = require_poi(model) if parameter is None else parameter, list(model.config.par_names)
    if name not in names:
        raise UnknownName(f"no parameter {name!r}; {did_you_mean(name, names, 'parameters')}")
    return names.index(name)


def _slope(model: Any, channel: str, pars: Floats, direction: Floats) -> tuple[Floats, Floats]:
    """sum_k v_k d ln lambda / d theta_k at all events, for a direction v of shape (P,)."""
    expansion = model.parameters.expand(pars)
    values = expansion.values
    rates, unit = model.rates.rates(values), np.eye(len(values))

    def of(cell: EventCell, events: Events) -> Floats:
        where = model.rates.cells(channel, cell.bin)
        nu, nu_slope = rates.nu[where], expansion.pull_gradient(rates.jacobian[where]) @ direction
        along = [expansion.pull_gradient(unit[list(s.par)]) @ direction if s.par else np.empty(0) for s in cell.samples]
        if not any(np.any(v) for v in along):  # rates alone
            t = cell.densities(events, values)
            return _ratio(nu_slope @ t, nu @ t)
        out = np.empty(len(events))
        for some, t, slopes in cell.evaluate(events, values):
            slope = nu_slope @ t
            for n, v, first in zip(nu, along, slopes, strict=True):
                if len(v):
                    slope = slope + n * (v @ first)
            out[some] = _ratio(slope, nu @ t)
        return out

    return _of_all_cells(model, channel, of)


def _ratio(slope: Floats, density: Floats) -> Floats:
    return np.divide(slope, density, where=density != 0, out=np.zeros_like(slope))


def _of_all_cells(model: Any, channel: str, of: Callable[[EventCell, Events], Floats]) -> tuple[Floats, Floats]:
    """A number for every event of a channel, from those of its cells."""
    own = model.unbinned[channel]
    found = []
    for table, kind in ((own.observed, "observed"), (own.pool, "pool")):
        values = np.empty(len(table))
        for cell in own.cells:
            events = getattr(cell, kind)
            values[slice(None) if events.index is None else events.index] = of(cell, events)
        found.append(values)
    return found[0], found[1]
