import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import chi2
from surfaces import Surface, interference, poisson_ends, squared

import analytic
from nuratio.errors import AsymptoticsWarning, FitFailed, InvalidModel, UnknownName
from nuratio.infer.fitting.fit import fit
from nuratio.infer.profiles.intervals import interval
from nuratio.infer.results import load_result
from nuratio.workspace.workspace import Workspace
from objectives import Function

LEVELS = (0.683, 0.954)
HEIGHTS = chi2.ppf(LEVELS, 1)


@pytest.mark.parametrize("n", [72.0, 130.0])
def test_a_counting_experiment(n):
    ws = Workspace.from_pyhf(analytic.counting(n, bounds=(-4, 40)))
    model = ws.model()
    result = interval(model, ws.data(model), level=LEVELS)
    assert result.valid, result.message
    assert result.heights == pytest.approx(HEIGHTS)
    assert result.at_bound == (((False, False),),) * 2
    assert result.minima == pytest.approx([(n - 50) / 10], abs=1e-6)
    for ((low, high),), height in zip(result.pieces, HEIGHTS, strict=True):
        assert (low, high) == pytest.approx([(end - 50) / 10 for end in poisson_ends(n, height)], abs=1e-7)


def test_the_scan_is_the_profile_up_to_well_above_the_level():
    n = 72.0
    ws = Workspace.from_pyhf(analytic.counting(n))
    model = ws.model()
    result = interval(model, ws.data(model), width=3.0)
    lam = 50 + 10 * result.values
    np.testing.assert_allclose(result.delta_twice_nll, 2 * (lam - n - n * np.log(lam / n)), atol=1e-8)
    assert np.all(np.diff(result.values) > 0)
    below = result.values[result.delta_twice_nll <= 9]
    assert np.diff(below).max() < 0.1 * (below[-1] - below[0])
    assert result.values[0] == 0.0
    assert result.values[-1] == 10.0


@pytest.mark.parametrize("parameter", ["mu", "tilt", "stat[1]"])
def test_one_piece_is_the_minos_interval(analytic_model, parameter):
    model, data = analytic_model
    result = interval(model, data, parameter, level=float(chi2.cdf(1, 1)))
    minos = fit(model, data, minos=[parameter])[parameter]
    assert result.pieces[0][0] == pytest.approx((minos.lower, minos.upper), abs=1e-6)
    assert len(result.minima) == 1
    assert load_result(result.to_json()).to_json() == result.to_json()


def test_an_interval_that_ends_at_a_bound_says_so():
    ws = Workspace.from_pyhf(analytic.counting(53.0))
    model = ws.model()
    data = ws.data(model)
    result = interval(model, data, level=LEVELS)
    assert [piece[0] for pieces in result.pieces for piece in pieces] == [0.0, 0.0]
    assert result.at_bound == (((True, False),),) * 2
    narrow = interval(model, data, bounds={"mu": (0.1, 0.5)})
    assert narrow.pieces == (((0.1, 0.5),),)
    assert narrow.at_bound == (((True, True),),)


# --- two minima


@pytest.mark.parametrize("n", [85.0, 79.0, 110.0, 95.0])
def test_interference_gives_two_pieces_or_one(n):
    """Closed form: the expectation, a quadratic in sqrt(mu), has to lie between the ends of the Poisson interval."""
    model, data = interference(n)
    signal, between, background = 40.0, -60.0, 100.0
    with np.errstate(invalid="ignore"):
        expected = []
        for height in HEIGHTS:
            low, high = poisson_ends(n, height)
            roots = [np.roots([signal, between, background - end]) for end in (low, high)]
            ends = [0.0] if low <= background <= high else []
            ends += sorted(float(r.real) ** 2 for some in roots for r in some if abs(r.imag) < 1e-12 and r.real > 0)
            expected.append(list(zip(ends[::2], ends[1::2], strict=True)))
    minima = sorted(float(r) ** 2 for r in np.roots([signal, between, background - n]).real if r > 0)
    at_zero = 2 * (background - n - n * np.log(background / n)) if n > background else np.inf  # a minimum, at the bound
    if len(minima) > 1 or at_zero < HEIGHTS[-1]:
        with pytest.warns(AsymptoticsWarning, match="several minima: the profile of mu has minima at"):
            result = interval(model, data, level=LEVELS)
    else:
        result = interval(model, data, level=LEVELS)
    assert result.valid, result.message
    for found, wanted in zip(result.pieces, expected, strict=True):
        assert len(found) == len(wanted)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(np.sort(result.minima[result.minima_rise < 1e-6]), minima, atol=1e-4)
    assert result.bestfit.twice_nll == pytest.approx(min(fit(model, data, init={"mu": mu}).twice_nll for mu in minima))


