"""Surfaces of a few nuisances: covariances, conditioning, lengths, and what a fit makes of them."""

import json
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize

import analytic
from nuratio.errors import InvalidData
from nuratio.infer.fitting.fit import fit
from nuratio.interop.hs3 import from_hs3, to_hs3
from nuratio.model.expression import Dual, Expression
from nuratio.training.gaussian_process import Conditioned, Rows, correlation, log_posterior
from nuratio.training.surface import Surface, fit_surface
from nuratio.workspace.strict_json import LONGEST_EXPRESSION
from nuratio.workspace.workspace import Workspace

STAR = np.array([[0, 0], [2, 0], [-2, 0], [0, 2], [0, -2]], dtype=float)


def acceptance(nu):
    """Does not factorise: a turn-on of a weighted sum; and its gradient."""
    nu = np.asarray(nu, dtype=float)
    slopes = np.array([0.4, 0.3, 0.2, -0.25, 0.15, 0.1])[: nu.shape[1]]
    y = 1 / (1 + np.exp(0.8 - nu @ slopes))
    return y, (y * (1 - y))[:, None] * slopes


def surface(points=STAR, *, gradients=True, **errors):
    y, slopes = acceptance(points)
    return fit_surface(points, y, gradients=slopes if gradients else None, **errors)


def star(nuisances, step=2.0):
    return step * np.concatenate([np.zeros((1, nuisances)), np.eye(nuisances), -np.eye(nuisances)])


@pytest.fixture(scope="module")
def joint():
    """Two nuisances, off-axis points, a gradient that is not known in one component."""
    points = np.concatenate([STAR, [[1.1, -0.7], [-1.6, 1.3]]])
    y, slopes = acceptance(points)
    slopes[2, 1] = np.nan
    return fit_surface(points, y, 0.001, slopes, 0.002)


@pytest.fixture(scope="module")
def pairs():
    """Five nuisances: a sum over pairs."""
    return surface(star(5))


SURFACES = ["joint", "pairs"]


@pytest.fixture(params=SURFACES)
def either(request):
    return request.getfixturevalue(request.param)


# --- the covariance: a textbook's, one entry at a time


def groups(nuisances):
    return [(j, k) for j in range(nuisances) for k in range(j)] if nuisances > 4 else [tuple(range(nuisances))]


def kernel(x, z, lengths):
    """Of unit amplitude, between two values."""
    bells = [np.prod([np.exp(-((x[k] - z[k]) ** 2) / (2 * lengths[k] ** 2)) for k in g]) for g in groups(len(x))]
    return sum(bells) / len(bells)


def all_rows(points):
    """Value and every derivative at each point."""
    return Rows.of(points, np.ones((len(points), 1 + points.shape[1]), dtype=bool))


@pytest.mark.parametrize("nuisances", [1, 2, 4, 5])
def test_every_block_of_the_covariance_is_a_derivative_of_the_kernel(nuisances, rng):
    lengths = rng.uniform(0.7, 2.5, nuisances)
    a, b = (rng.uniform(-2, 2, (3, nuisances)) for _ in range(2))
    rows, columns = all_rows(a), all_rows(b)
    found = correlation(rows, columns, lengths)
    h = 1e-3

    def shifts(order):
        return [(0.0 * order, 1.0)] if not order.any() else [(h * order, 0.5 / h), (-h * order, -0.5 / h)]

    for i, j in product(range(len(rows.points)), range(len(columns.points))):
        numeric = sum(
            s * t * kernel(rows.points[i] + u, columns.points[j] + v, lengths)
            for (u, s), (v, t) in product(shifts(rows.orders[i]), shifts(columns.orders[j]))
        )
        assert found[i, j] == pytest.approx(numeric, abs=3e-6)  # h^2 times fourth derivatives
    np.testing.assert_allclose(found, correlation(columns, rows, lengths).T, rtol=1e-13)
    assert np.linalg.eigvalsh(correlation(rows, rows, lengths)).min() > -1e-12


