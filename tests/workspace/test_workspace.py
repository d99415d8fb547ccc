import copy
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyhf
import pytest

import analytic
from nuratio.errors import InvalidWorkspace, UnknownName, UnusedWarning
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture
def saved(analytic_workspace, tmp_path):
    analytic_workspace.save(tmp_path / "ws")
    return tmp_path / "ws"


def edit(directory, change):
    file = directory / "workspace.json"
    spec = json.loads(file.read_text())
    change(spec)
    file.write_text(json.dumps(spec))


# --- round trips


@pytest.mark.parametrize("name", ["ws", "ws.zip"])
def test_save_and_load_change_nothing(analytic_workspace, tmp_path, rng, name):
    analytic_workspace.save(tmp_path / name)
    back = Workspace.load(tmp_path / name)
    model, again = analytic_workspace.model(), back.model()
    data = analytic_workspace.data(model)
    np.testing.assert_array_equal(back.data(again), data)
    for _ in range(3):
        theta = analytic.random_point(model, rng)
        assert again.twice_nll(theta, data) == model.twice_nll(theta, data)
    back.save(tmp_path / "twice")
    assert Workspace.load(tmp_path / "twice").spec == back.spec


def test_tables_are_memory_maps(saved):
    workspace = Workspace.load(saved)
    assert is_mapped(workspace.tables["pool"].blocks)
    model = workspace.model()
    assert model.unbinned["SR"].pool is workspace.tables["pool"]
    term = model.likelihood(model.asimov(model.config.suggested_init())).terms["SR"][0]
    assert is_mapped(term.table.blocks)  # also where the fit reads it


def is_mapped(array):
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def test_a_table_may_be_a_plain_array_of_columns(saved, analytic_workspace):
    spec = json.loads((saved / "workspace.json").read_text())
    for entry in spec["unbinned"]["files"]:
        table = analytic_workspace.tables[entry["id"]]
        np.save(saved / entry["uri"], np.ascontiguousarray(table.values))
        del entry["block"]
    (saved / "workspace.json").write_text(json.dumps(spec))
    with pytest.raises(InvalidWorkspace, match="4 problems"):  # the checksums
        Workspace.load(saved)
    plain = Workspace.load(saved, verify=False)
    model, expected = plain.model(), analytic_workspace.model()
    theta = np.array(model.config.suggested_init()) + 0.1
    data = plain.data(model)
    assert model.twice_nll(theta, data) == pytest.approx(expected.twice_nll(theta, data), rel=1e-14)
    plain.save(saved.parent / "blocks")
    assert Workspace.load(saved.parent / "blocks").tables["pool"].size == len(plain.tables["pool"])


def test_popping_the_key_leaves_a_pyhf_workspace(saved):
    spec = json.loads((saved / "workspace.json").read_text())
    del spec["unbinned"]
    workspace = pyhf.Workspace(spec)
    model = workspace.model()
    assert len(workspace.data(model)) == 3 + model.config.nauxdata
    assert Workspace.load(saved).counting == spec


def test_saving_is_all_or_nothing(analytic_workspace, tmp_path):
    target = tmp_path / "ws"
    analytic_workspace.save(target)
    before = (target / "workspace.json").read_bytes()
    with pytest.raises(InvalidWorkspace, match="exists"):
        analytic_workspace.save(target)
    broken = Workspace(analytic_workspace.spec, {})
    with pytest.raises(InvalidWorkspace, match="no table for file"):
        broken.save(target, overwrite=True)
    assert (target / "workspace.json").read_bytes() == before
    analytic_workspace.save(target, overwrite=True)
    assert (target / "workspace.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ws"]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("years of work")
    with pytest.raises(InvalidWorkspace, match="no workspace; nothing was overwritten"):
        analytic_workspace.save(other, overwrite=True)
    assert (other / "chapter.tex").read_text() == "years of work"


# --- what is refused


def test_all_problems_are_listed_together(saved):
    def change(spec):
        channel = spec["unbinned"]["channels"][0]
        channel["samples"][0]["modifiers"][0]["name"] = "tillt"
        channel["samples"][1]["ratio"]["column"] = "signnal"
        channel["events"]["pool"]["weight"]["column"] = "wieght"
        spec["observations"][1]["data"] = [12.0]

    edit(saved, change)
    with pytest.raises(InvalidWorkspace) as error:
        Workspace.load(saved)
    message = str(error.value)
    for expected in (
        "/unbinned/channels/0/samples/0/modifiers/0: nuisance 'tillt' is no parameter of the companion; "
        "did you mean 'tilt'",
        "/unbinned/channels/0/samples/1/ratio: no column 'signnal' in the pool events; did you mean 'signal'",
        "no weight column 'wieght'; did you mean 'weight'",
        "the companion's observation is [12.0]",
        "parameters ['tilt'] differ from the modifiers ['tillt']",
    ):
        assert expected in message


