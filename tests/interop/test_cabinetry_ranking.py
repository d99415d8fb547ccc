"""Rankings of binned models are cabinetry's, made with its own minimiser on pyhf's own model."""

import numpy as np
import pyhf
import pytest

import analytic
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.ranking import ranking


def spec():
    """Nearly every modifier; 30 times the events, and wide ranges, so that nothing is at a bound.

    One factor in place of one for each bin, which leave a matrix so nearly singular that numerical derivatives are not
    good for it.
    """
    found = analytic.binned_spec()
    found["channels"][1]["samples"][1]["modifiers"][0] = {"name": "free", "type": "normfactor", "data": None}
    for channel in found["channels"]:
        for sample in channel["samples"]:
            sample["data"] = [30 * v for v in sample["data"]]
            for modifier in sample["modifiers"]:
                match modifier["type"]:
                    case "histosys":
                        modifier["data"] = {k: [30 * v for v in vs] for k, vs in modifier["data"].items()}
                    case "staterror" | "shapesys":
                        modifier["data"] = [10 * v for v in modifier["data"]]
    signal = {"name": "mu", "bounds": [[-20.0, 20.0]]}
    factors = {"name": "free", "bounds": [[0.1, 5.0]]}
    found["measurements"][0]["config"]["parameters"] += [signal, factors]
    return found


def test_impacts_of_a_binned_model_are_cabinetrys():
    cabinetry = pytest.importorskip("cabinetry", reason="cabinetry is not installed")
    pdf = pyhf.Workspace(spec()).model()
    data = [330.0, 690.0, 3150.0, 3790.0, 2800.0, *pdf.config.auxdata]
    best, found = fit(pdf, data), ranking(pdf, data)
    assert found.valid, found.message
    options = {"custom_fit": True, "tolerance": 1e-6}
    theirs = cabinetry.fit.fit(pdf, data, **options)
    np.testing.assert_allclose(theirs.bestfit, best.bestfit, atol=1e-4)
    np.testing.assert_allclose(theirs.uncertainty, best.uncertainty, rtol=0.015)  # MINUIT's Hessian is a numerical one
    expected = cabinetry.fit.ranking(pdf, data, fit_results=theirs._replace(uncertainty=best.uncertainty), **options)
    free = [not fixed for fixed in np.delete(pdf.config.suggested_fixed(), pdf.config.poi_index)]
    assert set(found.names) == {label for label, f in zip(expected.labels, free, strict=True) if f}
    assert len(found) == 10
    for k, name in enumerate(found.names):
        j = expected.labels.index(name)
        told = [found.up[k], found.down[k], found.prefit_up[k], found.prefit_down[k]]
        same = [expected.postfit_up[j], expected.postfit_down[j], expected.prefit_up[j], expected.prefit_down[j]]
        if name.startswith("free"):  # no pre-fit impact: cabinetry says 0
            told[2:] = np.nan_to_num(told[2:])
        np.testing.assert_allclose(told, same, atol=1e-3 * found.uncertainty)
    assert found.largest[0] > 0.3 * found.uncertainty
    assert np.abs(found.up + found.down).max() > 0.01 * found.uncertainty  # asymmetric, and still the same
