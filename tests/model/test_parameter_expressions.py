import math

import numpy as np
import pytest

from nuratio.errors import InvalidModel
from nuratio.model.expression import Dual, Expression


def duals(**values):
    return {name: Dual.parameter(v, j, len(values)) for j, (name, v) in enumerate(values.items())}


@pytest.mark.parametrize(
    "text",
    [
        "mu",
        "kappa**2",
        "mu - sqrt(mu)",
        "-mu + 3*kappa/(1 + mu)",
        "exp(-mu)*log(kappa)",
        "mu**kappa",
        "sin(mu)*cos(kappa)",
        "2**mu",
        "mu**-1.5",
    ],
)
def test_derivatives_are_those_of_the_value(text):
    expression, h = Expression.parse(text), 1e-5
    point = {"mu": 1.3, "kappa": 0.7}
    here = expression(duals(**point))
    names = list(point)
    assert here.value == pytest.approx(
        eval(text, {"sqrt": math.sqrt, "exp": math.exp, "log": math.log, "sin": math.sin, "cos": math.cos}, point)
    )
    for j, name in enumerate(names):
        high = expression(duals(**point | {name: point[name] + h}))
        low = expression(duals(**point | {name: point[name] - h}))
        assert here.gradient[j] == pytest.approx((high.value - low.value) / (2 * h), abs=1e-8)
        np.testing.assert_allclose(here.hessian[j], (high.gradient - low.gradient) / (2 * h), atol=1e-8)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "mu.real",
        "mu if mu else 1",
        "[mu]",
        "lambda: 1",
        "mu < 1",
        "'a'",
        "True",
        "f(mu)",
        "sqrt(mu, 2)",
        "mu +",
        "",
    ],
)
def test_anything_but_arithmetic_is_refused(text):
    with pytest.raises(InvalidModel, match="expression"):
        Expression.parse(text)


def test_deep_nesting_is_refused():
    with pytest.raises(InvalidModel, match="expression"):
        Expression.parse("(" * 5000 + "mu" + ")" * 5000)


def test_an_undefined_value_names_the_expression_and_the_point():
    with pytest.raises(InvalidModel, match=r"sqrt\(mu\).*undefined at mu = -1"):
        Expression.parse("sqrt(mu)")(duals(mu=-1.0))


def test_names_are_the_parameters():
    assert Expression.parse("b*a + sqrt(a)").names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "slope", "curvature"),
    [("mu**0.5", math.inf, -math.inf), ("sqrt(mu)", math.inf, -math.inf), ("mu**1.5", 0, math.inf), ("-mu**3", 0, 0)],
)
def test_a_power_at_zero_has_its_slope(text, slope, curvature):
    at_zero = Expression.parse(text)(duals(mu=0.0))
    assert (at_zero.value, at_zero.gradient[0], at_zero.hessian[0, 0]) == (0, slope, curvature)


def test_an_exponent_may_be_stationary():
    """2**(mu**2) = 1 + ln(2) mu**2 + ... at mu = 0, where mu**2 has no slope."""
    at_zero = Expression.parse("2**(mu**2)")(duals(mu=0.0))
    assert at_zero.hessian[0, 0] == pytest.approx(2 * math.log(2))


def test_long_texts_are_refused():
    assert len(Expression.parse("mu" + "+mu" * 300).names) == 1
    with pytest.raises(InvalidModel, match=r"expression of 1003 characters.*the limit is 1000"):
        Expression.parse("mu " * 334 + "1")