def test_what_has_no_effect_is_a_warning(saved):
    """pyhf ignores it, published workspaces have it; but it may be a typo."""

    def change(spec):
        spec["measurements"][0]["config"]["parameters"] = [{"name": "nrom", "inits": [0.0]}]
        spec["observations"].append({"name": "SR2", "data": [3.0]})
        spec["measurements"][0]["config"]["poi"] = "muu"

    edit(saved, change)
    with pytest.warns(UnusedWarning) as told:
        workspace = Workspace.load(saved)
    assert [str(w.message) for w in told] == [
        "/observations/2: 'SR2' is no channel, its counts are not used; did you mean 'SR'?",
        "/measurements/0/config/poi: 'muu' is no parameter: a background to which a patch adds the signal, or did you "
        "mean 'mu'?",
        "/measurements/0/config/parameters/0: 'nrom' is no parameter of the model, its settings are not used; "
        "did you mean 'norm'?",
    ]
    with pytest.raises(InvalidWorkspace, match=r"pyhf cannot build .* 'muu'"):
        workspace.model()
    background = workspace.model(poi=None)
    assert np.isfinite(background.twice_nll(background.config.suggested_init(), workspace.data(background)))


@pytest.mark.parametrize("name", ["sbottom_multib", "ATLAS-SUSY-2018-16_Sleptons_bkgonly.json"])
@pytest.mark.filterwarnings("ignore::nuratio.errors.UnusedWarning")
def test_published_workspaces_are_read_as_they_are(name):
    path = DATA / "workspaces" / name
    if not path.exists():
        pytest.skip("the shared data are not beside this repository")
    for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
        content = json.loads(file.read_text())
        if isinstance(content, dict):
            workspace = Workspace.from_pyhf(content)
            assert workspace.unbin(workspace.channels[0]).digest() != workspace.digest()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["unbinned", "version"], "2.0.0", "/unbinned/version: '1.0.0' was expected"),
        (
            ["unbinned", "channels", 0, "smaples"],
            [],
            "/unbinned/channels/0/smaples: unknown key; did you mean 'samples'",
        ),
        (
            ["unbinned", "channels", 0, "samples", 0, "modifiers", 0, "interpcode"],
            "code7",
            "/unbinned/channels/0/samples/0/modifiers/0/interpcode: 'code7' is none; did you mean",
        ),
        (["unbinned", "channels", 0, "name"], "SRR", "no companion channel 'SRR'; did you mean 'SR'"),
        (["unbinned", "files", 0, "sha256"], "abc", "/unbinned/files/0/sha256: 'abc' does not match"),
        (["unbinned", "channels", 0, "samples", 0, "normalisation", "mean"], [0.0], "must have 2 rows"),
        (["unbinned", "channels", 0, "samples", 1, "name"], "background", "occurs 2 times"),
        (["channels", 0, "samples", 0, "data"], "many", "/channels/0/samples/0/data: 'many' is not of type 'array'"),
        (["observations", 0, "name"], "CRR", "/channels/0: channel 'CR' has no observation"),
        (["unbinned", "channels", 0, "events", "pool", "file"], "pol", "no file 'pol'; did you mean 'pool'"),
    ],
)
def test_each_defect_is_named(saved, path, value, message):
    edit(saved, analytic.set_at(path, value))
    with pytest.raises(InvalidWorkspace, match=message.replace("[", r"\[")):
        Workspace.load(saved)


@pytest.mark.parametrize("uri", ["../pool.npy", "/etc/passwd", "a/../../pool.npy", "C:/pool.npy", "..\\pool.npy"])
def test_paths_stay_inside_the_workspace(saved, uri):
    (saved.parent / "pool.npy").write_bytes((saved / "pool.npy").read_bytes())
    edit(saved, lambda spec: spec["unbinned"]["files"][1].update(uri=uri))
    with pytest.raises(InvalidWorkspace, match="stay inside the workspace"):
        Workspace.load(saved)


def test_links_stay_inside_the_workspace(saved):
    outside = saved.parent / "outside.npy"
    shutil.move(saved / "pool.npy", outside)
    (saved / "pool.npy").symlink_to(outside)
    with pytest.raises(InvalidWorkspace, match="leads out of the workspace"):
        Workspace.load(saved)


def test_damaged_tables_are_refused(saved):
    file = saved / "pool.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(InvalidWorkspace, match=r"not a readable \.npy table"):
        Workspace.load(saved)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InvalidWorkspace, match="checksum"):
        Workspace.load(saved)
    Workspace.load(saved, verify=False)
    shutil.copy(saved / "observed.npy", file)
    with pytest.raises(InvalidWorkspace, match=r"holds float64\[2, 4, 1024\], declared is float64\[4, 5, 1024\]"):
        Workspace.load(saved)
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidWorkspace, match=r"holds '\|O'\[1\], declared is float64"):
        Workspace.load(saved)
    file.unlink()
    with pytest.raises(InvalidWorkspace, match="no such file in the workspace"):
        Workspace.load(saved)


