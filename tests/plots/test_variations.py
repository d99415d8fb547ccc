"""Shape variations and impacts as pictures: what is drawn is what was given."""

from dataclasses import replace

import numpy as np
import pytest

from nuratio.checks.report import CheckReport, Coefficients, Ranking, Sizes, VariedRatio
from nuratio.plots.checks import write_page
from nuratio.plots.systematics import ranking, variations

EDGES = np.array([0.0, 1.0, 2.0, 4.0])


def ratio(point="jes = +1", feature="mass", nuisances=("jes",), product=()):
    up = np.array([0.9, 1.0, 1.2])
    return VariedRatio(
        "sig <a>", point, feature, nuisances, EDGES, up, up + 0.01, np.full(3, 0.02), np.array(product), 4.2, 5
    )


def coefficients(feature="mass"):
    mean = np.array([[-0.1, 0.0, 0.2], [0.01, 0.0, 0.02]])
    return Coefficients("sig <a>", "jes", feature, EDGES, (1, 2), mean, mean - 0.05, mean + 0.05)


def sizes():
    up, nan = np.array([0.3, 0.002]), np.array([0.1, np.nan])
    kept = np.array([True, False])
    return Sizes("sig <a>", ("jes", "x<y"), kept, up, up, up / 10, up, nan, nan, 1 + nan, nan, nan, "jer & more")


def impacts(n=3):
    impact, shapes = np.linspace(0.5, -0.1, n), np.zeros(n)
    shapes[:1] = 0.2
    return Ranking("mu", tuple(f"nuisance {k}" for k in range(n)), np.full(n, 0.5), impact, 2 * impact, shapes)


def test_variations_draw_what_they_are_given():
    given = [ratio(p, f) for p in ("jes = -1", "jes = +1", "jes = +2") for f in ("mass", "pt")]
    figure = variations(given, [coefficients(f) for f in ("mass", "pt")], remark=" (pruned)")
    tops, below = figure.axes[:2], figure.axes[2:]
    assert [ax.get_xlabel() for ax in below] == ["mass", "pt"]
    assert len(tops[0].containers) == 3
    for container, r in zip(tops[0].containers, given[::2], strict=True):
        np.testing.assert_allclose(container.lines[0].get_ydata(), r.simulated)
    learned = [patch for patch in tops[0].patches if patch.get_label().endswith("learned")]
    np.testing.assert_allclose(learned[0].get_data().values, given[0].learned)
    assert len({patch.get_edgecolor() for patch in learned}) == 3
    assert "4 / 5" in tops[0].texts[0].get_text()
    means = [patch for patch in below[0].patches if patch.get_label() in ("$D_{1}$", "$D_{2}$")]
    np.testing.assert_allclose([m.get_data().values for m in means], coefficients().mean)
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "sig <a>: jes (pruned)"
    assert [t.get_text() for t in legend.get_texts()][:2] == ["jes = +1, simulated", "jes = +1, learned"]


def test_all_that_is_drawn_is_within_the_axes():
    given = [ratio("jes = -1"), ratio()]
    ax = variations(given, [coefficients()]).axes[0]
    low, high = ax.get_ylim()
    for r in given:
        assert low < np.min([r.simulated - r.error, r.learned])
        assert high > np.max([r.simulated + r.error, r.learned])


def test_a_point_of_several_nuisances_shows_the_product_too():
    point = "jes = +1, jer = -1"
    figure = variations([ratio(point, nuisances=("jes", "jer"), product=(1.0, 1.1, 1.3))])
    assert len(figure.axes) == 1
    (product,) = (p for p in figure.axes[0].patches if p.get_label() == "without its cross term")
    np.testing.assert_allclose(product.get_data().values, [1.0, 1.1, 1.3])
    assert figure.axes[0].get_ylim()[1] > 1.3


@pytest.mark.parametrize("n", [1, 3, 30])
def test_a_ranking_has_its_largest_impacts_on_top(n):
    given = impacts(n)
    ax = ranking(given)
    drawn = min(n, 20)
    outlined, filled = ax.containers
    np.testing.assert_allclose([bar.get_width() for bar in outlined], given.prefit[:drawn])
    np.testing.assert_allclose([bar.get_width() for bar in filled], given.impact[:drawn])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.2])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(given.nuisances[:drawn])
    assert ax.yaxis_inverted()
    assert ("20 of 30" in ax.get_title(loc="right")) == (n == 30)
    assert "mu" in ax.get_xlabel()


def test_the_page_has_a_figure_per_nuisance_and_the_table(tmp_path):
    corner = replace(ratio("jes = +1, jer = +1", nuisances=("jes", "jer")), product=np.ones(3))
    curves = (sizes(), ratio("jes = -1"), ratio(), coefficients(), corner)
    page = tmp_path / "page.html"
    write_page({"SR": CheckReport((), curves), "likelihood": CheckReport((), (impacts(), impacts(0)))}, page)
    text = page.read_text()
    assert text.count("<img") == 3
    assert "sig &lt;a&gt;: shapes of the nuisances" in text
    row = text.split("<td>x&lt;y</td>")[1].split("</tr>")[0]
    assert row.endswith("<td>pruned</td>")
    assert "0.20%" in row
    assert "nan" not in text
    assert "30.00% &plusmn; 3.00%" in text
    assert "+10.00%" in text
    assert "jer &amp; more" in text


def test_notes_are_in_the_text_of_a_report():
    assert str(CheckReport((), (sizes(),))).endswith("sig <a>: jer & more")
