"""Networks trained on executors: the same ones whatever executor, workers and deaths, and those of one process."""

import dataclasses
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from command_line import run
from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample
from nuratio.errors import FitFailed, InvalidData, StatisticsWarning
from nuratio.parallel.tasks import Serial, own_pool
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.shape import ShapeEstimator
from nuratio.training.loop import fit_networks, split_events
from nuratio.training.replicas import with_replicas
from nuratio.training.shape import train_shapes
from nuratio.training.train import train
from nuratio.workspace.cache import load_or_train_all
from nuratio.workspace.config import Config
from nuratio.workspace.train import train_all
from two_files import configuration, write_files

OPTIONS = TrainingOptions(hidden=(16,), epochs=2, batch_size=64, learning_rate=2e-2, folds=2, ensemble=2)
SHAPE = dataclasses.replace(OPTIONS, hidden=(8,), epochs=4, learning_rate=5e-3, ensemble=1)
GRID = np.linspace(-1.5, 2.5, 9)
pytestmark = [
    pytest.mark.filterwarnings("ignore::nuratio.errors.StatisticsWarning"),
    pytest.mark.filterwarnings("ignore::nuratio.errors.NormalisationWarning"),
]


def samples(n=1200):
    rng = np.random.default_rng(1)
    w = np.where(np.arange(n) % 5 == 0, -1.0, 1.0)
    return {"a": EventSample(rng.normal(0, 1.5, n)), "b": EventSample(rng.normal(0.5, 1 + w / 4), w)}


def learned(executor, method="mixture", **changes):
    options = dataclasses.replace(OPTIONS, **changes)
    return train(samples(), method=method, seed=2, options=options, progress=False, executor=executor)


def same(found, expected):
    for name, array in expected.networks.stack.to_arrays().items():
        np.testing.assert_array_equal(found.networks.stack.to_arrays()[name], array)
    assert found.report == expected.report


def close(apart, together):
    for name, array in together.networks.stack.to_arrays().items():
        np.testing.assert_allclose(apart.networks.stack.to_arrays()[name], array, rtol=1e-3, atol=1e-4)
    assert apart.report["epoch"] == together.report["epoch"]


@pytest.mark.parametrize("method", ["pare", "rosmm_r"])
def test_every_method_takes_an_executor(method):
    """That which is watched over all its networks, and that with two stages."""
    apart = learned(Serial(), method)
    close(apart, learned(None, method))
    same(learned(own_pool(2), method), apart)


def test_ratios_do_not_depend_on_the_executor(dask):
    expected = learned(Serial(), bootstrap=True)
    close(expected, learned(None, bootstrap=True))
    with ThreadPoolExecutor(3) as threads:
        for executor in (own_pool(2), threads, dask):
            same(learned(executor, bootstrap=True), expected)


def test_networks_stop_together_as_in_one_process():
    """What learns noise by heart stops; a network alone does so earlier than four together."""
    x, y = torch.randn((400, 9), generator=torch.Generator().manual_seed(3)).split([8, 1], dim=1)
    how = {"folds": 2, "ensemble": 2, "epochs": 25, "batch_size": 64, "learning_rate": 3e-2, "patience": 1}
    options = TrainingOptions(**how, validation_fraction=0.5)
    splits = split_events(np.arange(400), options)

    def learn(executor):
        networks, passes = NetworkStack([8, 32, 1], 4).initialise(torch.Generator().manual_seed(1), [0.0]), []

        def loss(rows, members):
            passes.append(1)
            return (networks(x[rows], members)[..., 0] - y[rows, 0]) ** 2

        generator = torch.Generator().manual_seed(2)
        report = fit_networks(networks, loss, splits, options, generator, label="", executor=executor)
        return report, networks.to_arrays()

    (together, one), (apart, other) = learn(None), learn(Serial())
    assert max(together["epoch"]) + options.patience < options.epochs
    assert len(set(together["epoch"])) > 2
    assert apart["epoch"] == together["epoch"]
    np.testing.assert_allclose(apart["held_out_loss"], together["held_out_loss"], rtol=1e-5)
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, atol=1e-4)


def varied(events, *alphas):
    weights = {a: events.weights * np.exp(0.3 * a * np.clip(events.features[:, 0], -3, 3)) for a in alphas}
    return [VariedSample({"tilt": a}, dataclasses.replace(events, weights=w)) for a, w in weights.items()]


