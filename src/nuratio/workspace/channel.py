"""An unbinned channel of a workspace from trained networks: its event tables and its entry in ``unbinned.channels``.

`event_columns` is what the networks say of some events; `unbinned_channel` evaluates them at data and simulation and
normalises the shapes on the latter.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.data.sample import EventSample
from nuratio.data.varied import Term
from nuratio.errors import InvalidData
from nuratio.ratios.estimator import Part, split_by_sign
from nuratio.ratios.table import RatioTable
from nuratio.workspace.directions import Directions, principal_directions
from nuratio.workspace.exponent import exponent_entry, exponent_terms
from nuratio.workspace.normalisation import cumulants
from nuratio.workspace.rates import Cells
from nuratio.workspace.train import Trained
from nuratio.workspace.validate import MULTIPLICATIVE

__all__ = [
    "anchor_columns",
    "direction_names",
    "event_columns",
    "exponent_at",
    "shape_columns",
    "unbinned_channel",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_LARGEST_ERROR = 1e-3  # of the cumulant form of ln Z; above it the shapes are normalised by the pool integral


def shape_columns(part: str, trained: Trained) -> dict[Term, str]:
    """Term -> column of a part's D, for the nuisances whose shapes enter an exponent."""
    if part not in trained.shapes:
        return {}
    kept = trained.nuisances(part, "quadexp")
    return {
        term: f"{part}/{_label(term)}" for term in trained.shapes[part].terms if all(name in kept for name, _ in term)
    }


def anchor_columns(part: str, trained: Trained) -> dict[str, tuple[str, str]]:
    """Nuisance -> columns hi and lo of a part, for the nuisances that are interpolated between density ratios."""
    names = [name for name in trained.nuisances(part) if trained.codes[name] != "quadexp"]
    return {name: (f"{part}/{name}/hi", f"{part}/{name}/lo") for name in names}


def _label(term: Term) -> str:
    if len(term) == 1:
        ((name, power),) = term
        return f"{name}/d{power}"
    return "/".join(name if power == 1 else f"{name}^{power}" for name, power in term) + "/cross"


def event_columns(
    trained: Trained,
    x: EventSample | ArrayLike,
    *,
    event_ids: NDArray[np.int64] | None = None,
    member: int | None = None,
) -> dict[str, Floats]:
    """Ratios and shapes of all parts at some events, named as in an event table.

    Parameters
    ----------
    trained : Trained
    x : EventSample or array_like, shape (n, d)
    event_ids : ndarray of int, shape (n,), optional
        Of simulated events, for cross-fitting.
    member : int, optional
        A single network, counted fold by fold, ``options.ensemble`` of the ratio estimator each; shapes with fewer
        members repeat theirs.

    Returns
    -------
    dict
        Columns hi and lo are not normalised.
    """
    columns: dict[str, Floats] = {}
    ratios = trained.ratio.ratios(x, event_ids=event_ids, member=member)
    for part in trained.parts:
        name = part.name
        columns[name] = np.asarray(ratios[name], dtype=np.float64)
        if not trained.nuisances(name):
            continue
        shape, own = trained.shapes[name], None
        if member is not None:
            fold, j = divmod(member, trained.ratio.options.ensemble)
            own = fold * shape.options.ensemble + j % shape.options.ensemble
        d = shape.coefficients(x, event_ids=event_ids, member=own)
        columns |= {column: d[term] for term, column in shape_columns(name, trained).items()}
        for nuisance, sides in anchor_columns(name, trained).items():
            for side, column in zip((1, -1), sides, strict=True):
                columns[column] = columns[name] * np.exp(exponent_at(d, nuisance, side))
    return columns


def exponent_at(d: Mapping[Term, Floats], nuisance: str, side: int) -> Any:
    """sum_t phi_t D_t of one nuisance alone at +-1."""
    return sum(side ** term[0][1] * d[term] for term in d if len(term) == 1 and term[0][0] == nuisance)


