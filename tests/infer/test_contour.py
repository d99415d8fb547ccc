import numpy as np
import pytest
from iminuit import Minuit
from scipy.stats import chi2
from surfaces import Surface, squared

import analytic
from nuratio.errors import AsymptoticsWarning, InvalidModel, UnknownName
from nuratio.infer.fitting.fit import fit
from nuratio.infer.profiles.contour import contour
from nuratio.infer.profiles.intervals import interval
from nuratio.infer.results import load_result
from objectives import Function, Quadratic

LEVELS = (0.683, 0.954)
HEIGHTS = chi2.ppf(LEVELS, 2)


def area(polygon):
    x, y = polygon.T
    return abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def distance(points, polygon):
    """Of each point to a polygon, in units of its size."""
    size = polygon.std(0)
    a, b, p = polygon[:-1] / size, polygon[1:] / size, points[:, None] / size
    along = np.clip(((p - a) * (b - a)).sum(2) / ((b - a) ** 2).sum(1), 0, 1)
    return np.sqrt((((a + along[..., None] * (b - a)) - p) ** 2).sum(2)).min(1)


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.97])
def test_a_gaussian_likelihood_has_ellipses(correlation):
    """With a third, correlated parameter profiled: the covariance of two is that block of all."""
    sigma = np.array([0.5, 20.0, 3.0])
    rho = np.array([[1, correlation, 0.2], [correlation, 1, -0.1], [0.2, -0.1, 1]])
    covariance = rho * np.outer(sigma, sigma)
    center = np.array([1.0, -5.0, 0.3])
    objective = Quadratic(2 * np.linalg.inv(covariance), center)  # -2 ln L
    model = Surface(objective, ["a", "b", "c"], [0.0] * 3, [(-10, 10), (-300, 300), (-30, 30)])
    result = contour(model, [], ("a", "b"), points=16)
    assert result.valid, result.message
    block = covariance[:2, :2]
    for pieces, closed, height in zip(result.pieces, result.closed, HEIGHTS, strict=True):
        ((polygon,), (whole,)) = pieces, closed
        assert whole
        np.testing.assert_array_equal(polygon[0], polygon[-1])
        assert len(polygon) > 30
        away = polygon - center[:2]
        np.testing.assert_allclose(np.einsum("ij,jk,ik->i", away, np.linalg.inv(block), away), height, atol=2e-7)
        assert area(polygon) == pytest.approx(np.pi * height * np.sqrt(np.linalg.det(block)), rel=0.02)
    np.testing.assert_allclose(result.minima, [center[:2]], atol=1e-4)


def test_vertices_are_conditional_fits_on_the_level(analytic_model):
    model, data = analytic_model
    result = contour(model, data, ("mu", "tilt"), 0.683, points=8)
    best = fit(model, data)
    ((polygon,),) = result.pieces
    for mu, tilt in polygon[::5]:
        held = fit(model, data, fixed={"mu": float(mu), "tilt": float(tilt)}, hesse=False)
        assert held.twice_nll - best.twice_nll == pytest.approx(HEIGHTS[0], abs=1e-6)
    assert load_result(result.to_json()).to_json() == result.to_json()


def test_contours_are_minuits(analytic_model):
    model, data = analytic_model
    m = Minuit(lambda p: model.twice_nll(p, data), model.config.suggested_init(), name=model.config.par_names)
    m.errordef, m.strategy, m.tol = 1, 2, 1e-4
    m.limits = model.config.suggested_bounds()
    m.migrad()
    theirs = np.array(m.mncontour("mu", "norm", cl=0.683, size=12))
    ((ours,),) = contour(model, data, ("mu", "norm"), 0.683).pieces
    assert distance(theirs, ours).max() < 0.005  # chords of our 60 corners; theirs are good to a percent of sigma


def test_a_contour_reaches_as_far_as_the_profiles(analytic_model):
    """max of p on the contour: where the profile of p alone has the same height."""
    model, data = analytic_model
    level = 0.8
    result = contour(model, data, ("mu", "tilt"), level, points=10)
    alone = float(chi2.cdf(chi2.ppf(level, 2), 1))
    ((polygon,),) = result.pieces
    for column, name in enumerate(("mu", "tilt")):
        ((low, high),) = interval(model, data, name, level=alone).pieces[0]
        assert polygon[:, column].min() == pytest.approx(low, abs=0.02 * (high - low))
        assert polygon[:, column].max() == pytest.approx(high, abs=0.02 * (high - low))
    turned = contour(model, data, ("tilt", "mu"), level, points=10)
    assert area(turned.pieces[0][0]) == pytest.approx(area(polygon), rel=0.01)


