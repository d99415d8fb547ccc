"""HS3 documents: there and back again, the standard's structure, what cannot be said, documents of other packages."""

import contextlib
import copy
import json
from pathlib import Path

import jsonpatch
import numpy as np
import pytest

import analytic
from nuratio.errors import InvalidWorkspace, UnknownName, UnusedWarning
from nuratio.interop import from_hs3, to_hs3
from nuratio.workspace.workspace import Workspace

PUBLISHED = Path(__file__).parents[2] / ".." / "shared" / "data" / "workspaces"


def published(region, signal):
    folder = PUBLISHED / "sbottom_multib" / region
    if not folder.is_dir():
        pytest.skip(f"no workspaces in {folder}")
    patch = json.loads((folder / f"patch.sbottom_{signal}.json").read_text())
    spec = jsonpatch.apply_patch(json.loads((folder / "BkgOnly.json").read_text()), patch)
    channels = [c["name"] for c in spec["channels"]]
    spec["observations"] = [o for o in spec["observations"] if o["name"] in channels]
    return Workspace(spec)


def sleptons():
    path = PUBLISHED / "ATLAS-SUSY-2018-16_Sleptons_bkgonly.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    spec = json.loads(path.read_text())
    spec["channels"], spec["measurements"][0]["config"]["poi"] = spec["channels"][:8], ""
    kept = [c["name"] for c in spec["channels"]]
    spec["observations"] = [o for o in spec["observations"] if o["name"] in kept]
    parameters = spec["measurements"][0]["config"]["parameters"]
    names = {m["name"] for c in spec["channels"] for s in c["samples"] for m in s["modifiers"]}
    spec["measurements"][0]["config"]["parameters"] = [p for p in parameters if p["name"] in names]
    return Workspace(spec)


def expressions():
    spec = analytic.counting(55)
    parameters = [{"name": "mu", "expression": "kappa**2 - 2 * sqrt(kappa)"}]
    parameters.append({"name": "kappa", "inits": [0.5], "bounds": [[0.1, 3.0]], "fixed": True})
    spec["measurements"] = [{"name": "m", "config": {"poi": "", "parameters": []}}]
    spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "parameters": parameters, "poi": "kappa"}
    return Workspace(spec)


def settings():
    spec = analytic.binned_spec()
    codes = {"normsys": {"interpcode": "code1"}, "histosys": {"interpcode": "code0"}}
    spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "modifier_settings": codes}
    spec["unbinned"]["axes"] = [{"channel": "A", "name": "m [GeV]", "edges": [10.0, 20.0, 50.0]}]
    return Workspace(spec)


def measurements():
    spec = analytic.binned_spec()
    second = copy.deepcopy(spec["measurements"][0]) | {"name": "other"}
    second["config"]["parameters"][0] |= {"sigmas": [0.05], "fixed": True}
    second["config"]["parameters"] += [
        {"name": "norm", "bounds": [[-3.0, 3.0]], "inits": [0.5]},
        {"name": "stat_A", "inits": [1.0, 1.1], "fixed": True},
    ]
    return Workspace(spec | {"measurements": [*spec["measurements"], second]})


WORKSPACES = {
    "counting": lambda: Workspace(analytic.counting(55)),
    "every modifier": lambda: Workspace(analytic.binned_spec()),
    "expressions": expressions,
    "settings": settings,
    "measurements": measurements,
    "unbinned": analytic.workspace,
    "a binned channel unbinned": lambda: Workspace(analytic.binned_spec(per_bin=False)).unbin("B"),
    "coarse cells": lambda: Workspace(analytic.binned_spec()).unbin("B"),
    "sbottom A": lambda: published("RegionA", "1300_205_60"),
    "sbottom C": lambda: published("RegionC", "1300_205_60"),
    "sleptons": sleptons,
}


def document(workspace, **options):
    """What a file holds."""
    return json.loads(json.dumps(to_hs3(workspace, **options), allow_nan=False))


@pytest.mark.parametrize("name", WORKSPACES)
def test_there_and_back_again(name):
    workspace = WORKSPACES[name]()
    assert from_hs3(document(workspace), workspace.tables).digest() == workspace.digest()


