import json
import math
from importlib.resources import files

import numpy as np
import pytest

from nuratio.errors import InvalidModel
from nuratio.model.expression import Dual, Expression
from nuratio.workspace.strict_json import LONGEST_EXPRESSION


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
    long = "+".join(["(" + "+".join(["mu"] * 90) + ")"] * 73)
    assert 19_000 < len(long) <= LONGEST_EXPRESSION
    assert Expression.parse(long)(duals(mu=1.0)).value == 90 * 73
    with pytest.raises(
        InvalidModel, match=r"expression of 20003 characters.*the limit is 20000: give parts of it names"
    ):
        Expression.parse("mu " * 6667 + "+1")


def test_the_limit_is_that_of_the_schema():
    schema = json.loads(files("nuratio.workspace").joinpath("schema.json").read_text())
    entry = schema["properties"]["parameters"]["items"]["properties"]["expression"]
    assert entry["maxLength"] == LONGEST_EXPRESSION


@pytest.mark.parametrize(
    "text",
    [
        "mu" + "+mu" * 6000,
        "mu" + "**mu" * 4900,
        "-" * 19000 + "mu",
        "(" * 9000 + "mu" + ")" * 9000,
        "exp(" * 3000 + "mu" + ")" * 3000,
        "mu" + ".a" * 9000,
    ],
    ids=["sum", "powers", "signs", "parentheses", "functions", "attributes"],
)
def test_a_long_text_that_is_nested_too_deeply_is_refused(text):
    with pytest.raises(InvalidModel, match=r"^expression .{30,400}(nested|recursion|parentheses)"):
        Expression.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1/(mu - 1)", "1 / 0 is inf"),
        ("sqrt(-mu)", r"sqrt\(-1\) is nan"),
        ("(-mu)**0.5", r"-1 \*\* 0\.5 is nan"),
        ("(-mu)**mu", r"-1 \*\* 1 is nan"),
        ("1/exp(1000*mu)", r"exp\(1000\) is inf"),
        ("0*log(mu - 1)", r"log\(0\) is -inf"),
    ],
)
def test_what_is_undefined_anywhere_inside_is_named(text, message):
    with pytest.raises(InvalidModel, match=f"is undefined at mu = 1: {message}; restrict the bounds"):
        Expression.parse(text)(duals(mu=1.0))


def test_without_derivatives_the_value_is_the_same():
    expression = Expression.parse("exp(-mu)*(kappa - 2)**3/mu**kappa + sin(mu)")
    plain = {name: Dual.constant(dual.value, 0) for name, dual in duals(mu=1.3, kappa=0.7).items()}
    assert expression(plain).value == expression(duals(mu=1.3, kappa=0.7)).value
    assert expression(plain).gradient.shape == (0,)


def test_expressions_of_expressions_follow_the_chain_rule():
    whole = Expression.parse("exp(-(mu*kappa - 1)**2) * (mu*kappa - 1)")(duals(mu=1.3, kappa=0.7))
    inner = Expression.parse("mu*kappa - 1")(duals(mu=1.3, kappa=0.7))
    outer = Expression.parse("exp(-x**2) * x")({"x": inner})
    assert outer.value == pytest.approx(whole.value, rel=1e-14)
    np.testing.assert_allclose(outer.gradient, whole.gradient, rtol=1e-13)
    np.testing.assert_allclose(outer.hessian, whole.hessian, rtol=1e-13)
