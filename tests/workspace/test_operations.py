"""Combine, prune, rename, sort, patch: the counting part as pyhf makes it, and a likelihood that says the same."""

import copy
import itertools
import math

import jsonpatch
import numpy as np
import pyhf
import pytest

import analytic
from nuratio.errors import InvalidWorkspace, UnknownName
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace


def edited(ws, change):
    spec = copy.deepcopy(ws.spec)
    change(spec)
    return Workspace(spec, ws.tables)


def rich():
    """Three quadexp nuisances with two cross terms, mu = kappa**2, kappa the POI; axes and a bound on kappa."""

    def change(spec):
        background = spec["unbinned"]["channels"][0]["samples"][0]
        first = background["modifiers"][0]
        for name, columns in (("bend", ("d2", "d1")), ("curl", ("d2", "d2"))):
            spec["channels"][1]["samples"][0]["modifiers"].append(analytic.normsys(name, 1.0))
            data = {key: {"column": column} for key, column in zip(("d1", "d2"), columns, strict=True)}
            background["modifiers"].append(first | {"name": name, "data": data})
        background["cross"] = [
            {"parameters": ["tilt", "curl"], "column": "d1"},
            {"parameters": ["curl", "bend"], "column": "d2"},
        ]
        draws = np.random.default_rng(5).normal(0, 0.1, (8, 8))
        background["normalisation"] = {
            "type": "cumulant",
            "parameters": ["tilt", "bend", "curl"],
            "mean": draws[0].tolist(),
            "covariance": (draws @ draws.T).tolist(),
            "error": 1e-3,
        }
        analytic.make_kappa_the_poi(spec)

    return edited(analytic.workspace(), change)


def twice_nll(ws, values):
    """At parameters given by name, the others at their initial values."""
    model = ws.model()
    pars = dict(zip(model.config.par_names, model.config.suggested_init(), strict=True))
    assert set(values) <= set(pars)
    return model.twice_nll(np.array(list((pars | values).values())), ws.data(model))


def points(ws, rng, n=3):
    model = ws.model()
    for _ in range(n):
        yield dict(zip(model.config.par_names, analytic.random_point(model, rng), strict=True))


def constraint(alpha):
    """-2 ln of a standard Gaussian."""
    return alpha**2 + math.log(2 * math.pi)


def there_and_back(ws, path):
    ws.save(path)
    back = Workspace.load(path)
    assert back.digest() == ws.digest()
    return back


# --- the counting part

