import numpy as np
import pytest
from handmade import make_projection
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from scipy.stats import poisson

from nuratio.errors import InvalidData, UnknownName
from nuratio.plots import stack
from nuratio.plots.stacked import _poisson_errors

SIGNED = {"background": [10.0, 20.0, 30.0], "interference": [2.0, -3.0, -4.0], "lost": [-1.0, -1.0, -1.0]}


def heights(patch):
    """Height of each bin of a StepPatch above its baseline."""
    data = patch.get_data()
    return data.values - (0 if data.baseline is None else data.baseline)


def legend(drawn):
    return [text.get_text() for text in drawn.legend.get_texts()]


@pytest.mark.parametrize("per_unit", [None, "GeV"])
@pytest.mark.parametrize("samples", [None, SIGNED], ids=["positive", "signed"])
def test_every_sample_is_drawn_with_its_own_height_and_they_add_up(samples, per_unit):
    projection = make_projection(samples)
    drawn = stack(projection, per_unit=per_unit)
    width = np.diff(projection.edges) if per_unit else 1.0
    zero = np.zeros(3)
    for name, values in projection.samples.items():
        parts = [heights(group[name]) if name in group else zero for group in (drawn.positive, drawn.negative)]
        np.testing.assert_allclose(sum(parts) * width, values)
        assert (parts[0] >= 0).all()
        assert (parts[1] <= 0).all()
    top = list(drawn.positive.values())[-1].get_data().values
    bottom = list(drawn.negative.values())[-1].get_data().values if drawn.negative else zero
    np.testing.assert_allclose((top + bottom) * width, projection.total)
    np.testing.assert_allclose(drawn.total.get_data().values * width, projection.total)
    assert drawn.ax.get_ylabel() == ("Events / GeV" if per_unit else "Events")


def test_neighbours_in_the_stack_touch():
    drawn = stack(make_projection(SIGNED))
    below = drawn.positive["background"].get_data()
    np.testing.assert_array_equal(drawn.positive["interference"].get_data().baseline, below.values)
    np.testing.assert_array_equal(
        drawn.negative["lost"].get_data().baseline, drawn.negative["interference"].get_data().values
    )
    assert "lost" not in drawn.positive
    assert "background" not in drawn.negative
    assert drawn.ax.get_ylim()[0] < -5  # the lowest point of the negative stack


def test_negative_parts_are_hatched():
    drawn = stack(make_projection(SIGNED))
    assert all(patch.get_hatch() for patch in drawn.negative.values())
    assert not any(patch.get_hatch() for patch in drawn.positive.values())


def test_on_a_log_axis_negative_parts_are_lines_of_the_opposite_sign():
    drawn = stack(make_projection(SIGNED), log=True)
    assert drawn.ax.get_yscale() == "log"
    np.testing.assert_array_equal(drawn.negative["interference"].get_data().values, [np.nan, 3.0, 4.0])
    assert drawn.negative["interference"].get_linestyle() == "--"
    assert legend(drawn) == [
        "Data",
        "\N{MINUS SIGN}1 × lost",
        "interference",
        "\N{MINUS SIGN}1 × interference",
        "background",
        "Total ± 1σ",
    ]
    assert 0 < drawn.ax.get_ylim()[0] < 15


def test_the_band_is_total_plus_minus_uncertainty():
    projection = make_projection(uncertainty=0.1)
    drawn = stack(projection)
    data = drawn.band.get_data()
    np.testing.assert_allclose(data.values, 1.1 * projection.total)
    np.testing.assert_allclose(data.baseline, 0.9 * projection.total)
    np.testing.assert_allclose(drawn.ratio_band.get_data().values, 1.1)
    np.testing.assert_allclose(drawn.ratio_band.get_data().baseline, 0.9)
    without = stack(make_projection(uncertainty=np.nan))
    assert without.band is None
    assert without.ratio_band is None
    assert legend(without)[-1] == "Total"


