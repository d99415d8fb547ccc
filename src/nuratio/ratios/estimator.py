"""Trained density ratios of signed samples to one positive reference.

A `RatioEstimator` is what `nuratio.train` returns. For most methods a sample with weights of both signs has two parts,
``name[+]`` and ``name[-]``, each an ordinary positive density; the signed density of the sample is their difference.
Methods that learn a signed ratio directly leave it in one. Hand `ratios` (a table with one column per part) to the
statistical model; use `ratio` to look at one sample or part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import InvalidData, UnknownName, did_you_mean
from nuratio.ratios.calibration import Calibration
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.heads import Head, head_from_dict
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.replicas import Fluctuations, Replicas
from nuratio.ratios.storage import made_of, read_estimator, write_estimator
from nuratio.ratios.table import RatioTable

__all__ = ["Part", "Pool", "RatioEstimator", "fluctuations", "split_by_sign"]

_KIND = "ratio-estimator"
_CANCELLED = 1e-9  # a net yield below this share of the absolute one is rounding


@dataclass(frozen=True)
class Part:
    """The events of one sample whose weights share a sign: an ordinary positive density |p|.

    Attributes
    ----------
    name, sample : str
        ``sample`` alone, or ``sample[+]`` and ``sample[-]`` where the weights have both signs.
    sign : int
        +1 or -1.
    total : float
        Signed sum of weights W: expected events.
    events : int
        Number of simulated events.
    effective_size : float
        (sum w)^2 / sum w^2.
    """

    name: str
    sample: str
    sign: int
    total: float
    events: int
    effective_size: float


@dataclass(frozen=True, eq=False)
class Pool:
    """All simulated events that carry the reference density q.

    Attributes
    ----------
    features : ndarray, shape (n, d), float32
    weights : ndarray, shape (n,), float64
        Positive reference weights with sum 1: sum_i weights_i f(x_i) estimates E_q[f].
    event_ids : ndarray, shape (n,), int64
    part : ndarray, shape (n,), int64
        Which part an event belongs to: an index into ``names``.
    names : tuple of str
        Part names.
    """

    features: NDArray[np.float32]
    weights: NDArray[np.float64]
    event_ids: NDArray[np.int64]
    part: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.weights)


def split_by_sign(samples: Mapping[str, EventSample]) -> dict[Part, EventSample]:
    """The parts of the samples, in order, with their events; events of weight zero belong to none.

    Raises
    ------
    InvalidData
        A sample that has the name of another's part.
    """
    parts: dict[Part, EventSample] = {}
    for name, sample in samples.items():
        signs = [sign for sign in (1, -1) if (sample.weights * sign > 0).any()]
        for sign in signs:
            events = sample.sign(sign)
            label = name if len(signs) == 1 else f"{name}[{'+' if sign > 0 else '-'}]"
            if label in (part.name for part in parts):
                raise InvalidData(f"two samples have a part {label!r}; rename one of {list(samples)}")
            parts[Part(label, name, sign, events.total, len(events), events.effective_size)] = events
    return parts


def fluctuations(
    samples: Mapping[str, EventSample], components: Sequence[Part], source: str, number: int, seed: int
) -> Fluctuations:
    """How events fluctuate in replicas of the simulation, with fixed yields of what has a ratio; parts as in a `Pool`.

    Parameters
    ----------
    samples : mapping of str to EventSample
    components : sequence of Part
        Parts of the samples, or whole samples.
    source, number, seed
        As of `Fluctuations`.
    """
    split = split_by_sign(samples)
    names = [component.name for component in components]
    return Fluctuations.of(
        source,
        number,
        seed,
        event_ids=np.concatenate([events.ids for events in split.values()]),
        part=np.concatenate([np.full(len(events), k) for k, events in enumerate(split.values())]),
        weights=np.concatenate([events.weights for events in split.values()]),
        group=[names.index(part.name if part.name in names else part.sample) for part in split],
    )


@dataclass(frozen=True, eq=False)
class RatioEstimator:
    """Density ratios r = p/q of samples and their parts to the reference density q = sum_k rho_k |p|_k.

    The head gives r_k z_k from the outputs of the networks, and z_k makes E_q[r_k] = 1 on the cross-fitted simulation.
    The signed density of a sample of two parts is r_sample = (W+ r+ + W- r-) / (W+ + W-), W being the signed yields
    (RoSMM, arXiv:2410.10216). For a reference that is one sample, its support must cover that of all others.

    Attributes
    ----------
    components : tuple of Part
        Name, sample, sign, yield and statistics of every part with a ratio.
    reference_fractions : dict
        Sign-split part -> rho_k; their sum is 1.
    head : Head
    normalisation : dict
        Part name -> (z_k, its statistical error).
    networks : CrossFit
        The classifiers.
    report : dict
        Plain numbers about the training: events and signed effective sample size (sum w)^2 / sum w^2 of samples and
        parts, best epochs and held-out losses of the networks.
    calibration : Calibration or None
        Makes ratios of the learned ones, see `nuratio.training.calibration.calibrate`.
    replicas : Replicas or None
        Tell the error of the ratios, see `nuratio.training.replicas.with_replicas`.
    """

    components: tuple[Part, ...]
    reference_fractions: dict[str, float]
    head: Head
    normalisation: dict[str, tuple[float, float]]
    networks: CrossFit
    report: dict[str, Any]
    calibration: Calibration | None = None
    replicas: Replicas | None = None

    def __repr__(self) -> str:
        return f"RatioEstimator({', '.join(self.parts)}; features {', '.join(self.features)})"

    @property
    def names(self) -> tuple[str, ...]:
        """The samples."""
        return tuple(dict.fromkeys(part.sample for part in self.components))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts: columns of `ratios`."""
        return tuple(part.name for part in self.components)

    @property
    def signs(self) -> dict[str, int]:
        """Part name -> sign of its weights."""
        return {part.name: part.sign for part in self.components}

    @property
    def yields(self) -> dict[str, float]:
        """Part name -> signed yield W, in expected events."""
        return {part.name: part.total for part in self.components}

    @property
    def features(self) -> tuple[str, ...]:
        """The input features, in order."""
        return self.networks.features

    @property
    def options(self) -> TrainingOptions:
        """The options it was trained with; ``folds`` and ``fold_seed`` fix the cross-fitting."""
        return self.networks.options

    def ratios(
        self, x: EventSample | ArrayLike, *, event_ids: NDArray[np.int64] | None = None, member: int | None = None
    ) -> RatioTable:
        """Ratio r_k of every part at x.

        Parameters
        ----------
        x : EventSample or array_like, shape (n, d)
            Events; of a sample only the features are used, matched by name.
        event_ids : ndarray of int, shape (n,), or None
            None for observed data: the mean of all networks. For simulated events give their ids (``sample.ids``,
            ``pool.event_ids``): each event is then evaluated by the networks that have not been trained on it.
        member : int or None
            One of these networks, in place of their mean: of ``options.ensemble`` with ids, else of ``folds`` times
            as many, fold by fold. Their differences tell the error of the training.

        Returns
        -------
        RatioTable
            One float64 column per part.

        Raises
        ------
        InvalidData, UnknownName
            Features that are missing, of the wrong shape, NaN or infinite.
        """
        z = np.array([value for value, _ in self.normalisation.values()])
        ratios = self.head.ratios(self.networks(x, event_ids, self.head.mean, member))
        ratios = ratios / z
        if self.calibration is not None:
            o = self.options
            fold = None if event_ids is None else fold_of(np.asarray(event_ids), o.folds, o.fold_seed)
            ratios = self.calibration(ratios, fold)
        return RatioTable(self.parts, np.ascontiguousarray(ratios.T))

    def ratio(
        self, x: EventSample | ArrayLike, name: str, *, event_ids: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Signed ratio p/q of one sample (net), or the ratio of one part; shape (n,). See `ratios` for the arguments.

        Raises
        ------
        UnknownName
            Neither a sample nor a part.
        InvalidData
            A sample whose net yield is zero has no normalised density: use its parts.
        """
        self._require(name)
        return self.net(self.ratios(x, event_ids=event_ids), name)

    def _require(self, name: str) -> None:
        if name not in self.names and name not in self.parts:
            known = dict.fromkeys(self.names + self.parts)
            raise UnknownName(f"no sample or part {name!r}; {did_you_mean(name, known, 'samples and parts')}")

    def net(self, table: RatioTable, name: str) -> NDArray[np.float64]:
        """What `ratio` is at the events of a table made by `ratios`; raises as it does."""
        self._require(name)
        if name in self.parts:
            return np.asarray(table[name], dtype=np.float64)
        totals = {part.name: part.total for part in self.components if part.sample == name}
        net = math.fsum(totals.values())
        if abs(net) <= _CANCELLED * sum(map(abs, totals.values())):
            raise InvalidData(
                f"sample {name!r}: the yields of its parts cancel ({totals}), so it has no normalised density; "
                f"use the ratios of its parts {list(totals)} with their yields"
            )
        return np.asarray(np.sum([total * table[part] for part, total in totals.items()], axis=0) / net)

    def deviations(
        self, x: EventSample | ArrayLike, *, event_ids: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """How far the replicas of the ratios are from their mean: their covariance over R - 1 is that of the ratios.

        That holds for the statistics of the simulation. For the random start (source ``ensemble``) it is that of one
        member for each fold, whose mean has 1 / ensemble of it. Deviations are those of ratios before a calibration,
        and before what normalises a replica.

        Parameters
        ----------
        x, event_ids
            As of `ratios`: of simulated events, those of the networks that have not been trained on them.

        Returns
        -------
        ndarray, shape (R, n, K)

        Raises
        ------
        InvalidData
            An estimator without replicas; features as for `ratios`.
        """
        if self.replicas is None:
            raise InvalidData(
                "the estimator has no replicas that tell its error; nuratio.training.replicas.with_replicas makes them"
            )
        found = self.replicas.deviations(self.networks, self.head, self.networks.inputs(x), event_ids)
        return np.asarray(found / [z for z, _ in self.normalisation.values()])

    def pool(self, samples: Mapping[str, EventSample]) -> Pool:
        """The simulated events that carry q, in the order of samples and parts, with their reference weights.

        A part of fraction rho_k shares it among its events by |w|. Parts of fraction zero (all but the reference
        sample where one is named) are left out.

        Raises
        ------
        InvalidData
            Samples or signs of weights that are not those of the training, or missing features.
        """
        split = {part.name: events for part, events in split_by_sign(samples).items()}
        if tuple(split) != tuple(self.reference_fractions):
            raise InvalidData(
                f"samples have the parts {list(split)}; the estimator was trained on {list(self.reference_fractions)}"
            )
        used = [(k, split[name], rho) for k, (name, rho) in enumerate(self.reference_fractions.items()) if rho > 0]
        return Pool(
            features=np.concatenate([self.networks.inputs(events) for _, events, _ in used]),
            weights=np.concatenate([rho * np.abs(events.weights / events.total) for _, events, rho in used]),
            event_ids=np.concatenate([events.ids for _, events, _ in used]),
            part=np.concatenate([np.full(len(events), k) for k, events, _ in used]),
            names=tuple(self.reference_fractions),
        )

    def save(self, directory: str | Path) -> None:
        """Write ``estimator.json`` and ``estimator.safetensors``; `load` gives the same numbers bit for bit."""
        document, arrays = self.networks.stored()
        document |= {
            "components": [asdict(part) for part in self.components],
            "reference_fractions": self.reference_fractions,
            "head": self.head.to_dict(),
            "normalisation": self.normalisation,
            "report": self.report,
        }
        tensors: dict[str, NDArray[np.floating]] = {**arrays}
        if self.calibration is not None:
            document["calibration"], knots = self.calibration.stored()
            tensors |= knots
        if self.replicas is not None:
            document["replicas"], layers = self.replicas.stored()
            tensors |= layers
        write_estimator(directory, _KIND, document, tensors)

    @classmethod
    def load(cls, directory: str | Path) -> "RatioEstimator":
        """Read an estimator written by `save`.

        Raises
        ------
        InvalidData
            A missing or damaged file, or another kind of estimator.
        """
        document, arrays = read_estimator(directory, _KIND)
        with made_of(directory):
            knots, layers = (
                {name: arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
                for prefix in ("calibration.", "replicas.")
            )
            return cls(
                components=tuple(Part(**part) for part in document["components"]),
                reference_fractions=document["reference_fractions"],
                head=head_from_dict(document["head"]),
                normalisation={name: (z, error) for name, (z, error) in document["normalisation"].items()},
                networks=CrossFit.restored(document, arrays),
                report=document["report"],
                calibration=Calibration.restored(document["calibration"], knots) if knots else None,
                replicas=Replicas.restored(document["replicas"], layers) if "replicas" in document else None,
            )