def test_pairs_describe_sums_of_pairs_and_no_more(rng):
    """With five nuisances ln y = sum of pairs is in the span of the covariance, a product of three is not."""
    points = rng.uniform(-2, 2, (120, 5))
    check = rng.uniform(-1.5, 1.5, (200, 5))
    lengths = np.full(5, 3.0)
    left = []
    for f in (lambda x: x[:, 0] * x[:, 1] - 0.5 * x[:, 2] * x[:, 4], lambda x: x[:, 0] * x[:, 1] * x[:, 2]):
        known = Surface(points, f(points)[:, None], np.zeros((120, 1)), 1.0, lengths)
        left.append(np.std(np.log(known.at(check)[0]) - f(check)) / np.std(f(check)))
    assert left[0] < 0.03
    assert left[1] > 0.5


# --- lengths


@pytest.mark.parametrize("nuisances", [2, 5])
def test_the_marginal_likelihood_is_the_textbook_s_and_its_gradient_a_difference(nuisances, rng):
    points = rng.uniform(-2, 2, (4, nuisances))
    known = rng.uniform(size=(4, 1 + nuisances)) > 0.2
    known[:, 0] = True
    rows = Rows.of(points, known)
    n = len(rows.points)
    y, noise = rng.normal(size=(n, 2)), rng.uniform(0.01, 0.3, n)
    theta = np.log([0.7, *rng.uniform(1, 4, nuisances)])
    value, gradient = log_posterior(theta, rows, y, noise)
    c = 0.49 * (correlation(rows, rows, np.exp(theta[1:])) + np.diag(rows.jitter(np.exp(theta[1:])))) + np.diag(
        noise**2
    )
    one, inverse = rows.values, np.linalg.inv(c)
    mean = one @ inverse @ y / (one @ inverse @ one)
    rest = y - np.outer(one, mean)
    expected = 0.5 * np.trace(rest.T @ inverse @ rest) + 0.5 * np.linalg.slogdet(c)[1]
    expected += 0.5 * np.log(one @ inverse @ one) + 0.5 * ((theta[1:] - np.log(3)) ** 2).sum()
    assert value == pytest.approx(expected, rel=1e-9)
    h = 1e-5 * np.eye(len(theta))
    numeric = [
        (log_posterior(theta + s, rows, y, noise)[0] - log_posterior(theta - s, rows, y, noise)[0]) / 2e-5 for s in h
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6)


def test_the_gradient_holds_where_only_jitter_is_left(rng):
    """Noise-free and far longer than the points are apart: the jitter's own derivatives count."""
    points = rng.uniform(-1, 1, (6, 2))
    rows = all_rows(points)
    y = rng.normal(size=(len(rows.points), 1)) * 1e-4
    theta, h = np.log([1.0, 40.0, 60.0]), 1e-4
    gradient = log_posterior(theta, rows, y, np.zeros(len(y)))[1]
    for j, step in enumerate(h * np.eye(3)):
        ends = [log_posterior(theta + s * step, rows, y, np.zeros(len(y)))[0] for s in (1, -1)]
        assert gradient[j] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=5e-3)


def test_lengths_are_those_the_function_has(rng):
    """ln y = sin(x / 0.5) + sin(z / 5): short along the first axis, long along the second."""
    points = rng.uniform(-2, 2, (60, 2))
    found = fit_surface(points, np.exp(np.sin(points[:, 0] / 0.5) + np.sin(points[:, 1] / 5)))
    assert 4 * found.lengths[0] < found.lengths[1]


# --- conditioning


def test_a_surface_goes_through_what_is_known_without_error():
    known = surface()
    y, slopes = acceptance(STAR)
    value, sd = known.at(STAR)
    small = 1e-5 * known.amplitude  # the jitter's standard deviation
    assert np.all(sd / value < 1.001 * small)
    np.testing.assert_allclose(value, y, rtol=5 * small)
    np.testing.assert_allclose(known.gradient(STAR), slopes, atol=5 * small)
    without = surface(gradients=False)
    np.testing.assert_allclose(without.at(STAR)[0], y, rtol=5e-5 * without.amplitude)
    assert np.abs(without.gradient(STAR) - slopes).max() > 0.01  # has not seen them


def test_errors_are_not_followed():
    y, slopes = acceptance(STAR)
    noisy = y * (1 + 0.05 * np.array([1, -1, 1, -1, 1]))
    value, sd = fit_surface(STAR, noisy, 0.05 * y, slopes, 0.01).at(STAR)
    assert np.abs(value / noisy - 1).max() > 0.02
    assert np.all((sd > 0.005 * y) & (sd < 0.05 * y))


