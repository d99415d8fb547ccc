"""Unbinned channels with coarse cells: rates of a binned channel, shapes within its bins."""

import copy
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

import analytic
from nuratio.errors import InvalidModel, InvalidWorkspace, NonPositiveDensity
from nuratio.infer.binned.projection import project
from nuratio.infer.fitting.fit import fit
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

EDGES = (0.0, 2.5, 6.0, 10.0)
BINS = len(EDGES) - 1
DENSITIES = {"background": analytic.background, "signal": analytic.signal}


def shares(density):
    parts = np.array([quad(density, a, b)[0] for a, b in pairwise(EDGES)])
    return parts / parts.sum()


def cell_moments(a, b):
    """Mean and covariance of (D1, D2) under the background within a cell."""

    def mean(f):
        return quad(lambda x: f(x) * analytic.background(x), a, b)[0] / quad(analytic.background, a, b)[0]

    d = [lambda x: analytic.tilt(x)[0], lambda x: analytic.tilt(x)[1]]
    m = [mean(f) for f in d]
    return m, [[mean(lambda x, f=f, g=g: f(x) * g(x)) - mean(f) * mean(g) for g in d] for f in d]


def hybrid(*, normalisation="cumulant", per_bin=True, pool=6000):
    """The analytic workspace with the signal region in three cells, and per-bin parameters there if asked for."""
    base = analytic.workspace(pool=pool)
    spec, tables = copy.deepcopy(base.spec), dict(base.tables)
    for kind in ("observed", "pool"):
        x = tables[f"{kind} features"]["x"]
        inside = {"cell": np.digitize(x, EDGES[1:-1])}
        table = tables[kind]
        tables[kind] = RatioTable.from_columns({n: table[n] for n in table.names} | inside, np.float64)
    entry = spec["unbinned"]["channels"][0]
    entry["ratiocell"] = {"column": "cell"}
    companion = spec["channels"][1]
    for sample, rates in zip(entry["samples"], companion["samples"], strict=True):
        share = shares(DENSITIES[sample["name"]])
        sample["shares"] = share.tolist()
        rates["data"] = (rates["data"][0] * share).tolist()
    moments = [cell_moments(a, b) for a, b in pairwise(EDGES)]
    norm = {"type": normalisation, "parameters": ["tilt"]}
    if normalisation == "cumulant":
        norm |= {"mean": [m for m, _ in moments], "covariance": [c for _, c in moments]}
    entry["samples"][0]["normalisation"] = norm
    if per_bin:
        background, signal = companion["samples"]
        wide = np.array(background["data"])
        background["modifiers"] += [
            {"name": "mc", "type": "staterror", "data": (0.05 * wide).tolist()},
            {"name": "uncorrelated", "type": "shapesys", "data": (0.1 * wide).tolist()},
            {
                "name": "shape",
                "type": "histosys",
                "data": {"hi_data": (wide * [1.1, 1, 0.9]).tolist(), "lo_data": (wide * [0.8, 1, 1.05]).tolist()},
            },
        ]
        signal["modifiers"].append({"name": "mc", "type": "staterror", "data": (0.1 * wide).tolist()})
    counts = np.bincount(tables["observed"]["cell"].astype(int), minlength=BINS)
    spec["observations"][1]["data"] = counts.tolist()
    spec["unbinned"]["files"] = [file_entry(name, table) for name, table in tables.items()]
    return Workspace(spec, tables)


@pytest.fixture(scope="module", params=["cumulant", "pool"])
def workspace(request):
    return hybrid(normalisation=request.param)


@pytest.fixture(scope="module")
def model(workspace):
    return workspace.model()


