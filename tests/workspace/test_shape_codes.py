"""All ways in which a nuisance can bend a shape, written in a workspace and read back as a model."""

import copy

import numpy as np
import pytest

import analytic
from nuratio.errors import InvalidWorkspace
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace

CODES = ("code0", "code1", "code2", "code4", "code4p")


def varied_workspace(codes, *, cross=False, pool=4000):
    """The analytic workspace; the background's slope varies by nuisances v0, v1, ... with the given codes."""
    ws = analytic.workspace(pool=pool)
    spec = copy.deepcopy(ws.spec)
    background = spec["unbinned"]["channels"][0]["samples"][0]
    companion = spec["channels"][1]["samples"][0]
    tables = {}
    for name in ("observed", "pool"):
        x = np.array(ws.tables[f"{name} features"]["x"])
        table = ws.tables[name]
        columns = {n: np.array(table[n]) for n in table.names}
        for j in range(len(codes)):
            columns[f"v{j} hi"] = columns["background"] * (1 + 0.1 * (j + 1) * (x - 4) / 5)
            columns[f"v{j} lo"] = columns["background"] * (1 - 0.08 * (x - 4) / 5 + 0.01 * (x - 5) ** 2 / 25)
        columns["both"] = 0.05 * np.sin(x)
        tables[name] = RatioTable.from_columns(columns, np.float64)
    for j, code in enumerate(codes):
        data = {side: {"column": f"v{j} {side}"} for side in ("hi", "lo")}
        background["modifiers"].append({"name": f"v{j}", "type": "ratiosys", "interpcode": code, "data": data})
        companion["modifiers"].append(analytic.normsys(f"v{j}", 1.0))
    background["normalisation"] = {"type": "pool", "parameters": ["tilt"]}
    if cross:
        companion["modifiers"].append(analytic.normsys("tilt2", 1.0))
        quadexp = copy.deepcopy(background["modifiers"][0]) | {"name": "tilt2"}
        background["modifiers"].append(quadexp)
        background["cross"] = [{"parameters": ["tilt", "tilt2"], "column": "both"}]
        background["normalisation"]["parameters"].append("tilt2")
    for entry in spec["unbinned"]["files"]:
        if entry["id"] in tables:
            entry |= {"columns": list(tables[entry["id"]].names), "block": tables[entry["id"]].size}
    return Workspace(spec, {**ws.tables, **tables})


@pytest.mark.parametrize("codes", [(c,) for c in CODES] + [CODES])
@pytest.mark.parametrize("cross", [False, True])
def test_shapes_keep_their_integral_and_their_derivatives(codes, cross, tmp_path, rng):
    ws = varied_workspace(codes, cross=cross)
    ws.save(tmp_path / "ws")
    model = Workspace.load(tmp_path / "ws").model()
    (cell,), data = model.unbinned["SR"].cells, ws.data(model)
    likelihood = model.likelihood(data)
    shape_nuisances = 1 + cross + len(codes)
    assert len(cell.nuisances) == shape_nuisances
    start = np.array(model.config.suggested_init())
    nominal = None
    for spread in (0.0, 0.4, 1.6):
        theta = np.clip(start + rng.normal(0, spread, len(start)), *np.array(model.config.suggested_bounds()).T)
        theta[[model.config.par_names.index(f"stat[{b}]") for b in (0, 1)]] = 1.0
        full = model.parameters.values(theta)
        integral = sum(cell.pool_weights[i] @ t[0] for i, t, _ in cell.evaluate(cell.pool, full))
        nominal = integral if nominal is None else nominal
        assert integral == pytest.approx(nominal, rel=1e-12)
        if spread:  # at exactly 0 one-sided codes have a kink
            _, gradient, hessian = likelihood.derivatives(theta, hessian=True)
            for j in range(len(theta)):
                step = 1e-5 * np.eye(len(theta))[j]
                up, down = (likelihood.derivatives(theta + s, hessian=False) for s in (step, -step))
                assert (up[0] - down[0]) / 2e-5 == pytest.approx(gradient[j], rel=1e-5, abs=1e-5 * abs(gradient).max())
                difference = (up[1] - down[1]) / 2e-5
                np.testing.assert_allclose(difference, hessian[j], rtol=0, atol=2e-5 * np.abs(hessian).max())


