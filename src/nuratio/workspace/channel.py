"""An unbinned channel of a workspace from trained networks: its event tables and its entry in ``unbinned.channels``.

`event_columns` is what the networks say of some events; `unbinned_channel` evaluates them at data and simulation and
normalises the shapes on the latter.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.data.sample import EventSample
from nuratio.data.varied import Term
from nuratio.errors import InvalidData
from nuratio.ratios.estimator import Part, split_by_sign
from nuratio.ratios.table import RatioTable
from nuratio.workspace.exponent import exponent_terms
from nuratio.workspace.normalisation import cumulants
from nuratio.workspace.rates import Cells
from nuratio.workspace.train import Trained
from nuratio.workspace.validate import MULTIPLICATIVE

__all__ = ["anchor_columns", "event_columns", "shape_columns", "unbinned_channel"]

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
    return "/".join(name for name, _ in term) + "/cross"


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
                powers = {term: side ** term[0][1] for term in d if len(term) == 1 and term[0][0] == nuisance}
                columns[column] = columns[name] * np.exp(sum(sign * d[term] for term, sign in powers.items()))
    return columns


def unbinned_channel(name: str, trained: Trained, cells: Cells | None) -> tuple[dict[str, Any], dict[str, RatioTable]]:
    """The entry of an unbinned channel and its tables.

    Shapes are normalised by the cumulant form of ln Z, or by the exact pool integral where that is off by more than
    1e-3 within two standard deviations; the entry says which, and the errors found.

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
    stored = {c: v.astype(np.float32).astype(np.float64) for c, v in on_pool.items()}  # as the fit sees it
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
        "samples": [_sample(part, trained, stored, pool.weights, groups, cells) for part in trained.parts],
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
    return entry, tables


def _sample(
    part: Part,
    trained: Trained,
    stored: Mapping[str, Floats],
    q: Floats,
    groups: Sequence[Bools],
    cells: Cells | None,
) -> dict[str, Any]:
    """The entry of a part."""
    name = part.name
    density = q * stored[name]
    terms, anchors = shape_columns(name, trained), anchor_columns(name, trained)

    def per_cell(numbers: list[Any]) -> Any:
        return numbers[0] if cells is None else numbers

    entry: dict[str, Any] = {"name": name, "ratio": {"column": name}, "simulation": _simulation(part, trained)}
    if cells is not None:
        entry["shares"] = [float(density[group].sum()) for group in groups]
    entry["modifiers"] = list(_exponents(terms))
    crossed = [(term, column) for term, column in terms.items() if len(term) == 2]
    if crossed:
        entry["cross"] = [{"parameters": [k for k, _ in term], "column": column} for term, column in crossed]
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
    nuisances = trained.nuisances(name, "quadexp")
    if not nuisances and all(trained.codes[nuisance] not in MULTIPLICATIVE for nuisance in anchors):
        return entry  # without shapes, or with those whose integrals are known
    norm = entry["normalisation"] = {"type": "pool", "parameters": list(nuisances)}
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


def _exponents(terms: Mapping[Term, str]) -> Iterator[dict[str, Any]]:
    """A modifier for each nuisance in an exponent, with its powers."""
    alone = [(*term[0], column) for term, column in terms.items() if len(term) == 1]
    for nuisance in dict.fromkeys(name for name, _, _ in alone):
        data = {f"d{power}": {"column": column} for name, power, column in alone if name == nuisance}
        yield {"name": nuisance, "type": "ratiosys", "interpcode": "quadexp", "data": data}


def _simulation(part: Part, trained: Trained) -> dict[str, Any]:
    """The simulated events of a part: how many, and where they are in the pool."""
    fractions, there = trained.ratio.reference_fractions, []
    for number, group in enumerate(split_by_sign(trained.events.nominal)):
        fraction = fractions[group.name]
        if fraction > 0 and group.sample == part.sample and part.name in (group.name, group.sample):
            there.append({"number": number, "weight": group.total / part.total / fraction})
    return {"events": part.events, "effective": part.effective_size, "parts": there}
