import json
import re

import pytest

import analytic
from command_line import run
from nuratio.infer.report import statistical_report
from nuratio.infer.results import load_result
from nuratio.parallel.tasks import Serial
from nuratio.plots.report import write_report


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from nuratio.workspace.workspace import Workspace

    target = tmp_path_factory.mktemp("report") / "analysis"
    analytic.workspace(pool=3000).save(target)
    return target, Workspace.load(target)


@pytest.fixture(scope="module")
def report(saved):
    workspace = saved[1]
    model = workspace.model(threads=1)
    return statistical_report(workspace, model, workspace.data(model), title="A <title>", toys=10, executor=Serial())


def test_everything_is_in_it(report, saved):
    assert not report.notes
    wanted = {"interval", "scan", "ranking", "breakdown", "significance", "limit", "coverage", "significance by toys"}
    assert wanted <= report.results.keys()
    assert {"goodness of fit, score", "projection of SR on x", "projection of CR on bin"} <= report.results.keys()
    assert report.inputs["digest"] == saved[1].digest()
    assert all(re.fullmatch("[0-9a-f]{64}", f["sha256"]) for f in report.inputs["files"].values())
    sr = next(y for y in report.yields if y.channel == "SR")
    assert sr.nominal == {"background": 1000.0, "signal": 60.0}
    assert sum(sr.fitted.values()) == pytest.approx(sr.observed, rel=0.05)
    again = load_result(report.to_json())
    assert again.to_json() == report.to_json()


def test_the_page_needs_no_other_file(report, tmp_path):
    write_report(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "A &lt;title&gt;" in text
    assert text.count("<img") == text.count('src="data:image/png;base64,') >= 8
    assert all(link.startswith("data:") for link in re.findall(r"(?:href|src)=\"([^\"]*)\"", text))
    for chapter in (
        "Yields",
        "Fit",
        "Ranking of the nuisances",
        "Upper limit",
        "Goodness of fit",
        "Inputs and provenance",
    ):
        assert f"<h2>{chapter}</h2>" in text
    assert report.inputs["digest"] in text
    assert f"{report.fit['mu'].value:.5g}" in text


def test_what_cannot_be_computed_is_said(saved, tmp_path):
    workspace = saved[1]
    narrow = workspace.patch(
        [{"op": "add", "path": "/measurements/0/config/parameters/-", "value": {"name": "mu", "bounds": [[0.0, 1.2]]}}]
    )
    model = narrow.model(threads=1)
    found = statistical_report(narrow, model, narrow.data(model))
    assert "limit" not in found.results
    assert any(
        note.startswith("limit is left out: CLs is still above 0.05 at the upper bound 1.2") for note in found.notes
    )
    write_report(found, tmp_path / "report.html")
    assert "To be noted" in (tmp_path / "report.html").read_text()


def test_the_command_writes_the_page_and_the_numbers(saved, tmp_path):
    checks = {"SR": {"checks": [{"name": "closure", "sample": "s", "passed": True, "value": 1.0, "threshold": 3.0}]}}
    (tmp_path / "check.json").write_text(json.dumps(checks))
    page = tmp_path / "report.html"
    found = run("report", saved[0], page, "--threads", "1", "--checks", tmp_path / "check.json")
    assert found["kind"] == "report"
    assert found["checks"] == checks
    assert "<td>closure</td>" in page.read_text()
    assert "no folder" in run("report", saved[0], tmp_path / "none" / "r.html", code=1)
