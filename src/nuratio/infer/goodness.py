"""Goodness of fit: how well the fitted model describes the data, whatever the parameter of interest.

The statistic compares with the saturated model, in which every bin's expectation is its count and every auxiliary
measurement is met: the sum over all bins of 2 [lambda - n + n ln(n / lambda)], and of the constraint terms. Channels
are tested in their bins, unbinned ones in a projection on one feature: lambda is that of the Asimov data at the fit.

With binned channels only, its distribution is a chi2 in the limit of many events. A projection of an unbinned fit has
none that is known: the fit is not made to the bins, and their expectations have the statistical error of the pool. So
the p-value is counted in toys, which are drawn and fitted as the data were, with another pool for each toy (the same
one with exponential weights: the Bayesian bootstrap).

References
----------
S. Baker, R. Cousins, Nucl. Instrum. Meth. 221 (1984) 437. D. Rubin, Ann. Statist. 9 (1981) 130.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy
from scipy.stats import chi2

from nuratio.errors import InvalidModel, NonPositiveDensity
from nuratio.infer.binned_projection import BinnedProjection
from nuratio.infer.fit import fit as refit
from nuratio.infer.fit import own_model
from nuratio.infer.results import FitResult, GoodnessOfFit
from nuratio.model.asimov import expected_main
from nuratio.model.unbinned import UnbinnedChannel

__all__ = ["goodness_of_fit"]

Floats = NDArray[np.float64]


def goodness_of_fit(
    model: Any,
    data: ArrayLike,
    fit: FitResult,
    projections: Mapping[str, tuple[str, Sequence[float] | int]] | None = None,
    *,
    n_toys: int = 200,
    seed: int = 1,
) -> GoodnessOfFit:
    """Test the fitted model against the saturated one.

    Parameters
    ----------
    model : Model or pyhf.Model
    data : array_like
        Flat data vector.
    fit : FitResult
        The fit to be judged. Parameters fixed in it are fixed in the toys.
    projections : mapping, optional
        Unbinned channel -> (feature, edges or number of bins over the range of the observed events), one for each such
        channel. Events outside the edges are not tested. Bins should expect some events each.
    n_toys : int
        Toys to draw at the best fit and to fit. None are needed with binned channels only.
    seed : int
        Toy i is the same whatever their number.

    Returns
    -------
    GoodnessOfFit
        Look at ``.valid`` and ``.message``: toys whose fit is not valid are left out and reported.

    Raises
    ------
    InvalidModel
        An unbinned channel without a projection, or without toys; a pool that is too small for Asimov data.
    UnknownName
        No such channel or feature.
    NonPositiveDensity
        Events in a bin where the fit expects none.
    """
    model = own_model(model)
    if model.unbinned and n_toys < 1:
        raise InvalidModel(f"the statistic of a projected channel has no asymptotic p-value: n_toys = {n_toys}")
    view = BinnedProjection.of(model, projections)
    expected = model.expected_actualdata(fit.bestfit)
    channels, constraints = _statistic(view, fit.bestfit, np.asarray(data, dtype=np.float64), expected)
    statistic = sum(channels.values()) + constraints
    bins, free = view.config.nmaindata, _free_parameters(fit)
    asymptotic = chi2.sf(statistic, bins - free) if bins > free and not model.unbinned else np.nan
    problems = [] if fit.valid else [f"the fit: {fit.message}"]
    drawn = [_toy(view, fit, rng) for rng in np.random.default_rng(seed).spawn(n_toys)]
    toys = np.array([toy for toy, message in drawn if not message], dtype=np.float64)
    failed = [message for _, message in drawn if message]
    if failed:
        problems.append(f"{len(failed)} of {n_toys} toy fits, the first: {failed[0]}")
    p = (1 + np.count_nonzero(toys >= statistic)) / (1 + len(toys)) if len(toys) else np.nan
    return GoodnessOfFit(
        statistic=statistic,
        channels=channels,
        constraints=constraints,
        projections={n: {"feature": b.feature, "edges": b.edges.tolist()} for n, b in view.bins.items()},
        bins=bins,
        free_parameters=free,
        p_value=p,
        p_value_error=float(np.sqrt(p * (1 - p) / (1 + len(toys)))),
        asymptotic_p_value=float(asymptotic),
        toys=toys,
        valid=not problems,
        message="; ".join(problems),
    )


def _statistic(view: BinnedProjection, theta: Floats, data: Floats, expected: Floats) -> tuple[dict[str, float], float]:
    """-2 ln of the likelihood ratio to the saturated model: the bins of each channel, and the constraint terms.

    ``data`` and ``expected`` are data vectors of the model, the second one without auxiliary data.
    """
    model, observed, rates = view.model, view.data(data), view.data(expected)
    channels = {}
    for name, where in view.config.channel_slices.items():
        n, rate = observed[where], rates[where]
        bad = np.flatnonzero(~((rate > 0) | ((rate == 0) & (n == 0))))
        if bad.size:
            b = bad[0]
            pool = f" (the pool has {len(view.bins[name].pool)} events)" if name in view.bins else ""
            raise NonPositiveDensity(
                f"{n[b]:g} events in bin {b} of channel {name!r}, where {rate[b]:.4g} are expected{pool}: "
                "use wider bins"
            )
        channels[name] = float(2 * np.sum(rate - n + xlogy(n, np.divide(n, rate, where=rate > 0, out=np.ones_like(n)))))
    full, aux = model.parameters.values(theta), data[model.config.nmaindata :]
    return channels, float(model.constraints.twice_nll(full, aux)[0] - model.constraints.constant(aux))


def _free_parameters(fit: FitResult) -> int:
    """Parameters without a constraint term (those have an auxiliary datum each) that are not fixed."""
    return int(np.count_nonzero(np.isnan(fit.constraint_width) & ~np.array(fit.fixed)))


def _toy(view: BinnedProjection, fit: FitResult, rng: np.random.Generator) -> tuple[float, str]:
    """The statistic of a toy drawn at the best fit, and why its fit is not valid if it is not."""
    data = view.model.sample(fit.bestfit, rng)
    best = dict(zip(fit.names, fit.bestfit.tolist(), strict=True))
    fixed = {name: best.pop(name) for name, held in zip(fit.names, fit.fixed, strict=True) if held}
    again = refit(view.model, data, fixed=fixed, init=best, hesse=False)
    if not again.valid:
        return np.nan, again.message
    pools = {name: _other_pool(channel, rng) for name, channel in view.model.unbinned.items()}
    try:
        expected = expected_main(view.model, pools, view.model.parameters.values(again.bestfit))
        channels, constraints = _statistic(view, again.bestfit, data, expected)
    except (NonPositiveDensity, InvalidModel) as error:
        return np.nan, str(error)
    return sum(channels.values()) + constraints, ""


def _other_pool(channel: UnbinnedChannel, rng: np.random.Generator) -> UnbinnedChannel:
    """The channel with its pool's weights times exponential numbers, of the same sum."""
    factors = rng.exponential(size=len(channel.pool))
    weights = [cell.pool_weights * cell.pool.of(factors) for cell in channel.cells]
    scale = sum(cell.pool_weights.sum() for cell in channel.cells) / sum(w.sum() for w in weights)
    cells = zip(channel.cells, weights, strict=True)
    return replace(channel, cells=tuple(replace(cell, pool_weights=scale * w) for cell, w in cells))