def test_the_posterior_is_that_of_ordinary_kriging(either, rng):
    """The textbook's augmented equations, [[C, 1], [1, 0]] [w, m] = [k, 1]."""
    rows = Rows.of(either.points, either.known)
    c = either.amplitude**2 * correlation(rows, rows, either.lengths)
    c += np.diag(either.errors[either.known] ** 2 + either.amplitude**2 * rows.jitter(either.lengths))
    n, y = len(c), either.observations[either.known]
    augmented = np.block([[c, rows.values[:, None]], [rows.values[None], np.zeros((1, 1))]])
    inside = rng.uniform(-2, 2, (6, either.points.shape[1]))
    nu = np.concatenate([inside, 3 * either.lengths * rng.uniform(-1, 1, inside.shape)])  # and far away
    value, sd = either.at(nu)
    for i, point in enumerate(nu):
        k = np.append(either.amplitude**2 * correlation(Rows.at(point[None]), rows, either.lengths)[0], 1.0)
        w = np.linalg.solve(augmented, k)
        assert np.log(value[i]) == pytest.approx(w[:n] @ y, abs=1e-5)
        assert (sd[i] / value[i]) ** 2 == pytest.approx(either.amplitude**2 - w @ k, abs=1e-6 * either.amplitude**2)
    h = 1e-3
    for k, step in enumerate(h * np.eye(nu.shape[1])):
        numeric = (either.at(inside + step)[0] - either.at(inside - step)[0]) / (2 * h)
        np.testing.assert_allclose(either.gradient(inside)[:, k], numeric, atol=1e-6)


def test_errors_are_as_large_as_they_say(rng):
    """Functions drawn from the prior: the squares of pulls have mean 1, and not with the wrong length."""
    points, nu, lengths = rng.uniform(-2, 2, (5, 2)), rng.uniform(-2, 2, (8, 2)), np.array([1.5, 2.0])
    rows = Rows(
        np.concatenate([all_rows(points).points, nu]), np.concatenate([all_rows(points).orders, np.zeros((8, 2), bool)])
    )
    root = np.linalg.cholesky(0.25 * (correlation(rows, rows, lengths) + np.diag(rows.jitter(lengths))))
    noise = np.tile([0.03, 0.05, 0.05], 5)
    draws = 400
    squares = {1.0: [], 2.0: []}
    for _ in range(draws):
        f = root @ rng.normal(size=len(root))
        seen = (1.7 * np.append(rows.values[:15], 0)[:15] + f[:15] + noise * rng.normal(size=15)).reshape(5, 3)
        for scale, found in squares.items():
            value, sd = Surface(points, seen, noise.reshape(5, 3), 0.5, scale * lengths).at(nu)
            found.append((((np.log(value) - 1.7 - f[15:]) / (sd / value)) ** 2).mean())
    mean = {scale: np.mean(found) for scale, found in squares.items()}
    error = np.std(squares[1.0]) / np.sqrt(draws)
    assert abs(mean[1.0] - 1) < 4 * error
    assert mean[2.0] - 1 > 10 * error


def test_the_order_of_points_and_nuisances_does_not_matter(joint):
    nu = np.array([[0.3, -1.2], [1.9, 1.9], [-0.5, 0.1]])
    order, swap = [6, 2, 0, 5, 1, 4, 3], [1, 0]
    y, slopes = acceptance(joint.points)
    slopes[2, 1] = np.nan
    again = fit_surface(joint.points[order], y[order], 0.001, slopes[order], 0.002)
    swapped = fit_surface(joint.points[:, swap], y, 0.001, slopes[:, swap], 0.002)
    for other, asked in ((again, nu), (swapped, nu[:, swap])):
        for mine, theirs in zip(joint.at(nu), other.at(asked), strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=1e-4)  # of the minimiser of the likelihood
    assert not np.allclose(swapped.at(nu)[0], joint.at(nu)[0], rtol=1e-2)


