"""An interrupted training, gone on with, is the uninterrupted one bit for bit."""

import dataclasses

import numpy as np
import pytest
import torch
import uproot

from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample
from nuratio.errors import InvalidData, NuratioWarning
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training import checkpoint as checkpoints
from nuratio.training import loop
from nuratio.training.checkpoint import Checkpoint
from nuratio.training.shape import train_shapes
from nuratio.training.train import train
from nuratio.workspace.cache import CHECKPOINT
from nuratio.workspace.config import Config
from nuratio.workspace.train import train_all
from two_files import configuration

OPTIONS = TrainingOptions(hidden=(6, 6), epochs=6, batch_size=256, learning_rate=2e-2, folds=2, ensemble=1)
GRID = np.linspace(-2, 2, 41)
TILT = (("tilt", 1),)
CASES = {  # method -> options, and the epochs after which it is interrupted, counted over its stages
    "mixture": ({}, [2]),
    "lsif": ({}, [1, 4]),
    "rosmm_r": ({"networks": "separate"}, [3, 6, 9]),
    "pare": ({"rho": 4.0}, [5]),
}


def samples(n=6000):
    rng = np.random.default_rng(1)
    w = np.where(np.arange(n) % 5 == 0, -1.0, 1.0)
    return {"a": EventSample(rng.normal(0, 1.5, n)), "b": EventSample(rng.normal(0, 1 + w / 4), w)}


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt(monkeypatch):
    """Every state is written, and a training stops after so many epochs (counted from the call)."""
    real = loop.progress_bar
    monkeypatch.setattr(checkpoints, "_INTERVAL", 0.0)

    def after(epochs):
        left = [epochs]

        class Bar:
            def __init__(self, *args, **kwargs):
                self.bar = real(*args, **kwargs)

            def __enter__(self):
                advance = self.bar.__enter__()

                def stop(words):
                    advance(words)
                    left[0] -= 1
                    if left[0] == 0:
                        raise Interrupted

                return stop

            def __exit__(self, *error):
                return self.bar.__exit__(*error)

        monkeypatch.setattr(loop, "progress_bar", Bar if epochs else real)

    return after


def run(method, path, **changes):
    options = {"method_options": CASES[method][0], "options": OPTIONS, "seed": 3} | changes
    return train(samples(), method=method, checkpoint=path, progress=False, **options)


@pytest.mark.parametrize("method", CASES)
def test_an_interrupted_training_goes_on_to_the_same_numbers(method, interrupt, tmp_path):
    whole = run(method, None)
    path, done = tmp_path / "state", 0
    for epoch in CASES[method][1]:
        interrupt(epoch - done)
        with pytest.raises(Interrupted):
            run(method, path)
        assert path.is_file()
        done = epoch
    interrupt(100)  # more than are left
    resumed = run(method, path)
    np.testing.assert_array_equal(resumed.ratios(GRID).values, whole.ratios(GRID).values)
    assert resumed.report == whole.report
    assert resumed.normalisation == whole.normalisation
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::nuratio.errors.NormalisationWarning")
def test_a_bootstrap_goes_on_too(interrupt, tmp_path):
    options = dataclasses.replace(OPTIONS, ensemble=2, bootstrap=True)
    whole, plain = (run("mixture", None, options=o) for o in (options, dataclasses.replace(options, bootstrap=False)))
    interrupt(2)
    with pytest.raises(Interrupted):
        run("mixture", tmp_path / "state", options=options)
    interrupt(0)
    with pytest.raises(InvalidData, match=r"what differs: options\.bootstrap"):
        run("mixture", tmp_path / "state", options=plain.options)
    resumed = run("mixture", tmp_path / "state", options=options)
    np.testing.assert_array_equal(resumed.ratios(GRID).values, whole.ratios(GRID).values)
    assert np.abs(whole.ratios(GRID).values - plain.ratios(GRID).values).max() > 1e-3


def test_epochs_are_not_trained_again(interrupt, monkeypatch, tmp_path):
    interrupt(4)
    with pytest.raises(Interrupted):
        run("mixture", tmp_path / "state")
    interrupt(0)
    seen, keep = [], loop._Descent.keep

    def recorded(self, model, held_out):
        seen.append((self.epoch, model))
        keep(self, model, held_out)

    monkeypatch.setattr(loop._Descent, "keep", recorded)
    run("mixture", tmp_path / "state")
    assert seen == [(5, 0), (5, 1), (6, 0), (6, 1)]


def test_the_state_to_be_kept_survives_what_comes_after_it(monkeypatch, tmp_path):
    """Networks that learn noise by heart keep one of their first states, and stop for it."""
    monkeypatch.setattr(checkpoints, "_INTERVAL", 0.0)
    x, y = torch.randn((400, 9), generator=torch.Generator().manual_seed(3)).split([8, 1], dim=1)
    options = TrainingOptions(
        folds=2, ensemble=1, epochs=60, batch_size=64, learning_rate=1e-2, patience=9, validation_fraction=0.5
    )
    splits = loop.split_events(np.arange(400), options)

    def learn(checkpoint, stop=None):
        networks = NetworkStack([8, 32, 1], 2).initialise(torch.Generator().manual_seed(1), [0.0])
        epochs = []

        def watch():
            epochs.append(0)
            if len(epochs) == stop:
                raise Interrupted

        def loss(rows, members):
            return (networks(x[rows], members)[..., 0] - y[rows, 0]) ** 2

        generator = torch.Generator().manual_seed(2)
        kept = Checkpoint.open(checkpoint, {})
        found = loop.fit_networks(networks, loss, splits, options, generator, label="", checkpoint=kept, watch=watch)
        return found, networks.to_arrays(), len(epochs)

    report, arrays, epochs = learn(tmp_path / "whole")
    assert epochs == max(report["epoch"]) + 9 < 60
    with pytest.raises(Interrupted):
        learn(tmp_path / "state", stop=epochs - 3)
    resumed, same, left = learn(tmp_path / "state")
    assert (resumed, left) == (report, 4)
    for name, array in arrays.items():
        np.testing.assert_array_equal(same[name], array)


