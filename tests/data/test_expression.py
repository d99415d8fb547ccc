"""The expression language against numpy and plain loops over events."""

import awkward as ak
import numpy as np
import pytest

from nuratio.data.expression import FUNCTIONS, REDUCTIONS, as_column, compile_expression
from nuratio.errors import InvalidData

RNG = np.random.default_rng(3)
N = 200
COUNTS = RNG.poisson(1.5, N)
LISTS = [RNG.normal(30, 15, c).astype(np.float32) for c in COUNTS]
LISTS2 = [RNG.normal(0, 1, c) for c in COUNTS]
RAW = {
    "x": ak.Array(RNG.normal(size=N)),
    "y": ak.Array(RNG.uniform(0.5, 2, N).astype(np.float32)),
    "n": ak.Array(COUNTS.astype(np.int32)),
    "flags": ak.Array(RNG.integers(0, 16, N).astype(np.uint8)),
    "good": ak.Array(RNG.random(N) > 0.5),
    "run": ak.Array(np.full(N, 400_000, np.uint32)),
    "event": ak.Array(np.arange(N, dtype=np.uint64)),
    "kind": ak.Array(["signal" if k else "background" for k in RNG.random(N) > 0.5]),
    "jet": ak.Array(LISTS),
    "eta": ak.Array(LISTS2),
    "tight": ak.Array([a > 30 for a in LISTS]),
    "pair": ak.Array(RNG.normal(size=(N, 2))),
    "MC/weight": ak.Array(RNG.normal(size=N)),
    "lep.pt": ak.Array(RNG.normal(size=N)),
    "b-tag weight": ak.Array(RNG.normal(size=N)),
}
COLUMNS = {name: as_column(array, name) for name, array in RAW.items()}
V = {name: c for name, c in COLUMNS.items() if isinstance(c, np.ndarray)}


def evaluate(text, **aliases):
    return compile_expression(text, list(COLUMNS), aliases)(COLUMNS)


def refused(text, match, **aliases):
    with pytest.raises(InvalidData, match=match):
        evaluate(text, **aliases)


