import numpy as np
import pytest

import analytic
from nuratio.errors import InvalidModel, UnknownName
from nuratio.infer.binned.discriminant import OBSERVABLES, discriminant
from nuratio.workspace.workspace import Workspace


def with_kappa():
    ws = analytic.workspace()
    spec = {**ws.spec, "measurements": [{"name": "m", "config": {"poi": "", "parameters": []}}]}
    spec["unbinned"] = dict(spec["unbinned"])
    analytic.make_kappa_the_poi(spec)
    return Workspace(spec, ws.tables).model()


def log_density(model, pars, kind):
    values = model.parameters.values(pars)
    (cell,) = model.unbinned["SR"].cells
    parts = [t for _, t, _ in cell.evaluate(getattr(cell, kind), values)]
    return np.log(model.rates.nu(values)[model.rates.cells("SR")] @ np.concatenate(parts, axis=1))


def test_the_score_of_a_signal_strength_is_signal_over_everything(analytic_model):
    model, _ = analytic_model
    pars = np.array(model.config.suggested_init())
    pars[model.config.par_names.index("mu")] = 0.7
    for values, table in zip(
        discriminant(model, "SR", pars), (model.unbinned["SR"].observed, model.unbinned["SR"].pool), strict=True
    ):
        signal, background = 60 * table["signal"], 1000 * table["background"]
        np.testing.assert_allclose(values, signal / (0.7 * signal + background), rtol=1e-12)


@pytest.mark.parametrize("parameter", ["kappa", "tilt", "norm"])
def test_the_score_is_the_slope_of_the_log_density(parameter):
    model = with_kappa()
    pars = point = np.array(model.config.suggested_init())
    pars = np.where(np.array(model.config.par_names) == "kappa", 1.3, point)
    step = 1e-5 * (np.array(model.config.par_names) == parameter)
    scores = discriminant(model, "SR", pars, parameter=parameter)
    for values, kind in zip(scores, ("observed", "pool"), strict=True):
        numeric = (log_density(model, pars + step, kind) - log_density(model, pars - step, kind)) / 2e-5
        np.testing.assert_allclose(values, numeric, atol=1e-8)


def test_the_profiled_score_is_what_the_nuisances_cannot_imitate(analytic_model):
    model, _ = analytic_model
    pars = np.array(model.config.suggested_init())
    covariance = np.linalg.inv(model.hessian(pars, model.asimov(pars)) / 2)
    direction = covariance[model.config.poi_index] / covariance[model.config.poi_index, model.config.poi_index]
    scores = np.array([discriminant(model, "SR", pars, parameter=p)[1] for p in model.config.par_names])
    profiled = discriminant(model, "SR", pars, "profiled score")[1]
    np.testing.assert_allclose(profiled, direction @ scores, atol=1e-10)
    # its mean square is the inverse variance, but for what other channels and constraints know
    expected = model.asimov(pars)[model.config.channel_slices["SR"]][len(model.unbinned["SR"].observed) :]
    known = expected @ profiled**2
    assert known <= 1 / covariance[model.config.poi_index, model.config.poi_index]
    assert known < expected @ discriminant(model, "SR", pars)[1] ** 2


def test_without_nuisances_both_scores_are_the_same(analytic_model):
    model, _ = analytic_model
    fixed = [name != "mu" for name in model.config.par_names]
    pars = np.array(model.config.suggested_init())
    original = model.config.suggested_fixed
    model.config.suggested_fixed = lambda: fixed
    try:
        profiled = discriminant(model, "SR", pars, "profiled score")[1]
    finally:
        model.config.suggested_fixed = original
    np.testing.assert_allclose(profiled, discriminant(model, "SR", pars)[1], rtol=1e-12)


def test_the_density_and_stored_features_are_observables(analytic_model):
    model, _ = analytic_model
    pars = np.array(model.config.suggested_init())
    for values, kind in zip(discriminant(model, "SR", pars, "density"), ("observed", "pool"), strict=True):
        np.testing.assert_allclose(values, log_density(model, pars, kind), rtol=1e-12)
    channel = model.unbinned["SR"]
    for values, table in zip(
        discriminant(model, "SR", pars, "x"), (channel.observed_features, channel.pool_features), strict=True
    ):
        np.testing.assert_array_equal(values, table["x"])


@pytest.mark.parametrize("observable", OBSERVABLES)
def test_cells_and_events_with_weights_are_filled(observable):
    model = Workspace.from_pyhf(analytic.binned_spec(per_bin=True)).unbin("B").model()  # three cells
    observed, pool = discriminant(model, "B", np.array(model.config.suggested_init()), observable)
    assert observed.shape == (0,)
    assert len(set(pool.tolist())) == 3


def test_wrong_requests_are_named(analytic_model):
    model, _ = analytic_model
    pars = np.array(model.config.suggested_init())
    with pytest.raises(UnknownName, match="no unbinned channel 'CR'"):
        discriminant(model, "CR", pars)
    with pytest.raises(UnknownName, match="no 'scores'; did you mean 'score'"):
        discriminant(model, "SR", pars, "scores")
    with pytest.raises(UnknownName, match="no parameter 'nu'"):
        discriminant(model, "SR", pars, parameter="nu")
    ws = analytic.workspace()
    ws.spec["channels"][1]["samples"][1]["modifiers"].append({"name": "twin", "type": "normfactor", "data": None})
    two = ws.model()
    with pytest.raises(InvalidModel, match="do not determine all parameters"):
        discriminant(two, "SR", two.config.suggested_init(), "profiled score")
