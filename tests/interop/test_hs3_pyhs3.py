"""pyhs3 reads what `to_hs3` writes, and finds the same likelihood."""

import json

import numpy as np
import pytest

import analytic
from nuratio.interop.hs3 import to_hs3
from nuratio.interop.hs3.conventions import hs3_names
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace

pyhs3 = pytest.importorskip("pyhs3", reason="pyhs3 is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*has per-event weights")


def their_twice_nll(document):
    """-2 ln L of the document's first analysis as a function of a dict of parameters."""
    from pyhs3.compile import function
    from pytensor.graph.traversal import explicit_graph_inputs

    content = pyhs3.Workspace(**json.loads(json.dumps(document)))
    model = content.model(document["analyses"][0]["name"], progress=False)
    inputs = [v for v in explicit_graph_inputs([model.log_prob]) if v.name]
    compiled = function(inputs, model.log_prob, on_unused_input="ignore", mode="FAST_COMPILE")

    def twice_nll(parameters):
        values = {name: np.asarray(v, dtype=np.float64) for name, v in (model.data | parameters).items()}
        return -2 * float(np.squeeze(compiled(*[values[v.name] for v in inputs])))

    return twice_nll


def assert_same(workspace, document, rng, *, reach=2.0, atol=1e-8, points=12):
    """Differences of -2 ln L between random points; constants may differ."""
    model = workspace.model()
    data, theirs = workspace.data(model), their_twice_nll(document)
    names = [name for _, own in hs3_names(model.config) for name in own]
    low, high = np.array(model.config.suggested_bounds()).T
    start, fixed = np.array(model.config.suggested_init()), np.array(model.config.suggested_fixed())
    offsets = []
    for k in range(points):
        step = np.where(fixed | (k == 0), 0.0, rng.uniform(-reach, reach, len(start)))
        step = np.where(np.abs(start) > 0.5, 0.1 * step, step)  # factors around 1, nuisances around 0
        theta = np.clip(start + step, low, high)
        offsets.append(model.twice_nll(theta, data) - theirs(dict(zip(names, theta.tolist(), strict=True))))
    np.testing.assert_allclose(offsets, offsets[0], rtol=0, atol=atol)


def one_modifier(kind, values, codes=None, *, both=False):
    """A channel of two bins with a signal of strength mu, and one modifier of each background."""
    modifier = {"name": "lumi" if kind == "lumi" else "x", "type": kind, "data": values}
    backgrounds = [
        {"name": "a", "data": [50.0, 60.0], "modifiers": [modifier]},
        {"name": "b", "data": [20.0, 9.0], "modifiers": [modifier] if both else []},
    ]
    signal = {"name": "s", "data": [5.0, 9.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    lumi = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.03], "bounds": [[0.5, 1.5]], "inits": [1.0]}
    parameters = [lumi] if kind == "lumi" else []
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "SR", "samples": [signal, *backgrounds]}],
        "observations": [{"name": "SR", "data": [70, 86]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": parameters}}],
    }
    if codes:
        settings = {"normsys": {"interpcode": codes[0]}, "histosys": {"interpcode": codes[1]}}
        spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "modifier_settings": settings}
    return Workspace(spec)


NORMSYS, HISTOSYS = {"hi": 1.3, "lo": 0.8}, {"hi_data": [60.0, 63.0], "lo_data": [45.0, 52.0]}
MODIFIERS = {
    "normfactor": ("normfactor", None),
    "lumi": ("lumi", None),
    "normsys-code4": ("normsys", NORMSYS),
    "normsys-code1": ("normsys", NORMSYS, ("code1", "code4p")),
    "histosys-code4p": ("histosys", HISTOSYS),
    "histosys-code0": ("histosys", HISTOSYS, ("code4", "code0")),
    "shapefactor": ("shapefactor", None),
    "shapesys": ("shapesys", [5.0, 7.0]),
}


@pytest.mark.parametrize("name", MODIFIERS)
def test_every_modifier_has_the_same_likelihood(name, rng):
    workspace = one_modifier(*MODIFIERS[name])
    assert_same(workspace, to_hs3(workspace), rng)


