"""From pyhf.infer with exact derivatives the same numbers as with pyhf's optimizers, and as from nuratio."""

from contextlib import contextmanager
from itertools import product

import numpy as np
import pyhf
import pytest
from pyhf.exceptions import FailedMinimization, Unsupported
from pyhf.infer import mle, test_statistics
from pyhf.infer.intervals import upper_limits
from scipy.optimize import OptimizeResult

import analytic
from nuratio.errors import InvalidModel
from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.hypotest import hypotest
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.interop.optimizer import Optimizer, exact_derivatives
from nuratio.model.likelihood import Likelihood
from nuratio.model.model import Model

RETURNS = ("return_uncertainties", "return_correlations", "return_fitted_val", "return_result_obj")
COMBINATIONS = [
    {k: True for k, wanted in zip(RETURNS, flags, strict=True) if wanted} for flags in product((0, 1), repeat=4)
]
TAILS = {"return_tail_probs": True, "return_expected": True, "return_expected_set": True}
PRECISE = {  # pyhf's optimizers as oracles
    "scipy": lambda: pyhf.optimize.scipy_optimizer(tolerance=1e-12, maxiter=2000),
    "minuit": lambda: pyhf.optimize.minuit_optimizer(tolerance=1e-4, strategy=2),
}
oracles = pytest.mark.parametrize("oracle", PRECISE.values(), ids=PRECISE.keys())


@contextmanager
def optimizer(chosen):
    before = pyhf.get_backend()
    pyhf.set_backend("numpy", chosen)
    try:
        yield
    finally:
        pyhf.set_backend(*before)


def both(oracle, function, *args, **kwargs):
    """With exact derivatives, and with one of pyhf's optimizers."""
    with exact_derivatives():
        ours = function(*args, **kwargs)
    with optimizer(oracle()):
        return ours, function(*args, **kwargs)


def numbers(result):
    """All numbers of what pyhf returns, in order."""
    match result:
        case OptimizeResult():
            return numbers([result.x, result.unc, result.corr, result.fun])
        case tuple() | list():
            return np.concatenate([numbers(r) for r in result])
    return np.ravel(result)


def kinds(result):
    """Types and shapes of what pyhf returns."""
    match result:
        case OptimizeResult():
            return sorted(result), [kinds(result[key]) for key in ("x", "unc", "corr", "fun", "success")]
        case tuple() | list():
            return type(result), [kinds(r) for r in result]
    return type(result), np.shape(result)


@pytest.fixture(scope="module")
def unbinned():
    ws = analytic.workspace(pool=500, n_background=200.0, n_signal=30.0)
    model = ws.model()
    return model, ws.data(model)


@pytest.fixture(scope="module")
def plain():
    workspace = pyhf.Workspace(analytic.binned_spec())
    model = workspace.model()
    return model, workspace.data(model)


# --- fits


@pytest.mark.parametrize("do_stitch", [False, True])
@pytest.mark.parametrize("returns", COMBINATIONS, ids=lambda r: "-".join(name[7:] for name in r) or "nothing")
def test_fits_return_what_pyhfs_do(unbinned, returns, do_stitch):
    model, data = unbinned
    for function, args in ((mle.fit, (data, model)), (mle.fixed_poi_fit, (0.4, data, model))):
        ours, theirs = both(PRECISE["minuit"], function, *args, do_stitch=do_stitch, **returns)
        assert kinds(ours) == kinds(theirs)
        hesse = returns.keys() - {"return_fitted_val"}  # minuit's is numerical, within limits
        np.testing.assert_allclose(numbers(ours), numbers(theirs), atol=1e-2 if hesse else 1e-4)


@oracles
def test_the_minimum_is_pyhfs(unbinned, oracle):
    model, data = unbinned
    for function, args in ((mle.fit, (data, model)), (mle.fixed_poi_fit, (0.4, data, model))):
        (ours, value), (theirs, their_value) = both(oracle, function, *args, return_fitted_val=True)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert abs(value - their_value) < 1e-6


def test_a_fit_is_nuratios(unbinned):
    model, data = unbinned
    expected = fit(model, data)
    with exact_derivatives():
        best, correlation, value = mle.fit(
            data, model, return_uncertainties=True, return_correlations=True, return_fitted_val=True
        )
    np.testing.assert_array_equal(best, np.transpose([expected.bestfit, expected.uncertainty]))
    np.testing.assert_array_equal(correlation, expected.correlation)
    assert value == expected.twice_nll


