import copy

import numpy as np
import pyhf
import pytest
from scipy.special import gammaln

import analytic
from nuratio.errors import InvalidModel, NonPositiveDensity, PoolDensityWarning, UnknownName
from nuratio.model.model import Model
from nuratio.model.positivity import extended_log
from nuratio.workspace.workspace import Workspace

# --- the formula


def test_the_likelihood_is_the_extended_unbinned_one(analytic_model, rng):
    """Written out for one event list, without blocks, tables or compiled rates."""
    model, data = analytic_model
    x = model.unbinned["SR"].observed_features["x"]
    pdf = model.pyhf_model
    for _ in range(5):
        theta = analytic.random_point(model, rng)
        by = dict(zip(model.config.par_names, theta, strict=True))
        nu_b, nu_s = pdf.main_model.expected_data(theta, return_by_sample=True)[:, -1]
        d1, d2 = analytic.tilt(x)
        (m1, m2), ((c11, c12), (_, c22)) = analytic.tilt_cumulants()
        a = by["tilt"]
        ln_z = a * m1 + a**2 * m2 + (a**2 * c11 + 2 * a**3 * c12 + a**4 * c22) / 2
        shape = np.exp(a * d1 + a**2 * d2 - ln_z)
        density = nu_b * analytic.background(x) * shape + nu_s * analytic.signal(x)
        q = (analytic.background(x) + analytic.signal(x)) / 2
        unbinned = 2 * (nu_b + nu_s - np.log(density / q).sum() + gammaln(len(x) + 1))
        counts, rate = data[:2], pdf.expected_data(theta, include_auxdata=False)[:2]
        binned = -2 * pyhf.tensorlib.poisson_logpdf(counts, rate).sum()
        constraints = -2 * float(pdf.constraint_logpdf(np.array(pdf.config.auxdata), theta))
        assert model.twice_nll(theta, data) == pytest.approx(unbinned + binned + constraints, rel=1e-12)
        assert model.logpdf(theta, data).shape == (1,)
        assert -2 * model.logpdf(theta, data)[0] == pytest.approx(model.twice_nll(theta, data), rel=1e-14)


def test_order_and_merging_of_events_change_nothing(analytic_workspace, rng):
    model = analytic_workspace.model()
    theta = analytic.random_point(model, rng)
    value = model.twice_nll(theta, analytic_workspace.data(model))
    x = np.array(model.unbinned["SR"].observed_features["x"])
    shuffled = analytic.workspace(observed=rng.permutation(x))
    assert shuffled.model().twice_nll(theta, shuffled.data(shuffled.model())) == pytest.approx(value, rel=1e-13)
    doubled = analytic.workspace(observed=np.repeat(x, 2))
    data = doubled.data(doubled.model())
    start = doubled.model().config.channel_slices["SR"].start
    data[start : start + 2 * len(x)] = 0.5
    assert doubled.model().twice_nll(theta, data) == pytest.approx(value, rel=1e-12)


def test_another_reference_shifts_the_likelihood_by_a_constant(analytic_workspace, rng):
    """Ratios to q' = q / g(x) are r g(x): differences of -2 ln L stay."""
    changed = copy.deepcopy(analytic_workspace.spec)
    tables = dict(analytic_workspace.tables)
    for kind in ("observed", "pool"):
        g = 1 + 0.3 * np.sin(tables[f"{kind} features"]["x"])
        table = tables[kind]
        values = np.array(table.values)
        for name in ("background", "signal"):
            values[table.names.index(name)] *= g
        tables[kind] = type(table)(table.names, values)
    other = Workspace(changed, tables).model()
    model, data = analytic_workspace.model(), analytic_workspace.data(analytic_workspace.model())
    points = [analytic.random_point(model, rng) for _ in range(5)]
    differences = [other.twice_nll(p, data) - model.twice_nll(p, data) for p in points]
    assert np.ptp(differences) < 1e-9
    assert abs(differences[0]) > 1


def test_derivatives_on_observed_asimov_and_toy_data(analytic_model, rng):
    model, data = analytic_model
    theta = analytic.random_point(model, rng)
    for vector in (data, model.asimov(theta), model.sample(theta, rng)):
        analytic.check_derivatives(model.likelihood(vector), analytic.random_point(model, rng))


