"""Event tables in other formats hold the same numbers, bit by bit."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

import analytic
from nuratio.errors import InvalidWorkspace
from nuratio.interop import tables, to_parquet, to_root
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

AWKWARD = ["ttbar[+]", "ttbar[-]", "ttbar___", "a/b/hi", "1st", "ok", "m²", "$"]


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def workspace(request, rng):
    """Tables with names ROOT does not know, of several blocks, of one array, and of no events."""
    content = {
        "SR.pool": RatioTable.from_columns({n: rng.normal(size=5000) for n in AWKWARD}, request.param),
        "SR pool": RatioTable(("x", "y"), rng.normal(size=(2, 3000)).astype(request.param)),
        "none": RatioTable.from_columns({"x": []}, request.param),
    }
    spec = analytic.counting(55)
    files = [file_entry(name, table) for name, table in content.items()]
    return Workspace(spec | {"unbinned": {"version": "1.0.0", "files": files, "channels": []}}, content)


@pytest.fixture(params=[1 << 25, 100_000], ids=["at once", "in parts"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(tables, "_CHUNK", request.param)


def assert_same(values, column):
    assert values.dtype == column.dtype
    assert values.tobytes() == np.ascontiguousarray(column).tobytes()


@pytest.mark.usefixtures("chunk")
def test_root(workspace, tmp_path):
    said = to_root(workspace, tmp_path / "events.root")
    with uproot.open(tmp_path / "events.root") as file:
        described = json.loads(str(file["nuratio"]))
        assert described == said
        assert {e["id"] for e in described.values()} == set(workspace.tables)
        for tree, entry in described.items():
            table = workspace.tables[entry["id"]]
            assert list(entry["columns"].values()) == list(table.names)
            assert file[tree].num_entries == entry["events"] == len(table)
            for branch, column in entry["columns"].items():
                assert branch.isidentifier()
                assert branch.isascii()
                assert_same(file[tree][branch].array(library="np"), table[column])
    columns = next(e["columns"] for e in described.values() if e["id"] == "SR.pool")
    assert columns["ttbar___"] == "ttbar___"
    assert columns["ttbar____2"] == "ttbar[+]"
    assert columns["_1st"] == "1st"


@pytest.mark.usefixtures("chunk")
def test_parquet(workspace, tmp_path):
    described = to_parquet(workspace, tmp_path / "events")
    assert {p.name for p in (tmp_path / "events").iterdir()} == set(described)
    for name, entry in described.items():
        file = pq.read_table(tmp_path / "events" / name)
        table = workspace.tables[entry["id"]]
        assert json.loads(file.schema.metadata[b"nuratio"]) == entry
        assert tuple(file.column_names) == table.names
        for column in table.names:
            assert_same(file[column].to_numpy(), table[column])


def test_parts_are_row_groups_and_baskets(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_CHUNK", 100_000)
    to_parquet(workspace, tmp_path / "events")
    assert pq.ParquetFile(tmp_path / "events" / "SR_pool.parquet").num_row_groups > 1
    to_root(workspace, tmp_path / "events.root")
    with uproot.open(tmp_path / "events.root") as file:
        assert file["SR_pool"]["ok"].num_baskets > 1


def test_checksums_of_a_saved_workspace(analytic_workspace, tmp_path):
    analytic_workspace.save(tmp_path / "ws")
    loaded = Workspace.load(tmp_path / "ws")
    expected = {f["id"]: f["sha256"] for f in loaded.spec["unbinned"]["files"]}
    said = to_root(loaded, tmp_path / "events.root")
    assert {e["id"]: e["sha256"] for e in said.values()} == expected
    assert not any("sha256" in e for e in to_root(analytic_workspace, tmp_path / "unsaved.root").values())


@pytest.mark.parametrize("write", [to_root, to_parquet])
def test_nothing_is_overwritten_by_accident(write, analytic_workspace, tmp_path):
    path = tmp_path / "deep" / "events"
    write(analytic_workspace, path)
    with pytest.raises(InvalidWorkspace, match="exists"):
        write(analytic_workspace, path)
    write(analytic_workspace, path, overwrite=True)
    assert [p.name for p in path.parent.iterdir()] == ["events"]
    with pytest.raises(InvalidWorkspace, match="no event tables"):
        write(Workspace(analytic.counting(5)), tmp_path / "other")


def test_a_directory_of_other_things_is_left_alone(analytic_workspace, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("x")
    with pytest.raises(InvalidWorkspace, match="no directory of Parquet files"):
        to_parquet(analytic_workspace, tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes" / "thesis.tex").exists()


@pytest.mark.parametrize("write", [to_root, to_parquet])
def test_a_failure_leaves_nothing(write, analytic_workspace, tmp_path, monkeypatch):
    write(analytic_workspace, tmp_path / "events")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    def fail(table):
        yield from ()
        raise OSError("no space left")

    monkeypatch.setattr(tables, "_chunks", fail)
    with pytest.raises(OSError, match="no space"):
        write(analytic_workspace, tmp_path / "events", overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