def unbinned_channel(
    name: str, trained: Trained, cells: Cells | None
) -> tuple[dict[str, Any], dict[str, RatioTable], Directions | None]:
    """The entry of an unbinned channel, its tables, and the directions of its networks if the training has some.

    Shapes are normalised by the cumulant form of ln Z, or by the exact pool integral where that is off by more than
    1e-3 within two standard deviations; the entry says which, and the errors found. With directions that stand for the
    statistics of the simulation, the samples do not say what is behind them: that error is to count once.

    Raises
    ------
    InvalidData
        Events outside the cells, or cells without simulated events.
    """
    estimator, data = trained.ratio, trained.events.data
    pool = estimator.pool(trained.events.nominal)
    on_pool = event_columns(trained, pool.features, event_ids=pool.event_ids)
    on_data = event_columns(trained, data)
    for part in trained.parts:
        for column in (c for pair in anchor_columns(part.name, trained).values() for c in pair):
            integral = float(pool.weights @ on_pool[column])
            on_pool[column], on_data[column] = on_pool[column] / integral, on_data[column] / integral
    in_pool: dict[str, Any] = {}
    observed: dict[str, Any] = {}
    features = estimator.features
    of_pool = dict(zip(features, pool.features.T, strict=True))
    groups = [np.ones(len(pool.weights), dtype=bool)]
    if cells is not None:
        in_pool["cell"] = cells.of(of_pool[cells.variable], f"region {name!r}, simulation")
        observed["cell"] = cells.of(data.column(cells.variable), f"region {name!r}, data")
        groups = [in_pool["cell"] == b for b in range(len(cells))]
        empty = [b for b, group in enumerate(groups) if not group.any()]
        if empty:
            raise InvalidData(
                f"region {name!r}: no simulated event in cell {empty[0]} of {cells.variable!r}; merge cells"
            )
    directions = None
    if trained.directions is not None:
        at_pool, at_data = (
            (_ratios(trained, columns), _slopes(trained, columns), table.get("cell", np.zeros(n, dtype=np.int64)))
            for columns, table, n in ((on_pool, in_pool, len(pool)), (on_data, observed, len(data)))
        )
        directions = principal_directions(estimator, trained.events.nominal, *at_pool, **trained.directions)
        for columns, at in ((on_pool, at_pool), (on_data, at_data)):
            for nuisance, of_parts in zip(direction_names(name, directions), directions.at(*at), strict=True):
                columns |= {f"{part}/{nuisance}/d1": d for part, d in zip(estimator.parts, of_parts, strict=True)}
    network = direction_names(name, directions)
    stored = {c: v.astype(np.float32).astype(np.float64) for c, v in on_pool.items()}  # as the fit sees it
    tables = {
        f"{name}.observed": RatioTable.from_columns(observed | on_data),
        f"{name}.pool": RatioTable.from_columns(
            in_pool | on_pool | {"reference weight": pool.weights, "simulated part": pool.part}
        ),
        f"{name}.observed.features": RatioTable.from_columns({f: data.column(f) for f in features}),
        f"{name}.pool.features": RatioTable.from_columns(of_pool),
    }
    entry = {
        "name": name,
        "reference": {"fractions": dict(estimator.reference_fractions)},
        **({} if cells is None else {"ratiocell": {"column": "cell"}}),
        "samples": [_sample(part, trained, network, stored, pool.weights, groups, cells) for part in trained.parts],
        "events": {
            "observed": {"file": f"{name}.observed", "features": f"{name}.observed.features"},
            "pool": {
                "file": f"{name}.pool",
                "weight": {"column": "reference weight"},
                "part": {"column": "simulated part"},
                "features": f"{name}.pool.features",
            },
        },
    }
    return entry, tables, directions


def direction_names(region: str, directions: Directions | None) -> tuple[str, ...]:
    """The nuisances of the directions of a region's networks."""
    return tuple(f"network_{region}_{t}" for t in range(1, 1 + (0 if directions is None else len(directions))))


