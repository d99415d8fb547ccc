"""Cross-fitting folds from event ids: the same generated event is always on the same side."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["fold_of", "hash_of"]


def hash_of(event_ids: NDArray[np.int64], seed: int = 0) -> NDArray[np.uint64]:
    """64 bits from each event id and the seed, shape (n,): the splitmix64 finaliser, doi:10.1145/2714064.2660195."""
    z = event_ids.astype(np.uint64) + np.uint64((0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def fold_of(event_ids: NDArray[np.int64], folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Fold number in [0, folds) of each event id, shape (n,).

    A hash of the id and the seed: it depends on nothing else, so nominal events, their variations and any later
    selection of them agree on the fold.
    """
    return (hash_of(event_ids, seed) % np.uint64(folds)).astype(np.int64)
