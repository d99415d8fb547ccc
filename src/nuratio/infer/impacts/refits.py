"""Refits around a fit: how far the parameter of interest moves when something is changed.

`Refits` is made once from a fit and refits from its minimum, which costs a few gradients each. A refit that fails
is an answer too: no shift, and the reason. `answers` runs many of them, here or by an executor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidData, NuratioError
from nuratio.infer.fitting.fit import Fitter, cancellation, require_poi
from nuratio.infer.fitting.minimum import Minimum
from nuratio.infer.impacts.fluctuations import AuxiliaryData
from nuratio.infer.results import FitResult
from nuratio.parallel.tasks import run_tasks

__all__ = ["Refits", "Shift", "answers"]

Floats = NDArray[np.float64]
Task = TypeVar("Task")
Answer = TypeVar("Answer")
Shift = tuple[float, str]  # of the parameter of interest, NaN if the refit failed; what is wrong with it, if anything

_SAME = 1e-4  # of -2 ln L, between a fit that is handed in and the minimum found again
_LOWER = 1e-6  # of -2 ln L: a conditional minimum this much below the best fit shows that the latter is none


@dataclass(frozen=True, eq=False)
class Refits:
    """What all refits start from; it can be sent to a worker.

    Attributes
    ----------
    model : Model
    data : ndarray
        Flat data vector.
    poi, k : str, int
        The parameter of interest and its position.
    fit : FitResult
        With its covariance.
    minimum : Minimum
        Of the fit.
    fixed : mapping of str to float
        What the fit held besides the parameters that the model holds.
    """

    model: Any
    data: Floats
    poi: str
    k: int
    fit: FitResult
    minimum: Minimum
    fixed: Mapping[str, float]

    @classmethod
    def around(cls, model: Any, data: ArrayLike, poi: str | None = None, fit: FitResult | None = None) -> "Refits":
        """Around a fit of the model to the data, which is made here if it is not given.

        Raises
        ------
        InvalidData
            A fit that is not of this model and these data, that has no covariance, or in which the parameter of
            interest was held or ended on a bound.
        InvalidModel, UnknownName
            No parameter of interest, or none of this name.
        """
        fitter = Fitter(model, data)
        poi = require_poi(fitter.model) if poi is None else poi
        k, fixed = fitter.index(poi), {}
        if fit is None:
            minimum = fitter.minimum()
            fit = fitter.result(minimum)
        else:
            if fit.names != fitter.names:
                raise InvalidData(f"the fit has the parameters {list(fit.names)}, the model {list(fitter.names)}")
            held = zip(fit.names, fit.bestfit.tolist(), fit.fixed, fitter.fixed, strict=True)
            fixed = {name: value for name, value, of_fit, of_model in held if of_fit and not of_model}
            at = dict(zip(fit.names, fit.bestfit.tolist(), strict=True))
            minimum = fitter.minimum(fixed=fixed, init=at)
            if not abs(minimum.value - fit.twice_nll) < max(_SAME, 1e-10 * abs(minimum.value)):
                raise InvalidData(
                    f"the fit is not the minimum of this model on these data: it has -2 ln L = {fit.twice_nll:.10g}, "
                    f"the minimum {minimum.value:.10g}; fit these data, within the model's bounds"
                )
        if not np.isfinite(fit.covariance).all():
            raise InvalidData(f"the fit has no covariance: fit with hesse=True. It says: {fit.message or 'nothing'}")
        if fit.covariance[k, k] == 0:
            why = "was held" if fit.fixed[k] else "ended on a bound"
            raise InvalidData(f"{poi!r} {why} in the fit: choose a parameter with an uncertainty")
        return cls(fitter.model, fitter.data, poi, k, fit, minimum, fixed)

    @property
    def aux(self) -> Floats:
        """Auxiliary data, shape (auxdata,)."""
        return np.asarray(self.data[self.model.config.nmaindata :])

    @property
    def auxiliary(self) -> AuxiliaryData:
        """The auxiliary measurements."""
        return AuxiliaryData.of(self.model, self.aux, self.fit.bestfit)

    def held(self, name: str, values: Sequence[float]) -> list[Shift]:
        """A parameter held at each of the values."""
        fitter, best = Fitter(self.model, self.data), float(self.fit.bestfit[self.fit.index(name)])
        low, high = fitter.bounds[fitter.index(name)]
        asked = [v for v in values if v != best and low <= v <= high]
        try:
            minima = fitter.conditional(name, asked, [self.minimum], fixed=self.fixed)
        except NuratioError as error:
            return [(float("nan"), str(error))] * len(values)
        found: dict[float, Shift] = {best: (0.0, "")}
        for value, minimum in zip(asked, minima, strict=True):
            found[value] = self._shift(fitter, minimum)
            if minimum.valid and minimum.value < self.minimum.value - _LOWER:
                lower = self.minimum.value - minimum.value
                found[value] = float("nan"), f"-2 ln L is lower by {lower:.2g} than at the best fit, which is none"
        outside = float("nan"), f"outside its bounds [{low:.6g}, {high:.6g}]"
        return [found.get(value, outside) for value in values]

    def with_auxdata(self, position: int, value: float) -> Shift:
        """One auxiliary datum changed to a value; the events are not read again."""
        fitter, aux = Fitter(self.model, self.data), self.aux.copy()
        aux[position] = value
        fitter.likelihood = replace(fitter.likelihood, aux=aux)
        return self._near(fitter)

    def with_main_data(self, main: Floats) -> Shift:
        """Other main data: counts of bins and weights of events."""
        return self._near(Fitter(self.model, np.concatenate([main, self.aux])))

    def _near(self, fitter: Fitter) -> Shift:
        try:
            return self._shift(fitter, fitter.minimum(fixed=self.fixed, near=self.minimum))
        except NuratioError as error:
            return float("nan"), str(error)

    def _shift(self, fitter: Fitter, found: Minimum) -> Shift:
        lines = fitter.likelihood.nonpositive(found.theta) if found.valid else []
        if lines or not found.valid:
            return float("nan"), cancellation(lines) if lines else found.message
        shift = float(found.theta[self.k] - self.minimum.theta[self.k])
        if found.at_bound[self.k]:
            return shift, f"{self.poi!r} ended on its bound {found.theta[self.k]:.6g}, which cuts the shift: widen it"
        return shift, ""


def answers(
    function: Callable[[Any, Task], Answer], shared: Any, tasks: Sequence[Task], executor: Any = None
) -> list[Answer]:
    """``function(shared, task)`` of every task, in order; by the executor if there is one."""
    if executor is None:
        return [function(shared, task) for task in tasks]
    found = dict(run_tasks(function, shared, tasks, executor=executor))
    return [found[position] for position in range(len(tasks))]
