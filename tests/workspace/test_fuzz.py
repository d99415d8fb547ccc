"""Whatever happens to the files of a workspace: it means what it meant, or a nuratio error says what is wrong."""

import copy
import io
import json
import math
import shutil
import zipfile

import awkward as ak
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import analytic
from nuratio.data.expression import as_column, compile_expression
from nuratio.errors import InvalidData, InvalidModel, NuratioError
from nuratio.model.expression import Dual, Expression
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::nuratio.errors.UnusedWarning")

FUZZ = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def shaped():
    """Quadexp shapes, mu = kappa**2 with kappa the POI, provenance and axes; tables in single precision."""
    ws = analytic.workspace(n_signal=6.0, n_background=60.0, pool=200)
    spec = copy.deepcopy(ws.spec)
    tables = {n: RatioTable(t.names, t.blocks.astype(np.float32), len(t)) for n, t in ws.tables.items()}
    spec["unbinned"]["files"] = [file_entry(name, table) for name, table in tables.items()]
    analytic.make_kappa_the_poi(spec)
    spec["unbinned"]["provenance"] = {"made": {"by": "hand", "on": [1, 2]}}
    return Workspace(spec, tables)


def with_cells():
    """Every modifier of pyhf, in a binned channel and in the coarse cells of an unbinned one."""
    return Workspace.from_pyhf(analytic.binned_spec()).unbin("B")


def with_additive_codes():
    return Workspace.from_pyhf(analytic.binned_spec(per_bin=False)).unbin("B")


BASES = {"shaped": shaped, "with cells": with_cells, "with additive codes": with_additive_codes}


@pytest.fixture(scope="module", params=BASES)
def base(request, tmp_path_factory):
    """A saved workspace, a zip of it, and the value of its likelihood."""
    folder = tmp_path_factory.mktemp("base")
    ws = BASES[request.param]()
    ws.save(folder / "ws")
    ws.save(folder / "ws.zip")
    return folder, value(ws)


def value(ws):
    """-2 ln L of the observed data at the suggested parameters; what `logpdf` says must agree."""
    model = ws.model()
    pars, data = model.config.suggested_init(), ws.data(model)
    result = model.twice_nll(pars, data)
    assert math.isfinite(result)
    assert model.logpdf(pars, data) == pytest.approx(-result / 2, rel=1e-6, abs=1e-6)
    return result


def outcome(path, *, verify=True):
    """The value, or the nuratio error: anything else is a failure."""
    try:
        return value(Workspace.load(path, verify=verify))
    except NuratioError:
        return None


# --- the JSON

ODD = [
    None,
    True,
    0,
    -1,
    2,
    3.5,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    10**18,
    10**30,
    math.nan,
    math.inf,
    "",
    "x",
    "mu",
    [],
    {},
]
ODD += [
    "../x",
    "/etc/passwd",
    "workspace.json",
    "9**9**9",
    "1/0",
    "mu*kappa",
    "__import__('os')",
    "é\u202e",
    "a" * 5000,
]
ODD += [
    [0.0],
    [1.0, 2.0],
    [[1.0]],
    {"name": "x"},
    {"column": "signal"},
    "quadexp",
    "code4",
    "pool",
    "staterror",
    "lumi",
]


