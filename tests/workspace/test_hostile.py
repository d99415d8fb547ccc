"""Hostile and unlucky input: one clear error that says where and what to do. Nothing run, lost or huge."""

import copy
import json
import os
import shutil
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

import analytic
from command_line import run
from nuratio.errors import InvalidData, InvalidModel, InvalidWorkspace, NuratioWarning
from nuratio.ratios.table import RatioTable
from nuratio.workspace import tables
from nuratio.workspace.cache import load_or_train
from nuratio.workspace.strict_json import parse_json, pointer
from nuratio.workspace.tables import file_entry
from nuratio.workspace.validate import schema
from nuratio.workspace.workspace import Workspace

SECRET = "years of work"


@pytest.fixture(scope="session")
def original(analytic_workspace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "ws"
    analytic_workspace.save(folder)
    return folder


@pytest.fixture
def saved(original, tmp_path):
    """A saved workspace; whatever a test does, the file beside it stays as it is."""
    shutil.copytree(original, tmp_path / "ws")
    (tmp_path / "thesis.tex").write_text(SECRET)
    yield tmp_path / "ws"
    assert (tmp_path / "thesis.tex").read_text() == SECRET


def edit(directory, change):
    file = directory / "workspace.json"
    spec = json.loads(file.read_text())
    change(spec)
    file.write_text(json.dumps(spec))


def entry(directory, name="pool"):
    files = json.loads((directory / "workspace.json").read_text())["unbinned"]["files"]
    return next(f for f in files if f["id"] == name)


def problems(path, **options):
    """The lines of the one error that loading gives; each starts with a JSON pointer."""
    with pytest.raises(InvalidWorkspace) as caught:
        Workspace.load(path, **options)
    head, *lines = str(caught.value).splitlines()
    assert head.endswith("in the workspace:")
    lines = [line.strip() for line in lines]
    assert all(line.startswith("/") and ": " in line for line in lines)
    return lines


def refusal(path):
    """What loading says, where it does not get as far as a list of problems."""
    with pytest.raises(InvalidWorkspace) as caught:
        Workspace.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def peak_memory(call):
    """The most that was allocated at a time, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- where tables lie

ESCAPES = [
    "../pool.npy",
    "/etc/passwd",
    "a/../../pool.npy",
    "C:/pool.npy",
    "C:\\pool.npy",
    "..\\pool.npy",
    "./pool.npy",
]
ESCAPES += ["a//pool.npy", "pool.npy/", "pool.npy.", "pool.npy ", "pool.npy:stream", "a?.npy", ".", "..", "a/./b"]


@pytest.mark.parametrize("uri", ESCAPES)
def test_a_path_leads_nowhere_else_on_any_system(saved, uri):
    (saved.parent / "pool.npy").write_bytes((saved / "pool.npy").read_bytes())
    edit(saved, lambda spec: spec["unbinned"]["files"][1].update(uri=uri))
    assert f"/unbinned/files/1/uri: {uri!r} must be relative and stay inside the workspace" in problems(saved)[-1]


@pytest.mark.parametrize("uri", [*ESCAPES, "workspace.json", "observed.npy/pool.npy"])
def test_nothing_is_written_elsewhere(analytic_workspace, tmp_path, uri):
    spec = copy.deepcopy(analytic_workspace.spec)
    spec["unbinned"]["files"][1]["uri"] = uri
    with pytest.raises(InvalidWorkspace, match="/unbinned/files/1/uri"):
        Workspace(spec, analytic_workspace.tables).save(tmp_path / "in" / "ws")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("workspace.json", "the workspace's own file"),
        ("Workspace.JSON", "the workspace's own file"),
        ("workspace.json/pool.npy", "the workspace's own file"),
        ("OBSERVED.npy", "that of file 'observed'"),
        ("observed.npy", "that of file 'observed'"),
        ("observed.npy/pool.npy", "that of file 'observed'"),
    ],
)
def test_paths_do_not_collide_whatever_the_case_of_letters(saved, uri, what):
    edit(saved, lambda spec: spec["unbinned"]["files"][1].update(uri=uri))
    assert f"/unbinned/files/1/uri: {uri!r} collides with {what}; give each table a path of its own" in problems(saved)


def test_files_of_similar_names_are_two_files():
    table = RatioTable.from_columns({"x": [1.0]})
    names = ["a b", "a_b", "a/b", "../a", "pool", "x" * 200, "x" * 201]
    uris = [file_entry(name, table)["uri"] for name in names]
    assert len(set(uris)) == len(names)
    assert uris[4] == "pool.npy"
    assert all("/" not in uri and len(uri) < 150 for uri in uris)


def test_a_table_of_any_name_is_saved_under_it(analytic_workspace, tmp_path):
    spec = copy.deepcopy(analytic_workspace.spec)
    spec["unbinned"]["files"][1]["uri"] = "tables/pool.dat"
    Workspace(spec, analytic_workspace.tables).save(tmp_path / "ws")
    assert (tmp_path / "ws" / "tables" / "pool.dat").is_file()
    Workspace.load(tmp_path / "ws")


def test_links_do_not_lead_out(saved):
    outside = saved.parent / "elsewhere"
    outside.mkdir()
    for name in ("pool.npy", "workspace.json"):
        (saved / name).rename(outside / name)
        (saved / name).symlink_to(outside / name)
        with pytest.raises(InvalidWorkspace, match="leads out of the workspace; put the file itself there"):
            Workspace.load(saved)
        (saved / name).unlink()
        (outside / name).rename(saved / name)
    (saved / "tables").symlink_to(outside, target_is_directory=True)
    (saved / "pool.npy").rename(outside / "pool.npy")
    edit(saved, lambda spec: spec["unbinned"]["files"][1].update(uri="tables/pool.npy"))
    assert "leads out of the workspace" in problems(saved)[0]


def test_a_link_to_a_workspace_is_that_workspace(saved, analytic_workspace):
    link = saved.parent / "latest"
    link.symlink_to(saved, target_is_directory=True)
    assert Workspace.load(link).spec == Workspace.load(saved).spec
    Workspace.load(link).save(link, overwrite=True)
    assert link.is_symlink()
    assert Workspace.load(saved).digest() == analytic_workspace.digest()


def test_pipes_and_directories_are_no_files(saved):
    (saved / "pool.npy").unlink()
    os.mkfifo(saved / "pool.npy")  # to open it would wait for ever
    assert "it is a directory, device or pipe, not a file" in problems(saved)[0]
    (saved / "pool.npy").unlink()
    (saved / "pool.npy").mkdir()
    assert "it is a directory, device or pipe, not a file" in problems(saved)[0]
    os.mkfifo(saved.parent / "pipe")
    assert "neither a directory nor a zip, but a device or pipe" in refusal(saved.parent / "pipe")
    assert "no workspace at" in refusal(saved.parent / ("x" * 5000))
    assert "no workspace at" in refusal(saved.parent / "a\0b")


# --- what is in a table


def header(text, version=b"\x01\x00", length=None):
    text = text.encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    width = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(text) if length is None else length) + text


GOOD = "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 5, 1024), }"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            header(GOOD.replace("4, 5", "4000000000000, 5")),
            "holds float64[4000000000000, 5, 1024], declared is float64",
        ),
        (header(GOOD.replace("<f8", "|O")), "holds '|O'[4, 5, 1024], declared is"),
        (header(GOOD.replace("'<f8'", "[('a', '<f8'), ('b', '|O')]")), "holds objects or records"),
        (header(GOOD.replace("<f8", ">f8")), "holds '>f8'[4, 5, 1024]"),
        (header(GOOD.replace("<f8", "<f4")), "holds float32[4, 5, 1024]"),
        (header(GOOD.replace("False", "True")), "in Fortran order, declared is"),
        (header(GOOD.replace("(4, 5, 1024)", "(-4, 5, 1024)")), "holds float64[-4, 5, 1024]"),
        (header(GOOD.replace("(4, 5, 1024)", "20480")), "holds float6420480"),
        (header("__import__('os').system('touch run')"), "its header is damaged"),
        (header("{'descr': open('run', 'w'), 'fortran_order': False, 'shape': (4, 5, 1024)}"), "its header is damaged"),
        (header("{'descr': '<f8'}"), "its header is damaged"),
        (header("-" * 900 + "1"), "its header is damaged"),
        (header("(" * 900), "its header is damaged"),
        (header("9" * 900), "its header is damaged"),
        (header("[]"), "its header is damaged"),
        (header("\0"), "its header is damaged"),
        (header(GOOD + " " * 5000), "its header is cut off, or too long"),
        (header(GOOD, b"\x02\x00", 4_000_000_000), "its header is cut off, or too long"),
        (header(GOOD)[:50], "its header is cut off, or too long"),
        (header(GOOD, b"\x09\x00"), "it does not begin as one"),
        (b"", "it does not begin as one"),
        (b"\x80\x04\x95", "it does not begin as one"),  # a pickle
        (b"PK\x03\x04", "it does not begin as one"),  # an .npz
        (header(GOOD), "has 128 bytes, but float64[4, 5, 1024] takes 163968: it was cut off, or something was added"),
    ],
)
@pytest.mark.parametrize("name", ["ws", "ws.zip"])
def test_a_table_is_what_is_declared_or_not_read(saved, tmp_path, monkeypatch, content, message, name):
    monkeypatch.chdir(tmp_path)
    (saved / "pool.npy").write_bytes(content)
    if name == "ws.zip":
        pack(saved, tmp_path / name)
    (line,) = problems(tmp_path / name, verify=False)
    assert line.startswith("/unbinned/files/1: file 'pool' (pool.npy): ")
    assert message in line
    assert not (tmp_path / "run").exists()


def pack(directory, target, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in sorted(directory.rglob("*")):
            archive.write(file, file.relative_to(directory))


@pytest.mark.parametrize("name", ["ws", "ws.zip"])
def test_nothing_is_allocated_for_what_is_only_declared(saved, tmp_path, name):
    huge = 10**15
    shape = f"({huge // 1024}, 5, 1024)"
    (saved / "pool.npy").write_bytes(header(GOOD.replace("(4, 5, 1024)", shape)))
    edit(saved, lambda spec: spec["unbinned"]["files"][1].update(events=huge // 1024 * 1024))
    pack(saved, tmp_path / "ws.zip")
    assert peak_memory(lambda: problems(tmp_path / name, verify=False)) < 10e6
    assert f"float64[{huge // 1024}, 5, 1024] takes" in problems(tmp_path / name, verify=False)[0]


@pytest.mark.parametrize("change", [{"events": 10**18}, {"block": 10**18}, {"events": 0}, {"columns": ["a"]}])
def test_declared_sizes_are_compared(saved, change):
    edit(saved, lambda spec: spec["unbinned"]["files"][1].update(change))
    assert "holds float64[4, 5, 1024], declared is float64" in problems(saved)[0]


def test_without_columns_there_are_no_events(saved):
    (saved / "pool.npy").write_bytes(header(GOOD.replace("(4, 5, 1024)", f"({10**18}, 0, 1)")))
    edit(saved, lambda spec: spec["unbinned"]["files"][1].update(events=10**18, block=1, columns=[]))
    assert any("it declares no columns" in line for line in problems(saved))


def test_something_appended_and_something_exchanged(saved):
    content = (saved / "pool.npy").read_bytes()
    (saved / "pool.npy").write_bytes(content + b"\0")
    assert "takes 163968: it was cut off, or something was added" in problems(saved)[0]
    (saved / "pool.npy").write_bytes(content)
    values = np.load(saved / "pool.npy")
    np.save(saved / "pool.npy", values[::-1])
    assert "/unbinned/files/1: file 'pool' (pool.npy): checksum" in problems(saved)[0]
    assert "the file was changed or exchanged: copy it again" in problems(saved)[0]


def test_every_damaged_table_is_reported(saved):
    for file in saved.glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-8])
    assert [line[: len("/unbinned/files/0")] for line in problems(saved)] == [f"/unbinned/files/{i}" for i in range(4)]


# --- zips


def test_zips_that_are_no_zip_of_a_workspace(saved, tmp_path):
    target = tmp_path / "ws.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for file in saved.iterdir():
            archive.write(file, f"ws/{file.name}")
    assert "'ws/workspace.json' is there: zip what is in the directory, not the directory" in refusal(target)
    pack(saved, target)
    with zipfile.ZipFile(target, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("workspace.json", "{}")
    assert "two files 'workspace.json'" in refusal(target)
    for name in ("../evil", "/evil", "a/../../evil"):
        pack(saved, target)
        with zipfile.ZipFile(target, "a") as archive:
            archive.writestr(name, "gotcha")
        assert f"a file {name!r} outside of itself" in refusal(target)
    pack(saved, target, zipfile.ZIP_LZMA)
    assert "write the zip with 'store' or 'deflate'" in refusal(target)
    target.write_bytes(target.read_bytes()[:-30])
    assert "neither a directory nor a zip" in refusal(target)
    pack(saved, target, zipfile.ZIP_DEFLATED)
    assert Workspace.load(target).digest() == Workspace.load(saved).digest()


def patched(path, name, *, offset, value, size):
    """Overwrite a field of the central directory's entry of a member."""
    content = bytearray(path.read_bytes())
    at = content.rindex(name.encode()) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    content[at + offset : at + offset + size] = value.to_bytes(size, "little")
    path.write_bytes(content)


def test_an_encrypted_zip(saved, tmp_path):
    pack(saved, tmp_path / "ws.zip")
    patched(tmp_path / "ws.zip", "workspace.json", offset=8, value=1, size=2)
    assert "it is encrypted; write the zip without a password" in refusal(tmp_path / "ws.zip")


def test_zip_bombs_do_not_go_off(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_LARGE", 1 << 20)
    target, megabyte = tmp_path / "ws.zip", 1 << 20
    zeros = bytes(20 * megabyte)
    (saved / "pool.npy").write_bytes(header(GOOD) + zeros)
    pack(saved, target, zipfile.ZIP_DEFLATED)
    patched(target, "pool.npy", offset=24, value=128 + 8 * 4 * 5 * 1024, size=4)  # declares what the table takes
    assert peak_memory(lambda: problems(target)) < 4 * megabyte
    blocks = len(zeros) // (5 * 1024 * 8)
    edit(saved, lambda spec: spec["unbinned"]["files"][1].update(events=blocks * 1024))
    (saved / "pool.npy").write_bytes(header(GOOD.replace("(4,", f"({blocks},")) + zeros)
    pack(saved, target, zipfile.ZIP_DEFLATED)
    assert peak_memory(lambda: problems(target)) < 4 * megabyte
    assert "to one, as in a zip bomb; unpack it yourself if you trust it" in problems(target)[0]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("workspace.json", b" " * (20 * megabyte))
    assert peak_memory(lambda: refusal(target)) < 4 * megabyte
    assert "zip bomb" in refusal(target)


def test_a_huge_description_is_not_read(saved, monkeypatch):
    monkeypatch.setattr(tables, "_LARGEST_JSON", 1000)
    assert "the limit is 1000; events belong into tables" in refusal(saved)


# --- JSON


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{\x00}\x00", "is not JSON: 'utf-8' codec"),
        (b"\x80abc", "is not JSON: 'utf-8' codec"),
        (b'{"a": 1, "b": {"c": [1, {"d": 2, "d": 3}], "c/~": 4, "c/~": 5}, "a": 2}', "/a, /b/c~1~0"),
        (b'{"a": [{"b": 1, "b": 2}]}', "keys more than once in one object: /a/0/b; keep one of each"),
        (b"[" * 100_000, "nested deeper than 50 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON: Exceeds the limit"),
        (b'{"a": 0x10}', "is not JSON"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1,}', "is not JSON"),
    ],
)
def test_json_is_read_strictly(saved, content, message):
    (saved / "workspace.json").write_bytes(content)
    assert message in refusal(saved)


