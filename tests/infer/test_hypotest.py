import numpy as np
import pyhf
import pytest
from scipy.stats import norm

import analytic
from nuratio.errors import InvalidModel
from nuratio.infer.hypotheses.hypotest import hypotest, significance
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.workspace.workspace import Workspace


@pytest.fixture
def precise_pyhf():
    """pyhf with a minimiser tight enough to be an oracle for CLs to 1e-6."""
    state = pyhf.get_backend()
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-14, maxiter=2000))
    yield pyhf
    pyhf.set_backend(*state)


def test_a_counting_experiment_with_a_background_uncertainty():
    """s = 10, b = 50 +- 7, n = 50, mu = 2: asymptotically 0.0523; 200 000 toys gave 0.0528."""
    spec = analytic.counting(50.0)
    spec["channels"][0]["samples"][1]["modifiers"] = [
        {"name": "b", "type": "histosys", "data": {"hi_data": [57.0], "lo_data": [43.0]}}
    ]
    ws = Workspace.from_pyhf(spec)
    model = ws.model()
    result = hypotest(model, ws.data(model), 2.0)
    assert result.valid, result.message
    assert result.CLs == pytest.approx(0.0523, abs=1e-4)


@pytest.mark.parametrize("test_stat", ["qtilde", "q"])
@pytest.mark.parametrize("mu", [0.5, 1.0, 2.5, 6.0])
def test_cls_is_pyhfs_on_a_binned_workspace(mu, test_stat, precise_pyhf):
    spec = analytic.binned_spec()
    bounds = [[0, 10]] if test_stat == "qtilde" else [[-1.5, 10]]
    spec["measurements"][0]["config"]["parameters"].append({"name": "mu", "bounds": bounds})
    workspace = pyhf.Workspace(spec)
    pdf = workspace.model()
    data = workspace.data(pdf)
    observed, tails, expected = precise_pyhf.infer.hypotest(
        mu, data, pdf, test_stat=test_stat, return_expected_set=True, return_tail_probs=True
    )
    ours = hypotest(pdf, data, mu, test_stat=test_stat)
    assert ours.valid, ours.message
    assert ours.CLs == pytest.approx(float(observed), abs=1e-6)
    assert (ours.CLsb, ours.CLb) == pytest.approx([float(t) for t in tails], abs=1e-6)
    assert ours.CLs_expected == pytest.approx([float(e) for e in expected], abs=1e-6)


def test_discovery_is_pyhfs(precise_pyhf):
    workspace = pyhf.Workspace(analytic.binned_spec())
    pdf = workspace.model()
    data = workspace.data(pdf)
    p0, expected = precise_pyhf.infer.hypotest(0.0, data, pdf, test_stat="q0", return_expected_set=True)
    ours = hypotest(pdf, data, 0.0, test_stat="q0")
    assert ours.CLsb == pytest.approx(float(p0), abs=1e-6)
    assert ours.CLs_expected == pytest.approx([float(e) for e in expected], abs=1e-6)
    z = significance(pdf, data)
    assert z.significance == pytest.approx(norm.isf(float(p0)), abs=1e-5)
    assert z.expected_significance == pytest.approx(norm.isf(float(expected[2])), abs=1e-5)


def test_pyhf_infer_runs_unchanged_on_an_unbinned_model(analytic_model):
    model, data = analytic_model
    for mu in (0.7, 1.6):
        ours = hypotest(model, data, mu)
        observed, expected = pyhf.infer.hypotest(mu, data, model, return_expected_set=True)
        assert float(observed) == pytest.approx(ours.CLs, abs=1e-4)
        assert [float(e) for e in expected] == pytest.approx(ours.CLs_expected, abs=1e-4)


@pytest.mark.filterwarnings("ignore:the `interpolation=` argument:DeprecationWarning")  # inside pyhf 0.7.6
def test_pyhf_toys_run_unchanged_on_an_unbinned_model():
    ws = analytic.workspace(pool=3000, n_background=100.0, n_signal=20.0)
    model = ws.model()
    data = ws.data(model)
    state = np.random.get_state()
    np.random.seed(7)
    toys = pyhf.infer.hypotest(2.0, data, model, calctype="toybased", ntoys=60, track_progress=False)
    np.random.set_state(state)
    asymptotic = hypotest(model, data, 2.0).CLs
    assert abs(float(toys) - asymptotic) < 4 * np.sqrt(asymptotic * (1 - asymptotic) / 60) + 0.02