def places(node, path=()):
    """Every (container, key) in a document, but none in its provenance."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (node, key)
        if key != "provenance":
            yield from places(child, (*path, key))


def mutate(spec, random):
    """Change something somewhere; more often than not to what the schemas allow."""
    where = list(places(spec))
    node, key = random.choice(where)
    alike = [(n, k) for n, k in where if type(k) is str and k == key and type(n[k]) is type(node[key])]
    match random.randrange(10):
        case 0:
            del node[key]
        case 1:
            node[key] = copy.deepcopy(random.choice(ODD))
        case 2 | 3 if isinstance(node, list):
            node.insert(random.randrange(len(node) + 1), copy.deepcopy(node[key]))
        case 4 if isinstance(node, dict):
            node[random.choice(["name", "data", "spare", f"{key} "])] = node.pop(key)
        case 5:
            swap(node, key, *random.choice(where))
        case 6 if alike:
            swap(node, key, *random.choice(alike))
        case _ if isinstance(node[key], int | float):
            numbers = [-1, 0, 0.5, 2, 1e-10, 1e10, 1e90, 1e200, 1e-200, -1e-3]
            node[key] = random.choice(numbers) * random.choice([1, node[key]])
        case _ if alike:
            other, its = random.choice(alike)
            node[key] = copy.deepcopy(other[its])


def swap(node, key, other, its):
    node[key], other[its] = copy.deepcopy(other[its]), copy.deepcopy(node[key])


@given(random=st.randoms(use_true_random=False), times=st.integers(1, 3))
@settings(FUZZ, max_examples=150)
def test_a_changed_description_is_refused_or_evaluates(base, tmp_path, random, times):
    folder = tmp_path / "ws"
    shutil.copytree(base[0] / "ws", folder, dirs_exist_ok=True)
    spec = json.loads((base[0] / "ws" / "workspace.json").read_text())
    for _ in range(times):
        mutate(spec, random)
    (folder / "workspace.json").write_text(json.dumps(spec))
    outcome(folder)


@given(random=st.randoms(use_true_random=False))
@settings(FUZZ, max_examples=10)
def test_what_means_nothing_changes_nothing(base, tmp_path, random):
    folder = tmp_path / "ws"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base[0] / "ws", folder)
    spec = json.loads((folder / "workspace.json").read_text())
    extension = spec["unbinned"]
    extension["provenance"] = {"odd": random.choice([1, "line\nbreak", [[["deep"]]], {"a/b": None}])}
    for entry in extension["files"]:
        new = f"tables/{random.randrange(1000)}-{entry['uri']}"
        (folder / "tables").mkdir(exist_ok=True)
        (folder / entry["uri"]).rename(folder / new)
        entry["uri"] = new
    for part in (extension["files"], extension["channels"], spec["observations"], spec["channels"]):
        random.shuffle(part)
    keys = list(spec)
    random.shuffle(keys)
    text = json.dumps({k: spec[k] for k in keys}, indent=random.choice([None, 3]), ensure_ascii=False)
    (folder / "workspace.json").write_text(random.choice(["", "\ufeff"]) + text, encoding="utf-8")
    assert outcome(folder) == pytest.approx(base[1], rel=1e-12)


# --- bytes


def damaged(content, random):
    """Some bytes changed, cut away, doubled or added; the beginning (headers) and the end more often than the rest."""
    content = bytearray(content)
    for _ in range(random.randrange(1, 4)):
        n = len(content)
        at = random.choice([random.randrange(n), random.randrange(min(n, 160)), n - 1 - random.randrange(min(n, 160))])
        match random.randrange(6):
            case 0:
                content[at] ^= 1 << random.randrange(8)
            case 1:
                content[at : at + random.randrange(1, 9)] = random.randbytes(random.randrange(1, 9))
            case 2:
                del content[at:]
            case 3:
                del content[at : at + random.randrange(1, 200)]
            case 4:
                content[at:at] = content[at : at + random.randrange(1, 200)]
            case 5:
                content += random.randbytes(random.randrange(1, 50))
        content = content or bytearray(b"\0")
    return bytes(content)


@given(random=st.randoms(use_true_random=False), verify=st.booleans())
@settings(FUZZ, max_examples=100)
def test_damaged_files_are_refused(base, tmp_path, random, verify):
    folder = tmp_path / "ws"
    shutil.copytree(base[0] / "ws", folder, dirs_exist_ok=True)
    files = sorted(folder.iterdir())
    file = random.choice(files)
    before = file.read_bytes()
    after = random.choice(files).read_bytes() if random.random() < 0.1 else damaged(before, random)
    file.write_bytes(after)
    result = outcome(folder, verify=verify)
    if verify and file.suffix == ".npy" and after != before:
        assert result is None
    assert file.read_bytes() == after


@given(random=st.randoms(use_true_random=False), how=st.sampled_from(["damaged", "packed anew"]))
@settings(FUZZ, max_examples=100)
def test_damaged_zips_are_refused_or_mean_the_same(base, tmp_path, random, how):
    content = (base[0] / "ws.zip").read_bytes()
    if how == "damaged":
        content = damaged(content, random)
    else:  # other compression and order, perhaps with a member lost
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
            names = old.namelist()
            random.shuffle(names)
            for name in names[random.random() < 0.3 :]:
                new.writestr(name, old.read(name), random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        content = buffer.getvalue()
    (tmp_path / "ws.zip").write_bytes(content)
    result = outcome(tmp_path / "ws.zip")
    assert result is None or result == base[1]
    assert [p.name for p in tmp_path.iterdir()] == ["ws.zip"]


# --- expressions

TOKENS = [
    "mu",
    "x",
    "jet",
    "good",
    "kind",
    "0",
    "1",
    "-2.5",
    "1e308",
    "9" * 30,
    "0.5",
    "'a'",
    "True",
    "1j",
    "_",
    "é",
    "\0",
]
TOKENS += [
    "+",
    "-",
    "*",
    "/",
    "**",
    "//",
    "%",
    "<",
    "==",
    "&",
    "|",
    "~",
    "not ",
    " and ",
    " if ",
    " else ",
    ":=",
    "lambda ",
]
TOKENS += [
    "(",
    ")",
    "[",
    "]",
    ",",
    ".",
    "sqrt(",
    "log(",
    "where(",
    "first(",
    "nth(",
    "sum(",
    "get(",
    "print(",
    "{",
    "\n",
]
EXPRESSIONS = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=15).map("".join)


@given(text=EXPRESSIONS, mu=st.floats(-3, 3))
@settings(FUZZ, max_examples=300)
def test_any_text_as_an_expression_of_parameters(text, mu):
    try:
        parsed = Expression.parse(text)
    except InvalidModel:
        return
    if set(parsed.names) <= {"mu"}:
        try:
            assert math.isfinite(parsed({"mu": Dual.parameter(mu, 0, 1)}).value)
        except InvalidModel:
            return


@given(text=EXPRESSIONS)
@settings(FUZZ, max_examples=300)
def test_any_text_as_an_expression_of_branches(text):
    branches = {
        "x": ak.Array([1.0, -1.0, 0.0]),
        "jet": ak.Array([[3.0, 1.0], [], [2.0]]),
        "good": ak.Array([True, False, True]),
        "kind": ak.Array(["a", "b", "a"]),
    }
    columns = {name: as_column(array, name) for name, array in branches.items()}
    try:
        result = compile_expression(text, list(columns), {"mu": "x + jet", "_": "mu * mu"})(columns)
    except InvalidData:
        return
    assert result.shape == (3,)
    assert result.dtype.kind in "biuf"
