"""cabinetry's fits with exact derivatives."""

import numpy as np
import pyhf
import pytest

from nuratio.infer.fit import fit
from nuratio.infer.hypotest import significance
from nuratio.interop.cabinetry import exact_derivatives
from nuratio.interop.optimizer import Optimizer


def test_an_optimizer_made_inside_is_nuratios_and_outside_pyhfs():
    before, made = pyhf.get_backend(), pyhf.optimize.minuit_optimizer
    with exact_derivatives():
        pyhf.set_backend(pyhf.tensorlib, pyhf.optimize.minuit_optimizer(verbose=0))
        assert isinstance(pyhf.get_backend()[1], Optimizer)
    with pytest.raises(ZeroDivisionError), exact_derivatives():
        raise ZeroDivisionError
    assert pyhf.optimize.minuit_optimizer is made
    assert not isinstance(made(), Optimizer)
    assert all(a is b for a, b in zip(pyhf.get_backend(), before, strict=True))


def test_cabinetrys_fits_are_nuratios(analytic_model):
    cabinetry = pytest.importorskip("cabinetry", reason="cabinetry is not installed")
    model, data = analytic_model
    expected, z = fit(model, data), significance(model, data)
    with exact_derivatives():
        result = cabinetry.fit.fit(model, list(data))
        discovery = cabinetry.fit.significance(model, list(data))
        ranking = cabinetry.fit.ranking(model, list(data))
    np.testing.assert_array_equal(result.bestfit, expected.bestfit)
    np.testing.assert_array_equal(result.uncertainty, expected.uncertainty)
    np.testing.assert_array_equal(result.corr_mat, expected.correlation)
    assert discovery.observed_significance == pytest.approx(z.significance, abs=1e-6)
    assert discovery.expected_significance == pytest.approx(z.expected_significance, abs=1e-6)
    k = result.labels.index("tilt")
    moved = fit(model, data, fixed={"tilt": expected.bestfit[k] + expected.uncertainty[k]})
    impact = moved["mu"].value - expected["mu"].value
    assert ranking.postfit_up[ranking.labels.index("tilt")] == pytest.approx(impact, abs=1e-6)
