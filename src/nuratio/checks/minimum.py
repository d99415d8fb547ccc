"""The check that matters: where does the minimum of the likelihood go if another network is believed?

The ratios at the observed events are the mean of all networks: of several folds, which learned from different events,
and of several members each, which started differently. Each network alone gives another fit of the same events. The
differences, in units of the fit's uncertainty, are the error of the result that comes from training.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.report import Check, Shifts
from nuratio.checks.reweighting import keeping_shares
from nuratio.data.split import fold_of
from nuratio.infer.fitting.fit import fit
from nuratio.infer.results import FitResult
from nuratio.ratios.table import RatioTable
from nuratio.workspace.channel import anchor_columns, event_columns, shape_columns
from nuratio.workspace.rates import Cells
from nuratio.workspace.train import Trained
from nuratio.workspace.workspace import Workspace

__all__ = ["minimum_check", "with_one_network"]

Floats = NDArray[np.float64]

_ERROR = 0.3  # allowed error of the minimum from the training, in units of the uncertainty


def minimum_check(
    workspace: Workspace, regions: Mapping[str, tuple[Trained, Cells | None]], best: FitResult, poi: str
) -> tuple[Check, Shifts]:
    """Refit the parameter of interest with single networks.

    With mu_kj the minimum of member j of fold k (K folds, E members) and mu_k the mean of a fold, the jackknife over
    folds, (K - 1) / K sum_k (mu_k - mean)^2, is the variance from the simulated events; the variance s^2 of the members
    of a fold comes from the random start. The mean of all has the variance

        max[(K - 1) / K sum_k (mu_k - mean)^2 - (K - 1)^2 s^2 / (K E), 0] + s^2 / (K E).

    Parameters
    ----------
    workspace : Workspace
    regions : mapping
        Unbinned region -> its networks and cells.
    best : FitResult
        The fit with all networks.
    poi : str
    """
    estimator = next(iter(regions.values()))[0].ratio
    folds, members = estimator.options.folds, estimator.options.ensemble
    start = dict(zip(best.names, best.bestfit.tolist(), strict=True))
    start = {name: value for name, value in start.items() if not best.fixed[best.names.index(name)]}
    sigma, shifts = best[poi].uncertainty, np.empty((folds, members))
    for m in range(folds * members):
        other = with_one_network(workspace, regions, m)
        alone = other.model()
        found = fit(alone, other.data(alone), init=start, hesse=False)
        shifts[divmod(m, members)] = (found[poi].value - best[poi].value) / sigma if found.valid else np.nan
    of_fold, start_variance = shifts.mean(axis=1), shifts.var(axis=1, ddof=1).mean() / shifts.size if members > 1 else 0
    jackknife = (folds - 1) / folds * ((of_fold - of_fold.mean()) ** 2).sum()
    error = float(np.sqrt(max(jackknife - (folds - 1) ** 2 * start_variance, 0.0) + start_variance))
    listed = ", ".join(f"{shift:+.2f}" for shift in shifts.ravel())
    meaning = f"error of its best fit from the training, in sigma; single networks move it by {listed}"
    return Check(f"minimum in {poi}", "model", error, 0.0, _ERROR, meaning), Shifts(poi, shifts)


def with_one_network(
    workspace: Workspace, regions: Mapping[str, tuple[Trained, Cells | None]], member: int
) -> Workspace:
    """The workspace with observed events as one network sees them, normalised on the simulation it learned from."""
    tables = dict(workspace.tables)
    for name, (trained, cells) in regions.items():
        observed, pool = (tables[f"{name}.{which}"] for which in ("observed", "pool"))
        tables[f"{name}.observed"] = _observed(trained, observed, pool, 1 if cells is None else len(cells), member)
    return replace(workspace, tables=tables)


def _observed(trained: Trained, observed: RatioTable, pool: RatioTable, cells: int, member: int) -> RatioTable:
    """Columns of one network: in each cell, ratios have the integrals and D the means that they have in the pool.

    Its integrals are taken over the pool events of its training, so that folds are replicas of the whole analysis with
    one group of the simulation left out. Parts of the reference keep their shares.
    """
    options, events = trained.ratio.options, trained.ratio.pool(trained.events.nominal)
    seen = fold_of(events.event_ids, options.folds, options.fold_seed) != member // options.ensemble
    q = pool["reference weight"].astype(np.float64)
    q_seen = keeping_shares(q, events.part, seen)
    in_pool, in_data = (t["cell"].astype(int) if "cell" in t else np.zeros(len(t), int) for t in (pool, observed))

    def integral(values: NDArray[np.floating], where: NDArray[np.int64]) -> Floats:
        return np.bincount(where, values, minlength=cells).astype(np.float64)

    alone = event_columns(trained, events.features[seen], member=member)
    columns = event_columns(trained, trained.events.data, member=member)
    for part in (p.name for p in trained.parts):
        density, density_alone = q * pool[part], q_seen * alone[part]
        whole, single = integral(density, in_pool), integral(density_alone, in_pool[seen])
        for column in shape_columns(part, trained).values():
            mean = integral(pool[column] * density, in_pool) / whole
            shift = mean - integral(alone[column] * density_alone, in_pool[seen]) / single
            columns[column] = columns[column] + shift[in_data]
        for column in (part, *(c for pair in anchor_columns(part, trained).values() for c in pair)):
            factor = integral(q * pool[column], in_pool) / integral(q_seen * alone[column], in_pool[seen])
            columns[column] = columns[column] * factor[in_data]
    return RatioTable.from_columns({c: columns.get(c, observed[c]) for c in observed.names})
