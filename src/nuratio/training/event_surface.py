"""Per-event responses that do not factorise: ln S(x|nu) of every event from what is known at a few points nu.

Use it where each event has a weight, or a density ratio, at some points nu off and on the axes (parton density and
scale weights, an analytic reweighting, networks trained at the points), better with derivatives there. One Gaussian
process, see `nuratio.training.gaussian_process`, interpolates ln S of all events; what it says is linear in what is
known of an event, so that it can be written as polynomials of the nuisances with one column of numbers for each term:
the exponent of a sample in an unbinned channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.data.varied import Term
from nuratio.errors import InvalidData
from nuratio.training.gaussian_process import Rows, most_likely
from nuratio.training.surface import Surface, grid, refuse, require_different

__all__ = ["ExponentColumns", "exponent_columns", "fit_event_surface", "interpolate"]

Floats = NDArray[np.float64]

_GRID = 1000  # points of the nuisances at which the polynomials are fitted
_LARGEST_POWER = 9  # of a nuisance in a workspace


@dataclass(frozen=True, eq=False)
class ExponentColumns:
    """ln S(x|nu) of some events as a polynomial of the nuisances.

    Attributes
    ----------
    columns : dict of Term to ndarray, shape (events,)
        Coefficient of each monomial. There is no constant: ln S is exactly 0 at nu = 0.
    error : float
        Of the polynomial against the interpolation: root mean square over the events, where in the cube it is largest.
    """

    columns: dict[Term, Floats]
    error: float


def fit_event_surface(points: ArrayLike, observations: ArrayLike, weights: ArrayLike | None = None) -> Surface:
    """The Gaussian process of a typical event: amplitude and lengths from the mean square of all events.

    Parameters
    ----------
    points : array_like, shape (n, K)
        Nuisances, in units of their sigma.
    observations : array_like, shape (n, C, events)
        y_v(x) = ln of the density at point v, or of its ratio to anything fixed, and, where C = 1 + K, its derivatives
        by the nuisances; a derivative that is not known is NaN for all events.
    weights : array_like, shape (events,), optional
        How much each event counts, at least 0; by default all the same.

    Returns
    -------
    Surface
        Its values are the geometric means over the events; its standard deviations those of ln S of a typical event.

    Raises
    ------
    InvalidData
        Shapes that do not fit, fewer than two points or one of them twice, no events, entries that are not finite.
    """
    x = np.array(points, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] == 0:
        raise InvalidData(f"points of shape {x.shape}: a surface needs (n, K), with n >= 2")
    refuse("points", ~np.isfinite(x), x, "is not finite")
    require_different(x)
    table = np.array(observations, dtype=np.float64)
    if table.ndim != 3 or table.shape[0] != len(x) or table.shape[1] not in (1, 1 + x.shape[1]) or not table.shape[2]:
        raise InvalidData(
            f"observations of shape {table.shape} at {len(x)} points of {x.shape[1]} nuisances: axes are points, value "
            f"alone or with {x.shape[1]} derivatives, and events"
        )
    unknown = np.asarray(np.isnan(table).all(axis=2))
    unknown[:, 0] = False
    refuse("observations", ~np.isfinite(table) & ~unknown[..., None], table, "is not finite")
    w = np.ones(table.shape[2]) if weights is None else np.array(weights, dtype=np.float64)
    if w.shape != table.shape[2:] or not np.isfinite(w).all() or (w < 0).any() or not w.any():
        raise InvalidData(
            f"weights of shape {w.shape} for {table.shape[2]} events: give a number >= 0 for each, not all 0"
        )
    w = w / w.sum()
    noise = np.zeros(table.shape[:2])
    amplitude, lengths = most_likely(Rows.of(x, ~unknown), _root_moment(table[~unknown], w), noise[~unknown])
    return Surface(x, table @ w, noise, amplitude, lengths)


def interpolate(surface: Surface, observations: ArrayLike, nu: ArrayLike) -> Floats:
    """Per-event ln S(x|nu), 0 at nu = 0, from what is known of the events at the points of a surface.

    Parameters
    ----------
    surface : Surface
        Its points, errors and lengths are used for every event.
    observations : array_like, shape (n, C, events)
        As in `fit_event_surface`. What the surface has not observed is not looked at.
    nu : array_like, shape (K,)

    Returns
    -------
    ndarray, shape (events,)

    Raises
    ------
    InvalidData
        Another shape; a used entry that is not finite.
    """
    known = _known(surface, observations)
    return np.asarray(surface.weights(np.array(nu)[None])[0][surface.known] @ known)


def exponent_columns(
    surface: Surface, observations: ArrayLike, names: Sequence[str], *, order: int = 4, reach: float = 2.0
) -> ExponentColumns:
    """The interpolation as columns of an event table: polynomials with terms of one or two nuisances.

    The coefficients c_v(nu) of `Surface.weights` are fitted by monomials, c_v(nu) = sum_t M_tv phi_t(nu), by least
    squares on a grid in abs(nu_k) <= ``reach``; the column of term t is then sum_v M_tv y_v(x).

    Parameters
    ----------
    surface : Surface
    observations : array_like, shape (n, C, events)
        As in `fit_event_surface`.
    names : sequence of str
        The K nuisances' names in the workspace, in order.
    order : int
        Largest sum of the powers in a term.
    reach : float

    Raises
    ------
    InvalidData
        Not K different names; an order that is not 1 to 9; observations as in `interpolate`.
    """
    nuisances = surface.points.shape[1]
    if len(names) != nuisances or len(set(names)) != nuisances:
        raise InvalidData(f"names {list(names)} for a surface of {nuisances} nuisances: give each of them one")
    if not 1 <= order <= _LARGEST_POWER:
        raise InvalidData(f"order {order}: a workspace takes powers of 1 to {_LARGEST_POWER}")
    known = _known(surface, observations)
    powers = _powers(nuisances, order)
    nu = grid(nuisances, reach, _GRID)
    monomials = np.array([np.prod(nu**power, axis=1) for power in powers]).T
    weights = surface.weights(nu)[:, surface.known]
    matrix = np.linalg.lstsq(monomials, weights, rcond=None)[0]
    missed = (monomials @ matrix - weights) @ _root_moment(known, np.full(known.shape[1], 1 / known.shape[1]))
    terms = [tuple(sorted((names[k], int(p[k])) for k in np.flatnonzero(p))) for p in powers]
    columns = dict(zip(terms, matrix @ known, strict=True))
    return ExponentColumns(columns, float(np.linalg.norm(missed, axis=1).max()))


def _known(surface: Surface, observations: ArrayLike) -> Floats:
    """What a surface has observed, of every event: shape (N, events)."""
    table = np.array(observations, dtype=np.float64)
    if table.ndim != 3 or table.shape[:2] != surface.observations.shape:
        raise InvalidData(
            f"observations of shape {table.shape} for a surface of {surface.observations.shape}: "
            "axes are points, (value, derivatives) and events"
        )
    refuse("observations", ~np.isfinite(table) & surface.known[..., None], table, "is not finite")
    return np.asarray(table[surface.known])


def _root_moment(y: Floats, weights: Floats) -> Floats:
    """A square root (N, N) of the second moment of y (N, events) over weighted events."""
    values, vectors = np.linalg.eigh((y * weights) @ y.T)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))  # rounding


def _powers(nuisances: int, order: int) -> list[NDArray[np.int64]]:
    """Powers (K,) of each term: of single nuisances, then of pairs."""
    unit = np.eye(nuisances, dtype=np.int64)
    alone = [power * unit[k] for power in range(1, order + 1) for k in range(nuisances)]
    pairs = [
        a * unit[j] + b * unit[k]
        for j, k in combinations(range(nuisances), 2)
        for a in range(1, order)
        for b in range(1, order + 1 - a)
    ]
    return alone + pairs