@pytest.mark.parametrize("content", [b"[]", b"null", b"1", b'"workspace"', b"true"])
def test_a_workspace_is_an_object(saved, content):
    (saved / "workspace.json").write_bytes(content)
    assert "/: a workspace is a JSON object, not" in problems(saved)[0]


def test_a_byte_order_mark_is_no_problem(saved):
    content = (saved / "workspace.json").read_bytes()
    (saved / "workspace.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert Workspace.load(saved).spec == json.loads(content)


def deep(levels):
    nested = []
    for _ in range(levels):
        nested = [nested]
    return nested


SIGNAL = ["channels", 1, "samples", 1]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ([*SIGNAL, "data"], [float("nan")], "/channels/1/samples/1/data/0: nan is not a finite number below 1e+100"),
        ([*SIGNAL, "data"], [float("inf")], "/channels/1/samples/1/data/0: inf is not a finite number below 1e+100"),
        ([*SIGNAL, "data"], [1e308], "/channels/1/samples/1/data/0: 1e+308 is not a finite number below 1e+100"),
        ([*SIGNAL, "data"], [10**30], "/channels/1/samples/1/data/0: an integer of more than 63 bits; write it with"),
        ([*SIGNAL, "data"], deep(100), "/channels/1/samples/1/data: nested deeper than 50 levels"),
        ([*SIGNAL, "data"], {}, "/channels/1/samples/1/data: {} is not of type 'array'"),
        ([*SIGNAL, "data"], [1.0, 2.0], "/channels/1/samples/1/data: 2 numbers, but channel 'SR' has 1 bins"),
        ([*SIGNAL, "name"], "sig\x1b[2Jnal", "has the unprintable character '\\x1b'; remove it"),
        ([*SIGNAL, "name"], "sig\nnal", "has the unprintable character '\\n'; remove it"),
        ([*SIGNAL, "name"], "sig\u202enal", "has the unprintable character '\\u202e'; remove it"),
        ([*SIGNAL, "name"], "sig\ud800", "has the unprintable character '\\ud800'; remove it"),
        ([*SIGNAL, "name"], "x" * 10**6, "/channels/1/samples/1/name: a text of 1000000 characters, more than 1000"),
        ([*SIGNAL, "name"], ["x"], "/channels/1/samples/1/name: ['x'] is not of type 'string'"),
        ([*SIGNAL, "name"], {"x": 1}, "/channels/1/samples/1/name: {'x': 1} is not of type 'string'"),
        ([*SIGNAL, "name"], "background", "/channels/1/samples: 'background' occurs 2 times"),
        ([*SIGNAL, "modifiers"], None, "/channels/1/samples/1/modifiers: None is not of type 'array'"),
        ([*SIGNAL, "modifiers", 0, "type"], "normfacto", "0/type: 'normfacto' is none; did you mean 'normfactor'"),
        ([*SIGNAL, "modifiers", 0, "dat"], 1, "/1/samples/1/modifiers/0/dat: unknown key; did you mean 'data'"),
        ([*SIGNAL, "modifiers", 1, "data", "hi"], "1", "modifiers/1/data/hi: '1' is not of type 'number'"),
        (["channels", 0, "samples", 0, "modifiers", 1, "data"], [1.0], "1 numbers, but channel 'CR' has 2 bins"),
        (["channels", 1, "name"], "CR", "/channels: 'CR' occurs 2 times"),
        (["channels"], {}, "/channels: {} is not of type 'array'"),
        (["channels"], [], "/channels: [] should be non-empty"),
        (["version"], "2.0.0", "/version: '1.0.0' was expected"),
        (["chanels"], [], "/chanels: unknown key; did you mean 'channels'"),
        (["observations", 0, "data"], [1.0], "/observations/0/data: 1 numbers, but channel 'CR' has 2 bins"),
        (["observations", 1, "data"], [1e6], "events, but the companion's observation is [1000000.0]"),
        (["measurements", 0, "config", "parameters"], [{"name": "mu"}] * 2, "config/parameters: 'mu' occurs 2 times"),
        (["measurements", 0, "config", "parameters"], [{"name": "mu", "bounds": [[1]]}], "[1] must be two numbers"),
        (["measurements", 0, "config", "parameters"], [{"name": "mu", "bounds": [[2, 1]]}], "the lower one first"),
        (["measurements", 0, "config", "parameters"], [{"name": "xs", "sigmas": [0]}], "sigmas/0: 0 must be positive"),
        (["unbinned", "files", 1, "id"], "observed", "/unbinned/files: 'observed' occurs 2 times"),
        (["unbinned", "files", 1, "events"], -1, "/unbinned/files/1/events: -1 is less than the minimum of 0"),
        (["unbinned", "files", 1, "events"], "many", "/unbinned/files/1/events: 'many' is not of type 'integer'"),
        (["unbinned", "files", 1, "block"], 0, "/unbinned/files/1/block: 0 is less than the minimum of 1"),
        (["unbinned", "files", 1, "columns"], ["a", "a"], "/unbinned/files/1/columns: ['a', 'a'] has non-unique"),
        (["unbinned", "files", 1, "format"], "pickle", "/unbinned/files/1/format: 'npy' was expected"),
        (["unbinned", "files", 1, "dtype"], "object", "/unbinned/files/1/dtype: 'object' is not one of"),
        (["unbinned", "files", 1, "sha256"], "a" * 64 + "\n", "/unbinned/files/1/sha256: "),
        (["unbinned", "channels", 0, "reference", "fractions", "a/b"], -1, "a~1b: -1 is less than"),
        (["unbinned", "provenance"], {"a": float("nan")}, "/unbinned/provenance/a: nan"),
        (["unbinned"], [], "/unbinned: [] is not of type 'object'"),
    ],
)
def test_each_defect_of_the_description_has_its_place(saved, path, value, message):
    edit(saved, analytic.set_at(path, value))
    lines = problems(saved)
    assert any(message in line for line in lines), lines
    assert all(len(line) < 700 for line in lines)


