"""Laws of reading ntuples, for ROOT trees, RNTuples and Parquet alike."""

import sys
import warnings

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from nuratio.data.parquet import read_parquet
from nuratio.data.root import read_root
from nuratio.data.variation import Variation
from nuratio.errors import InvalidData, LeakageWarning

FEATURES = {"m": "mll", "logpt": "log(lep.pt)", "jet": "first(jet, -1)", "ht": "sum(jet * (jet > 30))"}


def events(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.5, n)
    return {
        "event": np.arange(n) + 1000 * seed,
        "mll": (rng.exponential(100, n) + shift).astype(np.float32),
        "lep.pt": rng.uniform(20, 100, n),
        "jet": ak.unflatten(rng.normal(30, 15, counts.sum()).astype(np.float32), counts),
        "weight": rng.normal(0.3, 1, n),
        "weight_up": rng.normal(0.35, 1, n),
    }


def write_trees(path, trees):
    with uproot.recreate(path) as file:
        for name, arrays in trees.items():
            types = {k: "var * float32" if k == "jet" else a.dtype for k, a in arrays.items()}
            file.mktree(name, types).extend(arrays)


def write_ntuples(path, trees):
    with uproot.recreate(path) as file:
        for name, arrays in trees.items():
            file.mkrntuple(name, arrays)


def write_parquet(path, trees):
    (arrays,) = trees.values()
    ak.to_parquet(ak.zip(arrays, depth_limit=1), path, row_group_size=64)


def read_tree(files, *args, **options):
    return read_root(files, "events", *args, **options)


FORMATS = {
    "ttree": (write_trees, read_tree),
    "rntuple": (write_ntuples, read_tree),
    "parquet": (write_parquet, read_parquet),
}


@pytest.fixture(params=FORMATS)
def ntuples(request, tmp_path):
    """Two files, the arrays in them, and the function that reads them."""
    write, read = FORMATS[request.param]
    arrays = [events(300, 1), events(200, 2)]
    files = [tmp_path / f"{name}.{request.param}" for name in "ab"]
    for path, a in zip(files, arrays, strict=True):
        write(path, {"events": a})
    return files, arrays, read


def same(a, b):
    assert a.names == b.names
    for x, y in ((a.features, b.features), (a.weights, b.weights), (a.ids, b.ids)):
        np.testing.assert_array_equal(x, y)