def test_the_density_is_that_of_rates_per_cell_and_shapes_within(rng):
    """Written out: sum over cells of Poisson terms times the densities within, without tables or compiled rates."""
    ws = hybrid()
    model = ws.model()
    data = ws.data(model)
    pdf, x = model.pyhf_model, np.array(ws.tables["observed features"]["x"])
    cell = np.digitize(x, EDGES[1:-1])
    moments = [cell_moments(a, b) for a, b in pairwise(EDGES)]
    q = (analytic.background(x) + analytic.signal(x)) / 2
    differences = []
    for _ in range(6):
        theta = analytic.random_point(model, rng, 0.3)
        alpha = theta[model.config.par_names.index("tilt")]
        nu = pdf.main_model.expected_data(theta, return_by_sample=True)[:, -BINS:]
        phi = np.array([alpha, alpha**2])
        ln_z = np.array([phi @ m + phi @ np.array(c) @ phi / 2 for m, c in moments])
        d1, d2 = analytic.tilt(x)
        within = {
            "background": analytic.background(x) * np.exp(alpha * d1 + alpha**2 * d2 - ln_z[cell]),
            "signal": analytic.signal(x),
        }
        density = sum(nu[j, cell] * within[name] / shares(d)[cell] for j, (name, d) in enumerate(DENSITIES.items()))
        slow = 2 * nu.sum() - 2 * np.log(density / q).sum()
        counts = data[:2]
        rate = pdf.expected_data(theta, include_auxdata=False)[:2]
        slow += 2 * (rate - counts * np.log(rate)).sum() - 2 * float(
            pdf.constraint_logpdf(np.array(pdf.config.auxdata), theta)
        )
        differences.append(model.twice_nll(theta, data) - slow)
    assert np.ptp(differences) < 1e-9


def test_without_parameters_per_bin_cells_change_nothing():
    """Rates in the shares of the densities and no change of shape: the plain unbinned likelihood, up to a constant."""
    plain, cells = analytic.workspace(), hybrid(per_bin=False)
    a, b = plain.model(), cells.model()
    theta = np.array(a.config.suggested_init())
    tilt = a.config.par_names.index("tilt")
    differences = []
    rng = np.random.default_rng(3)
    for _ in range(10):
        point = analytic.random_point(a, rng)
        point[tilt] = theta[tilt]
        differences.append(b.twice_nll(point, cells.data(b)) - a.twice_nll(point, plain.data(a)))
    assert np.ptp(differences) < 1e-9
    point[tilt] += 1.0  # a change of shape keeps the rates of the cells: another model
    assert abs(b.twice_nll(point, cells.data(b)) - a.twice_nll(point, plain.data(a)) - differences[0]) > 1e-2


def test_derivatives_on_observed_asimov_and_toy_data(model, workspace, rng):
    theta = analytic.random_point(model, rng, 0.2)
    for vector in (workspace.data(model), model.asimov(theta), model.sample(theta, rng)):
        analytic.check_derivatives(model.likelihood(vector), analytic.random_point(model, rng, 0.2))


def test_the_score_of_asimov_data_vanishes(model, rng):
    for theta in (np.array(model.config.suggested_init()), analytic.random_point(model, rng, 0.2)):
        data = model.asimov(theta)
        sigma = np.sqrt(2 / np.diag(model.hessian(theta, data)))
        assert np.abs(model.gradient(theta, data) * sigma).max() < 1e-6
        where = model.config.channel_slices["SR"]
        cells = np.concatenate([model.unbinned["SR"].observed["cell"], model.unbinned["SR"].pool["cell"]]).astype(int)
        nu = model.rates.nu(theta)[model.rates.cells("SR")].reshape(-1, BINS)
        np.testing.assert_allclose(np.bincount(cells, data[where]), nu.sum(0), rtol=1e-9)


def test_rates_of_a_cell_are_constrained_by_the_simulation(workspace):
    """A fit profiles the statistical parameters: the uncertainty of mu grows when they are free."""
    model = workspace.model()
    data = workspace.data(model)
    best = fit(model, data)
    assert best.valid
    gammas = [n for n in model.config.par_names if n.startswith("mc")]
    assert len(gammas) == BINS
    frozen = fit(model, data, fixed=dict.fromkeys(gammas, 1.0))
    assert best.uncertainty[best.names.index("mu")] > 1.001 * frozen.uncertainty[best.names.index("mu")]


def test_projections_add_up_cell_by_cell(workspace):
    model = workspace.model()
    data = workspace.data(model)
    best = fit(model, data)
    drawn = project(model, data, best, "SR", "x", EDGES)
    nu = model.rates.nu(model.parameters.values(best.bestfit))[model.rates.cells("SR")].reshape(-1, BINS)
    error = 1 / np.sqrt(np.bincount(model.unbinned["SR"].pool["cell"].astype(int)))
    np.testing.assert_allclose(drawn.total / nu.sum(0), 1.0, atol=6 * error.max())
    np.testing.assert_allclose(drawn.data, workspace.spec["observations"][1]["data"])


