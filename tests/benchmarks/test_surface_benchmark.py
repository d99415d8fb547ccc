"""The benchmark of surfaces: its function, and that the comparison comes out as it should."""

import numpy as np
import pytest
import surface


@pytest.fixture(scope="module")
def events():
    return surface.Events.draw(np.random.default_rng(3), 200)


def test_the_gradient_is_that_of_the_efficiency(events):
    nu, h = np.array([[0.3, -1.2], [2.0, 1.5]]), 1e-4
    for k, step in enumerate(h * np.eye(2)):
        numeric = (events.efficiency(nu + step) - events.efficiency(nu - step)) / (2 * h)
        np.testing.assert_allclose(events.gradient(nu)[:, k], numeric, rtol=1e-6)


def test_the_efficiency_is_that_of_smeared_events(events):
    rng, nu = np.random.default_rng(0), np.array([1.5, -0.5])
    momenta = events.nominal + np.tensordot(nu, events.slopes, 1)
    smeared = momenta + surface.RESOLUTION * rng.normal(size=(500, *momenta.shape))
    passed = np.hypot(smeared[..., 0], smeared[..., 1]) > surface.CUT
    error = np.sqrt((passed.mean(0) * (1 - passed.mean(0))).sum() / 500) / len(momenta)
    assert abs(events.efficiency(nu[None])[0] - passed.mean()) < 4 * error


def test_gradients_on_the_axes_tell_what_a_product_misses(events):
    found = surface.interpolations(events).numbers
    product = found["product, code4 (HistFactory)"]
    assert 35 < product < 60
    assert found["product of the exact single responses"] > 0.8 * product
    assert found["Gaussian process with gradients, axes at +-2"] < product / 8
    assert found["Gaussian process, axes at +-2"] > product / 2
