"""Toys on a Dask cluster: the result is that of one process, also where a worker dies in the middle."""

import os
import signal
import threading
import time

import pytest

import analytic
from nuratio.infer.toys.toys import toys
from nuratio.parallel.tasks import Serial
from toy_results import assert_same_toys

OPTIONS = {"tests": [("qtilde", 1.0)], "seed": 5, "progress": False}


@pytest.fixture(scope="module")
def model():
    return analytic.workspace(n_signal=40, n_background=200, pool=2000).model(threads=1)


def test_toys_are_the_same_on_a_cluster(model, dask):
    expected = toys(model, {"mu": 1.0}, 25, executor=Serial(), **OPTIONS)
    assert_same_toys(toys(model, {"mu": 1.0}, 25, executor=dask, **OPTIONS), expected)


def test_a_worker_that_is_killed_changes_nothing(model, dask, tmp_path):
    from nuratio.parallel.shipping import dask_client

    path, killed = tmp_path / "toys.jsonl", []
    pids = list(dask_client(dask).run(os.getpid).values())

    def kill():
        while not path.exists() or path.read_bytes().count(b"\n") < 20:
            time.sleep(0.002)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(path.read_bytes().count(b"\n"))

    thread = threading.Thread(target=kill)
    thread.start()
    found = toys(model, {"mu": 1.0}, 200, executor=dask, output=path, **OPTIONS)
    thread.join()
    assert killed[0] < 150, "the worker was to die in the middle"
    assert_same_toys(found, toys(model, {"mu": 1.0}, 200, executor=Serial(), **OPTIONS))
