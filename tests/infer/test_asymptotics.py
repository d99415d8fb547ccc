import warnings

import numpy as np
import pytest
from scipy.integrate import quad
from surfaces import interference, squared

import analytic
from nuratio.errors import AsymptoticsWarning, InvalidModel
from nuratio.infer.fitting.asymptotics import check_asymptotics, informative_events
from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.hypotest import hypotest, significance
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.infer.profiles.intervals import interval
from nuratio.infer.toys.p_values import toy_limit
from nuratio.parallel.tasks import Serial
from nuratio.workspace.workspace import Workspace


def along(model, name):
    return (np.array(model.config.par_names) == name).astype(float)


def counting(n, **options):
    ws = Workspace.from_pyhf(analytic.counting(n, **options))
    model = ws.model()
    return model, ws.data(model)


def bins(signal, background, *modifiers, parameters=()):
    """One channel of a signal of strength mu and a background."""
    mu = {"name": "mu", "type": "normfactor", "data": None}
    samples = [
        {"name": "s", "data": list(signal), "modifiers": [mu]},
        {"name": "b", "data": list(background), "modifiers": list(modifiers)},
    ]
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "SR", "samples": samples}],
        "observations": [{"name": "SR", "data": list(background)}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": list(parameters)}}],
    }
    ws = Workspace.from_pyhf(spec)
    model = ws.model()
    return model, ws.data(model)


def reasons(model, data, *arguments, **options):
    return [concern.reason for concern in check_asymptotics(model, data, *arguments, **options)]


# --- events that the information comes from


@pytest.mark.parametrize("mu", [0.0, 0.4, 3.0])
def test_all_events_of_a_counting_experiment(mu):
    model, _ = counting(50.0, s=10.0, b=3.0)
    assert informative_events(model, np.array([mu]), np.ones(1)) == pytest.approx(3 + 10 * mu, rel=1e-12)


def test_bins_without_signal_do_not_count_and_finer_bins_change_nothing():
    """Scores s_b / n_b: (sum s^2 / n)^2 / sum s^4 / n^3."""
    s, b = np.array([0.0, 4.0, 1.0]), np.array([1e4, 6.0, 50.0])
    model, _ = bins(s, b)
    n = b + s
    expected = np.sum(s**2 / n) ** 2 / np.sum(s**4 / n**3)
    assert informative_events(model, np.ones(1), np.ones(1)) == pytest.approx(expected, rel=1e-12)
    assert expected < 15
    split, _ = bins(np.repeat(s / 4, 4), np.repeat(b / 4, 4))
    assert informative_events(split, np.ones(1), np.ones(1)) == pytest.approx(expected, rel=1e-12)


def test_it_is_the_excess_kurtosis_of_the_score(rng):
    s, b = np.array([2.0, 4.0, 1.0]), np.array([3.0, 2.0, 9.0])
    model, _ = bins(s, b)
    score = rng.poisson(b + s, size=(400_000, 3)) @ (s / (b + s))
    x = score - score.mean()
    kurtosis = np.mean(x**4) / np.mean(x**2) ** 2 - 3
    error = np.sqrt(24 / len(x))
    assert 1 / informative_events(model, np.ones(1), np.ones(1)) == pytest.approx(kurtosis, abs=5 * error)


def test_events_of_an_unbinned_channel():
    """The same sums as integrals over the density, from the pool: to its statistical error."""
    ws = analytic.workspace(pool=20_000, n_background=200.0, n_signal=20.0)
    model = ws.model()
    theta = np.array(model.config.suggested_init())
    theta[model.config.poi_index] = 1.0

    def moment(power):
        def integrand(x):
            s, total = 20 * analytic.signal(x), 200 * analytic.background(x) + 20 * analytic.signal(x)
            return s**power / total ** (power - 1)

        return quad(integrand, 0, 10)[0]

    expected = moment(2) ** 2 / moment(4)
    assert informative_events(model, theta, along(model, "mu")) == pytest.approx(expected, rel=0.03)
    assert 20 < expected < 100  # of 220: those under the peak


@pytest.mark.parametrize("split", [1, 3])
def test_a_channel_counts_the_same_in_bins_and_as_events(split, rng):
    ws = Workspace.from_pyhf(analytic.binned_spec())
    other = ws.unbin("B", split=split)
    model, same = ws.model(), other.model()
    theta = analytic.random_point(model, rng)
    direction = rng.normal(size=len(theta))
    order = [same.config.par_names.index(name) for name in model.config.par_names]
    moved, turned = np.empty_like(theta), np.empty_like(theta)
    moved[order], turned[order] = theta, direction
    expected = informative_events(model, theta, direction)
    assert informative_events(same, moved, turned) == pytest.approx(expected, rel=1e-9)


