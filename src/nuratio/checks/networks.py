"""Whether the networks agree: with each other, and with what their ratios have to add up to."""

from collections.abc import Iterator

import numpy as np

from nuratio.checks.report import Check
from nuratio.checks.reweighting import CrossFitted

__all__ = ["network_checks", "normalisation_checks"]

_NORMALISATION, _SPREAD, _SUM = 0.01, 0.05, 0.05


def normalisation_checks(fitted: CrossFitted) -> Iterator[Check]:
    """E_q[r] of every part, before it was corrected."""
    for name, (z, error) in fitted.estimator.normalisation.items():
        meaning = "E_q[r] - 1 before it was corrected: train longer"
        yield Check("normalisation", name, z - 1, error, _NORMALISATION, meaning)


def network_checks(fitted: CrossFitted) -> Iterator[Check]:
    """Spread of the networks of an ensemble, and the sum rule.

    The reference is the mixture of the parts, so sum_k rho_k r_k = 1 at every x. One classifier of all parts has it by
    construction. Separate ones do not: it is what makes all products of sub-ratios consistent,
    r++ r-- = r+- r-+ of RoSMM (arXiv:2410.10216) among them.
    """
    estimator, pool = fitted.estimator, fitted.pool
    if len(fitted.members) > 1:
        for name in fitted.targets:
            single = np.array([estimator.net(table, name) for table in fitted.members])
            variance = pool.weights @ single.var(axis=0, ddof=1) / len(single)
            size = pool.weights @ estimator.net(fitted.mean, name) ** 2
            meaning = "error of the mean of the networks, from their spread, in units of the rms of the ratio"
            yield Check("network spread", name, float(np.sqrt(variance / size)), 0.0, _SPREAD, meaning)
    rho = {name: share for name, share in estimator.reference_fractions.items() if share > 0}
    if set(rho) <= set(estimator.parts):
        total = np.sum([share * fitted.mean[name] for name, share in rho.items()], axis=0)
        off = float(np.sqrt(pool.weights @ (total - 1) ** 2))
        yield Check("sum of ratios", "reference", off, 0.0, _SUM, "rms of sum_k rho_k r_k - 1, which is zero exactly")
