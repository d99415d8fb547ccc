"""Events with many workers: the numbers of the local model, whatever the shards, and whoever dies on the way."""

import os
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest

import analytic
from nuratio.errors import InvalidModel, NonPositiveDensity, PoolDensityWarning
from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.hypotest import hypotest
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.infer.impacts.influence import simulation_covariance
from nuratio.infer.profiles.scan import scan
from nuratio.model.sharded import sharded
from nuratio.model.simulation import Simulation
from nuratio.parallel.tasks import Serial, own_pool, run_tasks
from nuratio.workspace.workspace import Workspace


def two_cells():
    """A binned channel rewritten as events in three coarse cells, with parameters per bin."""
    workspace = Workspace.from_pyhf(analytic.binned_spec()).unbin("B", split=7)
    return workspace.unbin("A", split=5)


@pytest.fixture(scope="module")
def events():
    workspace = analytic.workspace(pool=3000)
    return workspace.model(), workspace.data(workspace.model())


@pytest.fixture(params=["own", "dask", "serial"])
def executor(request):
    match request.param:
        case "own":
            return own_pool(2)
        case "dask":
            return request.getfixturevalue("dask")
    return Serial()


def compare(model, other, data, seed=1):
    """Value, gradient, Hessian, many and held channels at a random point, to 1e-10."""
    theta = analytic.random_point(model, np.random.default_rng(seed), spread=0.3)
    one, two = model.likelihood(data), other.likelihood(data)
    scale = np.abs(one.hessian(theta)).max()
    close = {"rtol": 1e-10, "atol": 1e-12 * scale}
    assert other.twice_nll(theta, data) == pytest.approx(model.twice_nll(theta, data), rel=1e-12)
    for _ in range(3):  # the third time from remembered densities
        assert two.value(theta) == pytest.approx(one.value(theta), rel=1e-12)
    for hessian in (False, True):
        for a, b in zip(two.derivatives(theta, hessian=hessian), one.derivatives(theta, hessian=hessian), strict=True):
            np.testing.assert_allclose(a, b, **close)
    still = np.arange(len(theta)) > 0
    held = (likelihood.holding(still).derivatives(theta, hessian=True) for likelihood in (two, one))
    for a, b in zip(*held, strict=True):
        np.testing.assert_allclose(a, b, **close)
    points = [theta, theta * 1.01, theta * 0.99]
    for a, b in zip(two.many(points), one.many(points), strict=True):
        np.testing.assert_allclose(a, b, **close)
    for name, matrix in one.shape_hessians(theta).items():
        np.testing.assert_allclose(two.shape_hessians(theta)[name], matrix, **close)


@pytest.mark.parametrize("shards", [3])
def test_the_likelihood_is_that_of_the_local_model(executor, shards, events):
    model, data = events
    with sharded(model, executor=executor, shards=shards) as other:
        compare(model, other, data)
        theta = np.array(model.config.suggested_init())
        asimov = model.asimov(theta)
        np.testing.assert_allclose(other.asimov(theta), asimov, rtol=1e-10, atol=1e-13)
        compare(model, other, asimov)
        compare(model, other, data)  # the first data again
        rng = np.random.default_rng(4)
        compare(model, other, model.sample(theta, rng))


@pytest.mark.parametrize("shards", [2, 5])
def test_coarse_cells(shards):
    workspace = two_cells()
    model = workspace.model()
    with sharded(model, executor=Serial(), shards=shards) as other:
        theta = np.array(model.config.suggested_init())
        for data in (workspace.data(model), model.asimov(theta)):
            compare(model, other, data)
        np.testing.assert_allclose(other.asimov(theta), model.asimov(theta), rtol=1e-10)


def test_more_shards_than_events():
    workspace = analytic.workspace(pool=1000, observed=np.array([1.0, 4.8, 5.1]))
    model = workspace.model()
    with sharded(model, executor=Serial(), shards=5) as other:
        compare(model, other, workspace.data(model))


@pytest.mark.parametrize("executor", ["own", "serial"], indirect=True)
def test_fits_scans_tests_and_limits_are_the_same(executor, events):
    model, data = events
    with sharded(model, executor=executor, shards=2) as other:
        a, b = fit(model, data, minos=["mu"]), fit(other, data, minos=["mu"])
        assert b.valid
        np.testing.assert_allclose(b.bestfit, a.bestfit, atol=1e-6)
        np.testing.assert_allclose(b.uncertainty, a.uncertainty, rtol=1e-6)
        np.testing.assert_allclose(b.minos["mu"], a.minos["mu"], rtol=1e-5)
        assert b.twice_nll == pytest.approx(a.twice_nll, rel=1e-10)
        grid = np.linspace(0, 2, 5)
        one, two = (scan(m, data, "mu", grid) for m in (model, other))
        np.testing.assert_allclose(two.delta_twice_nll, one.delta_twice_nll, atol=1e-7)
        assert hypotest(other, data, 1.0).CLs == pytest.approx(hypotest(model, data, 1.0).CLs, abs=1e-6)
        one, two = (upper_limit(m, data) for m in (model, other))
        assert two.observed == pytest.approx(one.observed, rel=1e-5)
        np.testing.assert_allclose(two.expected, one.expected, rtol=1e-5)


