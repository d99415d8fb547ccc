import numpy as np
import pytest
from handmade import make_scan

from nuratio.plots import profile


def legend(drawn):
    return [text.get_text() for text in drawn.legend.get_texts()]


def test_the_curve_is_the_scan_and_the_lines_are_one_and_four():
    scan = make_scan()
    drawn = profile(scan)
    np.testing.assert_array_equal(drawn.curve.get_xdata(), scan.values)
    np.testing.assert_array_equal(drawn.curve.get_ydata(), scan.delta_twice_nll)
    assert [set(line.get_ydata()) for line in drawn.levels] == [{1.0}, {4.0}]
    assert [text.get_text() for text in drawn.ax.texts] == ["68.3%", "95.4%"]
    assert drawn.ax.get_xlabel() == "mu"
    assert drawn.ax.get_xlim() == (0.4, 1.6)


def test_scans_overlay_on_the_same_axes():
    first = profile(make_scan(), label="Learned")
    second = profile(make_scan(best=1.3, low=0.7, high=2.0), ax=first.ax, label="Exact", linestyle="--")
    assert second.ax is first.ax
    assert legend(second) == ["Learned: mu = 1.00 ± 0.20", "Exact: mu = 1.30 ± 0.20"]
    assert first.curve.get_color() != second.curve.get_color()
    assert second.curve.get_linestyle() == "--"
    assert first.ax.get_xlim() == (0.4, 2.0)
    assert second.levels == ()
    assert len(first.ax.texts) == 2


def test_without_intervals_there_are_only_curves():
    drawn = profile(make_scan(), intervals=False)
    assert drawn.levels == ()
    assert not drawn.ax.texts
    assert drawn.ax.lines[:] == [drawn.curve]


@pytest.mark.parametrize(
    ("best", "sigma", "minos", "text"),
    [
        (1.0234, 0.2, {}, "mu = 1.02 ± 0.20"),
        (-1.0234, 0.2, {}, "mu = \N{MINUS SIGN}1.02 ± 0.20"),
        (91187.6, 21.0, {}, "mu = 91188 ± 21"),
        (1.0, 0.2, {"mu": (0.85, 1.23)}, "mu = 1.00$_{-0.15}^{+0.23}$"),
        (1.0, 0.2, {"mu": (0.798, 1.202)}, "mu = 1.00 ± 0.20"),
        (1.0, 0.2, {"jes": (-0.8, 1.0)}, "mu = 1.00 ± 0.20"),
        (1.2345, np.nan, {}, "mu = 1.23"),
    ],
    ids=["symmetric", "negative", "large", "minos", "minos-symmetric", "minos-of-another", "no-hesse"],
)
def test_the_legend_quotes_the_best_fit(best, sigma, minos, text):
    scan = make_scan(minos=minos)
    scan.bestfit.bestfit[0], scan.bestfit.uncertainty[0] = best, sigma
    assert legend(profile(scan)) == [text]


def test_the_unit_of_the_label_goes_behind_the_number():
    assert legend(profile(make_scan(), parameter_label="mass [GeV]")) == ["mass = 1.00 ± 0.20 GeV"]


def test_invalid_points_are_open_and_said_in_the_legend():
    scan = make_scan(invalid=(0, 5))
    drawn = profile(scan)
    np.testing.assert_array_equal(drawn.invalid.get_xdata(), scan.values[[0, 5]])
    assert drawn.invalid.get_markerfacecolor() == "white"
    assert legend(drawn)[1] == "Fit not valid"
    assert profile(make_scan()).invalid is None
