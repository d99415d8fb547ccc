"""Per-event responses that do not factorise: a Gaussian whose mean and width move (reference METHODS 7)."""

from itertools import product

import numpy as np
import pytest

import analytic
from nuratio.data.varied import monomial
from nuratio.errors import InvalidData
from nuratio.ratios.table import RatioTable
from nuratio.training.event_surface import exponent_columns, fit_event_surface, interpolate
from nuratio.training.surface import fit_surface
from nuratio.workspace.exponent import exponent_entry, exponent_terms
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

STAR = np.array([[0, 0], [2, 0], [-2, 0], [0, 2], [0, -2]], dtype=float)
CORNERS = np.concatenate([STAR, list(product((-2.0, 2.0), repeat=2))])
NAMES = ("shift", "width")
OFF_AXES = [(1, 1), (1, -1), (2, 2)]
FACTORISED = (0.079, 0.106, 0.28)  # RMS of the log error there


def log_density(x, nu):
    """N(0.3 nu1, exp(0.15 nu2)) up to a constant."""
    return -0.5 * ((x - 0.3 * nu[0]) * np.exp(-0.15 * nu[1])) ** 2 - 0.15 * nu[1]


def known(x, points=STAR):
    """ln p and its derivatives at the points: shape (n, 3, events)."""
    table = []
    for nu in points:
        u = (x - 0.3 * nu[0]) * np.exp(-0.15 * nu[1])
        table.append([log_density(x, nu), 0.3 * u * np.exp(-0.15 * nu[1]), 0.15 * (u**2 - 1)])
    return np.array(table)


def log_shape(x, nu):
    return log_density(x, nu) - log_density(x, (0, 0))


def rms(a):
    return float(np.sqrt(np.mean(np.square(a))))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(7).normal(size=5_000)


@pytest.fixture(scope="module")
def surface(x):
    return fit_event_surface(STAR, known(x))


def polynomial(columns, nu):
    return sum(monomial(term, dict(zip(NAMES, nu, strict=True))) * d for term, d in columns.items())


def factorised(x):
    """D1 and D2 of each nuisance from its own variations by one unit: exact on the axes for the shift alone."""
    columns = {}
    for k, name in enumerate(NAMES):
        up, down = (log_shape(x, side * np.eye(2)[k]) for side in (1, -1))
        columns |= {((name, 1),): (up - down) / 2, ((name, 2),): (up + down) / 2}
    return columns


# --- off the axes


def test_what_is_interpolated_is_right_off_the_axes(x, surface):
    columns = exponent_columns(surface, known(x), NAMES)
    for nu, wrong in zip(OFF_AXES, FACTORISED, strict=True):
        truth = log_shape(x, nu)
        assert rms(polynomial(factorised(x), nu) - truth) == pytest.approx(wrong, rel=0.05)
        assert rms(interpolate(surface, known(x), nu) - truth) < wrong / 8
        assert rms(polynomial(columns.columns, nu) - truth) < wrong / 8


def test_derivatives_are_what_tells(x):
    """From the values alone, on the axes, nothing is known off them."""
    values = known(x)[:, :1]
    without = fit_event_surface(STAR, values)
    for nu, wrong in zip(OFF_AXES, FACTORISED, strict=True):
        assert rms(interpolate(without, values, nu) - log_shape(x, nu)) > wrong / 2
    table = known(x, CORNERS)
    more = fit_event_surface(CORNERS, table)
    for nu, wrong in zip(OFF_AXES, FACTORISED, strict=True):
        assert rms(interpolate(more, table, nu) - log_shape(x, nu)) < wrong / 100


def test_known_points_are_reproduced_and_zero_is_exact(x, surface):
    columns = exponent_columns(surface, known(x), NAMES).columns
    np.testing.assert_array_equal(interpolate(surface, known(x), (0, 0)), 0)
    np.testing.assert_array_equal(polynomial(columns, (0, 0)), 0)
    for nu in STAR:
        assert rms(interpolate(surface, known(x), nu) - log_shape(x, nu)) < 2e-4 * surface.amplitude