def test_errors_from_the_simulation(events):
    model, data = events
    channel = model.unbinned["SR"]
    told = Simulation(np.array([900.0, 400.0]), np.array([[False], [True]]), None, ({}, {}))
    model = pickle.loads(pickle.dumps(model))
    model.unbinned = {"SR": replace(channel, simulation=told)}
    best = fit(model, data, simulation=False)
    expected = simulation_covariance(model, best)
    assert (np.diag(expected)[: len(expected) // 2] >= 0).all()
    assert np.isfinite(expected).all()
    with sharded(model, executor=Serial(), shards=3) as other:
        np.testing.assert_allclose(simulation_covariance(other, best), expected, rtol=1e-9, atol=1e-14)


# --- tables that are files


@pytest.mark.parametrize("same_files", [False, True])
def test_a_workspace_on_disk(executor, same_files, tmp_path, monkeypatch):
    """With many blocks, shards begin where a block does; workers that see the files map their own rows."""
    analytic.workspace(pool=40_000, n_background=20_000.0).save(tmp_path / "ws")
    workspace = Workspace.load(tmp_path / "ws")
    model = workspace.model()
    data, theta = workspace.data(model), np.array(model.config.suggested_init())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with sharded(model, executor=executor, shards=2, same_files=same_files) as other:
        compare(model, other, data)
        assert {rows["SR"][0][0] % model.unbinned["SR"].observed.size for rows in other.passes.rows} == {0}
        np.testing.assert_allclose(other.asimov(theta), model.asimov(theta), rtol=1e-10, atol=1e-13)
        written = sum(file.stat().st_size for file in (tmp_path / "temporary").rglob("*") if file.is_file())
    assert written < 0.5 * model.unbinned["SR"].pool.blocks.nbytes
    assert list((tmp_path / "temporary").iterdir()) == []


# --- what goes wrong


def die_once(desk, folder):
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("executor", ["own", "dask"], indirect=True)
def test_a_worker_that_dies_in_the_middle_of_a_fit_is_replaced(executor, events, tmp_path):
    model, data = events
    with sharded(model, executor=executor, shards=3) as other:
        likelihood, local = other.likelihood(data), model.likelihood(data)
        theta = np.array(model.config.suggested_init())
        likelihood.value(theta)
        list(other.passes.crew.run(die_once, [tmp_path]))
        assert (tmp_path / "died").exists()
        np.testing.assert_allclose(likelihood.gradient(theta), local.gradient(theta), rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(fit(other, data).bestfit, fit(model, data).bestfit, atol=1e-6)


def test_where_the_density_is_not_positive(events):
    model, data = events
    theta = np.array(model.config.suggested_init())
    theta[model.config.poi_index] = -9.0
    for vector in (data, model.asimov(np.array(model.config.suggested_init()))):
        lines = model.likelihood(vector).nonpositive(theta)
        assert len(lines) > 10
        with sharded(model, executor=Serial(), shards=4) as other:
            assert sorted(other.likelihood(vector).nonpositive(theta)) == sorted(lines)
            with pytest.raises(NonPositiveDensity, match="event"):
                other.twice_nll(theta, vector)
    with sharded(model, executor=Serial(), shards=2) as other, pytest.raises(NonPositiveDensity, match="pool events"):
        other.asimov(theta)


def test_a_few_negative_pool_events_are_told_of(events):
    """As of the local model: weight 0, and a warning here, not in a worker."""
    model, _ = events
    theta = np.array(model.config.suggested_init())
    table, nu = model.unbinned["SR"].pool, model.rates.nu(theta)[model.rates.cells("SR")]
    empty = -nu[0] * table["background"] / (nu[1] * table["signal"])  # mu at which the density of an event is 0
    theta[model.config.poi_index] = 1.0001 * empty.max()
    with pytest.warns(PoolDensityWarning) as told:
        expected = model.asimov(theta)
    with sharded(model, shards=2) as other, pytest.warns(PoolDensityWarning) as again:
        found = other.asimov(theta)
    assert str(again[0].message) == str(told[0].message)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_what_cannot_be_cut_is_refused(events):
    model, _ = events
    with pytest.raises(InvalidModel, match="at least one shard"), sharded(model, shards=0):
        pass
    binned = Workspace.from_pyhf(analytic.counting(55)).model()
    with pytest.raises(InvalidModel, match="no unbinned channel"), sharded(binned):
        pass
    workspace = analytic.workspace()
    workspace.spec["unbinned"]["channels"][0]["samples"][0]["normalisation"] = {"type": "pool"}
    with pytest.raises(InvalidModel, match=r"'background'.*cumulant"), sharded(workspace.model()):
        pass


def test_a_sharded_model_stays_here_and_ends_with_its_workers(events):
    model, data = events
    with sharded(model, executor=Serial(), shards=2) as other:
        with pytest.raises(InvalidModel, match="Serial"):
            list(run_tasks(len, other, [1]))
        likelihood = other.likelihood(data)
    with pytest.raises(InvalidModel, match="let go"):
        likelihood.value(np.array(model.config.suggested_init()))
    assert model.likelihood(data).sums is model.passes


def test_two_sharded_models_at_once_do_not_mix(events):
    model, data = events
    another = analytic.workspace(seed=5, pool=2000)
    second = another.model()
    with sharded(model, shards=2, executor=own_pool(2)) as a, sharded(second, shards=2, executor=own_pool(2)) as b:
        for _ in range(2):
            compare(model, a, data)
            compare(second, b, another.data(second))
