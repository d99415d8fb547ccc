"""A sample and the reference reweighted to it, where neither has been seen by the networks nor by the other.

Cross-fitting gives every simulated event the ratio of networks that were trained on the other folds. A histogram over
all folds would still hide overfitting: what a network learned of the fluctuations in fold 2 is applied to fold 1, and
compared with fold 2. So every comparison is made within a fold, and there between the two halves of its events: one
half of the pool, reweighted with r, has to be the other half of the sample itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.ratios.closure import Weighted
from nuratio.ratios.estimator import Pool, RatioEstimator, split_by_sign
from nuratio.ratios.table import RatioTable

__all__ = ["CrossFitted", "Reweighting", "half_of", "keeping_shares"]

Floats = NDArray[np.float64]

_SEED = 0xC4EC


def half_of(event_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 or 1 for each event, independent of the folds of a training."""
    return fold_of(event_ids, 2, _SEED)


def keeping_shares(weights: Floats, part: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Floats:
    """Weights of some events, scaled so that every part (an index for each event) keeps its sum.

    Yields of parts are known from all events: that they fluctuate between halves is no matter of ratios.
    """
    whole, here = (np.bincount(part[k], weights[k], minlength=part.max() + 1) for k in (slice(None), chosen))
    return np.asarray(weights[chosen] * (whole / np.where(here == 0, 1.0, here))[part[chosen]])


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """An estimator's ratios at all simulated events, by networks that have not seen them.

    Attributes
    ----------
    estimator : RatioEstimator
    samples : dict
        Those of the training.
    """

    estimator: RatioEstimator
    samples: Mapping[str, EventSample]

    @cached_property
    def pool(self) -> Pool:
        """All events that carry the reference density."""
        return self.estimator.pool(self.samples)

    @cached_property
    def mean(self) -> RatioTable:
        """Ratios at the pool, networks averaged."""
        return self.estimator.ratios(self.pool.features, event_ids=self.pool.event_ids)

    @cached_property
    def members(self) -> tuple[RatioTable, ...]:
        """Ratios at the pool of each of the networks of an ensemble."""
        count = self.estimator.options.ensemble
        if count == 1:
            return (self.mean,)
        pool = self.pool
        return tuple(self.estimator.ratios(pool.features, event_ids=pool.event_ids, member=j) for j in range(count))

    @cached_property
    def targets(self) -> dict[str, EventSample]:
        """The densities to compare with: the samples; of those whose weights cancel, the parts of either sign."""
        found: dict[str, EventSample] = {}
        for name, events in self.samples.items():
            if events.cancels:
                found |= {part.name: of_sign for part, of_sign in split_by_sign({name: events}).items()}
            else:
                found[name] = events
        return found

    def groups(self, event_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """2 x fold + half of each event."""
        options = self.estimator.options
        return 2 * fold_of(event_ids, options.folds, options.fold_seed) + half_of(event_ids)

    def reweightings(self, name: str) -> list["Reweighting"]:
        """One of the targets, for each half of each fold."""
        pool, events = self.pool, self.targets[name]
        x, sign = self.estimator.networks.inputs(events), (events.weights < 0).astype(np.int64)
        at_pool, at_sample = self.groups(pool.event_ids), self.groups(events.ids)
        score = self.estimator.ratio(x, name, event_ids=events.ids)
        r = self.estimator.net(self.mean, name)
        single = [self.estimator.net(table, name) for table in self.members]
        made = []
        for group in range(2 * self.estimator.options.folds):
            source, target = at_pool == group, at_sample == group ^ 1
            q = keeping_shares(pool.weights, pool.part, source)
            made.append(
                Reweighting(
                    sample=name,
                    features=self.estimator.features,
                    source=Weighted(pool.features[source], q * r[source]),
                    reference=q,
                    members=tuple(q * of_one[source] for of_one in single),
                    target=Weighted(x[target], keeping_shares(events.weights, sign, target)),
                    score=score[target],
                )
            )
        return made


@dataclass(frozen=True, eq=False)
class Reweighting:
    """The reweighted reference (n events) and the sample (m events), of two halves of a fold.

    Attributes
    ----------
    sample : str
    features : tuple of str
    source : Weighted
        Values of shape (n, d), weights q r.
    reference : ndarray, shape (n,)
        q alone.
    members : tuple of ndarray, shape (n,)
        q r of single networks.
    target : Weighted
        Values of shape (m, d), signed weights.
    score : ndarray, shape (m,)
        The learned ratio at the target's events.
    """

    sample: str
    features: tuple[str, ...]
    source: Weighted
    reference: Floats
    members: tuple[Floats, ...]
    target: Weighted
    score: Floats

    def columns(self) -> Iterator[tuple[str, Floats, Floats]]:
        """Features and the learned ratio: (name, values of the source, of the target)."""
        for j, name in enumerate(self.features):
            yield name, self.source.values[:, j], self.target.values[:, j]
        yield "ratio", self.source.weights / self.reference, self.score
