"""Replicas of ratios: bootstrap, last layer and ensemble, against what they stand for."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from nuratio.data.bootstrap import multiplicity_of, normal_of
from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import InvalidConfig, InvalidData, StatisticsWarning, UnknownName
from nuratio.ratios.estimator import RatioEstimator, fluctuations, split_by_sign
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training import objective as objectives
from nuratio.training import replicas
from nuratio.training.loop import split_events
from nuratio.training.objective import SimulatedEvents, multiplicities
from nuratio.training.parametrised import train_parametrised
from nuratio.training.replicas import LAST_LAYER_METHODS, _objective, with_replicas
from nuratio.training.shape import train_shapes
from nuratio.training.train import METHODS, train

OPTIONS = TrainingOptions(hidden=(4,), epochs=6, batch_size=128, learning_rate=2e-2, folds=2, ensemble=2)
GRID = np.linspace(-1.5, 2.5, 9)
pytestmark = [
    pytest.mark.filterwarnings("ignore::nuratio.errors.StatisticsWarning"),
    pytest.mark.filterwarnings("ignore::nuratio.errors.NormalisationWarning"),
]


def samples(n=1200, *, signed=True):
    rng = np.random.default_rng(1)
    w = np.where(np.arange(n) % 5 == 0, -1.0, 1.0) if signed else np.ones(n)
    return {"a": EventSample(rng.normal(0, 1.5, n)), "b": EventSample(rng.normal(0.5, 1 + w / 4), w)}


def trained(method="mixture", given=None, **changes):
    options = dataclasses.replace(OPTIONS, **changes)
    more = {"method_options": {"features": 6}} if method == "linear" else {}
    given = samples() if given is None else given
    return train(given, method=method, seed=2, options=options, progress=False, **more)


# --- what fluctuates


@pytest.mark.parametrize("draw", [multiplicity_of, normal_of])
def test_factors_of_events_have_mean_and_variance_one(draw):
    n = 200_000
    ids = np.arange(n) * 7 - 1000
    drawn = np.array([draw(ids, j) for j in range(3)], dtype=float)
    assert np.all(np.abs(drawn.mean(1) - 1) < 4 / np.sqrt(n))
    fourth = 3.0 if draw is multiplicity_of else 2.0  # variance of (m - 1)^2
    assert np.all(np.abs(drawn.var(1) - 1) < 4 * np.sqrt(fourth / n))
    assert np.all(np.abs(np.corrcoef(drawn)[np.triu_indices(3, 1)]) < 4 / np.sqrt(n))
    for folds, seed in ((2, 0), (3, 0), (5, 0xB007)):
        fold = fold_of(ids, folds, seed)
        assert all(abs(drawn[0][fold == k].mean() - 1) < 4 / np.sqrt(n / folds) for k in range(folds))


def test_multiplicities_are_those_of_a_poisson_distribution():
    counts = np.bincount(multiplicity_of(np.arange(100_000), 3))
    expected = 100_000 * np.exp(-1) / np.cumprod([1, 1, 2, 3, 4, 5])
    assert np.all(np.abs(counts[:6] - expected) < 4 * np.sqrt(expected))


@pytest.mark.parametrize("draw", [multiplicity_of, normal_of])
def test_they_depend_on_id_replica_and_seed_alone(draw):
    ids = np.random.default_rng(0).integers(-(10**12), 10**12, 1000)
    order = np.random.default_rng(1).permutation(1000)
    np.testing.assert_array_equal(draw(ids, 4)[order], draw(ids[order], 4))
    np.testing.assert_array_equal(draw(ids, 4)[10:20], draw(ids[10:20], 4))
    for other in (draw(ids, 5), draw(ids, 4, 1)):
        assert (other != draw(ids, 4)).mean() > 0.5


@pytest.mark.parametrize("source", ["bootstrap", "last_layer", "ensemble"])
@pytest.mark.parametrize("whole", [False, True])
def test_yields_of_what_has_a_ratio_do_not_fluctuate(source, whole):
    """Of parts where these have ratios; of samples where those do, whose parts then fluctuate."""
    given = samples()
    parts = tuple(split_by_sign(given))
    components = objectives.whole_samples(given) if whole else parts
    drawn = fluctuations(given, components, source, 5, 0)
    found = {}
    for k, (part, events) in enumerate(split_by_sign(given).items()):
        factors = drawn.factors(events.ids, np.full(len(events), k))
        found[part.name] = factors @ events.weights / part.total - 1
        fixed = source == "ensemble" or not (whole and part.sample == "b")
        assert (np.abs(found[part.name]).max() < 1e-12) == fixed
        if source == "ensemble":
            np.testing.assert_array_equal(factors, 1)
    totals = {part.name: part.total for part in parts}
    np.testing.assert_allclose(found["b[+]"] * totals["b[+]"], -found["b[-]"] * totals["b[-]"], atol=1e-9)


# --- the bootstrap in the training


@pytest.mark.parametrize(
    ("method", "options"), [("mixture", {}), ("lsif", {}), ("rosmm", {}), ("rosmm_r", {"networks": "separate"})]
)
def test_each_event_counts_as_often_as_its_multiplicity_for_the_members_of_all_folds(method, options, monkeypatch):
    how = dataclasses.replace(OPTIONS, ensemble=3, bootstrap=True)
    losses, weighed = [], []

    def stop(networks, loss, splits, *args, **kwargs):
        losses.append((loss, len(splits)))
        return {}

    def spy(*args):
        weighed.append(multiplicities(*args))
        return weighed[-1]

    monkeypatch.setattr(objectives, "fit_networks", stop)
    monkeypatch.setattr(objectives, "multiplicities", spy)
    train(samples(), method=method, method_options=options, options=how, progress=False)
    monkeypatch.undo()
    plain = []
    monkeypatch.setattr(objectives, "fit_networks", lambda n, loss, s, *a, **k: plain.append((loss, len(s))) or {})
    off = dataclasses.replace(how, bootstrap=False)
    train(samples(), method=method, method_options=options, options=off, progress=False)
    rows = torch.tensor([[3, 700, 1900, 3]])
    for (loss, models), (alike, _), times in zip(losses, plain, weighed, strict=True):
        per_member = models // (how.folds * how.ensemble)
        for m in range(models):
            expected = times[m // per_member % how.ensemble, rows[0]]
            one = slice(m, m + 1)
            torch.testing.assert_close(loss(rows, one)[0], alike(rows, one)[0] * expected)
        together = loss(rows.expand(models, -1), slice(None))
        torch.testing.assert_close(together[-1], loss(rows, slice(models - 1, models))[0])


def test_a_linear_bootstrap_solves_for_the_events_as_often_as_they_count():
    given, how = samples(), dataclasses.replace(OPTIONS, bootstrap=True)
    estimator = trained("linear", given, bootstrap=True)
    events = SimulatedEvents.of(given, None, np.float64)
    times = multiplicities(events, estimator.components, how).numpy()
    for m, split in enumerate(split_events(events.ids, how)):
        rows = np.concatenate([split.training, split.validation])
        phi = estimator.networks.stack.last_hidden(events.x[rows], m).numpy()
        count = times[m % how.ensemble, rows]
        gram = phi.T @ ((events.reference.numpy()[rows] * count)[:, None] * phi)
        one = np.eye(len(gram))[-1]
        for k in range(2):
            p = events.signed.numpy()[rows] * count * (events.sample.numpy()[rows] == k)
            ridge = estimator.report["ridge"][m][k] * np.trace(gram) / len(gram) * np.eye(len(gram))
            expected = phi @ (one + np.linalg.solve(gram + ridge, phi.T @ p - gram @ one))
            found = phi[:, :-1] @ estimator.networks.stack.weights[-1][m, :, k].double().numpy()
            found += float(estimator.networks.stack.biases[-1][m, 0, k])
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_options_without_a_bootstrap_are_what_they_were():
    """So that caches and checkpoints from before the option are found."""
    assert "bootstrap" not in OPTIONS.to_dict()
    assert TrainingOptions.from_dict(OPTIONS.to_dict()) == OPTIONS
    with_it = dataclasses.replace(OPTIONS, bootstrap=True)
    assert TrainingOptions.from_dict(with_it.to_dict()) == with_it
    with pytest.raises(InvalidConfig, match="'bootstrap' must be true or false, got 1"):
        TrainingOptions(bootstrap=1)
    with pytest.raises(InvalidConfig, match="got ensemble 1; 10 members tell"):
        TrainingOptions(bootstrap=True, ensemble=1)


def test_what_knows_no_bootstrap_refuses_it():
    how = dataclasses.replace(OPTIONS, bootstrap=True)
    a, b = samples(signed=False).values()
    with pytest.raises(InvalidConfig, match="'bootstrap' is for density ratios"):
        train_shapes(a, [], options=how)
    with pytest.raises(InvalidConfig, match="not for parametrised ratios"):
        train_parametrised({0.0: a, 1.0: b}, names=["theta"], options=how)


# --- deviations


@pytest.fixture(scope="module")
def members():
    """An estimator with replicas of each kind that members make."""
    found = {}
    for source in ("ensemble", "bootstrap"):
        estimator = trained(ensemble=3, bootstrap=source == "bootstrap")
        found[source] = with_replicas(estimator, samples(), source)
    return found


@pytest.mark.parametrize("source", ["ensemble", "bootstrap"])
@pytest.mark.parametrize("simulated", [False, True])
def test_members_of_one_number_are_one_replica_and_their_mean_is_the_ratio(source, simulated, members):
    estimator = members[source]
    ids = np.arange(len(GRID)) if simulated else None
    r = estimator.ratios(GRID, event_ids=ids).values.T
    deviations = estimator.deviations(GRID, event_ids=ids)
    assert deviations.shape == (3, len(GRID), 3)
    np.testing.assert_allclose(deviations.sum(0), 0, atol=1e-12)
    for j in range(3):
        if simulated:
            expected = estimator.ratios(GRID, event_ids=ids, member=j).values.T
        else:  # members j of both folds
            expected = np.mean([estimator.ratios(GRID, member=m).values.T for m in (j, 3 + j)], axis=0)
        np.testing.assert_allclose(r + deviations[j], expected, rtol=1e-10)


@pytest.mark.parametrize("source", ["ensemble", "bootstrap", "last_layer"])
def test_an_event_is_judged_by_networks_that_have_not_seen_it(source, members):
    estimator = with_replicas(trained(), samples(), draws=3) if source == "last_layer" else members[source]
    ids = np.arange(len(GRID))
    fold, before = fold_of(ids, 2, 0), estimator.deviations(GRID, event_ids=ids)
    assert 0 < fold.sum() < len(ids)
    state = estimator.networks.stack.to_arrays()
    state["weights.0"][: estimator.options.ensemble] *= 1.3  # those that left out fold 0
    changed = dataclasses.replace(estimator.networks, stack=NetworkStack.from_arrays(state))
    after = dataclasses.replace(estimator, networks=changed).deviations(GRID, event_ids=ids)
    np.testing.assert_array_equal(after[:, fold == 1], before[:, fold == 1])
    assert np.abs(after[:, fold == 0] - before[:, fold == 0]).max() > 1e-3


@pytest.mark.parametrize("source", ["ensemble", "bootstrap", "last_layer"])
def test_saved_and_loaded_replicas_are_the_same_bit_for_bit(source, members, tmp_path):
    estimator = with_replicas(trained("lsif"), samples(), draws=4) if source == "last_layer" else members[source]
    estimator.save(tmp_path)
    loaded = RatioEstimator.load(tmp_path)
    assert loaded.replicas.source == source
    assert loaded.report == estimator.report
    for ids in (None, np.arange(len(GRID))):
        np.testing.assert_array_equal(loaded.deviations(GRID, event_ids=ids), estimator.deviations(GRID, event_ids=ids))


# --- the last layer


def linear_moments(estimator, given, m, weights, k):
    """Of network m and sample k: solution of the ridge regression with these weights of events, and its matrix."""
    events = SimulatedEvents.of(given, None, np.float64)
    split = split_events(events.ids, estimator.options)[m]
    rows = np.concatenate([split.training, split.validation])
    phi = estimator.networks.stack.last_hidden(events.x[rows], m).numpy()
    q, p = (w.numpy()[rows] for w in (events.reference, events.signed))
    own = events.sample.numpy()[rows] == k
    gram = phi.T @ (q[:, None] * phi)
    ridge = estimator.report["ridge"][m][k] * np.trace(gram) / len(gram) * np.eye(len(gram))
    one, w = np.eye(len(gram))[-1], weights[rows]
    solution = one + np.linalg.solve(
        phi.T @ ((q * w)[:, None] * phi) + ridge, phi.T @ (p * w * own) - phi.T @ (q * w * (phi @ one))
    )
    gradient = phi * (q * (phi @ solution) - p * own)[:, None]
    return solution, np.linalg.inv(gram + ridge), gradient, rows


def test_of_least_squares_it_is_the_derivative_of_the_solution():
    given = samples()
    estimator = with_replicas(trained("linear", given, ensemble=1), given, draws=5)
    events = SimulatedEvents.of(given, None, np.float64)
    drawn = fluctuations(given, estimator.components, "last_layer", 5, 0)
    xi = drawn.factors(events.ids, events.part.numpy()) - 1
    for m in range(2):
        for k in range(2):
            for j in range(5):
                up, down = (linear_moments(estimator, given, m, 1 + e * xi[j], k)[0] for e in (1e-4, -1e-4))
                found = estimator.replicas.layers[j, m, :, k]
                np.testing.assert_allclose(found, (up - down) / 2e-4, rtol=1e-3, atol=1e-3 * np.abs(found).max())


def test_of_least_squares_the_covariance_is_the_sandwich():
    given, draws = samples(), 1500
    estimator = with_replicas(trained("linear", given, ensemble=1), given, draws=draws)
    x = torch.tensor(GRID, dtype=torch.float32)[:, None]
    for m in range(2):
        phi = estimator.networks.stack.last_hidden(x, m).numpy()
        for k, name in enumerate(("a", "b")):
            _, inverse, gradient, rows = linear_moments(estimator, given, m, np.ones(2400), k)
            events = SimulatedEvents.of(given, None, np.float64)
            own = events.sample.numpy()[rows]
            for s, events_of in enumerate(given.values()):  # with the yields fixed, sum_i w_i xi_i = 0
                share = events.signed.numpy()[rows] / 2400 / events_of.total * given[("a", "b")[s]].total
                whole = gradient[own == s].sum(0)
                gradient[own == s] -= share[own == s][:, None] * whole
            exact = phi @ inverse @ gradient.T
            expected = np.sqrt((exact**2).sum(1))
            found = (phi @ estimator.replicas.layers[:, m, :, k].T).std(1)
            np.testing.assert_allclose(found, expected, rtol=4 / np.sqrt(2 * draws) + 0.02, err_msg=name)


def minimised(objective, phi, rows, group, layer, weights):
    """The last layer with the lowest weighted cost, by Newton's method from here."""

    def cost(flat):
        outputs = (phi @ flat.reshape(layer.shape))[None]
        return (objective.cost(outputs, rows[None], group)[0] * weights).sum()

    flat = layer.detach().clone().flatten()
    for _ in range(30):
        gradient = torch.autograd.functional.jacobian(cost, flat)
        hessian = torch.autograd.functional.hessian(cost, flat)
        flat = flat - torch.linalg.lstsq(hessian, gradient, driver="gelsd").solution
        if float(gradient.abs().max()) < 1e-10:
            break
    return flat.reshape(layer.shape)


