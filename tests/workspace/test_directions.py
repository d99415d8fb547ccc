"""Directions of the ratio networks as nuisances: what they do to a density, to a fit, and in a workspace."""

import copy
import dataclasses

import numpy as np
import pytest
import uproot

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidConfig, InvalidData, StatisticsWarning
from nuratio.infer.fitting.fit import fit
from nuratio.infer.impacts.influence import simulation_covariance
from nuratio.infer.impacts.nuisance import with_simulation_nuisance
from nuratio.ratios.estimator import fluctuations
from nuratio.ratios.options import TrainingOptions
from nuratio.training.replicas import with_replicas
from nuratio.training.train import train
from nuratio.workspace.build import assemble, build
from nuratio.workspace.config import Config
from nuratio.workspace.directions import principal_directions
from nuratio.workspace.train import train_all
from nuratio.workspace.workspace import Workspace

OPTIONS = TrainingOptions(hidden=(6,), epochs=4, batch_size=256, learning_rate=2e-2, folds=2, ensemble=3)
pytestmark = [
    pytest.mark.filterwarnings("ignore::nuratio.errors.StatisticsWarning"),
    pytest.mark.filterwarnings("ignore::nuratio.errors.NormalisationWarning"),
]


def samples(n=2000):
    """A background, a signal, and an interference of both signs, with yields of 1000, 100 and 50."""
    rng = np.random.default_rng(1)
    sign = np.where(rng.random(n) < 0.25, -1.0, 1.0)
    return {
        "background": EventSample(rng.normal(0, 1.5, n), np.full(n, 1000 / n)),
        "signal": EventSample(rng.normal(1, 0.5, n), np.full(n, 100 / n)),
        "interference": EventSample(rng.normal(0.5 * sign, 1.0), sign * 50 / sign.sum()),
    }


def at_pool(estimator, given, *, cells=1, slopes=True):
    """Ratios, slopes of a shape nuisance, and cells, at the events of the pool; and their weights."""
    pool = estimator.pool(given)
    table = estimator.ratios(pool.features, event_ids=pool.event_ids)
    r = np.stack([table[name] for name in estimator.parts])
    x = pool.features[:, 0].astype(float)
    total = np.array([part.total for part in estimator.components])
    tilt = (total[:1] * r[:1] * np.sin(x)) if slopes else np.zeros((0, len(x)))
    return pool, (r, tilt, np.digitize(x, [0.3]) if cells == 2 else np.zeros(len(x), int))


@pytest.fixture(scope="module", params=["mixture", "lsif"])
def estimator(request):
    given = samples()
    return with_replicas(train(given, method=request.param, options=OPTIONS, progress=False), given, draws=40)


def moved_by(estimator, pool, r, slopes, given, here):
    """Slow twin: <s d> of each replica in the events ``here``, from its densities; F, and C / cells."""
    total = np.array([part.total for part in estimator.components])
    rows, density = np.concatenate([r, slopes])[:, here], total @ r[:, here]
    scores, q = rows / density, pool.weights[here]
    fisher = np.einsum("an,bn,n->ab", scores, scores, q * density)
    drawn = fluctuations(given, estimator.components, estimator.replicas.source, estimator.replicas.number, 0)
    deviations = estimator.deviations(pool.features, event_ids=pool.event_ids)[:, here]
    found = []
    for delta, xi in zip(deviations, drawn.factors(pool.event_ids, pool.part)[:, here] - 1, strict=True):
        changed = delta.T + r[:, here] * xi
        mean = (changed @ q) / (r[:, here] @ q)
        d = total @ (changed - mean[:, None] * r[:, here]) / density
        found.append(scores @ (q * density * d))
    found = np.array(found) - np.mean(found, axis=0)
    constraint = np.diag(np.repeat([0.0, 1 / (2 - here.all())], [len(r), len(slopes)]))
    return found, fisher, constraint