def pool_normalised(ws):
    spec = copy.deepcopy(ws.spec)
    spec["unbinned"]["channels"][0]["samples"][0]["normalisation"] = {"type": "pool", "parameters": ["tilt"]}
    return Workspace(spec, ws.tables)


def integral(model, theta):
    (cell,) = model.unbinned["SR"].cells
    blocks = cell.evaluate(cell.pool, theta)
    return sum(cell.pool_weights[events] @ shapes[0] for events, shapes, _ in blocks)


def test_pool_normalisation_keeps_the_integral_at_every_alpha(analytic_workspace, rng):
    model = pool_normalised(analytic_workspace).model()
    tilt = model.config.par_names.index("tilt")
    theta = np.array(model.config.suggested_init())
    nominal = integral(model, theta)
    for alpha in (-3.0, -0.4, 2.5):
        theta[tilt] = alpha
        assert integral(model, theta) == pytest.approx(nominal, rel=1e-13)
    data = pool_normalised(analytic_workspace).data(model)
    for vector in (data, model.asimov(np.array(model.config.suggested_init()))):
        analytic.check_derivatives(model.likelihood(vector), analytic.random_point(model, rng, 0.3))


def test_both_normalisations_agree_where_shapes_are_small(analytic_workspace):
    cumulant, exact = analytic_workspace.model(), pool_normalised(analytic.workspace(pool=100_000)).model()
    for alpha in (-1.0, 0.5, 2.0):
        a = cumulant.unbinned["SR"].cells[0].samples[0].norm.at(np.array([alpha]))
        b = exact.unbinned["SR"].cells[0].samples[0].norm.at(np.array([alpha]))
        assert a[0] == pytest.approx(b[0], abs=2e-3)  # the pool's statistics


# --- expressions


@pytest.fixture(scope="module")
def interference_workspace():
    """nu = (mu - sqrt(mu)) S' + ...: the POI only occurs in expressions."""
    ws = analytic.workspace()
    spec = copy.deepcopy(ws.spec)
    spec["channels"][1]["samples"][1]["modifiers"][0]["name"] = "strength"
    spec["unbinned"]["parameters"] = [
        {"name": "strength", "expression": "mu - 0.3*sqrt(mu)"},
        {"name": "mu", "inits": [1.0], "bounds": [[0.0, 10.0]]},
    ]
    spec["unbinned"]["poi"] = "mu"
    spec["measurements"][0]["config"]["poi"] = ""
    return Workspace(spec, ws.tables)


def test_an_expression_is_the_value_it_stands_for(interference_workspace, analytic_model, rng):
    model = interference_workspace.model()
    data = interference_workspace.data(model)
    assert model.config.poi_name == "mu"
    assert "strength" not in model.config.par_names
    plain, plain_data = analytic_model
    theta = analytic.random_point(model, rng)
    by = dict(zip(model.config.par_names, theta, strict=True))
    same = [by[n] if n != "mu" else by["mu"] - 0.3 * np.sqrt(by["mu"]) for n in plain.config.par_names]
    assert model.twice_nll(theta, data) == pytest.approx(plain.twice_nll(same, plain_data), rel=1e-14)
    analytic.check_derivatives(model.likelihood(data), theta)


def test_the_counting_version_stays_a_pyhf_workspace(interference_workspace):
    pyhf.Workspace(interference_workspace.counting).model()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ([{"name": "muu", "expression": "1"}], UnknownName, "did you mean"),
        ([{"name": "tilt", "expression": "1"}], InvalidModel, "only a normfactor"),
        ([{"name": "mu", "expression": "m*2"}], UnknownName, "'m', which is no parameter"),
        ([{"name": "mu", "expression": "mu*2"}], InvalidModel, "cycle"),
        ([{"name": "spare"}], InvalidModel, "no expression"),
        ([{"name": "xs"}, {"name": "mu", "expression": "xs"}], InvalidModel, "already makes it"),
    ],
)
def test_wrong_parameters_are_named(analytic_workspace, parameters, error, message):
    spec = copy.deepcopy(analytic_workspace.spec)
    spec["unbinned"]["parameters"] = parameters
    spec["measurements"][0]["config"]["poi"] = ""
    with pytest.raises(error, match=message):
        Workspace(spec, analytic_workspace.tables).model()


