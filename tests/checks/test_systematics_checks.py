"""Checks of shape variations that pass for exact shapes, and fail where these are wrong and only there."""

import json
from dataclasses import replace

import numpy as np
import pytest
from shapes import AXES, CROSS, SHIFT, TILT, crossed, exact, simulate, trained

from nuratio.checks.linked import LinkedPart, binned_difference
from nuratio.checks.report import Check, CheckReport, Coefficients, Sizes, VariedRatio, worst
from nuratio.checks.systematics import systematics
from nuratio.checks.variations import missed, quantities
from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample
from nuratio.workspace.rates import cross_coefficients

TWO = [{"shift": 2}, {"shift": -2}]
CORNER = {"shift": 1, "tilt": 1}
S1, S2, T1 = (("shift", 1),), (("shift", 2),), (("tilt", 1),)
SYSTEMATIC = {f"{what} of {k}" for what in ("closure", "two-sample test") for k in ("shift", "tilt")}


def failing(report):
    return {c.name for c in report.checks if not c.passed}


def by_name(report):
    return {c.name: c for c in report.checks}


def changed(new):
    """The exact coefficients with others in the place of some: a function of the exact ones."""
    return lambda x: exact(x) | new(exact(x), x)


@pytest.fixture(scope="module")
def events():
    return simulate([*AXES, *TWO])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("new", [0.0, 0.2], ids=["same events", "other events"])
def test_exact_shapes_pass(sign, new):
    report = systematics(trained(exact, *simulate([*AXES, *TWO, CORNER], sign=sign, new=new)))
    assert report.passed, str(report)
    assert set(by_name(report)) > SYSTEMATIC
    assert {"exponent", "exponent, all together", "curvature", "two-sample control of variations"} <= set(
        by_name(report)
    )
    assert {c.sample for c in report.checks} == {"sm"}
    json.loads(report.to_json())