def test_all_schema_errors_of_both_parts_come_together(saved):
    def change(spec):
        del spec["version"], spec["unbinned"]["version"]
        spec["channels"][0]["samples"][0]["data"] = ["a", float("nan"), None]
        spec["unbinned"]["channels"][0]["events"]["observed"] = {}
        del spec["channels"][1]["samples"][0]["name"]
        spec["channels"][1]["samples"][1]["modifiers"][1]["data"] = {"hi": 1.0, "low": 1.0}
        spec["unbinned"]["channels"][0]["samples"][0]["modifiers"][0]["data"] = {"d2": {"column": ""}}

    edit(saved, change)
    assert [line.split(": ")[0] for line in problems(saved)] == [
        "/channels/0/samples/0/data/1",
        "/channels/0/samples/0/data/0",
        "/channels/0/samples/0/data/2",
        "/channels/1/samples/0/name",
        "/channels/1/samples/1/modifiers/1/data/lo",
        "/channels/1/samples/1/modifiers/1/data/low",
        "/version",
        "/unbinned/channels/0/events/observed",
        "/unbinned/channels/0/samples/0/modifiers/0/data/d1",
        "/unbinned/channels/0/samples/0/modifiers/0/data/d2/column",
        "/unbinned/version",
    ]


def test_the_command_says_the_same(saved):
    edit(saved, lambda spec: spec["channels"][0].update(name="\x1b[2J", samples=[]))
    said = run("validate", saved, code=1)
    assert "\x1b" not in said
    assert [line.strip() for line in said.splitlines()[1:]] == problems(saved)
    assert len(problems(saved)) == 2