@pytest.mark.parametrize("factor", [1e-6, 300.0])
def test_a_scaled_function_has_a_scaled_surface(factor):
    y, slopes = acceptance(STAR)
    nu = np.array([[0.3, -1.2], [1.9, 1.9], [-0.5, 0.1]])
    for error in (0.0, 0.002):
        known, scaled = (fit_surface(STAR, f * y, f * error, f * slopes, f * error) for f in (1.0, factor))
        for mine, theirs in zip(known.at(nu), scaled.at(nu), strict=True):
            np.testing.assert_allclose(theirs, factor * mine, rtol=1e-3)
        np.testing.assert_allclose(scaled.lengths, known.lengths, rtol=1e-3)


def test_a_constant_function_has_a_flat_surface():
    value, sd = fit_surface(STAR, np.full(5, 7.0), gradients=np.zeros((5, 2))).at([[1.3, -0.9], [4.0, 4.0]])
    np.testing.assert_allclose(value, 7.0, rtol=1e-9)
    assert np.all(sd < 1e-4)


def test_it_sees_what_factorised_responses_miss():
    """Five points with gradients against the product and the sum of exact single responses."""
    nu = np.array(list(product(np.linspace(-2, 2, 15), repeat=2)))
    y, (y0,) = acceptance(nu)[0], acceptance(np.zeros((1, 2)))[0]
    alone = [acceptance(nu * axis)[0] / y0 for axis in np.eye(2)]

    def rms(prediction):
        return np.sqrt(np.mean((prediction - y) ** 2))

    error = rms(surface().at(nu)[0])
    assert rms(y0 * alone[0] * alone[1]) > 20 * error
    assert rms(y0 * (alone[0] + alone[1] - 1)) > 5 * error
    assert rms(surface(gradients=False).at(nu)[0]) > 5 * error


# --- the next point


def test_the_next_point_is_where_the_surface_is_known_least(either):
    candidates = np.random.default_rng(0).uniform(-3, 3, (300, either.points.shape[1]))
    value, sd = either.at(candidates)
    chosen = either.next_point(candidates)
    np.testing.assert_array_equal(chosen.nu, candidates[np.argmax(sd / value)])
    assert chosen.sd == pytest.approx((sd / value).max(), rel=1e-9)
    assert np.all(either.at(np.concatenate([candidates, either.points]))[1] >= 0)


def test_the_default_candidates_are_a_cube_with_its_corners():
    chosen = surface().next_point()
    np.testing.assert_array_equal(np.abs(chosen.nu), [2, 2])
    np.testing.assert_array_equal(np.abs(surface().next_point(reach=3.0).nu), [3, 3])
    assert surface(star(5)).next_point(reach=1.0).nu.shape == (5,)


def test_enough_is_a_matter_of_tolerance_and_of_points():
    known = surface()
    assert not known.next_point(tolerance=1e-6).enough
    assert known.next_point(tolerance=10.0).enough
    points, sds = STAR, []
    while not (chosen := (known := surface(points, gradients=False)).next_point()).enough:
        points, sds = np.concatenate([points, chosen.nu[None]]), [*sds, chosen.sd]
        assert len(points) < 30
    assert sds
    assert chosen.sd < 0.005 < min(sds)
    nu = np.array(list(product(np.linspace(-2, 2, 9), repeat=2)))
    np.testing.assert_allclose(known.at(nu)[0], acceptance(nu)[0], rtol=0.01)


# --- coefficients


def test_coefficients_reproduce_the_surface(either, rng):
    nu = rng.uniform(-2, 2, (7, either.points.shape[1]))
    c = either.weights(np.concatenate([np.zeros((1, nu.shape[1])), nu]))
    np.testing.assert_array_equal(c[0], 0)
    np.testing.assert_allclose(c[..., 0].sum(axis=1), 0, atol=1e-9)
    assert np.all(c[:, ~either.known] == 0)
    values = either.at(np.concatenate([np.zeros((1, nu.shape[1])), nu]))[0]
    predicted = c[:, either.known] @ either.observations[either.known]
    np.testing.assert_allclose(predicted, np.log(values / values[0]), atol=1e-9)


# --- the expression


def evaluated(text, names, nu):
    expression = Expression.parse(text)
    duals = {name: Dual.parameter(float(v), j, len(names)) for j, (name, v) in enumerate(zip(names, nu, strict=True))}
    return expression(duals)


