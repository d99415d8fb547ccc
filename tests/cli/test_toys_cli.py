"""Toys on the command line."""

import pytest

from command_line import run

TOYS = ["--workers", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    import analytic

    target = tmp_path_factory.mktemp("toys") / "analysis"
    analytic.workspace(n_signal=40, n_background=200, pool=2000).save(target)
    return target


def test_toys_are_kept_and_told(saved, tmp_path):
    keep = tmp_path / "toys.jsonl"
    command = ["toys", saved, "--toys", "4", "--at", "mu=1.5", "--test", "t=1.5", "--keep", keep, *TOYS]
    found = run(*command)
    assert found["kind"] == "toys"
    assert found["number"] == [0, 1, 2, 3]
    assert found["tests"] == [["t", 1.5]]
    assert len(keep.read_text().splitlines()) == 5
    assert run(*command) == found
    assert "different plans" in run(*command, "--seed", "2", code=1)


def test_a_belt(saved):
    found = run("neyman", saved, "--toys", "20", "--range", "0.2", "2", "--points", "3", *TOYS)
    assert found["values"] == pytest.approx([0.2, 1.1, 2.0])
    assert len(found["critical"]) == len(found["statistic"]) == 3


def test_coverage_over_a_grid(saved):
    found = run("coverage", saved, "--toys", "10", "--grid", "mu=1,2", "--grid", "norm=0,1", *TOYS)
    assert [p["point"] for p in found["points"]] == [{"mu": m, "norm": n} for m in (1.0, 2.0) for n in (0.0, 1.0)]


def test_tests_by_toys(saved, tmp_path):
    found = run("cls", saved, "--poi-value", "1.5", "--toys", "20", "--keep", tmp_path / "kept", *TOYS)
    assert found["kind"] == "toy_hypotest"
    assert found["toys"] == [20, 20]
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {"background.jsonl", "mu=1.5.jsonl"}
    assert run("significance", saved, "--toys", "20", *TOYS)["kind"] == "toy_significance"
    assert run("limit", saved, "--toys", "100", *TOYS)["kind"] == "toy_limit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coverage", "--grid", "mu=one"], "'mu=one' is not NAME=A,B,C"),
        (["toys", "--test", "t"], "'t' is not NAME=NUMBER"),
        (["toys", "--dask", "tcp://127.0.0.1:1", "--workers", "2"], "leave --workers out"),
    ],
)
def test_wrong_options_are_told(saved, arguments, message):
    command, *options = arguments
    assert message in run(command, saved, *options, code=2)


def test_a_point_without_the_poi_is_told(saved):
    assert "does not say the true value of the POI 'mu'" in run("coverage", saved, "--grid", "norm=0", *TOYS, code=1)
