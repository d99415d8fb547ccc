import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import chi2

from infer.counting import counting
from nuratio.infer.toys.coverage import coverage as count
from nuratio.infer.toys.neyman import neyman
from nuratio.infer.toys.p_values import toy_limit
from nuratio.infer.toys.toys import toys
from nuratio.parallel.tasks import Serial
from nuratio.plots import belt, cls_scan, coverage, save_plot, toy_statistic

TOYS = {"executor": Serial(), "progress": False}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_histogram_holds_all_toys():
    found = toys(counting(10.0, 50.0), {"mu": 1.0}, 100, tests=[("t", 1.0), ("q", 1.0)], **TOYS)
    artists = toy_statistic(found, observed=1.0)
    edges, density = artists.histogram.get_data()
    assert np.sum(density[:-1] * np.diff(edges)) == pytest.approx(1.0)
    x, y = artists.asymptotic.get_data()
    assert y == pytest.approx(chi2.pdf(x, 1))
    assert artists.ax.get_legend().get_texts()[-1].get_text().startswith("Observed: p = ")
    x, y = toy_statistic(found, test=1).asymptotic.get_data()
    assert y == pytest.approx(chi2.pdf(x, 1) / 2)


def test_a_belt_shows_critical_values_and_the_interval():
    result = neyman(counting(10.0, 50.0), [65.0], [0.0, 1.0, 2.0, 3.0], n=50, **TOYS)
    artists = belt(result)
    assert artists.critical.lines[0].get_ydata() == pytest.approx(result.critical)
    assert artists.statistic.get_ydata() == pytest.approx(result.statistic)
    assert len(artists.pieces) == len(result.pieces) == 1


def test_coverage_shows_every_point_and_level():
    result = count(counting(10.0, 50.0), [{"mu": 1.0}, {"mu": 2.0}], 50, **TOYS)
    artists = coverage(result)
    for j, points in enumerate(artists.points):
        assert points.lines[0].get_ydata() == pytest.approx([p.coverage[j] for p in result.points])
    assert [t.get_text() for t in artists.ax.get_xticklabels()] == ["mu = 1", "mu = 2"]


def test_limits_from_toys_have_errors(tmp_path):
    result = toy_limit(counting(10.0, 5.0), [5.0], values=[0.05, 0.5, 2.0], n=100, **TOYS)
    assert cls_scan(result).errors is not None
    save_plot(result, tmp_path / "limit.png")
    assert (tmp_path / "limit.png").stat().st_size > 0