def test_expected_cls_hardly_depends_on_the_pool():
    """At a pool of 2000 events within 3% of a pool fifty times larger, thanks to the calibration."""
    small, large = (analytic.workspace(pool=n) for n in (2000, 100_000))
    results = [hypotest(ws.model(), ws.data(ws.model()), 1.0) for ws in (small, large)]
    assert results[0].CLs_expected == pytest.approx(results[1].CLs_expected, rel=0.03)
    assert results[0].statistic == results[1].statistic


def test_at_the_boundary_qtilde_uses_the_background_only_likelihood():
    """Few events and a POI allowed below zero: qtilde compares with mu = 0, q with the best fit (Eqs. 14, 16)."""
    ws = Workspace.from_pyhf(analytic.counting(38.0, bounds=(-4, 10)))
    model = ws.model()
    data = ws.data(model)
    n, mu = 38.0, 1.5

    def twice_nll(m):
        return 2 * (50 + 10 * m - n * np.log(50 + 10 * m))

    assert hypotest(model, data, mu).statistic == pytest.approx(twice_nll(mu) - twice_nll(0), abs=1e-7)
    q = hypotest(model, data, mu, test_stat="q").statistic
    assert q == pytest.approx(twice_nll(mu) - twice_nll(-1.2), abs=1e-7)
    assert hypotest(model, data, 0.0, test_stat="q0").statistic == 0
    above = Workspace.from_pyhf(analytic.counting(90.0))
    assert hypotest(above.model(), above.data(above.model()), 1.0).statistic == 0


# --- limits


@pytest.mark.parametrize("n", [40.0, 50.0, 63.0])
def test_limits_are_where_cls_crosses_the_level(n, precise_pyhf):
    ws = Workspace.from_pyhf(analytic.counting(n))
    model = ws.model()
    data = ws.data(model)
    limit = upper_limit(model, data)
    assert limit.valid, limit.message
    assert hypotest(model, data, limit.observed).CLs == pytest.approx(0.05, abs=1e-5)
    for k, value in enumerate(limit.expected):
        assert hypotest(model, data, value).CLs_expected[k] == pytest.approx(0.05, abs=1e-5)
    pdf = pyhf.Workspace(analytic.counting(n)).model()
    observed, expected = pyhf.infer.intervals.upper_limits.upper_limit(data, pdf, rtol=1e-6)
    assert limit.observed == pytest.approx(float(observed), rel=1e-3)
    assert limit.expected == pytest.approx([float(e) for e in expected], rel=1e-3)
    assert list(limit.expected) == sorted(limit.expected)
    values = [r.poi_value for r in limit.scan]
    assert values == sorted(values)
    assert values[-1] > max(limit.observed, *limit.expected)


@pytest.mark.parametrize("per_bin", [False, True])
def test_limits_of_the_rewritten_channel_are_the_same(per_bin):
    spec = analytic.binned_spec(per_bin=per_bin)
    binned = Workspace.from_pyhf(spec)
    unbinned = binned.unbin("A").unbin("B")
    a = upper_limit(binned.model(), binned.data(binned.model()))
    b = upper_limit(unbinned.model(), unbinned.data(unbinned.model()))
    assert b.observed == pytest.approx(a.observed, rel=1e-7)
    assert b.expected == pytest.approx(a.expected, rel=1e-7)


def test_wrong_requests_are_named(analytic_model):
    model, data = analytic_model
    with pytest.raises(InvalidModel, match="no test statistic 'qtild'"):
        hypotest(model, data, 1.0, test_stat="qtild")
    with pytest.raises(InvalidModel, match="between 0 and 1"):
        upper_limit(model, data, level=95)
    ws = Workspace.from_pyhf(analytic.counting(50.0, bounds=(0, 0.5)))
    with pytest.raises(InvalidModel, match=r"upper bound 0.5 of 'mu'; widen"):
        upper_limit(ws.model(), ws.data(ws.model()))
