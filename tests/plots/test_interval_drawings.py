from dataclasses import replace

import numpy as np
import pytest
from handmade import make_fit
from matplotlib.colors import to_rgb

from nuratio.infer.hypotheses.look_elsewhere import GlobalSignificance, SignificanceScan
from nuratio.infer.profiles.contour import ContourResult
from nuratio.infer.profiles.intervals import IntervalResult
from nuratio.plots import contours, interval_profile, local_p_values, save_plot
from nuratio.plots.look import GREEN, YELLOW

FIT = make_fit(["kappa", "c"], [1.0, 0.0], [0.2, 0.5], [np.nan] * 2, [np.nan] * 2)


def texts(drawn):
    return [text.get_text() for text in drawn.legend.get_texts()]


def make_interval(levels=(0.683, 0.954)):
    """(kappa**2 - 1)**2 times 25: two pieces at 68%, two at 95%, of which the second ends at a bound."""
    x = np.linspace(-2, 1.15, 64)
    return IntervalResult(
        parameter="kappa",
        levels=levels,
        pieces=tuple(((-1.1 - n / 10, -0.9), (0.9, 1.1 + n / 20)) for n in range(len(levels))),
        at_bound=tuple(((False, False), (False, n == 1)) for n in range(len(levels))),
        minima=np.array([1.0, -1.0]),
        minima_rise=np.array([0.0, 0.0]),
        values=x,
        delta_twice_nll=25 * (x**2 - 1) ** 2,
        bestfit=FIT,
        valid=True,
        message="",
    )