def test_data_and_ratio_with_their_errors():
    projection = make_projection(data=[9.0, 0.0, 41.0])
    drawn = stack(projection)
    np.testing.assert_array_equal(drawn.data[0].get_xdata(), [0.5, 2.0, 4.5])
    np.testing.assert_array_equal(drawn.data[0].get_ydata(), projection.data)
    np.testing.assert_allclose(drawn.ratio[0].get_ydata(), projection.data / projection.total)
    bars, ratio_bars = (
        np.array([segment[:, 1] for segment in container[2][0].get_segments()])
        for container in (drawn.data, drawn.ratio)
    )
    np.testing.assert_allclose(ratio_bars, bars / projection.total[:, None])
    assert (np.diff(bars) > 0).all()


@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_error_bars_are_garwood_intervals(n):
    # the defining property: the observed count is at the 15.87% tail of each end
    lower, upper = np.array([n]) + np.array([[-1], [1]]) * _poisson_errors(np.array([float(n)]))
    assert poisson.cdf(n, upper[0]) == pytest.approx(0.158655, abs=1e-6)
    assert lower[0] == 0 if n == 0 else poisson.sf(n - 1, lower[0]) == pytest.approx(0.158655, abs=1e-6)


def test_error_bars_of_fractional_counts():
    errors = _poisson_errors(np.array([-1e-3, 0.0, 1e-3, 0.5, 2.5]))
    assert (errors[1] > 0).all()
    assert (errors[0] >= 0).all()
    assert errors[0, 0] == 0


def test_the_ratio_is_left_out_where_the_total_is_not_positive():
    drawn = stack(make_projection({"a": [10.0, 10.0, 10.0], "b": [-12.0, -10.0, 0.0]}, data=[1.0, 1.0, 12.0]))
    np.testing.assert_array_equal(drawn.ratio[0].get_ydata(), [np.nan, np.nan, 1.2])
    assert drawn.ratio_band is not None


def test_ratios_beyond_the_panel_are_triangles_at_its_edge():
    drawn = stack(make_projection(data=[110.0, 22.0, 33.0]))  # 10 times the total in the first bin
    assert drawn.ratio_ax.get_ylim() == (0.0, 2.0)
    np.testing.assert_array_equal(drawn.outside.get_xdata(), [0.5])
    assert 1 < drawn.outside.get_ydata()[0] < 2
    assert len(stack(make_projection()).outside.get_xdata()) == 0


def test_labels_and_colors_go_by_sample():
    drawn = stack(
        make_projection(), labels={"signal": "H → ZZ"}, colors={"background": "#123456"}, feature_label="mass [GeV]"
    )
    assert legend(drawn) == ["Data", "H → ZZ", "background", "Total ± 1σ"]
    assert to_hex(drawn.positive["background"].get_facecolor()) == "#123456"
    assert drawn.ratio_ax.get_xlabel() == "mass [GeV]"
    assert stack(make_projection()).ratio_ax.get_xlabel() == "mass"


def test_a_sample_may_be_called_data():
    drawn = stack(make_projection({"Data": [1.0, 2.0, 3.0], "Total": [1.0, 1.0, 1.0]}))
    assert legend(drawn) == ["Data", "Total", "Data", "Total ± 1σ"]


@pytest.mark.parametrize("argument", ["labels", "colors"])
def test_an_unknown_sample_is_refused_with_the_close_one(argument):
    with pytest.raises(UnknownName, match="did you mean 'signal'"):
        stack(make_projection(), **{argument: {"singal": "red"}})


def test_two_axes_are_needed_and_used():
    _, axes = plt.subplots(2)
    drawn = stack(make_projection(), axes=axes)
    assert (drawn.ax, drawn.ratio_ax) == tuple(axes)
    with pytest.raises(InvalidData, match="two axes"):
        stack(make_projection(), axes=axes[:1])


def test_a_log_axis_needs_a_positive_total():
    with pytest.raises(InvalidData, match="log=False"):
        stack(make_projection({"a": [-1.0, -1.0, -1.0]}, data=[0.0, 0.0, 0.0]), log=True)
    assert not plt.get_fignums()
    stack(make_projection({"a": [-1.0, -1.0, -1.0]}, data=[0.0, 0.0, 0.0]))
