"""Injection tests: what a model makes of data it did not describe, such as those of another simulation.

Use `inject` with the expected data of something else: of a model with the same events but other networks, shapes or
rates (``other.expected_actualdata(pars)``), or of another simulation, whose events are then the observed events of the
model and whose weights are their expectations (`nuratio.workspace.injection`). The expected data themselves are fitted,
which gives the bias without any statistical error, and toys about them, which give its size in standard deviations,
pulls and coverage.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel
from nuratio.infer.fitting.fit import fit, own_model, require_poi
from nuratio.infer.profiles.intervals import chi2_heights
from nuratio.infer.results import FitResult, _number, _Result
from nuratio.infer.toys.coverage import LEVELS, CoveragePoint, count_coverage
from nuratio.infer.toys.toys import hypothesis_point, toys

__all__ = ["InjectionResult", "inject"]

Floats = NDArray[np.float64]

_RESAMPLES = 50


@dataclass(frozen=True, eq=False)
class InjectionResult(_Result):
    """A model fitted to what something else expects.

    Attributes
    ----------
    poi : str
    truth : float
        The value of the POI that was injected.
    expected : FitResult
        Of the expected data themselves.
    bias, bias_error : float
        Best fit of the expected data minus the truth, in units of the POI; its error from the variance of
        the expected data (fifty resamplings; 0 without a variance, NaN if half of their fits failed).
    levels : tuple of float
    toys : CoveragePoint
        Toys about the expectation.
    valid : bool
    message : str
    """

    kind: ClassVar[str] = "injection"

    poi: str
    truth: float
    expected: FitResult
    bias: float
    bias_error: float
    levels: tuple[float, ...]
    toys: CoveragePoint
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in ("truth", "bias", "bias_error"):
            values[key] = _number(values[key])
        values["levels"] = tuple(values["levels"])
        values["expected"] = FitResult.from_dict(values["expected"])
        return values | {"toys": CoveragePoint.from_dict(values["toys"])}


def inject(
    model: Any,
    expected: ArrayLike,
    truth: Mapping[str, float],
    n: int = 300,
    *,
    variance: ArrayLike | None = None,
    levels: Sequence[float] = LEVELS,
    seed: int = 1,
    starts: Sequence[float] = (),
    executor: Executor | None = None,
    output: str | Path | None = None,
    progress: bool | None = None,
) -> InjectionResult:
    """Fit a model to data that something else expects, and to toys about them.

    Parameters
    ----------
    model : Model or pyhf.Model
        What is fitted.
    expected : array_like, shape (main data,)
        Of the model's data vector: counts in bins, weights of events.
    truth : mapping
        What was injected: the POI, and nuisances if they are not nominal (auxiliary data are drawn about them).
    n : int
        Toys.
    variance : array_like, shape (main data,), optional
        Of ``expected``, which has a statistical error of its own: squared weights of simulated events.
    levels, seed, starts, executor, output, progress
        See `nuratio.coverage` and `nuratio.toys`.

    Raises
    ------
    InvalidModel
        No POI, a truth that does not say its value, a data vector of the wrong length, negative expectations,
        a level outside (0, 1).
    """
    model = own_model(model)
    poi = require_poi(model)
    if poi not in truth:
        raise InvalidModel(f"the truth {dict(truth)} does not say the value of the POI {poi!r}")
    levels, _ = chi2_heights(levels, 1)
    theta = hypothesis_point(model, truth, None)
    drawn = toys(
        model,
        theta,
        n,
        tests=[("t", float(truth[poi]))],
        seed=seed,
        starts=starts,
        expected=expected,
        executor=executor,
        output=output,
        progress=progress,
    )
    main = np.array(expected, dtype=np.float64)
    data = np.concatenate([main, model.expected_auxdata(theta)])
    found = fit(model, data, init=dict(zip(drawn.names, theta.tolist(), strict=True)))
    problems = [f"fit of the expected data: {found.message}"] if not found.valid else []
    return InjectionResult(
        poi=poi,
        truth=float(truth[poi]),
        expected=found,
        bias=found[poi].value - float(truth[poi]),
        bias_error=0.0 if variance is None else _bias_error(model, main, np.array(variance), found, theta, seed),
        levels=levels,
        toys=count_coverage(drawn, truth, levels),
        valid=not problems and drawn.valid,
        message="; ".join([*problems, *([drawn.message] if drawn.message else [])]),
    )


def _bias_error(model: Any, expected: Floats, variance: Floats, found: FitResult, truth: Floats, seed: int) -> float:
    """Spread of the best-fit POI when the expected data fluctuate: gamma numbers of their means and variances.

    For simulated events, whose variance is the weight squared, these are exponential weights (Rubin's bootstrap).
    """
    if variance.shape != expected.shape or not (variance >= 0).all():
        raise InvalidModel(
            f"variances of {len(expected)} expected data are needed, none negative; got {variance.shape}"
        )
    rng, moving = np.random.default_rng([seed, 1]), (variance > 0) & (expected > 0)
    init = dict(zip(found.names, found.bestfit.tolist(), strict=True))
    aux, values = model.expected_auxdata(truth), []
    for _ in range(_RESAMPLES):
        main = expected.copy()
        shape = expected[moving] ** 2 / variance[moving]
        main[moving] = rng.gamma(shape) * expected[moving] / shape
        again = fit(model, np.concatenate([main, aux]), init=init, hesse=False, simulation=False)
        if again.valid:
            values.append(again[model.config.poi_name].value)
    return float(np.std(values, ddof=1)) if len(values) > _RESAMPLES / 2 else float("nan")
