"""Whether the simulation covers the observed events: elsewhere every ratio extrapolates."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nuratio.checks.report import Check

__all__ = ["support_checks"]

_OUTSIDE = 1e-3  # allowed share of the observed events
_REMOTE = 1e-3  # of the simulated events are this far from the others
_TREE, _PROBES = 50_000, 20_000  # events


def support_checks(data: NDArray[np.float32], pool: NDArray[np.float32], q: NDArray[np.float64]) -> Iterator[Check]:
    """Observed events beyond all simulated ones in a feature, or further from them than simulated ones are.

    Parameters
    ----------
    data, pool : ndarray, shapes (n, d) and (m, d)
    q : ndarray, shape (m,)
        Reference weights of the pool.
    """
    outside = ((data < pool.min(axis=0)) | (data > pool.max(axis=0))).any(axis=1)
    what = "observed events lie beyond all simulated ones in a feature: ratios extrapolate"
    yield _share("support", outside, _OUTSIDE, what)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pool))
    used, tested = np.split(order[: _TREE + _PROBES], [min(_TREE, len(pool) * 5 // 7)])
    if not len(tested):
        return
    center, scale = pool.mean(axis=0), pool.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    tree = cKDTree((pool[used] - center) / scale)
    far, _ = tree.query((pool[tested] - center) / scale)
    by_distance = np.argsort(far)
    covered = np.cumsum(q[tested][by_distance]) / q[tested].sum()
    limit = far[by_distance][np.searchsorted(covered, 1 - _REMOTE)]
    distance, _ = tree.query((data - center) / scale)
    what = f"observed events are further from all simulated ones than {1 - _REMOTE:.1%} of these are from each other"
    yield _share("support, nearest event", distance > limit, _REMOTE + 4 * _OUTSIDE, what)


def _share(name: str, bad: NDArray[np.bool_], allowed: float, what: str) -> Check:
    share = float(bad.mean()) if len(bad) else 0.0
    error = float(np.sqrt(share * (1 - share) / max(len(bad), 1)))
    return Check(name, "data", share, error, allowed, f"{int(bad.sum())} {what}")