def test_shapes_do_not_depend_on_the_executor(dask):
    nominal = samples()["a"]
    points = varied(nominal, -1.0, 1.0)
    expected, *found = (
        train_shapes(nominal, points, options=SHAPE, progress=False, executor=executor).coefficients(GRID)
        for executor in (Serial(), own_pool(2), dask)
    )
    for other in found:
        for term, values in expected.items():
            np.testing.assert_array_equal(other[term], values)
    together, another = (
        train_shapes(nominal, points, options=SHAPE, progress=False, seed=seed).coefficients(GRID) for seed in (0, 1)
    )
    for term, values in expected.items():
        np.testing.assert_allclose(values, together[term], atol=3e-5)
        assert np.abs(values - another[term]).max() > 3e-4


@pytest.mark.parametrize("method", ["mixture", "rosmm"])
def test_replicas_do_not_depend_on_the_executor(method, dask):
    estimator = learned(None, method)
    here = with_replicas(estimator, samples(), draws=20)
    for executor in (Serial(), own_pool(2), dask):
        found = with_replicas(estimator, samples(), draws=20, executor=executor)
        np.testing.assert_allclose(found.replicas.layers, here.replicas.layers, rtol=1e-6, atol=1e-9)
        assert found.report["replicas"]["coefficients"] == pytest.approx(
            here.report["replicas"]["coefficients"], rel=1e-9
        )


def test_a_checkpoint_is_of_one_process(tmp_path):
    with pytest.raises(InvalidData, match="no checkpoint"):
        train(samples(), options=OPTIONS, progress=False, executor=Serial(), checkpoint=tmp_path / "state")


def test_a_training_that_diverges_says_so_from_a_worker():
    with pytest.raises(FitFailed, match="learning rate"):
        learned(own_pool(2), "lsif", learning_rate=1e30, clip=None)


# --- whole analyses


CONFIG = configuration(
    ["a", "b"], {"Ratio": OPTIONS.to_dict(), "Shape": SHAPE.to_dict(), "Directions": {"Source": "last_layer"}}
)


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path, samples())
    return tmp_path


def test_an_analysis_does_not_depend_on_the_executor(folder, dask):
    def trained(cache, executor=None):
        config = Config(CONFIG, folder, folder)
        return train_all(config, cache=folder / cache, progress=False, executor=executor)["SR"]

    here = trained("here")
    serial, pool = trained("serial", Serial()), trained("pool", own_pool(2))
    assert list(serial.shapes) == list(here.shapes) == ["a", "b[+]", "b[-]"]
    assert serial.keys == here.keys
    assert serial.new == pool.new == here.new == 4
    for found in (pool, trained("cluster", dask)):
        same(found.ratio, serial.ratio)
        np.testing.assert_allclose(found.ratio.replicas.layers, serial.ratio.replicas.layers, rtol=1e-6, atol=1e-8)
        for name, shape in serial.shapes.items():
            same(found.shapes[name], shape)
    for name, shape in here.shapes.items():
        for term, values in shape.coefficients(GRID).items():
            np.testing.assert_allclose(serial.shapes[name].coefficients(GRID)[term], values, atol=3e-4)
    assert trained("pool").new == 0  # what a pool has trained is found without it


def test_the_command_line_trains_with_workers(folder):
    config = folder / "analysis.yml"
    config.write_text(yaml.safe_dump(CONFIG))
    found = run("train", config, "--cache", folder / "cache", "--workers", 2)
    assert found["SR"]["trained"] == 4
    assert run("train", config, "--cache", folder / "cache")["SR"]["trained"] == 0
    run("train", config, "--workers", 0, code=2)


def fit_shapes(folder, k):
    marker = Path(folder) / f"died-{k}"
    if k == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    nominal = samples()["a"]
    return train_shapes(nominal, varied(nominal, -1.0, 1.0), seed=k, options=SHAPE, progress=False)


def test_trainings_side_by_side_survive_a_death(dask, tmp_path):
    jobs = [(tmp_path / str(k), partial(fit_shapes, str(tmp_path), k)) for k in (0, 1, 2, 1)]
    found = load_or_train_all(ShapeEstimator, jobs, dask)
    assert (tmp_path / "died-1").exists()
    assert [new for _, new in found] == [True, True, True, False]
    expected = [fit_shapes(tmp_path, k) for k in (0, 1, 2, 1)]
    for (shape, _), other in zip(found, expected, strict=True):
        same(shape, other)


def few(k):
    nominal = samples(900)["a"]
    return train_shapes(nominal, varied(nominal, -1.0, 1.0), seed=k, options=SHAPE, progress=False)


def test_warnings_of_workers_are_passed_on(tmp_path):
    with pytest.warns(StatisticsWarning) as told:
        load_or_train_all(ShapeEstimator, [(tmp_path / "a", partial(few, 1))], own_pool(2))
    with pytest.warns(StatisticsWarning) as expected:
        few(1)
    assert {str(w.message) for w in told} == {str(w.message) for w in expected}