# --- the equivalence with binned channels


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("per_bin", [False, True], ids=["", "per-bin parameters"])
@pytest.mark.parametrize("code", ["code0", "code2", "code4p"])
@pytest.mark.parametrize("norm", ["code1", "code4"])
def test_an_unbinned_channel_of_constant_ratios_is_the_binned_one(code, norm, per_bin, split, rng):
    """Every modifier and code; bins without parameters of their own become shapes, others coarse cells."""
    spec = analytic.binned_spec(per_bin=per_bin)
    settings = {"normsys": {"interpcode": norm}, "histosys": {"interpcode": code}}
    spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "modifier_settings": settings}
    ws = Workspace(spec)
    rewritten = ws.unbin("B", split=split).unbin("A", split=split)
    rewritten.validate()
    binned, unbinned = ws.model(), rewritten.model()
    assert [len(c.cells) for c in unbinned.unbinned.values()] == ([3, 2] if per_bin else [1, 1])
    data, events = ws.data(binned), rewritten.data(unbinned)
    main = binned.config.nmaindata
    np.testing.assert_allclose(events, np.concatenate([np.repeat(data[:main], split) / split, data[main:]]))
    differences, gradients, hessians = [], [], []
    for _ in range(30):
        theta = analytic.random_point(binned, rng, 0.4)
        rates = binned.expected_actualdata(theta)
        if (rates <= 0).any():
            continue
        a, b = binned.likelihood(data), unbinned.likelihood(events)
        differences.append(b.value(theta) - a.value(theta))
        gradients.append(np.abs(b.gradient(theta) - a.gradient(theta)).max())
        hessians.append(np.abs(b.hessian(theta) - a.hessian(theta)).max())
        np.testing.assert_allclose(unbinned.expected_actualdata(theta), np.repeat(rates, split) / split, rtol=1e-9)
        values, slopes = unbinned.likelihood(events).many([theta, theta])
        assert values == pytest.approx(b.value(theta), rel=1e-12)
        np.testing.assert_allclose(slopes[1], b.gradient(theta), rtol=1e-9, atol=1e-9)
    assert len(differences) > 15
    assert np.ptp(differences) < 1e-9
    assert per_bin == (abs(differences[0]) < 1e-9)  # a cell for every bin: also the value is pyhf's
    assert max(gradients) < 1e-8
    assert max(hessians) < 1e-7


def test_a_sample_that_only_its_variations_make_is_rewritten_in_cells(rng):
    spec = analytic.binned_spec(per_bin=False)
    spec["channels"][0]["samples"][1]["data"] = [0.0, 0.0, 0.0]
    ws = Workspace(spec)
    binned, unbinned = ws.model(), ws.unbin("B").model()
    data = ws.data(binned)
    differences = [
        unbinned.twice_nll(theta, data) - binned.twice_nll(theta, data)
        for theta in (analytic.random_point(binned, rng, 0.3) for _ in range(20))
    ]
    assert np.ptp(differences) < 1e-9


# --- Asimov data and toys


def test_an_empty_bin_is_no_problem():
    """Only the signal reaches the last bin: without signal its expectation is 0, binned or not."""
    spec = analytic.binned_spec(per_bin=False)
    spec["channels"][0]["samples"][0]["data"][2] = 0.0
    for modifier in spec["channels"][0]["samples"][0]["modifiers"]:
        if modifier["type"] == "histosys":
            modifier["data"]["hi_data"][2] = modifier["data"]["lo_data"][2] = 0.0
    spec["channels"][0]["samples"][1]["data"][2] = 4.0
    spec["observations"][1]["data"][2] = 0
    binned = Workspace(spec)
    unbinned = binned.unbin("B").model()
    theta = np.array(unbinned.config.suggested_init())
    theta[unbinned.config.poi_index] = 0.0
    np.testing.assert_allclose(unbinned.expected_data(theta), binned.model().expected_data(theta), atol=1e-9)
    assert np.isfinite(unbinned.twice_nll(theta, binned.data(unbinned)))