def test_kappa_and_minus_kappa(analytic_workspace):
    model = analytic_workspace.model()
    data = analytic_workspace.data(model)
    ((low, high),) = interval(model, data).pieces[0]
    with pytest.warns(AsymptoticsWarning, match="several minima"):
        result = interval(squared(analytic_workspace), data)
    expected = [(-np.sqrt(high), -np.sqrt(low)), (np.sqrt(low), np.sqrt(high))]
    np.testing.assert_allclose(result.pieces[0], expected, atol=1e-6)
    assert result.minima[0] == pytest.approx(-result.minima[1], abs=1e-4)
    assert result.minima[0] > 0  # of minima that are equal, the one the fit finds from its start
    forced = interval(squared(analytic_workspace), data, asymptotics="force")
    assert forced.pieces == result.pieces


def folded(theta, tilt=0.0):
    """A nuisance a in two wells at +-1, each preferring its own sign of mu: the profile has a kink at zero."""
    mu, a = theta
    return 20 * (a**2 - 1) ** 2 - 6 * a * mu + 1.5 * mu**2 + tilt * mu


def folded_profile(mu, tilt):
    """Minimum over a, exactly: the real roots of the cubic."""
    roots = np.roots([80.0, 0.0, -80.0, -6 * mu])
    return min(folded((mu, float(r.real)), tilt) for r in roots if abs(r.imag) < 1e-9)


@pytest.mark.parametrize("start", [-1.0, 1.0])
@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_a_profile_with_a_kink_where_the_nuisance_jumps(start, tilt):
    model = Surface(Function(lambda t: folded(t, tilt)), ["mu", "a"], [0.5 * start, start], [(-6, 6), (-3, 3)])
    result = interval(model, [], level=LEVELS, asymptotics="force")
    assert result.valid, result.message
    grid = np.linspace(-6, 6, 4001)
    profile = np.array([folded_profile(mu, tilt) for mu in grid])
    best = profile.min()
    height = np.array([folded_profile(mu, tilt) for mu in result.values]) - best
    np.testing.assert_allclose(result.delta_twice_nll, height, atol=1e-5)  # on the lower branch everywhere
    for pieces, level in zip(result.pieces, HEIGHTS, strict=True):
        sides = np.flatnonzero(np.diff(np.sign(profile - best - level)))
        ends = [brentq(lambda mu, h=best + level: folded_profile(mu, tilt) - h, *grid[i : i + 2]) for i in sides]
        np.testing.assert_allclose(np.ravel(pieces), ends, atol=1e-4)
    assert len(result.pieces[0]) == (2 if tilt == 0 else 1)
    assert len(result.minima) == 2
    assert result.minima[0] == pytest.approx(
        grid[profile.argmin()] if tilt else start * abs(result.minima[0]), abs=0.01
    )


def test_a_lower_minimum_found_on_the_way_is_the_best_fit():
    model = Surface(Function(lambda t: folded(t, 0.4)), ["mu", "a"], [1.5, 1.0], [(-6, 6), (-3, 3)])
    assert fit(model, [])["mu"].value > 1
    result = interval(model, [], asymptotics="force")
    assert result.bestfit["mu"].value < -1
    assert result.minima[0] == result.bestfit["mu"].value
    assert result.minima_rise[0] == 0
    assert result.minima_rise[1] > 1