def _ratios(trained: Trained, columns: Mapping[str, Floats]) -> Floats:
    """Shape (K, n)."""
    return np.stack([columns[part.name] for part in trained.parts])


def _slopes(trained: Trained, columns: Mapping[str, Floats]) -> Floats:
    """Derivatives of sum_c W_c r_c S_c by the S nuisances of shapes, shape (S, n)."""
    slopes = {k: np.zeros(len(next(iter(columns.values())))) for p in trained.parts for k in trained.nuisances(p.name)}
    for part in trained.parts:
        for term, column in shape_columns(part.name, trained).items():
            if len(term) == 1 and term[0][1] == 1:
                slopes[term[0][0]] += part.total * columns[part.name] * columns[column]
        for nuisance, (hi, lo) in anchor_columns(part.name, trained).items():
            slopes[nuisance] += part.total * (columns[hi] - columns[lo]) / 2
    return np.stack(list(slopes.values())) if slopes else np.zeros((0, len(next(iter(columns.values())))))


def _sample(
    part: Part,
    trained: Trained,
    directions: Sequence[str],
    stored: Mapping[str, Floats],
    q: Floats,
    groups: Sequence[Bools],
    cells: Cells | None,
) -> dict[str, Any]:
    """The entry of a part."""
    name = part.name
    density = q * stored[name]
    anchors, terms = anchor_columns(name, trained), shape_columns(name, trained)
    terms |= {((nuisance, 1),): f"{name}/{nuisance}/d1" for nuisance in directions}

    def per_cell(numbers: list[Any]) -> Any:
        return numbers[0] if cells is None else numbers

    entry: dict[str, Any] = {"name": name, "ratio": {"column": name}}
    if not trained.statistics_in_directions:
        entry["simulation"] = _simulation(part, trained)
    if cells is not None:
        entry["shares"] = [float(density[group].sum()) for group in groups]
    entry |= exponent_entry(terms)
    for nuisance, pair in anchors.items():
        sides = dict(zip(("hi", "lo"), pair, strict=True))
        integrals = {
            side: per_cell([float(q[g] @ stored[column][g] / density[g].sum()) for g in groups])
            for side, column in sides.items()
        }
        entry["modifiers"].append(
            {
                "name": nuisance,
                "type": "ratiosys",
                "interpcode": trained.codes[nuisance],
                "data": {side: {"column": column} for side, column in sides.items()},
                "integral": integrals,
            }
        )
    nuisances = list(dict.fromkeys(k for term in terms for k, _ in term))
    if not nuisances and all(trained.codes[nuisance] not in MULTIPLICATIVE for nuisance in anchors):
        return entry  # without shapes, or with those whose integrals are known
    norm = entry["normalisation"] = {"type": "pool", "parameters": nuisances}
    if nuisances and not anchors:
        rows = {term: stored[column] for term, column in exponent_terms(entry).items()}
        forms = [cumulants({term: d[g] for term, d in rows.items()}, density[g]) for g in groups]
        error = max(form.error for form in forms)
        if error <= _LARGEST_ERROR:
            norm["type"] = "cumulant"
            norm["mean"] = per_cell([form.mean.tolist() for form in forms])
            norm["covariance"] = per_cell([form.covariance.tolist() for form in forms])
        norm |= {"error": error, "errors": {k: max(form.errors[k] for form in forms) for k in nuisances}}
    return entry


def _simulation(part: Part, trained: Trained) -> dict[str, Any]:
    """The simulated events of a part: how many, and where they are in the pool."""
    fractions, there = trained.ratio.reference_fractions, []
    for number, group in enumerate(split_by_sign(trained.events.nominal)):
        fraction = fractions[group.name]
        if fraction > 0 and group.sample == part.sample and part.name in (group.name, group.sample):
            there.append({"number": number, "weight": group.total / part.total / fraction})
    return {"events": part.events, "effective": part.effective_size, "parts": there}
