"""The benchmarks run, and what they compare is the same: no statement about time."""

import json

import numpy as np
import pytest
from engine import MARKERS, main, parse, quick, whole, write
from fits import call_counts, fits
from internals import CountingModel
from measure import Section, interleave
from memory import larger_than_memory, resident
from passes import likelihood, many, on_device, passes
from precision import precision
from problem import Problem, Size
from published import hypothesis_tests, numerical_hessian, published
from scans import scans

import nuratio

SMALL = Size(3000, 3, 3)


@pytest.fixture(scope="module")
def problem():
    return Problem(SMALL)


def test_the_problem_is_a_valid_workspace_with_the_events_of_its_blocks(problem):
    problem.workspace.validate()
    table = problem.workspace.tables["observed"]
    events = np.concatenate(list(problem.blocks()), axis=2).reshape(SMALL.columns, -1)
    np.testing.assert_array_equal(table.values, events.astype(np.float32))
    assert problem.rates(problem.truth).sum() == pytest.approx(len(table))


def test_shapes_stay_normalised_and_cumulants_are_those_of_the_columns(problem):
    n = 40_000
    events = problem._draw(np.random.default_rng(5), np.full(n, -1))
    ratio, columns = events[:, 0], events[:, 1:]
    assert np.all(np.abs(columns.mean(2) - problem.mean) < 5 * problem.sigma / np.sqrt(n))
    scale = problem.sigma[:, :, None] * problem.sigma[:, None, :]
    covariance = np.array([np.cov(sample) for sample in columns])
    np.testing.assert_allclose(covariance / scale, problem.covariance / scale, atol=5 * np.sqrt(2 / n))
    phi = np.concatenate([problem.truth[1:], problem.truth[1:] ** 2])
    shape = np.exp(phi @ columns - problem.ln_z(problem.truth)[:, None])
    for factor in (ratio, shape, ratio * shape):
        assert np.all(np.abs(factor.mean(1) - 1) < 5 * factor.std(axis=1) / np.sqrt(n))


def test_the_events_are_drawn_from_the_model_at_the_truth():
    problem = Problem(Size(50_000, 3, 5))
    target, theta = likelihood(problem)
    _, score, information = target.derivatives(theta, hessian=True)
    free = problem.workspace.model().config.par_names.index("mu")
    constraint = np.where(np.arange(len(theta)) == free, 0.0, 2.0)  # -2 ln L holds alpha^2, centred at zero
    score, information = score - constraint * theta, information - np.diag(constraint)
    chi2 = score @ np.linalg.solve(2 * information, score)  # the score of -2 ln L has covariance 2 x its Hessian
    assert chi2 < len(theta) + 5 * np.sqrt(2 * len(theta))


def test_a_written_workspace_has_the_same_likelihood(problem, tmp_path):
    loaded = nuratio.Workspace.load(problem.write(tmp_path / "ws"), verify=False)
    model, again = problem.workspace.model(), loaded.model()
    theta = np.array(model.config.suggested_init()) + 0.1
    expected = model.twice_nll(theta, problem.workspace.data(model))
    assert again.twice_nll(theta, loaded.data(again)) == pytest.approx(expected, rel=1e-12)