SPEC = analytic.binned_spec()
OPERATIONS = [
    lambda w: w.prune(modifiers=["shape", "stat"]),
    lambda w: w.prune(modifier_types=["staterror"], samples=["data driven"]),
    lambda w: w.prune(channels=["A"]),
    lambda w: w.rename(modifiers={"shape": "s", "norm": "shape"}, samples={"signal": "s"}),
    lambda w: w.rename(channels={"A": "B", "B": "A"}, measurements={"m": "n"}),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_binned_workspaces_are_pyhfs(operation):
    assert operation(Workspace.from_pyhf(SPEC)).spec == dict(operation(pyhf.Workspace(SPEC)))


@pytest.mark.parametrize(
    "operation",
    [
        lambda w: w.prune(modifiers=["tilt"]),
        lambda w: w.prune(samples=["signal"]),
        lambda w: w.prune(channels=["SR"]),
        lambda w: w.rename(modifiers={"tilt": "slope", "mu": "sig"}, samples={"background": "b"}),
        lambda w: w.rename(channels={"SR": "signal region"}, measurements={"analytic": "m"}),
    ],
)
def test_the_counting_part_is_pyhfs(analytic_workspace, operation):
    before = copy.deepcopy(analytic_workspace.spec)
    new = operation(analytic_workspace)
    assert new.counting == dict(operation(pyhf.Workspace(analytic_workspace.counting)))
    assert analytic_workspace.spec == before
    assert all(table is analytic_workspace.tables[name] for name, table in new.tables.items())


@pytest.mark.parametrize("join", ["outer", "left outer", "right outer"])
@pytest.mark.parametrize("merge", [False, True])
def test_binned_workspaces_are_combined_as_pyhf_does(join, merge):
    other = copy.deepcopy(SPEC)
    other["channels"] = other["channels"][1:]
    other["channels"][0]["samples"][1]["modifiers"] = []
    other["observations"] = other["observations"][:1]
    if join == "outer":
        other["channels"][0]["name"] = other["observations"][0]["name"] = "C"
    combined = Workspace.combine(Workspace(SPEC), Workspace(other), join, merge)
    assert combined.spec == dict(pyhf.Workspace.combine(pyhf.Workspace(SPEC), pyhf.Workspace(other), join, merge))


# --- combine


@pytest.fixture(scope="module")
def second():
    """Another analytic analysis with its own channels, which shares mu, norm, tilt and xs with the first."""
    ws = analytic.workspace(seed=1, n_signal=40.0)
    return ws.rename(channels={"CR": "CR2", "SR": "SR2"}, modifiers={"stat": "stat2"})


@pytest.mark.parametrize("join", ["outer", "left outer", "right outer"])
def test_a_combination_is_the_sum_but_for_shared_constraints(analytic_workspace, second, join, rng, tmp_path):
    both = there_and_back(Workspace.combine(analytic_workspace, second, join), tmp_path / "both.zip")
    assert both.counting == dict(
        pyhf.Workspace.combine(pyhf.Workspace(analytic_workspace.counting), pyhf.Workspace(second.counting), join)
    )
    assert sorted(both.unbinned) == ["SR", "SR2"]
    assert len(both.tables) == 8
    for values in points(both, rng):
        parts = [
            twice_nll(ws, {k: v for k, v in values.items() if not k.startswith(other)})
            for ws, other in ((analytic_workspace, "stat2["), (second, "stat["))
        ]
        shared = sum(constraint(values[name]) for name in ("norm", "tilt", "xs"))
        assert twice_nll(both, values) == pytest.approx(sum(parts) - shared, rel=1e-12)


def test_a_common_channel_is_taken_once(analytic_workspace, second):
    both = Workspace.combine(analytic_workspace, second, "outer")
    again = Workspace.combine(both, analytic_workspace, "outer")
    assert again.sorted().spec == both.sorted().spec
    copied = {name: RatioTable(t.names, t.blocks.copy(), t.events) for name, t in analytic_workspace.tables.items()}
    assert len(Workspace.combine(both, Workspace(analytic_workspace.spec, copied), "outer").tables) == 8


def test_an_outer_join_needs_equal_events(analytic_workspace):
    observed = np.array(analytic_workspace.tables["observed features"]["x"])
    observed[0] = 0.5 * (observed[0] + 5)
    other = analytic.workspace(observed=observed)
    assert other.counting == analytic_workspace.counting
    with pytest.raises(InvalidWorkspace, match="'SR' is in both workspaces with different content"):
        Workspace.combine(analytic_workspace, other, "outer")
    for join, chosen in (("left outer", analytic_workspace), ("right outer", other)):
        assert Workspace.combine(analytic_workspace, other, join).digest() == chosen.digest()


def test_a_channel_is_unbinned_only_if_its_side_is_taken(analytic_workspace):
    binned = Workspace.from_pyhf(analytic_workspace.counting)
    assert Workspace.combine(analytic_workspace, binned, "left outer").digest() == analytic_workspace.digest()
    taken = Workspace.combine(analytic_workspace, binned, "right outer")
    assert (taken.unbinned, taken.tables) == ({}, {})
    with pytest.raises(InvalidWorkspace, match="different content"):
        Workspace.combine(analytic_workspace, binned, "outer")


def test_what_cannot_be_combined(analytic_workspace, second):
    with pytest.raises(UnknownName, match="did you mean 'outer'"):
        Workspace.combine(analytic_workspace, second, "outr")
    with pytest.raises(InvalidWorkspace, match="measurements in common"):
        Workspace.combine(analytic_workspace, second)
    with pytest.raises(InvalidWorkspace, match=r"channels \['SR'\] are in both workspaces and unbinned"):
        Workspace.combine(analytic_workspace, analytic_workspace, "outer", merge_channels=True)
    one_stat = second.rename(modifiers={"stat2": "stat"})
    with pytest.raises(InvalidWorkspace, match="'stat' is in channel 'CR' on the left and in 'CR2' on the right"):
        Workspace.combine(analytic_workspace, one_stat, "outer")
    with pytest.raises(InvalidWorkspace, match="only merge channels"):
        Workspace.combine(analytic_workspace, second, "none", merge_channels=True)
    codes = {"normsys": {"interpcode": "code1"}, "histosys": {"interpcode": "code4p"}}
    with pytest.raises(InvalidWorkspace, match="interpolate differently"):
        Workspace.combine(
            analytic_workspace, edited(second, lambda s: s["unbinned"].update(modifier_settings=codes)), "outer"
        )
    with pytest.raises(InvalidWorkspace, match=r"unbinned.poi is 'kappa' on the left and None on the right"):
        Workspace.combine(rich(), second.rename(measurements={"analytic": "other"}))
    left = rich()
    right = left.rename(channels={"CR": "C", "SR": "S"}, modifiers={"stat": "t"})
    right.spec["unbinned"]["parameters"][0]["expression"] = "kappa"
    with pytest.raises(InvalidWorkspace, match="parameter 'mu' is declared as"):
        Workspace.combine(left, right, "outer")
    assert (
        Workspace.combine(left, right, "left outer").spec["unbinned"]["parameters"]
        == left.spec["unbinned"]["parameters"]
    )


# --- prune


@pytest.mark.parametrize("gone", [["bend"], ["tilt"], ["curl"], ["tilt", "bend", "curl"]])
def test_a_pruned_shape_nuisance_is_one_held_at_zero(gone, rng, tmp_path):
    ws = rich()
    new = there_and_back(ws.prune(modifiers=gone), tmp_path / "new")
    for values in points(new, rng):
        held = twice_nll(ws, values | dict.fromkeys(gone, 0.0))
        assert twice_nll(new, values) == pytest.approx(held - len(gone) * constraint(0.0), rel=1e-12)
    background = new.spec["unbinned"]["channels"][0]["samples"][0]
    assert ("cross" in background) == (gone in (["bend"], ["tilt"]))
    assert ("normalisation" in background) == (len(gone) == 1)


def test_ratiosys_is_the_type_of_all_shapes(rng, tmp_path):
    ws = rich()
    new = there_and_back(ws.prune(modifier_types=["ratiosys"]), tmp_path / "new")
    assert new.counting == ws.counting
    straight = edited(ws, lambda s: s["unbinned"]["channels"][0]["samples"][0].update(modifiers=[], cross=[]))
    del straight.spec["unbinned"]["channels"][0]["samples"][0]["normalisation"]
    for values in points(ws, rng):
        assert twice_nll(new, values) == pytest.approx(twice_nll(straight, values), rel=1e-14)


def test_pruned_channels_take_their_files_along(analytic_workspace, second, tmp_path):
    both = Workspace.combine(analytic_workspace, second, "outer")
    back = there_and_back(both.prune(channels=["SR2", "CR2"]), tmp_path / "back")
    assert back.digest() == analytic_workspace.digest()
    assert sorted(back.tables) == sorted(analytic_workspace.tables)


def test_a_pruned_sample_is_one_without_events(analytic_workspace, rng):
    patched = [{"op": "replace", "path": "/measurements/0/config/poi", "value": ""}]
    new = analytic_workspace.prune(samples=["signal"]).patch(patched)
    for values in points(new, rng):
        with_signal = twice_nll(analytic_workspace, values | {"mu": 0.0, "xs": 0.0})
        assert twice_nll(new, values) == pytest.approx(with_signal - constraint(0.0), rel=1e-12)


def test_parameters_follow_their_normfactor():
    new = rich().prune(modifiers=["mu"])
    assert new.spec["unbinned"]["parameters"] == []
    with pytest.raises(InvalidWorkspace, match=r"parameter 'mu' = 'kappa \*\* 2' uses 'kappa', which would be gone"):
        rich().prune(modifiers=["kappa"])
    of_xs = edited(rich(), lambda s: s["unbinned"]["parameters"][0].update(expression="kappa + xs"))
    with pytest.raises(InvalidWorkspace, match="uses 'xs'"):
        of_xs.prune(modifiers=["xs"])


def test_a_shape_needs_its_nuisance(analytic_workspace):
    with pytest.raises(InvalidWorkspace, match=r"declares the nuisance 'tilt' .* or the type 'ratiosys' too"):
        analytic_workspace.prune(modifier_types=["normsys"])
    analytic_workspace.prune(modifier_types=["normsys", "ratiosys"]).validate()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("modifiers", "tillt", "no modifier 'tillt'; did you mean 'tilt'"),
        ("modifier_types", "ratiosis", "no modifier type 'ratiosis'; did you mean 'ratiosys'"),
        ("samples", "signl", "no sample 'signl'; did you mean 'signal'"),
        ("channels", "SRR", "no channel 'SRR'; did you mean 'SR'"),
        ("measurements", "analitic", "no measurement 'analitic'; did you mean 'analytic'"),
    ],
)
def test_unknown_names(analytic_workspace, kind, name, message):
    with pytest.raises(UnknownName, match=message):
        analytic_workspace.prune(**{kind: [name]})
    if kind != "modifier_types":
        with pytest.raises(UnknownName, match=message):
            analytic_workspace.rename(**{kind: {name: "x"}})