@pytest.mark.parametrize("pool", [2000, 20000])
def test_the_score_of_asimov_data_vanishes(pool, rng):
    model = analytic.workspace(pool=pool).model()
    for theta in (np.array(model.config.suggested_init()), analytic.random_point(model, rng, 0.4)):
        data = model.asimov(theta)
        sigma = np.sqrt(2 / np.diag(model.hessian(theta, data)))
        assert np.abs(model.gradient(theta, data) * sigma).max() < 1e-6
        main = data[: model.config.nmaindata]
        assert main[2:].sum() == pytest.approx(model.rates.nu(theta)[model.rates.cells("SR")].sum(), rel=1e-9)


def test_uncalibrated_weights_would_not_do():
    """The pool is small enough for the calibration to matter: plain importance weights leave a score."""
    model = analytic.workspace(pool=2000).model()
    theta = np.array(model.config.suggested_init())
    (cell,) = model.unbinned["SR"].cells
    nu = model.rates.nu(theta)[model.rates.cells("SR")]
    weights = np.concatenate([nu @ t for _, t, _ in cell.evaluate(cell.pool, theta)]) * cell.pool_weights
    data = model.asimov(theta)
    data[2 + len(cell.observed) : model.config.nmaindata] = weights
    sigma = np.sqrt(2 / np.diag(model.hessian(theta, data)))
    assert np.abs(model.gradient(theta, data) * sigma).max() > 1e-2


def test_the_observed_likelihood_does_not_depend_on_the_pool(rng):
    a, b = analytic.workspace(pool=2000), analytic.workspace(pool=5000)
    np.testing.assert_array_equal(a.tables["observed"].values, b.tables["observed"].values)
    theta = analytic.random_point(a.model(), rng)
    assert a.model().twice_nll(theta, a.data(a.model())) == b.model().twice_nll(theta, b.data(b.model()))


def test_toys_have_the_expected_mean_and_variance(analytic_model):
    model, _ = analytic_model
    theta = np.array(model.config.suggested_init())
    rng, n = np.random.default_rng(5), 400
    pdf = model.make_pdf(theta)
    toys = np.array([pdf.draw(rng) for _ in range(n)])
    main = toys[:, : model.config.nmaindata]
    expected = model.expected_actualdata(theta)
    for where in model.config.channel_slices.values():
        count, mean = main[:, where].sum(1), expected[where].sum()
        assert abs(count.mean() - mean) < 4 * np.sqrt(mean / n)
        assert abs(count.var(ddof=1) / mean - 1) < 4 * np.sqrt(2 / n)
    aux = toys[:, model.config.nmaindata :]
    assert abs(aux[:, 0].mean() - model.expected_auxdata(theta)[0]) < 4 / np.sqrt(n)


def test_toys_follow_numpys_seed_as_pyhfs_do_and_leave_other_generators_alone(analytic_model):
    model, _ = analytic_model
    theta = model.config.suggested_init()
    state = np.random.get_state()
    np.random.seed(3)
    first = [t.copy() for t in model.make_pdf(theta).sample((2,))]
    np.random.seed(3)
    again = list(model.make_pdf(theta).sample((2,)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    np.random.set_state(state)
    model.sample(theta, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), state, strict=True))


def test_a_model_without_unbinned_channels_is_pyhfs_bit_for_bit():
    pdf = pyhf.Workspace(analytic.binned_spec()).model()
    model = Model.from_pyhf(pdf)
    theta, data = np.array(pdf.config.suggested_init()), pyhf.Workspace(analytic.binned_spec()).data(pdf)
    assert model.logpdf(theta, data) == pdf.logpdf(theta, data)
    np.testing.assert_array_equal(model.expected_data(theta), pdf.expected_data(theta))
    state = np.random.get_state()
    np.random.seed(1)
    ours = model.make_pdf(theta).sample((3,))
    np.random.seed(1)
    np.testing.assert_array_equal(ours, pdf.make_pdf(theta).sample((3,)))
    np.random.set_state(state)


