import json
import re
from pathlib import Path

import pyhf
import pytest
from click.testing import CliRunner

import analytic
from command_line import run
from nuratio.cli.main import cli
from nuratio.infer.goodness.goodness import GOODNESS_TESTS
from nuratio.infer.results import load_result
from nuratio.parallel.tasks import Serial
from nuratio.workspace.workspace import Workspace


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "ws"
    analytic.workspace(pool=2000).save(folder)
    return folder


def test_binned_and_unbinned_from_the_command_line(path, tmp_path):
    saved = tmp_path / "binned.json"
    arguments = (
        "compare",
        path,
        "--threads",
        1,
        "--bins",
        "2,5",
        "--no-limits",
        "--at",
        "mu=2",
        "--save-binned",
        saved,
    )
    result = load_result(json.dumps(run(*arguments)))
    assert [(a.name, a.bins) for a in result.analyses] == [
        ("counting", 1), ("quantile", 2), ("quantile", 5), ("optimised", 2), ("optimised", 5), ("unbinned", 0),
    ]  # fmt: skip
    assert result.at["mu"] == 2
    assert result.gain(result.analysis("counting")) > 100
    theirs = pyhf.Workspace(json.loads(saved.read_text()))
    assert theirs.channel_nbins == {"CR": 2, "SR": 5}
    told = CliRunner().invoke(cli, [str(a) for a in (*arguments[:-2], "-o", tmp_path / "c.json")])
    assert told.stdout == ""
    assert told.stderr.splitlines()[1].startswith("counting")
    run("plot", tmp_path / "c.json", tmp_path / "c.png")


def test_a_stored_feature_with_statistics_of_the_pool(path, tmp_path):
    saved = tmp_path / "binned"
    found = run("compare", path, "--threads", 1, "--bins", 3, "--observable", "x", "--staterror", "--no-limits",
                "--save-binned", saved)  # fmt: skip
    assert (found["observable"], found["staterror"]) == ("x", True)
    twin = Workspace.load(saved).model()
    assert "staterror_SR[2]" in twin.config.par_names


def test_expressions_are_no_part_of_a_pyhf_workspace(tmp_path):
    ws = analytic.workspace(pool=2000)
    analytic.make_kappa_the_poi(ws.spec)
    ws.save(tmp_path / "ws")
    arguments = ("compare", tmp_path / "ws", "--threads", 1, "--bins", "2", "--no-limits", "--save-binned")
    assert "save to a directory" in run(*arguments, tmp_path / "binned.json", code=1)
    run(*arguments, tmp_path / "binned")
    assert Workspace.load(tmp_path / "binned").model().config.poi_name == "kappa"


def test_wrong_numbers_of_bins_are_usage(path):
    assert "no list of numbers" in run("compare", path, "--bins", "2,x", code=2)
    assert "did you mean 'total'" in run("compare", path, "--measure", "totl", code=1)


def test_goodness_of_fit_in_the_score(path):
    # processes are started for these toys
    result = run("gof", path, "--threads", 1, "--test", "score", "--bins", 6, "--toys", 3)
    assert (result["test"], result["bins"], len(result["toys"])) == ("score", 8, 3)
    assert "no option 'bins'" in run("gof", path, "--threads", 1, "--test", "distance", "--bins", 6, code=1)


@pytest.mark.parametrize("page", ["compare", "goodness_of_fit"])
def test_the_page_is_true(page, monkeypatch, capsys):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    monkeypatch.setattr("nuratio.parallel.tasks.own_pool", lambda workers=None: Serial())
    text = (root / "docs" / f"{page}.md").read_text()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, f"{page}.md", "exec"), names)
    told = capsys.readouterr().out
    if page == "compare":
        for title in ("optimised, 10 bins", "unbinned"):
            quoted, found = (re.search(rf"^{title} +([.0-9]+)", s, re.MULTILINE) for s in (text, told))
            assert float(quoted[1]) == pytest.approx(float(found[1]), rel=3e-3)
        assert 0 < names["spread"].efficiency < 1.2
    else:
        assert names["result"].p_value > 0.02
    for command in re.findall(r"^\$ nuratio (\w+)", text, re.MULTILINE):
        assert command in cli.commands


def test_the_command_line_knows_all_tests():
    (option,) = [p for p in cli.commands["gof"].params if p.name == "test"]
    assert list(option.type.choices) == list(GOODNESS_TESTS)
