from dataclasses import replace

import numpy as np
import pytest
from handmade import make_limit
from matplotlib.backends.backend_agg import RendererAgg

from nuratio.errors import InvalidData
from nuratio.plots import cls_scan


def drawn_markers(line):
    """Pixels at which the markers of a line are drawn, shape (markers, 2)."""
    renderer, found = RendererAgg(800, 650, 100), []
    renderer.draw_markers = lambda gc, marker, marker_transform, path, transform, color=None: found.append(
        transform.transform(path.vertices)
    )
    line.draw(renderer)
    return np.concatenate(found)


def outline(band):
    """Lower and upper edge of a fill_between over m points: it starts and ends each with one extra vertex."""
    vertices = band.get_paths()[0].vertices[:-1]
    half = len(vertices) // 2
    return vertices[1:half], vertices[half + 1 :][::-1]


def test_lines_and_bands_pass_through_every_tested_value():
    limit = make_limit()
    drawn = cls_scan(limit)
    x = [test.poi_value for test in limit.scan]
    expected = np.array([test.CLs_expected for test in limit.scan]).T
    np.testing.assert_array_equal(drawn.observed.get_xdata(), x)
    np.testing.assert_array_equal(drawn.observed.get_ydata(), [test.CLs for test in limit.scan])
    np.testing.assert_array_equal(drawn.expected.get_ydata(), expected[2])
    for band, low, high in ((drawn.two_sigma, 0, 4), (drawn.one_sigma, 1, 3)):
        lower, upper = outline(band)
        np.testing.assert_array_equal(lower, np.column_stack([x, expected[low]]))
        np.testing.assert_array_equal(upper, np.column_stack([x, expected[high]]))


@pytest.mark.parametrize("level", [0.05, 0.1])
def test_the_limits_lie_on_the_level_and_on_their_curves(level):
    limit = make_limit(shift=0.3, level=level)
    drawn = cls_scan(limit)
    assert set(drawn.level.get_ydata()) == {level}
    np.testing.assert_allclose(drawn.limits.get_xdata(), [limit.observed, limit.expected[2]])
    for x, y, curve in zip(*drawn.limits.get_data(), (drawn.observed, drawn.expected), strict=True):
        assert y == level
        assert np.interp(x, *curve.get_data()) == pytest.approx(level, rel=1e-6)
    assert f"{100 - 100 * level:g}% CL" in [text.get_text() for text in drawn.ax.texts]


def test_markers_sit_on_tested_values_without_clutter():
    drawn = cls_scan(make_limit())
    at = drawn_markers(drawn.observed)
    tested = drawn.ax.transData.transform(drawn.observed.get_xydata())
    visible = at[at[:, 0] < drawn.ax.bbox.x1]
    distance = np.linalg.norm(visible[:, None] - tested, axis=2)
    assert distance.min(axis=1).max() < 1.0  # pixels
    assert np.linalg.norm(np.diff(visible, axis=0), axis=1).min() > 8
    assert 8 < len(visible) < 40
    assert len(tested) > 100  # what they would be without thinning


@pytest.mark.parametrize("shift", [-0.9, 0.0, 5.0], ids=["deficit", "as-expected", "excess"])
def test_the_axes_end_beyond_the_last_limit_and_not_at_a_far_away_tested_value(shift):
    limit = make_limit(shift=shift)
    drawn = cls_scan(limit)
    low, high = drawn.ax.get_xlim()
    assert low == 0
    assert high == pytest.approx(1.1 * max(limit.observed, *limit.expected))
    assert drawn.ax.get_ylim()[0] == 0


def test_invalid_points_are_open_and_said_in_the_legend():
    limit = make_limit(invalid=(3, 7))
    drawn = cls_scan(limit)
    np.testing.assert_array_equal(drawn.invalid.get_xdata(), [limit.scan[k].poi_value for k in (3, 7)])
    assert drawn.invalid.get_markerfacecolor() == "white"
    assert "Fit not valid" in [text.get_text() for text in drawn.legend.get_texts()]
    clean = cls_scan(make_limit())
    assert clean.invalid is None
    assert "Fit not valid" not in [text.get_text() for text in clean.legend.get_texts()]


def test_labels_name_the_poi_and_quote_both_limits_with_the_unit():
    limit = replace(make_limit(), observed=0.73456, expected=(0.1, 0.2, 91234.0, 1e5, 2e5))
    drawn = cls_scan(limit, poi_label="mass [GeV]", label="Dileptons")
    texts = [text.get_text() for text in drawn.legend.get_texts()]
    assert texts[:2] == ["Observed: mass < 0.735 GeV", "Expected: mass < 91200 GeV"]
    assert drawn.legend.get_title().get_text() == "Dileptons"
    assert drawn.ax.get_xlabel() == "mass [GeV]"
    assert cls_scan(limit).ax.get_xlabel() == "mu"


def test_log_axis_reaches_below_the_level():
    drawn = cls_scan(make_limit(), log=True)
    assert drawn.ax.get_yscale() == "log"
    assert 0 < drawn.ax.get_ylim()[0] < 0.05
    assert max(drawn.ax.get_yticks()) == 1.0


def test_a_limit_without_scan_is_refused():
    with pytest.raises(InvalidData, match="'mu' holds no tested values"):
        cls_scan(replace(make_limit(), scan=()))