def test_it_is_saved_sorted_pruned_and_renamed_like_any_other(workspace, tmp_path, rng):
    workspace.save(tmp_path / "ws")
    again = Workspace.load(tmp_path / "ws")
    model, data = workspace.model(), workspace.data(workspace.model())
    theta = analytic.random_point(model, rng, 0.2)
    value = model.twice_nll(theta, data)
    for other in (again, workspace.sorted(), workspace.rename(samples={"signal": "new"})):
        changed = other.model()
        point = [dict(zip(model.config.par_names, theta, strict=True))[n] for n in changed.config.par_names]
        assert changed.twice_nll(point, other.data(changed)) == pytest.approx(value, rel=1e-13)
    pruned = workspace.prune(modifiers=["tilt"]).model()
    point = [v for n, v in zip(model.config.par_names, theta, strict=True) if n != "tilt"]
    still = theta.copy()
    still[model.config.par_names.index("tilt")] = 0.0
    lost = model.twice_nll(still, data) - pruned.twice_nll(point, workspace.data(pruned))
    assert lost == pytest.approx(np.log(2 * np.pi), abs=1e-9)  # its constraint term


def test_the_event_of_a_density_that_is_not_positive_is_the_right_one(rng):
    """Numbers in messages count the channel's events, not those of the cell."""
    ws = hybrid()
    event = int(np.flatnonzero(ws.tables["observed"]["cell"] == 2)[3])
    values = {n: np.array(ws.tables["observed"][n]) for n in ws.tables["observed"].names}
    values["background"][event] = -5.0
    tables = {**ws.tables, "observed": RatioTable.from_columns(values, np.float64)}
    with pytest.raises(NonPositiveDensity, match=f"at event {event} of channel 'SR'"):
        Workspace(ws.spec, tables).model()


def test_a_cell_without_simulation_has_no_asimov_data():
    ws = hybrid(pool=40)
    values = {n: np.array(ws.tables["pool"][n]) for n in ws.tables["pool"].names}
    kept = values["cell"] != 0
    tables = {**ws.tables, "pool": RatioTable.from_columns({n: v[kept] for n, v in values.items()}, np.float64)}
    model = Workspace(ws.spec, tables).model()
    with pytest.raises(InvalidModel, match="cell 0: the pool of 0 events is too small"):
        model.asimov(np.array(model.config.suggested_init()))


CHANNEL = ("unbinned", "channels", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            analytic.set_at((*CHANNEL, "ratiocell"), {"column": "cel"}),
            "no column 'cel' in the observed events; did you mean 'cell'",
        ),
        (
            analytic.set_at((*CHANNEL, "ratiocell"), {"column": "background"}),
            r"cells are the companion's bins 0 to 2; \d+ observed",
        ),
        (
            analytic.set_at((*CHANNEL, "samples", 0, "shares"), [0.5, 0.5]),
            r"one for each of the 3 cells.*not \[0.5, 0.5\]",
        ),
        (analytic.set_at((*CHANNEL, "samples", 0, "shares"), [0.2, 0.2, 0.2]), "with the sum 1"),
        (
            analytic.set_at((*CHANNEL, "samples", 1, "shares"), [0.3, 0.4, 0.3]),
            r"0.3 in cell 0, but the ratio integrates to 0.0",
        ),
        (
            analytic.set_at((*CHANNEL, "samples", 1, "shares"), [0.0, 0.5, 0.5]),
            "0 in cell 0, where the companion expects events",
        ),
        (
            analytic.set_at((*CHANNEL, "samples", 0, "normalisation", "mean"), [0.0, 0.0]),
            "must have 2 rows .* of the 3 cells",
        ),
        (
            analytic.set_at(("observations", 1, "data"), [500, 500, 60]),
            r"events in cell 0, but the companion's observation there",
        ),
        (
            lambda spec: spec["unbinned"]["channels"][0].pop("ratiocell"),
            "has 3 bins; an unbinned channel's rate has one",
        ),
        (lambda spec: spec["unbinned"]["channels"][0].pop("ratiocell"), "only a channel with ratiocell has shares"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    ws = hybrid()
    spec = copy.deepcopy(ws.spec)
    change(spec)
    with pytest.raises(InvalidWorkspace, match=message):
        Workspace(spec, ws.tables).validate()
