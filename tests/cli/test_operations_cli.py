"""Workspaces in, workspaces out, on the command line."""

import json

import numpy as np
import pytest

import analytic
from command_line import run
from nuratio.workspace.workspace import Workspace


@pytest.fixture
def saved(analytic_workspace, tmp_path):
    analytic_workspace.save(tmp_path / "ws")
    return tmp_path / "ws"


def test_rename_combine_and_prune_lead_back(saved, analytic_workspace, tmp_path):
    channels = ["--channel", "CR", "CR2", "--channel", "SR", "SR2"]
    summary = run("rename", saved, *channels, "--modifier", "stat", "stat2", "-o", tmp_path / "other.zip")
    assert sorted(summary["channels"]) == ["CR2", "SR2"]
    summary = run("combine", saved, tmp_path / "other.zip", "--join", "outer", "-o", tmp_path / "both")
    assert summary["channels"]["SR2"]["type"] == "unbinned"
    both = ["prune", tmp_path / "both", "--channel", "SR2", "--channel", "CR2"]
    run(*both, "-o", tmp_path / "back")
    assert run("digest", tmp_path / "back") == run("digest", saved) == {"sha256": analytic_workspace.digest()}
    assert run("digest", tmp_path / "both") != run("digest", saved)
    assert "exists" in run(*both, "-o", tmp_path / "back", code=1)
    run(*both, "-o", tmp_path / "back", "--overwrite")


def test_types_samples_and_measurements(saved, analytic_workspace, tmp_path):
    run("prune", saved, "--modifier-type", "ratiosys", "--modifier", "xs", "-o", tmp_path / "straight")
    expected = analytic_workspace.prune(modifiers=["xs"], modifier_types=["ratiosys"])
    assert Workspace.load(tmp_path / "straight").digest() == expected.digest()
    run("rename", saved, "--sample", "signal", "s", "--measurement", "analytic", "m", "-o", tmp_path / "renamed")
    assert Workspace.load(tmp_path / "renamed").measurements == ["m"]


def test_patch_from_a_file_or_stdin(saved, tmp_path):
    operations = json.dumps([{"op": "replace", "path": "/channels/1/samples/1/data", "value": [50.0]}])
    (tmp_path / "patch.json").write_text(operations)
    summary = run("patch", saved, tmp_path / "patch.json", "-o", tmp_path / "a")
    assert summary["channels"]["SR"]["yields"]["signal"] == 50.0
    run("patch", saved, "-", "-o", tmp_path / "b.zip", stdin=operations)
    assert run("digest", tmp_path / "a") == run("digest", tmp_path / "b.zip")


def test_a_pyhf_workspace_is_a_workspace(saved, tmp_path):
    spec = analytic.binned_spec(per_bin=False)
    spec["measurements"][0]["name"] = "analytic"
    (tmp_path / "binned.json").write_text(json.dumps(spec))
    summary = run("combine", saved, tmp_path / "binned.json", "--join", "outer", "-o", tmp_path / "both")
    assert sorted(summary["channels"]) == ["A", "B", "CR", "SR"]
    both = Workspace.load(tmp_path / "both")
    assert np.isfinite(both.model().twice_nll(both.model().config.suggested_init(), both.data(both.model())))


def test_errors_are_one_line(saved, tmp_path):
    (tmp_path / "patch.json").write_text("{")
    for arguments, message in (
        (["combine", saved, saved], "nuratio: Workspaces cannot have any channels in common"),
        (["prune", saved, "--modifier", "tillt"], "nuratio: no modifier 'tillt'; did you mean 'tilt'"),
        (["rename", saved, "--sample", "signl", "s"], "nuratio: no sample 'signl'; did you mean 'signal'"),
        (["patch", saved, tmp_path / "patch.json"], "is not JSON"),
        (["patch", saved, tmp_path / "nothing.json"], "No such file"),
    ):
        said = run(*arguments, "-o", tmp_path / "new", code=1)
        assert message in said
        assert said.count("\n") == 1
    assert "no algorithm 'sha265'" in run("digest", saved, "--algorithm", "sha265", code=1)
    assert not (tmp_path / "new").exists()
