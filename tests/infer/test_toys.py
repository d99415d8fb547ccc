import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from counting import counting

import analytic
import nuratio
from nuratio.errors import FitFailed, InvalidData, InvalidModel
from nuratio.infer.results import load_result
from nuratio.infer.toys import toys as module
from nuratio.infer.toys.plan import fingerprint
from nuratio.infer.toys.result import ToyResult, proportion
from nuratio.infer.toys.toys import draw_toy, toys
from nuratio.parallel.tasks import Serial
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace
from toy_results import assert_same_toys

POINT = {"mu": 1.5}
OPTIONS = {"tests": [("qtilde", 1.5), ("t", 1.5)], "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def model():
    return analytic.workspace(n_signal=40, n_background=200, pool=2000).model(threads=1)


@pytest.fixture(scope="module")
def twelve(model):
    return toys(model, POINT, 12, executor=Serial(), **OPTIONS)


def same(left, right):
    return left.to_json() == right.to_json()


@pytest.mark.parametrize("make", [lambda: None, lambda: ThreadPoolExecutor(3)], ids=["own pool", "threads"])
def test_toys_do_not_depend_on_where_they_are_made(model, twelve, make):
    assert_same_toys(toys(model, POINT, 12, executor=make(), **OPTIONS), twelve)


def test_toys_do_not_depend_on_how_many_there_are(model, twelve):
    some = toys(model, POINT, 3, first=7, executor=Serial(), **OPTIONS)
    assert some.number.tolist() == [7, 8, 9]
    assert np.array_equal(some.bestfit, twelve.bestfit[7:10])
    assert np.array_equal(some.statistics, twelve.statistics[7:10])


def test_a_toy_can_be_made_again_alone(model, twelve):
    data = draw_toy(model, POINT, 5, seed=3)
    assert np.array_equal(
        data, model.sample(twelve.pars, np.random.default_rng(np.random.SeedSequence(3, spawn_key=(5,))))
    )
    fit = nuratio.fit(model, data, simulation=False)
    assert fit.twice_nll == pytest.approx(twelve.twice_nll[5], abs=1e-8)
    assert fit.bestfit == pytest.approx(twelve.bestfit[5], abs=1e-4)
    fixed = nuratio.fit(model, data, fixed={"mu": 1.5}, simulation=False)
    assert twelve.statistics[5, 1] == pytest.approx(fixed.twice_nll - fit.twice_nll, abs=1e-6)


def test_statistics_are_those_of_their_definition(twelve):
    mu, q, t = (twelve.bestfit[:, twelve.names.index("mu")], *twelve.statistics.T)
    assert 0 < np.count_nonzero(mu > 1.5) < 12
    assert np.array_equal(q, np.where(mu > 1.5, 0.0, t))


def test_the_result_goes_through_json(twelve):
    again = load_result(twelve.to_json())
    assert same(again, twelve)
    assert len(again) == 12


def test_a_killed_run_goes_on_where_it_stopped(model, twelve, tmp_path, monkeypatch):
    path = tmp_path / "toys.jsonl"
    toys(model, POINT, 12, executor=Serial(), output=path, **OPTIONS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + lines[6][:40])  # cut in the middle of a line
    assert len(ToyResult.load(path)) == 5
    made = []
    record = module._Job.record
    monkeypatch.setattr(module._Job, "record", lambda job, i: made.append(i) or record(job, i))
    assert same(toys(model, POINT, 12, executor=Serial(), output=path, **OPTIONS), twelve)
    assert made == list(range(5, 12))
    assert same(ToyResult.load(path), twelve)


def test_a_file_is_of_one_plan(model, tmp_path):
    path = tmp_path / "toys.jsonl"
    toys(model, POINT, 1, executor=Serial(), output=path, **OPTIONS)
    before = path.read_bytes()
    for other in ({"seed": 4}, {"tests": []}, {"starts": [0.5]}):
        with pytest.raises(InvalidData, match=rf"different plans.*{next(iter(other))}"):
            toys(model, POINT, 1, executor=Serial(), output=path, **(OPTIONS | other))
    with pytest.raises(InvalidData, match="model"):
        toys(analytic.workspace(n_signal=41, pool=2000).model(), POINT, 1, executor=Serial(), output=path, **OPTIONS)
    assert path.read_bytes() == before
    path.write_text("{}\n")
    with pytest.raises(InvalidData, match="not a file of toys"):
        ToyResult.load(path)


def test_parts_of_a_run_are_one(model, twelve, tmp_path):
    paths = [tmp_path / f"{part}.jsonl" for part in range(2)]
    for part, path in enumerate(paths):
        toys(model, POINT, 6, first=6 * part, executor=Serial(), output=path, **OPTIONS)
    assert same(ToyResult.load(*reversed(paths)), twelve)
    toys(model, POINT, 1, executor=Serial(), output=tmp_path / "other", **(OPTIONS | {"seed": 4}))
    with pytest.raises(InvalidData, match="seed"):
        ToyResult.load(paths[0], tmp_path / "other")


def test_failed_fits_are_counted_and_left_out(model, twelve, monkeypatch):
    draw = module._Job.draw

    def fails(job, number):
        if number == 3:
            raise FitFailed("no minimum")
        return draw(job, number)

    monkeypatch.setattr(module._Job, "draw", fails)
    found = toys(model, POINT, 12, executor=Serial(), **OPTIONS)
    assert found.message == "1 of 12 toys failed, the first: toy 3: FitFailed: no minimum"
    assert not found.valid
    assert len(found.statistic("t", 1.5)) == 11
    assert np.array_equal(found.statistic("t", 1.5), np.delete(twelve.statistics[:, 1], 3))
    assert same(load_result(found.to_json()), found)


def test_pulls_are_normal():
    n = 400
    found = toys(analytic.workspace(pool=4000).model(threads=1), {"mu": 1.0}, n, executor=Serial(), progress=False)
    for name, truth in (("mu", 1.0), ("tilt", 0.0), ("norm", 0.0)):
        values, errors = found.estimates(name)
        pulls = (values - truth) / errors
        assert abs(pulls.mean()) < 4 / math.sqrt(n) + 0.03  # the third cumulant of a Poisson number moves the mean
        assert abs(pulls.std(ddof=1) - 1) < 4 / math.sqrt(2 * n)


def test_nuisances_are_at_their_conditional_best_fit():
    model = counting(error=7.0)
    data = np.array([70.0, 0.0])
    found = toys(model, {"mu": 0.0}, 1, data=data, executor=Serial(), progress=False)
    assert found.pars[found.names.index("b")] == pytest.approx(nuratio.fit(model, data, fixed={"mu": 0.0})["b"].value)
    nominal = toys(model, {"mu": 0.0}, 1, executor=Serial(), progress=False)
    assert nominal.pars.tolist() == [0.0, 0.0]


def test_sampled_nuisances_are_averaged_over():
    model, n = counting(error=7.0), 4000
    data = np.array([55.0, 0.5])
    point = [{"mu": 1.0, "b": 0.2}[name] for name in model.config.par_names]
    counts = {
        kind: np.array([draw_toy(model, point, i, data=data, nuisances=kind) for i in range(n)])
        for kind in ("fixed", "sampled")
    }
    fixed, sampled = counts["fixed"], counts["sampled"]
    assert (sampled[:, 1] == 0.5).all()  # as observed
    assert abs(fixed[:, 1].mean() - 0.2) < 4 / math.sqrt(n)
    for values, mean, variance in (
        (fixed[:, 0], 60 + 1.4, 61.4),
        (sampled[:, 0], 60 + 3.5, 63.5 + 49),  # E[Poisson] + Var[7 b] with b ~ N(0.5, 1)
    ):
        assert abs(values.mean() - mean) < 4 * math.sqrt(variance / n)
        assert abs(values.var() / variance - 1) < 4 * math.sqrt(2 / n)


def test_sampled_nuisances_are_recorded():
    found = toys(counting(error=7.0), {"mu": 1.0}, 5, nuisances="sampled", executor=Serial(), progress=False)
    truth = dict(zip(found.names, found.truth.T, strict=True))
    assert len(set(truth["b"])) == 5
    assert (truth["mu"] == 1).all()


def test_proportions():
    assert proportion(3, 10) == (0.3, pytest.approx(math.sqrt(4 / 12 * 8 / 12 / 10)))
    assert proportion(0, 10)[1] > 0
    with pytest.raises(InvalidModel, match="no toy"):
        proportion(0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": [("qmu", 1.0)]}, "no test statistic 'qmu'"),
        ({"tests": [("t", 99.0)]}, r"mu = 99 .* outside its bounds"),
        ({"nuisances": "profiled"}, "fixed or sampled"),
        ({"expected": [1.0]}, "expected main data are needed"),
        ({"first": -1}, "numbered from 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(model, change, message):
    with pytest.raises(InvalidModel, match=message):
        toys(model, POINT, 2, executor=Serial(), **(OPTIONS | change))


def test_events_of_negative_weight_cannot_be_drawn(model):
    expected = np.ones(model.config.nmaindata)
    expected[7] = -0.5
    with pytest.raises(InvalidModel, match=r"number 7 is -0\.5"):
        toys(model, POINT, 2, expected=expected, executor=Serial(), **OPTIONS)


def test_the_file_is_plain_json(model, tmp_path):
    path = tmp_path / "toys.jsonl"
    toys(model, POINT, 2, executor=Serial(), output=path, **OPTIONS)
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["format"] == "nuratio toys 1"
    assert [row["toy"] for row in rows] == [0, 1]


def test_a_fingerprint_is_of_the_model_and_not_of_how_it_computes(model):
    workspace = analytic.workspace(n_signal=40, n_background=200, pool=2000)
    assert fingerprint(workspace.model(threads=2)) == fingerprint(model) == fingerprint(workspace.model(kernel="numpy"))
    table = workspace.tables["pool"]
    columns = {name: table[name].copy() for name in table.names}
    columns["d1"][1000] += 1e-9
    other = Workspace(workspace.spec, workspace.tables | {"pool": RatioTable.from_columns(columns, np.float64)})
    assert fingerprint(other.model()) != fingerprint(model)


def test_a_model_remembers_what_it_expects_from_one_toy_to_the_next(model, monkeypatch):
    theta, other = (np.array(model.config.suggested_init()) + shift for shift in (0.0, 0.1))
    alone = [model.make_pdf(point).draw(np.random.default_rng(4)) for point in (theta, other)]
    asked = []
    expected = type(model).expected_actualdata
    monkeypatch.setattr(type(model), "expected_actualdata", lambda m, pars: asked.append(pars) or expected(m, pars))
    for point, toy in zip((theta, theta, other, other), (alone[0], alone[0], alone[1], alone[1]), strict=True):
        assert np.array_equal(model.sample(point, np.random.default_rng(4)), toy)
    assert len(asked) <= 2
