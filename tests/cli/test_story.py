"""The whole story through the command line: ROOT ntuples in, a limit out, compared with the exact likelihood."""

import json
import subprocess
import sys

import numpy as np
import pytest
import uproot
import yaml
from click.testing import CliRunner

from command_line import run
from nuratio.cli.main import cli
from nuratio.demo.exact import ExactLikelihood
from nuratio.demo.generator import write_ntuples
from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.infer.results import load_result

EVENTS = {"sm": (60_000, 60_000, 30_000), "interference": (6_000, 30_000, 30_000), "newphys": (3_000, 15_000, 25_000)}
RATIO = {"hidden": [32, 32, 32], "folds": 2, "ensemble": 1, "epochs": 12, "batch_size": 512, "learning_rate": 0.01}
TRAINING = {"Seed": 1, "Ratio": RATIO, "Shape": {"hidden": [16], "epochs": 2, "ensemble": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from importlib.resources import files

    folder = tmp_path_factory.mktemp("story")
    write_ntuples(folder / "ntuples", seed=11, events=EVENTS)
    config = yaml.safe_load((files("nuratio.demo") / "demo.yml").read_text())
    (folder / "analysis.yml").write_text(yaml.safe_dump(config | {"Training": TRAINING}, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def workspace(folder):
    """Trained and built once; the pieces are looked at below."""
    cache = folder / "cache"
    first = run("train", folder / "analysis.yml", "--cache", cache)
    assert first["SR"]["trained"] == 5  # one ratio estimator, one shape per part
    assert run("train", folder / "analysis.yml", "--cache", cache)["SR"]["trained"] == 0
    summary = run("build", folder / "analysis.yml", "--cache", cache, "-o", folder / "ws")
    assert summary["poi"] == "kappa"
    return folder / "ws"


@pytest.fixture(scope="module")
def exact(folder):
    with uproot.open(folder / "ntuples" / "data.root") as file:
        return ExactLikelihood.from_events(**file["data"].arrays(["mll", "yll", "costh"], library="np"))


def test_what_was_built(workspace, folder, exact):
    assert run("validate", workspace)["valid"]
    summary = run("inspect", workspace)
    assert {"kappa", "mass_scale", "efficiency"} < set(summary["parameters"])
    assert "kappa_squared" not in summary["parameters"]
    sr, cr = summary["channels"]["SR"], summary["channels"]["CR"]
    assert sr["type"] == "unbinned"
    assert set(sr["yields"]) == {"sm", "interference[+]", "interference[-]", "newphys"}
    assert sr["yields"]["interference[-]"] < 0
    assert sr["observed"] == exact.events.shape[1]
    assert cr["observed"] == exact.counts.sum()
    spec = json.loads((workspace / "workspace.json").read_text())
    modifiers = {
        (c["name"], s["name"]): {(m["type"], m["name"]) for m in s["modifiers"]}
        for c in spec["channels"]
        for s in c["samples"]
    }
    assert modifiers["SR", "sm"] == {("normsys", "mass_scale"), ("normsys", "efficiency")}
    assert ("normfactor", "kappa_squared") in modifiers["SR", "newphys"]
    assert {("histosys", "mass_scale"), ("staterror", "staterror_CR")} <= modifiers["CR", "sm"]
    pruned = spec["unbinned"]["provenance"]["SR"]["pruned"]
    assert pruned["newphys"] == []  # a peak; a falling spectrum that is shifted keeps its shape: rms of ln r 0.002
    for sample in spec["unbinned"]["channels"][0]["samples"]:
        assert ("normsys", "mass_scale") in modifiers["SR", sample["name"]]
        assert len(sample["modifiers"]) == 1 - len(pruned[sample["name"]])
        if not pruned[sample["name"]]:
            assert sample["normalisation"]["errors"]["mass_scale"] <= sample["normalisation"]["error"] < 1e-3


def test_the_fit_is_the_exact_one_within_the_small_simulation(workspace, exact):
    learned = load_result(json.dumps(run("fit", workspace, "--minos", "kappa")))
    assert learned.valid, learned.message
    truth = fit(exact, exact.data)
    shift = (learned["kappa"].value - truth["kappa"].value) / truth["kappa"].uncertainty
    assert abs(shift) < 0.7
    assert learned["kappa"].uncertainty == pytest.approx(truth["kappa"].uncertainty, rel=0.15)
    assert learned["kappa"].lower < learned["kappa"].value < learned["kappa"].upper
    assert abs(learned["mass_scale"].value - truth["mass_scale"].value) < 1.0
    held = run("fit", workspace, "--fix", "kappa=0")
    assert held["twice_nll"] > learned.twice_nll + 4  # kappa = 1 was generated, 3.8 sigma away


def test_the_limit_is_the_exact_one_within_the_small_simulation(workspace, exact, tmp_path):
    run_limit = CliRunner().invoke(cli, ["limit", str(workspace), "-o", str(tmp_path / "limit.json")])
    assert run_limit.exit_code == 0, run_limit.stderr
    limit = load_result(tmp_path / "limit.json")
    truth = upper_limit(exact, exact.data, points=3)
    assert limit.valid, limit.message
    assert limit.observed == pytest.approx(truth.observed, rel=0.15)
    assert limit.expected == pytest.approx(truth.expected, rel=0.15)
    assert run("plot", tmp_path / "limit.json", tmp_path / "limit.png")
    assert (tmp_path / "limit.png").stat().st_size > 10_000


def test_the_ratios_pass_their_checks(folder, workspace):
    page = folder / "check.html"
    options = ["--cache", str(folder / "cache"), "--report", str(page)]
    done = CliRunner().invoke(cli, ["check", str(folder / "analysis.yml"), *options])
    assert done.exit_code in (0, 2), done.stderr
    reports = json.loads(done.stdout)
    assert reports["SR"]["passed"], done.stderr
    assert {"normalisation", "distance", "calibration", "support"} <= {c["name"] for c in reports["SR"]["checks"]}
    shapes = {c["sample"] for c in reports["SR"]["checks"] if c["name"] == "closure of mass_scale"}
    assert shapes == {"sm", "interference[+]", "interference[-]", "newphys"}
    (ranking,) = (c for c in reports["likelihood"]["curves"] if c["type"] == "ranking")
    assert {"mass_scale", "efficiency"} < set(ranking["nuisances"])
    likelihood = {c["name"]: c for c in reports["likelihood"]["checks"]}
    assert set(likelihood) >= {"fit", "minimum in kappa", "positivity in kappa", "positivity in mass_scale"}
    assert likelihood["positivity in kappa"]["passed"]
    assert 0 < likelihood["minimum in kappa"]["value"] < 1  # sigma; two folds of few events
    assert done.exit_code == (0 if all(r["passed"] for r in reports.values()) else 2)
    assert "closure in ln_mll, costh" in done.stderr
    text = page.read_text()
    assert text.count("<img") >= 4
    assert "minimum in kappa" in text


def test_an_injection_is_fitted_as_data_are(folder, workspace):
    """The data as an injection: the fit of the expected data is that of the data."""
    config = yaml.safe_load((folder / "analysis.yml").read_text())
    data = next(s for s in config["Samples"] if s.get("Data"))
    config["Injections"] = [{"Name": "again", "SamplePath": data["SamplePath"], "Tree": data["Tree"]}]
    (folder / "injection.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = ["inject", folder / "injection.yml", "again", "--cache", folder / "cache", "--workers", "1"]
    found = run(*command, "--truth", "kappa=1", "--toys", "5")
    fitted = load_result(json.dumps(run("fit", workspace)))
    assert found["expected"]["bestfit"] == pytest.approx(fitted.bestfit.tolist(), abs=2e-3)
    assert found["bias_error"] == pytest.approx(fitted["kappa"].uncertainty, rel=0.5)
    assert found["toys"]["toys"] == 5
    missing = run("inject", folder / "injection.yml", "agian", "--cache", folder / "cache", code=1)
    assert "no injection 'agian' in the configuration; did you mean 'again'?" in missing


def test_coarse_cells_take_the_same_networks(folder, workspace, exact):
    """Rates per cell, with the simulation's statistics, from a Binning of a feature; nothing is trained again."""
    config = yaml.safe_load((folder / "analysis.yml").read_text())
    config["Regions"][0] |= {"Variable": "ln_mll", "Binning": [5.7, 6.4, 6.7, 7.1, 8.1]}
    (folder / "cells.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    run("build", folder / "cells.yml", "--cache", folder / "cache", "-o", folder / "cells")
    channel = run("inspect", folder / "cells")["channels"]["SR"]
    assert channel["bins"] == 4
    plain = run("inspect", workspace)["channels"]["SR"]
    assert channel["yields"] == pytest.approx(plain["yields"], rel=1e-6)
    fits = {name: load_result(json.dumps(run("fit", folder / name))) for name in ("cells", "ws")}
    assert fits["cells"].valid, fits["cells"].message
    gammas = [n for n in fits["cells"].names if n.startswith("staterror_SR")]
    assert len(gammas) == 4
    truth = fit(exact, exact.data)
    assert abs(fits["cells"]["kappa"].value - truth["kappa"].value) < 0.8 * truth["kappa"].uncertainty
    ratio = fits["cells"]["kappa"].uncertainty / fits["ws"]["kappa"].uncertainty
    assert 0.95 < ratio < 1.5  # rates of the simulation are known to their statistics only
    config["Regions"][0]["Binning"] = [5.7, 6.4, 7.1]
    (folder / "cells.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    refused = CliRunner().invoke(cli, ["build", str(folder / "cells.yml"), "--cache", str(folder / "cache"), "-o", "x"])
    assert refused.exit_code != 0
    assert "lie outside the cells, 5.7 <= ln_mll < 7.1; widen the Binning" in refused.stderr


def test_a_sample_left_in_one_has_its_signed_ratio(folder, exact):
    """Least squares instead of a classifier of parts; its interference cannot have a shape variation."""
    config = yaml.safe_load((folder / "analysis.yml").read_text())
    config["Training"] = {"Seed": 1, "Method": "linear", "MethodOptions": {"features": 300}, "Ratio": {"folds": 2}}
    (folder / "linear.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = ["build", str(folder / "linear.yml"), "--cache", str(folder / "cache"), "-o", str(folder / "linear")]
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code != 0
    assert "leaves sample 'interference' in one, with weights of both signs" in refused.stderr
    config["Systematics"] = [s for s in config["Systematics"] if s["Name"] != "mass_scale"]
    (folder / "linear.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    summary = run(*command)
    assert set(summary["channels"]["SR"]["yields"]) == {"sm", "interference", "newphys"}
    learned = load_result(json.dumps(run("fit", folder / "linear")))
    truth = fit(exact, exact.data, fixed={"mass_scale": 0.0})
    assert learned.valid, learned.message
    assert abs(learned["kappa"].value - truth["kappa"].value) < 0.8 * truth["kappa"].uncertainty
    assert learned["kappa"].uncertainty == pytest.approx(truth["kappa"].uncertainty, rel=0.15)


def test_the_other_questions(workspace, tmp_path):
    tested = run("cls", workspace, "--poi-value", "1.7")
    assert 0 < tested["CLs"] < 0.05
    z = run("significance", workspace)
    assert z["significance"] > 2
    scan = run("scan", workspace, "--points", "5", "--range", "0.5", "1.5")
    assert scan["values"] == [0.5, 0.75, 1.0, 1.25, 1.5]
    asimov = run("fit", workspace, "--asimov", "0.5")
    kappa = asimov["bestfit"][asimov["names"].index("kappa")]
    assert kappa == pytest.approx(0.5, abs=1e-4)
    drawn = run("project", workspace, "--channel", "SR", "--feature", "costh", "--bins", "10")
    assert sum(drawn["data"]) == run("inspect", workspace)["channels"]["SR"]["observed"]
    assert np.sum(drawn["total"]) == pytest.approx(np.sum(drawn["data"]), rel=0.05)
    run("plot", "-", tmp_path / "stack.pdf", stdin=json.dumps(drawn))
    assert run("project", workspace, "--channel", "CR")["edges"][0] == 170


def test_pyhf_gives_the_same_cls(workspace):
    import pyhf

    from nuratio.infer.hypotheses.hypotest import hypotest
    from nuratio.workspace.workspace import Workspace

    ws = Workspace.load(workspace)
    model = ws.model()
    data = ws.data(model)
    ours = hypotest(model, data, 1.0)
    state = pyhf.get_backend()
    try:
        pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-3))
        observed = pyhf.infer.hypotest(1.0, data, model)
    finally:
        pyhf.set_backend(*state)
    assert float(observed) == pytest.approx(ours.CLs, abs=1e-4)


def test_changing_one_systematic_retrains_it_and_nothing_else(folder, workspace):
    config = yaml.safe_load((folder / "analysis.yml").read_text())
    config["Systematics"][0]["Samples"] = ["interference", "newphys"]
    config["Systematics"].append(
        {
            "Name": "twice",
            "Type": "NormPlusShape",
            "Samples": "sm",
            "Up": {"Tree": "mass_scale_up"},
            "Down": {"Symmetrize": True},
        }
    )
    (folder / "changed.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert run("train", folder / "changed.yml", "--cache", folder / "cache")["SR"]["trained"] == 1


def test_a_poi_that_only_expressions_use(folder, workspace, tmp_path):
    """mu = kappa^2 in its own words: sqrt(mu) I + mu S has its minimum at the square, and the same networks."""
    config = yaml.safe_load((folder / "analysis.yml").read_text())
    config["General"]["POI"] = "mu"
    config["NormFactors"] = [
        {"Name": "kappa", "Samples": "interference", "Expression": "sqrt(mu)"},
        {"Name": "kappa_squared", "Samples": "newphys", "Expression": "kappa**2"},
        {"Name": "mu", "Nominal": 1.0, "Bounds": [0, 20]},
    ]
    (folder / "squared.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    summary = run("build", folder / "squared.yml", "--cache", folder / "cache", "-o", tmp_path / "ws")
    assert summary["poi"] == "mu"
    kappa = load_result(json.dumps(run("fit", workspace)))
    mu = load_result(json.dumps(run("fit", tmp_path / "ws")))
    assert mu["mu"].value == pytest.approx(kappa["kappa"].value ** 2, rel=1e-3)
    assert mu.twice_nll == pytest.approx(kappa.twice_nll, abs=1e-6)
    limits = [run("limit", w)["observed"] for w in (workspace, tmp_path / "ws")]
    assert limits[1] == pytest.approx(limits[0] ** 2, rel=1e-3)


# --- what goes wrong


def test_errors_are_one_message_and_exit_code_one(workspace, folder, tmp_path):
    for arguments, message in (
        (["fit", tmp_path / "none"], "no workspace at"),
        (["fit", workspace, "--poi", "kapa"], "did you mean 'kappa'"),
        (["fit", workspace, "--fix", "mass=1"], "no parameter 'mass'"),
        (["fit", workspace, "--measurement", "zprim"], "did you mean 'zprime'"),
        (["scan", workspace, "--parameter", "kap"], "no parameter 'kap'"),
        (["limit", workspace, "--level", "5"], "between 0 and 1"),
        (["project", workspace, "--channel", "S"], "no channel 'S'"),
        (["build", folder / "none.yml"], "no configuration file"),
        (["build", folder / "analysis.yml", "-o", workspace], "exists; choose another --output or give --overwrite"),
        (["train", folder / "analysis.yml", "--inputs", tmp_path], "sm.root"),
        (["plot", tmp_path / "none.json", tmp_path / "a.png"], "no result file"),
        (["unbin", workspace, "SR", "-o", tmp_path / "x"], "unbinned already"),
    ):
        error = run(*arguments, code=1)
        assert error.startswith("nuratio: "), error
        assert message in error
    assert "is not NAME=NUMBER" in run("fit", workspace, "--fix", "kappa=one", code=2)


def test_help_is_light():
    """Neither torch nor matplotlib is loaded before it is needed."""
    code = (
        "import sys, nuratio; from nuratio.cli.main import cli; cli(['--help'], standalone_mode=False);"
        "print([m for m in ('torch', 'matplotlib', 'pyhf') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Commands:" in out
    assert out.strip().endswith("[]")


def test_every_public_name_exists():
    import nuratio

    for name in nuratio.__all__:
        assert getattr(nuratio, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fits'"):
        _ = nuratio.fits
