"""The whole minimisation: Newton, the minimiser of record, the fallbacks, and what is said about them."""

import numpy as np
import pytest

import nuratio.infer.fitting.minimize as module
from nuratio.infer.fitting.migrad import minuit
from nuratio.infer.fitting.minimize import minimize
from objectives import Counting, Exponentials, Function, Quadratic

N = np.array([30.0, 400.0, 5.0])


def run(objective, start=(0.0, 0.0, 0.0), bounds=(-15.0, 15.0), fixed=None, **options):
    n = len(start)
    fixed = np.zeros(n, dtype=bool) if fixed is None else np.array(fixed)
    return minimize(objective, np.array(start), [bounds] * n, fixed, names=[f"x{k}" for k in range(n)], **options)


def test_an_undisturbed_minimisation_is_newton_and_a_few_calls_of_migrad():
    objective = Counting(Exponentials(N))
    minimum = run(objective, (2.5, 7.0, 1.0))
    assert minimum.valid
    assert minimum.message == ""
    np.testing.assert_allclose(minimum.theta, np.log(N), atol=1e-6)
    newton, migrad = minimum.steps
    assert newton.startswith("Newton: ")
    assert migrad.startswith("MIGRAD: agrees, ")
    assert minimum.calls == {k: objective.calls[k] for k in minimum.calls}
    assert minimum.calls["hessian"] <= 12
    assert minimum.calls["value"] + minimum.calls["gradient"] <= 12
    np.testing.assert_allclose(minimum.hessian, np.diag(2 * N), rtol=1e-5)


def test_fixed_parameters_and_nothing_free():
    minimum = run(Exponentials(N), (0.0, 1.0, 0.0), fixed=[False, True, False])
    assert minimum.valid
    np.testing.assert_allclose(minimum.theta, [np.log(30), 1, np.log(5)], atol=1e-6)
    everything = run(Exponentials(N), fixed=[True] * 3)
    assert everything.valid
    assert everything.value == Exponentials(N).value(np.zeros(3))


def test_parameters_at_a_bound_do_not_disturb_migrad():
    minimum = run(Exponentials(N), bounds=(0.0, 5.0))
    assert minimum.valid
    assert minimum.message == ""
    assert minimum.theta[1] == 5.0
    assert minimum.at_bound.tolist() == [False, True, False]
    np.testing.assert_allclose(minimum.theta[[0, 2]], np.log([30, 5]), atol=1e-6)


def test_a_minimum_next_to_a_bound():
    center = np.array([1e-9, 1.0])
    minimum = run(Quadratic(np.array([[2.0, 1.0], [1.0, 2.0]]), center), (3.0, 3.0), bounds=(0.0, 5.0))
    assert minimum.valid
    assert minimum.message == ""
    np.testing.assert_allclose(minimum.theta, center, atol=1e-6)


class Wrong(Exponentials):
    """Derivatives that are not those of the value."""

    def __init__(self, n, error):
        super().__init__(n)
        self.error = error

    def derivatives(self, theta, *, hessian):
        value, gradient, second = super().derivatives(theta, hessian=hessian)
        return value, self.error(gradient), second


@pytest.mark.parametrize(
    "error",
    [
        lambda g: g + np.array([0.0, 4.0, 0.0]),
        lambda g: g + np.array([0.5, 0.0, 0.0]),
        lambda g: g * np.array([1.0, 0.0, 1.0]),
        lambda g: -g,
        lambda g: g * np.nan,
    ],
    ids=["shifted a tenth of sigma", "shifted a little", "one missing", "of the wrong sign", "NaN"],
)
def test_a_wrong_gradient_does_not_give_a_valid_minimum(error):
    minimum = run(Wrong(N, error), (3.0, 6.5, 2.0), max_calls=3000)
    assert not minimum.valid
    assert minimum.message


def test_a_wrong_hessian_is_noticed():
    class Stiff(Exponentials):
        def derivatives(self, theta, *, hessian):
            value, gradient, second = super().derivatives(theta, hessian=hessian)
            return value, gradient, 20 * second

    minimum = run(Stiff(N), tuple(np.log(N)))
    assert not minimum.valid
    assert "Hessian is not that of" in minimum.message


def near_only(theta):
    return 1.0 if np.abs(theta - np.log(N)).max() < 0.05 else np.nan