@pytest.mark.parametrize("name", ["counting", "every modifier", "sbottom C"])
def test_there_and_back_again_without_our_own_part(name):
    workspace = WORKSPACES[name]()
    content = document(workspace)
    del content["misc"]
    back = from_hs3(content)
    spec, expected = back.sorted().spec, workspace.sorted().spec
    assert (spec["channels"], spec["observations"]) == (expected["channels"], expected["observations"])
    theirs, ours = back.model().config, workspace.model().config
    assert theirs.par_names == ours.par_names
    assert theirs.suggested_fixed() == ours.suggested_fixed()
    np.testing.assert_array_equal(theirs.suggested_init(), ours.suggested_init())
    np.testing.assert_array_equal(theirs.suggested_bounds(), ours.suggested_bounds())
    assert (theirs.poi_name, theirs.auxdata) == (ours.poi_name, ours.auxdata)


@pytest.mark.parametrize("name", ["expressions", "settings", "measurements"])
def test_the_standard_part_alone_has_the_same_likelihood(name, rng):
    workspace = WORKSPACES[name]()
    content = document(workspace)
    del content["misc"]
    back = from_hs3(content)
    assert back.measurements == workspace.measurements
    for m in workspace.measurements:
        ours, theirs = workspace.model(m), back.model(m)
        assert theirs.config.poi_name == ours.config.poi_name
        for _ in range(3):
            theta = analytic.random_point(ours, rng, 0.2)
            expected = ours.twice_nll(theta, workspace.data(ours))
            assert theirs.twice_nll(theta, back.data(theirs)) == pytest.approx(expected, rel=1e-12)


def test_explicit_constraints_come_back(rng):
    workspace = WORKSPACES["every modifier"]()
    content = document(workspace, explicit=True)
    kinds = {m["type"] for d in content["distributions"] for s in d.get("samples", []) for m in s["modifiers"]}
    assert kinds == {"normfactor", "normsys", "histosys", "shapefactor"}
    back = from_hs3(content)
    ours, theirs = workspace.model(), back.model()
    assert theirs.config.par_names == ours.config.par_names
    assert theirs.config.suggested_fixed() == ours.config.suggested_fixed()
    for _ in range(5):
        theta = analytic.random_point(ours, rng, 0.2)
        expected = ours.twice_nll(theta, workspace.data(ours))
        assert theirs.twice_nll(theta, back.data(theirs)) == pytest.approx(expected, rel=1e-12)


def test_the_document_wins_over_our_own_part():
    content = document(WORKSPACES["measurements"]())
    point = next(p for p in content["parameter_points"] if p["name"] == "values_other")
    next(p for p in point["parameters"] if p["name"] == "norm")["value"] = 0.7
    config = from_hs3(content).model("other").config
    assert config.suggested_init()[config.par_names.index("norm")] == 0.7


def test_one_measurement_of_several():
    workspace = WORKSPACES["measurements"]()
    content = to_hs3(workspace, "other")
    assert [a["name"] for a in content["analyses"]] == ["other"]
    assert from_hs3(content).digest() == workspace.prune(measurements=["m"]).digest()
    assert from_hs3(to_hs3(workspace), analysis="m").digest() == workspace.prune(measurements=["other"]).digest()
    with pytest.raises(UnknownName, match="did you mean 'other'"):
        to_hs3(workspace, "othr")


def test_every_reference_in_the_document_leads_somewhere(analytic_workspace):
    content = to_hs3(WORKSPACES["measurements"]())
    names = {kind: [i["name"] for i in content[kind]] for kind in content if kind not in ("metadata", "misc")}
    for likelihood in content["likelihoods"]:
        assert set(likelihood["distributions"] + likelihood["aux_distributions"]) <= set(names["distributions"])
        assert set(likelihood["data"]) <= set(names["data"])
    for analysis in content["analyses"]:
        assert analysis["likelihood"] in names["likelihoods"]
        assert analysis["init"] in names["parameter_points"]
        assert set(analysis["domains"]) <= set(names["domains"])
    parameters = {p["name"] for p in content["parameter_points"][0]["parameters"]}
    for d in content["distributions"]:
        for sample in d.get("samples", []):
            for m in sample["modifiers"]:
                assert {m["parameter"]} if "parameter" in m else set(m["parameters"]) <= parameters
    assert all(set(axis) <= {"name", "min", "max", "nbins", "edges"} for d in content["data"] for axis in d["axes"])