def test_what_is_common_to_all_points_drops_out(x, surface):
    """Only ratios count: y may be relative to any density."""
    moved = known(x)
    moved[:, 0] += np.sin(x)
    np.testing.assert_allclose(
        interpolate(surface, moved, (1.3, -0.8)), interpolate(surface, known(x), (1.3, -0.8)), atol=1e-8
    )
    again = fit_event_surface(STAR, moved)
    np.testing.assert_allclose(again.lengths, surface.lengths, rtol=1e-3)
    assert again.amplitude == pytest.approx(surface.amplitude, rel=1e-3)


# --- the process


def test_one_event_is_a_surface_of_one_function():
    """Of the same lengths: its logarithm is all that is known."""
    x = np.array([1.2])
    table = known(x)
    one = fit_event_surface(STAR, table)
    p = np.exp(table[:, 0, 0])
    other = fit_surface(STAR, p, gradients=table[:, 1:, 0] * p[:, None])
    np.testing.assert_allclose(one.lengths, other.lengths, rtol=1e-3)
    np.testing.assert_allclose(one.at([[1.0, -1.5]])[0], other.at([[1.0, -1.5]])[0], rtol=1e-4)


def test_the_surface_is_the_mean_of_the_events(x, surface):
    nu = np.array([[0.7, -1.1], [-1.9, 0.4]])
    mean = [interpolate(surface, known(x), point).mean() for point in nu]
    values = surface.at(np.concatenate([np.zeros((1, 2)), nu]))[0]
    np.testing.assert_allclose(np.log(values[1:] / values[0]), mean, atol=1e-8)


def test_weights_are_numbers_of_events(x):
    table = known(x[:50])
    twice = fit_event_surface(STAR, np.concatenate([table, table[..., :20]], axis=2))
    weighted = fit_event_surface(STAR, table, np.where(np.arange(50) < 20, 2.0, 1.0))
    np.testing.assert_allclose(weighted.lengths, twice.lengths, rtol=1e-4)
    np.testing.assert_allclose(weighted.observations, twice.observations, rtol=1e-10)
    assert not np.allclose(fit_event_surface(STAR, table).observations, twice.observations, rtol=1e-3)


def test_a_derivative_may_be_unknown_for_all_events(x):
    table = known(x[:100])
    table[2, 1] = np.nan
    partial = fit_event_surface(STAR, table)
    assert not partial.known[2, 1]
    assert partial.known.sum() == 14
    other = table.copy()
    other[2, 1] = 1e6  # is not looked at
    np.testing.assert_array_equal(interpolate(partial, other, (1, 1)), interpolate(partial, table, (1, 1)))


# --- columns


@pytest.mark.parametrize("order", [2, 3, 4])
def test_columns_are_the_least_squares_polynomial_and_say_how_good(x, surface, order):
    table = known(x[:200])
    found = exponent_columns(surface, table, NAMES, order=order)
    assert set(found.columns) == {
        tuple((n, p) for n, p in zip(NAMES, powers, strict=True) if p)
        for powers in product(range(order + 1), repeat=2)
        if 0 < sum(powers) <= order
    }
    nu = list(product(np.linspace(-2, 2, 31), repeat=2))  # as many as make about a thousand
    left = np.array([polynomial(found.columns, point) - interpolate(surface, table, point) for point in nu])
    assert np.sqrt((left**2).mean(axis=1)).max() == pytest.approx(found.error, rel=1e-6)
    for term in found.columns:
        phi = np.array([monomial(term, dict(zip(NAMES, point, strict=True))) for point in nu])
        assert np.abs(phi @ left).max() < 1e-9 * np.linalg.norm(phi) * np.sqrt(len(nu))