def test_the_expression_is_the_surface(either, rng):
    nuisances = either.points.shape[1]
    names = [f"jes_{k}" for k in range(nuisances)]
    text = either.expression(names)
    (y0,) = either.at(np.zeros((1, nuisances)))[0]
    assert evaluated(text, names, np.zeros(nuisances)).value == pytest.approx(1, abs=1e-10)
    h = 1e-4
    for nu in rng.uniform(-2, 2, (4, nuisances)):
        dual = evaluated(text, names, nu)
        assert dual.value == pytest.approx(either.at(nu[None])[0][0] / y0, rel=1e-9)
        np.testing.assert_allclose(dual.gradient, either.gradient(nu[None])[0] / y0, atol=1e-8)
        steps = h * np.eye(nuisances)
        slopes = [either.gradient(nu[None] + s)[0] - either.gradient(nu[None] - s)[0] for s in steps]
        np.testing.assert_allclose(dual.hessian, np.array(slopes) / (2 * h * y0), atol=1e-5)


def test_points_that_a_pair_cannot_tell_apart_are_one_term():
    text = surface(star(6)).expression([f"n{k}" for k in range(6)])
    assert text.count("exp(") - 1 == 15 * 5  # pairs times their own five points, not times thirteen
    assert len(text) < 15_000


def test_a_surface_of_many_points_is_not_nested_deeply(rng):
    points = rng.uniform(-2, 2, (80, 2))
    y, slopes = acceptance(points)
    logs = np.column_stack([np.log(y), slopes / y[:, None]])
    text = Surface(points, logs, np.zeros((80, 3)), 1.0, np.array([2.0, 2.5])).expression(["a", "b"])
    assert 10_000 < len(text) < LONGEST_EXPRESSION
    depth = np.cumsum([{"(": 1, ")": -1}.get(c, 0) for c in text])
    assert depth.max() < 10


def test_a_surface_survives_json(either):
    again = Surface.from_dict(json.loads(json.dumps(either.to_dict())))
    nu = np.ones((2, either.points.shape[1])) * [[0.5], [-1.5]]
    for mine, theirs in zip(either.at(nu), again.at(nu), strict=True):
        np.testing.assert_array_equal(theirs, mine)


# --- errors

