"""The table of shape sizes and the curves to draw of one part: varied over nominal densities, and coefficients."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.linked import LinkedPart, binned_difference, in_bins
from nuratio.checks.report import Coefficients, Sizes, VariedRatio
from nuratio.checks.variations import features, missed
from nuratio.data.varied import Term, monomial

__all__ = ["coefficient_curves", "ratio_curves", "size_table"]

Floats = NDArray[np.float64]

_OUTER = 0.002  # share of events beyond the drawn range, on either side


def size_table(part: LinkedPart, kept: Sequence[str], normalisation: Mapping[str, float]) -> Sizes:
    """What every nuisance does to the part at +-1, pruned ones included.

    Parameters
    ----------
    part : LinkedPart
    kept : sequence of str
        Nuisances whose shape the fit has.
    normalisation : mapping
        Nuisance -> error of ln Z.
    """
    names = part.shape.nuisances
    of_side = {side: np.array([_size(part, name, side) for name in names]).reshape(-1, 4).T for side in (1.0, -1.0)}
    (up, up_seen, up_error, rate_up), (down, down_seen, down_error, rate_down) = of_side.values()
    return Sizes(
        sample=part.name,
        nuisances=names,
        kept=np.isin(names, list(kept)),
        up=up,
        up_seen=up_seen,
        up_error=up_error,
        down=down,
        down_seen=down_seen,
        down_error=down_error,
        rate_up=rate_up,
        rate_down=rate_down,
        normalisation=np.array([normalisation.get(name, np.nan) for name in names]),
        note="",
    )


def _size(part: LinkedPart, nuisance: str, side: float) -> tuple[float, float, float, float]:
    """Rms of the learned log ratio at +-1; that of the simulation along it, and its error; and the relative yield.

    With f the learned log ratio, E_varied[f] - E_nominal[f] is to first order its covariance with the true one, and in
    units of the rms of f the size that the true one has along it. In the error is that of the rms, too.
    """

    def log_ratio(d: Mapping[Term, Floats]) -> Floats:
        own = {term: monomial(term, {nuisance: side}) for term in d if {name for name, _ in term} == {nuisance}}
        return np.asarray(sum(phi * d[term] for term, phi in own.items()))

    learned = log_ratio(part.d)
    squares = (learned - part.weights @ learned) ** 2
    rms = float(np.sqrt(part.weights @ squares))
    at = [v for v, point in enumerate(part.points) if dict(point.alpha) == {nuisance: side}]
    if not at:
        return rms, np.nan, np.nan, np.nan
    rate = part.points[at[0]].events.total / part.nominal.total
    if rms == 0:
        return rms, np.nan, np.nan, rate
    pair = part.pair(at[0])
    (difference,), each = pair.difference(pair.nominal, learned[:, None], log_ratio(part.moved(pair))[:, None])
    each = each[:, 0] / rms - difference / (2 * rms**3) * part.weights * (squares - rms**2)
    return rms, float(difference) / rms, float(np.linalg.norm(each)), rate


def ratio_curves(part: LinkedPart, v: int) -> Iterator[VariedRatio]:
    """Simulated and learned shape over the nominal one at the v-th point, in bins of each feature."""
    point, pair = part.points[v], part.pair(v)
    product = part.weights * part.factor.at(part.d, point.alpha, crossed=False)
    for quantity, values in zip(features(part, pair), part.nominal.features.T, strict=True):
        if len(quantity.edges) < 2:
            continue
        nominal, alone = (in_bins(quantity.at, w, quantity.bins) for w in (pair.nominal, product / product.sum()))
        learned, varied, covariance = binned_difference(pair, pair.learned, quantity.at, quantity.to, quantity.bins)
        found = missed(part, pair, quantity)
        yield VariedRatio(
            sample=part.name,
            point=str(point),
            feature=quantity.name,
            nuisances=tuple(point.alpha),
            edges=_drawn(quantity.edges, values),
            simulated=varied / nominal,
            error=np.sqrt(np.maximum(np.diag(covariance), 0.0)) / nominal,
            learned=learned / nominal,
            product=alone / nominal if len(point.alpha) > 1 else np.empty(0),
            chi2=found.chi2,
            bins=found.ndf,
        )


def coefficient_curves(part: LinkedPart, nuisance: str) -> Iterator[Coefficients]:
    """D of every power of a nuisance in bins of each feature."""
    own = {term[0][1]: values for term, values in part.d.items() if len(term) == 1 and term[0][0] == nuisance}
    there = part.weights > 0
    weights = part.weights[there]
    for (name, edges, cells), values in zip(part.binned, part.nominal.features.T, strict=True):
        if len(edges) < 2:
            continue
        bins = len(edges) - 1
        at = cells[part.base[there]]
        bands = np.array([_band(at, d[there], weights, bins) for d in own.values()])  # (powers, 3, bins)
        mean, low, high = bands.transpose(1, 0, 2)
        yield Coefficients(part.name, nuisance, name, _drawn(edges, values), tuple(own), mean, low, high)


def _band(at: NDArray[np.int64], values: Floats, weights: Floats, bins: int) -> Floats:
    """Mean and quantiles 16% and 84% of the values in each bin, shape (3, bins)."""
    total = in_bins(at, weights, bins)
    order = np.lexsort((values, at))
    found = [in_bins(at, weights * values, bins) / total]
    behind = np.cumsum(weights[order])  # bin after bin
    before = np.r_[0.0, np.cumsum(total)[:-1]]
    for share in (0.16, 0.84):
        where = np.searchsorted(behind, before + share * total)
        found.append(values[order][np.minimum(where, len(values) - 1)])
    return np.array(found)


def _drawn(edges: Floats, values: NDArray[np.floating]) -> Floats:
    """Edges for drawing: the outer bins hold long tails and end where few events are left."""
    low, high = np.quantile(values, [_OUTER, 1 - _OUTER])
    drawn = edges.copy()
    if low < edges[1]:
        drawn[0] = max(edges[0], low)
    if edges[-2] < high:
        drawn[-1] = min(edges[-1], high) if edges[-1] <= values.max() else edges[-1]
    return drawn