@pytest.mark.parametrize("cells", [1, 2])
def test_all_directions_together_have_the_covariance_of_the_replicas(estimator, cells):
    given = samples()
    pool, at = at_pool(estimator, given, cells=cells)
    found = principal_directions(estimator, given, *at, explained=1, most=100)
    parts = len(estimator.parts)
    assert len(found) <= cells * parts  # yields less one, and a shape, in each cell
    expected = [moved_by(estimator, pool, *at[:2], given, at[2] == c) for c in range(cells)]
    number = estimator.replicas.number
    v = [np.linalg.solve(f + constraint / 10, effect.T).T for effect, f, constraint in expected]
    for c in range(cells):
        for other in range(cells):
            covariance = np.einsum("ta,tb->ab", found.moved[:, c], found.moved[:, other])
            scale = np.outer(v[c].std(0), v[other].std(0))
            np.testing.assert_allclose(covariance / scale, v[c].T @ v[other] / (number - 1) / scale, atol=1e-5)
    visible = sum(np.einsum("ja,ab,jb", e, np.linalg.inv(f + constraint), e) for e, f, constraint in expected)
    assert found.total == pytest.approx(visible / (number - 1), rel=1e-6)
    assert found.information.sum() == pytest.approx(found.total, rel=1e-6)
    assert (np.diff(found.information) <= 1e-12).all()


@pytest.mark.parametrize("cells", [1, 2])
def test_a_direction_has_the_mean_zero_in_each_part_and_moves_the_density_as_its_parameters_do(estimator, cells):
    given = samples()
    pool, (r, slopes, cell) = at_pool(estimator, given, cells=cells)
    found = principal_directions(estimator, given, r, slopes, cell, explained=1, most=100)
    d = found.at(r, slopes, cell)
    assert d.shape == (len(found), *r.shape)
    weighed, rows = found.yields[:, None] * r, np.concatenate([r, slopes])
    for c in range(cells):
        here = cell == c
        np.testing.assert_allclose((d * r * pool.weights)[:, :, here].sum(2), 0, atol=1e-10)
        moved = np.einsum("kn,tkn->tn", weighed[:, here], d[:, :, here])
        expected = found.moved[:, c] @ rows[:, here]
        np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        f = d[:, :, here] * np.sign(weighed[:, here])  # one function for all parts, up to a constant of each
        if (weighed[:, here] > 0).all():
            np.testing.assert_allclose(np.ptp(f - f[:, :1], axis=2), 0, atol=1e-9)


@pytest.mark.parametrize("explained", [0.3, 0.8, 0.95, 1.0])
def test_as_few_directions_as_have_the_share_of_the_information(estimator, explained):
    given = samples()
    _, at = at_pool(estimator, given)
    every = principal_directions(estimator, given, *at, explained=1, most=100)
    some = principal_directions(estimator, given, *at, explained=explained, most=100)
    kept = np.cumsum(every.information)[len(some) - 1] / every.total
    assert kept >= explained * (1 - 1e-6)
    assert len(some) == 1 or kept - every.information[len(some) - 1] / every.total < explained
    np.testing.assert_allclose(some.moved, every.moved[: len(some)], rtol=1e-10)


def test_more_than_are_allowed_are_said_to_be_missing(estimator):
    given = samples()
    _, at = at_pool(estimator, given)
    with pytest.warns(StatisticsWarning, match=r"1 directions of the networks have \d+% .* less than the 100% asked"):
        assert len(principal_directions(estimator, given, *at, explained=1, most=1)) == 1


def test_without_replicas_or_spread_there_are_none(estimator):
    given = samples()
    _, at = at_pool(estimator, given)
    with pytest.raises(InvalidData, match="has no replicas to take directions from"):
        principal_directions(dataclasses.replace(estimator, replicas=None), given, *at)
    still = dataclasses.replace(estimator.replicas, source="ensemble", layers=np.zeros_like(estimator.replicas.layers))
    with pytest.raises(InvalidData, match="'ensemble' move no yield and no nuisance"):
        principal_directions(dataclasses.replace(estimator, replicas=still), given, *at)


