"""What one simulated event does to a fit: the formula against changing its weight and fitting again."""

import numpy as np
import pytest
from discrete import CELL, SHAPES, Channel, Events, simulate, workspace

import analytic
from nuratio.errors import InvalidModel, UnknownName
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.influence import influence, simulation_covariance, simulation_covariances

AT = {"mu": 1.3, "tilt": 1.0, "norm": -0.3}
STEP = 0.02  # of a weight


def point(model, at=AT):
    """Parameters that are not nominal, so that nothing is right by accident."""
    theta = np.array(model.config.suggested_init())
    for name, value in at.items():
        if name in model.config.par_names:
            theta[model.config.par_names.index(name)] = value
    gammas = [k for k, name in enumerate(model.config.par_names) if name.startswith("stat_")]
    theta[gammas] = 1.0 + 0.02 * np.arange(1, len(gammas) + 1)
    return theta


def refitted(channels, data, at):
    """Slopes of the best fit with the weight of an event, for some of each part: {(channel, part, event): slope}."""
    slopes = {}
    for c, (how, events) in enumerate(channels):
        for part, of in events.items():
            for j in range(0, len(of.w), 34):
                ends = []
                for factor in (1 + STEP, 1 - STEP):
                    changed = list(channels)
                    changed[c] = (how, events | {part: of.scaled(j, factor)})
                    model = workspace(*changed).model(kernel="numpy")
                    result = fit(model, data, init=at, hesse=False)
                    assert result.valid
                    ends.append(result.bestfit)
                slopes[how.name, part, j] = (ends[0] - ends[1]) / (2 * STEP)
    return slopes


def known(events, *, cells=False):
    """Yields of the parts, to be kept when weights change."""
    return {
        part: (of.w.sum() * (of.share(cells=CELL) if cells else np.ones(1))).tolist() for part, of in events.items()
    }


def _channels(case):
    rng = np.random.default_rng(5)
    events = simulate(rng)
    match case:
        case "rate and shape":
            return [(Channel(), events)]
        case "yields known":
            return [(Channel(yields=known(events)), events)]
        case "cells, rate and shape":
            return [(Channel(cells=True), events)]
        case "cells with staterror":
            return [(Channel(cells=True, staterror=True, yields=known(events, cells=True)), events)]
        case "two channels":
            other = simulate(rng, signal=50.0, background=200.0, negative=False)
            return [(Channel(), events), (Channel("SR2", yields=known(other)), other)]
    raise ValueError(case)


CASES = ("rate and shape", "yields known", "cells, rate and shape", "cells with staterror", "two channels")