def test_very_many_problems_are_counted(saved):
    edit(saved, lambda spec: spec["channels"][0]["samples"][0].update(data=["x"] * 1000))
    with pytest.raises(InvalidWorkspace, match="1000 problems") as caught:
        Workspace.load(saved)
    assert str(caught.value).endswith("and 900 more")


def test_what_is_made_in_python_may_hold_arrays_but_nothing_odd():
    spec = analytic.binned_spec()
    spec["channels"][0]["samples"][0]["data"] = np.array([100.0, 120.0, 90.0])
    spec["observations"][0]["data"] = (np.int64(11), np.float32(23))
    assert Workspace.from_pyhf(spec).spec == analytic.binned_spec()
    for odd, message in ((object(), "object is not JSON"), (b"1", "bytes is not JSON"), (np.nan, "nan is not")):
        spec["observations"][0]["data"] = [odd, 23.0]
        with pytest.raises(InvalidWorkspace, match=f"/observations/0/data/0: {message}"):
            Workspace.from_pyhf(spec)
    spec["observations"][0]["data"] = cycle = []
    cycle.append(cycle)
    with pytest.raises(InvalidWorkspace, match="nested deeper"):
        Workspace(spec).validate()
    for spec in ([], None, 1, "x", {1: 2}, {1: 2, "channels": []}):
        with pytest.raises(InvalidWorkspace, match="problem"):
            Workspace.from_pyhf(spec)