def test_an_expression_is_a_generic_function():
    (function,) = to_hs3(expressions())["functions"]
    text = "(pow(kappa, 2) - (2 * sqrt(kappa)))"
    assert function == {"name": "mu", "type": "generic_function", "expression": text}
    content = to_hs3(expressions())
    assert content["analyses"][0]["parameters_of_interest"] == ["kappa"]
    assert {"name": "kappa", "value": 0.5, "const": True} in content["parameter_points"][0]["parameters"]


def test_an_expression_that_is_nested_too_deeply_is_refused():
    content = to_hs3(expressions())
    content["functions"][0]["expression"] = "kappa" + "+kappa" * 6000
    with pytest.raises(InvalidWorkspace, match=r"its expression 'kappa\+kappa.* is not understood: maximum recursion"):
        from_hs3(content)


# --- unbinned channels


def test_observed_events_are_there(analytic_workspace):
    (data,) = (d for d in document(analytic_workspace)["data"] if d["type"] == "unbinned")
    assert [a["name"] for a in data["axes"]] == ["x", "background", "signal"]
    x, background, _ = np.array(data["entries"]).T
    np.testing.assert_array_equal(x, analytic_workspace.tables["observed features"]["x"])
    np.testing.assert_array_equal(background, analytic_workspace.tables["observed"]["background"])
    assert all(
        axis["min"] <= min(column) and max(column) <= axis["max"]
        for axis, column in zip(data["axes"], np.array(data["entries"]).T, strict=True)
    )
    assert all(d["type"] == "binned" for d in to_hs3(analytic_workspace, events=False)["data"])


def test_weighted_events_and_columns_of_several_channels():
    workspace = Workspace(analytic.binned_spec(per_bin=False)).unbin("A").unbin("B")
    data = {d["name"]: d for d in to_hs3(workspace)["data"]}
    assert data["obsEvents_A"]["weights"] == [11.0, 23.0]
    assert {a["name"] for a in data["obsEvents_A"]["axes"]} == {"A_signal", "data driven"}
    assert {a["name"] for a in data["obsEvents_B"]["axes"]} == {"B_signal", "background"}


def test_tables_lie_beside_the_document(analytic_workspace, tmp_path):
    analytic_workspace.save(tmp_path / "ws")
    loaded = Workspace.load(tmp_path / "ws")
    content = document(loaded)
    assert content["misc"]["nuratio"]["unbinned"] == loaded.spec["unbinned"]
    assert from_hs3(content, tmp_path / "ws").digest() == analytic_workspace.digest()
    with pytest.raises(InvalidWorkspace, match="name the workspace that holds them"):
        from_hs3(content)
    content["misc"]["nuratio"]["unbinned"]["files"][0]["sha256"] = "1" * 64
    with pytest.raises(InvalidWorkspace, match="checksum"):
        from_hs3(content, tmp_path / "ws")


BACKGROUND = {"type": "generic_dist", "expression": "exp(-x/5) * exp(tilt * (x - 5) / 50)"}
SIGNAL = {"type": "gaussian_dist", "x": "x", "mean": 5.0, "sigma": 1.0}
RANGE = {"SR": {"x": (0, 10)}}


def test_closed_forms_are_an_extended_mixture(analytic_workspace):
    densities = {"SR": {"background": BACKGROUND, "signal": SIGNAL}}
    content = document(analytic_workspace, densities=densities, ranges=RANGE)
    likelihood = content["likelihoods"][0]
    assert likelihood["distributions"] == ["model_CR", "events_SR"]
    assert likelihood["data"] == ["obsData_CR", "obsEvents_SR"]
    assert likelihood["aux_distributions"] == ["tiltConstraint", "xsConstraint"]  # norm's is that of model_CR
    mixed = next(d for d in content["distributions"] if d["name"] == "events_SR")
    assert mixed["coefficients"] == ["yield_SR_background", "yield_SR_signal"]
    functions = {f["name"]: f for f in content["functions"]}
    assert functions["yield_SR_signal"]["factors"] == [60.0, "mu", "xs_SR_signal"]
    (data,) = (d for d in content["data"] if d["type"] == "unbinned")
    assert data["axes"] == [{"name": "x", "min": 0.0, "max": 10.0}]
    assert from_hs3(content, analytic_workspace.tables).digest() == analytic_workspace.digest()


