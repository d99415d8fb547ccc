"""Least squares in random features, PARE's pole from a pilot, and the choice among methods."""

import numpy as np
import pytest
from test_methods import dip, exact, normal

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, StatisticsWarning
from nuratio.ratios.options import TrainingOptions
from nuratio.training.choice import CANDIDATES, choose, pilot_rho, risk_at_events, subsample
from nuratio.training.linear import lowest_ratios
from nuratio.training.loop import split_events
from nuratio.training.objective import SimulatedEvents
from nuratio.training.train import train

OPTIONS = TrainingOptions(hidden=(16, 16), epochs=6, batch_size=1024, learning_rate=1e-2, folds=2, ensemble=1)


def test_least_squares_solves_its_normal_equations():
    """Moments of the features under q r are those under p, but for the ridge that pulls towards r = 1."""
    samples = dip(20_000, 1)
    est = train(samples, method="linear", method_options={"features": 30}, options=OPTIONS, progress=False)
    events = SimulatedEvents.of(samples, None)
    networks = est.networks.stack
    hidden = (events.x - networks.get_buffer("center")) * networks.get_buffer("inverse_scale")
    hidden = (hidden @ networks.weights[0][0] + networks.biases[0][0]).double()
    phi = (hidden * hidden.sigmoid()).numpy()
    split = split_events(events.ids, OPTIONS)[0]
    rows = np.concatenate([split.training, split.validation])
    assert len(rows) < len(events.ids)
    phi = np.column_stack([phi, np.ones(len(phi))])[rows]
    q, p, own = events.reference[rows].double().numpy(), events.signed[rows].double().numpy(), events.sample[rows]
    gram = phi.T @ (q[:, None] * phi)
    for k in range(2):
        b = np.append(networks.weights[1][0, :, k].double(), networks.biases[1][0, 0, k].double())
        signed = np.where(own.numpy() == k, p, 0) @ phi
        pull = est.report["ridge"][0][k] * np.trace(gram) / len(gram) * (b - np.eye(len(b))[-1])
        rounding = 1e-6 * np.abs(gram) @ np.abs(b)  # float32 coefficients and features
        assert np.all(np.abs(gram @ b - signed + pull) < rounding)


def test_few_signed_events_do_not_make_a_ratio():
    """Twice one density, 45% of the weights of one negative: 200 effective events have no room for 400 features."""
    rng = np.random.default_rng(4)
    w = np.where(rng.uniform(size=20_000) < 0.45, -1.0, 1.0)
    samples = {"a": EventSample(rng.normal(size=(20_000, 3))), "b": EventSample(rng.normal(size=(20_000, 3)), w)}
    with pytest.warns(StatisticsWarning):
        est = train(samples, method="linear", options=OPTIONS, progress=False)
    assert np.std(est.ratio(rng.normal(size=(20_000, 3)), "b")) < 0.3  # sqrt(features / effective events) is 1.4


def test_the_pilot_sees_how_negative_a_ratio_gets():
    lowest = [lowest_ratios(SimulatedEvents.of(dip(60_000, seed), "flat"), seed)["dip"] for seed in range(4)]
    assert all(-2.2 < value < -0.8 for value in lowest)  # the exact minimum is -2; an average is above it
    rng = np.random.default_rng(0)
    positive = {"a": EventSample(rng.normal(0, 1.5, 20_000)), "b": EventSample(rng.normal(0, 1, 20_000))}
    events = SimulatedEvents.of(positive, "a")
    assert lowest_ratios(events)["b"] > -1e-3
    assert pilot_rho(events) == pytest.approx(2.0, abs=1e-3)
    assert 2.0 < pilot_rho(SimulatedEvents.of(dip(60_000, 1), "flat")) < 3.0


def test_pare_takes_its_pole_from_the_pilot():
    options = {"method_options": {"rho": "auto"}, "reference": "flat", "options": OPTIONS}
    est = train(dip(30_000, 1), method="pare", progress=False, **options)
    assert 2.0 < est.head.loss.rho < 3.0
    assert est.report["method_options"] == {"rho": "auto"}


