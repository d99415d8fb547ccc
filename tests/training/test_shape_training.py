"""Shape coefficients against closed forms: ln N(0.3 a, 1)/N(0, 1) = 0.3 a x - 0.045 a^2, and what follows from it."""

import numpy as np
import pytest

from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample
from nuratio.errors import InvalidData, LeakageWarning, StatisticsWarning, UnknownName
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.shape import ShapeEstimator
from nuratio.training.linking import link
from nuratio.training.shape import SHAPE_OPTIONS, train_shapes

N = 30_000
X = np.random.default_rng(1).normal(size=N)
Y = np.random.default_rng(4).normal(size=N)
IDS = np.random.default_rng(2).permutation(N)
GRID = np.linspace(-2, 2, 81)
OPTIONS = TrainingOptions(hidden=(16, 16), epochs=10, batch_size=1024, learning_rate=1e-2, folds=2, ensemble=1)
QUICK = TrainingOptions(hidden=(4,), epochs=1, folds=2, ensemble=1)
D1, D2 = (("jes", 1),), (("jes", 2),)


def shifted(alpha, weight=1.0, keep=slice(None)):
    return EventSample((X + 0.3 * alpha)[keep], np.full(N, weight)[keep], event_ids=IDS[keep])


def reweighted(alpha, factor=1.0):
    return EventSample(X, factor * np.exp(0.3 * alpha * X), event_ids=IDS)


def at(events, *alpha, name="jes"):
    return [VariedSample({name: a}, events(a)) for a in alpha]


def fit(nominal, varied, options=OPTIONS, **kwargs):
    return train_shapes(nominal, varied, options=options, progress=False, **kwargs)


def worst(est, d1, d2, grid=GRID):
    got = est.coefficients(grid)
    return max(np.abs(got[D1] - d1).max(), np.abs(got[D2] - d2).max())


@pytest.mark.parametrize("points", [(1, -1), (-2, -1, 1, 2)], ids=["two points", "four points"])
def test_shift_of_a_gaussian(points):
    est = fit(shifted(0), at(shifted, *points), name="sm")
    assert worst(est, 0.3 * GRID, -0.045) < 0.02
    assert worst(est, -0.3 * GRID, -0.045) > 0.5  # up and down exchanged
    assert est.terms == (D1, D2)
    assert est.nuisances == ("jes",)
    assert "jes" in repr(est)
    (group,) = est.report["groups"]
    square = np.mean([np.mean((0.3 * a * X - 0.045 * a**2) ** 2) for a in points])
    assert abs(group["square"] - square) < 4 * group["error"] + square**2 / 2  # it is known to second order
    assert group["square"] > 20 * group["error"]
    assert est.insignificant(2.0) == ()


def test_rates_do_not_enter():
    """A factor common to all leaves the shapes alone bit for bit; yields of the variations up to statistics."""

    def with_yields(nominal, up, down, options):
        varied = [VariedSample({"jes": a}, shifted(a, w)) for a, w in ((1, up), (-1, down))]
        return fit(shifted(0, nominal), varied, options)

    plain, scaled = (with_yields(*w, QUICK).coefficients(GRID) for w in ((1.0, 1.0, 1.0), (-4.0, -4.0, -4.0)))
    for term, d in plain.items():
        np.testing.assert_array_equal(d, scaled[term])
    assert worst(with_yields(1.0, 2.0, 0.5, OPTIONS), 0.3 * GRID, -0.045) < 0.03


def test_events_that_migrate_out_of_a_variation():
    """Every variation has lost other events; ids still link the rest."""
    rng = np.random.default_rng(3)
    keep = [np.flatnonzero(rng.random(N) < 0.9) for _ in range(3)]
    est = fit(
        shifted(0, keep=keep[0]),
        [VariedSample({"jes": a}, shifted(a, keep=k)) for a, k in zip((1, -1), keep[1:], strict=True)],
    )
    assert worst(est, 0.3 * GRID, -0.045) < 0.05


