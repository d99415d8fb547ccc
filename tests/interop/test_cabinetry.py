"""cabinetry on nuratio's models: fits with exact derivatives, projections, goodness of fit."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyhf
import pytest

import analytic
from nuratio.errors import InvalidModel
from nuratio.infer.binned.projection import project
from nuratio.infer.fitting.fit import fit
from nuratio.infer.goodness.goodness import goodness_of_fit
from nuratio.infer.hypotheses.hypotest import significance
from nuratio.interop.cabinetry import exact_derivatives, figure_config, projected
from nuratio.interop.optimizer import Optimizer
from nuratio.model.model import Model
from nuratio.workspace.workspace import Workspace

ROOT = Path(__file__).parents[2]
EDGES = [0.0, 2.0, 4.0, 5.0, 6.0, 8.0]


@pytest.fixture
def cabinetry(tmp_path, monkeypatch):
    """cabinetry, drawing into nowhere and leaving matplotlib as it was."""
    package = pytest.importorskip("cabinetry", reason="cabinetry is not installed")
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    with mpl.rc_context():
        yield package
    plt.close("all")


def linear():
    """Yields that are linear in every parameter, shapes that do not change."""
    ws = analytic.workspace()
    free = {"name": "scale", "type": "normfactor", "data": None}
    for channel in ws.spec["channels"]:
        for sample in channel["samples"]:
            kept = [m for m in sample["modifiers"] if m["type"] != "normsys"]
            sample["modifiers"] = kept + ([free] if sample["name"] == "background" else [])
    background = ws.spec["unbinned"]["channels"][0]["samples"][0]
    del background["modifiers"], background["normalisation"]
    return ws


def without_auxdata():
    ws = linear()
    for channel in ws.spec["channels"]:
        for sample in channel["samples"]:
            sample["modifiers"] = [m for m in sample["modifiers"] if m["type"] != "staterror"]
    return ws


def test_zero_auxdata_is_a_number_for_everything_else():
    none = without_auxdata().model().config.nauxdata
    assert none == 0
    assert not none
    assert json.dumps([none]) == "[0]"
    assert np.zeros(3)[none:].shape == (3,)


def test_constraint_terms_are_asked_for_with_the_free_parameters():
    model = Workspace.load(ROOT / "workspaces" / "zprime").model()
    theta = analytic.random_point(model, np.random.default_rng(1), spread=0.1)
    aux, full = np.array(model.config.auxdata), model.parameters.values(theta)
    assert len(full) > len(theta)
    assert -2 * model.constraint_logpdf(aux, theta) == pytest.approx(model.constraints.twice_nll(full, aux)[0])


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


def test_cabinetrys_fits_are_nuratios(analytic_model, cabinetry):
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


@pytest.mark.parametrize(("workspace", "rtol"), [(linear, 1e-9), (analytic.workspace, 0.01)], ids=["linear", "curved"])
def test_predictions_and_their_uncertainties_are_those_of_our_projection(cabinetry, workspace, rtol):
    ws = workspace()
    model = ws.model()
    data = ws.data(model)
    with exact_derivatives():
        results = cabinetry.fit.fit(model, data)
    view = projected(model, {"SR": ("x", EDGES)})
    prediction = cabinetry.model_utils.prediction(view, fit_results=results)
    assert prediction.label == "post-fit"
    best = fit(model, data)
    for i, channel in enumerate(view.config.channels):
        drawn = project(model, data, best, channel, *(("x", EDGES) if channel == "SR" else ()))
        yields = dict(zip(view.config.samples, prediction.model_yields[i], strict=True))
        for sample, expected in drawn.samples.items():
            np.testing.assert_allclose(yields[sample], expected, rtol=1e-9)
        np.testing.assert_allclose(prediction.total_stdev_model_bins[i][-1], drawn.uncertainty, rtol=rtol)


def test_other_bins_are_not_taken_from_cabinetrys_cache(analytic_model, cabinetry):
    model, _ = analytic_model
    coarse, fine, shifted = (
        cabinetry.model_utils.prediction(projected(model, {"SR": ("x", edges)})).total_stdev_model_bins[1][-1]
        for edges in ([0.0, 4.0, 8.0], np.linspace(0, 8, 9), [0.0, 5.0, 8.0])
    )
    assert len(fine) == 8
    assert coarse[0] != shifted[0]


def test_asimov_data_of_the_projection_are_its_prediction(analytic_model, cabinetry):
    model, _ = analytic_model
    view = projected(model, {"SR": ("x", EDGES)})
    pars = cabinetry.model_utils.asimov_parameters(view)
    np.testing.assert_allclose(pars, model.config.suggested_init())
    seen = cabinetry.model_utils.asimov_data(view)
    np.testing.assert_allclose(seen, view.expected_data(pars))
    events = view.data(cabinetry.model_utils.asimov_data(model))
    np.testing.assert_allclose(events, seen, rtol=0.1)


def test_the_figure_shows_the_projection(cabinetry):
    ws = Workspace.load(ROOT / "workspaces" / "zprime")
    model = ws.model()
    data, view = ws.data(model), projected(model, {"SR": ("ln_mll", 6)})
    prediction = cabinetry.model_utils.prediction(view)
    figures = cabinetry.visualize.data_mc(
        prediction, view.data(data), config=figure_config(view), log_scale=False, save_figure=False
    )
    where = view.config.channel_slices["SR"]
    pars = cabinetry.model_utils.asimov_parameters(view)
    (figure,) = (f["figure"] for f in figures if f["region"] == "SR")
    stack, ratio = figure.axes
    assert ratio.get_xlabel() == "ln_mll"
    np.testing.assert_allclose(stack.get_xlim(), view.bins["SR"].edges[[0, -1]])
    bars = [c for c in stack.containers if type(c).__name__ == "BarContainer"]
    *samples, band = (np.array([bar.get_height() for bar in c]) for c in bars)
    np.testing.assert_allclose(samples, view.by_sample(pars)[:, where])
    np.testing.assert_allclose(band / 2, prediction.total_stdev_model_bins[view.config.channels.index("SR")][-1])
    top = [bar.get_y() + bar.get_height() for bar in bars[-2]]
    np.testing.assert_allclose(top, view.expected_data(pars)[where])
    (points,) = (c for c in stack.containers if type(c).__name__ == "ErrorbarContainer")
    np.testing.assert_array_equal(points[0].get_ydata(), view.data(data)[where])


def test_tables_and_the_modifier_grid(analytic_model, cabinetry):
    model, data = analytic_model
    view = projected(model, {"SR": ("x", EDGES)})
    prediction = cabinetry.model_utils.prediction(view)
    tables = cabinetry.tabulate.yields(prediction, view.data(data), per_channel=True, save_tables=False)
    rows = {row["sample"]: row for row in tables["yields_per_channel"]}
    inside = np.sum(model.unbinned["SR"].observed_features["x"] <= EDGES[-1])
    assert float(rows["data"]["SR"]) == inside
    assert len(tables["yields_per_bin"][0]) == 1 + 2 + len(EDGES) - 1
    json.dumps(view.spec)
    assert cabinetry.visualize.modifier_grid(view, save_figure=False) is not None


@pytest.mark.parametrize("lend", [True, False])
@pytest.mark.parametrize("workspace", [analytic.workspace, without_auxdata])
def test_goodness_of_fit_of_events_is_refused_with_the_way_out(cabinetry, workspace, lend):
    ws = workspace()
    model = ws.model()
    data = ws.data(model)
    assert bool(model.config.nauxdata) == (workspace is analytic.workspace)
    with (
        exact_derivatives() if lend else nullcontext(),
        pytest.raises(InvalidModel, match=r"nuratio\.goodness_of_fit\(model, data, fit"),
    ):
        cabinetry.fit.fit(model, data, goodness_of_fit=True)


def test_predictions_of_events_are_refused_with_the_way_out(analytic_model, cabinetry):
    with pytest.raises(InvalidModel, match=r"cabinetry\.projected\(model"):
        cabinetry.model_utils.prediction(analytic_model[0])


@pytest.mark.parametrize("per_bin", [True, False])
def test_goodness_of_fit_of_binned_models_is_cabinetrys(cabinetry, per_bin):
    pdf = pyhf.Workspace(analytic.binned_spec(per_bin=per_bin)).model()
    counts = [11, 23, 101, 130, 95] if per_bin else [11, 23, 101, 130, 115]
    data = np.array([*counts, *pdf.config.auxdata], dtype=float)
    model = Model.from_pyhf(pdf)
    with exact_derivatives():
        ours = goodness_of_fit(model, data, fit(model, data), n_toys=0)
        theirs = [cabinetry.fit.fit(m, list(data), goodness_of_fit=True).goodness_of_fit for m in (model, pdf)]
    predictions = [cabinetry.model_utils.prediction(m).model_yields for m in (model, pdf, projected(model))]
    assert predictions[0] == predictions[1]
    for one, other in zip(predictions[1], predictions[2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert theirs[0] == pytest.approx(ours.asymptotic_p_value, rel=1e-7)
    assert theirs[1] == pytest.approx(ours.asymptotic_p_value, rel=1e-3)  # its fit is MINUIT's


def test_the_page_is_true(cabinetry):
    page = (ROOT / "docs" / "cabinetry.md").read_text().replace('"workspaces/', f'"{ROOT}/workspaces/')
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(compile(code, "cabinetry.md", "exec"), names)
    best, results = names["best"], names["results"]
    np.testing.assert_allclose(results.bestfit, best.bestfit)
    assert names["limit"].observed_limit > best["kappa"].value
    assert names["goodness"].valid
    assert {path.suffix for path in Path("figures").iterdir()} == {".pdf"}
    (changed,) = re.findall(r"```diff\n(.*?)```", page, re.DOTALL)
    added = [line[1:] for line in changed.splitlines() if line.startswith("+")]
    assert all(line in re.sub(r" +#.*", "", code) for line in added[:3])
    assert all(line.split(" = ")[-1] in code for line in added[3:])
