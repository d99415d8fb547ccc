import json

import numpy as np
import pyhf
import pytest

import analytic
from nuratio.errors import InvalidModel, UnknownName
from nuratio.infer.binned.binned_twin import binned_twin, point
from nuratio.infer.binned.discriminant import discriminant
from nuratio.workspace.workspace import Workspace

EDGES = {"SR": np.linspace(1, 9, 9)}


def spec_of(workspace, channel, sample):
    samples = next(c for c in workspace.spec["channels"] if c["name"] == channel)["samples"]
    return next(s for s in samples if s["name"] == sample)


def modifier(entry, kind, name):
    return next(m for m in entry["modifiers"] if (m["type"], m["name"]) == (kind, name))["data"]


def test_the_twin_of_a_binned_channel_without_its_bins_is_that_channel(rng):
    original = Workspace.from_pyhf(analytic.binned_spec(per_bin=False))
    model = original.model()
    workspace = original.unbin("A").unbin("B")
    unbinned = workspace.model()
    edges, order = {}, {}
    for name in unbinned.unbinned:
        score = discriminant(unbinned, name, unbinned.config.suggested_init())[1]
        edges[name], order[name] = np.sort(score)[1:], np.argsort(score)
        assert len(set(score.tolist())) == len(score)
    twin = binned_twin(workspace, edges)
    assert "unbinned" not in twin.spec
    other = twin.model()
    assert other.config.par_names == model.config.par_names
    data, theirs = original.data(model), twin.data(other)
    for name, where in model.config.channel_slices.items():
        np.testing.assert_allclose(theirs[where], data[where][order[name]], rtol=1e-12)
    for _ in range(5):
        theta = analytic.random_point(model, rng)
        for name, where in model.config.channel_slices.items():
            rates = [m.expected_data(theta)[where] for m in (model, other)]
            np.testing.assert_allclose(rates[1], rates[0][order[name]], rtol=1e-9)
        assert other.twice_nll(theta, theirs) == pytest.approx(model.twice_nll(theta, data), rel=1e-10)


def test_rates_are_those_of_the_model_and_shapes_those_of_its_events(analytic_workspace, analytic_model):
    model, data = analytic_model
    twin = binned_twin(analytic_workspace, EDGES, observable="x")
    other = twin.model()
    assert other.config.par_names != model.config.par_names  # a histosys comes before a normsys: names count
    channel = model.unbinned["SR"]
    x = np.asarray(channel.pool_features["x"])
    for alpha in (-1.0, 0.0, 1.0):
        theta = point(model, {"tilt": alpha})
        nu = model.rates.nu(model.parameters.values(theta))[model.rates.cells("SR")]
        where = other.config.channel_slices["SR"]
        rate = other.expected_data(point(other, {"tilt": alpha}))[where]
        assert rate.sum() == pytest.approx(nu.sum(), rel=1e-9)
        (cell,) = channel.cells
        density = nu @ np.concatenate([t for _, t, _ in cell.evaluate(cell.pool, theta)], axis=1)
        filled = np.bincount(np.digitize(x, EDGES["SR"]), cell.pool_weights * density, 10)
        events = np.bincount(np.digitize(x, EDGES["SR"]), minlength=10)
        assert np.all(np.abs(rate / filled - 1) < 4 / np.sqrt(events))  # calibrated weights, to the error of the pool
    seen = np.bincount(np.digitize(channel.observed_features["x"], EDGES["SR"]), minlength=10)
    np.testing.assert_array_equal(twin.data(other)[other.config.channel_slices["SR"]], seen)
    np.testing.assert_array_equal(
        twin.data(other)[other.config.channel_slices["CR"]], data[model.config.channel_slices["CR"]]
    )


def test_expected_data_of_the_twin_are_those_of_the_model_in_bins(analytic_workspace, analytic_model):
    model, _ = analytic_model
    at = {"mu": 2.3, "norm": 0.4}
    twin = binned_twin(analytic_workspace, EDGES, observable="x", at=at)
    other = twin.model()
    x = np.concatenate([t["x"] for t in (model.unbinned["SR"].observed_features, model.unbinned["SR"].pool_features)])
    events = model.expected_actualdata(point(model, at))[model.config.channel_slices["SR"]]
    binned = np.bincount(np.digitize(x, EDGES["SR"]), events, 10)
    np.testing.assert_allclose(
        other.expected_data(point(other, at))[other.config.channel_slices["SR"]], binned, rtol=1e-6
    )


