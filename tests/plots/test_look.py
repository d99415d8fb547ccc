import io
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from handmade import make_limit, make_projection, make_pulls, make_scan

from nuratio.errors import InvalidData, MissingExtra
from nuratio.infer.results import SignificanceResult
from nuratio.plots import cls_scan, profile, pulls, save_plot, stack
from nuratio.plots.look import number, quote

RESULTS = {"limit": make_limit, "scan": make_scan, "fit": lambda: make_pulls(3)[0], "projection": make_projection}
DRAWINGS = {
    "limit": lambda **kw: cls_scan(make_limit(), **kw),
    "scan": lambda **kw: profile(make_scan(), **kw),
    "fit": lambda **kw: pulls(make_pulls(3)[0], **kw),
    "projection": lambda **kw: stack(make_projection(), **kw),
}
LONG = "A name so long that no legend in type of a normal size can hold all of it"


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_keeps_its_style_whatever_rcparams_say_when_it_is_saved(name):
    figure = DRAWINGS[name]().ax.figure
    plain = png(figure)
    other = {
        "font.size": 30,
        "font.family": "serif",
        "font.sans-serif": "DejaVu Serif",
        "mathtext.fontset": "cm",
        "mathtext.it": "serif",
        "xtick.direction": "out",
        "xtick.major.size": 20,
    }
    with mpl.rc_context(other):
        assert png(figure) == plain


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_tick_has_the_style(name):
    figure = DRAWINGS[name]().ax.figure
    figure.draw_without_rendering()
    for ax in figure.axes:
        ticks = ax.xaxis.get_major_ticks() + ax.yaxis.get_major_ticks()
        assert {tick.tick1line.get_markersize() for tick in ticks} == {9.0}
        assert {tick.label1.get_fontname() for tick in ticks} == {"TeX Gyre Heros"}


@pytest.mark.parametrize("name", DRAWINGS)
def test_given_axes_keep_their_own_style(name):
    figure, axes = plt.subplots(2)
    drawn = DRAWINGS[name](**({"axes": axes} if name == "projection" else {"ax": axes[0]}))
    assert drawn.ax is axes[0]
    assert plt.get_fignums() == [figure.number]
    assert drawn.ax.yaxis.label.get_fontsize() == mpl.rcParams["font.size"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: (cls_scan(make_limit()), 1.0),
        lambda: (cls_scan(make_limit(invalid=(2,)), poi_label=LONG, label=LONG, log=True), 1.0),
        lambda: (profile(make_scan(), label=LONG), 9.0),
        lambda: (stack(make_projection()), 33.0),
        lambda: (stack(make_projection(data=[90.0, 1.0, 1.0])), 100.0),
        lambda: (stack(make_projection(), labels={"signal": LONG}, log=True), 33.0),
        lambda: (stack(make_projection({f"sample {j}": [1.0, 2.0, 3.0] for j in range(15)})), 45.0),
    ],
    ids=["limit", "limit-long-log", "scan-long", "stack", "stack-high-data", "stack-long-log", "stack-many"],
)
def test_the_legend_covers_no_data_and_fits_into_the_axes(draw):
    drawn, top = draw()
    drawn.ax.figure.draw_without_rendering()
    legend, frame = drawn.legend.get_window_extent(), drawn.ax.get_window_extent()
    assert legend.y0 >= drawn.ax.transData.transform((0, top))[1]
    assert legend.x0 >= frame.x0 - 1
    assert legend.y1 <= frame.y1 + 1
    assert frame.width > 0.75 * drawn.ax.figure.bbox.width


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".png") for name in RESULTS), ("limit", ".pdf"), ("projection", ".svg")]
)
def test_every_kind_of_result_is_saved_and_its_figure_closed(name, suffix, tmp_path):
    path = tmp_path / f"picture{suffix}"
    save_plot(RESULTS[name](), path)
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"%PDF-", b"<?xml")
    assert not plt.get_fignums()


def test_pictures_on_a_log_axis_differ(tmp_path):
    for log in (False, True):
        save_plot(make_limit(), tmp_path / f"{log}.png", log=log)
    assert (tmp_path / "True.png").read_bytes() != (tmp_path / "False.png").read_bytes()


@pytest.mark.parametrize(
    ("result", "path", "message"),
    [
        (make_scan(), "picture.docx", "no picture format '.docx'"),
        (make_scan(), "picture", "no picture format ''"),
        (make_scan(), "nowhere/picture.png", "no folder"),
        (
            SignificanceResult("mu", 0.1, 1.0, 0.1, 1.0, 1.0, True, ""),
            "picture.png",
            "SignificanceResult has no drawing",
        ),
    ],
    ids=["format", "no-suffix", "folder", "kind"],
)
def test_what_cannot_be_saved_says_why(result, path, message, tmp_path):
    with pytest.raises(InvalidData, match=message):
        save_plot(result, tmp_path / path)
    assert not plt.get_fignums()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["matplotlib", "mplhep"])
def test_a_missing_package_names_the_extra(package, monkeypatch):
    for module in [m for m in sys.modules if m.startswith("nuratio.plots")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"pip install 'nuratio\[plots\]'"):
        __import__("nuratio.plots")


def test_nuratio_itself_does_not_load_matplotlib():
    code = (
        "import nuratio, sys; assert 'matplotlib' not in sys.modules; nuratio.plots; assert 'matplotlib' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.23456, "1.23"),
        (-0.5, "\N{MINUS SIGN}0.5"),
        (12345.6, "12300"),
        (1.234e-7, r"$1.23 \times 10^{-7}$"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("label", "text"), [("mu", "mu < 2"), ("mass [GeV]", "mass < 2 GeV"), ("st [0] x", "st [0] x < 2")]
)
def test_quotes_put_the_unit_last(label, text):
    assert quote(label, "< 2") == text