def test_pointers_are_those_of_rfc_6901():
    document = {"a/b": [{"m~n": 1}], "": 2, "é": 3}
    assert pointer("a/b", 0, "m~n") == "/a~1b/0/m~0n"
    assert (pointer(""), pointer("é"), pointer()) == ("/", "/é", "/")
    assert parse_json(json.dumps(document).encode(), "it") == document


def test_the_published_schema_is_a_schema():
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


# --- numbers


def with_column(ws, file, column, values):
    """The workspace with other numbers in a column."""
    table = ws.tables[file]
    changed = RatioTable.from_columns({n: values if n == column else table[n] for n in table.names}, np.float64)
    spec = copy.deepcopy(ws.spec)
    return Workspace(spec, {**ws.tables, file: changed})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("weight", -1 / 4000, "/unbinned/channels/0/events/pool: reference weights must be positive and sum to 1"),
        ("weight", 0.0, "the sum is 0"),
        ("weight", 1e-310, "reference weights must be positive and sum to 1"),
        ("signal", 0.0, "samples/1/ratio: column 'signal' integrates to 0"),
        ("signal", -1.0, "samples/1/ratio: column 'signal' integrates to -1"),
        ("signal", 60.0, "integrates to 60 .* a ratio of densities gives 1 .yields belong to the companion"),
        ("d1", 1e200, "column 'd1' is NaN, infinite or beyond 1e.100 at 4000 events"),
    ],
)
def test_columns_that_cannot_be_what_they_are_said_to_be(analytic_workspace, column, value, message):
    ws = with_column(analytic_workspace, "pool", column, np.full(4000, value))
    with pytest.raises(InvalidWorkspace, match=message):
        ws.validate()


