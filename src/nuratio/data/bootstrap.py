"""Random numbers that belong to a simulated event: replicas of a simulation without simulating again.

`multiplicity_of` is the bootstrap: how often an event counts in a replica, Poisson with mean 1, which is what a
simulation of random size draws with replacement (Oza and Russell, 2001; Chamandy et al., 2012). `normal_of` has the
same mean and variance for what is linear in weights. Both are hashes of the event id, the replica and a seed: copies of
a generated event, in whatever sample, fold or order, fluctuate together. (Row numbers serve as ids where there are
none. Rows of one number in different samples then fluctuate together, too, which adds nothing on average as long as
they are different events.)
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nuratio.data.split import hash_of

__all__ = ["multiplicity_of", "normal_of", "uniform_of"]

Floats = NDArray[np.float64]

_REPLICA_SEED = 0xB007  # offset: multiplicities are independent of folds, whatever the seed
_AT_MOST = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(18)])  # beyond: a probability of 6e-17


def uniform_of(event_ids: NDArray[np.int64], replica: int, seed: int = 0) -> Floats:
    """A number in (0, 1) for each event id in a replica, shape (n,)."""
    inner = hash_of(event_ids, seed + _REPLICA_SEED).view(np.int64)
    return ((hash_of(inner, replica) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def multiplicity_of(event_ids: NDArray[np.int64], replica: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each event counts in a replica: Poisson with mean 1, shape (n,)."""
    return np.searchsorted(_AT_MOST, uniform_of(event_ids, replica, seed), side="right").astype(np.int64)


def normal_of(event_ids: NDArray[np.int64], replica: int, seed: int = 0) -> Floats:
    """A weight for each event in a replica, normal with mean 1 and variance 1, shape (n,)."""
    return np.asarray(1.0 + ndtri(uniform_of(event_ids, replica, seed)))
