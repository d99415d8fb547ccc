import math

import numpy as np
import pytest
from counting import counting
from scipy.stats import norm, poisson

from nuratio.errors import InvalidModel
from nuratio.infer.results import load_result
from nuratio.infer.toys.coverage import coverage, grid_points
from nuratio.infer.toys.injection import inject
from nuratio.infer.toys.neyman import critical_value, neyman
from nuratio.infer.toys.p_values import toy_hypotest, toy_limit, toy_significance
from nuratio.infer.toys.toys import draw_toy, hypothesis_point, toys
from nuratio.parallel.tasks import Serial

TOYS = {"executor": Serial(), "progress": False}
N = 2000


def test_cls_of_a_counting_experiment_is_that_of_poisson_sums():
    model = counting(10.0, 5.0)
    found = toy_hypotest(model, [8.0], 1.0, n=N, **TOYS)
    for value, error, exact in (
        (found.CLsb, found.CLsb_error, poisson.cdf(8, 15)),
        (found.CLb, found.CLb_error, poisson.cdf(8, 5)),
        (found.CLs, found.CLs_error, poisson.cdf(8, 15) / poisson.cdf(8, 5)),
    ):
        assert abs(value - exact) < 4 * error
        assert error < 0.02
    assert found.valid
    assert load_result(found.to_json()) == found


def test_expected_cls_of_a_counting_experiment():
    found = toy_hypotest(counting(10.0, 5.0), [8.0], 1.0, n=N, **TOYS)
    for sigma, value, error in zip(range(-2, 3), found.CLs_expected, found.CLs_expected_error, strict=True):
        count = poisson.ppf(norm.cdf(sigma), 5)  # a deficit of the background is the smaller CLs
        exact = poisson.cdf(count, 15) / poisson.cdf(count, 5)
        neighbours = [poisson.cdf(count + d, 15) / poisson.cdf(count + d, 5) for d in (-1, 0, 1)]
        assert min(abs(value - v) for v in neighbours) < 4 * error + 1e-3, (sigma, value, exact)


def test_a_best_fit_above_the_tested_value_says_nothing_against_it():
    found = toy_hypotest(counting(10.0, 5.0), [25.0], 1.0, n=100, **TOYS)
    assert found.statistic == 0
    assert (found.CLsb, found.CLb, found.CLs) == (1, 1, 1)


def test_p0_of_a_counting_experiment():
    found = toy_significance(counting(10.0, 5.0), [9.0], n=N, **TOYS)
    assert abs(found.p0 - poisson.sf(8, 5)) < 4 * found.p0_error
    assert found.significance == pytest.approx(norm.isf(found.p0))
    assert load_result(found.to_json()) == found


def test_a_significance_that_no_toy_reaches_is_a_lower_limit():
    found = toy_significance(counting(10.0, 5.0), [40.0], n=50, **TOYS)
    assert found.p0 == 0
    assert found.significance == pytest.approx(norm.isf(1 / 50))
    assert "lower limit" in found.message


def test_the_limit_of_a_counting_experiment():
    found = toy_limit(counting(10.0, 5.0), [5.0], values=[0.2, 0.5, 0.7, 1.0, 1.5], n=600, **TOYS)
    grid = np.linspace(0.2, 1.5, 2000)
    exact = grid[np.argmax(poisson.cdf(5, 5 + 10 * grid) / poisson.cdf(5, 5) < 0.05)]
    assert abs(found.observed - exact) < 4 * found.observed_error + 0.01  # ln CLs is nearly linear between the values
    assert found.observed_error < 0.1
    assert list(found.expected) == sorted(found.expected)
    assert load_result(found.to_json()) == found


def test_toys_of_a_limit_are_kept(tmp_path):
    options = {"values": [0.01, 2.0], "n": 100, "output": tmp_path / "kept", **TOYS}
    first = toy_limit(counting(10.0, 5.0), [5.0], **options)
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {"background.jsonl", "mu=0.01.jsonl", "mu=2.jsonl"}
    assert toy_limit(counting(10.0, 5.0), [5.0], **options) == first


def test_a_limit_outside_the_tested_values_is_refused():
    with pytest.raises(InvalidModel, match=r"above 0\.05 at all tested values from 0\.1 to 0\.2; test larger ones"):
        toy_limit(counting(10.0, 5.0), [5.0], values=[0.1, 0.2], n=100, **TOYS)


def test_critical_values_are_quantiles():
    q = np.arange(1, 1001, dtype=float)
    value, error = critical_value(q, 0.683)
    assert value == 683
    assert error == pytest.approx(math.sqrt(0.683 * 0.317 * 1000), abs=1)