def test_without_a_hessian_far_away_migrad_takes_over():
    good = Exponentials(N)
    objective = Function(good.value, lambda x: 2 * (np.exp(x) - N), lambda x: np.diag(2 * np.exp(x)) * near_only(x))
    minimum = run(objective)
    assert minimum.valid
    assert "the Hessian is not finite" in minimum.steps[0]
    assert minimum.steps[1].startswith("MIGRAD strategy 0: ")
    assert minimum.steps[2].startswith("Newton: ")
    assert minimum.message.startswith("Newton: 0 steps, the Hessian is not finite")
    np.testing.assert_allclose(minimum.theta, np.log(N), atol=1e-6)


def test_where_migrad_fails_with_the_gradient_it_takes_a_numerical_one(monkeypatch):
    def stuck(evaluations, theta, fixed, *, gradient=True, **options):
        return minuit(evaluations, theta, fixed | gradient, gradient=gradient, **options)

    monkeypatch.setattr(module, "minuit", stuck)
    good = Exponentials(N)
    objective = Function(good.value, lambda x: 2 * (np.exp(x) - N), lambda x: np.diag(2 * np.exp(x)) * near_only(x))
    minimum = run(objective)
    assert minimum.valid
    assert [step.split(":")[0] for step in minimum.steps[-2:]] == ["MIGRAD strategy 1, numerical gradient", "Newton"]
    assert "then MIGRAD strategy 1, numerical gradient" in minimum.message
    np.testing.assert_allclose(minimum.theta, np.log(N), atol=1e-6)


def test_a_lower_point_found_by_migrad_is_followed(monkeypatch):
    """Two wells; MIGRAD is made to find the deeper one."""
    wells = Function(lambda x: (x[0] ** 2 - 1) ** 2 + 0.1 * x[0])
    confirm, visited = module.confirm, []

    def lucky(evaluations, point, *args, **options):
        visited.append(point.theta[0])
        other = np.array([-1.1])
        return (other, wells.value(other), "") if len(visited) == 1 else confirm(evaluations, point, *args, **options)

    monkeypatch.setattr(module, "confirm", lucky)
    minimum = run(wells, (0.9,))
    assert minimum.valid
    assert visited[0] > 0
    assert minimum.theta[0] < 0
    assert "lower" in minimum.steps[1]
    assert "agrees" in minimum.steps[-1]


@pytest.mark.parametrize("limit", [1, 3, 40])
def test_the_call_limit(limit):
    """A degenerate direction keeps every minimiser busy."""
    objective = Counting(Function(lambda x: (x[0] - x[1]) ** 2 + 1e-3 * np.sin(30 * x[2]) - x[2]))
    minimum = run(objective, bounds=(-np.inf, np.inf), max_calls=limit)
    assert not minimum.valid
    assert f"call limit {limit} reached" in minimum.message
    assert minimum.steps[-1] == f"call limit {limit} reached"
    assert sum(minimum.calls.values()) == limit
    assert minimum.value <= objective.objective.value(np.zeros(3))


@pytest.mark.parametrize(
    "objective",
    [
        Quadratic(np.array([[1.0, 1.0], [1.0, 1.0]]), np.ones(2)),
        Quadratic(np.diag([1.0, -1.0]), np.ones(2)),
        Function(lambda x: np.nan * x[0]),
    ],
    ids=["unidentified direction", "unbounded below", "nowhere defined"],
)
def test_what_has_no_minimum_is_not_valid(objective):
    minimum = run(objective, (0.0, 0.0), bounds=(-np.inf, np.inf), max_calls=2000)
    assert not minimum.valid
    assert minimum.message


def test_a_kink_is_no_trouble():
    """Slopes that jump at zero, as those of interpolation codes 0 and 1 do."""

    def value(x):
        return (x[0] - 0.2) ** 2 + (x[1] - 1 + 0.3 * x[0]) ** 2 + abs(x[0]) + 0.2 * abs(x[1])

    def gradient(x):
        r = 2 * (x[1] - 1 + 0.3 * x[0])
        return [2 * (x[0] - 0.2) + 0.3 * r + (1 if x[0] > 0 else -1), r + 0.2 * (1 if x[1] > 0 else -1)]

    minimum = run(Function(value, gradient, lambda x: [[2.18, 0.6], [0.6, 2]]), (0.0, 0.0), bounds=(-5.0, 5.0))
    assert minimum.valid, minimum.message
    assert minimum.message == ""
    assert minimum.theta[0] == 0.0
    assert minimum.theta[1] == pytest.approx(0.9, abs=1e-9)
    assert minimum.at_kink.tolist() == [True, False]
    assert "at a kink: 1" in minimum.steps[0]
