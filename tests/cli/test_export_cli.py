"""Other formats on the command line, and what else there is to print."""

import json

import pyarrow.parquet as pq
import pytest
import uproot
from click.testing import CliRunner

import analytic
from command_line import run
from nuratio.cli.main import cli
from nuratio.workspace.validate import schema
from nuratio.workspace.workspace import Workspace


@pytest.fixture
def saved(analytic_workspace, tmp_path):
    analytic_workspace.save(tmp_path / "ws")
    return tmp_path / "ws"


def test_hs3_there_and_back_again(saved, tmp_path):
    run_without_output = run("export", "hs3", saved)
    result = CliRunner().invoke(cli, ["export", "hs3", str(saved), "-o", str(saved / "hs3.json")])
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads((saved / "hs3.json").read_text()) == run_without_output
    run("import", "hs3", saved / "hs3.json", "-o", tmp_path / "beside")  # the tables are beside the document
    run("import", "hs3", "-", "--tables", saved, "-o", tmp_path / "piped", stdin=json.dumps(run_without_output))
    assert run("digest", saved) == run("digest", tmp_path / "beside") == run("digest", tmp_path / "piped")


def test_options_of_hs3(saved, tmp_path):
    document = run("export", "hs3", saved, "--measurement", "analytic", "--no-events", "--explicit")
    assert {d["type"] for d in document["data"]} == {"binned"}
    assert "stat_0Constraint" in document["likelihoods"][0]["aux_distributions"]
    (tmp_path / "pyhf.json").write_text(json.dumps(analytic.binned_spec()))
    document = run("export", "hs3", tmp_path / "pyhf.json")
    (tmp_path / "hs3.json").write_text(json.dumps(document))
    arguments = ["import", "hs3", tmp_path / "hs3.json", "--analysis", "m", "--shapesys", "absolute"]
    run(*arguments, "-o", tmp_path / "back")
    assert Workspace.load(tmp_path / "back").digest() == Workspace(analytic.binned_spec()).digest()


def test_root_and_parquet(saved, analytic_workspace, tmp_path):
    trees = run("export", "root", saved, "-o", tmp_path / "events.root")["trees"]
    with uproot.open(tmp_path / "events.root") as file:
        assert {name: file[name].num_entries for name in trees} == {n: e["events"] for n, e in trees.items()}
    files = run("export", "parquet", saved, "-o", tmp_path / "events")["files"]
    for name, entry in files.items():
        assert pq.read_metadata(tmp_path / "events" / name).num_rows == len(analytic_workspace.tables[entry["id"]])
    for kind, path in (("root", "events.root"), ("parquet", "events")):
        assert "exists" in run("export", kind, saved, "-o", tmp_path / path, code=1)
        run("export", kind, saved, "-o", tmp_path / path, "--overwrite")


def test_errors_are_one_line(saved, tmp_path):
    document = run("export", "hs3", saved, "--no-events")
    (tmp_path / "hs3.json").write_text(json.dumps(document))
    (tmp_path / "broken.json").write_text("{")
    new = ["-o", tmp_path / "new"]
    for arguments, message in (
        (["export", "hs3", saved, "--measurement", "analytc"], "nuratio: no measurement 'analytc'; did you mean"),
        (["export", "hs3", saved, "-o", tmp_path / "hs3.json"], "exists"),
        (["export", "hs3", tmp_path / "nothing"], "no workspace"),
        (["export", "parquet", tmp_path / "nothing", *new], "no workspace"),
        (["import", "hs3", tmp_path / "broken.json", *new], "is not JSON"),
        (["import", "hs3", tmp_path / "nothing.json", *new], "No such file"),
        (
            ["import", "hs3", tmp_path / "hs3.json", "--analysis", "analytc", *new],
            "no analysis 'analytc'; did you mean",
        ),
    ):
        said = run(*arguments, code=1)
        assert message in said
        assert said.count("\n") == 1
    assert "no such file" in run("import", "hs3", tmp_path / "hs3.json", *new, code=1)  # the tables are elsewhere
    assert not (tmp_path / "new").exists()


def test_the_schema():
    assert run("validate", "--schema") == schema()
    assert "give a WORKSPACE, or --schema" in run("validate", code=2)


def test_goodness_of_fit(saved):
    result = run("gof", saved, "--projection", "SR:x:5", "--toys", "3", "--seed", "2")
    assert result["projections"]["SR"]["feature"] == "x"
    assert len(result["projections"]["SR"]["edges"]) == 6
    assert len(result["toys"]) == 3
    assert 0 < result["p_value"] <= 1
    edges = run("gof", saved, "--projection", "SR:x:0,4,6,10", "--toys", "1")["projections"]["SR"]["edges"]
    assert edges == [0.0, 4.0, 6.0, 10.0]
    for wrong in ("SR", "SR:x:few", "SR:x:0,few"):
        assert "is not CHANNEL:FEATURE:BINS" in run("gof", saved, "--projection", wrong, code=2)
    assert "no column 'y'" in run("gof", saved, "--projection", "SR:y:5", code=1)