@pytest.mark.parametrize("code", ["code1", "code4"])
@pytest.mark.parametrize(("hi", "lo"), [(1.2, 0.9), (0.7, 1.1), (1.0, 1.0)])
def test_yields_interpolate_as_pyhf(code, hi, lo):
    from nuratio.interop.hs3.events import _normsys
    from nuratio.model.interpolation import MULTIPLICATIVE

    text = _normsys("SR", "b", {"name": "a", "data": {"hi": hi, "lo": lo}}, code)["expression"]
    for a in (-2.5, -1.0, -0.3, 0.0, 0.6, 1.0, 1.7):
        expected = MULTIPLICATIVE[code](np.array([lo]), np.array([hi]))(np.array([a]))[0]
        assert eval(text, {"pow": pow, "abs": abs, "a": a}) == pytest.approx(expected[0], rel=1e-13)


@pytest.mark.parametrize(
    ("densities", "ranges", "message"),
    [
        ({"CR": {}}, {}, "no unbinned channel 'CR'"),
        ({"SR": {"background": BACKGROUND, "signal": SIGNAL}}, {}, "densities but no ranges"),
        ({"SR": {"background": BACKGROUND}}, RANGE, r"no density is given for samples \['signal'\]"),
        ({"SR": {"background": SIGNAL, "signal": SIGNAL}}, RANGE, "'background': the shape depends on 'tilt'"),
        ({"SR": {"background": BACKGROUND, "sgnal": SIGNAL}}, RANGE, "did you mean 'signal'"),
        ({}, {"SR": {"y": (0, 1)}}, "no feature 'y'"),
        ({}, {"SR": {"x": (0, 1)}}, r"'x' is outside \[0, 1\] for \d+ observed events"),
    ],
)
def test_closed_forms_that_do_not_fit(densities, ranges, message, analytic_workspace):
    with pytest.raises((InvalidWorkspace, UnknownName), match=message):
        to_hs3(analytic_workspace, densities=densities, ranges=ranges)


def test_a_yield_that_is_no_product(analytic_workspace):
    workspace = Workspace(copy.deepcopy(analytic_workspace.spec), analytic_workspace.tables)
    signal = workspace.spec["channels"][1]["samples"][1]["modifiers"]
    signal.append({"name": "bins", "type": "shapesys", "data": [3.0]})
    with pytest.raises(InvalidWorkspace, match="which shapesys 'bins' is not"):
        to_hs3(workspace, densities={"SR": {"background": BACKGROUND, "signal": SIGNAL}}, ranges=RANGE)


# --- what HS3 cannot say


def test_a_changed_constraint():
    spec = analytic.binned_spec()
    spec["measurements"][0]["config"]["parameters"].append({"name": "norm", "auxdata": [0.5]})
    with pytest.raises(InvalidWorkspace, match="changes the constraint"):
        to_hs3(Workspace(spec), explicit=True)


def test_two_staterrors_in_a_channel():
    spec = analytic.binned_spec()
    b = spec["channels"][0]["samples"]
    b[1]["modifiers"][-1]["name"] = "another"
    with pytest.raises(InvalidWorkspace, match=r"\['another', 'stat'\].*explicit"):
        to_hs3(Workspace(spec))
    to_hs3(Workspace(spec), explicit=True)


def test_one_name_for_two_things():
    workspace = Workspace(analytic.binned_spec()).rename(modifiers={"norm": "model_A"})
    with pytest.raises(InvalidWorkspace, match="'model_A' would be the name of 2 things"):
        to_hs3(workspace)


def test_a_workspace_that_is_not_valid():
    spec = analytic.binned_spec()
    spec["observations"].append({"name": "C", "data": [1]})
    with pytest.warns(UnusedWarning, match="'C' is no channel.* not in the document"):
        to_hs3(Workspace(spec))
    spec["observations"].pop(0)
    with pytest.raises(InvalidWorkspace, match="'A' has no observation"):
        to_hs3(Workspace(spec))


# --- documents of other packages


