"""One Dask cluster of two processes; training on one thread, as in workers."""

import logging

import pytest

from one_thread import one_thread

__all__ = ["dask", "one_thread"]


@pytest.fixture(scope="session")
def dask():
    """The executor of a cluster of two worker processes."""
    from distributed import Client, LocalCluster

    workers = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(**workers, silence_logs=logging.CRITICAL) as cluster, Client(cluster) as client:
        yield client.get_executor()