def test_a_multiplicative_code_needs_the_pool_and_positive_anchors():
    ws = varied_workspace(("code4",))
    spec = copy.deepcopy(ws.spec)
    sample = spec["unbinned"]["channels"][0]["samples"][0]
    sample["modifiers"] = sample["modifiers"][1:]
    del sample["normalisation"]
    with pytest.raises(InvalidWorkspace, match="multiplicative codes have no closed-form normalisation"):
        Workspace(spec, ws.tables).validate()
    columns = {n: np.array(ws.tables["pool"][n]) for n in ws.tables["pool"].names}
    columns["v0 hi"][[5, 17]] = -0.1
    with pytest.raises(
        InvalidWorkspace, match=r"needs positive ratios; column 'v0 hi' is not, for 2 of 4000 pool events "
    ):
        Workspace(ws.spec, {**ws.tables, "pool": RatioTable.from_columns(columns, np.float64)}).validate()


def test_an_additive_code_without_its_integral_needs_the_pool():
    ws = varied_workspace(("code4p",))
    spec = copy.deepcopy(ws.spec)
    sample = spec["unbinned"]["channels"][0]["samples"][0]
    sample["modifiers"] = sample["modifiers"][1:]
    del sample["normalisation"]
    with pytest.raises(InvalidWorkspace, match=r"\['v0'\] need their integral"):
        Workspace(spec, ws.tables).validate()


def test_cross_terms_belong_to_quadexp_nuisances():
    ws = varied_workspace(("code4",), cross=True)
    spec = copy.deepcopy(ws.spec)
    sample = spec["unbinned"]["channels"][0]["samples"][0]
    sample["cross"].append({"parameters": ["tilt", "v0"], "column": "nowhere"})
    sample["cross"].append({"parameters": ["tilt2", "tilt"], "column": "both"})
    with pytest.raises(InvalidWorkspace, match="4 problems") as error:
        Workspace(spec, ws.tables).validate()
    for text in (
        "'tilt^1 tilt2^1' occurs 2 times",
        "'v0' has no quadexp modifier",
        "no column 'nowhere' in the observed",
        "no column 'nowhere' in the pool",
    ):
        assert text in str(error.value)


def test_a_cumulant_covers_the_cross_terms():
    """Mean and covariance from a large pool: both normalisations agree to the order that the cumulant leaves out."""
    ws = varied_workspace((), cross=True, pool=40_000)
    pool, spec = ws.tables["pool"], copy.deepcopy(ws.spec)
    p = pool["weight"] * pool["background"]
    p /= p.sum()
    columns = np.array([pool[n] for n in ("d1", "d1", "d2", "d2", "both")])
    mean = columns @ p
    covariance = ((columns - mean[:, None]) * p) @ (columns - mean[:, None]).T
    sample = spec["unbinned"]["channels"][0]["samples"][0]
    form = {"type": "cumulant", "mean": mean.tolist(), "covariance": covariance.tolist()}
    sample["normalisation"] = form | {"parameters": ["tilt", "tilt2"]}
    cumulant, exact = (Workspace(s, ws.tables).model().unbinned["SR"].cells[0].samples[0].norm for s in (spec, ws.spec))
    for alpha in ([0.5, -0.3], [1.0, 1.0], [-0.8, 0.2]):
        a, b = (norm.at(np.array(alpha)) for norm in (cumulant, exact))
        assert a[0] == pytest.approx(b[0], rel=2e-4)
        np.testing.assert_allclose(a[1], b[1], atol=1e-3)
        np.testing.assert_allclose(a[2], b[2], atol=3e-3)
    assert abs(np.log(exact.at(np.array([1.0, 1.0]))[0])) > 5e-3  # a wrong or missing term would show