def test_starts_bounds_and_fixed_parameters_are_the_callers(unbinned):
    model, data = unbinned
    k, tilt = model.config.poi_index, model.config.par_names.index("tilt")
    init, bounds, fixed = (
        list(f()) for f in (model.config.suggested_init, model.config.suggested_bounds, model.config.suggested_fixed)
    )
    bounds[k], init[tilt], fixed[tilt] = (0.0, 0.3), 0.5, True
    init[k] = 0.1
    ours, theirs = both(PRECISE["minuit"], mle.fit, data, model, init, bounds, fixed)
    assert ours[tilt] == 0.5
    assert ours[k] == 0.3
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_parameter_the_model_fixes_can_be_left_free():
    spec = analytic.binned_spec()
    spec["measurements"][0]["config"]["parameters"][0]["fixed"] = True
    model = Model.from_pyhf(pyhf.Workspace(spec).model())
    data = pyhf.Workspace(spec).data(model.pyhf_model)
    lumi = model.config.par_names.index("lumi")
    with exact_derivatives():
        assert mle.fit(data, model, return_uncertainties=True)[lumi].tolist() == [1.0, 0.0]
        free = [f and k != lumi for k, f in enumerate(model.config.suggested_fixed())]
        assert mle.fit(data, model, fixed_params=free, return_uncertainties=True)[lumi][1] > 0.02


def test_nothing_is_left_to_fit_when_all_is_fixed(unbinned):
    model, data = unbinned
    init = model.config.suggested_init()
    with exact_derivatives():
        best, correlation, value, result = mle.fit(
            data, model, fixed_params=[True] * len(init), **dict.fromkeys(RETURNS, True)
        )
    np.testing.assert_array_equal(best, np.transpose([init, np.zeros(len(init))]))
    assert not correlation.any()
    assert value == pytest.approx(model.twice_nll(init, data), rel=1e-12)
    assert list(result.minuit.fixed) == [True] * len(init)


def test_the_minuit_of_a_result_runs_minos(unbinned):
    model, data = unbinned
    expected = fit(model, data, minos=["mu"])
    with exact_derivatives():
        best, result = mle.fit(data, model, return_result_obj=True)
    m = result.minuit
    assert m.valid
    np.testing.assert_allclose(m.values, best, atol=1e-12)
    m.minos("mu")
    ends = [best[model.config.poi_index] + side for side in (m.merrors["mu"].lower, m.merrors["mu"].upper)]
    assert ends == pytest.approx(expected.minos["mu"], abs=2e-3)


def test_it_takes_fewer_calls_of_the_likelihood(unbinned, monkeypatch):
    model, data = unbinned
    calls = []
    for name in ("_value", "derivatives", "many"):
        method = getattr(Likelihood, name)

        def counted(*args, _method=method, **kwargs):
            calls.append(1)
            return _method(*args, **kwargs)

        monkeypatch.setattr(Likelihood, name, counted)
    counts = []
    for context in (exact_derivatives(), optimizer(pyhf.optimize.minuit_optimizer())):
        calls.clear()
        with context:
            pyhf.infer.hypotest(1.0, data, model)
        counts.append(len(calls))
    assert 0 < counts[0] < counts[1] / 4


# --- tests and limits


@oracles
@pytest.mark.parametrize("name", ["qmu", "qmu_tilde", "tmu", "tmu_tilde", "q0"])
def test_test_statistics_are_pyhfs(unbinned, name, oracle):
    model, data = unbinned
    config = model.config
    bounds = list(config.suggested_bounds())
    if name in ("qmu", "tmu"):  # pyhf warns of a bound at zero
        bounds[config.poi_index] = (-2.0, 10.0)
    for mu in (0.0,) if name == "q0" else (0.3, 2.0):
        args = (mu, data, model, config.suggested_init(), bounds, config.suggested_fixed())
        ours, theirs = both(oracle, getattr(test_statistics, name), *args, return_fitted_pars=True)
        np.testing.assert_allclose(numbers(ours[1]), numbers(theirs[1]), atol=2e-4)
        assert float(ours[0]) == pytest.approx(float(theirs[0]), abs=1e-5)


@oracles
@pytest.mark.parametrize(("test_stat", "mu"), [("qtilde", 0.5), ("qtilde", 2.0), ("q0", 0.0)])
def test_hypotest_is_pyhfs_and_nuratios(unbinned, test_stat, mu, oracle):
    model, data = unbinned
    expected = hypotest(model, data, mu, test_stat=test_stat)
    options = TAILS | {"return_calculator": True, "test_stat": test_stat}
    ours, theirs = both(oracle, pyhf.infer.hypotest, mu, data, model, **options)
    assert kinds(ours[:-1]) == kinds(theirs[:-1])
    np.testing.assert_allclose(numbers(ours[:-1]), numbers(theirs[:-1]), atol=1e-5)
    observed = expected.CLsb if test_stat == "q0" else expected.CLs
    tails = [expected.CLb] if test_stat == "q0" else [expected.CLsb, expected.CLb]
    nuratios = [observed, *tails, expected.CLs_expected[2], *expected.CLs_expected]
    np.testing.assert_allclose(numbers(ours[:-1]), nuratios, atol=1e-6)