def test_some_pool_events_may_have_no_weight(analytic_workspace):
    weights = np.repeat([0.0, 2 / 4000], 2000)
    weights = np.random.default_rng(0).permutation(weights)
    with_column(analytic_workspace, "pool", "weight", weights).validate()


def test_observed_weights_are_not_negative(analytic_workspace):
    n = len(analytic_workspace.tables["observed"])
    table = analytic_workspace.tables["observed"]
    weights = np.ones(n)
    weights[5], weights[6] = -1.0, 3.0
    values = {name: table[name] for name in table.names} | {"w": weights}
    spec = copy.deepcopy(analytic_workspace.spec)
    spec["unbinned"]["channels"][0]["events"]["observed"]["weight"] = {"column": "w"}
    spec["unbinned"]["files"][0]["columns"].append("w")
    tables = {**analytic_workspace.tables, "observed": RatioTable.from_columns(values, np.float64)}
    with pytest.raises(InvalidWorkspace, match=r"1 of \d+ observed weights are negative \(first: -1 at event 5\)"):
        Workspace(spec, tables).validate()


def test_features_are_of_the_same_events(saved):
    edit(saved, lambda spec: spec["unbinned"]["channels"][0]["events"]["pool"].update(features="observed features"))
    (line,) = problems(saved)
    assert line.startswith("/unbinned/channels/0/events/pool/features: ")
    assert line.endswith(" events, but the table of ratios has 4000")


def test_tables_fit_their_entries(analytic_workspace, tmp_path):
    pool = analytic_workspace.tables["pool"]
    fewer = pool.select(pool.names[:-1])
    for table, message in (
        (fewer, "/unbinned/files/1/columns: .* but the table has"),
        (pool.head(10), "/unbinned/files/1/events: 4000, but the table has 10"),
        (RatioTable(pool.names, pool.blocks.astype(np.float32), len(pool)), "/unbinned/files/1/dtype: float64"),
        (RatioTable(pool.names, pool.blocks.astype(np.int64), len(pool)), "/unbinned/files/1/dtype: float64"),
    ):
        ws = Workspace(analytic_workspace.spec, {**analytic_workspace.tables, "pool": table})
        with pytest.raises(InvalidWorkspace, match=message):
            ws.save(tmp_path / "ws")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [1e-320, 1e-150])
def test_a_constraint_has_a_width(width):
    spec = analytic.binned_spec()
    spec["measurements"][0]["config"]["parameters"][0]["sigmas"] = [width]
    with pytest.raises(InvalidWorkspace, match="/measurements/0: parameter 'lumi': the constraint's width is"):
        Workspace.from_pyhf(spec)


# --- expressions

