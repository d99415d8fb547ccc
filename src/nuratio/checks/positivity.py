"""Where the total density stays positive: an audit of the parameter space on the pool.

Signed samples may cancel. The likelihood is defined where the total density is positive at the observed events; the
pool shows ahead of data (and of toys) for which parameters that is so everywhere.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.report import Check
from nuratio.infer.results import FitResult

__all__ = ["positivity_checks"]

Floats = NDArray[np.float64]

_SIGMAS = 2.0
_STEPS = 12  # each way
_DRAWS = 40
_ALLOWED = 1e-4  # of the pool
_CHUNK = 65536


def positivity_checks(model: Any, fit: FitResult) -> Iterator[Check]:
    """Each parameter along its range, the others nominal, and all of them at random.

    The range is two constraint widths of a nuisance, two uncertainties of the fit for other parameters, around the
    nominal value and within the bounds.

    Parameters
    ----------
    model : Model
    fit : FitResult
        For the uncertainties; its best-fit values are not looked at.
    """
    nominal = np.array(model.config.suggested_init(), dtype=np.float64)
    lower, upper = np.array(model.config.suggested_bounds(), dtype=np.float64).T
    width = np.where(fit.constraint_width > 0, fit.constraint_width, fit.uncertainty)
    free = [k for k in range(len(nominal)) if not fit.fixed[k] and np.isfinite(width[k]) and width[k] > 0]
    low = np.maximum(nominal - _SIGMAS * np.nan_to_num(width), lower)
    high = np.minimum(nominal + _SIGMAS * np.nan_to_num(width), upper)
    moving = _moving(model, nominal, free, high)
    for k in moving:
        ends, worst = [], 0.0
        for end in (low[k], high[k]):
            reached = nominal[k]
            for value in np.linspace(nominal[k], end, _STEPS + 1):
                theta = nominal.copy()
                theta[k] = value
                bad = nonpositive_share(model, theta)
                worst = max(worst, bad)
                if bad > _ALLOWED:
                    break
                reached = value
            ends.append(reached)
        meaning = (
            f"share of the pool without positive density; it is positive for {ends[0]:.3g} <= {fit.names[k]} <= "
            f"{ends[1]:.3g}, looked at from {low[k]:.3g} to {high[k]:.3g}"
        )
        yield Check(f"positivity in {fit.names[k]}", "model", worst, 0.0, _ALLOWED, meaning)
    if len(moving) > 1:
        rng, worst = np.random.default_rng(0), 0.0
        for _ in range(_DRAWS):
            theta = nominal.copy()
            theta[moving] = rng.uniform(low[moving], high[moving])
            worst = max(worst, nonpositive_share(model, theta))
        meaning = "share of the pool without positive density, at random parameters within these ranges"
        yield Check("positivity, all together", "model", worst, 0.0, _ALLOWED, meaning)


def nonpositive_share(model: Any, pars: Floats) -> float:
    """The largest share (by reference weight) of a channel's pool where the total density is not positive."""
    theta = model.parameters.values(pars)
    nu, worst = model.rates.nu(theta), 0.0
    for name, channel in model.unbinned.items():
        bad = total = 0.0
        for cell in channel.cells:
            yields, table = nu[model.rates.cells(name, cell.bin)], cell.pool.rows
            program, (scale, _, _) = cell.program(table), cell.normalise(theta)
            densities = cell.kernel.densities(program, program.at(scale, theta), table)
            total += float(cell.pool_weights.sum())
            for some, t in densities.chunks(_CHUNK):
                bad += float(cell.pool_weights[some][~(yields @ t > 0)].sum())
        worst = max(worst, bad / total if total else 0.0)
    return worst


def _moving(model: Any, nominal: Floats, free: list[int], high: Floats) -> list[int]:
    """The parameters that change a density of an unbinned channel."""

    def state(pars: Floats) -> list[Floats]:
        theta = model.parameters.values(pars)
        nu = model.rates.nu(theta)
        shapes = [theta[list(channel.nuisances)] for channel in model.unbinned.values()]
        return [*(nu[model.rates.cells(name)] for name in model.unbinned), *shapes]

    at_nominal, moving = state(nominal), []
    for k in free:
        theta = nominal.copy()
        theta[k] = high[k] if high[k] != nominal[k] else nominal[k] - 1e-3
        if any(not np.array_equal(a, b) for a, b in zip(at_nominal, state(theta), strict=True)):
            moving.append(k)
    return moving
