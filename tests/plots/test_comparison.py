import numpy as np
import pytest

from nuratio.errors import InvalidData
from nuratio.infer.binned.compare import ComparedAnalysis, CompareResult
from nuratio.plots import comparison, save_plot


def made(invalid=(), poi="mu"):
    def analysis(name, bins, uncertainty):
        nothing = np.empty(0)
        valid = (name, bins) not in invalid
        return ComparedAnalysis(name, bins, {}, uncertainty, np.nan, np.nan, nothing, nothing, valid, "")

    values = [("counting", 1, 1.2), ("quantile", 2, 0.6), ("quantile", 10, 0.45), ("optimised", 2, 0.5)]
    values += [("optimised", 10, 0.42), ("unbinned", 0, 0.4)]
    analyses = tuple(analysis(*v) for v in values)
    return CompareResult(poi, {poi: 1.0}, "score", "total", False, 1, analyses, {}, not invalid, "")


def test_the_points_are_the_uncertainties_and_the_line_the_unbinned_one():
    drawn = comparison(made())
    assert drawn.series["quantile"].get_xydata().tolist() == [[1, 1.2], [2, 0.6], [10, 0.45]]
    assert drawn.series["optimised"].get_xydata().tolist() == [[1, 1.2], [2, 0.5], [10, 0.42]]
    assert set(drawn.unbinned.get_ydata()) == {0.4}
    assert drawn.invalid is None
    assert [t.get_text() for t in drawn.legend.get_texts()] == [
        "Bins of equal probability",
        "Optimised bins",
        "Unbinned",
    ]
    assert drawn.ax.get_ylabel() == "Expected uncertainty of mu"
    assert [t.get_text() for t in drawn.ax.get_xticklabels()] == ["1", "2", "10"]
    assert drawn.ax.get_ylim()[0] == 0
    assert drawn.ax.get_xlim()[0] < 1 < 10 < drawn.ax.get_xlim()[1]


def test_units_and_logarithms():
    drawn = comparison(made(), parameter_label="mass [GeV]", log=True)
    assert drawn.ax.get_ylabel() == "Expected uncertainty of mass [GeV]"
    assert drawn.ax.get_yscale() == "log"


def test_analyses_that_are_not_valid_are_marked():
    drawn = comparison(made(invalid={("quantile", 2)}))
    assert drawn.invalid.get_xydata().tolist() == [[2, 0.6]]
    assert drawn.legend.get_texts()[-1].get_text() == "Not valid"


def test_it_is_drawn_into_files(tmp_path):
    save_plot(made(), tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 0
    result = made()
    nothing = CompareResult(**{**vars(result), "analyses": result.analyses[-1:]})
    with pytest.raises(InvalidData, match="nothing to draw"):
        comparison(nothing)
