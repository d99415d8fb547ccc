"""Check reports as pictures and as a page."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from nuratio.checks.report import Calibration, Check, CheckReport, Closure, Distances, Shifts
from nuratio.errors import InvalidData
from nuratio.plots.checks import calibration, closures, distances, shifts, write_page

EDGES = np.linspace(0, 1, 5)


def closure(quantity="mass"):
    share = np.array([0.1, 0.4, 0.6, -0.1])
    error = np.full(4, 0.02)
    return Closure("sig", quantity, EDGES, np.full(4, 0.25), share, share + 0.01, error, error, 0.5 * error, 3.2, 4)


CURVES = (
    closure(),
    closure("ratio"),
    Calibration("sig", np.array([-0.5, 0.5, 1.5]), np.array([-0.4, 0.5, 1.4]), np.full(3, 0.1)),
    Distances("sig", 0.02, 0.3, np.linspace(0.01, 0.03, 20)),
    Shifts("mu", np.array([[0.1, -0.2], [0.3, np.nan]])),
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_closures_draw_what_they_are_given():
    figure = closures(CURVES[:2])
    top, below = figure.axes[0], figure.axes[2]
    assert below.get_xlabel() == "mass"
    assert figure.axes[3].get_xlabel() == "Learned ratio"
    points = top.containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(points, CURVES[0].target)
    assert "3 / 4" in top.get_legend().get_title().get_text()
    ratio = below.containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(ratio, CURVES[0].target / CURVES[0].reweighted)


def test_single_curves():
    line, points = calibration(CURVES[2]).lines[:2]
    np.testing.assert_allclose(line.get_xdata(), line.get_ydata())
    np.testing.assert_allclose(points.get_ydata(), CURVES[2].true)
    assert distances(CURVES[3]).get_xscale() == "log"
    ax = shifts(CURVES[4])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.1, -0.2])
    assert "mu" in ax.get_ylabel()


def test_the_page_holds_every_check_and_picture(tmp_path):
    bad = Check("closure <x>", "sig", float("nan"), 0.1, 0.2, "what & why")
    good = Check("fit", "model", 0.0, 0.0, 0.0, "converged")
    page = tmp_path / "page.html"
    write_page({"SR": CheckReport((bad, good), CURVES), "likelihood": CheckReport((good,))}, page, title="a < b")
    text = page.read_text()
    assert text.count("<img") == 2  # one figure of closures, one of the others
    assert "closure &lt;x&gt;" in text
    assert "what &amp; why" in text
    assert "1 of 2 checks fail" in text
    assert "all 1 checks pass" in text
    assert "a &lt; b" in text
    with pytest.raises(InvalidData, match="no folder"):
        write_page({}, tmp_path / "nowhere" / "page.html")


def test_reports_are_json_also_where_a_value_is_no_number():
    import json

    report = CheckReport((Check("x", "s", float("nan"), 0.1, 0.2, ""),), CURVES)
    document = json.loads(report.to_json())
    assert document["checks"][0] == {
        "name": "x", "sample": "s", "value": None, "error": 0.1, "threshold": 0.2, "meaning": "", "passed": False,
    }  # fmt: skip
    assert [c["type"] for c in document["curves"]] == ["closure", "closure", "calibration", "distances", "shifts"]
    assert document["curves"][-1]["shifts"] == [[0.1, -0.2], [0.3, None]]
