"""Trained shape variations: how the density of one part changes with one nuisance parameter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.storage import made_of, read_estimator, write_estimator

__all__ = ["ShapeEstimator"]

_KIND = "shape-estimator"


@dataclass(frozen=True, eq=False)
class ShapeEstimator:
    """Coefficients of ln[p(x|alpha) / p(x|0)] = alpha D1(x) + alpha^2 D2(x) (arXiv:2406.19076).

    Shapes only: p is normalised at alpha = -1, 0 and +1; rates belong to HistFactory terms.

    Attributes
    ----------
    networks : CrossFit
        Outputs D1 and D2, or D1 alone where only one direction was simulated (then D2 = 0).
    report : dict
        Plain numbers about the training: events, directions, best epochs and held-out losses of the networks.
    """

    networks: CrossFit
    report: dict[str, Any]

    def __repr__(self) -> str:
        return f"ShapeEstimator({self.report['name']}; features {', '.join(self.features)})"

    @property
    def features(self) -> tuple[str, ...]:
        """The input features, in order."""
        return self.networks.features

    @property
    def options(self) -> TrainingOptions:
        """The options it was trained with; ``folds`` and ``fold_seed`` fix the cross-fitting."""
        return self.networks.options

    def coefficients(
        self, x: EventSample | ArrayLike, *, event_ids: NDArray[np.int64] | None = None, member: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """D1 and D2 at x, each of shape (n,).

        Parameters
        ----------
        x : EventSample or array_like, shape (n, d)
            Events; of a sample only the features are used, matched by name.
        event_ids : ndarray of int, shape (n,), or None
            None for observed data: the mean of all networks. For simulated events their ids: each event is then
            evaluated by the networks that have not been trained on it.
        member : int or None
            One of these networks, in place of their mean; see `RatioEstimator.ratios`.

        Raises
        ------
        InvalidData, UnknownName
            Features that are missing, of the wrong shape, NaN or infinite.
        """
        values = self.networks(x, event_ids, _mean, member)
        d1 = np.ascontiguousarray(values[:, 0])
        return d1, np.ascontiguousarray(values[:, 1]) if values.shape[1] > 1 else np.zeros_like(d1)

    def save(self, directory: str | Path) -> None:
        """Write ``estimator.json`` and ``estimator.safetensors``; `load` gives the same numbers bit for bit."""
        document, arrays = self.networks.stored()
        write_estimator(directory, _KIND, document | {"report": self.report}, arrays)

    @classmethod
    def load(cls, directory: str | Path) -> "ShapeEstimator":
        """Read an estimator written by `save`.

        Raises
        ------
        InvalidData
            A missing or damaged file, or another kind of estimator.
        """
        document, arrays = read_estimator(directory, _KIND)
        with made_of(directory):
            return cls(CrossFit.restored(document, arrays), document["report"])


def _mean(outputs: Tensor) -> Tensor:
    """Mean over networks."""
    return outputs.mean(dim=0)
