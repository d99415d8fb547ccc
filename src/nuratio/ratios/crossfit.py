"""Cross-fitted evaluation: simulated events by the networks that never saw them, data by all networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import InvalidData
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions

__all__ = ["CrossFit"]


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Trained networks with the features they take and the folds they left out.

    Parameters
    ----------
    stack : NetworkStack
        Fold-major: with M networks, network m never saw fold m // (M / folds).
    features : tuple of str
        The d input features in order.
    options : TrainingOptions
        Folds and fold seed are read from it.
    """

    stack: NetworkStack
    features: tuple[str, ...]
    options: TrainingOptions

    def __call__(
        self,
        x: EventSample | ArrayLike,
        event_ids: NDArray[np.int64] | None,
        combine: Callable[[Tensor], Tensor],
        member: int | None = None,
    ) -> NDArray[np.float64]:
        """Combined network outputs, shape (n, k); see `NetworkStack.evaluate` for ``combine``.

        With ``event_ids``, shape (n,), each event is evaluated by the networks of its fold, else by all networks. With
        ``member`` by that one of them alone.

        Raises
        ------
        InvalidData
            Features of the wrong shape, NaN or infinite; ids that do not match the events.
        UnknownName
            An event sample without one of the features.
        """
        x, folds = self.inputs(x), self.options.folds
        networks = len(self.stack.weights[0])
        if event_ids is None:
            return self.stack.evaluate(x, self._slice(0, networks, member), combine)
        event_ids = np.asarray(event_ids)
        if event_ids.shape != (len(x),) or event_ids.dtype.kind not in "iu":
            raise InvalidData(
                f"event_ids must be {len(x)} integers, one per event, got {event_ids.dtype} of shape {event_ids.shape}"
            )
        fold, size = fold_of(event_ids, folds, self.options.fold_seed), networks // folds
        rows = [np.flatnonzero(fold == k) for k in range(folds)]
        values = [self.stack.evaluate(x[row], self._slice(k, size, member), combine) for k, row in enumerate(rows)]
        result = np.empty((len(x), values[0].shape[1]))
        for row, value in zip(rows, values, strict=True):
            result[row] = value
        return result

    def _slice(self, k: int, size: int, member: int | None) -> slice:
        """The networks of the k-th group of so many, or those of one of its members."""
        if member is None:
            return slice(k * size, (k + 1) * size)
        width = len(self.stack.weights[0]) // (self.options.folds * self.options.ensemble)
        if not 0 <= member < size // width:
            raise InvalidData(f"there is no member {member} of {size // width} networks")
        return slice(k * size + member * width, k * size + (member + 1) * width)

    def stored(self) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
        """Plain values and tensors from which `restored` makes the same networks."""
        return {"features": self.features, "options": self.options.to_dict()}, self.stack.to_arrays()

    @classmethod
    def restored(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float32]]) -> Self:
        """The inverse of `stored`; the document may hold more."""
        options = TrainingOptions.from_dict(document["options"])
        return cls(NetworkStack.from_arrays(arrays), tuple(document["features"]), options)

    def inputs(self, x: EventSample | ArrayLike) -> NDArray[np.float32]:
        """The features as the networks take them, shape (n, d); an event sample's are matched by name."""
        if isinstance(x, EventSample):
            return np.stack([x.column(name) for name in self.features], axis=1)
        array = np.asarray(x, dtype=np.float32)
        array = array[:, None] if array.ndim == 1 and len(self.features) == 1 else array
        if array.ndim != 2 or array.shape[1] != len(self.features):
            raise InvalidData(f"features must have shape (events, {len(self.features)}), got {array.shape}")
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise InvalidData(f"features are NaN or infinite for {bad.size} events (first: event {bad[0]})")
        return array