def test_nan_is_refused(saved):
    table = np.load(saved / "pool.npy")
    table[1, 0, 17] = np.nan
    np.save(saved / "pool.npy", table)
    with pytest.raises(
        InvalidWorkspace, match=r"column 'background' is NaN, infinite or beyond 1e\+100 at 1 events \(first: 1041\)"
    ):
        Workspace.load(saved, verify=False)


def test_what_is_no_workspace_is_refused(tmp_path):
    for content, message in ((None, "no workspace.json"), ("{", "is not JSON"), ("[]", "JSON object, not list")):
        if content is not None:
            (tmp_path / "workspace.json").write_text(content)
        with pytest.raises(InvalidWorkspace, match=message):
            Workspace.load(tmp_path)
    with pytest.raises(InvalidWorkspace, match="no such file or directory"):
        Workspace.load(tmp_path / "nothing")
    (tmp_path / "file").write_text("text")
    with pytest.raises(InvalidWorkspace, match="neither a directory nor a zip"):
        Workspace.load(tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(InvalidWorkspace, match=r"no workspace\.json"):
        Workspace.load(tmp_path / "empty.zip")


def test_quadexp_and_additive_codes_on_one_sample_need_the_pool(analytic_workspace):
    spec = copy.deepcopy(analytic_workspace.spec)
    column = {"column": "signal"}
    spec["unbinned"]["channels"][0]["samples"][0]["modifiers"].append(
        {
            "name": "norm",
            "type": "ratiosys",
            "interpcode": "code0",
            "data": {"hi": column, "lo": column},
            "integral": {"hi": 1.0, "lo": 1.0},
        }
    )
    with pytest.raises(InvalidWorkspace, match="no closed-form normalisation"):
        Workspace(spec, analytic_workspace.tables).validate()
    spec["unbinned"]["channels"][0]["samples"][0]["normalisation"] = {"type": "pool", "parameters": ["tilt"]}
    Workspace(spec, analytic_workspace.tables).validate()


# --- measurements


def test_measurements_and_pois(analytic_workspace):
    assert analytic_workspace.model(poi=None).config.poi_index is None
    assert analytic_workspace.model(poi="xs").config.poi_name == "xs"
    with pytest.raises(UnknownName, match="did you mean 'analytic'"):
        analytic_workspace.model("analitic")
    with pytest.raises(UnknownName, match="no parameter 'nu'"):
        analytic_workspace.model(poi="nu")
    spec = copy.deepcopy(analytic_workspace.spec)
    spec["measurements"][0]["config"]["poi"] = ""
    assert Workspace(spec, analytic_workspace.tables).model().config.poi_name is None


# --- unbin


def test_unbin_is_refused_where_it_makes_no_sense():
    ws = Workspace.from_pyhf(analytic.binned_spec(per_bin=False))
    with pytest.raises(UnknownName, match="no channel 'C'"):
        ws.unbin("C")
    with pytest.raises(InvalidWorkspace, match="unbinned already"):
        ws.unbin("A").unbin("A")
    with pytest.raises(InvalidWorkspace, match="at least one event must stand for each bin, not 0"):
        ws.unbin("A", split=0)


@pytest.mark.parametrize("per_bin", [False, True])
def test_unbin_leaves_the_original_alone(per_bin, tmp_path):
    ws = Workspace.from_pyhf(analytic.binned_spec(per_bin=per_bin))
    before = copy.deepcopy(ws.spec)
    new = ws.unbin("B")
    assert ws.spec == before
    new.save(tmp_path / "new")
    model = Workspace.load(tmp_path / "new").model()
    np.testing.assert_array_equal(new.data(model), ws.data(ws.model()))


# --- the table


def test_columns_are_selected_by_name():
    table = RatioTable.from_columns({"a": [1, 2], "b": [3, 4], "c": [5, 6]})
    np.testing.assert_array_equal(table.select(["c", "a"]).values, [[5, 6], [1, 2]])
    with pytest.raises(UnknownName, match="no column 'd'"):
        table["d"]
    assert table.head(0).values.shape == (3, 0)


def test_columns_must_fit_together():
    for columns, message in (
        ({"a": [1, 2], "b": [1]}, "same shape"),
        ({"a": [1, np.inf]}, r"NaN or infinite for 1 events \(first: event 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            RatioTable.from_columns(columns)


def test_what_pyhf_cannot_build_is_one_clear_error():
    spec = analytic.binned_spec()
    spec["measurements"][0]["config"]["parameters"] = []  # of the lumi
    with pytest.raises(InvalidWorkspace, match=r"pyhf cannot build the model of measurement 'm'.*lumi"):
        Workspace.from_pyhf(spec)