HARMFUL = [
    "__import__('os').system('touch run')",
    "open('run', 'w')",
    "exec('1')",
    "().__class__.__bases__[0]",
    "lambda: 1",
]
HARMFUL += [
    "f'{mu}'",
    "[x for x in (1, 2)]",
    "(kappa := 2)",
    "kappa.__class__",
    "kappa[0]",
    "'a' * 10**9",
    "1j",
    "None",
]
HARMFUL += ["kappa if kappa else 1", "sqrt(*[kappa])", "sqrt.__call__(kappa)", "kappa <<= 3", "print(kappa)", "1e999"]
HARMFUL += ["(" * 500 + "kappa" + ")" * 500, "9" * 900, "kappa;kappa", "yield kappa", "import os"]


def expressed(ws, *parameters, poi="kappa"):
    spec = copy.deepcopy(ws.spec)
    spec["measurements"][0]["config"]["poi"] = ""
    spec["unbinned"] |= {"poi": poi, "parameters": list(parameters)}
    return Workspace(spec, ws.tables)


@pytest.mark.parametrize("text", HARMFUL)
def test_an_expression_is_arithmetic_and_never_run(analytic_workspace, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    ws = expressed(analytic_workspace, {"name": "mu", "expression": text}, {"name": "kappa"})
    with pytest.raises(InvalidWorkspace, match="expression"):
        ws.validate()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9**9**9*kappa", r"undefined at kappa = 1: 9 \*\* 3\.8742e\+08 is inf"),
        ("9**9**9**9*kappa", r"undefined at kappa = 1: 9 \*\* 3\.8742e\+08 is inf"),
        ("1/(kappa - 1)", "undefined at kappa = 1: 1 / 0 is inf; restrict the bounds"),
        ("1e308*10*kappa", r"undefined at kappa = 1: 1e\+308 \* 10 is inf"),
        ("(kappa - 2)**0.5", r"undefined at kappa = 1: -1 \*\* 0\.5 is nan"),
        ("log(kappa - 1)", r"undefined at kappa = 1: log\(0\) is -inf"),
        ("exp(exp(exp(7*kappa)))", "undefined at kappa = 1"),
    ],
)
def test_an_undefined_expression_says_where(analytic_workspace, text, message):
    ws = expressed(analytic_workspace, {"name": "mu", "expression": text}, {"name": "kappa"})
    with pytest.raises(InvalidModel, match=message):
        ws.model()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([{"name": "mu", "expression": "mu"}], "cycle: mu -> mu"),
        ([{"name": "mu", "expression": "xs2*kappa"}, {"name": "kappa"}], "uses 'xs2', which is no parameter"),
        ([{"name": "mu", "expression": "2"}, {"name": "mu", "expression": "3"}], "occurs 2 times"),
        ([{"name": "muu", "expression": "kappa"}, {"name": "kappa"}], "no normfactor is called so; did you mean 'mu'"),
        ([{"name": "mu", "expression": "kappa"}, {"name": "kappa", "bounds": [[3, 1]]}], "parameters/1/bounds/0"),
        ([{"name": "mu", "expression": "k" * 20001}], "/unbinned/parameters/0/expression: a text of 20001 characters"),
        ([{"name": "mu", "expression": 2}], "/unbinned/parameters/0/expression: 2 is not of type 'string'"),
    ],
)
def test_parameters_that_do_not_fit_together(analytic_workspace, parameters, message):
    with pytest.raises(InvalidWorkspace, match=message):
        expressed(analytic_workspace, *parameters).validate()


def test_a_cycle_of_two_is_found(analytic_workspace):
    spec = copy.deepcopy(analytic_workspace.spec)
    modifiers = spec["channels"][1]["samples"][0]["modifiers"]
    modifiers.append({"name": "beta", "type": "normfactor", "data": None})
    ws = expressed(
        Workspace(spec, analytic_workspace.tables),
        {"name": "mu", "expression": "2*beta"},
        {"name": "beta", "expression": "mu/2"},
        poi="tilt",
    )
    with pytest.raises(InvalidWorkspace, match="/measurements/0: expressions depend on each other in a cycle"):
        ws.validate()


def test_what_is_wrong_for_all_measurements_is_said_once(analytic_workspace):
    ws = expressed(analytic_workspace, {"name": "mu", "expression": "sqrt(kappa"}, {"name": "kappa"})
    first = ws.spec["measurements"][0]
    ws.spec["measurements"] += [first | {"name": "again"}]
    with pytest.raises(InvalidWorkspace, match="1 problem in the workspace:\n  /measurements/0: expression"):
        ws.validate()


# --- saving


def listing(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["ws", "ws.zip"])
def test_a_workspace_may_be_saved_over_itself(analytic_workspace, tmp_path, name):
    analytic_workspace.save(tmp_path / name)
    mapped = Workspace.load(tmp_path / name)
    before = listing(tmp_path)
    mapped.save(tmp_path / name, overwrite=True)  # reads what it replaces
    assert listing(tmp_path) == before
    assert mapped.digest() == analytic_workspace.digest()  # the old tables are still there for those who read them