# --- reasons


def test_healthy_models_give_no_reason(analytic_model):
    for test_stat in ("qtilde", "q0"):
        assert reasons(*analytic_model, test_stat=test_stat) == []
        assert reasons(*counting(55.0), test_stat=test_stat) == []
        assert reasons(*counting(40.0), test_stat=test_stat) == []  # at its bound, as these statistics expect


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, d: hypotest(m, d, 1.0), "mu at 1 comes from 3 expected events, fewer than 5"),
        (lambda m, d: upper_limit(m, d, points=2), r"mu at \d\.\d+ comes from 4.\d expected events"),
        (lambda m, d: significance(m, d), "mu at 1 comes from 3 expected events"),
        (lambda m, d: fit(m, d, minos=["mu"]), "mu at 2 comes from 4 expected events.*nuratio.neyman"),
        (lambda m, d: interval(m, d), "mu at 2 comes from 4 expected events.*nuratio.neyman"),
    ],
    ids=["hypotest", "limit", "significance", "minos", "interval"],
)
def test_few_events_are_warned_of_with_what_to_do(call, message):
    s = 2.0 if "4." in message else 1.0
    n = 1.0 if "4." in message else 4.0
    model, data = counting(n, s=s, b=2.0 if s == 1 else 0.8, bounds=(0, 30))
    with pytest.warns(AsymptoticsWarning, match=f"few events: what is known of {message}"):
        call(model, data)


