"""Intervals and contours on the command line, and what asymptotic formulas are warned of there."""

import json
import warnings

import pytest
from click.testing import CliRunner

import analytic
from command_line import run
from nuratio.cli.main import cli
from nuratio.errors import AsymptoticsWarning
from nuratio.infer.profiles.contour import ContourResult
from nuratio.infer.profiles.intervals import IntervalResult, interval
from nuratio.infer.results import load_result
from nuratio.workspace.workspace import Workspace


def save(spec, path):
    path.write_text(json.dumps(spec))
    return path


@pytest.fixture
def counting(tmp_path):
    return save(analytic.counting(72.0), tmp_path / "ws.json")


def test_intervals(counting, tmp_path):
    found = run("interval", counting, "--level", 0.683, "--level", 0.954, "--points", 11)
    result = load_result(json.dumps(found))
    assert isinstance(result, IntervalResult)
    ws = Workspace.from_pyhf(analytic.counting(72.0))
    model = ws.model()
    assert result.pieces == interval(model, ws.data(model), level=(0.683, 0.954), points=11).pieces
    short = run("interval", counting, "--parameter", "mu", "--range", 2.0, 2.5)
    assert short["levels"] == [0.683]
    assert short["pieces"] == [[[2.0, 2.5]]]
    assert short["at_bound"] == [[[True, True]]]
    (tmp_path / "interval.json").write_text(json.dumps(found))
    assert run("plot", tmp_path / "interval.json", tmp_path / "interval.png")


def test_contours(tmp_path):
    spec = save(analytic.binned_spec(per_bin=False), tmp_path / "ws.json")
    found = run("contour", spec, "--parameters", "mu", "norm", "--level", 0.683, "--points", 6)
    result = load_result(json.dumps(found))
    assert isinstance(result, ContourResult)
    assert result.parameters == ("mu", "norm")
    assert result.valid
    (tmp_path / "contour.json").write_text(json.dumps(found))
    assert run("plot", tmp_path / "contour.json", tmp_path / "contour.png")
    assert "did you mean 'norm'" in run("contour", spec, "--parameters", "mu", "nrom", code=1)
    assert "--parameters" in run("contour", spec, code=2)


def test_warnings_are_lines_on_stderr(tmp_path):
    few = save(analytic.counting(1.0, s=2.0, b=0.8, bounds=(0, 30)), tmp_path / "ws.json")
    for command in (["cls"], ["limit"], ["significance"], ["interval"]):
        with warnings.catch_warnings():
            warnings.simplefilter("default", AsymptoticsWarning)
            plain = CliRunner().invoke(cli, [*command, str(few)])
        assert plain.stderr.startswith("nuratio: AsymptoticsWarning: asymptotic formulas may not hold. few events: ")
        forced = CliRunner().invoke(cli, [*command, str(few), "--asymptotics", "force"])
        assert forced.stderr == ""
        assert forced.stdout == plain.stdout
