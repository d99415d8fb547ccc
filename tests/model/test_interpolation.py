import numpy as np
import pytest
from pyhf import interpolators

from nuratio.model.interpolation import ADDITIVE, MULTIPLICATIVE

ALPHA = np.concatenate([np.linspace(-3, 3, 61), [-1.0, 1.0, -1 - 1e-9, 1 + 1e-9]])


def pyhf_values(code, lo, nominal, hi, alpha):
    interpolate = getattr(interpolators, code)([[[[lo], [nominal], [hi]]]], subscribe=False)
    return np.ravel(interpolate(alpha[None, :]))


@pytest.mark.parametrize("code", ADDITIVE)
@pytest.mark.parametrize(("lo", "hi"), [(3.0, 9.0), (6.0, 7.0), (5.0, 5.0), (-2.0, 4.0)])
def test_additive_codes_are_pyhfs(code, lo, hi):
    value = ADDITIVE[code](ALPHA)[0]
    np.testing.assert_allclose(
        value[0] * (hi - 5) + value[1] * (5 - lo), pyhf_values(code, lo, 5.0, hi, ALPHA), atol=1e-12
    )


@pytest.mark.parametrize("code", MULTIPLICATIVE)
@pytest.mark.parametrize(("lo", "hi"), [(0.7, 1.4), (1.2, 1.1), (1.0, 1.0), (0.05, 6.0)])
def test_multiplicative_codes_are_pyhfs(code, lo, hi):
    f = MULTIPLICATIVE[code](np.full(len(ALPHA), lo), np.full(len(ALPHA), hi))
    np.testing.assert_allclose(f(ALPHA)[0], pyhf_values(code, lo, 1.0, hi, ALPHA), rtol=1e-12)


@pytest.mark.parametrize("code", MULTIPLICATIVE)
def test_multiplicative_codes_meet_their_anchors(code):
    f = MULTIPLICATIVE[code](np.full(3, 0.8), np.full(3, 1.3))
    np.testing.assert_allclose(f(np.array([-1.0, 0.0, 1.0]))[0], [0.8, 1.0, 1.3], rtol=1e-14)


@pytest.mark.parametrize("code", [*ADDITIVE, *MULTIPLICATIVE])
def test_derivatives_are_those_of_the_value(code):
    alpha = np.array([-2.3, -0.7, -0.2, 0.4, 0.9, 1.7])
    lo, hi = np.full(6, 0.8), np.full(6, 1.3)

    def derivatives(x):
        if code in ADDITIVE:
            return ADDITIVE[code](x)
        return np.array(MULTIPLICATIVE[code](lo, hi)(x))

    h = 1e-5
    high, low, here = derivatives(alpha + h), derivatives(alpha - h), derivatives(alpha)
    np.testing.assert_allclose((high[:2] - low[:2]) / (2 * h), here[1:], atol=1e-8)


@pytest.mark.parametrize("code", ["code4", "code4p"])
def test_second_derivative_is_continuous_at_one(code):
    def second(x):
        x = np.array([x])
        return (
            ADDITIVE[code](x)[2] if code in ADDITIVE else MULTIPLICATIVE[code](np.array([0.8]), np.array([1.3]))(x)[2]
        )

    for edge in (-1, 1):
        np.testing.assert_allclose(second(edge * (1 + 1e-9)), second(edge * (1 - 1e-9)), atol=1e-7)
