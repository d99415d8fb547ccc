from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

import analytic
from nuratio.errors import InvalidModel, UnknownName
from nuratio.infer.binned.projection import project
from nuratio.infer.fitting.fit import fit
from nuratio.model.model import Model


def test_the_projection_is_the_integral_of_the_fitted_density():
    n = 200_000
    ws = analytic.workspace(pool=n)
    model = ws.model()
    data = ws.data(model)
    best = fit(model, data)
    edges = np.linspace(0, 10, 11)
    drawn = project(model, data, best, "SR", "x", edges)
    nu = dict(zip(("background", "signal"), model.rates.nu(best.bestfit)[model.rates.cells("SR")], strict=True))
    exact = [quad(lambda x: nu["signal"] * analytic.signal(x), a, b)[0] for a, b in pairwise(edges)]
    error = nu["signal"] * np.sqrt(2 * np.array(exact) / nu["signal"] / n) + 1e-3
    assert np.all(np.abs(drawn.samples["signal"] - exact) < 5 * error)
    assert drawn.samples["background"].sum() == pytest.approx(nu["background"], rel=0.01)
    np.testing.assert_allclose(drawn.total, drawn.samples["signal"] + drawn.samples["background"])
    assert drawn.data.sum() == len(model.unbinned["SR"].observed)
    # the uncertainty is that of the total, propagated: move each parameter by one column of the root of the covariance
    root = np.linalg.cholesky(best.covariance)
    variance = 0.0
    for column in root.T:
        moved = [
            project(model, data, _at(best, best.bestfit + s * 1e-3 * column), "SR", "x", edges).total for s in (1, -1)
        ]
        variance = variance + ((moved[0] - moved[1]) / 2e-3) ** 2
    np.testing.assert_allclose(drawn.uncertainty, np.sqrt(variance), rtol=1e-4)


def _at(result, theta):
    return type(result).from_dict(result.to_dict() | {"bestfit": theta.tolist()})


def test_asimov_data_lie_on_the_model(analytic_model):
    model, _ = analytic_model
    truth = np.array(model.config.suggested_init())
    data = model.asimov(truth)
    drawn = project(model, data, fit(model, data), "SR", edges=8)
    np.testing.assert_allclose(drawn.data, drawn.total, rtol=0.1)
    assert drawn.data.sum() == pytest.approx(drawn.total.sum(), rel=0.03)


def test_a_binned_channel_in_its_own_bins(analytic_model):
    model, data = analytic_model
    best = fit(model, data)
    drawn = project(model, data, best, "CR", "mass", [0.0, 1.0, 5.0])
    np.testing.assert_array_equal(drawn.data, [98, 125])
    np.testing.assert_allclose(drawn.total, model.pyhf_model.expected_data(best.bestfit)[:2], rtol=1e-12)
    assert project(model, data, best, "CR").feature == "bin"


def test_wrong_requests_are_named(analytic_model):
    model, data = analytic_model
    best = fit(model, data)
    with pytest.raises(UnknownName, match="no channel 'SRR'; did you mean"):
        project(model, data, best, "SRR")
    with pytest.raises(UnknownName, match="no column 'y'"):
        project(model, data, best, "SR", "y")
    with pytest.raises(InvalidModel, match="2 bins, but 2 edges"):
        project(model, data, best, "CR", edges=[0.0, 1.0])
    unbinned = analytic.workspace()
    del unbinned.spec["unbinned"]["channels"][0]["events"]["pool"]["features"]
    bare: Model = unbinned.model()
    with pytest.raises(InvalidModel, match="stores no features"):
        project(bare, unbinned.data(bare), fit(bare, unbinned.data(bare)), "SR")