def test_the_error_falls_with_the_order_and_with_the_reach(x, surface):
    table = known(x[:1000])
    errors = [exponent_columns(surface, table, NAMES, order=order).error for order in (1, 2, 3, 4, 5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.01
    assert exponent_columns(surface, table, NAMES, order=3, reach=1.0).error < errors[2] / 4


def test_terms_of_three_nuisances_are_pairs(rng):
    """ln S = nu1 x + nu2 nu3 x^2: exactly a polynomial with one pair."""
    x = rng.normal(size=30)
    points = 2.0 * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    table = np.array([[nu[0] * x + nu[1] * nu[2] * x**2, x, nu[2] * x**2, nu[1] * x**2] for nu in points])
    found = exponent_columns(fit_event_surface(points, table), table, ["c", "a", "b"], order=3)
    assert len(found.columns) == 3 * 3 + 3 * 3
    assert all(len(term) <= 2 and list(term) == sorted(term) for term in found.columns)
    np.testing.assert_allclose(found.columns[(("c", 1),)], x, atol=0.02)
    np.testing.assert_allclose(found.columns[("a", 1), ("b", 1)], x**2, atol=0.15)
    assert rms(found.columns[("a", 1), ("c", 1)]) < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda o: fit_event_surface(STAR[:1], o[:1]),
            r"points of shape \(1, 2\): a surface needs \(n, K\), with n >= 2",
        ),
        (lambda o: fit_event_surface(STAR + np.inf, o), r"points\[0, 0\] = inf is not finite"),
        (lambda o: fit_event_surface(STAR[[0, 1, 2, 3, 3]], o), r"the point \[0\.0, 2\.0\] occurs twice"),
        (
            lambda o: fit_event_surface(STAR, o[:, :2]),
            r"observations of shape \(5, 2, 4\) at 5 points of 2 nuisances: a",
        ),
        (lambda o: fit_event_surface(STAR, o[..., :0]), r"observations of shape \(5, 3, 0\)"),
        (lambda o: fit_event_surface(STAR, o + np.inf), r"observations\[0, 0, 0\] = inf is not finite"),
        (lambda o: fit_event_surface(STAR, o, np.ones(3)), r"weights of shape \(3,\) for 4 events: give a number >= 0"),
        (lambda o: fit_event_surface(STAR, o, -np.ones(4)), r"weights of shape \(4,\) for 4 events"),
        (lambda o: fit_event_surface(STAR, o, np.zeros(4)), r"not all 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(call, message):
    with pytest.raises(InvalidData, match=message):
        call(known(np.array([-1.0, 0.2, 0.9, 1.7])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, o: interpolate(s, o[:, :1], (0, 0)), r"observations of shape \(5, 1, 4\) for a surface of \(5, 3\)"),
        (lambda s, o: interpolate(s, o + np.inf, (0, 0)), r"observations\[0, 0, 0\] = inf is not finite"),
        (lambda s, o: interpolate(s, o, (0, 0, 0)), r"nu of shape \(1, 3\) for a surface of 2 nuisances"),
        (
            lambda s, o: exponent_columns(s, o[1:], NAMES),
            r"observations of shape \(4, 3, 4\) for a surface of \(5, 3\)",
        ),
        (
            lambda s, o: exponent_columns(s, o, ["a"]),
            r"names \['a'\] for a surface of 2 nuisances: give each of them one",
        ),
        (lambda s, o: exponent_columns(s, o, ["a", "a"]), r"names \['a', 'a'\]"),
        (lambda s, o: exponent_columns(s, o, NAMES, order=0), r"order 0: a workspace takes powers of 1 to 9"),
        (lambda s, o: exponent_columns(s, o, NAMES, order=10), r"order 10: a workspace takes powers of 1 to 9"),
    ],
)
def test_what_cannot_be_interpolated_is_refused(surface, call, message):
    with pytest.raises(InvalidData, match=message):
        call(surface, known(np.array([-1.0, 0.2, 0.9, 1.7])))


# --- in a workspace


@pytest.mark.parametrize("order", [1, 2, 4])
def test_an_entry_of_a_sample_says_which_column_is_which_term(surface, x, order):
    terms = {
        term: f"column {i}"
        for i, term in enumerate(exponent_columns(surface, known(x[:9]), NAMES, order=order).columns)
    }
    entry = exponent_entry(terms)
    assert exponent_terms(entry) == terms
    assert ("cross" in entry) == (order > 1)
    if order > 1:
        assert entry["cross"][0] == {"parameters": ["shift", "width"], "column": terms[("shift", 1), ("width", 1)]}
    if order == 4:
        assert {"parameters": ["shift", "width"], "powers": [2, 2]} in [
            {k: v for k, v in c.items() if k != "column"} for c in entry["cross"]
        ]


def one_sample(entry, columns, pool_size, observed):
    """A sample of known density beside a flat background; shapes as polynomials, normalised on the pool."""
    tables = {}
    for name, x in (("observed", observed), ("pool", np.linspace(-8, 8, pool_size))):
        p, q = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), np.full(len(x), 1 / 16)
        named = {entry[term]: column for term, column in columns(x).items()}
        density = {"peak": p / q, "flat": np.ones(len(x))}
        weight = {"weight": np.full(pool_size, 1 / pool_size)} if name == "pool" else {}
        tables[name] = RatioTable.from_columns(density | named | weight, np.float64)
    shape_only = [{"name": n, "type": "normsys", "data": {"hi": 1.0, "lo": 1.0}} for n in NAMES]
    mu = {"name": "mu", "type": "normfactor", "data": None}
    peak = {"name": "peak", "ratio": {"column": "peak"}, **exponent_entry(entry)}
    peak["normalisation"] = {"type": "pool", "parameters": list(NAMES)}
    return Workspace(
        {
            "version": "1.0.0",
            "channels": [
                {
                    "name": "SR",
                    "samples": [
                        {"name": "flat", "data": [50.0], "modifiers": []},
                        {"name": "peak", "data": [100.0], "modifiers": [mu, *shape_only]},
                    ],
                }
            ],
            "observations": [{"name": "SR", "data": [len(observed)]}],
            "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
            "unbinned": {
                "version": "1.0.0",
                "files": [file_entry(name, table) for name, table in tables.items()],
                "channels": [
                    {
                        "name": "SR",
                        "samples": [{"name": "flat", "ratio": {"column": "flat"}}, peak],
                        "events": {
                            "observed": {"file": "observed"},
                            "pool": {"file": "pool", "weight": {"column": "weight"}},
                        },
                    }
                ],
            },
        },
        tables,
    )