def test_upper_limits_are_pyhfs_and_nuratios(unbinned):
    model, data = unbinned
    expected = upper_limit(model, data, points=0)
    with exact_derivatives():
        observed, band = upper_limits.upper_limit(data, model, rtol=1e-7)
    np.testing.assert_allclose([observed, *band], [expected.observed, *expected.expected], rtol=1e-5)


@oracles
def test_limits_on_a_grid_are_pyhfs(unbinned, oracle):
    model, data = unbinned
    ours, theirs = both(oracle, upper_limits.upper_limit, data, model, np.linspace(0.1, 3.0, 6), return_results=True)
    np.testing.assert_allclose(numbers(ours), numbers(theirs), atol=1e-4)


# --- what is not nuratio's


@pytest.mark.parametrize("returns", COMBINATIONS[::5])
def test_pyhf_models_are_left_to_pyhf_bit_for_bit(plain, returns):
    model, data = plain
    for do_stitch in (False, True):
        ours, theirs = both(pyhf.optimize.minuit_optimizer, mle.fit, data, model, do_stitch=do_stitch, **returns)
        np.testing.assert_array_equal(numbers(ours), numbers(theirs))
    ours, theirs = both(pyhf.optimize.minuit_optimizer, pyhf.infer.hypotest, 1.0, data, model, **TAILS)
    np.testing.assert_array_equal(numbers(ours), numbers(theirs))


def test_another_objective_is_left_to_pyhf(unbinned):
    model, data = unbinned
    config = model.config

    def parabola(pars, data, pdf):
        return np.array([((np.asarray(pars) - 0.7) ** 2).sum()])

    args = (parabola, data, model, config.suggested_init(), config.suggested_bounds())
    np.testing.assert_array_equal(Optimizer().minimize(*args), pyhf.optimize.minuit_optimizer().minimize(*args))


# --- failures


def test_a_fit_that_is_not_valid_is_pyhfs_failure(unbinned):
    model, data = unbinned
    with exact_derivatives(maxiter=2), pytest.raises(FailedMinimization) as failure:
        mle.fit(data, model)
    assert str(failure.value) == fit(model, data, max_calls=2, hesse=False).message
    assert not failure.value.result.success
    with exact_derivatives(), pytest.raises(FailedMinimization):
        mle.fit(data, model, maxiter=2)
    calls = sum(fit(model, data).calls.values())
    with exact_derivatives(maxiter=calls):
        assert mle.fit(data, model, return_result_obj=True)[1].minuit.valid  # HESSE does not count


def test_an_option_of_none_is_the_optimizers(unbinned):
    model, data = unbinned
    with exact_derivatives():
        best = mle.fit(data, model, maxiter=None, strategy=None, tolerance=None)
        np.testing.assert_array_equal(best, mle.fit(data, model))
    with exact_derivatives(maxiter=None, tolerance=None):
        np.testing.assert_array_equal(best, mle.fit(data, model, return_result_obj=True)[0])


def test_options_pyhf_does_not_have_are_refused(unbinned):
    model, data = unbinned
    with exact_derivatives(), pytest.raises(Unsupported, match="epsilon"):
        mle.fit(data, model, epsilon=1.0)
    with pytest.raises(Unsupported, match="epsilon"):
        Optimizer(epsilon=1.0)


def test_a_value_fixed_outside_its_bounds_is_named(unbinned):
    model, data = unbinned
    config = model.config
    with pytest.raises(InvalidModel, match="'mu' = 11 is outside"):
        Optimizer().minimize(
            mle.twice_nll, data, model, config.suggested_init(), config.suggested_bounds(), [(config.poi_index, 11.0)]
        )


@pytest.mark.parametrize("chosen", PRECISE.values(), ids=PRECISE.keys())
def test_backend_and_optimizer_are_restored(chosen):
    with optimizer(chosen()):
        before = pyhf.get_backend()
        with exact_derivatives(tolerance=0.2) as lent:
            assert pyhf.get_backend()[1] is lent
            assert (lent.name, lent.tolerance) == ("minuit", 0.2)
        assert all(a is b for a, b in zip(pyhf.get_backend(), before, strict=True))
        with pytest.raises(ZeroDivisionError), exact_derivatives():
            raise ZeroDivisionError
        assert all(a is b for a, b in zip(pyhf.get_backend(), before, strict=True))
        with pytest.raises(Unsupported), exact_derivatives(epsilon=1.0):
            pass
        assert all(a is b for a, b in zip(pyhf.get_backend(), before, strict=True))