def test_a_link_holds_nothing_but_the_changes():
    """Ids may repeat within a sample (several rows of one generated event): then the order links them."""
    nominal = EventSample([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 5], event_ids=[7, 5, 7, 9])
    up = EventSample([3.0, 2.1, 3.1, 6.1, 1.0], [2, 1, 1, 4, 0.5], event_ids=[7, 5, 7, 6, 11])
    weights = EventSample([1.0, 2.0, 3.0, 4.0], [1, 3, 1, 5], event_ids=[7, 5, 7, 9])
    events = link(nominal, [up, weights])
    scale = len(events) / nominal.total
    found = []
    for e in range(len(events)):
        rows = events.x[events.first_row[e] : events.first_row[e + 1], 0].tolist()
        changes = slice(events.first_change[e], events.first_change[e + 1])
        for v in range(2):
            simulated = {rows[0]: float(events.nominal[e])}
            for row, point, change in zip(
                events.row[changes] - events.first_row[e], events.point[changes], events.change[changes], strict=True
            ):
                if point == v:
                    x = rows[int(row)]
                    simulated[x] = simulated.get(x, 0.0) + float(change)
            found += [(v, int(events.ids[e]), x, w / scale) for x, w in simulated.items() if abs(w) > 1e-6]
    expected = [
        (v, int(i), float(np.float32(x)), float(w))
        for v, s in enumerate((up, weights))
        for i, x, w in zip(s.ids, s.features[:, 0], s.weights, strict=True)
    ]
    assert len(found) == len(expected)
    for got, wanted in zip(sorted(found), sorted(expected), strict=True):
        assert got == pytest.approx(wanted, rel=1e-6)
    assert len(events.change) == 10  # of reweighted events one each, of moved ones two, of others none


def test_many_nuisances_with_one_network():
    """Each changes weights or one feature; what one does is not seen in the coefficients of another."""
    xy = np.stack([X, Y], axis=1)

    def tilt(j, a):
        return EventSample(xy, np.exp(0.2 * a * xy[:, j]), event_ids=IDS)

    def moved(a):
        return EventSample(np.stack([X + 0.3 * a, Y], axis=1), event_ids=IDS)

    varied = [VariedSample({f"tilt {j}": a}, tilt(j, a)) for j in range(2) for a in (1, -1)]
    est = fit(EventSample(xy, event_ids=IDS), [*varied, *at(moved, 1, -1)])
    grid = np.stack([GRID, np.roll(GRID, 40)], axis=1)
    d = est.coefficients(grid)
    for j in range(2):
        assert np.abs(d[((f"tilt {j}", 1),)] - 0.2 * grid[:, j]).max() < 0.04
        assert np.abs(d[((f"tilt {j}", 2),)] + 0.02).max() < 0.03
    assert np.abs(d[D1] - 0.3 * GRID).max() < 0.04
    assert est.nuisances == ("tilt 0", "tilt 1", "jes")
    alpha = {"jes": -0.5, "tilt 1": 2.0}
    expected = -0.5 * d[D1] + 0.25 * d[D2] + 2 * d[(("tilt 1", 1),)] + 4 * d[(("tilt 1", 2),)]
    np.testing.assert_allclose(est.log_ratio(grid, alpha), expected, atol=1e-9)


def test_cross_terms():
    """Weights exp(0.2 a x + 0.2 b y + 0.15 a b x): without its term the corner is missed."""
    xy = np.stack([X, Y], axis=1)

    def sample(a, b):
        return EventSample(xy, np.exp(0.2 * a * X + 0.2 * b * Y + 0.15 * a * b * X), event_ids=IDS)

    points = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)]
    varied = [VariedSample({"a": a, "b": b}, sample(a, b)) for a, b in points]
    est = fit(sample(0, 0), varied, cross=[("a", "b")])
    grid = np.stack([GRID, np.zeros(81)], axis=1)
    assert np.abs(est.coefficients(grid)[(("a", 1), ("b", 1))] - 0.15 * GRID).max() < 0.04
    corner = {"a": 1.0, "b": 1.0}
    got = est.log_ratio(grid, corner)
    assert np.ptp(got - 0.35 * GRID) < 0.08
    without = fit(sample(0, 0), varied[:4]).log_ratio(grid, corner)
    assert np.ptp(without - 0.35 * GRID) > 0.4
    assert est.report["groups"][0]["nuisances"] == ["a", "b"]


def test_a_cubic_nuisance():
    """ln ratio = 0.2 x a^3: four points know it, with order 2 they do not."""

    def sample(a):
        return EventSample(X, np.exp(0.2 * X * a**3), event_ids=IDS)

    def off(order):
        found = fit(sample(0), at(sample, -1.5, -1, 1, 1.5), order={"jes": order}).log_ratio(GRID, {"jes": 0.5})
        return np.ptp(found - 0.2 * GRID * 0.5**3)

    assert off(3) < 0.1
    assert off(2) > 0.3


