import math

import numpy as np
import pytest
from scipy.stats import norm

import analytic
from nuratio.errors import AsymptoticsWarning, FitFailed, InvalidModel
from nuratio.infer.hypotheses import look_elsewhere
from nuratio.infer.hypotheses.hypotest import significance
from nuratio.infer.hypotheses.look_elsewhere import global_significance, gross_vitells, scan_significance, upcrossings
from nuratio.infer.results import load_result
from nuratio.parallel.tasks import Serial
from nuratio.workspace.workspace import Workspace

WIDTH, LENGTH = 1.0, 12.0
EDGES = np.linspace(0, LENGTH + 8, 81)
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2
VALUES = np.linspace(4, 4 + LENGTH, 25)
BACKGROUND = 400.0


def rice(threshold, length=LENGTH):
    """Mean upcrossings of sqrt(threshold) by a Gaussian process with covariance exp(-d^2 / 4 w^2), w = WIDTH.

    That of the strength of a Gaussian peak on a flat, known background: peaks at a distance d overlap by as much.
    """
    return length / (2 * np.pi * np.sqrt(2) * WIDTH) * np.exp(-threshold / 2)


def bump(mass, *, background=BACKGROUND, poi="mu", bins=None):
    """A peak of a hundred events at ``mass`` on a flat background that is known."""
    centres = CENTRES[:bins]
    peak = np.exp(-0.5 * ((centres - mass) / WIDTH) ** 2)
    flat = np.full(len(centres), background)
    strength = {"name": poi, "type": "normfactor", "data": None}
    samples = [
        {"name": "s", "data": (100 * peak / peak.sum()).tolist(), "modifiers": [strength]},
        {"name": "b", "data": flat.tolist(), "modifiers": []},
    ]
    parameters = [{"name": poi, "bounds": [[-10, 30]], "inits": [0.5]}]
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "SR", "samples": samples}],
        "observations": [{"name": "SR", "data": flat.tolist()}],
        "measurements": [{"name": "m", "config": {"poi": poi, "parameters": parameters}}],
    }
    return Workspace.from_pyhf(spec).model()


@pytest.fixture(scope="module")
def models():
    return [bump(mass) for mass in VALUES]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    return rng.poisson(BACKGROUND + 45 * np.exp(-0.5 * ((CENTRES - 9.0) / WIDTH) ** 2)).astype(float)


# --- the formulas, on a process that is exactly known


@pytest.fixture(scope="module")
def processes():
    """q0 of 4000 Gaussian processes, 10 points in each width."""
    x = np.arange(0, LENGTH + 1e-9, 0.1)
    covariance = np.exp(-((x[:, None] - x) ** 2) / (4 * WIDTH**2))
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(x)))
    z = np.random.default_rng(1).normal(size=(4000, len(x))) @ root.T
    return np.maximum(z, 0.0) ** 2


@pytest.mark.parametrize("threshold", [0.25, 1.0, 4.0])
def test_upcrossings_are_those_of_rice(processes, threshold):
    mean, error = upcrossings(processes, threshold)
    assert mean == pytest.approx(rice(threshold), abs=4 * error)
    assert error == pytest.approx(np.sqrt(mean / len(processes)), rel=0.5)
    assert abs(mean - 1.2 * rice(threshold)) > 4 * error  # a process 20% rougher is told apart


@pytest.mark.parametrize("u", [6.0, 9.0])
def test_the_bound_is_the_share_of_larger_maxima(processes, u):
    """The bound is nearly reached where p is small: Gross and Vitells, Fig. 2."""
    p, error = gross_vitells(u, 0.5, *upcrossings(processes[:100], 0.5))
    share = np.mean(processes.max(1) >= u)
    allowed = 4 * math.hypot(error, math.sqrt(share / len(processes)))
    assert share - allowed < p < 1.1 * share + allowed
    assert p > 3 * norm.sf(np.sqrt(u)) + error  # and far from the local one


def test_few_curves_have_an_error_all_the_same():
    assert upcrossings(np.zeros((5, 10)), 0.5) == (0.0, 0.2)
    assert upcrossings(np.array([[0.0, 1.0, 0.0, 1.0]]), 0.5) == (2.0, 1.0)
    assert upcrossings(np.array([[1.0, 1.0, 0.2, 0.7]]), 0.7)[0] == 1.0  # starting above is none
    assert gross_vitells(0.1, 2.0, 3.0, 0.1)[0] == 1.0


# --- the scan of a model


def test_a_scan_has_the_local_significances(models, data):
    scan = scan_significance(models, data, VALUES)
    assert scan.valid, scan.message
    for k in (0, 8, 10):
        assert scan.significance[k] == pytest.approx(significance(models[k], data).significance, abs=1e-5)
    np.testing.assert_allclose(scan.p0, norm.sf(scan.significance))
    assert scan.values[scan.significance.argmax()] == pytest.approx(9.0, abs=0.7)
    assert np.all(scan.significance[scan.bestfit < 0] == 0)
    assert (scan.bestfit < 0).any()
    made = scan_significance(bump, data, VALUES[::4], parameter="m")
    np.testing.assert_allclose(made.q0, scan.q0[::4], atol=1e-6)
    assert made.parameter == "m"
    assert load_result(scan.to_json()).to_json() == scan.to_json()