@pytest.mark.parametrize("method", ["mixture", "rosmm", "lsif", "pare", "revert", "sinh"])
def test_it_is_the_derivative_of_the_minimum_by_the_weights_of_events(method, monkeypatch):
    """Signed weights, a softmax of parts or a loss of signed ratios: against minima with changed weights."""
    monkeypatch.setattr(replicas, "_RIDGE", 1e-6)
    given = samples(4000)
    estimator = trained(method, given, hidden=(2,), ensemble=1)
    events = SimulatedEvents.of(given, None, np.float64)
    objective, stack = _objective(estimator, events), estimator.networks.stack
    splits = [s for s in split_events(events.ids, estimator.options) for _ in range(objective.groups)]

    def set_layers(weights):
        for m, split in enumerate(splits):
            rows = torch.from_numpy(split.training)
            phi, group = stack.last_hidden(events.x[rows], m), torch.tensor([m % objective.groups])
            start = torch.cat([stack.weights[-1][m], stack.biases[-1][m]]).double()
            best = minimised(objective, phi, rows, group, start, weights[rows])
            stack.weights[-1][m], stack.biases[-1][m, 0] = best[:-1].float(), best[-1].float()
        return estimator.ratios(GRID).values.T

    ones = torch.ones(len(events.x), dtype=torch.float64)
    set_layers(ones)
    found = with_replicas(estimator, given, draws=2)
    deviations = found.deviations(GRID)
    drawn = fluctuations(given, estimator.components, "last_layer", 2, 0)
    xi = torch.from_numpy(drawn.factors(events.ids, events.part.numpy()) - 1)
    up, down = (set_layers(1 + e * (xi[0] - xi.mean(0))) for e in (0.05, -0.05))
    np.testing.assert_allclose(deviations[0], (up - down) / 0.1, rtol=0.05, atol=0.03 * np.abs(deviations).max())


