"""Models travel: a pickled model is the same model, bit for bit, and none of its caches go along."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import analytic
from nuratio.infer.fitting.fit import fit
from nuratio.model.kernels.kernel import Kernel
from nuratio.model.unbinned import PoolSum
from nuratio.parallel.parcel import pack
from nuratio.parallel.tasks import run_tasks
from nuratio.workspace.workspace import Workspace


def pool_normalised():
    """The analytic workspace, its shape normalised by the sum over the pool."""
    workspace = analytic.workspace()
    workspace.spec["unbinned"]["channels"][0]["samples"][0]["normalisation"] = {"type": "pool"}
    return workspace


WORKSPACES = {
    "unbinned": analytic.workspace,
    "pool": pool_normalised,
    "binned": lambda: Workspace.from_pyhf(analytic.binned_spec()),
    "cells": lambda: Workspace.from_pyhf(analytic.binned_spec()).unbin("B", split=3),
    "expression": lambda: changed(analytic.make_kappa_the_poi),
}


def changed(change):
    workspace = analytic.workspace()
    change(workspace.spec)
    return workspace


def numbers(model, point):
    theta, data = point
    likelihood = model.likelihood(data)
    many = likelihood.many([theta, theta * 1.01])
    return [model.twice_nll(theta, data), *likelihood.derivatives(theta, hessian=True), *many, model.asimov(theta)]


@pytest.mark.parametrize("kind", WORKSPACES)
def test_a_pickled_model_gives_the_same_numbers(kind):
    workspace = WORKSPACES[kind]()
    model = workspace.model()
    point = analytic.random_point(model, np.random.default_rng(1)), workspace.data(model)
    expected = numbers(model, point)
    again = pickle.loads(pickle.dumps(model))
    answers = dict(run_tasks(numbers, model, [point, point]))
    for found in (numbers(again, point), answers[0], answers[1]):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert again.config.par_names == model.config.par_names
    assert again.config.poi_name == model.config.poi_name


@pytest.mark.parametrize("kernel", ["numba", "torch"])
def test_caches_stay_at_home(kernel):
    workspace = analytic.workspace()
    model = workspace.model(kernel=kernel)
    fresh, data = len(pickle.dumps(model)), workspace.data(model)
    theta = np.array(model.config.suggested_init())
    fit(model, data)
    likelihood = model.likelihood(data)
    for _ in range(3):
        likelihood.value(theta)
    likelihood.positive_value(theta)
    assert len(pickle.dumps(model)) < fresh + 2000
    small = len(pickle.dumps(likelihood))
    assert small < fresh + data.nbytes + 2000
    again = pickle.loads(pickle.dumps(likelihood))
    np.testing.assert_array_equal(again.hessian(theta), likelihood.hessian(theta))
    sums = PoolSum(model.unbinned["SR"].cells[0].samples[0], *pool(model), Kernel(kernel))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sums))(np.zeros(1))[2], sums(np.zeros(1))[2])


def pool(model):
    cell = model.unbinned["SR"].cells[0]
    return cell.pool, cell.pool_weights


def test_the_tables_of_a_workspace_on_disk_are_not_copied(tmp_path):
    analytic.workspace(pool=40_000).save(tmp_path / "ws")
    model = Workspace.load(tmp_path / "ws").model()
    parcel = pack(model, same_files=True)
    table = model.unbinned["SR"].pool.blocks.nbytes
    assert sum(b.nbytes for b in parcel.buffers) < 0.5 * table  # weights and the like
    assert len(parcel.pickled) < 0.2 * table
    opened = parcel.open(remember=False)
    np.testing.assert_array_equal(opened.unbinned["SR"].pool.blocks, model.unbinned["SR"].pool.blocks)


def test_threads_that_share_a_model_do_not_mix_their_data():
    """Each asks for likelihoods of its own data; the model remembers the last one of anybody."""
    workspace = analytic.workspace()
    model = workspace.model()
    theta, data = np.array(model.config.suggested_init()), workspace.data(model)
    sets = [data + np.eye(1, len(data), k=0)[0] * n for n in range(4)]  # another count in the first bin
    expected = [replace(model.likelihood(d)).value(theta) for d in sets]
    gate = threading.Barrier(4)

    def ask(n):
        gate.wait()
        return all(model.likelihood(sets[n]).value(theta) == expected[n] for _ in range(200))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(4)))
