"""The box step against an exhaustive active-set solution, and Newton on objectives with known minima."""

import itertools

import numpy as np
import pytest

from nuratio.infer.fitting.newton import box_step, newton
from nuratio.infer.fitting.objective import Evaluations
from objectives import Exponentials, Function, Quadratic


def exhaustive(h, g, low, high):
    """The minimum of g.s + s.H.s / 2 in a box: the best feasible point over all sets of parameters at a bound."""
    n, best = len(g), (np.inf, None)
    for sides in itertools.product((-1, 0, 1), repeat=n):
        sides = np.array(sides)
        s = np.where(sides < 0, low, np.where(sides > 0, high, 0.0))
        if not np.isfinite(s).all():
            continue
        inside = np.flatnonzero(sides == 0)
        if len(inside):
            s[inside] = np.linalg.solve(h[np.ix_(inside, inside)], -(g + h @ s)[inside])
        if ((s >= low - 1e-12) & (s <= high + 1e-12)).all():
            best = min(best, (g @ s + s @ h @ s / 2, tuple(s)))
    return best


@pytest.mark.parametrize("seed", range(30))
def test_the_box_step_is_the_exhaustive_solution(seed):
    rng = np.random.default_rng(seed)
    n = 5
    a = rng.normal(size=(n, n))
    h = (a @ a.T + 0.05 * np.eye(n)) * np.outer(*[10.0 ** rng.uniform(-3, 3, n)] * 2)
    g = rng.normal(size=n) * np.sqrt(np.diag(h)) * 3
    width = 1 / np.sqrt(np.diag(h))
    low = np.where(rng.uniform(size=n) < 0.2, -np.inf, -width * rng.choice([0.0, 0.3, 2.0], n))
    high = np.where(rng.uniform(size=n) < 0.2, np.inf, width * rng.choice([0.0, 0.3, 2.0], n))
    step, descent = box_step(h, g, low, high)
    value, expected = exhaustive(h, g, low, high)
    assert descent == pytest.approx(-value, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(step / width, expected / width, atol=1e-8)


def test_the_box_step_ends_with_many_parameters_and_strong_correlations(rng):
    n = 60
    a = rng.normal(size=(n, 8))
    h = a @ a.T + 1e-3 * np.eye(n)
    g = rng.normal(size=n)
    low, high = -rng.uniform(0, 0.2, n), rng.uniform(0, 0.2, n)
    step, _ = box_step(h, g, low, high)
    slope = g + h @ step  # the conditions of Karush, Kuhn and Tucker
    assert ((step >= low) & (step <= high)).all()
    assert (np.abs(slope[(step > low) & (step < high)]) < 1e-9).all()
    assert (slope[step == low] >= 0).all()
    assert (slope[step == high] <= 0).all()


def test_an_indefinite_matrix_is_refused():
    with pytest.raises(np.linalg.LinAlgError):
        box_step(np.array([[1.0, 2.0], [2.0, 1.0]]), np.ones(2), np.full(2, -np.inf), np.full(2, np.inf))
    with pytest.raises(np.linalg.LinAlgError):  # singular
        box_step(np.ones((2, 2)), np.ones(2), np.full(2, -np.inf), np.full(2, np.inf))


def run(objective, start, low=-np.inf, high=np.inf, widths=np.nan):
    start = np.asarray(start, dtype=float)
    low, high, widths = (np.broadcast_to(np.asarray(x, dtype=float), start.shape) for x in (low, high, widths))
    return newton(Evaluations(objective, 1000), start, low, high, np.zeros(len(start), bool), widths=widths)


@pytest.mark.parametrize("seed", range(10))
def test_a_bounded_quadratic_takes_one_step(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(4, 4))
    quadratic = Quadratic(a @ a.T + np.eye(4), 3 * rng.normal(size=4))
    low, high = np.full(4, -0.5), np.full(4, 0.7)
    end = run(quadratic, np.zeros(4), low, high)
    assert not end.message
    assert end.steps <= 2
    _, expected = exhaustive(quadratic.h, -quadratic.h @ quadratic.center, low, high)
    np.testing.assert_allclose(end.point.theta, expected, atol=1e-9)
    on = (end.point.theta == low) | (end.point.theta == high)
    np.testing.assert_array_equal(on, np.isclose(expected, low) | np.isclose(expected, high))


def test_curved_valleys_and_exponentials():
    rosenbrock = Function(lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
    end = run(rosenbrock, [-1.2, 1.0])
    assert not end.message
    np.testing.assert_allclose(end.point.theta, 1, atol=1e-5)
    yields = Exponentials(np.array([3.0, 1e4, 0.2]))
    for start in ([-3.0, 0.0, 3.0], [12.0, 15.0, 6.0]):
        end = run(yields, start)
        assert not end.message
        np.testing.assert_allclose(end.point.theta, np.log(yields.n), atol=1e-5)


def test_the_first_step_reaches_two_constraint_widths():
    seen = []

    class Recorder(Exponentials):
        def derivatives(self, theta, *, hessian):
            seen.append(theta[0])
            return super().derivatives(theta, hessian=hessian)

    assert not run(Recorder(np.array([50.0])), [-5.0], widths=0.5).message
    assert seen[:3] == [-5.0, -4.0, -2.0]


@pytest.mark.parametrize("start", [[0.0, 0.3], [1e-9, 0.0], [0.0, 0.0], [0.3, -0.2]])
def test_away_from_saddles_and_indefinite_starts(start):
    """(x^2 - 1)^2 + y^2 has a saddle at zero and minima at x = +-1."""
    end = run(Function(lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2), start)
    assert not end.message
    np.testing.assert_allclose(np.abs(end.point.theta), [1, 0], atol=1e-5)


def test_a_minimum_at_a_bound_with_no_gradient_there():
    end = run(Quadratic(np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([0.0, 1.0])), [3.0, -2.0], low=[0.0, -5.0])
    assert not end.message
    np.testing.assert_allclose(end.point.theta, [0, 1], atol=1e-9)


def test_a_bound_is_released():
    """Starting on a bound that is in the way only until the other parameter has moved."""
    h = np.array([[1.0, 0.9], [0.9, 1.0]])
    quadratic = Quadratic(h, np.array([1.0, 1.0]))
    start = np.array([0.0, 3.0])
    assert (h @ (start - 1))[0] > 0  # the gradient points outward at first
    end = run(quadratic, start, low=0.0)
    np.testing.assert_allclose(end.point.theta, 1, atol=1e-8)


def test_a_square_root_at_its_bound():
    """Slopes are infinite at x = 0: held there if they point outward."""
    with np.errstate(divide="ignore"):
        rising = Function(
            lambda x: np.sqrt(x[0]) + (x[1] - 1) ** 2,
            lambda x: [0.5 / np.sqrt(x[0]), 2 * (x[1] - 1)],
            lambda x: [[-0.25 / x[0] ** 1.5, 0], [0, 2]],
        )
        for start in ([0.0, 0.0], [0.5, 3.0]):
            end = run(rising, start, low=[0.0, -5.0], high=[2.0, 5.0])
            assert not end.message
            np.testing.assert_allclose(end.point.theta, [0, 1], atol=1e-9)


@pytest.mark.parametrize("jump", [0.05, 0.5, 3.0])
def test_a_minimum_at_a_kink(jump):
    """As with interpolation codes 0 and 1: the slope jumps at zero, where the minimum is if it changes sign there."""
    c = 0.3

    def value(x):
        return (x[0] - 0.2) ** 2 + (x[1] - 1 + c * x[0]) ** 2 + jump * abs(x[0]) + 0.2 * abs(x[1])

    def gradient(x):
        r = 2 * (x[1] - 1 + c * x[0])
        return [2 * (x[0] - 0.2) + c * r + jump * (1 if x[0] > 0 else -1), r + 0.2 * (1 if x[1] > 0 else -1)]

    end = run(Function(value, gradient, lambda x: [[2 + 2 * c * c, 2 * c], [2 * c, 2]]), [0.0, 0.0], low=-5.0, high=5.0)
    assert not end.message
    x = max((0.4 + 0.2 * c - jump) / 2, 0.0)  # where the slopes vanish, to the right of the kink
    assert end.at_kink.tolist() == [x == 0, False]
    np.testing.assert_allclose(end.point.theta, [x, 0.9 - c * x], atol=1e-9)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Quadratic(np.array([[1.0, 1.0], [1.0, 1.0]]), np.ones(2)), "not positive definite"),
        (Quadratic(np.diag([1.0, 0.0]), np.ones(2)), "not positive definite"),
        (Quadratic(np.diag([1.0, -1.0]), np.ones(2)), "not converged"),
        (Function(lambda x: np.nan * x[0]), "not finite"),
    ],
    ids=["one direction", "one parameter", "unbounded below", "nowhere defined"],
)
def test_what_has_no_minimum_is_said(objective, message):
    assert message in run(objective, [0.0, 0.0]).message


def test_steps_out_of_the_domain_are_shortened():
    """-ln x + x with a start so far right that the Newton step leaves x > 0, where the value is NaN."""
    end = run(Function(lambda x: x[0] - np.log(x[0])), [1.99])
    assert not end.message
    assert end.point.theta[0] == pytest.approx(1, abs=1e-5)
    end = run(Function(lambda x: x[0] - np.log(x[0])), [50.0])
    assert not end.message
    assert end.point.theta[0] == pytest.approx(1, abs=1e-5)
