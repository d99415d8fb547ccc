"""Training on another device: every tensor an objective makes has to be there.

torch's device ``meta`` has tensors without values. They fail where they meet tensors of the CPU, without a GPU.
"""

import numpy as np
import pytest
import torch

from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample
from nuratio.errors import InvalidData, NuratioWarning
from nuratio.ratios.losses import LSIF, PARE
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.objective import SimulatedEvents
from nuratio.training.refine import refined
from nuratio.training.shape import train_shapes
from nuratio.training.train import _NETWORKS, _objective, train

OBJECTIVES = {name: (lambda events, name=name: _objective(name, {}, events)) for name in _NETWORKS} | {
    "rosmm_r softmax": lambda events: refined(events, PARE(4.0)),
    "rosmm_r separate": lambda events: refined(events, LSIF(), separate=True),
}


def samples(n=400):
    rng = np.random.default_rng(0)
    return {
        "flat": EventSample(rng.normal(size=(n, 2))),
        "signed": EventSample(rng.normal(size=(n, 2)), np.where(np.arange(n) % 4, 1.0, -1.0)),
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_stay_on_the_device_of_their_events(name):
    """And gradients reach the networks there."""
    objective = OBJECTIVES[name](SimulatedEvents.of(samples(), None).to("meta"))
    models = 2 * (1 if objective.joint else objective.groups)
    stack = NetworkStack([2, 4, len(objective.start)], 2 * objective.groups).to("meta")
    rows = torch.zeros((models, 5), dtype=torch.int64, device="meta")
    outputs = stack(torch.zeros((len(stack.weights[0]), 5, 2), device="meta"))
    if objective.joint:
        outputs = outputs[..., 0].unflatten(0, (-1, objective.groups)).movedim(1, -1)
    cost = objective.cost(outputs, rows, torch.zeros(models, dtype=torch.int64, device="meta"))
    cost.sum().backward()
    assert cost.device.type == "meta"
    assert cost.shape == (models, 5)
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in stack.parameters())


def test_a_tensor_left_behind_is_noticed():
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device="meta") + torch.zeros(3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_named_before_the_work():
    with pytest.raises(InvalidData, match="torch cannot use device 'cuda'"):
        train(samples(), device="cuda")
    flat = samples()["flat"]
    with pytest.raises(InvalidData, match="torch cannot use device 'no such'"):
        train_shapes(flat, [VariedSample({"jes": 1}, flat)], device="no such")


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU here: the objectives were tested with tensors without values"
)
@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
@pytest.mark.parametrize("method", ["mixture", "rosmm", "lsif", "pare", "rosmm_r", "auto"])
def test_a_gpu_learns_the_same(method):
    options = TrainingOptions(hidden=(8,), epochs=3, folds=2, ensemble=1)
    here, there = (train(samples(4000), method=method, options=options, device=d) for d in ("cpu", "cuda"))
    x = samples()["flat"].features
    np.testing.assert_allclose(there.ratio(x, "flat"), here.ratio(x, "flat"), rtol=1e-3)


def test_a_loop_on_the_cpu_is_the_same_with_a_device_named():
    """The default device is what it was."""
    options = TrainingOptions(hidden=(4,), epochs=2, folds=2, ensemble=1)
    with pytest.warns(NuratioWarning):
        a, b = train(samples(), options=options), train(samples(), options=options, device="cpu")
    x = samples()["flat"].features
    np.testing.assert_array_equal(a.ratio(x, "flat"), b.ratio(x, "flat"))