WRONG = {
    "nothing learned": (lambda d, x: {t: 0 * v for t, v in d.items()}, SYSTEMATIC),
    "sign of one": (lambda d, x: {S1: -d[S1]}, {"closure of shift", "two-sample test of shift"}),
    "two exchanged": (lambda d, x: {S1: TILT * x[:, 1], T1: SHIFT * x[:, 0]}, SYSTEMATIC),
    "half of one": (lambda d, x: {T1: d[T1] / 2}, {"closure of tilt", "two-sample test of tilt"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_fail_where_they_are_wrong(events, name):
    new, where = WRONG[name]
    report = systematics(trained(changed(new), *events))
    assert failing(report) == where, str(report)


def test_a_quadratic_term_is_missed_where_it_matters():
    """Weights exp(0.2 a y + 0.04 a^2 y): a fifth of the effect is missed at 1, and two fifths at 2."""
    rng = np.random.default_rng(3)
    y = rng.normal(size=(8000, 2))

    def at(a):
        w = np.exp((TILT * a + 0.04 * a**2) * y[:, 1])
        return VariedSample({"tilt": a}, EventSample(y, w / w.mean(), ("x", "y")))

    nominal = EventSample(y, names=("x", "y"))

    def linear(x):
        return {T1: TILT * x[:, 1]}

    def both(x):
        return linear(x) | {(("tilt", 2),): 0.04 * x[:, 1]}

    near, far = [at(1), at(-1)], [at(1), at(-1), at(2), at(-2)]
    assert not failing(systematics(trained(linear, nominal, near)))
    report = systematics(trained(linear, nominal, far))
    assert failing(report) == {"closure of tilt", "two-sample test of tilt"}
    assert "tilt = -2" in by_name(report)["closure of tilt"].meaning
    assert not failing(systematics(trained(both, nominal, far)))


def test_noise_that_events_do_not_confirm_is_seen_in_the_learned_ratio(events):
    """An overfitted network: right on average in every feature."""
    report = systematics(trained(changed(lambda d, x: {T1: d[T1] + 0.3 * np.sin(60 * x[:, 0])}), *events))
    assert "closure of tilt" in failing(report)
    assert "learned ratio" in by_name(report)["closure of tilt"].meaning
    assert not {"closure of shift", "two-sample test of shift"} & failing(report)


@pytest.mark.parametrize("expected", [1000.0, 1e6])
def test_a_small_effect_that_is_learned_badly_is_harmless_unless_data_tell_it(expected):
    """All of a tilt by 0.4% is missed, which a thousand events tell with 0.1 standard deviations, a million with 4."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20_000, 2))
    weight = expected / len(x)

    def at(a):
        return VariedSample({"tilt": a}, EventSample(x, weight * np.exp(0.004 * a * x[:, 1]), ("x", "y")))

    def nothing(x):
        return {T1: np.zeros(len(x))}

    report = systematics(trained(nothing, EventSample(x, np.full(len(x), weight), ("x", "y")), [at(1), at(-1)]))
    check = by_name(report)["two-sample test of tilt"]
    assert check.value > 10 * check.error
    if expected < 1e4:
        assert report.passed
        assert check.value == pytest.approx(0.004 * np.sqrt(expected) * 0.25 / 0.3, rel=0.1)
        assert "1000 expected events hardly tell" in check.meaning
    else:
        assert failing(report) == {"closure of tilt", "two-sample test of tilt"}
        assert check.value == pytest.approx(1.0)


# --- off the axes


def test_a_pair_that_does_not_factorise_is_flagged_off_the_axes():
    given = simulate([*AXES, CORNER], cross=CROSS)
    report = systematics(trained(exact, *given))
    at = "at shift = +1, tilt = +1"
    assert failing(report) == {f"closure {at}", f"two-sample test {at}"}
    assert "give the point as Cross" in by_name(report)[f"closure {at}"].meaning
    mended = systematics(trained(crossed, *given))
    assert mended.passed, str(mended)
    assert "the product of the one-nuisance shapes alone would miss" in by_name(mended)[f"closure {at}"].meaning
    (_, (check,)) = ([c for c in r.checks if c.name == f"rate {at}"] for r in (report, mended))
    off = float(check.meaning.split("off by ")[1].split("%")[0]) / 100
    assert off == pytest.approx(np.exp(CROSS * TILT + CROSS**2 / 2) - 1, abs=0.01)  # E[exp((0.2 + 0.15) y)] over others


def test_rates_off_the_axes_and_beyond_one_sigma():
    points = [*AXES, {"shift": 2}, CORNER, {"shift": 1, "tilt": -1}]
    exponential = by_name(systematics(trained(exact, *simulate(points, rates={"shift": 0.1}))))
    assert exponential["rate at shift = +2"].value == pytest.approx(0, abs=1e-6)
    nominal, varied = simulate(points, rates={"shift": 0.1})
    last = varied[4].events
    varied[4] = VariedSample(points[4], EventSample(last.features, 1.05 * last.weights, last.names, last.ids))
    wrong = systematics(trained(exact, nominal, varied))
    assert failing(wrong) == {"rate at shift = +2"}
    assert by_name(wrong)["rate at shift = +2"].value == pytest.approx(0.05, abs=1e-6)


def test_a_pair_has_one_factor_in_whichever_order_its_points_are_given():
    def at(total, **alpha):
        return VariedSample(alpha, EventSample([0.0], [total]))

    axes = [at(11.0, jes=1), at(9.0, jes=-1), at(10.5, jer=1), at(9.8, jer=-1)]
    corners = [at(11.55 * np.exp(0.05), jes=1, jer=1), at(9.45 * np.exp(-0.05), jer=1, jes=-1)]
    assert cross_coefficients(10.0, [*axes, *corners]) == {("jer", "jes"): pytest.approx(0.05)}


def test_without_a_point_off_the_axes_the_report_says_so(events):
    report = systematics(trained(exact, *events))
    assert "factorise is untested" in str(report)
    assert report.passed
    assert "untested" not in str(systematics(trained(exact, *simulate([*AXES, CORNER]))))


# --- errors


def one_hot(cells, bins):
    return np.eye(bins)[cells]


def test_binned_covariance_is_that_of_its_slow_twin():
    part = LinkedPart.of(trained(exact, *simulate([{"shift": 1}], n=500, new=0.1)), "sm")
    pair = part.pair(0)
    ratio = part.factor.at(part.d, {"shift": 1}), part.factor.at(part.moved(pair), {"shift": 1})
    for quantity in quantities(part, pair, *ratio):
        for source in (pair.nominal, pair.learned):
            s, t, covariance = binned_difference(pair, source, quantity.at, quantity.to, quantity.bins)
            at_base, at_row = one_hot(quantity.at, quantity.bins), one_hot(quantity.to[pair.there], quantity.bins)
            difference, each = pair.difference(source, at_base, at_row)
            np.testing.assert_allclose(t - s, difference, atol=1e-14)
            np.testing.assert_allclose(covariance, each.T @ each, atol=1e-16)
            assert s.sum() == pytest.approx(1)
            assert t.sum() == pytest.approx(1)


def test_errors_know_what_nominal_and_varied_events_share():
    """Pulls of varied minus reweighted shares have width 1; errors of unlinked samples are too large."""
    toys, rows, squares = 150, [], []
    for seed in range(toys):
        part = LinkedPart.of(trained(exact, *simulate([{"shift": 0.3}], n=1500, seed=seed)), "sm")
        pair = part.pair(0)
        at_base, at_row = (part.factor.at(d, {"shift": 0.3}) for d in (part.d, part.moved(pair)))
        quantity = next(quantities(part, pair, at_base, at_row))
        edges = np.array([-0.8, 0.0, 0.8])
        at, to = (np.searchsorted(edges, x) for x in (part.x[pair.base][:, 0], part.x[pair.varied.row][:, 0]))
        s, t, covariance = binned_difference(pair, pair.learned, at, to, 4)
        naive = [np.bincount(c, w**2, 4) for c, w in ((at, pair.learned), (to, pair.varied.moved))]
        rows.append([(t - s) / np.sqrt(np.diag(covariance)), (t - s) / np.sqrt(sum(naive))])
        found = missed(part, pair, quantity)
        squares.append(found.square / found.error)
    linked, unlinked = np.array(rows).transpose(1, 0, 2)
    assert np.abs(linked.mean(axis=0)).max() < 4 / np.sqrt(toys)
    assert np.abs(linked.std(axis=0, ddof=1) - 1).max() < 4 / np.sqrt(2 * toys)
    assert unlinked.std(axis=0, ddof=1).max() < 0.6
    assert abs(np.mean(squares)) < 4 * np.std(squares) / np.sqrt(toys)
    assert np.std(squares) == pytest.approx(1, abs=0.25)


def test_chi2_has_its_degrees_of_freedom():
    found = []
    for seed in range(60):
        part = LinkedPart.of(trained(exact, *simulate([{"shift": 1}], n=3000, seed=seed)), "sm")
        pair = part.pair(0)
        ratio = part.factor.at(part.d, {"shift": 1}), part.factor.at(part.moved(pair), {"shift": 1})
        found.append(missed(part, pair, next(quantities(part, pair, *ratio))))
    ndf = found[0].ndf
    assert ndf == 2 * 19  # folds of twenty bins, whose shares add up to 1
    mean = np.mean([f.chi2 for f in found])
    assert abs(mean - ndf) < 4 * np.sqrt(2 * ndf / len(found)) + 0.05 * ndf  # heavy weights in the outer bins
    assert all(0 < f.p_value < 1 for f in found)


# --- what is told


def table(report):
    (found,) = (c for c in report.curves if isinstance(c, Sizes))
    return found


def test_sizes_are_those_of_closed_forms():
    report = systematics(
        trained(exact, *simulate(AXES, n=40_000, rates={"shift": 0.1})), normalisation={"sm": {"shift": 1e-4}}
    )
    found = table(report)
    assert found.nuisances == ("shift", "tilt")
    assert found.kept.all()
    spread = 4 / np.sqrt(2 * 40_000)  # of a standard deviation, relative
    for values in (found.up, found.down):
        np.testing.assert_allclose(values, [SHIFT, TILT], rtol=spread)
    for values, errors in ((found.up_seen, found.up_error), (found.down_seen, found.down_error)):
        assert (np.abs(values - [SHIFT, TILT]) < 4 * errors).all()
        assert (errors < 0.005).all()
    np.testing.assert_allclose([found.rate_up[0], found.rate_down[0]], [np.exp(0.1), np.exp(-0.1)], rtol=1e-6)
    np.testing.assert_array_equal(found.normalisation, [1e-4, np.nan])
    (curve,) = (c for c in report.curves if isinstance(c, Coefficients) and (c.nuisance, c.feature) == ("shift", "x"))
    assert curve.powers == (1, 2)
    np.testing.assert_allclose(curve.mean[1], -0.045)
    center = (curve.edges[1:] + curve.edges[:-1]) / 2
    np.testing.assert_allclose(curve.mean[0][1:-1], SHIFT * center[1:-1], atol=0.01)
    assert (curve.low[0] < curve.mean[0]).all()
    assert (curve.mean[0] < curve.high[0]).all()


def test_ratios_to_draw_are_those_of_the_densities():
    report = systematics(trained(exact, *simulate([*AXES, CORNER], n=40_000)))
    curves = {(c.point, c.feature): c for c in report.curves if isinstance(c, VariedRatio)}
    assert len(curves) == 10
    up = curves["tilt = +1", "y"]
    center = (up.edges[1:] + up.edges[:-1]) / 2
    expected = np.exp(TILT * center - TILT**2 / 2)
    np.testing.assert_allclose(up.simulated[1:-1], expected[1:-1], atol=0.02)
    np.testing.assert_allclose(up.learned, up.simulated, atol=1e-5)
    assert (up.error < 0.02).all()
    assert not len(up.product)
    corner = curves["shift = +1, tilt = +1", "x"]
    np.testing.assert_allclose(corner.product, corner.learned)
    moved = curves["shift = +1", "x"]
    assert np.abs((moved.simulated - moved.learned) / moved.error).max() < 5


def test_pruned_nuisances_are_listed_and_judged():
    nominal, varied = simulate(AXES)
    report = systematics(trained(exact, nominal, varied, pruned=("tilt",)))
    assert failing(report) == {"closure of tilt", "two-sample test of tilt"}  # its effect is not small
    assert "the shape of tilt is pruned" in by_name(report)["closure of tilt"].meaning
    found = table(report)
    assert found.kept.tolist() == [True, False]
    assert "pruned, so that they change the rate alone: tilt" in found.note
    assert found.up[1] == pytest.approx(TILT, rel=0.1)  # what was learned of it


def test_everything_pruned_and_nothing_to_check():
    nominal, _ = simulate([])
    still = [VariedSample({k: a}, nominal) for k in ("shift", "tilt") for a in (1, -1)]
    nothing = trained(changed(lambda d, x: {t: 0 * v for t, v in d.items()}), nominal, still, pruned=("shift", "tilt"))
    report = systematics(nothing)
    assert report.passed, str(report)
    assert set(by_name(report)) == SYSTEMATIC | {"two-sample control of variations"}
    assert np.isnan(table(report).up_seen).all()
    json.loads(report.to_json())
    without = trained(exact, nominal, ())
    assert systematics(replace(without, shapes={})) == CheckReport((), ())


def test_only_the_largest_are_drawn_and_those_that_fail():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2000, 2))
    names = [f"n{k}" for k in range(9)]

    def d(x):
        return {((name, 1),): (0.05 + 0.01 * k) * x[:, 1] for k, name in enumerate(names)} | {
            (("bad", 1),): -0.03 * x[:, 1]
        }

    def weight(name, a):
        slope = 0.03 if name == "bad" else 0.05 + 0.01 * int(name[1:])
        return EventSample(x, np.exp(slope * a * x[:, 1]), ("x", "y"))

    varied = [VariedSample({name: a}, weight(name, a)) for name in (*names, "bad") for a in (1, -1)]
    report = systematics(trained(d, EventSample(x, names=("x", "y")), varied))
    drawn = {c.nuisances[0] for c in report.curves if isinstance(c, VariedRatio)}
    assert drawn == {"bad", "n8", "n7", "n6", "n5", "n4"}
    assert "6 of 10 nuisances are drawn" in table(report).note


@pytest.mark.parametrize("code", ["code0", "code1", "code2", "code4", "code4p"])
def test_other_interpolations_meet_the_simulation_at_their_anchors(code):
    given = simulate([{"tilt": 1}, {"tilt": -1}])
    report = systematics(trained(exact, *given, codes={"tilt": code}))
    check = by_name(report)["closure of tilt"]
    assert check.passed
    assert abs(check.value) < 1e-6
    linear = code in ("code0", "code2", "code4p")
    far = systematics(trained(exact, *simulate([{"tilt": 1}, {"tilt": -1}, {"tilt": 4}]), codes={"tilt": code}))
    assert by_name(far)["closure of tilt"].passed != linear  # exp(0.8 y) is no straight line


def test_of_very_many_events_some_are_compared(monkeypatch):
    given = simulate(AXES, rates={"shift": 0.1})
    monkeypatch.setattr("nuratio.checks.linked._MOST", 2000)
    thin = trained(exact, *given)
    part = LinkedPart.of(thin, "sm")
    assert 1500 < len(part.events) < 2500
    assert part.expected == 8000
    assert part.points[0].events.total == pytest.approx(np.exp(0.1) * len(part.events))
    assert systematics(thin).passed


# --- smoothness


def test_exponents_and_curvature_that_run_away_fail(events):
    steep = systematics(trained(changed(lambda d, x: {T1: 1.5 * x[:, 1]}), *events))
    assert "exponent" in failing(steep)
    assert by_name(steep)["exponent"].value == pytest.approx(3 * np.abs(events[0].features[:, 1]).max(), rel=1e-6)
    assert "tilt" in by_name(steep)["exponent"].meaning
    assert "exponent, all together" not in failing(steep)
    steeper = systematics(trained(changed(lambda d, x: {T1: 5 * x[:, 1]}), *events))
    assert "exponent, all together" in failing(steeper)
    bent = by_name(systematics(trained(changed(lambda d, x: {S2: 0.2 * x[:, 0]}), *events)))
    assert bent["curvature"].value == pytest.approx(2 * 0.2 / SHIFT, rel=1e-6)
    assert not bent["curvature"].passed


def test_the_worst_of_several_checks_fails_if_one_does():
    good, bad, unknown = (Check("c", "s", value, 0.01, 0.1, "") for value in (0.02, 0.2, float("nan")))
    assert worst([good, bad]) is bad
    assert worst([unknown, bad]) is unknown
    assert worst([good, Check("c", "s", 0.0, 0.0, 0.0, "")]) is good
    assert good.used <= 1 < bad.used