@pytest.mark.parametrize("alpha", [1, -1, 0.5])
def test_one_point_alone_is_linear(alpha):
    est = fit(reweighted(0), at(reweighted, alpha))
    assert est.terms == (D1,)
    assert np.abs(est.coefficients(GRID)[D1] - (0.3 * GRID - alpha * 0.045)).max() < 0.05


def test_no_variation_gives_no_shape():
    est = fit(shifted(0), [VariedSample({"jes": a}, shifted(0)) for a in (1, -1)])
    assert worst(est, 0, 0) < 0.005
    unlinked = EventSample(np.random.default_rng(8).normal(size=N), event_ids=IDS + N)
    noise = fit(shifted(0), [VariedSample({"jes": a}, unlinked) for a in (1, -1)])
    assert worst(noise, 0, 0) < 0.1  # without links the statistics of N events show
    for same in (est, noise):
        assert same.insignificant(3.0) == ("jes",)
        assert same.insignificant(0.0) == ()


def test_seed_and_storage(tmp_path):
    quick = TrainingOptions(hidden=(4,), epochs=1, folds=3, ensemble=2, fold_seed=7)
    est, again = (fit(shifted(0), at(shifted, 1, -1), quick, seed=5) for _ in range(2))
    est.save(tmp_path)
    loaded = ShapeEstimator.load(tmp_path)
    for term in est.terms:
        np.testing.assert_array_equal(est.coefficients(GRID)[term], again.coefficients(GRID)[term])
        found = [e.coefficients(X, event_ids=IDS)[term] for e in (est, loaded)]
        np.testing.assert_array_equal(*found)
        assert (est.coefficients(X)[term] != found[0]).any()
    assert loaded.report == est.report
    assert loaded.options == quick
    assert SHAPE_OPTIONS.folds == TrainingOptions().folds  # the same folds as the ratios beside them
    assert SHAPE_OPTIONS.fold_seed == TrainingOptions().fold_seed


def test_unusable_variations_are_refused():
    signs = np.where(IDS % 10 == 0, -1.0, 1.0)
    up = at(shifted, 1)
    both = VariedSample({"jes": 1, "jer": 1}, shifted(1))
    for nominal, varied, options, match in (
        (shifted(0), [], {}, "no variation"),
        (shifted(0), [VariedSample({"jes": 1}, EventSample(X, names=["pt"], event_ids=IDS))], {}, r"\['pt'\]"),
        (shifted(0), [VariedSample({"jes": 1}, EventSample(X, signs, event_ids=IDS))], {}, "3000 of 30000"),
        (EventSample(X, signs, event_ids=IDS), up, {}, "sm: nominal"),
        (shifted(0), [VariedSample({"jes": 1}, shifted(1, keep=slice(12)))], {}, "fold"),
        (shifted(0), up * 2, {}, "given twice"),
        (shifted(0), [both], {}, "'jes' is varied together with others only"),
        (shifted(0), up, {"order": {"jes": 2}}, "order 2 of 'jes' is not identified by simulations at alpha = 1;"),
        (shifted(0), [*up, *at(shifted, 1, name="jer")], {"cross": [("jes", "jer")]}, "needs a point where both"),
    ):
        with pytest.raises(InvalidData, match=match):
            fit(nominal, varied, name="sm", **options)
    with pytest.raises(UnknownName, match="'jer' is not varied"):
        fit(shifted(0), up, order={"jer": 1})
    for alpha in ({}, {"jes": 0.0}, {"jes": np.nan}):
        with pytest.raises(InvalidData, match="finite alpha"):
            VariedSample(alpha, shifted(0))


def test_points_that_do_not_tell_terms_apart_are_refused():
    """Two nuisances that are only varied together beyond one point each."""
    varied = [VariedSample(alpha, shifted(sum(alpha.values()))) for alpha in ({"a": 1}, {"b": 1}, {"a": 1, "b": 1})]
    assert len(fit(shifted(0), varied, QUICK, cross=[("a", "b")]).terms) == 3
    with pytest.raises(InvalidData, match="not identified"):
        fit(shifted(0), varied, QUICK, order={"a": 2})


def test_samples_that_cannot_be_linked_are_warned_about():
    with pytest.warns(LeakageWarning, match="event_ids"):
        fit(EventSample(X), [VariedSample({"jes": 1}, EventSample(X[1:] + 0.3))], QUICK)
    with pytest.warns(StatisticsWarning, match=r"sm: jes = \+1.*500"):
        fit(shifted(0), [VariedSample({"jes": 1}, shifted(1, keep=slice(500)))], QUICK, name="sm")
