"""Asymptotic hypothesis tests: CLs for limits, p0 for discovery (Cowan, Cranmer, Gross, Vitells, arXiv:1007.1727).

`hypotest` tests one value of the POI with ``qtilde`` (limits, POI not below zero), ``q`` (limits, POI of either sign)
or ``q0`` (discovery); `significance` gives Z. Numbers are those of `pyhf.infer.hypotest`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from nuratio.errors import InvalidModel, did_you_mean
from nuratio.infer.fitting.asymptotics import asymptotics_option, test_concerns, warn_or_refuse
from nuratio.infer.fitting.fit import Fitter, require_poi
from nuratio.infer.hypotheses.test_statistics import Profile
from nuratio.infer.results import HypotestResult, SignificanceResult

__all__ = ["TEST_STATISTICS", "Tester", "hypotest", "significance"]

TEST_STATISTICS = {"qtilde": 0.0, "q": 0.0, "q0": 1.0}  # with the POI of their Asimov data

_SIGMAS = (-2, -1, 0, 1, 2)


def hypotest(
    model: Any, data: ArrayLike, poi_value: float, *, test_stat: str = "qtilde", asymptotics: str = "check"
) -> HypotestResult:
    """Test one value of the POI.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    poi_value : float
        The tested value (0 for ``q0``).
    test_stat : str
        ``qtilde`` (Eq. 16), ``q`` (Eq. 14) or ``q0`` (Eq. 12).
    asymptotics : str
        ``check`` warns where the formulas do not hold, ``force`` does not look.

    Raises
    ------
    InvalidModel
        No POI, a value outside its bounds, an unknown test statistic; a parameter that the data do not know without
        signal, unless the formulas are forced.

    Warns
    -----
    AsymptoticsWarning
        See `nuratio.infer.fitting.asymptotics`.
    """
    tester = Tester(model, data, test_stat=test_stat)
    result = tester.test(poi_value)
    if asymptotics_option(asymptotics):
        signal = TEST_STATISTICS["q0"] if test_stat == "q0" else float(poi_value)
        warn_or_refuse(test_concerns(tester.observed, signal, test_stat), stacklevel=2)
    return result


def significance(
    model: Any, data: ArrayLike, *, expected_at: float = 1.0, asymptotics: str = "check"
) -> SignificanceResult:
    """Observed discovery significance, and the expected one for a POI of ``expected_at``.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    expected_at : float
    asymptotics : str
        See `hypotest`, also for what is raised and warned of.

    Raises
    ------
    InvalidModel
        No POI, or 0 is outside its bounds.
    """
    tester = Tester(model, data, test_stat="q0", asimov_poi=expected_at)
    result = tester.test(0.0)
    if asymptotics_option(asymptotics):
        warn_or_refuse(test_concerns(tester.observed, expected_at, "q0"), stacklevel=2)
    z, z_expected = np.sqrt(result.statistic), np.sqrt(result.asimov_statistic)
    return SignificanceResult(
        poi=tester.poi,
        p0=float(norm.sf(z)),
        significance=float(z),
        expected_p0=float(norm.sf(z_expected)),
        expected_significance=float(z_expected),
        expected_at=expected_at,
        valid=result.valid,
        message=result.message,
    )


class Tester:
    """Tests of many POI values on one data set: the Asimov data are made once, fits are warm-started.

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    test_stat : str
        ``qtilde``, ``q`` or ``q0``.
    asimov_poi : float, optional
        POI of the alternative; 0 for limits and 1 for discovery by default.
    """

    def __init__(
        self, model: Any, data: ArrayLike, *, test_stat: str = "qtilde", asimov_poi: float | None = None
    ) -> None:
        if test_stat not in TEST_STATISTICS:
            raise InvalidModel(f"no test statistic {test_stat!r}; {did_you_mean(test_stat, TEST_STATISTICS)}")
        self.test_stat, self.poi = test_stat, require_poi(model)
        alternative = TEST_STATISTICS[test_stat] if asimov_poi is None else asimov_poi
        self.observed = Profile(Fitter(model, data), self.poi)
        background = self.observed.at(alternative)
        fitter = self.observed.fitter
        self.asimov = Profile(
            Fitter(fitter.model, fitter.model.expected_data(background.theta)), self.poi, generated_at=background
        )

    def prepare(self, poi_values: Iterable[float]) -> None:
        """Make the fits for all of these POI values together; `test` then has them."""
        values = [float(v) for v in poi_values]
        for data in (self.observed, self.asimov):
            data.prepare(values)

    def test(self, poi_value: float) -> HypotestResult:
        """The result for one POI value."""
        q = self.observed.statistic(poi_value, self.test_stat)
        q_asimov = self.asimov.statistic(poi_value, self.test_stat)
        root, root_asimov = np.sqrt(q), np.sqrt(q_asimov)
        if self.test_stat == "qtilde" and root > root_asimov > 0:
            shift = (q - q_asimov) / (2 * root_asimov)
        else:
            shift = root - root_asimov
        cl_sb, cl_b = float(norm.sf(shift + root_asimov)), float(norm.sf(shift))
        log_ratio = norm.logsf(shift + root_asimov) - norm.logsf(shift)  # where both are too small for a number
        if self.test_stat == "q0":
            expected = [float(norm.sf(root_asimov - n)) for n in _SIGMAS]
        else:
            expected = [float(norm.sf(root_asimov - n) / norm.cdf(n)) for n in _SIGMAS]
        profiles = {"observed": self.observed, "Asimov": self.asimov}
        problems = [f"{data} {line}" for data, p in profiles.items() for line in p.wrong]
        return HypotestResult(
            poi=self.poi,
            poi_value=float(poi_value),
            test_stat=self.test_stat,
            statistic=float(q),
            asimov_statistic=float(q_asimov),
            CLs=cl_sb / cl_b if cl_b > 0 else float(np.exp(log_ratio)),
            CLsb=cl_sb,
            CLb=cl_b,
            CLs_expected=tuple(expected),
            valid=not problems,
            message="; ".join(problems),
        )
