from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from nuratio.errors import InvalidData
from nuratio.infer.impacts.breakdown import BreakdownResult
from nuratio.infer.impacts.ranking import RankingResult
from nuratio.plots import components, impacts
from nuratio.plots.save import save_plot


def make_ranking(n, *, method="refit", invalid=()):
    """Shifts that fall with the position and alternate in sign; the second parameter is free, as a normfactor."""
    k = np.arange(n)
    size, sign = 0.5 * (n - k) / n, np.where(k % 2, -1.0, 1.0)
    constrained = k != 1
    pre = constrained & (method != "auxdata")
    valid = tuple(j not in invalid for j in range(n))
    return RankingResult(
        poi="mu",
        method=method,
        value=1.1,
        uncertainty=0.6,
        names=tuple(f"ATLAS_JET_EffectiveNP_Modelling_number_{j}" if j % 3 else f"alpha_{j}" for j in k),
        bestfit=np.sin(k),
        sigma=np.full(n, 0.8),
        pull=np.where(constrained, np.sin(k), np.nan),
        constraint=np.where(constrained, 0.8, np.nan),
        up=sign * size,
        down=-0.9 * sign * size,
        prefit_up=np.where(pre, 1.25 * sign * size, np.nan),
        prefit_down=np.where(pre, -1.2 * sign * size, np.nan),
        refits_valid=valid,
        messages=tuple("" if v else "failed" for v in valid),
        valid=all(valid),
        message="",
    )


def widths(bars):
    return [bar.get_width() for bar in bars]


@pytest.mark.parametrize("n", [1, 3, 20, 60])
def test_bars_are_shifts_and_points_are_pulls(n):
    ranking = make_ranking(n)
    drawn = impacts(ranking, top=60)
    assert drawn.names == ranking.names
    np.testing.assert_allclose(widths(drawn.up), ranking.up)
    np.testing.assert_allclose(widths(drawn.down), ranking.down)
    np.testing.assert_allclose(widths(drawn.prefit_up), np.nan_to_num(ranking.prefit_up))
    np.testing.assert_allclose(widths(drawn.prefit_down), np.nan_to_num(ranking.prefit_down))
    assert [label.get_text() for label in drawn.ax.get_yticklabels()] == list(ranking.names)
    points, _, (bars,) = drawn.points
    constrained = np.isfinite(ranking.pull)
    np.testing.assert_allclose(points.get_xdata(), ranking.pull[constrained])
    rows = [bar.get_y() + bar.get_height() / 2 for bar in drawn.up]
    np.testing.assert_allclose(points.get_ydata(), np.array(rows)[constrained])
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    assert np.diff(ends) == pytest.approx(2 * 0.8)


def test_up_and_down_have_a_colour_each_and_only_post_fit_bars_are_filled():
    drawn = impacts(make_ranking(4))
    filled = [bars[0].get_facecolor() for bars in (drawn.up, drawn.down)]
    edges = [bars[0].get_edgecolor() for bars in (drawn.prefit_up, drawn.prefit_down)]
    assert filled[0] != filled[1]
    assert filled == edges
    assert drawn.prefit_up[0].get_facecolor()[3] == drawn.prefit_down[0].get_facecolor()[3] == 0


def test_the_largest_is_at_the_top_and_zero_is_the_same_place_on_both_axes():
    drawn = impacts(make_ranking(5))
    places = [drawn.ax.transData.transform((0, bar.get_y()))[1] for bar in drawn.up]
    assert places == sorted(places, reverse=True)
    for axes in (drawn.ax, drawn.pull_ax):
        low, high = axes.get_xlim()
        assert low == -high
    assert drawn.ax.get_xlim()[1] > 1.25 * 0.5
    assert drawn.pull_ax.get_ylim() == drawn.ax.get_ylim()


def test_nothing_overlaps():
    for n in (3, 20, 60):
        drawn = impacts(make_ranking(n), top=n, label="A label")
        drawn.ax.figure.draw_without_rendering()
        names = [label.get_window_extent() for label in drawn.ax.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(names))
        assert min(box.x0 for box in names) >= 0
        legend = drawn.legend.get_window_extent()
        bars = [bar.get_window_extent() for part in (drawn.prefit_up, drawn.up) for bar in part]
        assert legend.y0 > max(box.y1 for box in bars)
        assert legend.y1 <= drawn.ax.get_window_extent().y1


