"""PARE's pole and the ratios of events that networks have not seen."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from test_methods import dip, exact

from nuratio.data.sample import EventSample
from nuratio.errors import FitFailed, PoleTooNear
from nuratio.ratios.losses import PARE
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training import train as training
from nuratio.training.loop import split_events
from nuratio.training.objective import SimulatedEvents
from nuratio.training.pole import PoleWatch, _lowest_average
from nuratio.training.train import train

OPTIONS = TrainingOptions(hidden=(32, 32), epochs=6, batch_size=512, learning_rate=1e-2, folds=2, ensemble=1)


def cells(n, lowest, rng):
    """Indicators of four cells with the ratios ``lowest``, 0, 1 and 2: features, q and p of n events."""
    cell = rng.integers(4, size=n)
    ratio = np.array([lowest, 0.0, 1.0, 2.0])[cell]
    sign = np.where(rng.uniform(size=n) < (1 + ratio / 8) / 2, 8.0, -8.0)  # a mean of the ratio, and much noise
    return [torch.from_numpy(a) for a in (np.eye(4)[cell], np.ones(n), sign)]


def test_the_lowest_average_is_the_ratio_of_the_lowest_cell(rng):
    phi, q, p = cells(200_000, -1.5, rng)
    low, found, error = _lowest_average(phi, q, p)
    per_cell = [float(p[phi[:, c] == 1].mean()) for c in range(4)]
    assert low == pytest.approx(min(per_cell), rel=1e-3)  # the ridge
    assert found == pytest.approx(min(per_cell), rel=1e-3)
    assert error == pytest.approx(8 / np.sqrt(50_000), rel=0.05)


def test_the_average_from_the_other_half_has_the_error_it_claims():
    """Of cells that are all alike the lowest is below the mean by its fluctuation; from the other half it is not."""
    pulls, lows = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        phi, q, _ = cells(2000, 0.0, rng)
        p = torch.from_numpy(rng.choice([-8.0, 8.0], len(q)))
        low, found, error = _lowest_average(phi, q, p)
        pulls.append(found / error)
        lows.append(low / error)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(200)
    assert abs(np.std(pulls, ddof=1) - 1) < 4 / np.sqrt(400)
    assert np.mean(lows) < -0.8


@pytest.mark.parametrize(("rho", "reference"), [(0.5, "flat"), (1.0, "flat"), (0.5, None)])
def test_a_pole_above_the_ratios_is_refused_with_the_remedy(rho, reference):
    """r(0) = -2 to the flat sample, -1.1 to the pooled reference."""
    match = (
        rf"rho = {rho:g}: sample 'dip' has ratios below the pole -rho\^2 = {-(rho**2):g}, .* eigenvalue is -.*rho: auto"
    )
    with pytest.raises(PoleTooNear, match=match) as error:
        train(
            dip(30_000, 1),
            method="pare",
            method_options={"rho": rho},
            reference=reference,
            options=OPTIONS,
            progress=False,
        )
    assert error.value.eigenvalue < 0
    assert isinstance(error.value, FitFailed)


@pytest.mark.filterwarnings("ignore::nuratio.errors.NormalisationWarning")
def test_rho_auto_moves_the_pole_away_until_it_is_right(monkeypatch):
    monkeypatch.setattr(training, "pilot_rho", lambda events: 0.6)
    est = train(
        dip(30_000, 1), method="pare", method_options={"rho": "auto"}, reference="flat", options=OPTIONS, progress=False
    )
    pole = est.report["pole"]
    tried = pole["tried"]
    assert len(tried) >= 2
    for before, after in pairwise(tried):
        assert before["eigenvalue"] < 0
        assert after["rho"] ** 2 >= 2 * before["rho"] ** 2
        assert after["rho"] ** 2 >= 3.99 * (before["rho"] ** 2 - before["eigenvalue"])  # four times the lowest average
    assert tried[-1] == {"rho": pole["rho"], "eigenvalue": pole["eigenvalue"]}
    assert est.head.loss.rho == pole["rho"] > 1.1  # averages of r reach below -1; r(0) = -2
    assert pole["pole"] == pytest.approx(-(pole["rho"] ** 2))
    assert pole["pole"] < pole["lowest_ratio"] < -1
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    assert (
        np.mean((est.ratio(x, "dip") / est.ratio(x, "flat") - exact(x)) ** 2) < 0.6
    )  # with the first pole it is infinite


def test_of_many_events_some_of_every_sample_are_looked_at(monkeypatch):
    monkeypatch.setattr("nuratio.training.pole._MOST", 1000)
    test_a_pole_above_the_ratios_is_refused_with_the_remedy(0.5, "flat")


def test_it_does_not_go_on_for_ever(monkeypatch):
    monkeypatch.setattr(training, "pilot_rho", lambda events: 1e-3)
    monkeypatch.setattr(training, "_MOST_POLES", 1)
    with pytest.raises(PoleTooNear, match=r"rho = 0\.001:"):
        train(dip(12_000, 1), method="pare", method_options={"rho": "auto"}, options=OPTIONS, progress=False)


def test_noise_alone_is_no_violation():
    """Weights that all but cancel have averages below any pole; no ratio was learned that is."""
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=6000), np.where(np.arange(6000) % 10 < 4, -1.0, 1.0)
    events = SimulatedEvents.of({"a": EventSample(rng.normal(size=6000)), "b": EventSample(x, w)}, "a")
    networks = NetworkStack([1, 24, 2], 2).initialise(torch.Generator().manual_seed(1), [1.0, 1.0])
    found = PoleWatch(events, PARE(0.3))(networks, split_events(events.ids, OPTIONS))["pole"]
    assert found["eigenvalue"] < 0.09  # rho^2: some average is below zero by chance
    assert found["lowest_ratio"] == pytest.approx(1, abs=1e-5)
    positive = SimulatedEvents.of({"a": EventSample(x), "b": EventSample(x + 1)}, "a")
    found = PoleWatch(positive, PARE(0.3))(networks, split_events(positive.ids, OPTIONS))["pole"]
    assert found["eigenvalue"] == pytest.approx(0.09)