def test_a_mean_of_more_members_has_a_smaller_error_from_the_start_and_the_same_from_the_simulation():
    given, totals = samples(600), {}
    for ensemble in (4, 16):
        plain = train(given, options=dataclasses.replace(OPTIONS, ensemble=ensemble), progress=False)
        for source in ("ensemble", "last_layer"):
            told = with_replicas(plain, given, source)
            totals[source, ensemble] = principal_directions(told, given, *at_pool(told, given)[1]).total
    assert totals["ensemble", 16] < 0.6 * totals["ensemble", 4]
    assert totals["last_layer", 16] == pytest.approx(totals["last_layer", 4], rel=0.3)


# --- in a workspace


def write(directory):
    for name, sample in samples().items():
        with uproot.recreate(directory / f"{name}.root") as file:
            file["t"] = {"x": np.clip(sample.features[:, 0], -4.99, 4.99).astype(float), "w": sample.weights}
    rng = np.random.default_rng(4)
    observed = np.concatenate([rng.normal(0, 1.5, 1000), rng.normal(1, 0.5, 100), rng.normal(0.8, 1, 60)])
    with uproot.recreate(directory / "data.root") as file:
        file["t"] = {"x": np.clip(observed, -4.99, 4.99)}


CONFIG = {
    "General": {"Measurement": "m", "POI": "mu", "InputPath": "."},
    "Regions": [{"Name": "SR", "Type": "unbinned", "Features": ["x"]}],
    "Samples": [
        {"Name": "data", "Data": True, "SamplePath": "data.root", "Tree": "t"},
        *(
            {"Name": name, "SamplePath": f"{name}.root", "Tree": "t", "Weight": "w"}
            for name in ("background", "signal", "interference")
        ),
    ],
    "NormFactors": [{"Name": "mu", "Samples": "signal", "Bounds": [-20, 20]}],
    "Systematics": [
        {
            "Name": "tilt",
            "Type": "NormPlusShape",
            "Samples": "background",
            "Up": {"Weight": "w * (1 + 0.1 * sin(x))"},
            "Down": {"Symmetrize": True},
        }
    ],
    "Training": {"Ratio": OPTIONS.to_dict(), "Shape": OPTIONS.to_dict() | {"learning_rate": 5e-3}, "Prune": 0},
}


def configured(directory, **changes):
    config = copy.deepcopy(CONFIG)
    config["Training"] |= changes.pop("training", {})
    config["Regions"][0] |= changes
    return Config(config, directory, directory)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("directions")
    write(directory)
    return directory


BOOTSTRAP = OPTIONS.to_dict() | {"bootstrap": True, "ensemble": 6}
KINDS = {
    "last_layer": {"Directions": {"Source": "last_layer"}},
    "bootstrap": {"Directions": {"Source": "bootstrap"}, "Ratio": BOOTSTRAP},
    "ensemble": {"Directions": {"Source": "ensemble"}},
}


def fitted(workspace):
    model = workspace.model()
    return fit(model, workspace.data(model))


