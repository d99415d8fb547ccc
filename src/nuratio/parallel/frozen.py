"""An object of which every task gets a copy of its own, which it may change: networks that learn, for instance."""

import pickle
from dataclasses import dataclass
from typing import Any, Self

import cloudpickle
import numpy as np
from numpy.typing import NDArray

__all__ = ["Frozen"]


@dataclass(frozen=True, eq=False)
class Frozen:
    """A pickled object; as the shared object of tasks it reaches each worker once.

    Attributes
    ----------
    pickled : ndarray of uint8
    """

    pickled: NDArray[np.uint8]

    @classmethod
    def of(cls, thing: Any) -> Self:
        """Anything that cloudpickle can pickle."""
        return cls(np.frombuffer(cloudpickle.dumps(thing), np.uint8))

    def thaw(self) -> Any:
        """A new copy."""
        return pickle.loads(self.pickled.data)