def test_code2_is_the_same_between_its_anchors(rng):
    """Outside of them, pyhf's is discontinuous, and every package has another one."""
    workspace = one_modifier("histosys", HISTOSYS, ("code4", "code2"))
    assert_same(workspace, to_hs3(workspace), rng, reach=1.0)


@pytest.mark.parametrize("both", [False, True], ids=["one sample", "two samples"])
@pytest.mark.parametrize("kind", ["staterror", "shapesys"])
def test_explicit_constraints_have_the_same_likelihood(kind, both, rng):
    if kind == "shapesys" and both:
        pytest.skip("pyhf shares no shapesys")
    workspace = one_modifier(kind, [5.0, 7.0], both=both)
    assert_same(workspace, to_hs3(workspace, explicit=True), rng)


@pytest.mark.skipif(pyhs3.__version__ != "0.4.2", reason="pyhs3 0.4.2")
def test_pyhs3_cannot_build_a_staterror():
    """The reason for explicit constraints: from the standard's form it builds no model, whatever the channel."""
    with pytest.raises(ValueError, match="required for BB-full mode"):
        their_twice_nll(to_hs3(one_modifier("staterror", [5.0, 7.0])))


@pytest.mark.parametrize("explicit", [False, True])
def test_channels_that_share_parameters(explicit, rng):
    workspace = Workspace(analytic.binned_spec(per_bin=False))
    assert_same(workspace, to_hs3(workspace, explicit=explicit), rng)


def test_all_modifiers_together(rng):
    workspace = Workspace(analytic.binned_spec())
    assert_same(workspace, to_hs3(workspace, explicit=True), rng)


def test_a_parameter_given_by_an_expression(rng):
    workspace = one_modifier("normfactor", None)
    parameters = [{"name": "x", "expression": "sqrt(kappa) - kappa**2 / 4 + 1"}, {"name": "kappa"}]
    workspace.spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "parameters": parameters}
    assert_same(workspace, to_hs3(workspace), rng)


RANGE = {"SR": {"x": (0, 10)}}
DENSITIES = {
    "SR": {
        "background": {"type": "exponential_dist", "x": "x", "c": 1 / analytic.SLOPE},
        "signal": {"type": "gaussian_dist", "x": "x", "mean": analytic.PEAK, "sigma": analytic.WIDTH},
    }
}


@pytest.fixture
def straight(analytic_workspace):
    """Without the shape nuisance, and with a signal normalised to the range, as HS3 normalises it."""
    from scipy.stats import norm

    workspace = analytic_workspace.prune(modifier_types=["ratiosys"])
    inside = norm.cdf(10, analytic.PEAK, analytic.WIDTH) - norm.cdf(0, analytic.PEAK, analytic.WIDTH)
    tables = dict(workspace.tables)
    for name in ("observed", "pool"):
        columns = {c: tables[name][c] for c in tables[name].names}
        columns["signal"] = columns["signal"] / inside
        tables[name] = RatioTable.from_columns(columns, np.float64)
    return Workspace(workspace.spec, tables)


@pytest.mark.parametrize("code", ["code1", "code4"])
def test_densities_in_closed_form_have_the_unbinned_likelihood(code, straight, rng):
    settings = {"normsys": {"interpcode": code}, "histosys": {"interpcode": "code4p"}}
    straight.spec["unbinned"]["modifier_settings"] = settings
    document = to_hs3(straight, explicit=True, densities=DENSITIES, ranges=RANGE)
    assert_same(straight, document, rng, atol=1e-7)


def test_a_wrong_density_is_seen(straight, rng):
    wrong = {"SR": DENSITIES["SR"] | {"signal": {**DENSITIES["SR"]["signal"], "mean": 5.1}}}
    document = to_hs3(straight, explicit=True, densities=wrong, ranges=RANGE)
    with pytest.raises(AssertionError):
        assert_same(straight, document, rng, atol=1e-3)


def test_the_companion_is_the_counting_version(analytic_workspace, rng):
    counting = Workspace.from_pyhf(analytic_workspace.counting)
    assert_same(counting, to_hs3(analytic_workspace, explicit=True), rng)