def axis(name, bins=2):
    return {"name": name, "min": 0.0, "max": float(bins), "nbins": bins}


def foreign(**changes):
    """As ROOT writes a small HistFactory model."""
    gaussians = [
        {"name": "LumiConstraint", "type": "gaussian_dist", "x": "nom_Lumi", "mean": "Lumi", "sigma": 0.02},
        {"name": "alpha_xConstraint", "type": "gaussian_dist", "x": "alpha_x", "mean": "nom_alpha_x", "sigma": 1.0},
    ]
    lumi = {"name": "Lumi", "parameter": "Lumi", "type": "normfactor", "constraint": "LumiConstraint"}
    x = {"name": "x", "parameter": "alpha_x", "type": "normsys", "constraint": "alpha_xConstraint"}
    x["data"] = {"hi": 1.1, "lo": 0.9}
    mu = {"name": "mu", "parameter": "mu", "type": "normfactor"}
    bins = {"name": "bins", "type": "shapesys", "parameters": ["gamma_bins_bin_0", "gamma_bins_bin_1"]}
    bins |= {"constraint": "Poisson", "data": {"vals": [0.1, 0.05]}}
    stat = {"name": "staterror", "type": "staterror", "parameters": ["gamma_stat_SR_bin_0", "gamma_stat_SR_bin_1"]}
    samples = [
        {"name": "b", "data": {"contents": [50.0, 60.0], "errors": [5.0, 3.0]}, "modifiers": [lumi, x, bins, stat]},
        {"name": "s", "data": {"contents": [5.0, 9.0]}, "modifiers": [lumi, mu]},
    ]
    channel = {"name": "model_SR", "type": "histfactory_dist", "axes": [axis("obs_x_SR")], "samples": samples}
    values = {"Lumi": 1.0, "nom_Lumi": 1.0, "alpha_x": 0.0, "nom_alpha_x": 0.0, "mu": 1.0}
    points = [{"name": n, "value": v} | ({"const": True} if n.startswith("nom") else {}) for n, v in values.items()]
    limits = {"mu": (-3.0, 5.0), "alpha_x": (-5.0, 5.0), "Lumi": (0.5, 1.5)}
    content = {
        "metadata": {"hs3_version": "0.2", "packages": [{"name": "ROOT", "version": "6.36.02"}]},
        "distributions": [channel, *gaussians],
        "data": [
            {"name": "obsData_SR", "type": "binned", "contents": [56.0, 70.0], "axes": [axis("obs_x_SR")]},
            {"name": "asimovData_SR", "type": "binned", "contents": [55.0, 69.0], "axes": [axis("obs_x_SR")]},
        ],
        "likelihoods": [
            {"name": f"simPdf_{d}", "distributions": ["model_SR"], "data": [f"{d}_SR"]}
            for d in ("obsData", "asimovData")
        ],
        "domains": [
            {
                "name": "default_domain",
                "type": "product_domain",
                "axes": [{"name": n, "min": a, "max": b} for n, (a, b) in limits.items()],
            }
        ],
        "parameter_points": [{"name": "default_values", "parameters": points}],
        "analyses": [
            {"name": n, "likelihood": n, "parameters_of_interest": ["mu"], "domains": ["default_domain"]}
            for n in ("simPdf_obsData", "simPdf_asimovData")
        ],
        "misc": {"ROOT_internal": {"ModelConfigs": {}}},
    }
    return content | changes