class Known:
    """The exact ratios of the dip, or others."""

    def __init__(self, bend=0.0):
        self.bend, self.report = bend, {}

    def ratios(self, x, event_ids):
        return x[:, 0].astype(float)

    def net(self, x, name):
        flat, net = normal(x, 1.5), exact(x) * normal(x, 1.5)
        q = (flat + (2 * normal(x, 1) + normal(x, 0.3)) / 3) / 2
        return (flat if name == "flat" else net) / q + self.bend * np.cos(x)


def test_the_risk_is_lowest_for_the_exact_ratio():
    """And its differences are those of least squares: E_q[(r - r*)^2] / 2."""
    samples = dip(60_000, 2)
    events = SimulatedEvents.of(samples, None)

    best, bent = (risk_at_events(Known(bend), events) for bend in (0.0, 0.3))
    difference = bent - best
    error = difference.std() / np.sqrt(len(difference))
    q = events.reference.double().numpy()
    expected = float((q * np.cos(events.x[:, 0].double().numpy()) ** 2).mean()) * 0.3**2  # two samples, 1/2 each
    assert abs(difference.mean() - expected) < 4 * error
    assert difference.mean() > 4 * error


def test_auto_takes_the_method_of_lowest_risk_and_says_why():
    est = train(dip(15_000, 1), method="auto", options=OPTIONS, seed=3, progress=False)
    comparison = est.report["auto"]
    table = comparison["candidates"]
    assert tuple(table) == CANDIDATES
    assert table[comparison["chosen"]]["above_best"] <= table[comparison["chosen"]]["error"]
    assert min(row["above_best"] for row in table.values()) == 0
    x = np.random.default_rng(7).normal(0, 1.5, 20_000)
    assert np.mean((est.ratio(x, "dip") / est.ratio(x, "flat") - exact(x)) ** 2) < 0.05


@pytest.mark.parametrize(
    ("bends", "chosen"), [((0, 0, 0.3), 0), ((0.3, 0, 0.3), 1), ((0.3, 0.3, 0), 2), ((0, 0, 0), 0)]
)
def test_the_lowest_risk_wins_and_of_equal_ones_the_first(bends, chosen):
    def learn(name, some):
        return Known(bends[CANDIDATES.index(name)])

    estimator, comparison = choose(dip(60_000, 2), None, learn)
    assert comparison["chosen"] == CANDIDATES[chosen]
    assert estimator.bend == bends[chosen]
    assert comparison["candidates"][CANDIDATES[chosen]]["above_best"] == 0


@pytest.mark.parametrize(("n", "compared"), [(15_000, 15_000), (60_000, 30_000), (900_000, 200_000)])
def test_comparing_takes_no_longer_than_training(n, compared):
    """Half of the events for each of two networks; all of few, and then nothing is trained twice."""
    learned = []

    def learn(name, some):
        learned.append((name, len(some["dip"])))
        return Known()

    choose(dip(n, 1), None, learn)
    assert [name for name, _ in learned[:3]] == list(CANDIDATES)
    sizes = [size for _, size in learned]
    assert all(size <= compared + 5 * np.sqrt(n) for size in sizes[:3])
    assert sizes[3:] == ([] if compared == n else [n])


def test_auto_keeps_the_parts_of_a_sample_that_cancels():
    samples = dip(12_000, 1)
    x = samples["dip"].features[:, 0]
    zero = EventSample(x, np.r_[np.ones(6000), -np.ones(6000) * (1 - 1e-12)])
    with pytest.warns(StatisticsWarning):
        est = train({**samples, "zero": zero}, method="auto", options=OPTIONS, progress=False)
    assert est.report["auto"]["chosen"] == "mixture"
    assert "its weights cancel" in est.report["auto"]["reason"]


def test_a_subsample_is_drawn_by_id():
    sample = dip(12_000, 1)["dip"]
    small = subsample({"dip": sample}, 4000)["dip"]
    assert abs(len(small) - 4000) < 5 * np.sqrt(4000)
    assert set(small.ids) <= set(sample.ids)
    assert len(subsample({"dip": sample}, 12_000)["dip"]) == 12_000


def test_wrong_options_are_named():
    with pytest.raises(InvalidData, match="method 'linear' has one option"):
        train(dip(12_000, 1), method="linear", method_options={"feature": 3}, options=OPTIONS, progress=False)