def test_kappa_and_minus_kappa_are_two_pieces(analytic_workspace):
    model = squared(analytic_workspace)
    with pytest.warns(AsymptoticsWarning, match="several minima"):
        result = contour(model, analytic_workspace.data(model), ("kappa", "norm"), 0.683, points=12)
    assert result.valid, result.message
    assert result.closed == ((True, True),)
    left, right = sorted(result.pieces[0], key=lambda p: p[:, 0].mean())
    assert left[:, 0].max() < 0 < right[:, 0].min()
    assert distance(left * [-1, 1], right).max() < 0.03
    assert result.minima.shape == (2, 2)
    assert result.minima[0, 0] == pytest.approx(-result.minima[1, 0], abs=1e-4)


def test_a_piece_that_both_profiles_hide_is_found():
    """Four wells on a square: in each parameter the profile sees two."""

    def wells(theta):
        x, y = theta
        return float(((x**2 - 4) ** 2 + (y**2 - 4) ** 2) / 2 + 0.3 * (x * y < 0))

    model = Surface(Function(wells), ["x", "y"], [1.0, 1.5], [(-5, 5)] * 2)
    result = contour(model, [], ("x", "y"), 0.683, points=10, asymptotics="force")
    assert result.valid, result.message
    assert len(result.pieces[0]) == 4
    assert all(result.closed[0])
    np.testing.assert_allclose(np.abs(result.minima), 2, atol=1e-4)
    np.testing.assert_allclose(result.minima_rise, [0, 0, 0.3, 0.3], atol=1e-6)
    for x, y in np.concatenate(result.pieces[0]):
        assert wells((x, y)) == pytest.approx(HEIGHTS[0], abs=2e-7)


def test_contours_end_at_bounds():
    center, objective = np.array([0.3, 0.0]), Quadratic(2 * np.eye(2), np.array([0.3, 0.0]))
    model = Surface(objective, ["a", "b"], [1.0, 0.0], [(0.0, 10.0), (-10.0, 10.0)])
    result = contour(model, [], ("a", "b"))
    assert result.valid, result.message
    assert result.closed == ((False,), (False,))
    for (polygon,), height in zip(result.pieces, HEIGHTS, strict=True):
        end = np.sqrt(height - 0.09)
        np.testing.assert_allclose(sorted([tuple(polygon[0]), tuple(polygon[-1])]), [(0, -end), (0, end)], atol=1e-7)
        np.testing.assert_allclose(((polygon - center) ** 2).sum(1), height, atol=2e-7)
    slab = contour(model, [], ("a", "b"), 0.683, bounds={"b": (-0.5, 0.5)})
    assert slab.closed == ((False,),)  # a is bounded on one side by its bound: from one bound of b to the other
    assert sorted(slab.pieces[0][0][[0, -1], 1]) == [-0.5, 0.5]


def test_a_region_too_thin_for_the_lattice_is_said_to_be():
    """A valley along a parabola."""

    def rosenbrock(width):
        w = 1 / width**2
        return Function(
            lambda t: w * (t[1] - t[0] ** 2) ** 2 + (t[0] - 0.3) ** 2,
            lambda t: [-4 * w * t[0] * (t[1] - t[0] ** 2) + 2 * (t[0] - 0.3), 2 * w * (t[1] - t[0] ** 2)],
            lambda t: [[w * (12 * t[0] ** 2 - 4 * t[1]) + 2, -4 * w * t[0]], [-4 * w * t[0], 2 * w]],
        )

    bounds = [(-5, 5), (-10, 10)]
    thick = contour(Surface(rosenbrock(0.3), ["a", "b"], [0.1, 0.0], bounds), [], ("a", "b"), 0.683, points=12)
    assert thick.valid, thick.message
    ((polygon,),) = thick.pieces
    assert area(polygon) == pytest.approx(np.pi * HEIGHTS[0] * 0.3, rel=0.03)  # b - a**2 keeps areas
    result = contour(Surface(rosenbrock(0.02), ["a", "b"], [0.1, 0.0], bounds), [], ("a", "b"), 0.683, points=4)
    assert not result.valid
    assert "too thin for the lattice" in result.message


def test_wrong_requests_are_named(analytic_model):
    model, data = analytic_model
    with pytest.raises(InvalidModel, match="two different parameters"):
        contour(model, data, ("mu", "mu"))
    with pytest.raises(InvalidModel, match="two different parameters"):
        contour(model, data, ("mu",))
    with pytest.raises(UnknownName, match="did you mean 'tilt'"):
        contour(model, data, ("mu", "tillt"))
    with pytest.raises(InvalidModel, match="between 0 and 1"):
        contour(model, data, ("mu", "tilt"), 2.3)


def test_a_model_of_pyhf():
    import pyhf

    workspace = pyhf.Workspace(analytic.binned_spec(per_bin=False))
    pdf = workspace.model()
    result = contour(pdf, workspace.data(pdf), ("mu", "free"), 0.683, points=8)
    assert result.valid, result.message
    assert result.closed == ((False, False),)  # a strip from one axis to the other
    for piece in result.pieces[0]:
        np.testing.assert_array_equal(np.sort(piece[[0, -1]] == 0), [[False, True]] * 2)