def circle(center, radius, n=20):
    angle = np.linspace(0, 2 * np.pi, n + 1)
    return np.stack([center + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def make_contour():
    open_ended = np.array([[0.0, -1.0], [2.0, 0.0], [0.0, 1.0]])
    return ContourResult(
        parameters=("kappa", "c"),
        levels=(0.683, 0.954),
        pieces=((circle(-1, 0.3), circle(1, 0.3)), (open_ended,)),
        closed=((True, True), (False,)),
        minima=np.array([[1.0, 0.0], [-1.0, 0.0]]),
        minima_rise=np.array([0.0, 0.2]),
        bestfit=FIT,
        valid=True,
        message="",
    )


def make_scan():
    z = np.array([0.0, 1.0, 3.4, 0.5])
    from scipy.stats import norm

    values = np.array([100.0, 110.0, 120.0, 130.0])
    return SignificanceScan("mu", "m", values, z**2, norm.sf(z), z, z / 2, True, "")


def make_global():
    scan = make_scan()
    local, toys = (float(scan.p0[2]), 3.4), (0.01, 0.007)
    gross_vitells = (0.5, 1.7, 0.1, 1.6, 0.005, 0.0003, 2.58, 14.8)
    return GlobalSignificance(scan, 120.0, *local, *gross_vitells, *toys, scan.q0, True, "")


def test_the_pieces_are_shaded_up_to_their_level():
    interval = make_interval()
    drawn = interval_profile(interval)
    for pieces, spans, height, color in zip(
        interval.pieces, drawn.pieces, interval.heights, (GREEN, YELLOW), strict=True
    ):
        assert len(spans) == 2
        for (low, high), span in zip(pieces, spans, strict=True):
            corners = span.get_paths()[0].vertices
            assert (corners[:, 0].min(), corners[:, 0].max()) == (low, high)
            assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((0, height))
            assert tuple(span.get_facecolor()[0][:3]) == pytest.approx(to_rgb(color))
    assert [line.get_ydata()[0] for line in drawn.levels] == pytest.approx(interval.heights)
    assert [text.get_text() for text in drawn.ax.texts] == ["68.3%", "95.4%"]


def test_the_curve_is_the_profile_and_both_minima_are_marked():
    interval = make_interval()
    drawn = interval_profile(interval, parameter_label="κ [%]")
    y = drawn.curve.get_ydata()
    low = interval.delta_twice_nll <= 1.35 * interval.heights[1]
    np.testing.assert_array_equal(y[low], interval.delta_twice_nll[low])
    assert np.isnan(y[~low]).all()  # where the legend is
    assert drawn.bestfit.get_xdata() == [1.0]
    assert drawn.minima.get_xdata() == [-1.0]
    assert drawn.minima.get_markerfacecolor() == "white"
    assert drawn.ax.get_xlabel() == "κ [%]"
    minus, union = "\N{MINUS SIGN}", "\N{UNION}"
    assert texts(drawn) == [
        "Best fit: κ = 1 %",
        "Other minimum",
        f"68.3%: κ [{minus}1.1, {minus}0.9] {union} [0.9, 1.1] %",
        f"95.4%: κ [{minus}1.2, {minus}0.9] {union} [0.9, 1.15| %",
    ]


def test_an_end_that_is_missing_is_not_shaded():
    interval = replace(make_interval((0.683,)), pieces=(((float("nan"), -0.9), (0.9, 1.1)),))
    drawn = interval_profile(interval)
    assert [len(spans) for spans in drawn.pieces] == [1]
    assert "[?, \N{MINUS SIGN}0.9]" in texts(drawn)[-1]


def test_contours_are_lines_and_the_points_of_the_result():
    contour = make_contour()
    drawn = contours(contour, reference=(1.0, 0.1))
    for pieces, lines, style in zip(contour.pieces, drawn.levels, ("-", "--"), strict=True):
        for piece, line in zip(pieces, lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), piece)
            assert line.get_linestyle() == style
    np.testing.assert_array_equal(drawn.bestfit.get_xydata(), [[1.0, 0.0]])
    np.testing.assert_array_equal(drawn.minima.get_xydata(), [[-1.0, 0.0]])
    np.testing.assert_array_equal(drawn.reference.get_xydata(), [[1.0, 0.1]])
    assert texts(drawn) == ["68.3% CL", "95.4% CL", "Best fit", "Other minimum", "SM"]
    assert (drawn.ax.get_xlabel(), drawn.ax.get_ylabel()) == ("kappa", "c")
    assert drawn.ax.get_xlim()[1] > 2.0


def test_contours_overlay_on_the_same_axes():
    first = contours(make_contour(), label="Unbinned")
    second = contours(make_contour(), ax=first.ax, label="Binned", parameter_labels=("κ", "c [TeV]"))
    assert second.ax is first.ax
    assert first.bestfit.get_color() != second.bestfit.get_color()
    assert texts(second)[::4] == ["Unbinned: 68.3% CL", "Binned: 68.3% CL"]
    assert second.reference is None
    assert second.ax.get_ylabel() == "c [TeV]"


def test_local_p_values_and_what_they_say():
    scan = make_scan()
    drawn = local_p_values(scan, parameter_label="Mass [GeV]")
    np.testing.assert_array_equal(drawn.curve.get_xdata(), scan.values)
    np.testing.assert_array_equal(drawn.curve.get_ydata(), scan.p0)
    np.testing.assert_array_equal(drawn.largest.get_xydata(), [[120.0, scan.p0[2]]])
    assert [line.get_ydata()[0] for line in drawn.sigmas][:3] == pytest.approx([0.5, 0.1587, 0.02275], rel=1e-3)
    assert [text.get_text() for text in drawn.ax.texts] == ["0σ", "1σ", "2σ", "3σ", "4σ"]
    assert texts(drawn) == ["Observed", "3.40σ local at Mass = 120 GeV"]
    assert drawn.ax.get_yscale() == "log"
    assert texts(local_p_values(make_global()))[2] == "2.58σ global (trials factor 14.8)"


@pytest.mark.parametrize("make", [make_interval, make_contour, make_scan, make_global])
def test_they_are_saved_by_their_kind(make, tmp_path):
    save_plot(make(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