FLAT = {
    "x": V["x"],
    "-x + 2 * y - 1": -V["x"] + 2 * V["y"] - 1,
    "x / y ** 2": V["x"] / V["y"] ** 2,
    "n ** -1 * 0 + n // 2 + n % 2": np.where(V["n"] > 0, V["n"] // 2 + V["n"] % 2, np.nan),
    "log(y) + sqrt(y) * cosh(x) - abs(x)": np.log(V["y"]) + np.sqrt(V["y"]) * np.cosh(V["x"]) - np.abs(V["x"]),
    "arctan2(x, y)": np.arctan2(V["x"], V["y"]),
    "atan2(x, y)": np.arctan2(V["x"], V["y"]),
    "where(x > 0, x, -1)": np.where(V["x"] > 0, V["x"], -1),
    "minimum(x, y) + maximum(x, 0.1)": np.minimum(V["x"], V["y"]) + np.maximum(V["x"], 0.1),
    "0.6 < y < 1.5": (V["y"] > 0.6) & (V["y"] < 1.5),
    "(x > 0) & (y > 1) | ~good": (V["x"] > 0) & (V["y"] > 1) | ~V["good"],
    "x > 0 and y > 1 or not good": (V["x"] > 0) & (V["y"] > 1) | ~V["good"],
    "(x > 0) + (y > 1)": (V["x"] > 0).astype(int) + (V["y"] > 1),  # booleans count, as in ROOT
    "(flags & 4) != 0": V["flags"] & 4 != 0,
    "good & flags": V["good"] & (V["flags"] != 0),  # an integer flag of 2 is true
    "flags * 1000": V["flags"].astype(int) * 1000,  # no overflow of the branch's 8 bits
    "run * 10_000_000 + event": 400_000 * 10_000_000 + np.arange(N),
    "kind == 'signal'": V["kind"] == "signal",
    "MC/weight": V["MC/weight"],
    "2 * MC.weight": 2 * V["MC/weight"],
    "lep.pt - 1": V["lep.pt"] - 1,
    "get('b-tag weight') * x": V["b-tag weight"] * V["x"],
    "b-tag weight": V["b-tag weight"],
    "x\n  + y": V["x"] + V["y"],
}


@pytest.mark.parametrize("text", FLAT)
def test_a_flat_expression_is_the_same_in_numpy(text):
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(evaluate(text), FLAT[text], rtol=1e-14)


JAGGED = {
    "first(jet, -1)": lambda jet, eta: jet[0] if len(jet) else -1,
    "nth(jet, 1, -2)": lambda jet, eta: jet[1] if len(jet) > 1 else -2,
    "nth(jet, 2, default=0)": lambda jet, eta: jet[2] if len(jet) > 2 else 0,
    "count(jet)": lambda jet, eta: len(jet),
    "sum(jet)": lambda jet, eta: sum(map(float, jet)),
    "max(jet, 0)": lambda jet, eta: max(jet, default=0),
    "min(jet, 5)": lambda jet, eta: min(jet, default=5),
    "any(jet > 30)": lambda jet, eta: any(j > 30 for j in jet),
    "all(jet > 30)": lambda jet, eta: all(j > 30 for j in jet),
    "sum(jet > 30)": lambda jet, eta: sum(j > 30 for j in jet),
    "any(tight)": lambda jet, eta: any(j > 30 for j in jet),
    "~first(tight, False)": lambda jet, eta: not (len(jet) and jet[0] > 30),
    "sum(jet * (jet > 30))": lambda jet, eta: sum(float(j) for j in jet if j > 30),
    "count(jet[jet > 30])": lambda jet, eta: sum(j > 30 for j in jet),
    "count(jet[tight & (abs(eta) < 1)])": lambda jet, eta: sum(
        j > 30 and abs(e) < 1 for j, e in zip(jet, eta, strict=True)
    ),
    "first(eta[jet > 30], 9)": lambda jet, eta: next((e for j, e in zip(jet, eta, strict=True) if j > 30), 9),
    "sqrt(first(jet, 0)**2 + first(eta, 0)**2)": lambda jet, eta: np.hypot(jet[0], eta[0]) if len(jet) else 0,
    "sum(where(eta > 0, jet, -jet))": lambda jet, eta: sum(
        float(j if e > 0 else -j) for j, e in zip(jet, eta, strict=True)
    ),
    "sum(jet * n)": lambda jet, eta: sum(map(float, jet)) * len(jet),  # an event's number goes to each entry
    "first(jet, n)": lambda jet, eta: jet[0] if len(jet) else 0,
}


@pytest.mark.parametrize("text", JAGGED)
def test_a_reduction_is_a_loop_over_the_events(text):
    expected = [JAGGED[text](jet, eta) for jet, eta in zip(LISTS, LISTS2, strict=True)]
    np.testing.assert_allclose(evaluate(text), np.array(expected, dtype=float), rtol=1e-6)


def test_arrays_of_fixed_size_are_reduced_like_jagged_ones():
    pair = ak.to_numpy(RAW["pair"])
    np.testing.assert_allclose(evaluate("first(pair) - nth(pair, 1)"), pair[:, 0] - pair[:, 1])
    np.testing.assert_array_equal(evaluate("count(pair[pair > 0])"), (pair > 0).sum(axis=1))


def test_nested_lists_are_reduced_from_the_inside():
    raw = ak.Array([[[1.0, 2.0], []], [], [[3.0]]])
    columns = {"hits": as_column(raw, "hits")}
    total = compile_expression("sum(sum(hits))", columns)(columns)
    longest = compile_expression("max(count(hits), 0)", columns)(columns)
    assert total.tolist() == [3, 0, 3]
    assert longest.tolist() == [2, 0, 1]


def test_computing_in_float64_whatever_the_branch_type():
    columns = {"e": as_column(ak.Array(np.array([1e4], np.float32)), "e")}
    value = compile_expression("sqrt((e + 0.001)**2 - e**2)", columns)(columns)
    np.testing.assert_allclose(value, np.sqrt(20.000001), rtol=1e-6)  # float32 gives 0


def test_aliases_stand_for_expressions_in_each_other():
    np.testing.assert_allclose(evaluate("r2 + 1", r2="px**2 + y**2", px="2 * x"), 4 * V["x"] ** 2 + V["y"] ** 2 + 1)
    refused("a", "alias 'a' refers to itself: a -> b -> a", a="b + 1", b="a")
    refused("x", "alias 'x' is also a branch", x="y")


def test_only_the_branches_that_occur_are_asked_for():
    expression = compile_expression("first(jet, 0) + a", list(COLUMNS), {"a": "MC.weight", "unused": "y"})
    assert expression.branches == {"jet", "MC/weight"}


def test_a_name_in_the_last_part_of_a_path_must_be_unique():
    branches = ["reco/met", "truth/met", "truth/nu"]
    assert compile_expression("nu", branches).branches == {"truth/nu"}
    assert compile_expression("truth.met", branches).branches == {"truth/met"}
    with pytest.raises(InvalidData, match="may be any of the branches"):
        compile_expression("met", branches)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__",
        "x.__class__",
        "(lambda: x)()",
        "[x for x in y]",
        "f'{x}'",
        "eval('x')",
        "get(x)",
        "open('/etc/passwd')",
        "x if good else y",
        "(x := y)",
        "x; y",
        "x = 1",
        "np.load(x)",
        "first.__call__(jet)",
        "x ^ 2",
        "x @ y",
        "x is y",
        "n in jet",
        "sqrt(*x)",
        "sqrt(x, out=y)",
        "where(x > 0)",
        "first()",
    ],
)
def test_nothing_outside_the_language_is_executed(text):
    refused(text, "not allowed|no function|no branch|does not parse|get takes|not a comparison|argument")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x +* y", r"'x \+\* y' does not parse at character 4, before '\* y'"),
        ("x && y", "operators are Python's"),
        ("(x", "never closed"),
        ("", "does not parse"),
        ("xx", "no branch 'xx'; did you mean 'x'"),
        ("np.sqrt(x)", "no function 'np.sqrt'; did you mean 'sqrt'"),
        ("3 * 2", "names no branch"),
        ("jet", "jagged.*first, nth, count, sum, max, min, any, all"),
        ("abs(jet) + 1", "jagged"),
        ("first(jet)", rf"{(COUNTS == 0).sum()} of {N} events have fewer than 1 entries; give a default"),
        ("nth(jet, 1)", rf"{(COUNTS < 2).sum()} of {N} events have fewer than 2 entries; give a default"),
        ("max(jet)", rf"{(COUNTS == 0).sum()} of {N} events have no entries; give a default"),
        ("nth(jet, n, 0)", "counted from 0"),
        ("nth(jet, -1, 0)", "counted from 0"),
        ("jet[0]", r"nth\(jet, 0, default\)"),
        ("jet[1:]", "take a mask"),
        ("sum(jet[good])", "select events with cut"),
        ("x[x > 0]", "select events with cut"),
        ("sum(jet[pair > 0])", "as many entries"),
        ("sum(jet * pair)", "cannot be evaluated"),
        ("max(x, 1)", r"maximum\(a, b\) is elementwise"),
        ("sum(x)", "reduces a jagged branch"),
        ("~flags", "flags? == 0|flag == 0"),
        ("x and good", "condition is needed"),
        ("kind", "text can only be compared"),
        ("kind * 2", "cannot be evaluated"),
        ("kind == 1", "cannot be evaluated"),
    ],
)
def test_a_wrong_expression_says_what_and_where(text, match):
    refused(text, match)


