import numpy as np
import pytest
import torch
from test_methods import dip

from nuratio.ratios.options import TrainingOptions
from nuratio.training.train import METHODS, train

TINY = TrainingOptions(hidden=(4,), epochs=1, learning_rate=1e-3, folds=2, ensemble=1)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def default_dtype(request):
    """What other packages set for all of torch: pyhf's torch backend does."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


RESULTS = {}


@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_networks_do_not_depend_on_torchs_default(method, default_dtype):
    est = train(dip(12_000, 1), method=method, options=TINY, seed=1, progress=False)
    assert {p.dtype for p in est.networks.stack.parameters()} == {torch.float32}
    values = est.ratios(np.linspace(-2, 2, 21)).values
    np.testing.assert_array_equal(RESULTS.setdefault(method, values), values)
    assert torch.get_default_dtype() is default_dtype