@pytest.mark.parametrize("method", ["mixture", "linear"])
def test_it_agrees_with_a_bootstrap_of_the_whole_training(method):
    """In the error of E_q[r^2], which is an integral: it hardly depends on how smooth the ratios are."""
    given, how = samples(2000, signed=False), {"hidden": (16, 16), "epochs": 20, "learning_rate": 1e-2}
    members, draws, spread = 40, 400, {}
    more = {"method_options": {"features": 60}} if method == "linear" else {}
    for source, ensemble in (("last_layer", 2), ("bootstrap", members)):
        options = dataclasses.replace(OPTIONS, ensemble=ensemble, bootstrap=source == "bootstrap", **how)
        estimator = train(given, method=method, seed=2, options=options, progress=False, **more)
        estimator = with_replicas(estimator, given, source, draws=draws)
        pool = estimator.pool(given)
        r = estimator.ratios(pool.features, event_ids=pool.event_ids).values.T
        deviations = estimator.deviations(pool.features, event_ids=pool.event_ids)
        normalised = deviations - r * np.einsum("n,jnk->jk", pool.weights, deviations)[:, None]
        spread[source] = np.einsum("n,nk,jnk->jk", pool.weights, r, normalised).std(0, ddof=1)
    ratio = spread["bootstrap"] / spread["last_layer"]
    np.testing.assert_allclose(ratio, 1, atol=4 * np.sqrt(1 / (2 * members) + 1 / (2 * draws)))