def test_a_document_of_root(rng):
    """Relative vals, constraints as distributions, a Poisson staterror of one sample (pyhf's shapesys)."""
    workspace = from_hs3(foreign(), analysis="simPdf_obsData")
    model = workspace.model()
    assert model.config.poi_name == "mu"
    assert model.config.channels == ["SR"]
    names = ["lumi", "alpha_x", "bins[0]", "bins[1]", "staterror[0]", "staterror[1]", "mu"]
    assert sorted(model.config.par_names) == sorted(names)
    assert model.config.suggested_bounds()[model.config.par_names.index("mu")] == [-3.0, 5.0]
    start = dict(zip(model.config.par_names, model.config.suggested_init(), strict=True))

    def twice_nll(**values):
        v = start | values
        b, s = np.array([50.0, 60.0]), np.array([5.0, 9.0])
        gamma, stat = (np.array([v[f"{n}[0]"], v[f"{n}[1]"]]) for n in ("bins", "staterror"))
        rate = v["lumi"] * (b * 1.1 ** v["alpha_x"] * gamma * stat + s * v["mu"])
        poisson = [(np.array([56.0, 70.0]), rate)]
        for g, relative in ((gamma, [0.1, 0.05]), (stat, [0.1, 0.05])):
            tau = 1 / np.array(relative) ** 2
            poisson.append((tau, tau * g))
        gauss = v["alpha_x"] ** 2 + ((v["lumi"] - 1) / 0.02) ** 2
        return gauss - 2 * sum(float(np.sum(n * np.log(m) - m)) for n, m in poisson)

    offsets = []
    for _ in range(5):
        values = {n: 1 + 0.2 * rng.uniform(-1, 1) for n in names} | {"alpha_x": 1 + rng.uniform(0, 1)}
        theta = [values[n] for n in model.config.par_names]
        offsets.append(model.twice_nll(theta, workspace.data(model)) - twice_nll(**values))
    np.testing.assert_allclose(offsets, offsets[0], atol=1e-9)


