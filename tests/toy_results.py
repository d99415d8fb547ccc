"""Toys that were made in two places."""

import numpy as np


def assert_same_toys(left, right):
    """Same plan, same failures, same numbers up to rounding: BLAS adds in another order with other threads."""
    assert left.plan == right.plan
    assert left.failures == right.failures
    assert np.array_equal(left.number, right.number)
    for name in ("bestfit", "uncertainty", "twice_nll", "statistics", "truth"):
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-7, atol=1e-7, err_msg=name)
