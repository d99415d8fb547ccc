"""A workspace carries everything its numbers depend on: the same file gives the same numbers on every machine.

The numbers were written down once; another processor, thread count or library may change the last digits only.
"""

import copy
from pathlib import Path

import numpy as np
import pytest

import analytic
from nuratio.workspace.workspace import Workspace

ZPRIME = Path(__file__).parents[2] / "workspaces" / "zprime"
STEPS = {  # tenths away from the suggested point -> 2 Delta NLL, weighted sum of gradient, trace of Hessian
    1: (110.2619882181, -8823.144996511, 642729.81668545),
    -1: (119.6689812713, 11958.654303975, 641685.71986897),
    4: (1825.718169242, -41468.705507365, 645208.86975095),
}


@pytest.fixture(scope="module")
def zprime():
    workspace = Workspace.load(ZPRIME)
    return workspace, workspace.model()


def test_the_digest_is_that_of_the_analysis(zprime):
    assert zprime[0].digest() == "0a9d7a7c7dcc69620f5de31866628b1774f0a7e72e5460da5bfe18969cc61470"


@pytest.mark.parametrize("kernel", ["numba", "numpy"])
@pytest.mark.parametrize("step", STEPS)
def test_likelihood_gradient_and_hessian(step, kernel):
    workspace = Workspace.load(ZPRIME)
    model = workspace.model(kernel=kernel)
    data, start = workspace.data(model), np.array(model.config.suggested_init())
    theta = start + 0.1 * step * np.array([(-1) ** j / (j + 1) for j in range(len(start))])
    delta, gradient, trace = STEPS[step]
    assert model.twice_nll(theta, data) - model.twice_nll(start, data) == pytest.approx(delta, rel=1e-9)
    assert model.gradient(theta, data) @ np.arange(1, len(start) + 1) == pytest.approx(gradient, rel=1e-10)
    assert np.trace(model.hessian(theta, data)) == pytest.approx(trace, rel=1e-10)


def test_asimov_data(zprime):
    _, model = zprime
    data = model.asimov(np.array(model.config.suggested_init()))
    assert data.sum() == pytest.approx(33240.560778488, rel=1e-10)
    assert (data**2).sum() == pytest.approx(135605136.27096, rel=1e-9)


def test_codes_poi_and_parameter_settings_travel_inside_the_file(tmp_path, rng):
    """What pyhf keeps outside of a workspace: another default on the reader's side changes nothing."""
    spec = copy.deepcopy(analytic.binned_spec())
    settings = {"normsys": {"interpcode": "code1"}, "histosys": {"interpcode": "code0"}}
    spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "modifier_settings": settings}
    spec["measurements"][0]["config"]["parameters"].append(
        {"name": "mu", "inits": [0.7], "bounds": [[-1.0, 3.0]], "fixed": True}
    )
    Workspace(spec).unbin("B").save(tmp_path / "ws.zip")
    again = Workspace.load(tmp_path / "ws.zip").model()
    poi = again.config.poi_index
    assert again.config.par_names[poi] == "mu"
    assert (again.config.suggested_init()[poi], list(again.config.suggested_bounds()[poi])) == (0.7, [-1.0, 3.0])
    assert again.config.suggested_fixed()[poi]
    here = Workspace(spec)
    data, model = here.data(here.model()), here.model()
    del spec["unbinned"]["modifier_settings"]
    others = Workspace(spec).model()
    points = [analytic.random_point(model, rng, 0.3) for _ in range(4)]
    values = [np.array([m.twice_nll(p, data) for p in points]) for m in (again, model, others)]
    assert np.ptp(values[0] - values[1]) < 1e-9
    assert np.ptp(values[0] - values[2]) > 1e-3  # the default codes are others