def test_a_shape_goes_on_too(interrupt, tmp_path):
    nominal, rng = samples()["a"], np.random.default_rng(2)
    up = EventSample(nominal.features, nominal.weights * rng.uniform(0.5, 1.5, len(nominal)))
    given = {"options": OPTIONS, "progress": False}
    varied = [VariedSample({"tilt": 1}, up)]
    whole = train_shapes(nominal, varied, **given).coefficients(GRID)[TILT]
    interrupt(3)
    with pytest.raises(Interrupted):
        train_shapes(nominal, varied, checkpoint=tmp_path / "state", **given)
    interrupt(0)
    with pytest.raises(InvalidData, match=r"what differs: events of 'tilt = -1', events of 'tilt = \+1'"):
        train_shapes(nominal, [VariedSample({"tilt": -1}, up)], checkpoint=tmp_path / "state", **given)
    resumed = train_shapes(nominal, varied, checkpoint=tmp_path / "state", **given).coefficients(GRID)[TILT]
    np.testing.assert_array_equal(resumed, whole)
    assert not list(tmp_path.iterdir())


CONFIG = configuration("a", {"Ratio": OPTIONS.to_dict(), "Shape": OPTIONS.to_dict()})


@pytest.mark.filterwarnings("ignore::nuratio.errors.NormalisationWarning")
def test_an_interrupted_build_goes_on_where_it_was(interrupt, tmp_path):
    """First in the ratios, then in the shape; a calibration needs no new networks."""
    for name, sample in samples().items():
        with uproot.recreate(tmp_path / f"{name}.root") as file:
            x = np.clip(sample.features[:, 0].astype(float), -5, 5)
            file["t"] = {"x": x, "w": sample.weights if name == "b" else np.ones(len(x))}

    def trained(cache, config=CONFIG):
        found = train_all(Config(config, tmp_path, tmp_path), cache=tmp_path / cache, progress=False)["SR"]
        return found, found.ratio.ratios(GRID).values, found.shapes["a"].coefficients(GRID)[TILT]

    _, *whole = trained("uninterrupted")
    for epochs in (2, OPTIONS.epochs):  # of the ratio's; four more of them and two of the shape's
        interrupt(epochs)
        with pytest.raises(Interrupted):
            trained("cache")
        assert len(list(tmp_path.glob(f"cache/*/{CHECKPOINT}"))) == 1
    interrupt(OPTIONS.epochs - 1)  # four are left; five would be too many
    resumed, *numbers = trained("cache")
    for first, second in zip(numbers, whole, strict=True):
        np.testing.assert_array_equal(first, second)
    assert resumed.new == 1
    assert not list(tmp_path.glob(f"cache/*/{CHECKPOINT}"))
    calibrated, r, _ = trained("cache", CONFIG | {"Training": CONFIG["Training"] | {"Calibrate": True}})
    assert calibrated.new == 0
    assert set(calibrated.ratio.report["calibration"]) == {"a", "b[+]", "b[-]"}
    assert np.abs(r / numbers[0] - 1).max() > 0.01


def test_the_checkpoint_of_another_training_is_refused(interrupt, tmp_path):
    path = tmp_path / "state"
    interrupt(1)
    with pytest.raises(Interrupted):
        run("mixture", path)
    before = path.read_bytes()
    other = TrainingOptions(**OPTIONS.to_dict() | {"epochs": 7, "hidden": [5]})
    differs = r"belongs to another training; what differs: "
    with pytest.raises(InvalidData, match=differs + r"options.hidden \(\[6, 6\] there, \[5\] now\), options.epochs"):
        run("mixture", path, options=other)
    with pytest.raises(InvalidData, match=differs + r"method \('mixture' there, 'lsif' now\)\."):
        run("lsif", path)
    with pytest.raises(InvalidData, match=differs + r"seed \(3 there, 4 now\)\..* delete it"):
        run("mixture", path, seed=4)
    changed = samples()
    weights = changed["b"].weights.copy()
    weights[7] *= 1 + 1e-12
    changed["b"] = EventSample(changed["b"].features, weights)
    with pytest.raises(InvalidData, match=differs + r"events of 'b'\. Train"):
        train(changed, options=OPTIONS, seed=3, checkpoint=path, progress=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_no_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(InvalidData, match=r"is no checkpoint of this version.*delete it"):
        run("mixture", path)
    assert path.read_bytes() == content


def test_a_short_training_writes_nothing(monkeypatch, tmp_path):
    def refuse(*args):
        raise AssertionError("written within ten seconds")

    monkeypatch.setattr(checkpoints, "_write", refuse)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: 100.0)
    run("mixture", tmp_path / "state")


def test_a_training_outlives_a_full_disk(interrupt, tmp_path):
    with pytest.warns(NuratioWarning, match="cannot be written, the training goes on without"):
        found = run("mixture", tmp_path / "nowhere" / "state")
    np.testing.assert_array_equal(found.ratios(GRID).values, run("mixture", None).ratios(GRID).values)