def test_narrow_valleys_far_apart():
    """Two wells of width 0.01 in a range of 100: the slopes of the scan point to them."""

    def wells(theta):
        x = theta[0]
        return float(np.minimum(((x - 31.7) / 0.01) ** 2, ((x + 22.2) / 0.01) ** 2 + 0.5))

    model = Surface(Function(wells), ["x"], [31.0], [(-50.0, 50.0)])
    result = interval(model, [], level=0.683, asymptotics="force")
    half = 0.01 * np.sqrt(HEIGHTS[0])
    other = 0.01 * np.sqrt(HEIGHTS[0] - 0.5)
    np.testing.assert_allclose(
        result.pieces[0], [(-22.2 - other, -22.2 + other), (31.7 - half, 31.7 + half)], atol=1e-6
    )
    np.testing.assert_allclose(result.minima_rise, [0, 0.5], atol=1e-6)


@pytest.mark.parametrize("points", [3, 5, 31])
def test_a_hill_between_few_points_is_seen(points):
    """The scan is refined where the profile is not what its neighbours say."""

    def hill(theta):
        return float(0.1 * theta[0] ** 2 + 3 * np.exp(-((theta[0] - 1.1) ** 2) / 0.18))

    model = Surface(Function(hill), ["x"], [-1.0], [(-10.0, 10.0)])
    result = interval(model, [], points=points, asymptotics="force")
    grid = np.linspace(-4, 4, 801)
    height = min(map(hill, grid[:, None])) + HEIGHTS[0]
    sides = np.flatnonzero(np.diff(np.sign([hill([x]) - height for x in grid])))
    ends = [brentq(lambda x: hill([x]) - height, *grid[i : i + 2]) for i in sides]
    np.testing.assert_allclose(np.ravel(result.pieces[0]), ends, atol=1e-3)
    assert len(result.pieces[0]) == 2


# --- what cannot be done


def test_wrong_requests_are_named(analytic_model):
    model, data = analytic_model
    with pytest.raises(InvalidModel, match="between 0 and 1"):
        interval(model, data, level=68.3)
    with pytest.raises(InvalidModel, match="between 0 and 1"):
        interval(model, data, level=())
    with pytest.raises(UnknownName, match="did you mean 'tilt'"):
        interval(model, data, "tillt")
    with pytest.raises(InvalidModel, match="'check' or 'force'"):
        interval(model, data, asymptotics="no")
    fixed = Surface(Function(lambda t: t @ t), ["a", "b"], [0.0, 0.0], [(-1, 1)] * 2)
    fixed.config.suggested_fixed = lambda: [True, False]
    with pytest.raises(InvalidModel, match="'a' is fixed"):
        interval(fixed, [])
    with pytest.raises(InvalidModel, match=r"'mu' needs finite bounds, its are \[0, inf\]"):
        interval(model, data, bounds={"mu": (0.0, np.inf)})


def test_without_a_valid_fit_there_is_no_interval():
    cancelling = Function(lambda t: t @ t)
    cancelling.nonpositive = lambda theta: ["density -1 at event 0"]
    with pytest.raises(FitFailed, match=r"the free fit is not valid: .*density -1 at event 0"):
        interval(Surface(cancelling, ["mu"], [0.5], [(-10, 10)]), [])


def test_an_end_beyond_which_fits_fail_is_said_to_be_missing():
    """Densities that are not positive below -1, where the level is not reached yet."""
    walled = Function(lambda t: (t[0] / 2) ** 2)
    walled.nonpositive = lambda theta: ["density -1 at event 0"] if theta[0] < -1 else []
    result = interval(Surface(walled, ["mu"], [0.5], [(-10, 10)]), [])
    assert not result.valid
    assert "an end that was not found" in result.message
    ((low, high),) = result.pieces[0]
    assert np.isnan(low)
    assert high == pytest.approx(2 * np.sqrt(HEIGHTS[0]), abs=1e-6)
    assert load_result(result.to_json()).to_json() == result.to_json()