def test_pyhf_refuses_in_our_words(analytic_workspace):
    with pytest.raises(InvalidWorkspace):
        analytic_workspace.prune(samples=["signal", "background"])
    with pytest.raises(InvalidWorkspace):
        analytic_workspace.prune(measurements=["analytic"])


# --- rename

NAMES = {"tilt": "bend", "bend": "tilt", "kappa": "k", "mu": "mu sig", "norm": "zz", "xs": "aa", "stat": "gamma"}


def test_a_renamed_workspace_says_the_same(rng, tmp_path):
    ws = edited(rich(), lambda s: s["unbinned"]["parameters"][0].update(expression="kappa ** 2 + 0.1 * bend"))
    ws.spec["measurements"][0]["config"]["parameters"] = [
        {"name": "kappa", "inits": [0.8]},
        {"name": "xs", "inits": [0.1]},
    ]
    new = ws.rename(NAMES, {"signal": "s", "background": "zb"}, {"SR": "A", "CR": "B"}, {"analytic": "m"})
    new = there_and_back(new, tmp_path / "new")
    assert new.model().config.poi_name == "k"
    assert sorted(new.unbinned["A"]["reference"]["fractions"]) == ["s", "zb"]
    assert new.spec["unbinned"]["axes"][0]["channel"] == "B"
    assert new.spec["unbinned"]["parameters"][0] == {"name": "mu sig", "expression": "k ** 2 + 0.1 * tilt"}
    for values in points(ws, rng):
        renamed = {
            NAMES.get(n.split("[")[0], n.split("[")[0]) + n[len(n.split("[")[0]) :]: v for n, v in values.items()
        }
        assert twice_nll(new, renamed) == pytest.approx(twice_nll(ws, values), rel=1e-12)
    back = {b: a for a, b in NAMES.items()}
    undone = new.rename(back, {"s": "signal", "zb": "background"}, {"A": "SR", "B": "CR"}, {"m": "analytic"})
    assert undone.digest() == ws.digest() != new.digest()


