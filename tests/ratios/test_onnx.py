"""ONNX files give the numbers of the estimators they were made of; no network is trained here."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import run
from nuratio import __version__
from nuratio.errors import InvalidData, MissingExtra
from nuratio.ratios.calibration import Calibration, Increasing
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import Part, RatioEstimator
from nuratio.ratios.heads import HEADS, Complementary, Direct, Resampled, Separate, Softmax
from nuratio.ratios.losses import LOSSES, make_loss
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.onnx import export_onnx
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.shape import ShapeEstimator

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

OPTIONS = TrainingOptions(hidden=(8, 8), folds=3, ensemble=2, fold_seed=5)
FEATURES = ("pt", "eta")
PARTS = (Part("sm", "sm", 1, 7.0, 9, 9.0), Part("int[+]", "int", 1, 3.0, 9, 9.0), Part("int[-]", "int", -1, -1.0, 9, 9))
T = (0.5, 0.3, 0.2)
GAIN = (1.0, 1.2, 2.0)
ROUNDING = 1e-6  # of outputs of order one in float32

HEAD = {  # name: (head, outputs, networks of a member)
    "softmax": (Softmax(T, T), 3, 1),
    "softmax, named reference": (Softmax(T, (1.0, 0.0, 0.0)), 3, 1),
    "separate": (Separate(3), 1, 3),
    "resampled": (Resampled(T, GAIN), 6, 1),
    "complementary": (Complementary(T, GAIN, False), 3, 1),
    "complementary, debiased": (Complementary(T, GAIN, True), 4, 1),
} | {f"direct, {name}": (Direct(make_loss(name), name), 3, 1) for name in LOSSES}


def networks(outputs, width=1, scale=0.1):
    stack = NetworkStack([2, *OPTIONS.hidden, outputs], OPTIONS.folds * OPTIONS.ensemble * width, scale)
    stack.standardise(np.random.default_rng(2).normal(3, 2, (100, 2)).astype(np.float32), np.ones(100))
    generator = torch.Generator().manual_seed(3)
    for parameter in (*stack.weights, *stack.biases):
        parameter.data.normal_(0, 0.7, generator=generator)
    return CrossFit(stack.requires_grad_(False), FEATURES, OPTIONS)


def estimator(kind="softmax", **changes):
    head, outputs, width = HEAD[kind]
    z = {"sm": (1.02, 0.01), "int[+]": (0.98, 0.01), "int[-]": (1.01, 0.02)}
    fractions = dict(zip(z, T, strict=True))
    return dataclasses.replace(RatioEstimator(PARTS, fractions, head, z, networks(outputs, width), {}), **changes)


def evaluated(path, x, ids=None):
    """Output name -> values."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {"features": x} | ({} if ids is None else {"event_id": ids})
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(4).normal(3, 3, (500, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(5).integers(-(2**63), 2**63 - 1, 500)


def test_every_head_is_tried():
    assert {kind.split(",")[0] for kind in HEAD} == set(HEADS)


@pytest.mark.parametrize("cross_fitted", [False, True], ids=["observed", "cross-fitted"])
@pytest.mark.parametrize("kind", HEAD)
def test_ratios_are_those_of_the_estimator(kind, cross_fitted, x, ids, tmp_path):
    est, ids = estimator(kind), ids if cross_fitted else None
    export_onnx(est, tmp_path / "est.onnx", cross_fitted=cross_fitted)
    got = evaluated(tmp_path / "est.onnx", x, ids)
    for k, part in enumerate(est.parts):
        expected = est.ratio(x, part, event_ids=ids)
        assert np.ptp(expected) > 0 or (kind, part) == ("softmax, named reference", "sm")
        np.testing.assert_allclose(got["ratios"][:, k], expected, rtol=ROUNDING, atol=ROUNDING * abs(expected).max())
    for k, sample in enumerate(est.names):
        expected = est.ratio(x, sample, event_ids=ids)
        np.testing.assert_allclose(got["net"][:, k], expected, rtol=ROUNDING, atol=ROUNDING * abs(expected).max())


@pytest.mark.parametrize("cross_fitted", [False, True], ids=["observed", "cross-fitted"])
def test_calibrated_ratios(cross_fitted, x, ids, tmp_path):
    """A fifth of the events lies below the knots, a fifth beyond them."""
    ids = ids if cross_fitted else None
    learned = estimator().ratios(x, event_ids=ids).values
    knots = np.quantile(learned, [0.2, 0.5, 0.6, 0.8], axis=1).T
    curves = [[Increasing(at, at ** (1 - 0.1 * f - 0.01 * k)) for k, at in enumerate(knots)] for f in range(3)]
    est = estimator(calibration=Calibration(curves, (0.97, 1.0, 1.03)))
    expected = est.ratios(x, event_ids=ids).values
    assert (abs(expected / learned - 1) > 1e-3).any(axis=1).all()
    export_onnx(est, tmp_path / "est.onnx", cross_fitted=cross_fitted)
    np.testing.assert_allclose(evaluated(tmp_path / "est.onnx", x, ids)["ratios"].T, expected, rtol=ROUNDING)


@pytest.mark.parametrize("cross_fitted", [False, True], ids=["observed", "cross-fitted"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_shape_coefficients(outputs, cross_fitted, x, ids, tmp_path):
    terms = ((("jes", 1),), (("jes", 2),))[:outputs]
    est, ids = ShapeEstimator(networks(outputs), terms, {"name": "jes"}), ids if cross_fitted else None
    described = export_onnx(est, tmp_path / "est.onnx", cross_fitted=cross_fitted)
    assert described["kind"] == "shape-estimator"
    assert described["terms"] == [[["jes", power]] for power in range(1, outputs + 1)]
    got = evaluated(tmp_path / "est.onnx", x, ids)["coefficients"]
    expected = np.stack(list(est.coefficients(x, event_ids=ids).values()), axis=1)
    np.testing.assert_allclose(got, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("kind", [k for k in HEAD if k.split()[-1] in ("bce", "revert", "sinh", "separate", "softmax")])
def test_large_exponents(kind, tmp_path):
    """Outputs of some hundred, far from the training events: ln r to the rounding of an output in float32."""
    x = np.random.default_rng(6).normal(0, 100, (200, 2)).astype(np.float32)
    est = estimator(kind, networks=networks(*HEAD[kind][1:], scale=1.0))
    largest = abs(est.networks.stack(torch.from_numpy(x)[None])).max().item()
    assert 100 < largest < 700
    export_onnx(est, tmp_path / "est.onnx")
    got, expected = evaluated(tmp_path / "est.onnx", x)["ratios"].T, est.ratios(x)
    assert max(abs(np.log(abs(expected[part]))).max() for part in est.parts) > 50
    for k, part in enumerate(est.parts):
        np.testing.assert_allclose(got[k], expected[part], rtol=1e-6 * largest)


def test_an_output_outside_the_domain_of_its_loss_is_infinite(x, tmp_path):
    est = estimator("direct, mse", networks=networks(3, scale=1.0))
    export_onnx(est, tmp_path / "est.onnx")
    got = evaluated(tmp_path / "est.onnx", x)["ratios"]
    beyond = ~np.isfinite(est.head.mean(est.networks.stack(torch.from_numpy(x)[None]).double()).numpy())
    assert 0 < beyond.sum() < beyond.size
    np.testing.assert_array_equal(np.isinf(got), beyond)


def test_any_number_of_events(x, tmp_path):
    export_onnx(estimator(), tmp_path / "est.onnx")
    whole = evaluated(tmp_path / "est.onnx", x)["ratios"]
    for n in (0, 1, 7):
        np.testing.assert_allclose(evaluated(tmp_path / "est.onnx", x[:n])["ratios"], whole[:n], rtol=1e-5)


def test_the_metadata_say_what_is_in_the_file(tmp_path):
    described = export_onnx(estimator(), tmp_path / "new" / "est.onnx", cross_fitted=True)
    model = onnx.load(tmp_path / "new" / "est.onnx")
    stored = {p.key: p.value for p in model.metadata_props}
    text = {"kind": stored.pop("kind"), "nuratio_version": stored.pop("nuratio_version")}
    assert text | {key: json.loads(value) for key, value in stored.items()} == described
    assert described == {
        "kind": "ratio-estimator",
        "nuratio_version": __version__,
        "features": ["pt", "eta"],
        "folds": 3,
        "fold_seed": 5,
        "cross_fitted": True,
        "parts": ["sm", "int[+]", "int[-]"],
        "samples": {"sm": ["sm"], "int": ["int[+]", "int[-]"]},
        "yields": {"sm": 7.0, "int[+]": 3.0, "int[-]": -1.0},
        "reference_fractions": {"sm": 0.5, "int[+]": 0.3, "int[-]": 0.2},
    }
    assert [i.name for i in model.graph.input] == ["features", "event_id"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["est.onnx"]


def test_a_sample_whose_yields_cancel_has_no_net_ratio(x, tmp_path):
    parts = (PARTS[0], PARTS[1], dataclasses.replace(PARTS[2], total=-3.0))
    est = estimator(components=parts)
    assert list(export_onnx(est, tmp_path / "est.onnx")["samples"]) == ["sm"]
    got = evaluated(tmp_path / "est.onnx", x)
    np.testing.assert_array_equal(got["net"][:, 0], got["ratios"][:, 0])


def test_a_file_is_replaced_only_if_asked_to(tmp_path):
    path = tmp_path / "est.onnx"
    export_onnx(estimator(), path)
    with pytest.raises(InvalidData, match="exists"):
        export_onnx(estimator(), path)
    before = path.read_bytes()
    export_onnx(estimator("separate"), path, overwrite=True)
    assert path.read_bytes() != before


def test_what_has_no_form_in_onnx_is_named(tmp_path):
    class Odd:
        def __repr__(self):
            return "Odd()"

    with pytest.raises(InvalidData, match="a Odd has no form in ONNX"):
        export_onnx(Odd(), tmp_path / "est.onnx")
    for head in (Odd(), Direct(Odd(), "odd")):
        with pytest.raises(InvalidData, match=r"Odd\(\) has no form in ONNX"):
            export_onnx(estimator(head=head), tmp_path / "est.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nuratio\[onnx\]'"):
        export_onnx(estimator(), tmp_path / "est.onnx")


def test_the_command(x, ids, tmp_path):
    estimator().save(tmp_path / "est")
    ShapeEstimator(networks(2), ((("jes", 1),), (("jes", 2),)), {"name": "jes"}).save(tmp_path / "jes")
    path = tmp_path / "est.onnx"
    said = run("export", "onnx", tmp_path / "est", "-o", path)
    assert (said["onnx"], said["parts"]) == (str(path), ["sm", "int[+]", "int[-]"])
    assert "exists" in run("export", "onnx", tmp_path / "est", "-o", path, code=1)
    run("export", "onnx", tmp_path / "est", "-o", path, "--overwrite", "--cross-fitted")
    expected = estimator().ratio(x, "int", event_ids=ids)
    np.testing.assert_allclose(evaluated(path, x, ids)["net"][:, 1], expected, rtol=1e-5, atol=1e-5)
    assert run("export", "onnx", tmp_path / "jes", "-o", tmp_path / "jes.onnx")["kind"] == "shape-estimator"
    for broken in ("{", "[]", '{"kind": "shape-estimator"}'):
        (tmp_path / "est" / "estimator.json").write_text(broken)
        assert run("export", "onnx", tmp_path / "est", "-o", tmp_path / "new", code=1).count("\n") == 1
    assert "no estimator" in run("export", "onnx", tmp_path / "nothing", "-o", tmp_path / "new", code=1)


def test_the_example_of_the_documentation(x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "interoperability.md").read_text()
    section = page[page.index("## Trained ratios as ONNX files") :]
    code = "\n".join(line[4:] for line in re.findall(r"^(?:    .*)?$", section, re.MULTILINE) if line)
    names = {"estimator": estimator(), "x": x}
    exec(compile(code, "interoperability.md", "exec"), names)
    np.testing.assert_allclose(names["r"][:, 1], names["estimator"].ratio(x, "int[+]"), rtol=1e-5)
