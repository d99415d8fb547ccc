from itertools import pairwise

import numpy as np
import pytest
from handmade import make_fit, make_pulls

from nuratio.errors import InvalidData
from nuratio.plots import pulls


@pytest.mark.parametrize("n", [1, 2, 40, 100])
def test_pulls_are_in_units_of_the_constraint(n):
    fit, names, pull, post = make_pulls(n)
    drawn = pulls(fit)
    points, _, (bars,) = drawn.points
    assert drawn.names == names  # neither the POI nor the fixed parameter
    np.testing.assert_allclose(points.get_xdata(), pull)
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.column_stack([pull - post, pull + post]))
    assert [label.get_text() for label in drawn.ax.get_yticklabels()] == list(names)


def test_parameters_read_from_top_to_bottom():
    drawn = pulls(make_pulls(5)[0])
    bottom, top = drawn.ax.get_ylim()
    assert bottom > top
    assert list(drawn.points[0].get_ydata()) == [0, 1, 2, 3, 4]


def test_the_bands_are_one_and_two_sigma_and_everything_is_inside_the_axes():
    fit, *_ = make_pulls(6)
    fit.bestfit[2] = 7.0
    drawn = pulls(fit)
    for band, edge in ((drawn.one_sigma, 1), (drawn.two_sigma, 2)):
        assert sorted(band.get_window_extent().transformed(drawn.ax.transData.inverted()).intervalx) == pytest.approx(
            [-edge, edge]
        )
    low, high = drawn.ax.get_xlim()
    assert low == -high
    assert high > 7.0 + fit.uncertainty[2]


def test_the_figure_grows_with_the_parameters():
    heights = [pulls(make_pulls(n)[0]).ax.figure.get_figheight() for n in (1, 40, 100)]
    assert heights[2] - heights[1] == pytest.approx(heights[1] * 60 / 39 - heights[0] * 60 / 39)


def test_names_never_overlap():
    drawn = pulls(make_pulls(100)[0])
    drawn.ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in drawn.ax.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["staterror_*"], ["nuisance_0", "nuisance_2"]),
        ("staterror_*", ["nuisance_0", "nuisance_2"]),
        (["staterror_CR[1]"], ["nuisance_0", "nuisance_2", "staterror_CR[3]"]),
        (["nuisance_?", "staterror_CR[3]"], ["staterror_CR[1]"]),
        ([], ["nuisance_0", "staterror_CR[1]", "nuisance_2", "staterror_CR[3]"]),
    ],
    ids=["glob", "one-string", "name-with-brackets", "both", "nothing"],
)
def test_exclude_takes_names_and_globs(exclude, left):
    assert sorted(pulls(make_pulls(4)[0], exclude=exclude).names) == sorted(left)


def test_a_fit_without_hesse_is_refused():
    fit, names, *_ = make_pulls(3)
    fit.uncertainty[:] = np.nan
    with pytest.raises(InvalidData, match=rf"no uncertainty for '{names[0]}'.*hesse=True"):
        pulls(fit)


def test_a_fit_with_nothing_to_draw_is_refused():
    with pytest.raises(InvalidData, match="no pulls to draw"):
        pulls(make_fit(["mu"], [1.0], [0.1], [np.nan], [np.nan]))
    with pytest.raises(InvalidData, match="not excluded by"):
        pulls(make_pulls(4)[0], exclude=["*"])


def test_an_invalid_fit_says_so():
    assert pulls(make_pulls(2, valid=False)[0]).ax.get_title(loc="right") == "Fit not valid"
    assert pulls(make_pulls(2)[0]).ax.get_title(loc="right") == ""
