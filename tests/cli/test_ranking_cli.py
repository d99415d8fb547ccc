"""Ranking and breakdown on the command line."""

import re
from pathlib import Path

import pytest

import analytic
from command_line import run
from nuratio.cli.main import cli
from nuratio.infer.impacts.breakdown import breakdown
from nuratio.infer.impacts.ranking import ranking
from nuratio.workspace.workspace import Workspace


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    target = tmp_path_factory.mktemp("ranking") / "analysis"
    analytic.workspace(pool=2000).save(target)
    return target


@pytest.fixture(scope="module")
def opened(saved):
    workspace = Workspace.load(saved)
    model = workspace.model()
    return model, workspace.data(model)


@pytest.mark.parametrize("method", ["refit", "auxdata", "covariance"])
def test_a_ranking_and_its_picture(saved, opened, method, tmp_path):
    found = run("ranking", saved, "--method", method, "--threads", "1", "--top", "2")
    expected = ranking(*opened, method=method)
    assert tuple(found["names"]) == expected.names[:2]
    assert found["up"] == pytest.approx(expected.up[:2].tolist(), rel=1e-6)
    whole = tmp_path / "ranking.json"
    assert run("ranking", saved, "--method", method, "--poi", "xs", "--asimov", "0.5")["poi"] == "xs"
    whole.write_text(expected.to_json())
    run("plot", whole, tmp_path / "ranking.png")
    assert (tmp_path / "ranking.png").stat().st_size > 10_000


def test_a_breakdown_and_its_picture(saved, opened, tmp_path):
    groups = ["--group", "rates=norm,x*", "--group", "shapes=tilt", "--group", "rates=stat[0]"]
    found = run("breakdown", saved, *groups, "--statistics", "score", "--threads", "1")
    expected = breakdown(*opened, {"rates": ["norm", "x*", "stat[0]"], "shapes": ["tilt"]}, statistics="score")
    assert found["components"] == pytest.approx(expected.components)
    assert found["members"]["rates"] == ["norm", "xs", "stat[0]"]
    resampled = run("breakdown", saved, "--method", "auxdata", "--bootstraps", "5", "--seed", "2")
    assert resampled["components"] == pytest.approx(
        breakdown(*opened, method="auxdata", bootstraps=5, seed=2).components
    )
    (tmp_path / "breakdown.json").write_text(expected.to_json())
    run("plot", tmp_path / "breakdown.json", tmp_path / "breakdown.pdf")
    assert (tmp_path / "breakdown.pdf").stat().st_size > 5_000


@pytest.mark.parametrize("text", ["rates", "rates=", "=norm", "rates=norm,"])
def test_what_is_no_group_is_told(saved, text):
    assert f"{text!r} is not NAME=PATTERN,PATTERN" in run("breakdown", saved, "--group", text, code=2)


def test_errors_are_one_line(saved):
    said = run("breakdown", saved, "--group", "a=tlit", code=1)
    assert "did you mean 'tilt'" in said
    assert said.count("\n") == 1


def test_the_page_is_true(monkeypatch, capsys):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    page = (root / "docs" / "ranking.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(compile(code, "ranking.md", "exec"), names)
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    (block,) = re.findall(r"prints\n\n((?:    .*\n)+)", page)
    shown = [line.split() for line in block.splitlines() if line.strip() != "..."]
    assert len(shown) == 7
    for name, *_, number in shown:
        (same,) = (line for line in told if line[0] == name)
        assert float(same[-1]) == pytest.approx(float(number), rel=0.02)
    score = breakdown(names["model"], names["data"], statistics="score")
    assert f"above they give\n{score.total:.2f}" in page
    for command, options in re.findall(r"nuratio ([a-z]+) ([^\n&]*)", page):
        if command in ("ranking", "breakdown"):
            known = {name for p in cli.commands[command].params for name in p.opts}
            assert set(re.findall(r"(?<!\w)--?[a-z]+", options)) <= known
