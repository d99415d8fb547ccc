"""The benchmark of interpolation codes: its densities, where codes are exact, and the fit that it makes."""

import interpolations
import numpy as np
import pytest
from scipy.stats import truncnorm

from nuratio.infer.fitting.fit import fit
from nuratio.model.interpolation import ADDITIVE, MULTIPLICATIVE

CODES = (*MULTIPLICATIVE, *ADDITIVE)


@pytest.fixture(scope="module")
def grid():
    return interpolations.Grid.of(800)


@pytest.mark.parametrize("alpha", [-2.0, 0.3, 1.0])
def test_the_density_is_a_gaussian_on_the_interval(grid, alpha):
    mean, width = 0.3 * alpha, np.exp(0.15 * alpha)
    edges = (np.array([-4.0, 4.0]) - mean) / width
    expected = truncnorm(*edges, mean, width).pdf(grid.x) * 8 / len(grid.x)
    np.testing.assert_allclose(grid.nominal * grid.exact(alpha), expected, rtol=1e-4)


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("alpha", [-1.0, 1.0])
def test_a_code_is_exact_at_its_anchors_and_at_none(grid, name, alpha):
    code = interpolations.code(grid, name)
    np.testing.assert_allclose(code.shape(alpha), grid.exact(alpha), rtol=1e-10)
    np.testing.assert_allclose(code.shape(0.0), 1, rtol=1e-12)
    assert np.abs(code.shape(2 * alpha) / grid.exact(2 * alpha) - 1).max() > 0.1


def test_a_polynomial_is_exact_at_as_many_points_as_it_has_orders(grid):
    quartic = interpolations.polynomial(grid, (-2, -1, 1, 2), 4)
    for alpha in (-2, -1, 1, 2):
        np.testing.assert_allclose(quartic.shape(alpha), grid.exact(alpha), rtol=1e-9)
    parabola = interpolations.polynomial(grid, (-2, -1, 1, 2), 2)
    assert np.abs(parabola.shape(1) / grid.exact(1.0) - 1).max() > 0.01


def test_a_shift_alone_is_a_parabola_at_any_alpha(grid, monkeypatch):
    monkeypatch.setattr(interpolations, "WIDTH", 0.0)
    parabola = interpolations.polynomial(grid, (-1, 1), 2)
    for alpha in (-2.0, 0.5, 1.5):
        s = parabola.shape(alpha)
        np.testing.assert_allclose(s / (grid.nominal @ s), grid.exact(alpha), rtol=1e-9)


@pytest.mark.parametrize("name", ["quadexp", "code1", "code4", "code4p"])
def test_the_fit_returns_the_truth_where_the_interpolation_is_exact(grid, name):
    way = interpolations.polynomial(grid, (-1, 1), 2) if name == "quadexp" else interpolations.code(grid, name)
    analysis = interpolations.workspace(grid, way)
    analysis.validate()
    shift, valid = interpolations.shift_of(grid, analysis, 1.0)
    assert valid
    assert abs(shift) < 1e-3
    far, _ = interpolations.shift_of(grid, analysis, 2.0)
    assert abs(far) > 0.3


def test_sigma_is_that_of_the_fit(grid):
    model = interpolations.workspace(grid, interpolations.polynomial(grid, (-2, -1, 1, 2), 4)).model(threads=1)
    main = interpolations.YIELDS["signal"] * grid.signal + interpolations.YIELDS["background"] * grid.nominal
    found = fit(model, np.concatenate([main, np.zeros_like(main), [0.0]]))
    assert found["mu"].uncertainty == pytest.approx(interpolations.sigma(grid, 0.0), rel=5e-3)


def test_the_tables_have_a_line_for_every_way(monkeypatch):
    monkeypatch.setattr(interpolations, "ALPHAS", (-1.0, 1.0))
    error, normalisation, shift = interpolations.interpolations(events=0)
    assert len(error.rows) == len(normalisation.rows) == len(shift.rows) == 3 + len(CODES)
    for name in CODES:
        assert error.numbers[f"{name}, 1"] < 1e-9
        assert abs(normalisation.numbers[f"{name}, -1"]) < 1e-9