Y = np.ones(5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": STAR[:1], "values": Y[:1]}, r"points of shape \(1, 2\).*with n >= 2"),
        ({"points": STAR[:, 0], "values": Y}, r"points of shape \(5,\)"),
        ({"points": np.empty((5, 0)), "values": Y}, r"points of shape \(5, 0\)"),
        ({"values": Y[:4]}, r"values of shape \(4,\): a surface needs"),
        ({"points": np.where(STAR == 2, np.nan, STAR), "values": Y}, r"points\[1, 0\] = nan is not finite"),
        ({"values": Y * [1, 1, -2, 1, 0]}, r"values\[2\] = -2 is not positive, but ln y is modelled: merge bins"),
        ({"values": Y * np.inf}, r"values\[0\] = inf is not positive"),
        ({"errors": Y[:3]}, r"errors of shape \(3,\): give one number, or shape \(5,\)"),
        ({"errors": -0.1}, r"errors = -0\.1 is no standard deviation: give 0 or more"),
        ({"errors": Y * [1, np.nan, 1, 1, 1]}, r"errors\[1\] = nan is no standard deviation"),
        ({"gradients": np.zeros((5, 1))}, r"gradients of shape \(5, 1\) at points of shape \(5, 2\)"),
        ({"gradients": np.full((5, 2), np.inf)}, r"gradients\[0, 0\] = inf is infinite: give NaN"),
        ({"gradient_errors": 0.1}, "gradient_errors without gradients: give both, or none"),
        (
            {"gradients": STAR, "gradient_errors": Y},
            r"gradient_errors of shape \(5,\): give one number, or shape \(5, 2\)",
        ),
        ({"points": STAR[[0, 1, 2, 3, 1]]}, r"the point \[2\.0, 0\.0\] occurs twice: give errors, or one average"),
    ],
)
def test_what_cannot_be_fitted_is_refused(arguments, message):
    with pytest.raises(InvalidData, match=message):
        fit_surface(**{"points": STAR, "values": Y} | arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.at([0.0, 0.0]), r"nu of shape \(2,\) for a surface of 2 nuisances: give \(m, K\)"),
        (lambda s: s.gradient([[0.0]]), r"nu of shape \(1, 1\)"),
        (lambda s: s.weights([[0.0, np.nan]]), r"nu\[0, 1\] = nan is not finite"),
        (lambda s: s.next_point(np.empty((0, 2))), r"nu of shape \(0, 2\).*m >= 1"),
        (lambda s: s.expression(["a"]), r"names \['a'\] for a surface of 2 nuisances: give each of them one"),
        (lambda s: s.expression(["a", "a"]), r"names \['a', 'a'\]"),
        (lambda s: s.expression(["a", "jes up"]), "an expression cannot spell 'jes up'.*rename the nuisance"),
        (lambda s: s.expression(["a", "lambda"]), "an expression cannot spell 'lambda'"),
        (
            lambda s: Surface.from_dict({"points": [], "errors": []}),
            "no surface without amplitude, lengths, observations",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(joint, call, message):
    with pytest.raises(InvalidData, match=message):
        call(joint)


def test_a_cube_of_many_nuisances_is_refused():
    known = Surface(np.zeros((2, 13)), np.zeros((2, 1)), np.zeros((2, 1)), 1.0, np.ones(13))
    with pytest.raises(
        InvalidData, match=r"a cube of 13 nuisances has 8192 corners.*few nuisances.*or give candidates"
    ):
        known.next_point()


# --- a fit

BINS, SIGNAL, BACKGROUND = 3, np.array([5.0, 15.0, 20.0]), np.array([100.0, 60.0, 30.0])
TRUTH = {"mu": 1.0, "jes1": 1.5, "jes2": 1.2}


def in_bin(b, nu):
    """Acceptance of bin b, relative to nominal, at nu of shape (m, 2): the turn-on is at another place in each."""
    nu = np.asarray(nu)
    slopes = np.array([[0.5, 0.4], [0.45, -0.1], [-0.2, 0.5]])[b]
    y = (1 + np.exp(1.0)) / (1 + np.exp(1.0 - nu @ slopes))
    return y, (y * (1 - y / (1 + np.exp(1.0))))[:, None] * slopes


def counting(kind):
    """Counts in three channels, exactly as expected at the truth: acceptances as surfaces, or as two normsys each."""
    spec = {
        "version": "1.0.0",
        "channels": [],
        "observations": [],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-5, 10]]}]}}],
    }
    parameters = []
    truth = np.array([[TRUTH["jes1"], TRUTH["jes2"]]])
    for b in range(BINS):
        sides = [{"hi": float(in_bin(b, [axis])[0][0]), "lo": float(in_bin(b, [-axis])[0][0])} for axis in np.eye(2)]
        modifiers = [
            {"name": f"jes{k + 1}", "type": "normsys", "data": side if kind == "normsys" else {"hi": 1.0, "lo": 1.0}}
            for k, side in enumerate(sides)
        ]
        if kind == "surface":
            modifiers.append({"name": f"acceptance{b}", "type": "normfactor", "data": None})
            y, slopes = in_bin(b, STAR)
            text = fit_surface(STAR, y, gradients=slopes).expression(["jes1", "jes2"])
            parameters.append({"name": f"acceptance{b}", "expression": text})
        mu = {"name": "mu", "type": "normfactor", "data": None}
        samples = [
            {"name": "signal", "data": [SIGNAL[b]], "modifiers": [mu, *modifiers]},
            {"name": "background", "data": [BACKGROUND[b]], "modifiers": modifiers},
        ]
        spec["channels"].append({"name": f"bin{b}", "samples": samples})
        n = float(in_bin(b, truth)[0][0] * (SIGNAL[b] * TRUTH["mu"] + BACKGROUND[b]))
        spec["observations"].append({"name": f"bin{b}", "data": [n]})
    if kind == "surface":
        spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "parameters": parameters}
    return Workspace(spec)


