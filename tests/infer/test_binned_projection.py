import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyhf
import pytest
from rewriting import rewritten

import analytic
from nuratio.errors import InvalidModel, UnknownName
from nuratio.infer.binned.binned_projection import BinnedProjection
from nuratio.infer.binned.histogram import EventBins
from nuratio.infer.binned.projection import project
from nuratio.infer.fitting.fit import fit
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace

ZPRIME = Path(__file__).parents[2] / "workspaces" / "zprime"
EVERYTHING = {"SR": ("x", [-1.0, 2.5, 5.0, 6.0, 11.0])}


@pytest.mark.parametrize("per_bin", [True, False])
def test_of_a_binned_model_rewritten_it_is_the_binned_model(per_bin, rng):
    model, unbinned, edges = rewritten(per_bin)
    view = BinnedProjection.of(unbinned, edges)
    theirs = model.pyhf_model
    assert view.config.channel_slices == theirs.config.channel_slices
    assert view.config.samples == theirs.config.samples
    assert view.config.par_names == theirs.config.par_names
    for _ in range(5):
        theta = analytic.random_point(model, rng)
        np.testing.assert_allclose(
            view.main_model.expected_data(theta, return_by_sample=True),
            theirs.main_model.expected_data(pyhf.tensorlib.astensor(theta), return_by_sample=True),
            rtol=1e-9,
            atol=1e-12,
        )
        np.testing.assert_allclose(view.expected_data(theta), theirs.expected_data(theta), rtol=1e-9)
        np.testing.assert_allclose(
            view.expected_data(theta, include_auxdata=False), view.main_model.expected_data(theta), rtol=1e-12
        )


@pytest.mark.parametrize("name", ["analytic", "zprime"])
def test_it_is_what_project_draws(name):
    ws, feature = (analytic.workspace(), "x") if name == "analytic" else (Workspace.load(ZPRIME), "ln_mll")
    model = ws.model()
    data = ws.data(model)
    best = fit(model, data)
    for edges in (7, [6.0, 6.5, 7.0]):
        drawn = project(model, data, best, "SR", feature, edges)
        view = BinnedProjection.of(model, {"SR": (feature, edges)})
        where = view.config.channel_slices["SR"]
        np.testing.assert_array_equal(view.bins["SR"].edges, drawn.edges)
        np.testing.assert_array_equal(view.data(data)[where], drawn.data)
        np.testing.assert_allclose(view.expected_data(best.bestfit)[where], drawn.total, rtol=1e-12)
        counts = view.main_model.expected_data(best.bestfit, return_by_sample=True)[:, where]
        assert set(drawn.samples) == set(view.config.samples)
        for sample, expected in drawn.samples.items():
            np.testing.assert_allclose(counts[view.config.samples.index(sample)], expected, rtol=1e-12)


def test_the_sum_over_the_bins_is_the_yield_times_the_share_inside(analytic_model):
    model, _ = analytic_model
    theta = np.array(model.config.suggested_init())
    channel, nu = model.unbinned["SR"], model.rates.nu(theta)[model.rates.cells("SR")]
    x = channel.pool_features["x"]
    inside = (x >= 2.0) & (x <= 7.0)
    view = BinnedProjection.of(model, {"SR": ("x", np.linspace(2, 7, 6))})
    counts = view.by_sample(theta)[:, view.config.channel_slices["SR"]].sum(1)
    for sample, total, count in zip(("background", "signal"), nu, counts, strict=True):
        share = channel.pool[sample][inside].sum() / len(channel.pool)
        assert count == pytest.approx(total * share, rel=1e-12)


def test_data_keep_their_weight(analytic_model, rng):
    model, data = analytic_model
    weights = rng.poisson(0.3, len(data)).astype(float)
    view = BinnedProjection.of(model, EVERYTHING)
    for vector in (data, weights, model.sample(np.array(model.config.suggested_init()), rng)):
        main, n = view.data(vector), model.config.nmaindata
        assert len(main) == view.config.nmaindata + model.config.nauxdata
        for channel, where in view.config.channel_slices.items():
            assert main[where].sum() == vector[model.config.channel_slices[channel]].sum()
        np.testing.assert_array_equal(main[view.config.channel_slices["CR"]], vector[:2])
        np.testing.assert_array_equal(main[view.config.nmaindata :], vector[n:])
        np.testing.assert_array_equal(view.data(vector[:n]), main[: view.config.nmaindata])
    with pytest.raises(InvalidModel, match="auxiliary entries, got shape"):
        view.data(data[:-1])


