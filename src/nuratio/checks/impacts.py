"""Which nuisances the result will depend on, before it is known: impacts on Asimov data.

Asimov data of the nominal model hold nothing of the observed events, so nothing is told of the result.
"""

from typing import Any

import numpy as np

from nuratio.checks.report import Check, Ranking
from nuratio.errors import InvalidModel, NonPositiveDensity
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.impacts import impacts, shape_impacts

__all__ = ["asimov_impacts"]


def asimov_impacts(model: Any, poi: str) -> tuple[Check, Ranking | None]:
    """Whether Asimov data of the nominal model can be made and fitted, and the impacts on them.

    Without an uncertainty of the parameter of interest (it is fixed, or at a bound) there are no impacts.
    """
    nominal = np.array(model.config.suggested_init(), dtype=np.float64)
    try:
        data = model.asimov(nominal)
    except (InvalidModel, NonPositiveDensity) as error:
        return Check("Asimov fit", "model", float("nan"), 0.0, 0.0, str(error)), None
    best = fit(model, data, simulation=False)
    meaning = best.message or "the fit of Asimov data of the nominal model converged"
    check = Check("Asimov fit", "model", 0.0 if best.valid else float("nan"), 0.0, 0.0, meaning)
    sigma = best[poi].uncertainty
    if not (best.valid and sigma > 0):
        return check, None
    found, shapes = impacts(best, poi), shape_impacts(model, data, best, poi)
    return check, Ranking(
        parameter=poi,
        nuisances=found.names,
        constraint=found.constraint,
        impact=found.impact / sigma,
        prefit=found.prefit / sigma,
        shapes=np.array([shapes.get(name, 0.0) for name in found.names]) / sigma,
    )
