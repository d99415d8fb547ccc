"""A sample of events: features, signed weights and the ids of the generated events.

Use `EventSample` directly for arrays in memory; `nuratio.read_root` and `nuratio.read_parquet` return one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidData, UnknownName, did_you_mean

__all__ = ["EventSample"]


@dataclass(frozen=True, init=False, eq=False)
class EventSample:
    """Events of one sample (process), or of data.

    Parameters
    ----------
    features : array_like, shape (n, d), or (n,) for one feature
        One row per event; kept as float32 (training and ratio tables are float32).
    weights : array_like, shape (n,), or None
        Signed event weights in expected events; float64. None means unit weights (data).
    names : sequence of str
        The d feature names. None numbers them: ``x0, x1, ...``.
    event_ids : array_like of int, shape (n,), or None
        Equal for the same generated event in every variation of it. They decide the train/test split, so that one
        generated event never sits on both sides. None: the row number is the id.

    Raises
    ------
    InvalidData
        Shapes that do not match, NaN or infinite entries (count and first one), no events, zero total weight.
    """

    features: NDArray[np.float32]
    weights: NDArray[np.float64]
    names: tuple[str, ...]
    event_ids: NDArray[np.int64] | None

    def __init__(
        self,
        features: ArrayLike,
        weights: ArrayLike | None = None,
        names: Sequence[str] | None = None,
        event_ids: ArrayLike | None = None,
        *,
        label: str = "event sample",
    ) -> None:
        x = np.asarray(features)
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2:
            raise InvalidData(f"{label}: features must have shape (events, features), got {x.shape}")
        n, d = x.shape
        names = tuple(f"x{j}" for j in range(d)) if names is None else tuple(names)
        if len(names) != d:
            raise InvalidData(f"{label}: {d} feature columns but {len(names)} names {list(names)}")
        if len(set(names)) != d:
            raise InvalidData(f"{label}: feature names repeat: {list(names)}")
        if n == 0:
            raise InvalidData(f"{label}: no events; check the selection")
        w = np.ones(n) if weights is None else np.array(weights, dtype=np.float64)
        if w.shape != (n,):
            raise InvalidData(f"{label}: {n} events but weights of shape {w.shape}")
        x32 = np.ascontiguousarray(x, dtype=np.float32)
        for j, name in enumerate(names):
            _require_finite(x32[:, j], f"{label}: feature {name!r}")
        _require_finite(w, f"{label}: weight")
        if not np.any(w):
            raise InvalidData(f"{label}: every one of the {n} weights is zero")
        if x32 is features:
            x32 = x32.copy()
        ids = None
        if event_ids is not None:
            ids = np.array(event_ids)
            if ids.shape != (n,) or ids.dtype.kind not in "iu":
                raise InvalidData(f"{label}: event_ids must be {n} integers, got {ids.dtype} of shape {ids.shape}")
            ids = ids.astype(np.int64)
        for key, value in (("features", x32), ("weights", w), ("names", names), ("event_ids", ids)):
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        return (
            f"EventSample({len(self)} events, yield {self.total:.6g}, n_eff {self.effective_size:.0f}, "
            f"features {', '.join(self.names)})"
        )

    @property
    def ids(self) -> NDArray[np.int64]:
        """The event ids, shape (n,); row numbers where none were given."""
        return np.arange(len(self), dtype=np.int64) if self.event_ids is None else self.event_ids

    @property
    def total(self) -> float:
        """Sum of the signed weights: the expected number of events."""
        return float(self.weights.sum())

    @property
    def cancels(self) -> bool:
        """Whether the weights sum to nothing but rounding: such a sample has no normalised density."""
        return bool(abs(self.total) <= 1e-9 * np.abs(self.weights).sum())

    @property
    def effective_size(self) -> float:
        """Signed effective sample size (sum w)^2 / sum w^2."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())

    @property
    def negative_fraction(self) -> float:
        """Share of the absolute weight that is negative."""
        return float(-self.weights[self.weights < 0].sum() / np.abs(self.weights).sum())

    def select(self, mask: NDArray[np.bool_], *, label: str = "event sample") -> "EventSample":
        """The events where ``mask`` (shape (n,)) is true, in order."""
        ids = self.ids[mask]  # row numbers must survive the selection
        return EventSample(self.features[mask], self.weights[mask], self.names, ids, label=label)

    def sign(self, sign: int, *, label: str = "event sample") -> "EventSample":
        """The events of positive (``sign=+1``) or negative (``-1``) weight, weights as they are."""
        return self.select(self.weights * sign > 0, label=label)

    def column(self, name: str) -> NDArray[np.float32]:
        """One feature, shape (n,)."""
        if name not in self.names:
            raise UnknownName(f"no feature {name!r}; {did_you_mean(name, self.names, 'features')}")
        return self.features[:, self.names.index(name)]


def _require_finite(values: NDArray[Any], what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InvalidData(
            f"{what} is NaN or infinite for {bad.size} of {values.size} events (first: event {bad[0]}); "
            "select these events away or mend the input"
        )