def test_the_global_significance_of_a_bump(models, data):
    result = global_significance(models, data, VALUES, n=60, seed=3, executor=Serial())
    assert result.valid, result.message
    assert result.upcrossings == pytest.approx(rice(0.5), abs=4 * result.upcrossings_error)
    exact = result.local_p + rice(result.local_significance**2)
    assert result.global_p == pytest.approx(exact, abs=4 * result.global_p_error)
    assert result.toys_p == pytest.approx(exact, abs=4 * np.sqrt(exact / 60) + 0.03)
    assert result.trials_factor == pytest.approx(result.global_p / result.local_p)
    assert norm.sf(result.global_significance) == pytest.approx(result.global_p)
    assert result.local_significance > result.global_significance + 0.5
    assert result.at == result.scan.values[result.scan.q0.argmax()]
    assert len(result.toys) == 60
    assert result.upcrossings_coarse == pytest.approx(result.upcrossings, rel=0.2)
    assert load_result(result.to_json()).to_json() == result.to_json()


def test_toys_depend_on_their_number_alone(models, data):
    options = {"n": 6, "seed": 9}
    serial = global_significance(models[::5], data, VALUES[::5], executor=Serial(), **options)
    pool = global_significance(models[::5], data, VALUES[::5], **options)
    np.testing.assert_allclose(pool.toys, serial.toys, rtol=1e-7, atol=1e-7)
    more = global_significance(models[::5], data, VALUES[::5], executor=Serial(), **options | {"n": 8})
    np.testing.assert_array_equal(more.toys[:6], serial.toys)
    other = global_significance(models[::5], data, VALUES[::5], executor=Serial(), **options | {"seed": 10})
    assert not np.array_equal(other.toys, serial.toys)


def test_toys_that_fail_are_left_out_and_told(models, data, monkeypatch):
    def failing(toys, number):
        return (np.empty(0), "free fit: no") if number % 3 == 0 else toys.q0(number)

    monkeypatch.setattr(look_elsewhere, "_run", failing)
    result = global_significance(models[::5], data, VALUES[::5], n=7, executor=Serial())
    assert not result.valid
    assert len(result.toys) == 4
    assert result.message == "3 of 7 toys failed, the first: toy 0: free fit: no"
    monkeypatch.setattr(look_elsewhere, "_run", lambda toys, number: (np.empty(0), "no"))
    with pytest.raises(FitFailed, match="all 2 toys failed; toy 0: no"):
        global_significance(models[::5], data, VALUES[::5], n=2, executor=Serial())


# --- unbinned channels


def peak_at(mass, *, pool=4000, background=None):
    """The analytic workspace with the signal at another place; the pool is that of the first model."""
    ws = analytic.workspace(pool=pool, observed=analytic.draw_background(np.random.default_rng(5), 900))
    shifted = {}
    for name, table in ws.tables.items():
        if "features" in name:
            shifted[name] = table
            continue
        x = np.array(ws.tables[f"{name} features"]["x"])
        values = {c: np.array(table[c]) for c in table.names}
        values["signal"] = analytic.signal(x - mass + analytic.PEAK) / (
            (analytic.background(x) + analytic.signal(x)) / 2
        )
        if background is not None:
            values["background"] = values["background"] * background(x)
        shifted[name] = type(table).from_columns(values, np.float64)
    spec = dict(ws.spec)
    spec["unbinned"] = spec["unbinned"] | {"files": [analytic.file_entry(n, t) for n, t in shifted.items()]}
    ws = Workspace(spec, shifted)
    return ws.model(threads=1), ws


def test_unbinned_models_share_their_pool():
    made = [peak_at(mass) for mass in (4.5, 5.0, 5.5)]
    data = made[0][1].data(made[0][0])
    result = global_significance([m for m, _ in made], data, [4.5, 5.0, 5.5], n=4, executor=Serial())
    assert result.valid, result.message
    for (model, ws), z in zip(made, result.scan.significance, strict=True):
        assert significance(model, ws.data(model)).significance == pytest.approx(z, abs=1e-5)
    with pytest.raises(InvalidModel, match=r"mass = 5.5: its numbers of data are not those of the first model"):
        scan_significance([made[0][0], peak_at(5.5, pool=3000)[0]], data, [5.0, 5.5])
    tilted = peak_at(5.5, background=lambda x: 1.001 - 0.0002 * x)[0]
    with pytest.raises(InvalidModel, match=r"mass = 5.5: -2 ln L without signal is .* on the data"):
        scan_significance([made[0][0], tilted], data, [5.0, 5.5])


# --- what cannot be done


def test_models_that_do_not_fit_together_are_named(models, data):
    for other, message in (
        (bump(5.0, background=401.0), r"mass = 5: -2 ln L without signal is .* the signal alone"),
        (bump(5.0, poi="nu"), "mass = 5: the POI is 'nu', not 'mu'"),
        (bump(5.0, bins=60), "mass = 5: its numbers of data are not those"),
    ):
        with pytest.raises(InvalidModel, match=message):
            scan_significance([models[0], other], data, [4.0, 5.0])
    with pytest.raises(InvalidModel, match="a model for each value: 2 models, 3 values"):
        scan_significance(models[:2], data, [4.0, 5.0, 6.0])
    with pytest.raises(InvalidModel, match="increasing values of 'mass'"):
        scan_significance(models[:2], data, [5.0, 4.0])
    with pytest.raises(InvalidModel, match="at least one toy"):
        global_significance(models[:2], data, [4.0, 5.0], n=0)


def test_few_events_are_warned_of(data):
    few = [bump(mass, background=0.05) for mass in (8.0, 9.0)]
    empty = np.zeros(len(CENTRES))
    empty[35] = 2.0
    with pytest.warns(AsymptoticsWarning, match="few events"):
        scan_significance(few, empty, [8.0, 9.0])