def test_contenders_take_turns():
    turns = []
    times = interleave({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=2, warm=1)
    assert "".join(turns) == "ababab"
    assert [len(s) for s in times.seconds.values()] == [2, 2]


def test_every_call_of_a_fit_is_counted(problem):
    model = problem.workspace.model()
    counting = CountingModel(model)
    data = problem.workspace.data(model)
    target = counting.likelihood(data)
    theta = np.array(model.config.suggested_init())
    assert target.value(theta) == model.likelihood(data).value(theta)
    target.derivatives(theta, hessian=True)
    target.derivatives(theta, hessian=False)
    assert counting.calls == {"value": 1, "hessian": 1, "gradient": 1}
    assert counting.equivalents({"value": 1.0, "gradient": 2.0, "hessian": 6.0}, "gradient") == 4.5


def test_passes_give_one_value():
    section = passes([SMALL], rounds=1)
    assert all(abs(difference) < 1e-6 for difference in section.numbers.values())
    assert len(section.rows) == 1


def test_many_points_at_once_are_those_one_by_one():
    assert all(difference < 1e-6 for difference in many(SMALL, points=(3,), rounds=1).numbers.values())


def test_the_torch_kernel_reaches_the_same_minimum():
    (difference,) = on_device(SMALL, rounds=1, device="cpu").numbers.values()
    assert abs(difference) < 1e-6


@pytest.mark.filterwarnings("ignore")  # of zfit and TensorFlow, where they are installed
def test_peers_reach_our_minimum():
    numbers = fits(SMALL, rounds=1).numbers
    assert numbers.pop("nuratio: valid") == 1
    assert len(numbers) >= 6
    for name, number in numbers.items():
        if name.endswith("2NLL above ours"):
            assert -1e-6 < number < 1e-2, name
        else:
            assert abs(number) < 0.05, name


def test_calls_of_a_fit():
    numbers = call_counts([SMALL]).numbers
    assert numbers[f"{SMALL}: valid"] == 1
    assert numbers[f"{SMALL}: Hessian equivalents"] > 0


def test_a_scan_rises_as_a_parabola_does():
    numbers = scans(SMALL, points=5, rounds=1).numbers
    assert numbers["valid"] == 1
    assert numbers["2 Delta NLL at the ends"] == pytest.approx(2.5**2, rel=0.1)
    assert all(-1e-6 < number < 1e-2 for name, number in numbers.items() if "above" in name)


@pytest.fixture
def folder(tmp_path):
    """A small analysis as it is published: background only, and a signal patch."""
    background = {
        "name": "background",
        "data": [50.0, 80.0],
        "modifiers": [
            {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.92}},
            {"name": "shape", "type": "histosys", "data": {"hi_data": [54.0, 78.0], "lo_data": [47.0, 83.0]}},
            {"name": "stat", "type": "staterror", "data": [2.0, 3.0]},
        ],
    }
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "SR", "samples": [background]}],
        "observations": [{"name": "SR", "data": [55.0, 77.0]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
    }
    mu = {"name": "mu", "type": "normfactor", "data": None}
    signal = {"name": "signal", "data": [12.0, 4.0], "modifiers": [mu]}
    (tmp_path / "region").mkdir()
    (tmp_path / "region" / "BkgOnly.json").write_text(json.dumps(spec))
    patch = [{"op": "add", "path": "/channels/0/samples/0", "value": signal}]
    (tmp_path / "region" / "patch.signal.json").write_text(json.dumps(patch))
    return tmp_path


def test_published_workspaces_against_pyhf(folder):
    name = "region/BkgOnly"
    numbers = published(folder, rounds=1).numbers
    assert numbers[f"{name}: valid"] == 1
    assert -1e-2 < numbers[f"{name}: 2NLL - pyhf's"] < 1e-6
    assert numbers[f"{name}: uncertainties"] < 1e-5
    assert all(abs(number) < 1e-3 for number in hypothesis_tests(folder, rounds=1).numbers.values())


def test_absent_workspaces_are_said_to_be_absent(tmp_path):
    for benchmark in (published, hypothesis_tests):
        section = benchmark(tmp_path / "nowhere", rounds=1)
        assert "Skipped" in section.text
        assert not section.rows


def test_the_numerical_hessian_is_exact_to_fourth_order():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((4, 4))
    matrix = factor @ factor.T + np.eye(4)
    hessian = numerical_hessian(lambda x: float(x @ matrix @ x / 2 + np.sum(x**4) + np.sum(x**3)), np.full(4, 2.0))
    np.testing.assert_allclose(hessian, matrix, atol=1e-9)


def test_float32_storage_is_precise_enough():
    numbers = precision(Size(10_000, 3, 3)).numbers
    assert numbers["the same float32 columns"] < 1e-7
    assert numbers["float64 columns"] < 1e-5
    assert numbers["2 Delta NLL at 3 sigma"] == pytest.approx(9, rel=0.2)


def test_a_fit_from_disk_under_a_limit():
    assert resident(SMALL).numbers["valid"] == 1
    numbers = larger_than_memory(0.004).numbers
    assert numbers["valid"] == 1
    assert abs(numbers["pull"]) < 5
    with pytest.raises(RuntimeError, match="bytes allowed failed"):
        larger_than_memory(0.004, limit=0.01)


def test_results_go_between_the_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n")
    for _ in range(2):
        write([Section("Title", "Text.", ("a", "b"), (("1", "2"),))], readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("### Title") == 1
    assert "| 1 | 2 |" in text


def test_the_runner_knows_its_benchmarks():
    arguments = parse(["--quick", "--only", "nothing"])
    assert list(quick(arguments)) == list(whole(arguments))
    with pytest.raises(SystemExit, match="no benchmark nothing; there are passes"):
        main(arguments)