@pytest.mark.parametrize("text", ["x > 0 & y > 1", "good & n > 2", "n > 2 | good", "(x) > (0) & (y) > (1)"])
def test_conditions_that_python_would_group_differently_are_refused(text):
    refused(text, r"write \(a > 1\) & \(b > 2\)")


def test_deep_nesting_is_an_error_not_a_crash():
    refused("(" * 500 + "x" + ")" * 500, "does not parse")
    refused("+".join(["x"] * 20_000), "nested too deeply")


def test_huge_constants_cost_nothing():
    assert np.isinf(evaluate("x**2 + 9**9**9**9")).all()


def test_whole_division_by_zero_is_not_a_silent_zero():
    with np.errstate(all="ignore"):
        assert np.isnan(evaluate("n % n")[COUNTS == 0]).all()
    assert evaluate("n % 2").dtype == np.int64  # exact where nothing is divided by zero


def test_missing_values_are_nan_and_missing_lists_an_error():
    assert np.isnan(as_column(ak.Array([1, None, 3]), "i")[1])
    assert as_column(ak.Array(["a", None]), "s").tolist() == ["a", ""]
    assert np.isnan(as_column(ak.Array([[1.0, None], []]), "j")[0, 1])
    with pytest.raises(InvalidData, match="'j' has 1 missing"):
        as_column(ak.Array([[1.0], None]), "j")


