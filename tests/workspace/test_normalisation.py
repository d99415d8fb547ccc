import numpy as np
import pytest

from nuratio.workspace.normalisation import cumulants


def test_gaussian_columns_have_the_exact_cumulant_form(rng):
    """For normally distributed D, ln E[exp(phi.D)] is second order exactly; what is left is sampling."""
    n = 200_000
    d1, d2 = 0.1 * rng.normal(size=(2, n)), 0.05 * rng.normal(size=(2, n))
    form = cumulants({(("a", 1),): d1[0], (("b", 1),): d1[1], (("a", 2),): d2[0], (("b", 2),): d2[1]}, np.full(n, 2.0))
    np.testing.assert_allclose(form.mean, np.concatenate([d1, d2]).mean(1), atol=1e-12)
    np.testing.assert_allclose(form.covariance, np.cov(np.concatenate([d1, d2]), bias=True), atol=1e-12)
    assert form.error < 5e-4
    assert set(form.errors) == {"a", "b"}
    assert max(form.errors.values()) <= form.error


def test_the_error_is_the_distance_to_the_exact_integral(rng):
    n = 50_000
    d1 = 0.4 * (rng.exponential(size=n) - 1)
    form = cumulants({(("a", 1),): d1}, np.ones(n))
    exact = [np.log(np.mean(np.exp(a * (d1 - d1.mean())))) for a in (-2.0, 2.0)]
    expected = max(abs(2 * form.covariance[0, 0] - e) for e in exact)
    assert form.error == form.errors["a"] == pytest.approx(expected, rel=1e-6)
    assert form.error > 0.05


def test_weights_count(rng):
    d1, w = rng.normal(size=1000), rng.uniform(size=1000)
    form = cumulants({(("a", 1),): d1}, w)
    assert form.mean[0] == pytest.approx(np.average(d1, weights=w))


def test_corners_and_cross_terms(rng):
    """exp(a b D): the error is largest in a corner, and no single nuisance has any; nor are many without corners."""
    n = 20_000
    d = 0.1 * (rng.exponential(size=n) - 1)
    form = cumulants({(("a", 1), ("b", 1)): d}, np.ones(n))
    exact = [np.log(np.mean(np.exp(c * (d - d.mean())))) for c in (-4.0, 4.0)]
    assert form.error == pytest.approx(max(abs(8 * form.covariance[0, 0] - e) for e in exact), rel=1e-6)
    assert form.errors == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-12)
    many = cumulants({((f"a{j}", 1),): d for j in range(10)}, np.ones(n))
    assert many.error > 10 * max(many.errors.values())