@pytest.mark.parametrize("pool", [2000, 50_000])
def test_asimov_data_lie_on_the_prediction_to_the_pools_error(pool):
    model = analytic.workspace(pool=pool).model()
    view = BinnedProjection.of(model, {"SR": ("x", np.linspace(0, 10, 6))})
    theta = np.array(model.config.suggested_init())
    events = view.bins["SR"].counts(np.r_[np.zeros(len(model.unbinned["SR"].observed)), np.ones(pool)])
    seen, expected = (
        v[view.config.channel_slices["SR"]] for v in (view.data(model.asimov(theta)), view.expected_data(theta))
    )
    assert np.all(np.abs(seen / expected - 1) < 4 / np.sqrt(events))
    assert not np.allclose(seen, expected, rtol=1e-6)  # calibrated weights are not the plain ones


def test_the_specification_tells_projections_apart_and_is_json(analytic_model):
    model, _ = analytic_model
    views = [BinnedProjection.of(model, {"SR": ("x", edges)}) for edges in (5, 5, 6, [0.0, 1.0])]
    texts = [json.dumps(view.spec, sort_keys=True) for view in views]
    assert len(set(texts)) == 4
    assert json.dumps(views[0].spec, sort_keys=True) == texts[0]
    for view in views:
        assert [c["name"] for c in view.spec["channels"]] == view.config.channels
        for channel in view.spec["channels"]:
            for sample in channel["samples"]:
                assert len(sample["data"]) == view.config.channel_nbins[channel["name"]]


def test_the_specification_names_free_parameters_and_shapes():
    model = Workspace.load(ZPRIME).model()
    view = BinnedProjection.of(model, {"SR": ("costh", 4)})
    assert view.config.samples == ["interference", "newphys", "sm"]
    found = {
        (channel["name"], sample["name"], m["name"], m["type"])
        for channel in view.spec["channels"]
        for sample in channel["samples"]
        for m in sample["modifiers"]
    }
    assert {name for _, _, name, _ in found} <= set(view.config.par_order)
    assert ("SR", "newphys", "kappa", "normfactor") in found  # kappa_squared in the workspace
    assert {("SR", "interference", "mass_scale", kind) for kind in ("normsys", "histosys")} <= found
    assert model.spec["channels"][0]["samples"][0]["data"] != view.spec["channels"][0]["samples"][0]["data"]


def test_edges_belong_to_the_bin_above_and_the_last_one_to_the_last(analytic_workspace):
    model = analytic_workspace.model()
    channel = model.unbinned["SR"]
    x = RatioTable.from_columns({"x": np.resize([0.0, 1.0, 2.0, 3.0, -0.1, 3.1], len(channel.pool))}, np.float64)
    bins = EventBins.of(replace(channel, pool_features=x, observed_features=None), "x", [0.0, 1.0, 3.0])
    np.testing.assert_array_equal(bins.pool[:6], [0, 1, 1, 1, 2, 2])
    assert not len(bins.observed)


def test_a_projection_is_not_fitted(analytic_model):
    model, data = analytic_model
    view = BinnedProjection.of(model, EVERYTHING)
    with pytest.raises(InvalidModel, match="no likelihood: fit the model"):
        pyhf.infer.mle.fit(view.data(data), view)


def test_wrong_requests_are_named(analytic_model):
    model, _ = analytic_model
    with pytest.raises(InvalidModel, match=r"there is none for 'SR' \(stored features: x\)"):
        BinnedProjection.of(model)
    with pytest.raises(UnknownName, match="no channel 'SRR'; did you mean 'SR'"):
        BinnedProjection.of(model, {"SRR": ("x", 5)})
    with pytest.raises(InvalidModel, match="'CR' is binned"):
        BinnedProjection.of(model, EVERYTHING | {"CR": ("x", 5)})
    with pytest.raises(UnknownName, match="no column 'y'"):
        BinnedProjection.of(model, {"SR": ("y", 5)})
    with pytest.raises(InvalidModel, match="at least one bin"):
        BinnedProjection.of(model, {"SR": ("x", 0)})
    with pytest.raises(InvalidModel, match="increasing numbers"):
        BinnedProjection.of(model, {"SR": ("x", [0.0, 2.0, 1.0])})
    ws = analytic.workspace()
    del ws.spec["unbinned"]["channels"][0]["events"]["pool"]["features"]
    with pytest.raises(InvalidModel, match="stored features: none"):
        BinnedProjection.of(ws.model())
    with pytest.raises(InvalidModel, match="stores no features"):
        BinnedProjection.of(ws.model(), {"SR": ("x", 5)})