def exact(data):
    """-2 ln L up to a constant, of the true acceptances, at (mu, jes1, jes2)."""

    def twice_nll(theta):
        rates = [in_bin(b, theta[None, 1:])[0][0] * (SIGNAL[b] * theta[0] + BACKGROUND[b]) for b in range(BINS)]
        counts, aux = data[:BINS], data[BINS:]
        return 2 * sum(r - n * np.log(r) for r, n in zip(rates, counts, strict=True)) + ((theta[1:] - aux) ** 2).sum()

    return twice_nll


@pytest.fixture(scope="module")
def with_surface():
    return counting("surface")


def test_a_fit_with_the_surface_finds_the_minimum_of_the_exact_likelihood(with_surface):
    """Data of the truth, with nuisances measured off their nominal values, and data that fluctuated."""
    normsys = counting("normsys")
    for fluctuation in (np.zeros(5), np.array([6.0, -7.0, 5.0, -0.4, 0.3])):
        found = {}
        for name, ws in (("surface", with_surface), ("normsys", normsys)):
            model = ws.model()
            assert [n for n in model.config.par_names if n != "mu"] == ["jes1", "jes2"]
            data = np.array(ws.data(model), dtype=float)
            data[BINS:] = [TRUTH["jes1"], TRUTH["jes2"]]
            data += fluctuation
            result = fit(model, data)
            assert result.valid
            found[name] = [result[n].value for n in TRUTH], [result[n].uncertainty for n in TRUTH]
        best = minimize(
            exact(data), np.array(list(TRUTH.values())), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}
        ).x
        if not fluctuation.any():
            np.testing.assert_allclose(best, list(TRUTH.values()), atol=1e-4)
        value, sigma = found["surface"]
        assert np.abs((value - best) / sigma).max() < 0.03
        value, sigma = found["normsys"]
        assert np.abs((value - best) / sigma).max() > 0.3


def test_the_model_of_a_surface_has_exact_derivatives(with_surface, rng):
    model = with_surface.model()
    likelihood, h = model.likelihood(with_surface.data(model)), 1e-3
    for _ in range(3):
        theta = analytic.random_point(model, rng)
        value, gradient, hessian = likelihood.derivatives(theta, hessian=True)
        assert value == pytest.approx(likelihood.value(theta), rel=1e-12)
        ends = [[likelihood.derivatives(theta + s * step, hessian=False) for s in (1, -1)] for step in h * np.eye(3)]
        np.testing.assert_allclose(gradient, [(a[0] - b[0]) / (2 * h) for a, b in ends], atol=1e-4)
        np.testing.assert_allclose(hessian, [(a[1] - b[1]) / (2 * h) for a, b in ends], atol=1e-4)


def test_a_workspace_with_a_surface_is_stored_renamed_and_exported(with_surface, tmp_path):
    """The expression is longer than other texts may be."""
    with_surface.validate()
    assert len(with_surface.spec["unbinned"]["parameters"][0]["expression"]) > 600
    with_surface.save(tmp_path / "ws")
    model = with_surface.model()
    theta = {"mu": 1.3, "jes1": 0.7, "jes2": -1.1}

    def twice_nll(ws, names=None):
        m = ws.model()
        values = {(names or {}).get(n, n): v for n, v in theta.items()}
        return m.twice_nll([values[n] for n in m.config.par_names], ws.data(m))

    expected = model.twice_nll([theta[n] for n in model.config.par_names], with_surface.data(model))
    assert twice_nll(Workspace.load(tmp_path / "ws")) == pytest.approx(expected, rel=1e-12)
    assert twice_nll(with_surface.rename({"jes1": "scale"}), {"jes1": "scale"}) == pytest.approx(expected, rel=1e-12)
    assert twice_nll(from_hs3(to_hs3(with_surface))) == pytest.approx(expected, rel=1e-9)


def test_conditioning_needs_no_values(joint):
    """The same linear algebra serves any function known at the same points."""
    rows = Rows.of(joint.points, joint.known)
    solved = Conditioned.on(rows, joint.errors[joint.known], joint.amplitude, joint.lengths)
    np.testing.assert_allclose(solved.project(rows.values), 0, atol=1e-6)
    assert solved.mean(2.5 * rows.values) == pytest.approx(2.5, rel=1e-9)