FULL, DENIED = OSError(28, "No space left on device"), PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("name", "function", "error"),
    [
        ("ws", "numpy.save", FULL),
        ("ws.zip", "numpy.save", FULL),
        ("ws", "numpy.save", KeyboardInterrupt()),
        ("ws", "pathlib.Path.write_text", FULL),
        ("ws", "pathlib.Path.mkdir", DENIED),
        ("ws", "tempfile.TemporaryDirectory", DENIED),
        ("ws", "pathlib.Path.rename", DENIED),
        ("ws.zip", "zipfile.ZipFile.write", FULL),
        ("ws.zip", "zipfile.ZipFile.write", KeyboardInterrupt()),
        ("ws.zip", "pathlib.Path.replace", DENIED),
    ],
)
def test_an_interrupted_save_changes_nothing(analytic_workspace, tmp_path, monkeypatch, name, function, error):
    analytic_workspace.save(tmp_path / name)
    before = listing(tmp_path)
    other = analytic_workspace.prune(modifiers=["xs"])

    def fails(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(function, fails)
        expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InvalidWorkspace
        with pytest.raises(expected) as caught:
            other.save(tmp_path / name, overwrite=True)
    if expected is InvalidWorkspace:
        assert f"cannot be written: {error}; what was there is unchanged" in str(caught.value)
    assert listing(tmp_path) == before
    other.save(tmp_path / name, overwrite=True)
    assert Workspace.load(tmp_path / name).digest() == other.digest()


def test_the_old_one_comes_back_if_the_last_step_fails(analytic_workspace, tmp_path, monkeypatch):
    analytic_workspace.save(tmp_path / "ws")
    before = listing(tmp_path)
    rename = type(tmp_path).rename

    def second_fails(path, target):
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", second_fails)
    with pytest.raises(KeyboardInterrupt):
        analytic_workspace.prune(modifiers=["xs"]).save(tmp_path / "ws", overwrite=True)
    assert listing(tmp_path) == before


def test_only_a_workspace_is_ever_overwritten(analytic_workspace, tmp_path):
    analytic_workspace.save(tmp_path / "ws")
    analytic_workspace.save(tmp_path / "ws.zip")
    (tmp_path / "ws" / "notes.txt").write_text(SECRET)
    (tmp_path / "ntuples.root").write_text(SECRET)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("me.jpg", SECRET)
    (tmp_path / "broken.zip").write_text(SECRET)
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "workspace.json").write_text(SECRET)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "workspace.json").write_text('{"unbinned": {"files": [1, {"uri": []}]}}')
    (tmp_path / "odd" / "pool.npy").write_text(SECRET)
    before = listing(tmp_path)
    for name, message in (
        ("ws", r"files that are no part of the workspace \(notes.txt\); nothing was overwritten"),
        ("ntuples.root", "is a file; nothing was overwritten"),
        ("photos.zip", "no workspace; nothing was overwritten"),
        ("broken.zip", "no workspace; nothing was overwritten"),
        ("folder.zip", "is a directory; nothing was overwritten"),
        ("thesis", "no workspace; nothing was overwritten"),
        ("odd", r"no part of the workspace \(pool.npy\)"),
        ("ntuples.root/ws", "cannot be written"),
    ):
        with pytest.raises(InvalidWorkspace, match=message):
            analytic_workspace.save(tmp_path / name, overwrite=True)
        assert listing(tmp_path) == before
    (tmp_path / "ws" / "notes.txt").unlink()
    analytic_workspace.save(tmp_path / "ws", overwrite=True)


# --- the cache of trained networks


class Estimator:
    """Trains to nothing; saving may fail."""

    error = None

    def save(self, directory):
        if self.error:
            raise self.error
        (directory / "it").write_text("trained")

    @classmethod
    def load(cls, directory):
        if not (directory / "it").is_file():
            raise InvalidData("nothing there")
        return cls()


def test_a_cache_that_cannot_be_written_is_found_before_the_training(tmp_path):
    def train():
        raise AssertionError("was trained in vain")

    (tmp_path / "file").write_text(SECRET)
    with pytest.raises(InvalidData, match=r"cannot be kept in .*file: .*; choose another cache"):
        load_or_train(Estimator, tmp_path / "file", train)
    with pytest.raises(InvalidData, match=r"cannot be kept in .*below: .*; choose another cache"):
        load_or_train(Estimator, tmp_path / "file" / "below", train)
    assert (tmp_path / "file").read_text() == SECRET


def test_a_training_outlives_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(Estimator, "error", OSError(28, "No space left on device"))
    with pytest.warns(NuratioWarning, match="will be trained again next time: .*No space left"):
        assert load_or_train(Estimator, tmp_path / "cache", Estimator)[1]
    monkeypatch.undo()
    assert load_or_train(Estimator, tmp_path / "cache", Estimator)[1]
    assert not load_or_train(Estimator, tmp_path / "cache", Estimator)[1]
