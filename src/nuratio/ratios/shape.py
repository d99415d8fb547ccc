"""Trained shape variations: how the density of one part changes with all its nuisance parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.data.varied import Term, monomial
from nuratio.errors import UnknownName, did_you_mean
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.storage import made_of, read_estimator, write_estimator

__all__ = ["ShapeEstimator"]

_KIND = "shape-estimator"


@dataclass(frozen=True, eq=False)
class ShapeEstimator:
    """Coefficients of ln[p(x|alpha) / p(x|0)] = sum_t phi_t(alpha) D_t(x), phi_t a monomial (arXiv:2406.19076).

    For most nuisances the terms are alpha D1(x) + alpha^2 D2(x). Shapes only: rates belong to HistFactory terms.

    Attributes
    ----------
    networks : CrossFit
        Outputs D_t.
    terms : tuple of Term
        The monomials in the order of the outputs.
    report : dict
        Plain numbers about the training: events, points, best epochs and held-out losses, and for each group of
        nuisances that share terms the ridge, the size and the significance of the effect.
    """

    networks: CrossFit
    terms: tuple[Term, ...]
    report: dict[str, Any]

    def __repr__(self) -> str:
        nuisances = ", ".join(self.nuisances)
        return f"ShapeEstimator({self.report['name']}; {nuisances}; features {', '.join(self.features)})"

    @property
    def features(self) -> tuple[str, ...]:
        """The input features, in order."""
        return self.networks.features

    @property
    def options(self) -> TrainingOptions:
        """The options it was trained with; ``folds`` and ``fold_seed`` fix the cross-fitting."""
        return self.networks.options

    @property
    def nuisances(self) -> tuple[str, ...]:
        """The nuisance parameters."""
        return tuple(dict.fromkeys(name for term in self.terms for name, _ in term))

    def insignificant(self, sigmas: float) -> tuple[str, ...]:
        """Nuisances whose effect on the shape differs from none by less than so many standard errors.

        The effect is the mean square of the log ratio at the simulated points, as events tell it that the networks
        have not seen. Nuisances with cross terms are judged together.
        """
        groups = self.report["groups"]
        return tuple(k for g in groups if not g["square"] > sigmas * g["error"] for k in g["nuisances"] if sigmas > 0)

    def coefficients(
        self, x: EventSample | ArrayLike, *, event_ids: NDArray[np.int64] | None = None, member: int | None = None
    ) -> dict[Term, NDArray[np.float64]]:
        """D_t at x, each of shape (n,).

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
        return {term: np.ascontiguousarray(values[:, t]) for t, term in enumerate(self.terms)}

    def log_ratio(
        self,
        x: EventSample | ArrayLike,
        alpha: Mapping[str, float],
        *,
        event_ids: NDArray[np.int64] | None = None,
        member: int | None = None,
    ) -> NDArray[np.float64]:
        """ln[p(x|alpha) / p(x|0)] at x, shape (n,), up to a constant; nuisances that are not named are 0.

        Raises
        ------
        UnknownName
            A nuisance it was not trained for.
        """
        for name in alpha:
            if name not in self.nuisances:
                raise UnknownName(f"no nuisance {name!r}; {did_you_mean(name, self.nuisances, 'nuisances')}")
        values = self.networks(x, event_ids, _mean, member)
        return np.asarray(values @ [monomial(term, alpha) for term in self.terms])

    def save(self, directory: str | Path) -> None:
        """Write ``estimator.json`` and ``estimator.safetensors``; `load` gives the same numbers bit for bit."""
        document, arrays = self.networks.stored()
        write_estimator(directory, _KIND, document | {"terms": self.terms, "report": self.report}, arrays)

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
            terms = tuple(tuple((str(name), int(power)) for name, power in term) for term in document["terms"])
            return cls(CrossFit.restored(document, arrays), terms, document["report"])


def _mean(outputs: Tensor) -> Tensor:
    """Mean over networks."""
    return outputs.mean(dim=0)
