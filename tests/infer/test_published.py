"""Published ATLAS workspaces (HEPData ins1748602, 10.17182/hepdata.89408): pyhf's numbers from our minimiser."""

import json
from pathlib import Path

import jsonpatch
import numpy as np
import pyhf
import pytest

from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.hypotest import hypotest
from nuratio.model.model import Model

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "workspaces" / "sbottom_multib"

# pyhf 0.7.6 with minuit, mu = 1, qtilde, code4 and code4p: observed, and the five expected values where known. In
# region C the signal is so weak (q_A = 5e-5) that pyhf's default scipy minimiser is off: it gives 0.9952.
CLS = {
    ("RegionA", "1300_205_60"): (0.244436, [0.0902, 0.1938, 0.3843, 0.6558, 0.8910]),
    ("RegionC", "1300_205_60"): (0.99232, None),
}


@pytest.fixture(params=CLS, ids=lambda key: "-".join(key))
def published(request):
    region, signal = request.param
    folder = FOLDER / region
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} workspaces in the shared data")
    patch = json.loads((folder / f"patch.sbottom_{signal}.json").read_text())
    spec = jsonpatch.apply_patch(json.loads((folder / "BkgOnly.json").read_text()), patch)
    workspace = pyhf.Workspace(spec)
    settings = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    pdf = workspace.model(modifier_settings=settings)
    return pdf, workspace.data(pdf), CLS[request.param]


def test_twice_nll_at_random_points(published, rng):
    pdf, data, _ = published
    model = Model.from_pyhf(pdf)
    start = np.array(pdf.config.suggested_init())
    low, high = np.array(pdf.config.suggested_bounds()).T
    for _ in range(10):
        theta = np.clip(start + rng.normal(0, 0.2, len(start)), low + 1e-3, high)
        expected = -2 * float(pdf.logpdf(theta, data)[0])
        assert model.twice_nll(theta, data) == pytest.approx(expected, rel=1e-9)


def test_cls(published):
    pdf, data, (observed, expected) = published
    result = hypotest(pdf, data, 1.0, asymptotics="force")  # of formulas, for regions with five events, too
    assert result.valid, result.message
    assert result.CLs == pytest.approx(observed, abs=2e-4)
    if expected is not None:
        assert result.CLs_expected == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("file", "reached"),
    # 2NLL where pyhf's minuit gives up, at a kink of these codes: the lowest of several attempts
    [
        ("sbottom_multib/RegionA/BkgOnly.json", 104.665305),
        ("sbottom_multib/RegionC/BkgOnly.json", 113.30001),
        ("ATLAS-SUSY-2018-16_Sleptons_bkgonly.json", 408.13977),
    ],
)
def test_codes_with_kinks_have_a_minimum(file, reached):
    path = FOLDER.parent / file
    if not path.is_file():
        pytest.skip(f"no {path.name} in the shared data")
    workspace = pyhf.Workspace(json.loads(path.read_text()))
    settings = {"normsys": {"interpcode": "code1"}, "histosys": {"interpcode": "code0"}}
    pdf = workspace.model(modifier_settings=settings, poi_name=None)
    data = workspace.data(pdf)
    best = fit(pdf, data)
    assert best.valid
    assert best.twice_nll < reached
    assert best.twice_nll == pytest.approx(-2 * pdf.logpdf(best.bestfit, data)[0], rel=1e-9)
    likelihood = Model.from_pyhf(pdf).likelihood(data)
    assert likelihood.kinks.any()
    for k in np.flatnonzero(np.isfinite(best.uncertainty) & ~np.array(best.fixed)):  # nothing near is lower
        for step in (-1e-3, 1e-3):
            theta = best.bestfit.copy()
            theta[k] = np.clip(theta[k] + step, *pdf.config.suggested_bounds()[k])
            assert likelihood.value(theta) >= best.twice_nll - 1e-9