def test_functions_are_no_parameters():
    ws = edited(rich(), lambda s: s["unbinned"]["parameters"][0].update(expression="exp(exp) - exp(1)"))
    ws.spec["unbinned"]["parameters"][1]["name"] = ws.spec["unbinned"]["poi"] = "exp"
    new = ws.rename({"exp": "kappa"})
    assert new.spec["unbinned"]["parameters"][0]["expression"] == "exp(kappa) - exp(1)"
    new.validate()


def test_a_long_sum_is_renamed_as_it_was_written():
    ws = edited(rich(), lambda s: s["unbinned"]["parameters"][0].update(expression="kappa*1.50" + "+kappa" * 800))
    new = ws.rename({"kappa": "κ"})
    assert new.spec["unbinned"]["parameters"][0]["expression"] == "κ*1.50" + "+κ" * 800


@pytest.mark.parametrize("name", ["k appa", "lambda", "2k"])
def test_names_in_expressions_must_be_names(name):
    with pytest.raises(InvalidWorkspace, match=r"the expression 'kappa \*\* 2' uses it"):
        rich().rename({"kappa": name})


# --- sorted, digest


def shuffled(ws):
    """Every list in reverse, the normalisation's rows with it, and other file ids."""

    def change(spec):
        extension = spec["unbinned"]
        for lists in (spec["channels"], spec["observations"], extension["parameters"], extension["files"]):
            lists.reverse()
        for channel in itertools.chain(spec["channels"], extension["channels"]):
            channel["samples"].reverse()
            for sample in channel["samples"]:
                sample.get("modifiers", []).reverse()
                sample.get("cross", []).reverse()
        norm = next(s for s in extension["channels"][0]["samples"] if "cross" in s)["normalisation"]
        order = [2, 1, 0, 5, 4, 3, 7, 6]
        norm["parameters"].reverse()
        norm["mean"] = [norm["mean"][i] for i in order]
        norm["covariance"] = [[norm["covariance"][i][j] for j in order] for i in order]

    return edited(ws, change)


def test_order_does_not_matter(rng):
    ws = rich()
    other = shuffled(ws)
    assert other.spec != ws.spec
    assert other.sorted().spec == ws.sorted().spec
    assert other.digest() == ws.digest() == ws.sorted().digest()
    assert len(ws.digest("md5")) == 32
    for values in points(ws, rng):
        assert twice_nll(ws.sorted(), values) == pytest.approx(twice_nll(ws, values), rel=1e-13)
        assert twice_nll(other, values) == pytest.approx(twice_nll(ws, values), rel=1e-13)


