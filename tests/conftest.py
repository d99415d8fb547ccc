import numpy as np
import pytest

import analytic


@pytest.fixture
def rng():
    return np.random.default_rng(20241)


@pytest.fixture(scope="session")
def analytic_workspace():
    return analytic.workspace()


@pytest.fixture
def analytic_model(analytic_workspace):
    model = analytic_workspace.model()
    return model, analytic_workspace.data(model)