def test_the_neyman_interval_of_a_counting_experiment_is_that_of_feldman_and_cousins():
    """Table of Phys. Rev. D 57 (1998) 3873: 90% CL, b = 3, eight events: 1.51 to 10.99."""
    values = [0.5, 1.0, 1.5, 2.0, 2.5, 10.0, 10.5, 11.0, 11.5]
    model = counting(1.0, 3.0, bounds=(0.0, 40.0))
    found = neyman(model, [8.0], values, level=0.9, n=500, **TOYS)
    ((low, high),) = found.pieces
    assert low == pytest.approx(1.51, abs=0.5)
    assert high == pytest.approx(10.99, abs=0.5)
    accepted = found.statistic <= found.critical
    assert np.array_equal(accepted, found.p_value > 0.1 - 1e-12) or np.abs(found.p_value - 0.1).min() < 0.02
    assert found.bestfit == pytest.approx(5.0, abs=1e-3)
    again = load_result(found.to_json())
    assert again.to_json() == found.to_json()


def test_a_belt_needs_no_data():
    found = neyman(counting(10.0, 50.0, error=5.0), None, [0.0, 2.0], n=200, hypothesis={"b": 0.5}, **TOYS)
    assert found.pieces == ()
    assert found.critical_at(1.0) == pytest.approx(found.critical.mean())
    assert math.isnan(found.bestfit)
    with pytest.raises(InvalidModel, match="outside the belt"):
        found.critical_at(3.0)


def test_coverage_of_a_counting_experiment():
    n = 400
    found = coverage(
        counting(40.0, 100.0, error=5.0, bounds=(-2, 10)), grid_points({"mu": [1.0, 2.0], "b": [0.0, 1.0]}), n, **TOYS
    )
    assert [p.point for p in found.points][1] == {"mu": 1.0, "b": 1.0}
    assert found.covers, found.verdict
    for p in found.points:
        assert abs(p.bias) < 4 * p.bias_error
        assert abs(p.pull_width - 1) < 4 / math.sqrt(2 * n)
        assert p.coverage_error == pytest.approx(np.sqrt(p.coverage * (1 - p.coverage) / n), rel=0.1)
    assert load_result(found.to_json()).to_json() == found.to_json()


def test_intervals_that_do_not_cover_are_told():
    """Nine events or so: at the boundary the intervals of the profile likelihood cover too much."""
    found = coverage(counting(1.0, 3.0), [{"mu": 0.0}], 300, levels=[0.683], **TOYS)
    assert not found.covers
    assert "mu=0" in found.verdict


def test_an_injection_is_found_with_its_bias():
    model = counting(10.0, 50.0)
    found = inject(model, [75.0], {"mu": 2.0}, 200, variance=[9.0], **TOYS)
    assert found.bias == pytest.approx(0.5, abs=1e-3)
    assert found.bias_error == pytest.approx(0.3, rel=4 / math.sqrt(2 * 50))
    assert abs(found.toys.bias - 0.5) < 4 * found.toys.bias_error
    assert load_result(found.to_json()).to_json() == found.to_json()
    own = inject(model, model.expected_actualdata(hypothesis_point(model, {"mu": 2.0}, None)), {"mu": 2.0}, 10, **TOYS)
    assert (own.bias, own.bias_error) == (pytest.approx(0.0, abs=1e-4), 0.0)


def test_statistics_of_toys_are_those_of_the_closed_form():
    """n ~ Pois(mu s + b), a ~ N((b - 50) / 7, 1): the conditional fit is the root of a quadratic equation."""
    s, b0, sigma, mu = 10.0, 50.0, 7.0, 2.0
    model = counting(s, b0, error=sigma)
    point = hypothesis_point(model, {"mu": mu}, np.array([45.0, 0.0]))
    found = toys(model, point, 150, tests=[("qtilde", mu)], seed=9, **TOYS)
    assert found.valid, found.message
    n, aux = np.array([draw_toy(model, point, i, seed=9) for i in range(150)]).T
    a = b0 + sigma * aux

    def profiled(mu):
        half = a + mu * s - sigma**2
        rate = (half + np.sqrt(half**2 + 4 * n * sigma**2)) / 2
        return 2 * (rate - n * np.log(rate)) + ((a - rate + mu * s) / sigma) ** 2

    best = (n - a) / s
    free = np.where(best < 0, profiled(0.0), 2 * (n - n * np.log(n)))
    expected = np.where(best > mu, 0.0, np.maximum(profiled(mu) - free, 0))
    assert found.statistics[:, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("run", [coverage, lambda m, points, **o: inject(m, [60.0], points[0], 5, **o)])
def test_levels_are_between_zero_and_one(run):
    with pytest.raises(InvalidModel, match="confidence levels are between 0 and 1"):
        run(counting(), [{"mu": 1.0}], levels=[0.683, 68.3], **TOYS)


def test_a_model_without_constraints_expects_no_auxiliary_data():
    assert counting().expected_auxdata([1.0]).shape == (0,)
    assert counting(error=7.0).expected_auxdata([1.0, 0.5]).tolist() in ([1.0], [0.5])