def test_without_unbinned_channels_the_digest_is_pyhfs():
    assert Workspace.from_pyhf(SPEC).digest() == pyhf.utils.digest(pyhf.Workspace.sorted(pyhf.Workspace(SPEC)))
    with pytest.raises(UnknownName, match="did you mean"):
        Workspace.from_pyhf(SPEC).digest("sha265")


def test_every_change_changes_the_digest():
    ws = rich()
    changes = [
        lambda s: s["observations"][0]["data"].reverse(),
        lambda s: s["unbinned"].update(poi="xs"),
        lambda s: s["unbinned"]["parameters"][0].update(expression="kappa ** 3"),
        lambda s: s["unbinned"]["channels"][0]["samples"][1]["ratio"].update(column="background"),
        lambda s: s["unbinned"]["channels"][0]["samples"][0]["normalisation"]["mean"].reverse(),
    ]
    digests = [edited(ws, change).digest() for change in changes]
    table = ws.tables["pool"]
    blocks = table.blocks.copy()
    blocks[0, 0, 0] = np.nextafter(blocks[0, 0, 0], np.inf)
    digests.append(Workspace(ws.spec, {**ws.tables, "pool": RatioTable(table.names, blocks, table.events)}).digest())
    names = tuple(reversed(table.names))
    digests.append(Workspace(ws.spec, {**ws.tables, "pool": RatioTable(names, table.blocks, table.events)}).digest())
    assert len({ws.digest(), *digests}) == len(changes) + 3


def test_provenance_and_file_names_mean_nothing(tmp_path):
    ws = rich()
    told = edited(ws, lambda s: s["unbinned"].update(provenance={"versions": {"numpy": "2"}}))
    told.spec["unbinned"]["files"][0]["uri"] = "somewhere/else.npy"
    assert there_and_back(told, tmp_path / "told").digest() == ws.digest()


# --- patch


def test_a_patch_may_touch_both_parts(tmp_path):
    ws = rich()
    operations = [
        {"op": "replace", "path": "/channels/0/samples/0/data", "value": [110.0, 111.0]},
        {"op": "replace", "path": "/unbinned/parameters/0/expression", "value": "kappa"},
    ]
    new = there_and_back(ws.patch(operations), tmp_path / "new")
    assert new.counting == dict(pyhf.Workspace(jsonpatch.apply_patch(ws.counting, operations[:1])))
    assert twice_nll(ws.patch(operations[1:]), {"kappa": 1.44}) == pytest.approx(twice_nll(ws, {"kappa": 1.2}))
    assert ws.patch([]).spec == ws.spec


def test_a_patch_of_a_patchset(analytic_workspace):
    operations = [{"op": "replace", "path": "/channels/1/samples/1/data", "value": [50.0]}]
    one = pyhf.patchset.Patch({"metadata": {"name": "a", "values": [1]}, "patch": operations})
    assert analytic_workspace.patch(one).digest() == analytic_workspace.patch(operations).digest()


def test_what_a_patch_cannot_do(analytic_workspace):
    file = analytic_workspace.spec["unbinned"]["files"][0]
    for operations, message in (
        ([{"op": "remove", "path": "/nowhere"}], "the patch does not apply"),
        ([{"op": "frobnicate", "path": "/channels"}], "the patch does not apply"),
        (["channels"], "the patch does not apply"),
        ([{"op": "replace", "path": "", "value": []}], "a workspace is a JSON object"),
        ([{"op": "remove", "path": "/channels/1"}], "no companion channel 'SR'"),
        ([{"op": "add", "path": "/unbinned/files/-", "value": file | {"id": "new"}}], "event file 'new'"),
        ([{"op": "replace", "path": "/unbinned/files/0/events", "value": 3}], "event file 'observed'"),
        ([{"op": "remove", "path": "/unbinned/files/0"}], "no file 'observed'"),
    ):
        with pytest.raises(InvalidWorkspace, match=message):
            analytic_workspace.patch(operations)
    bare = [{"op": "remove", "path": "/unbinned"}]
    assert analytic_workspace.patch(bare).spec == analytic_workspace.counting


def test_the_digest_does_not_depend_on_the_layout_of_a_table(analytic_workspace):
    plain = {n: RatioTable(t.names, np.ascontiguousarray(t.values)) for n, t in analytic_workspace.tables.items()}
    assert plain["pool"].size > analytic_workspace.tables["pool"].size
    assert Workspace(analytic_workspace.spec, plain).digest() == analytic_workspace.digest()
    values = np.array(plain["pool"].values)
    values[1, 3999] *= 1 + 1e-15
    other = {**plain, "pool": RatioTable(plain["pool"].names, values)}
    assert Workspace(analytic_workspace.spec, other).digest() != analytic_workspace.digest()