def test_what_is_read_is_what_was_written(ntuples):
    files, arrays, read = ntuples
    sample = read(files, FEATURES, weight="weight * 2", scale=0.5, event_id="event")
    joined = {key: ak.concatenate([a[key] for a in arrays]) for key in arrays[0]}
    jets = joined["jet"]
    expected = {
        "m": joined["mll"],
        "logpt": np.log(joined["lep.pt"]),
        "jet": [j[0] if len(j) else -1 for j in jets],
        "ht": [sum(float(p) for p in j if p > 30) for j in jets],
    }
    assert sample.names == tuple(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(sample.column(name), np.asarray(values, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(sample.weights, joined["weight"], rtol=1e-15)
    np.testing.assert_array_equal(sample.ids, joined["event"])


@pytest.mark.parametrize("step_size", [5, 299, 100_000, "2 kB", "50 MB"])
def test_chunks_make_no_difference(ntuples, step_size):
    files, _, read = ntuples
    options = {"weight": "weight", "cut": "(mll > 80) & (count(jet) > 0)", "event_id": "event"}
    same(read(files, FEATURES, step_size=step_size, **options), read(files, FEATURES, **options))


def test_a_list_of_files_is_their_events_in_that_order(ntuples):
    files, _, read = ntuples
    one, two, both = (read(f, FEATURES, weight="weight", event_id="event") for f in (files[0], files[1], files[::-1]))
    np.testing.assert_array_equal(both.features, np.concatenate([two.features, one.features]))
    np.testing.assert_array_equal(both.weights, np.concatenate([two.weights, one.weights]))
    np.testing.assert_array_equal(both.ids, np.concatenate([two.ids, one.ids]))


def test_a_pattern_is_the_sorted_files(ntuples):
    files, _, read = ntuples
    same(read(str(files[0].parent / "*"), FEATURES), read(files, FEATURES))


def test_cutting_while_reading_is_selecting_afterwards(ntuples):
    files, _, read = ntuples
    every = read(files, FEATURES, weight="weight")
    cut = read(files, FEATURES, weight="weight", cut="80 < mll < 200")
    same(cut, every.select((every.column("m") > 80) & (every.column("m") < 200)))
    assert 0 < len(cut) < len(every)


def test_what_the_cut_removes_may_be_undefined(ntuples):
    files, arrays, read = ntuples
    sample = read(files, ["first(jet)", "log(mll - 80)"], cut="(mll > 80) & (count(jet) > 0)")
    kept = sum(int(ak.sum((a["mll"] > 80) & (ak.num(a["jet"]) > 0))) for a in arrays)
    assert len(sample) == kept


def test_entry_numbers_are_the_ids_whatever_the_cut_or_weight(ntuples):
    files, _, read = ntuples
    nominal = read(files, FEATURES, weight="weight")
    np.testing.assert_array_equal(nominal.ids, np.arange(500))  # no two files share an id
    cut = read(files, FEATURES, weight="weight", cut="mll > 100", step_size=10)
    np.testing.assert_array_equal(nominal.column("m")[cut.ids], cut.column("m"))
    varied = read(files, FEATURES, weight="weight", variation=Variation(weight="weight_up"))
    np.testing.assert_array_equal(varied.ids, nominal.ids)


def test_a_weight_variation_replaces_the_weight_only(ntuples):
    files, arrays, read = ntuples
    nominal = read(files, FEATURES, weight="weight", scale=3.0)
    varied = read(files, FEATURES, weight="weight", scale=3.0, variation=Variation(weight="weight_up"))
    np.testing.assert_array_equal(varied.features, nominal.features)
    np.testing.assert_array_equal(varied.weights, 3 * np.concatenate([a["weight_up"] for a in arrays]))


def test_an_alias_variation_replaces_the_alias(ntuples):
    files, _, read = ntuples
    varied = read(files, {"m": "m"}, aliases={"m": "mll", "y": "m"}, variation=Variation(aliases={"m": "1.01 * mll"}))
    same(varied, read(files, {"m": "1.01 * mll"}))


def test_a_file_variation_warns_unless_events_are_identified(ntuples):
    files, _, read = ntuples
    variation = Variation(files=files[1], name="shower")
    with pytest.warns(LeakageWarning, match="ttbar, variation 'shower'.*pass event_id") as caught:
        varied = read(files[0], FEATURES, variation=variation, label="ttbar")
    assert caught[0].filename == __file__
    same(varied, read(files[1], FEATURES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(files[0], FEATURES, variation=variation, event_id="event")


def test_unit_weights_without_a_weight(ntuples):
    files, _, read = ntuples
    assert read(files, "mll", scale=2.0).total == 1000


def test_a_progress_bar_goes_to_stderr(ntuples, capsys):
    files, _, read = ntuples
    read(files, "mll", progress=True, label="ttbar")
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading ttbar" in err
    read(files, "mll")
    assert capsys.readouterr() == ("", "")


ERRORS = {
    "no branch": ({"features": ["mlll"]}, r"no branch 'mlll'; did you mean 'mll'"),
    "no weight branch": ({"weight": "weigth"}, "did you mean 'weight'"),
    "syntax": ({"features": ["mll +"]}, r"'mll \+' does not parse at character"),
    "not text": ({"weight": 1.0}, "must be text, got 1.0.*scale"),
    "constant": ({"features": ["1.0"]}, "not a number per event"),
    "jagged": ({"features": ["jet"]}, "jagged.*reduce it"),
    "short": ({"features": ["first(jet)"]}, r"entries 0 to \d+: expression 'first\(jet\)': \d+ of \d+ events"),
    "nan": ({"features": ["log(mll - 80)"]}, r"'log\(mll - 80\)'.* is NaN or infinite for \d+ of \d+.*first: entry \d"),
    "float32": ({"features": ["1e39 * mll"]}, "as float32"),
    "nan weight": ({"weight": "weight / 0"}, "weight 'weight / 0' is NaN or infinite for"),
    "zero weights": ({"weight": "weight * 0"}, r"'weight \* 0' is zero for all of the 500 events"),
    "nothing left": ({"cut": "mll < 0"}, r"no event passes the cut 'mll < 0' \(500 entries read\)"),
    "number as cut": ({"cut": "mll"}, "cut 'mll' is a number, not a condition"),
    "fractional id": ({"event_id": "mll"}, "event_id 'mll' must be a whole number"),
    "repeated": ({"features": ["mll", "mll"]}, "features repeat"),
    "no features": ({"features": []}, "at least one"),
    "scale": ({"scale": 0.0}, "scale multiplies every weight"),
    "step": ({"step_size": "50 lb"}, "'50 MB', got '50 lb'"),
    "empty step": ({"step_size": 0}, "got 0"),
    "missing": ({"files": "nowhere/x.root"}, "no file 'nowhere/x.root': there is no directory 'nowhere'"),
    "no files": ({"files": []}, "no input files"),
    "varied weight": (
        {"variation": Variation(weight="wt_up", name="muF"), "label": "ttbar"},
        r"ttbar, variation 'muF' \(weight 'wt_up'\): file .*no branch 'wt_up'; did you mean 'weight_up'",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_wrong_request_says_what_is_wrong(ntuples, case):
    files, _, read = ntuples
    changed, match = ERRORS[case]
    options = {"files": files, "features": ["mll"], "weight": "weight"} | changed
    with pytest.raises(InvalidData, match=match):
        read(**options)


def test_files_are_checked_before_anything_is_read(ntuples, monkeypatch):
    files, arrays, read = ntuples
    write, _ = FORMATS[files[1].suffix[1:]]
    write(files[1], {"events": {k: v for k, v in arrays[1].items() if k != "mll"}})
    monkeypatch.setattr("nuratio.data.reading.as_column", lambda *args: pytest.fail("events were read"))
    with pytest.raises(InvalidData, match=f"{files[1].name}.*no branch 'mll'"):
        read(files, ["mll"])


def test_only_the_branches_in_the_expressions_are_read(ntuples, monkeypatch):
    files, _, read = ntuples
    seen = []
    original = sys.modules["nuratio.data.reading"].as_column
    monkeypatch.setattr("nuratio.data.reading.as_column", lambda a, b: seen.append(b) or original(a, b))
    read(files, ["mll"], weight="weight", cut="count(jet) > 0")
    assert set(seen) == {"mll", "weight", "jet"}


def test_file_names_that_do_not_fit(ntuples):
    files, _, read = ntuples
    with pytest.raises(InvalidData, match=f"did you mean '{files[0].name}'"):
        read(str(files[0]) + "x", ["mll"])
    with pytest.raises(InvalidData, match=r"no file in directory '.*' matches '.*\*\.nope'"):
        read(files[0].parent / "*.nope", ["mll"])
    with pytest.raises(InvalidData, match="is named 2 times"):
        read([files[0], files[0].parent / "*"], ["mll"])
    with pytest.raises(InvalidData, match="is a directory"):
        read(files[0].parent, ["mll"])


def test_a_damaged_file_is_named(ntuples):
    files, _, read = ntuples
    files[1].write_bytes(files[1].read_bytes()[: files[1].stat().st_size // 2])
    with pytest.raises(InvalidData, match=f"{files[1].name}.*cannot be read; is it complete"):
        read(files, ["mll"])
    files[1].write_text("event,mll\n1,2\n")
    with pytest.raises(InvalidData, match=f"{files[1].name}.*cannot be read"):
        read(files, ["mll"])


def test_damage_among_the_events_is_found_when_they_are_read(tmp_path):
    path = tmp_path / "a.root"
    write_trees(path, {"events": {"x": np.random.default_rng(1).normal(size=5000)}})
    with uproot.open(path) as file:
        seek = int(file["events"]["x"].member("fBasketSeek")[0])
    content = bytearray(path.read_bytes())
    content[seek + 100 : seek + 2000] = bytes(1900)
    path.write_bytes(content)
    with pytest.raises(InvalidData, match=r"a.root', tree 'events' cannot be read"):
        read_tree(path, ["x"])


@pytest.mark.parametrize("write", [write_trees, write_ntuples])
def test_trees_are_found_by_name_and_directory(tmp_path, write):
    path = tmp_path / "a.root"
    nominal, up = events(50, 1), events(50, 1, shift=10)
    write(path, {"nominal": nominal, "sys/scale_up": up})
    with uproot.update(path) as file:
        file["sys/mass"] = np.histogram(nominal["mll"])
    varied = read_root(path, "nominal", ["mll"], variation=Variation(tree="sys/scale_up"), event_id="event")
    np.testing.assert_array_equal(varied.column("mll"), up["mll"])
    np.testing.assert_array_equal(varied.ids, nominal["event"])
    with pytest.raises(InvalidData, match="has no tree 'nominl'; did you mean 'nominal'"):
        read_root(path, "nominl", ["mll"])
    with pytest.raises(InvalidData, match=r"has no tree 'sys/mass'; .*(nominal|scale_up)"):
        read_root(path, "sys/mass", ["mll"])
    missing = Variation(tree="sys/scale_dn", name="scale down")
    with pytest.raises(InvalidData, match=r"Z, variation 'scale down' .*a\.root.*'sys/scale_dn'; did you mean 'sys/sc"):
        read_root(path, "nominal", ["mll"], variation=missing, event_id="event", label="Z")
    with pytest.warns(LeakageWarning, match="scale_up"):
        read_root(path, "nominal", ["mll"], variation=Variation(tree="sys/scale_up"))


def test_structs_are_read_field_by_field(tmp_path):
    n = 20
    arrays = {
        "evt": ak.Array([{"met": float(i), "id": {"run": 7, "lumi": i}} for i in range(n)]),
        "jets": ak.Array([[{"pt": 10.0 * k, "eta": 0.1 * i} for k in range(i % 3)] for i in range(n)]),
    }
    write_ntuples(tmp_path / "a.root", {"events": arrays})
    ak.to_parquet(ak.zip(arrays, depth_limit=1), tmp_path / "a.parquet")
    features = ["evt.met", "evt.id.lumi", "sum(jets.pt)", "max(jets.eta[jets.pt > 5], -1)"]
    i = np.arange(n)
    expected = np.stack([i, i, np.array([0, 0, 10])[i % 3], np.where(i % 3 == 2, 0.1 * i, -1)], axis=1)
    for sample in (read_tree(tmp_path / "a.root", features), read_parquet(tmp_path / "a.parquet", features)):
        np.testing.assert_allclose(sample.features, expected, rtol=1e-6)
    with pytest.raises(InvalidData, match=r"no branch 'evt.mett'; did you mean 'evt.met'"):
        read_parquet(tmp_path / "a.parquet", ["evt.mett"])


def test_a_leaf_list_is_read_leaf_by_leaf():
    from nuratio.data.root import _leaves

    class Leaf:
        def __init__(self, name):
            self.name = name

        def member(self, key):
            return {"fName": self.name}[key]

    class Branch(uproot.TBranch):
        def __init__(self, *leaves):
            self.leaves = [Leaf(name) for name in leaves]

        def member(self, key):
            return {"fLeaves": self.leaves}[key]

    assert _leaves("evt", Branch("met", "njet")) == ["evt.met", "evt.njet"]
    assert _leaves("mll", Branch("mll")) == []


def test_parquet_nulls_are_nan_and_text_can_be_compared(tmp_path):
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "x": pa.array([1.0, None, 3.0]),
            "process": pa.array(["Z", "W", "Z"]).dictionary_encode(),
            "when": pa.array([1, 2, 3], pa.timestamp("s")),
            "map": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int32())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet", ["x"], cut="process == 'Z'").features.ravel().tolist() == [1, 3]
    with pytest.raises(InvalidData, match=r"feature 'x'.* for 1 of 3 events [(]first: entry 1"):
        read_parquet(tmp_path / "a.parquet", ["x"])
    with pytest.raises(InvalidData, match=r"branch 'when' has type .*datetime"):
        read_parquet(tmp_path / "a.parquet", ["when"])


def test_parquet_has_no_trees(tmp_path):
    with pytest.raises(InvalidData, match="Parquet file holds no trees"):
        read_parquet(tmp_path / "a.parquet", ["x"], variation=Variation(tree="up"))


def test_an_empty_file_among_others_is_fine_and_alone_is_not(tmp_path):
    write_trees(tmp_path / "a.root", {"events": {"x": np.empty(0)}})
    write_trees(tmp_path / "b.root", {"events": {"x": np.ones(3)}})
    assert len(read_tree(tmp_path / "*.root", "x")) == 3
    with pytest.raises(InvalidData, match="there are no events"):
        read_tree(tmp_path / "a.root", "x")


def test_large_event_numbers_stay_exact(tmp_path):
    event = np.array([2**62 + 1, 2**62 + 3], dtype=np.uint64)
    write_trees(tmp_path / "a.root", {"events": {"event": event, "run": np.array([4, 4], np.uint32)}})
    assert read_tree(tmp_path / "a.root", "run", event_id="event").ids.tolist() == event.tolist()
    with pytest.raises(InvalidData, match="below 2\\^53"):
        read_tree(tmp_path / "a.root", "run", event_id="event * 1.0")


def test_a_variation_must_change_something():
    with pytest.raises(InvalidData, match="variation 'x' changes nothing"):
        Variation(name="x")