@pytest.mark.parametrize(
    "array", [ak.Array([{"a": 1}]), ak.Array([[{"a": 1}]]), ak.Array(np.array(["2020"], "M8[Y]")), ak.Array([["a"]])]
)
def test_a_branch_of_another_type_is_refused(array):
    with pytest.raises(InvalidData, match=r"branch 'b'.*(type|text)"):
        as_column(array, "b")


def test_every_function_has_a_value():
    for name, (_, least, _) in FUNCTIONS.items():
        value = evaluate(f"{name}({', '.join(['y > 1', '0.5', '0.5'][:least])})")
        assert value.shape == (N,), name
    for name, (_, least, _) in REDUCTIONS.items():
        value = evaluate(f"{name}({', '.join(['pair > 0', '1'][:least])})")
        assert value.shape == (N,), name


# --- hostile


def test_nothing_explodes():
    bomb = {"a0": "x"} | {f"a{i}": f"a{i - 1} + a{i - 1}" for i in range(1, 60)}
    refused("a59", "more than 10000 operations, aliases written out", **bomb)
    np.testing.assert_array_equal(evaluate("nth(jet, 1000000000000, -1)"), np.full(N, -1.0))
    np.testing.assert_array_equal(evaluate(f"nth(jet, {2**62}, -1)"), np.full(N, -1.0))
    assert np.isinf(evaluate("y + 2 ** 9 ** 9 ** 9")).all()


def test_what_numpy_and_awkward_stumble_over():
    refused("sum(where(good, jet, 1))", "lists are mixed with numbers or text")
    refused("'a' <= atan2(jet, jet)", "cannot be evaluated")
    refused(f"where(n, {10**30}, jet)", "more than 63 bits; write it with a decimal point")


def test_replaced_branches_are_expressions_of_the_branches_as_they_are():
    """Each other's replacements do not enter, wherever a branch is used; aliases see them."""
    columns = {"pt": np.array([10.0, 40.0]), "eta": np.array([0.5, 2.0])}
    replaced = {"pt": "where(eta < 1, 2, 1) * pt", "eta": "eta + pt"}

    def value(text, aliases=None):
        found = compile_expression(text, columns, aliases, replaced)
        return found({name: columns[name] for name in found.branches}).tolist()

    assert value("pt") == [20.0, 40.0]
    assert value("eta") == [10.5, 42.0]
    assert value("(pt > 15) & (eta > 11)") == [False, True]
    assert value("scaled", {"scaled": "pt / 10"}) == [2.0, 4.0]
    assert compile_expression("pt", columns, None, replaced).branches == {"pt", "eta"}
    many = {f"b{k}": " + ".join(f"b{j}" for j in range(40)) for k in range(40)}
    assert compile_expression("b0 + b1", many, None, many).branches == set(many)
    with pytest.raises(InvalidData, match="no branch 'pT' to replace"):
        compile_expression("pt", columns, None, {"pT": "2 * pt"})