@pytest.mark.parametrize("cells", [False, True])
@pytest.mark.parametrize("source", KINDS)
def test_a_workspace_has_them_and_its_uncertainty_grows(source, cells, inputs, tmp_path):
    changes = {"Variable": "x", "Binning": [-5, 0.3, 5]} if cells else {}
    plain = build(configured(inputs, **changes), cache=inputs / "cache", progress=False)
    built = build(configured(inputs, training=KINDS[source], **changes), cache=inputs / "cache", progress=False)
    built.save(tmp_path / "ws")
    workspace = Workspace.load(tmp_path / "ws")
    workspace.validate()
    (channel,) = workspace.spec["unbinned"]["channels"]
    provenance = workspace.spec["unbinned"]["provenance"]["SR"]
    names = [f"network_SR_{t}" for t in range(1, 1 + len(provenance["directions"]["information"]["kept"]))]
    parts = ["background", "signal", "interference[+]", "interference[-]"]
    assert names
    companion = {s["name"]: s["modifiers"] for s in workspace.spec["channels"][0]["samples"]}
    tables = {kind: workspace.tables[f"SR.{kind}"] for kind in ("pool", "observed")}
    for sample in channel["samples"]:
        name = sample["name"]
        inert = [m for m in companion[name] if m["name"] in names]
        assert [m["name"] for m in inert] == names
        assert all(m["type"] == "normsys" and m["data"] == {"hi": 1.0, "lo": 1.0} for m in inert)
        own = {m["name"]: m for m in sample["modifiers"]}
        assert set(names) <= set(own)
        assert sample["normalisation"]["error"] < 0.05  # of the cumulant form; above 1e-3 the pool is used
        assert ("simulation" in sample) == (source == "ensemble")
        for nuisance in names:
            assert own[nuisance]["data"] == {"d1": {"column": f"{name}/{nuisance}/d1"}}
            pool = tables["pool"]
            d, r = (pool[c].astype(float) for c in (f"{name}/{nuisance}/d1", name))
            weights = pool["reference weight"].astype(float) * r
            assert abs(weights @ d) < 1e-6 * np.abs(weights * d).sum() + 1e-9
            assert 0 < np.abs(tables["observed"][f"{name}/{nuisance}/d1"]).max() < 2
    assert [s["name"] for s in channel["samples"]] == parts
    statistics = [m["name"] for s in companion.values() for m in s if m["name"].startswith("stat_SR")]
    assert statistics == ([f"stat_SR_{part}" for part in parts] if source != "ensemble" and not cells else [])
    before, after = fitted(plain), fitted(workspace)
    assert after.valid
    assert after["mu"].uncertainty > before["mu"].uncertainty
    if source != "ensemble":  # by what single events make of it; more with a random start in it, less where data help
        expected = np.hypot(before["mu"].uncertainty, before["mu"].simulation)
        assert after["mu"].uncertainty == pytest.approx(expected, rel=0.04)
    assert abs(after["mu"].value - before["mu"].value) < 2 * before["mu"].uncertainty
    assert all(abs(after[name].value) < 4 for name in names)
    if source == "ensemble":
        assert after["mu"].simulation > 0
        return
    assert np.isnan(after["mu"].simulation)  # it is in the uncertainty
    with pytest.raises(Exception, match="error of 'mu' from the simulation is unknown"):
        with_simulation_nuisance(workspace, after)


def test_a_sample_whose_yield_is_known_has_no_error_of_it(inputs):
    config = configured(inputs, training=KINDS["last_layer"])
    config.values["Samples"][1]["DisableStaterror"] = True
    trained = train_all(config, cache=inputs / "cache", progress=False)
    companion = assemble(config, trained).spec["channels"][0]["samples"]
    errors = {s["name"]: [m for m in s["modifiers"] if m["name"].startswith("stat_")] for s in companion}
    assert errors["background"] == []
    (error,) = errors["signal"]
    assert error["data"]["hi"] == pytest.approx(1 + 2000**-0.5)
    assert error["data"]["lo"] == pytest.approx(1 / error["data"]["hi"])


def test_what_is_new_is_trained_and_the_rest_is_in_the_cache(inputs, tmp_path):
    def new(training):
        return train_all(configured(inputs, training=training), cache=tmp_path / "cache", progress=False)["SR"]

    assert new({}).new == 2  # ratios, and the shapes of the background
    first = new(KINDS["last_layer"])
    assert first.new == 1
    again = new({"Directions": {"Source": "last_layer", "Explained": 0.5, "Most": 1}})
    assert again.new == 0
    assert again.directions == {"explained": 0.5, "most": 1}
    np.testing.assert_array_equal(again.ratio.replicas.layers, first.ratio.replicas.layers)
    assert new(KINDS["ensemble"]).new == 1
    assert set(again.keys) == {"ratio", "replicas", "shapes of background"}
    calibrated = new(KINDS["last_layer"] | {"Calibrate": True})
    assert calibrated.new == 0
    assert calibrated.ratio.replicas is not None
    assert calibrated.ratio.calibration is not None