def test_more_events_make_a_smaller_error():
    spread = []
    for n in (800, 12_800):
        given = samples(n)
        spread.append(with_replicas(trained(given=given), given, draws=200).deviations(GRID[2:7]).std(0))
    assert np.median(spread[0] / spread[1]) == pytest.approx(4, rel=0.35)


def test_replicas_do_not_touch_the_estimator():
    estimator = trained()
    with_them = with_replicas(estimator, samples(), draws=3)
    np.testing.assert_array_equal(estimator.ratios(GRID).values, with_them.ratios(GRID).values)
    assert estimator.replicas is None
    assert 0 < with_them.report["replicas"]["coefficients"] < 15
    with pytest.raises(InvalidData, match="no replicas that tell its error"):
        estimator.deviations(GRID)


def test_what_has_no_replicas_is_refused():
    given, estimator = samples(), trained()
    with pytest.raises(UnknownName, match="did you mean 'last_layer'"):
        with_replicas(estimator, given, "last_leyer")
    with pytest.raises(InvalidData, match="this one has no bootstrap; take ensemble or last_layer"):
        with_replicas(estimator, given, "bootstrap")
    with pytest.raises(InvalidData, match=r"'ensemble' need .* this one has a bootstrap; take bootstrap"):
        with_replicas(trained(bootstrap=True), given, "ensemble")
    with pytest.raises(InvalidData, match="there is one; train with ensemble 2 or more"):
        with_replicas(trained(ensemble=1), given, "ensemble")
    with pytest.raises(InvalidData, match="at least 2 draws of the last layer, got 1"):
        with_replicas(estimator, given, draws=1)
    with pytest.raises(InvalidData, match="the estimator was trained on"):
        with_replicas(estimator, {"a": given["a"]})
    with pytest.raises(InvalidData, match="method 'rosmm_r' does not minimise a cost that is known here"):
        with_replicas(trained("rosmm_r"), given)


def test_few_members_of_a_bootstrap_are_said_to_be_few():
    few, enough = (trained(bootstrap=True, ensemble=n, epochs=1) for n in (3, 10))
    with pytest.warns(StatisticsWarning, match="3 members of a bootstrap tell a standard deviation to 50%"):
        with_replicas(few, samples(), "bootstrap")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_replicas(enough, samples(), "bootstrap")


def test_the_methods_of_the_last_layer_exist():
    assert set(LAST_LAYER_METHODS) < set(METHODS)
