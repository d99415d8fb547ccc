"""Checks of the likelihood: where densities stay positive, and what single networks do to the minimum."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from analytic import workspace
from nuratio.checks.minimum import minimum_check, with_one_network
from nuratio.checks.positivity import nonpositive_share, positivity_checks
from nuratio.checks.report import CheckReport
from nuratio.infer.fitting.fit import fit
from nuratio.workspace.build import assemble
from nuratio.workspace.config import Config
from nuratio.workspace.train import train_all


@pytest.fixture(scope="module")
def model():
    return workspace(mu=0.2, pool=3000).model()


@pytest.fixture(scope="module")
def fitted(model):
    return fit(model, workspace(mu=0.2, pool=3000).data(model))


def test_positive_samples_are_positive_everywhere(model, fitted):
    checks = list(positivity_checks(model, fitted))
    assert {"positivity in mu", "positivity, all together"} <= {c.name for c in checks}
    assert CheckReport(tuple(checks)).passed


def test_the_share_of_the_pool_is_the_share_where_the_density_is_negative():
    """A signal of negative strength: b(x) + mu s(x) < 0 where s / b > -1 / mu."""
    ws = workspace(n_signal=60.0, pool=3000)
    ws.spec["measurements"][0]["config"]["parameters"].append({"name": "mu", "bounds": [[-100.0, 100.0]]})
    m = ws.model()
    pars = np.array(m.config.suggested_init())
    k = m.config.par_names.index("mu")
    table = ws.tables["pool"]
    for mu in (-1.0, -5.0, -30.0):
        pars[k] = mu
        expected = np.mean(1000 * table["background"] + 60 * mu * table["signal"] <= 0)
        assert nonpositive_share(m, pars) == pytest.approx(expected, abs=1e-12)
    best = fit(m, ws.data(m))
    wide = replace(best, uncertainty=np.where(np.arange(len(pars)) == k, 10.0, best.uncertainty))
    checks = {c.name: c for c in positivity_checks(m, wide)}
    assert not checks["positivity in mu"].passed
    low = float(checks["positivity in mu"].meaning.split("positive for ")[1].split(" <=")[0])
    pars[k] = low
    assert nonpositive_share(m, pars) <= 1e-4  # the range it names is one
    pars[k] = low - 2.0
    assert nonpositive_share(m, pars) > 1e-4


CONFIG = {
    "General": {"Measurement": "m", "POI": "mu", "InputPath": "."},
    "Regions": [{"Name": "SR", "Type": "unbinned", "Features": {"x": "x"}}],
    "Samples": [
        {"Name": "data", "Data": True, "SamplePath": "data.parquet"},
        {"Name": "sig", "SamplePath": "sig.parquet", "Weight": "w", "EventId": "id"},
        {"Name": "bkg", "SamplePath": "bkg.parquet", "Weight": "w", "EventId": "id"},
    ],
    "NormFactors": [{"Name": "mu", "Samples": "sig", "Nominal": 1, "Bounds": [-5, 10]}],
    "Systematics": [
        {
            "Name": "tilt",
            "Type": "NormPlusShape",
            "Samples": "bkg",
            "Up": {"Weight": "w_up"},
            "Down": {"Weight": "w_down"},
        }
    ],
    "Training": {
        "Seed": 1,
        "Ratio": {"hidden": [8], "epochs": 4, "folds": 2, "ensemble": 2, "learning_rate": 0.02},
        "Shape": {"hidden": [4], "epochs": 2},
    },
}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    import awkward as ak

    folder = tmp_path_factory.mktemp("minimum")
    rng = np.random.default_rng(3)
    x = {"sig": rng.normal(1, 0.5, 8000), "bkg": rng.normal(0, 1, 12000)}
    total = {"sig": 100.0, "bkg": 1000.0}
    for name, values in x.items():
        w = np.full(len(values), total[name] / len(values))
        columns = {"x": values, "w": w, "w_up": w * np.exp(0.1 * values), "w_down": w * np.exp(-0.1 * values)}
        ak.to_parquet(ak.Array(columns | {"id": np.arange(len(values))}), folder / f"{name}.parquet")
    data = np.r_[rng.normal(1, 0.5, rng.poisson(100)), rng.normal(0, 1, rng.poisson(1000))]
    ak.to_parquet(ak.Array({"x": data}), folder / "data.parquet")
    config = Config.read(_written(folder))
    return config, train_all(config, cache=folder / "cache")


def _written(folder):
    import yaml

    path = folder / "analysis.yml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def shifts_of(config, trained):
    ws = assemble(config, trained)
    model = ws.model()
    best = fit(model, ws.data(model))
    return minimum_check(ws, {"SR": (trained["SR"], None)}, best, model.config.poi_name)


def with_networks(trained, change):
    """The analysis with other ratio networks: ``change`` edits them in place."""
    sr = trained["SR"]
    stack = copy.deepcopy(sr.ratio.networks.stack)
    with torch.no_grad():
        change(stack)
    ratio = replace(sr.ratio, networks=replace(sr.ratio.networks, stack=stack))
    return {"SR": replace(sr, ratio=ratio)}


def alike(stack):
    for parameter in stack.parameters():
        parameter.copy_(parameter[:1].expand_as(parameter))


def test_equal_networks_agree_up_to_their_normalisation(analysis):
    config, trained = analysis
    same = with_networks(trained, alike)
    shapes = {}
    for key, shape in trained["SR"].shapes.items():
        stack = copy.deepcopy(shape.networks.stack)
        with torch.no_grad():
            alike(stack)
        shapes[key] = replace(shape, networks=replace(shape.networks, stack=stack))
    same = {"SR": replace(same["SR"], shapes=shapes)}
    check, curve = shifts_of(config, same)
    assert curve.shifts.shape == (2, 2)
    assert np.ptp(curve.shifts, axis=1) == pytest.approx(0, abs=1e-6)  # members of a fold differ in nothing
    assert np.abs(curve.shifts).max() < 0.3  # folds in the events of their integrals only
    assert check.passed


def test_a_network_that_disagrees_is_seen(analysis):
    config, trained = analysis
    good, _ = shifts_of(config, trained)

    def spoil(stack):
        stack.weights[-1][2:] *= 0.5  # the second fold sees half of the separation

    bad, curve = shifts_of(config, with_networks(trained, spoil))
    assert bad.value > 2 * good.value
    assert not bad.passed
    assert abs(curve.shifts[1].mean()) > 0.3


def test_one_network_keeps_the_integrals_of_the_pool(analysis):
    """What a single network says of events has the mean 1 under the reference, as the mean of all has."""
    config, trained = analysis
    ws = assemble(config, trained)
    other = with_one_network(ws, {"SR": (trained["SR"], None)}, 0)
    assert other.tables["SR.pool"] is ws.tables["SR.pool"]
    a, b = (w.tables["SR.observed"] for w in (ws, other))
    assert a.names == b.names
    for name in ("sig", "bkg"):
        assert not np.array_equal(a[name], b[name])
        assert np.mean(b[name]) == pytest.approx(np.mean(a[name]), abs=0.1)