DEFECTS = {
    "no source": ({"Directions": {"Most": 3}}, "'Source' is a required property"),
    "unknown source": ({"Directions": {"Source": "last_leyer"}}, "Training/Directions/Source"),
    "nothing explained": ({"Directions": {"Source": "last_layer", "Explained": 0}}, "Training/Directions/Explained"),
    "no bootstrap": ({"Directions": {"Source": "bootstrap"}}, "needs networks that learn from one"),
    "bootstrap": (
        {"Directions": {"Source": "ensemble"}, "Ratio": BOOTSTRAP},
        "members of this ensemble are a bootstrap",
    ),
    "one member": ({"Directions": {"Source": "ensemble"}, "Ratio": {"ensemble": 1}}, "needs Ratio: {ensemble: 2}"),
    "method": ({"Directions": {"Source": "last_layer"}, "Method": "rosmm_r"}, "not known of Method rosmm_r"),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_each_defect_of_the_configuration_is_named(case, tmp_path):
    import yaml

    training, message = DEFECTS[case]
    values = copy.deepcopy(CONFIG)
    values["Training"] |= training
    (tmp_path / "c.yml").write_text(yaml.safe_dump(values))
    with pytest.raises(InvalidConfig) as error:
        Config.read(tmp_path / "c.yml")
    assert message in str(error.value)


def test_names_of_directions_are_not_taken(tmp_path):
    import yaml

    values = copy.deepcopy(CONFIG)
    values["Training"] |= KINDS["last_layer"]
    values["Systematics"][0]["Name"] = "network_SR_2"
    (tmp_path / "c.yml").write_text(yaml.safe_dump(values))
    with pytest.raises(InvalidConfig, match="'network_SR_2' is the name of a direction"):
        Config.read(tmp_path / "c.yml")


# --- what they do to a fit


def test_together_they_move_a_fit_as_the_influence_of_single_events_does(inputs):
    """Last layer of least squares with many draws: the error of all parameters on Asimov data, by both."""
    ratio = {"Method": "linear", "MethodOptions": {"features": 60}, "Ratio": OPTIONS.to_dict() | {"ensemble": 1}}
    trained = train_all(configured(inputs, training=ratio), cache=inputs / "cache", progress=False)
    told = dataclasses.replace(
        trained["SR"],
        ratio=with_replicas(trained["SR"].ratio, trained["SR"].events.nominal, draws=1500),
        directions={"explained": 1.0, "most": 50},
    )
    config = configured(inputs, training=ratio)
    config.values["NormFactors"].append({"Name": "b", "Samples": "background"})
    without, with_them = (assemble(config, {"SR": t}) for t in (trained["SR"], told))
    spec = copy.deepcopy(without.spec)
    for sample in spec["unbinned"]["channels"][0]["samples"]:
        sample["simulation"]["yield"] = "known"  # directions have the shapes alone
    model = Workspace(spec, without.tables).model()
    asimov = fit(model, model.asimov(model.config.suggested_init()))
    expected = np.sqrt(np.diag(simulation_covariance(model, asimov)))
    wide = with_them.model()
    found = fit(wide, wide.asimov(wide.config.suggested_init()))
    assert found.valid
    network = [k for k, name in enumerate(found.names) if name.startswith("network_SR")]
    information = np.linalg.inv(found.covariance)
    for name in ("mu", "b", "tilt"):
        others = [found.index(n) for n in ("mu", "b", "tilt")]
        pull = -np.linalg.solve(information[np.ix_(others, others)], information[np.ix_(others, network)])
        moved = np.sqrt((pull[others.index(found.index(name))] ** 2).sum())
        assert moved == pytest.approx(expected[asimov.index(name)], rel=0.12), name