def test_pages():
    ranking = make_ranking(45)
    pages = [impacts(ranking, page=p) for p in (1, 2, 3)]
    assert [len(p.names) for p in pages] == [20, 20, 5]
    assert sum((p.names for p in pages), ()) == ranking.names
    assert pages[0].ax.figure.get_figheight() > pages[2].ax.figure.get_figheight()
    with pytest.raises(InvalidData, match="no page 4"):
        impacts(ranking, page=4)


def test_components_from_auxiliary_data_have_no_open_bars():
    drawn = impacts(make_ranking(3, method="auxdata"))
    assert drawn.prefit_up is drawn.prefit_down is None
    assert [text.get_text() for text in drawn.legend.get_texts()] == [
        "Auxiliary datum, up",
        "Auxiliary datum, down",
        "Pull",
    ]


def test_what_is_not_valid_is_red_and_has_no_bar():
    ranking = make_ranking(4, invalid=(2,))
    ranking.down[2] = np.nan
    drawn = impacts(ranking)
    assert widths(drawn.down)[2] == 0
    colors = [label.get_color() for label in drawn.ax.get_yticklabels()]
    assert len(set(colors)) == 2
    assert colors[2] != colors[0]
    assert drawn.ax.get_title(loc="left") == "Not valid"
    assert impacts(make_ranking(4)).ax.get_title(loc="left") == ""


def test_axes_have_quantity_and_unit():
    drawn = impacts(make_ranking(2), poi_label="mass [GeV]")
    assert drawn.ax.get_xlabel() == r"$\Delta$mass [GeV]"
    assert drawn.pull_ax.get_xlabel().startswith(r"$(\hat{\theta}")
    only_free = make_ranking(2)._taken([1])
    assert impacts(only_free).points is None


def test_a_ranking_of_nothing_is_refused():
    with pytest.raises(InvalidData, match="no ranking to draw"):
        impacts(make_ranking(2)._taken([]))


def make_breakdown(**changes):
    found = {"statistics": 0.3, "leptons": 0.1, "jets": 0.2, "simulation": 0.05}
    result = BreakdownResult("mu", "freeze", 1.234, 0.37, found, {}, {}, 0.38, 0.045, True, "")
    return replace(result, **changes)


def test_components_are_bars_with_numbers_and_shares():
    drawn = components(make_breakdown(), poi_label="mass [GeV]", label="Dileptons")
    assert drawn.names == ("statistics", "jets", "leptons", "simulation", "remainder", "total")
    assert widths(drawn.bars) == pytest.approx([0.3, 0.2, 0.1, 0.05, 0.045, 0.38])
    assert [t.get_text() for t in drawn.texts][:2] == ["0.3  (62%)", "0.2  (28%)"]
    assert drawn.texts[-1].get_text() == "0.38  (100%)"
    assert drawn.ax.get_xlabel() == "Uncertainty of mass [GeV]"
    assert drawn.ax.get_title(loc="right") == "mass = 1.23 ± 0.38 GeV"
    assert drawn.ax.get_title(loc="left") == "Dileptons"
    bottom, top = drawn.ax.get_ylim()
    assert bottom > top


def test_a_negative_remainder_is_told_and_none_is_not_drawn():
    negative = components(make_breakdown(remainder=-0.1))
    assert widths(negative.bars)[-2] == pytest.approx(0.1)
    assert negative.texts[-2].get_text() == "\N{MINUS SIGN}0.1  (\N{MINUS SIGN}7%)"
    assert negative.bars[-2].get_hatch()
    assert components(make_breakdown(remainder=0.0)).names[-2:] == ("simulation", "total")


def test_numbers_stay_inside_and_names_apart():
    many = {"statistics": 0.3} | {f"a group with a long name {j}": 0.2 / (j + 1) for j in range(15)}
    drawn = components(make_breakdown(components=many))
    drawn.ax.figure.draw_without_rendering()
    frame = drawn.ax.get_window_extent()
    assert all(text.get_window_extent().x1 < frame.x1 for text in drawn.texts)
    boxes = [label.get_window_extent() for label in drawn.ax.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0


def test_a_breakdown_that_is_not_valid_says_so():
    assert components(make_breakdown(valid=False)).ax.get_title(loc="right").endswith("not valid")


def test_both_are_saved(tmp_path):
    save_plot(make_ranking(3), tmp_path / "ranking.pdf")
    save_plot(make_breakdown(), tmp_path / "breakdown.svg")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("ranking.pdf", "breakdown.svg"))
