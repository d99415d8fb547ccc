import numpy as np
import pytest

from nuratio.infer.profiles.crossing import TOLERANCE, Height, crossing


class Curve:
    """A function and its slope, counting calls."""

    def __init__(self, f, slope):
        self.f, self.slope, self.calls = f, slope, 0

    def __call__(self, x):
        self.calls += 1
        return Height(x, self.f(x), self.slope(x))


PARABOLA = Curve(lambda x: x**2 / 0.04, lambda x: x / 0.02)
POISSON = Curve(lambda x: 2 * (x - 12 - 12 * np.log(x / 12)), lambda x: 2 * (1 - 12 / x))
ROOT = Curve(lambda x: 9 * np.sqrt(x), lambda x: 4.5 / np.sqrt(x) if x else np.inf)


@pytest.mark.parametrize(
    ("curve", "below", "above", "calls"),
    [
        (PARABOLA, 0.0, 3.0, 1),
        (PARABOLA, 0.0, -0.21, 1),
        (POISSON, 12.0, 40.0, 6),
        (POISSON, 12.0, 2.0, 6),
        (ROOT, 0.0, 1.0, 12),
    ],
)
@pytest.mark.parametrize("level", [1.0, 3.84])
def test_crossings_are_exact_in_a_few_calls(curve, below, above, calls, level):
    if curve.f(above) <= level:
        above *= 10
    ends = curve(below), curve(above)
    curve.calls = 0
    at = crossing(curve, level, *ends)
    assert abs(curve.f(at) - level) <= TOLERANCE
    assert min(below, above) < at < max(below, above)
    assert curve.calls <= calls


def test_a_known_point_on_the_level_is_the_answer():
    assert crossing(PARABOLA, 1.0, PARABOLA(0.0), PARABOLA(0.2)) == 0.2


def test_where_the_curve_jumps_the_jump_is_found():
    jump = Curve(lambda x: 0.5 if x < np.pi else 7.0, lambda x: 0.1)
    assert crossing(jump, 1.0, jump(0.0), jump(10.0)) == pytest.approx(np.pi, abs=1e-7)


def test_a_wrong_slope_costs_calls_only():
    wrong = Curve(PARABOLA.f, lambda x: -1e3)
    assert crossing(wrong, 1.0, wrong(0.0), wrong(3.0)) == pytest.approx(0.2, abs=1e-8)


def test_fits_that_are_not_valid_are_no_crossing():
    """Beyond 0.3 nothing is known: a level reached before is found, one that is not has no end."""
    limited = Curve(lambda x: PARABOLA.f(x) if x < 0.3 else np.inf, PARABOLA.slope)
    assert crossing(limited, 1.0, limited(0.0), limited(1.0)) == pytest.approx(0.2, abs=1e-8)
    assert np.isnan(crossing(limited, 4.0, limited(0.0), limited(1.0)))