def test_pyhf_reads_it_and_finds_the_same_likelihood(analytic_workspace, tmp_path, rng):
    twin = binned_twin(analytic_workspace, EDGES, observable="x", staterror=True)
    text = json.dumps(twin.spec)
    theirs = pyhf.Workspace(json.loads(text))
    pdf, model = theirs.model(), twin.model()
    data = theirs.data(pdf)
    assert pdf.config.poi_name == "mu"
    for _ in range(3):
        theta = analytic.random_point(model, rng, spread=0.3)
        assert model.twice_nll(theta, data) == pytest.approx(-2 * pdf.logpdf(theta, data)[0], rel=1e-9)


def test_the_staterror_is_that_of_the_pool(analytic_workspace, analytic_model):
    model, _ = analytic_model
    twin = binned_twin(analytic_workspace, EDGES, observable="x", staterror=True)
    channel = model.unbinned["SR"]
    pars = np.array(model.config.suggested_init())
    expected = model.expected_actualdata(pars)[model.config.channel_slices["SR"]][len(channel.observed) :]
    squares = np.bincount(np.digitize(channel.pool_features["x"], EDGES["SR"]), expected**2, 10)
    errors = [modifier(spec_of(twin, "SR", s), "staterror", "staterror_SR") for s in ("background", "signal")]
    np.testing.assert_allclose(np.sum(np.square(errors), axis=0), squares, rtol=1e-6)


def test_expressions_stay(tmp_path):
    ws = analytic.workspace()
    analytic.make_kappa_the_poi(ws.spec)
    twin = binned_twin(ws, {"SR": [5.0]}, observable="x")
    assert twin.spec["unbinned"]["parameters"] == ws.spec["unbinned"]["parameters"]
    twin.save(tmp_path / "twin")
    model, original = Workspace.load(tmp_path / "twin").model(), ws.model()
    assert model.config.poi_name == "kappa"
    theta = point(model, {"kappa": 1.7})
    assert sorted(model.config.par_names) == sorted(original.config.par_names)
    nu = model.expected_data(theta)[model.config.channel_slices["SR"]].sum()
    assert nu == pytest.approx(1000 + 60 * 1.7**2, rel=1e-9)


def test_one_bin_is_the_companion(analytic_workspace):
    twin = binned_twin(analytic_workspace, {"SR": []})
    companion = analytic_workspace.counting
    for channel in ("CR", "SR"):
        for sample in next(c for c in companion["channels"] if c["name"] == channel)["samples"]:
            assert spec_of(twin, channel, sample["name"])["data"] == pytest.approx(sample["data"], rel=1e-12)
    assert twin.spec["observations"] == companion["observations"]
    assert twin.spec["measurements"] == companion["measurements"]


def test_what_has_no_twin_is_said():
    ws = analytic.workspace()
    with pytest.raises(UnknownName, match="no unbinned channel 'CR'"):
        binned_twin(ws, {"CR": []})
    with pytest.raises(InvalidModel, match=r"unbinned channels \['SR'\] need edges"):
        binned_twin(ws, {})
    with pytest.raises(InvalidModel, match="inner edges must be increasing"):
        binned_twin(ws, {"SR": [2.0, 1.0]})
    with pytest.raises(UnknownName, match="no parameter 'nu'"):
        binned_twin(ws, {"SR": []}, at={"nu": 1.0})
    cells = Workspace.from_pyhf(analytic.binned_spec(per_bin=True)).unbin("B")
    with pytest.raises(InvalidModel, match="channel 'B' has 3 cells"):
        binned_twin(cells, {"B": []})
    entry = spec_of(ws, "SR", "background")
    entry["modifiers"].append({"name": "one", "type": "staterror", "data": [20.0]})
    with pytest.raises(InvalidModel, match=r"staterror 'one' is one parameter.*can replace it"):
        binned_twin(ws, EDGES)
    replaced = spec_of(binned_twin(ws, EDGES, staterror=True), "SR", "background")
    assert [m["name"] for m in replaced["modifiers"] if m["type"] == "staterror"] == ["staterror_SR"]
    entry["modifiers"][-1] = {"name": "one", "type": "shapesys", "data": [20.0]}
    with pytest.raises(InvalidModel, match="shapesys 'one' is one parameter"):
        binned_twin(ws, EDGES, staterror=True)
