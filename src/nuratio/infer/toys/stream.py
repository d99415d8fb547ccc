"""The random stream of one toy, which depends on a seed and on the number of the toy alone."""

from collections.abc import Sequence

import numpy as np

__all__ = ["toy_stream"]


def toy_stream(seed: int | Sequence[int], number: int) -> np.random.Generator:
    """Toys are the same however many there are and wherever they are made."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