def test_numbers_are_the_same_without_a_look():
    model, data = counting(1.0, s=2.0, b=0.8, bounds=(0, 30))
    for call in (lambda **o: hypotest(model, data, 1.0, **o), lambda **o: upper_limit(model, data, points=3, **o)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            forced = call(asymptotics="force")
        with pytest.warns(AsymptoticsWarning):
            assert call().to_json() == forced.to_json()
    with pytest.raises(InvalidModel, match="'check' or 'force'"):
        hypotest(model, data, 1.0, asymptotics="maybe")


def test_counting_in_toys_warns_of_nothing():
    model, data = counting(1.0, s=2.0, b=0.8, bounds=(0, 30))
    toy_limit(model, data, n=60, executor=Serial())


def mass_is_free():
    """Two signal bins that share mu as the free parameter x says: without signal nothing depends on x."""
    spec = analytic.counting(0.0, s=20.0, b=100.0)
    channel = spec["channels"][0]
    first, second = ({"name": name, "type": "normfactor", "data": None} for name in ("left", "right"))
    channel["samples"] = [
        {"name": "l", "data": [20.0, 0.0], "modifiers": [first]},
        {"name": "r", "data": [0.0, 20.0], "modifiers": [second]},
        {"name": "b", "data": [100.0, 100.0], "modifiers": [analytic.normsys("norm", 1.1)]},
    ]
    spec["observations"] = [{"name": "bin", "data": [104.0, 118.0]}]
    spec["measurements"] = [{"name": "m", "config": {"poi": "", "parameters": []}}]
    spec["unbinned"] = {
        "version": "1.0.0",
        "files": [],
        "channels": [],
        "poi": "mu",
        "parameters": [
            {"name": "left", "expression": "mu * x"},
            {"name": "right", "expression": "mu * (1 - x)"},
            {"name": "mu", "inits": [1.0], "bounds": [[0.0, 10.0]]},
            {"name": "x", "inits": [0.4], "bounds": [[0.0, 1.0]]},
        ],
    }
    ws = Workspace(spec)
    model = ws.model()
    return model, ws.data(model)


@pytest.mark.parametrize(
    "call",
    [
        lambda m, d, **o: hypotest(m, d, 1.0, **o),
        lambda m, d, **o: upper_limit(m, d, points=2, **o),
        lambda m, d, **o: significance(m, d, **o),
    ],
    ids=["hypotest", "limit", "significance"],
)
def test_a_parameter_that_only_the_signal_has_is_refused(call):
    model, data = mass_is_free()
    with pytest.raises(
        InvalidModel, match=r"unidentified: without signal \(mu = 0\) the data do not depend on 'x'; .*force"
    ):
        call(model, data)
    assert call(model, data, asymptotics="force").valid
    assert "unidentified" in reasons(model, data)


def test_a_free_background_is_identified():
    free = {"name": "free", "type": "normfactor", "data": None}
    assert reasons(*bins([10.0, 2.0], [80.0, 70.0], free)) == []
    model, data = bins([10.0, 20.0], [80.0, 0.0], {"name": "free", "type": "shapefactor", "data": None})
    concerns = check_asymptotics(model, data)  # the second bin has no background to scale
    assert concerns[0].reason == "unidentified"
    assert "do not depend on 'free[1]'" in concerns[0].text


def test_bounds():
    model, data = counting(40.0)
    concerns = check_asymptotics(model, data, test_stat="q")
    assert [c.reason for c in concerns] == ["boundary"]
    assert "q expects it beyond" in concerns[0].text
    with pytest.warns(AsymptoticsWarning, match="boundary: the best fit of mu is at its bound 0"):
        interval(model, data)
    fit(model, data, minos=["mu"])  # an interval from zero on: a matter of course
    above = counting(400.0)
    assert "boundary" in reasons(*above, 9.0)
    positive = counting(40.0, bounds=(0.5, 10))
    assert "boundary" in reasons(*positive)


def test_a_nuisance_at_its_bound():
    narrow = {"name": "free", "bounds": [[0.5, 1.05]]}
    free = {"name": "free", "type": "normfactor", "data": None}
    model, data = bins([10.0, 2.0], [80.0, 70.0], free, parameters=[narrow])
    data = np.array(data) + 30.0
    concerns = check_asymptotics(model, data)
    assert [c.reason for c in concerns] == ["nuisance at a bound"]
    assert "'free' in the best fit" in concerns[0].text
    assert "widen the bounds" in concerns[0].remedy


def test_roots_and_squares_at_zero(analytic_workspace):
    model, data = interference(130.0)
    assert any("infinitely fast with mu at 0" in c.text for c in check_asymptotics(model, data, test_stat="q0"))
    kappa = squared(analytic_workspace)
    data = analytic_workspace.data(kappa)
    assert any("do not change with kappa at 0" in c.text for c in check_asymptotics(kappa, data, test_stat="q0"))


def test_several_minima():
    model, data = interference(79.0)
    fits = {mu: fit(model, data, init={"mu": mu})["mu"].value for mu in (0.1, 1.5)}
    assert fits[0.1] < 0.4 < 0.8 < fits[1.5]
    start = fit(model, data)["mu"].value
    tested = 0.45 if start > 0.8 else 0.75  # on the far side of the hill between them
    assert "several minima" in reasons(model, data, tested)
    with pytest.warns(AsymptoticsWarning, match="several minima"):
        upper_limit(model, data)


def test_cls_of_what_is_excluded_beyond_the_smallest_number():
    """Both probabilities vanish in double precision; their ratio is that of Gaussian tails."""
    model, data = interference(79.0)
    result = hypotest(model, data, 2.24, asymptotics="force")
    assert result.CLb == result.CLsb == 0.0
    root = np.sqrt(result.asimov_statistic)
    shift = (result.statistic - result.asimov_statistic) / (2 * root)
    assert np.log(result.CLs) == pytest.approx(-shift * root - root**2 / 2, rel=1e-3)  # exp(-x^2 / 2) / x, x = 120


def test_warnings_are_from_the_caller():
    model, data = counting(1.0, s=2.0, b=0.8, bounds=(0, 30))
    for call in (
        lambda: hypotest(model, data, 1.0),
        lambda: upper_limit(model, data, points=2),
        lambda: significance(model, data),
        lambda: interval(model, data),
        lambda: fit(model, data, minos=["mu"]),
    ):
        with pytest.warns(AsymptoticsWarning) as caught:
            call()
        assert {w.filename for w in caught} == {__file__}


def test_a_model_with_many_pool_events_is_looked_at_in_part(monkeypatch):
    ws = analytic.workspace(pool=20_000)
    model = ws.model()
    theta = np.array(model.config.suggested_init())
    whole = informative_events(model, theta, along(model, "mu"))
    monkeypatch.setattr("nuratio.infer.fitting.asymptotics._POOL", 4_000)
    assert informative_events(model, theta, along(model, "mu")) == pytest.approx(whole, rel=0.1)
    assert informative_events(model, theta, along(model, "mu")) != whole