def twice_nll(x, mu, nu):
    """-2 ln L of the exact densities up to a constant."""
    p = np.exp(log_density(x, nu)) / np.sqrt(2 * np.pi)
    total = 50 + 100 * mu
    return 2 * (total - np.log(50 / 16 + 100 * mu * p).sum()) + np.square(nu).sum()


def test_the_likelihood_is_the_exact_one_off_the_axes(x, surface, rng):
    observed = np.concatenate([rng.uniform(-4, 4, 30), rng.normal(0.4, 1.2, 100)])
    nine = fit_event_surface(CORNERS, known(x, CORNERS))
    contenders = {
        "five points": lambda x: exponent_columns(surface, known(x), NAMES).columns,
        "nine points": lambda x: exponent_columns(nine, known(x, CORNERS), NAMES).columns,
        "factorised": factorised,
    }
    wrong = {}
    for name, columns in contenders.items():
        entry = {term: " ".join(f"{n}^{p}" for n, p in term) for term in columns(np.zeros(1))}
        ws = one_sample(entry, columns, 4000, observed)
        ws.validate()
        model = ws.model()
        data = ws.data(model)

        def rise(nu, model=model, data=data):
            values = {"mu": 1.1, "shift": nu[0], "width": nu[1]}
            at, nominal = ([v[n] for n in model.config.par_names] for v in (values, values | {"shift": 0, "width": 0}))
            return model.twice_nll(at, data) - model.twice_nll(nominal, data)

        wrong[name] = [
            abs(rise(nu) - twice_nll(observed, 1.1, nu) + twice_nll(observed, 1.1, (0, 0)))
            for nu in [(1, 0), (0, 1), *OFF_AXES, (-2, 1.5)]
        ]
        analytic.check_derivatives(model.likelihood(data), analytic.random_point(model, rng))
    assert max(wrong["nine points"]) < 0.05
    assert max(wrong["five points"][:-2]) < 0.05
    assert max(wrong["five points"][-2:]) < 1
    assert all(f > 20 * s for f, s in zip(wrong["factorised"][2:], wrong["five points"][2:], strict=True))