# --- positivity


def test_the_continued_logarithm_is_twice_differentiable():
    eps, h = 1e-3, 1e-9
    for d in (2e-3, 1e-3, 5e-4, 0.0, -0.4):
        low, here, high = (extended_log(np.array([d + s]), eps) for s in (-h, 0, h))
        for order in (0, 1):
            numeric = (high[order] - low[order]) / (2 * h)
            np.testing.assert_allclose(here[order + 1], numeric, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(extended_log(np.array([0.5]), eps)[0], np.log([0.5]))


def cancelling(sign=-1.0):
    ws = analytic.workspace()
    spec = copy.deepcopy(ws.spec)
    spec["channels"][1]["samples"][1]["data"] = [sign * 900.0]
    spec["measurements"][0]["config"]["parameters"] = [{"name": "mu", "inits": [0.0], "bounds": [[-5, 5]]}]
    return Workspace(spec, ws.tables)


def test_a_non_positive_density_is_named_with_what_cancels():
    ws = cancelling()
    model = ws.model()
    data = ws.data(model)
    theta = np.array(model.config.suggested_init())
    model.twice_nll(theta, data)
    theta[model.config.poi_index] = 1.0
    with pytest.raises(NonPositiveDensity, match=r"event \d+ of channel 'SR' \(background \+.*signal -.*mu = 1"):
        model.twice_nll(theta, data)
    assert np.isnan(model.logpdf(theta, data)[0])
    assert np.isfinite(model.likelihood(data).value(theta))
    assert model.likelihood(data).value(theta) > model.likelihood(data).value(theta * 0)
    spec = copy.deepcopy(ws.spec)
    spec["measurements"][0]["config"]["parameters"][0]["inits"] = [1.0]
    with pytest.raises(NonPositiveDensity, match="channel 'SR'"):
        Workspace(spec, ws.tables).model()


def test_asimov_data_where_the_pool_cancels():
    ws = cancelling()
    model = ws.model()
    theta = np.array(model.config.suggested_init())
    theta[model.config.poi_index] = 1.0
    with pytest.raises(NonPositiveDensity, match="pool events"):
        model.asimov(theta)


def test_a_few_pool_events_that_cancel_are_reported_and_made_up_for():
    ws = analytic.workspace()
    pool = ws.tables["pool"]
    values = np.array(pool.values)
    values[pool.names.index("background"), 7] = -1e-3
    values[pool.names.index("signal"), 7] = 0.0
    model = Workspace(ws.spec, {**ws.tables, "pool": type(pool)(pool.names, values)}).model()
    theta = np.array(model.config.suggested_init())
    with pytest.warns(PoolDensityWarning, match="1 of 4000 pool events"):
        data = model.asimov(theta)
    assert data[model.config.channel_slices["SR"].start + len(model.unbinned["SR"].observed) + 7] == 0
    sigma = np.sqrt(2 / np.diag(model.hessian(theta, data)))
    assert np.abs(model.gradient(theta, data) * sigma).max() < 1e-6


# --- input


@pytest.mark.parametrize("change", ["short", "nan", "negative"])
def test_wrong_data_are_refused(analytic_model, change):
    model, data = analytic_model
    data = data.copy()
    if change == "short":
        data = data[:-1]
    else:
        data[5] = np.nan if change == "nan" else -1.0
    with pytest.raises(InvalidModel, match="data"):
        model.twice_nll(model.config.suggested_init(), data)


def test_wrong_parameters_and_backends_are_refused(analytic_model):
    model, data = analytic_model
    with pytest.raises(InvalidModel, match="parameters expected"):
        model.twice_nll([1.0], data)
    with pytest.raises(UnknownName, match="did you mean 'mu'"):
        model.config.set_poi("muu")


def test_data_changed_in_place_are_seen(analytic_model):
    model, data = analytic_model
    theta = model.config.suggested_init()
    first = model.twice_nll(theta, data)
    data = data.copy()
    data[2] = 0.0
    second = model.twice_nll(theta, data)
    data[2] = 1.0
    assert model.twice_nll(theta, data) == first != second
