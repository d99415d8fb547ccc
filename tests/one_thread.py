"""Small networks train fastest on one thread, and a busy machine then does not slow the tests tenfold.

For conftests: a fixture that they import is theirs.
"""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