@pytest.mark.parametrize("case", CASES)
def test_the_influence_of_an_event_is_what_a_refit_finds(case):
    channels = _channels(case)
    model = workspace(*channels).model(kernel="numpy")
    theta = point(model)
    data = model.asimov(theta)
    best = fit(model, data, init=dict(zip(model.config.par_names, theta, strict=True)))
    np.testing.assert_allclose(best.bestfit, theta, atol=1e-7)
    at = dict(zip(best.names, best.bestfit.tolist(), strict=True))
    slopes = refitted(channels, data, at)
    found = {(how.name, name): influence(model, best, how.name, name) for how, _ in channels for name in best.names}
    for how, events in channels:
        first = 0
        for part, of in events.items():
            for j in range(0, len(of.w), 34):
                predicted = np.array([found[how.name, name][first + j] for name in best.names])
                np.testing.assert_allclose(predicted, slopes[how.name, part, j], rtol=1e-3, atol=1e-5)
            first += len(of.w)
    each = [np.array([found[how.name, name] for name in best.names]) for how, _ in channels]
    total = sum(moved @ moved.T for moved in each)
    np.testing.assert_allclose(simulation_covariance(model, best), total, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(best.simulation, np.sqrt(np.diag(total)))
    assert best["mu"].simulation > 0.05


def asimov_fit(model):
    theta = point(model)
    return fit(model, model.asimov(theta), init=dict(zip(model.config.par_names, theta, strict=True)))


def equal_weights(rng, n=120):
    """Events of equal weights: their shares of x are what the pool says of them."""
    totals = {"signal": 80.0, "background": 300.0}
    return {part: Events.draw(rng, n, total, SHAPES[part], spread=0.0) for part, total in totals.items()}


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("cells", [False, True])
def test_events_outside_of_the_pool_count_as_those_in_it(cells, fixed):
    """With equal weights, n_eff events that are distributed like the sample are its events."""
    events = equal_weights(np.random.default_rng(6))
    yields = known(events, cells=cells) if fixed else None
    inside, outside = (
        workspace((Channel(cells=cells, yields=yields, outside=gone), events)).model() for gone in ((), ("signal",))
    )
    a, b = (simulation_covariances(model, asimov_fit(model)) for model in (inside, outside))
    order = [outside.config.par_names.index(name) for name in inside.config.par_names]
    for sample in ("signal", "background"):
        np.testing.assert_allclose(b["SR", sample][np.ix_(order, order)], a["SR", sample], rtol=1e-6, atol=1e-12)


def test_rate_and_shape_are_the_shape_and_the_error_of_the_yield():
    """Of n events of equal weights the yield is known to 1 / sqrt(n)."""
    events = equal_weights(np.random.default_rng(7))
    yields, step = known(events), 1e-3
    both, shape = (workspace((Channel(tilt=False, yields=y), events)).model() for y in (None, yields))
    theta = point(both)
    data, start = both.asimov(theta), dict(zip(both.config.par_names, theta, strict=True))
    assert shape.config.par_names == both.config.par_names
    rate = np.zeros((len(theta), len(theta)))
    for part, of in events.items():
        ends = []
        for factor in (1 + step, 1 - step):
            changed = Channel(tilt=False, yields=yields | {part: [factor * yields[part][0]]})
            ends.append(fit(workspace((changed, events)).model(), data, init=start, hesse=False).bestfit)
        moved = (ends[0] - ends[1]) / (2 * step)
        rate += np.outer(moved, moved) / len(of.w)
    found = [simulation_covariance(model, fit(model, data, init=start)) for model in (both, shape)]
    np.testing.assert_allclose(found[0], found[1] + rate, rtol=1e-4, atol=1e-8)
    assert np.all(np.diag(rate) > 0.01 * np.diag(found[0]))
    mu = fit(both, data)["mu"]
    assert mu.total == pytest.approx(np.hypot(mu.uncertainty, mu.simulation))
    assert str(mu).endswith(f"(simulation), {mu.total:.2g} in total")


def test_four_times_the_events_halve_the_error():
    """The same shares with weights of a quarter: nothing else changes."""
    events = equal_weights(np.random.default_rng(8))
    more = {part: Events(np.tile(of.x, 4), np.tile(of.w / 4, 4)) for part, of in events.items()}
    small, large = (asimov_fit(workspace((Channel(), of)).model()) for of in (events, more))
    np.testing.assert_allclose(large.uncertainty, small.uncertainty, rtol=1e-6)
    np.testing.assert_allclose(large.simulation, small.simulation / 2, rtol=1e-6)


def test_a_fixed_parameter_does_not_move():
    model = workspace((Channel(), simulate(np.random.default_rng(9)))).model()
    best = fit(model, model.asimov(point(model)), fixed={"tilt": 1.0})
    assert best["tilt"].simulation == 0
    assert best["mu"].simulation > 0


def test_what_is_not_known_is_said():
    model, data = (lambda ws: (ws.model(), ws.data(ws.model())))(analytic.workspace())
    best = fit(model, data)
    assert np.isnan(best.simulation).all()
    assert "simulation" not in str(best["mu"])
    with pytest.raises(InvalidModel, match="'simulation'"):
        influence(model, best, "SR")
    with pytest.raises(UnknownName, match="no unbinned channel 'CR'"):
        influence(model, best, "CR")
    ours = workspace((Channel(), simulate(np.random.default_rng(10)))).model()
    bare = fit(ours, ours.asimov(point(ours)), hesse=False)
    assert np.isnan(bare.simulation).all()
    with pytest.raises(InvalidModel, match="hesse=True"):
        influence(ours, bare, "SR")
    quick = fit(ours, ours.asimov(point(ours)), simulation=False)
    assert np.isnan(quick.simulation).all()
    assert np.isfinite(quick.uncertainty).all()


def test_one_sample_without_a_word_leaves_the_fit_without_an_answer():
    ws = workspace((Channel(), simulate(np.random.default_rng(11))))
    del ws.spec["unbinned"]["channels"][0]["samples"][0]["simulation"]
    assert np.isnan(asimov_fit(ws.model()).simulation).all()


@pytest.mark.parametrize("kernel", ["numba", "numpy"])
def test_the_error_does_not_depend_on_the_kernel_or_on_memory(kernel, tmp_path):
    ws = workspace((Channel(cells=True), simulate(np.random.default_rng(12), n=10_000)))
    ws.save(tmp_path / "ws")
    again = type(ws).load(tmp_path / "ws").model(kernel=kernel)
    theta = point(again)
    start = dict(zip(again.config.par_names, theta, strict=True))
    np.testing.assert_allclose(
        fit(again, again.asimov(theta), init=start).simulation, asimov_fit(ws.model()).simulation, rtol=1e-5
    )


# --- the law: an interval with the simulation's error holds the truth as often as it says


def toy(rng, model, x, rates):
    """A data set of the true densities, as weights of one pool event for each x."""
    main = np.zeros(model.config.nmaindata)
    where = model.config.channel_slices["SR"]
    truth = rates["signal"] * np.array(SHAPES["signal"]) + rates["background"] * np.array(SHAPES["background"])
    first = [int(np.flatnonzero(x == k)[0]) for k in range(6)]
    main[where.start + np.array(first)] = rng.poisson(truth)
    main[model.config.channel_slices["CR"]] = rng.poisson(50.0)
    return np.concatenate([main, rng.normal(0, 1, model.config.nauxdata)])


@pytest.mark.parametrize("fixed", [False, True])
def test_intervals_cover_with_the_simulation_and_not_without(fixed):
    rng, n = np.random.default_rng(13), 150
    rates, size = {"signal": 800.0, "background": 3000.0}, {"signal": 1500, "background": 1000}
    pulls = []
    for _ in range(n):
        events = {}
        for part, total in rates.items():
            drawn = rng.poisson(size[part])
            kept = total if fixed else total * drawn / size[part]
            events[part] = Events.draw(rng, drawn, kept, SHAPES[part], spread=0.0)
        yields = {part: [total] for part, total in rates.items()} if fixed else None
        model = workspace((Channel(tilt=False, yields=yields), events)).model()
        x = np.concatenate([of.x for of in events.values()])
        mu = fit(model, toy(rng, model, x, rates))["mu"]
        pulls.append([(mu.value - 1) / mu.uncertainty, (mu.value - 1) / mu.total])
    without, covered = np.abs(np.array(pulls).T) < 1
    error = np.sqrt(0.683 * 0.317 / n)
    assert abs(covered.mean() - 0.683) < 3 * error
    assert without.mean() < 0.683 - 3 * error
    assert np.std(np.array(pulls)[:, 1]) == pytest.approx(1, abs=4 / np.sqrt(2 * n))
