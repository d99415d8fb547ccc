"""Trained density ratios with parameters as inputs, r(x; theta): for those that act on the density as a whole.

A mass, a width or a coupling that does not factorise enters the network beside the features (CARL, arXiv:1506.02169).
`ParametrisedEstimator.at` evaluates it at chosen points: columns for one workspace per point of a scan, or the nominal,
hi and lo columns that a per-event interpolation takes. Where the dependence is known (a sum of densities, a nuisance
that varies gently) expressions and `nuratio.training.shape` need far fewer simulated events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import Pool
from nuratio.ratios.heads import Head, head_from_dict
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.storage import made_of, read_estimator, write_estimator
from nuratio.ratios.table import RatioTable

__all__ = ["ParametrisedEstimator", "Theta", "label_of", "theta_values"]

Floats = NDArray[np.float64]
Theta = Mapping[str, float] | ArrayLike
"""One point: values by name, a sequence of k, or a number if k = 1. One for each event: an array of shape (n, k)."""

_KIND = "parametrised-estimator"
_POOL = ("features", "weights", "event_ids", "part")


def theta_values(theta: Theta, parameters: Sequence[str]) -> Floats:
    """Values in the order of the k parameters, shape (k,) for one point or (n, k) for one per event.

    Raises
    ------
    InvalidData
        Other names, a shape that does not fit, or values that are not finite.
    """
    k = len(parameters)
    if isinstance(theta, Mapping):
        if set(theta) != set(parameters):
            raise InvalidData(f"theta needs the parameters {list(parameters)}, got {list(theta)}")
        theta = [theta[name] for name in parameters]
    values = np.asarray(theta, dtype=np.float64)
    if k == 1 and values.shape[-1:] != (1,):
        values = values[..., None]
    if values.ndim not in (1, 2) or values.shape[-1] != k or not np.isfinite(values).all():
        raise InvalidData(
            f"theta must be finite, of shape ({k},) for one point or (events, {k}) for one per event "
            f"({', '.join(parameters)}), got {theta!r}"
        )
    return values


def label_of(theta: Floats, parameters: Sequence[str]) -> str:
    """A name for one point: ``mass=1.5,width=0.1``."""
    return ",".join(f"{name}={value:.10g}" for name, value in zip(parameters, theta, strict=True))


@dataclass(frozen=True, eq=False)
class ParametrisedEstimator:
    """Density ratio r(x; theta) = p(x|theta) / q(x) to a fixed positive reference q; either sign.

    The reference sample travels with the networks, and E_q[r(.; theta)] = 1 is an exact sum over it at every theta that
    is asked for. (A curve through a few points would be smaller, but an error of it enters ln L times the number of
    events: 1e-3 on 5000 events is 5.) The sum is taken once for each theta and remembered.

    Attributes
    ----------
    parameters : tuple of str
        The k parameters; the networks take the features, then these.
    bounds : ndarray, shape (m, k + 1)
        Half-spaces a . theta + b <= 0, rows (a, b), whose intersection is the trained range.
    head : Head
    pool : Pool
        The reference sample.
    networks : CrossFit
    report : dict
        Plain numbers about the training: loss, events, effective sizes, points, normalisation, held-out losses.
    """

    parameters: tuple[str, ...]
    bounds: Floats
    head: Head
    pool: Pool
    networks: CrossFit
    report: dict[str, Any]
    _normalisation: dict[tuple[float, ...], tuple[float, float]] = field(default_factory=dict, init=False, repr=False)

    def __repr__(self) -> str:
        return f"ParametrisedEstimator({', '.join(self.features)}; {', '.join(self.parameters)})"

    @property
    def features(self) -> tuple[str, ...]:
        """The input features, in order, without the parameters."""
        return self.networks.features[: -len(self.parameters)]

    @property
    def options(self) -> TrainingOptions:
        """The options it was trained with; ``folds`` and ``fold_seed`` fix the cross-fitting."""
        return self.networks.options

    def ratio(
        self,
        x: EventSample | ArrayLike,
        theta: Theta,
        *,
        event_ids: NDArray[np.int64] | None = None,
        extrapolation: bool = False,
    ) -> Floats:
        """Ratio r(x; theta), shape (n,).

        Parameters
        ----------
        x : EventSample or array_like, shape (n, d)
            Events; of a sample only the features are used, matched by name.
        theta : mapping, number or array_like, shape (k,) or (n, k)
            One point, or one for each event. Each different one costs a pass over the reference sample.
        event_ids : ndarray of int, shape (n,), or None
            None for observed data: the mean of all networks. For simulated events their ids: each event is then
            evaluated by the networks that have not been trained on it.
        extrapolation : bool
            Allow theta outside the trained range, where nothing says that r is right.

        Raises
        ------
        InvalidData
            theta outside the trained range; features or theta of the wrong shape or not finite.
        UnknownName
            An event sample without one of the features.
        """
        values = theta_values(theta, self.parameters)
        x = replace(self.networks, features=self.features).inputs(x)
        if values.ndim == 2 and len(values) != len(x):
            raise InvalidData(f"{len(values)} points theta for {len(x)} events: give one point, or one for each event")
        if not extrapolation:
            self._require_trained(np.atleast_2d(values))
        points, of_event = np.unique(np.atleast_2d(values), axis=0, return_inverse=True)
        z = np.array([self.normalisation(point)[0] for point in points])
        return np.asarray(self._unnormalised(x, values, event_ids) / z[of_event.reshape(-1)])

    def at(
        self,
        points: Mapping[str, Theta] | Sequence[Theta] | NDArray[np.floating],
        x: EventSample | ArrayLike,
        *,
        event_ids: NDArray[np.int64] | None = None,
        extrapolation: bool = False,
    ) -> RatioTable:
        """Ratios at several points theta, one float64 column for each; see `ratio` for the other arguments.

        Parameters
        ----------
        points : mapping of str to theta, or sequence of theta
            With the names of the columns, or without: then they are called ``mass=1.5,width=0.1``.
        """
        if not isinstance(points, Mapping):
            points = {label_of(theta_values(theta, self.parameters), self.parameters): theta for theta in points}
        return RatioTable.from_columns(
            {
                name: self.ratio(x, theta, event_ids=event_ids, extrapolation=extrapolation)
                for name, theta in points.items()
            },
            np.float64,
        )

    def normalisation(self, theta: Theta) -> tuple[float, float]:
        """E_q[r] at one point as the networks have it, by which `ratio` divides, and its statistical error.

        It is the ratio of the weights that theta had in numerator and reference, 1 here by construction; its inverse is
        the kappa(theta) of arXiv:2405.08889.
        """
        values = theta_values(theta, self.parameters)
        key = tuple(values.tolist())
        if key not in self._normalisation:
            r, w = self._unnormalised(self.pool.features, values, self.pool.event_ids), self.pool.weights
            z = float(w @ r)
            self._normalisation[key] = z, float(np.linalg.norm(w * (r - z)))
        return self._normalisation[key]

    def _unnormalised(self, x: NDArray[np.float32], values: Floats, event_ids: NDArray[np.int64] | None) -> Floats:
        theta = np.broadcast_to(values, (len(x), len(self.parameters)))
        outputs = self.networks(np.concatenate([x, theta], axis=1), event_ids, self.head.mean)
        return self.head.ratios(outputs)[:, 0]

    def _require_trained(self, values: Floats) -> None:
        normal, offset = self.bounds[:, :-1], self.bounds[:, -1]
        beyond = np.flatnonzero((values @ normal.T + offset > 0).any(axis=1))
        if beyond.size:
            raise InvalidData(
                f"theta {label_of(values[beyond[0]], self.parameters)!r} lies outside the points that were trained on "
                f"({self.report['range']}); simulate there, or pass extrapolation=True to use what the networks make up"
            )

    def save(self, directory: str | Path) -> None:
        """Write ``estimator.json`` and ``estimator.safetensors``; `load` gives the same numbers bit for bit."""
        document, arrays = self.networks.stored()
        document |= {"parameters": self.parameters, "head": self.head.to_dict(), "report": self.report}
        own: dict[str, Any] = {"bounds": self.bounds} | {f"pool.{name}": getattr(self.pool, name) for name in _POOL}
        write_estimator(directory, _KIND, document, own | arrays)

    @classmethod
    def load(cls, directory: str | Path) -> "ParametrisedEstimator":
        """Read an estimator written by `save`.

        Raises
        ------
        InvalidData
            A missing or damaged file, or another kind of estimator.
        """
        document, read = read_estimator(directory, _KIND)
        arrays: dict[str, Any] = dict(read)
        with made_of(directory):
            pool = Pool(**{name: arrays.pop(f"pool.{name}") for name in _POOL}, names=("reference",))
            return cls(
                parameters=tuple(document["parameters"]),
                bounds=arrays.pop("bounds"),
                head=head_from_dict(document["head"]),
                pool=pool,
                networks=CrossFit.restored(document, arrays),
                report=document["report"],
            )