def test_a_document_of_roots_histfactory():
    """Its own writer: a constant luminosity with a constraint, Gaussian staterrors with a threshold."""
    content = foreign()
    channel, lumi, _ = content["distributions"]
    channel["statError"] = {"relThreshold": 0.06, "constraint": "Gaussian"}
    background, signal = channel["samples"]
    background["modifiers"] = [
        {"name": "x", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
        {"name": "Lumi", "type": "normfactor", "constraint_name": "LumiConstraint"},
        {"name": "mcstat", "type": "staterror"},
    ]
    signal |= {"dict": {"normalizeByTheory": True}, "modifiers": [{"name": "mu", "type": "normfactor"}]}
    signal["modifiers"].append({"name": "mcstat", "type": "staterror"})
    signal["data"]["errors"] = [1.0, 1.0]
    lumi |= {"x": "Lumi", "mean": "nominalLumi"}
    points = content["parameter_points"][0]["parameters"]
    points[0]["const"] = True
    points.append({"name": "nominalLumi", "value": 1.0, "const": True})
    content["distributions"] = [channel, lumi]
    content["analyses"], content["data"] = content["analyses"][:1], content["data"][:1]
    del content["likelihoods"][1], content["metadata"]
    model = from_hs3(content).model()
    fixed = dict(zip(model.config.par_names, model.config.suggested_fixed(), strict=True))
    assert fixed == {"lumi": True, "alpha_x": False, "mu": False, "mcstat[0]": False, "mcstat[1]": True}
    assert model.config.param_set("mcstat").width() == [pytest.approx(np.hypot(5, 1) / 55), 1.0]


def test_analyses_of_different_data_are_chosen_from():
    with pytest.raises(InvalidWorkspace, match=r"'simPdf_obsData', 'simPdf_asimovData'.*choose one"):
        from_hs3(foreign())
    with pytest.raises(UnknownName, match="did you mean 'simPdf_obsData'"):
        from_hs3(foreign(), analysis="simPdf_obsdata")


def test_the_convention_of_shapesys_can_be_named():
    def uncertainties(**options):
        workspace = from_hs3(foreign(), analysis="simPdf_obsData", **options)
        return next(m["data"] for m in workspace.spec["channels"][0]["samples"][0]["modifiers"] if m["name"] == "bins")

    assert uncertainties() == pytest.approx([5.0, 3.0])
    assert uncertainties(shapesys="absolute") == [0.1, 0.05]
    with pytest.raises(UnknownName, match="no convention 'relativ'"):
        uncertainties(shapesys="relativ")


@pytest.mark.parametrize(
    ("spelled", "code"),
    [(1, "code1"), ("log", "code1"), ({"type": "mult", "in": "exp", "out": None}, "code1"), (4, "code4")],
    ids=str,
)
def test_interpolations_as_others_spell_them(spelled, code):
    content = foreign()
    content["distributions"][0]["samples"][0]["modifiers"][1]["interpolation"] = spelled
    workspace = from_hs3(content, analysis="simPdf_obsData")
    codes = workspace.spec.get("unbinned", {}).get("modifier_settings", {"normsys": {"interpcode": "code4"}})
    assert codes["normsys"] == {"interpcode": code}


def test_bin_edges_are_kept_for_drawing():
    content = foreign()
    content["distributions"][0]["axes"] = [{"name": "m", "min": 0.0, "max": 5.0, "edges": [0.0, 1.0, 5.0]}]
    workspace = from_hs3(content, analysis="simPdf_obsData")
    assert workspace.spec["unbinned"]["axes"] == [{"channel": "SR", "name": "m", "edges": [0.0, 1.0, 5.0]}]


def test_everything_not_understood_is_one_error():
    content = foreign(extra=[])
    with pytest.raises(InvalidWorkspace, match="unknown top-level 'extra'"):
        from_hs3(content)
    content = foreign()
    channel = content["distributions"][0]
    background, signal = channel["samples"]
    background["modifiers"][1] |= {"interpolation": "poly6", "constraint": "LogNormal"}
    background["modifiers"][2]["constraint"] = "Gauss"
    background["modifiers"].append({"name": "own", "type": "custom"})
    signal["modifiers"][1]["colour"] = "red"
    channel["fancy"] = True
    content["distributions"].append({"name": "extra", "type": "gaussian_dist", "x": "mu", "mean": 1, "sigma": 1})
    with pytest.raises(InvalidWorkspace) as error:
        from_hs3(content, analysis="simPdf_obsData")
    said = str(error.value)
    for part in (
        "interpolation ['poly6']",
        "constraint 'LogNormal'",
        "shapesys 'bins': its constraint is not Poisson",
        "custom 'own'",
        "unknown 'colour'",
        "unknown 'fancy'",
        "'extra' is used by no analysis",
    ):
        assert part in said
    assert said.startswith("8 problems")


def test_constraints_are_neither_lost_nor_made_up(analytic_workspace):
    content = foreign()
    content["distributions"].append({"name": "muTerm", "type": "gaussian_dist", "x": 0.5, "mean": "nu", "sigma": 1})
    content["likelihoods"][0]["aux_distributions"] = ["muTerm"]
    with pytest.raises(InvalidWorkspace, match="the constraint of 'nu' is one of no modifier"):
        from_hs3(content, analysis="simPdf_obsData")
    densities = {"SR": {"background": BACKGROUND, "signal": SIGNAL}}
    content = document(analytic_workspace, densities=densities, ranges=RANGE)
    content["likelihoods"][0]["aux_distributions"].remove("xsConstraint")
    with pytest.raises(InvalidWorkspace, match="'xs' has no constraint"):
        from_hs3(content, analytic_workspace.tables)


def test_a_function_is_no_parameter_of_a_normsys():
    content = foreign(functions=[{"name": "alpha_x", "type": "sum", "summands": ["mu", 1.0]}])
    with pytest.raises(InvalidWorkspace, match="its parameter is a function"):
        from_hs3(content, analysis="simPdf_obsData")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "JSON object"),
        ({"metadata": {}, "distributions": {"a": {}}}, "distributions is no array"),
        ({}, "no analysis, and 0 likelihoods"),
        (foreign(likelihoods=[]), "no likelihood 'simPdf_obsData'"),
    ],
)
def test_what_is_no_document(content, message):
    with pytest.raises(InvalidWorkspace, match=message):
        from_hs3(content)


def test_broken_documents_are_errors_of_ours(rng):
    """Any value replaced by another: an error that says so, or a workspace, but no accident."""

    def places(item, path=()):
        yield path
        inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, value in inner:
            yield from places(value, (*path, key))

    workspace = analytic.workspace(pool=4, observed=np.array([1.0, 2.0]))
    whole = document(workspace, explicit=True)
    paths = [p for p in places(whole) if p and p[0] not in ("metadata",)]
    for k in rng.choice(len(paths), 150, replace=False):
        content = copy.deepcopy(whole)
        target = content
        for key in paths[k][:-1]:
            target = target[key]
        target[paths[k][-1]] = [None, "nothing", -3.5, [], {}][int(rng.integers(5))]
        with contextlib.suppress(InvalidWorkspace, UnknownName):
            from_hs3(content, workspace.tables)
