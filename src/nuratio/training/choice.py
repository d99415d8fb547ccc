"""Which method, and where PARE's pole: decided by the events.

Methods are compared by the least-squares risk of their signed ratios, sum over samples of E_q[r^2] / 2 - E_p[r], at
events that the networks have not seen. It knows nothing of how a ratio was learned, its minimum is the true ratio
whatever the signs of the weights, and as a mean over events it comes with an error.

`CANDIDATES` are one of each kind: a classifier of parts, a signed ratio learned directly, least squares. On the
problems of the benchmarks the other direct losses were nowhere better than LSIF by more than an error.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import InvalidData
from nuratio.ratios.estimator import RatioEstimator
from nuratio.training.linear import lowest_ratios
from nuratio.training.objective import SimulatedEvents, whole_samples
from nuratio.training.reference import Reference

__all__ = ["CANDIDATES", "MARGIN", "choose", "pilot_rho", "risk_at_events", "subsample"]

CANDIDATES = ("mixture", "lsif", "linear")  # of equal ones the first is taken
_ENOUGH = 200_000  # events of a sample to compare methods with
_FEW = 20_000  # of a sample, all of which are used: its training takes seconds
_SUBSAMPLE_SEED = 0xA070
MARGIN = 4.0  # of PARE's rho^2 over the pilot's largest -r: k = 3 to 10 do


def risk_at_events(estimator: RatioEstimator, events: SimulatedEvents) -> NDArray[np.float64]:
    """What each event adds to the risk, times the number of events; shape (n,). Its mean is the risk."""
    table, own = estimator.ratios(events.x.numpy(), event_ids=events.ids), events.sample.numpy()
    q, p = events.reference.double().numpy(), events.signed.double().numpy()
    total = np.zeros(len(own))
    for k, name in enumerate(events.samples):
        r = estimator.net(table, name)
        total += q * r**2 / 2 - np.where(own == k, p * r, 0.0)
    return total


def choose(
    samples: Mapping[str, EventSample],
    reference: Reference,
    learn: Callable[[str, Mapping[str, EventSample]], RatioEstimator],
) -> tuple[RatioEstimator, dict[str, Any]]:
    """Learn with the best of `CANDIDATES` on a subsample; the estimator, and the comparison for the report.

    Risks within one standard error (of the difference, event by event) of the lowest count as equal. Two of the
    candidates are networks: with half of the events, at most, comparing them costs no more than the training after it.
    """
    try:
        whole_samples(samples)
    except InvalidData as reason:
        return learn("mixture", samples), {"chosen": "mixture", "reason": str(reason)}
    half = max(map(len, samples.values())) // 2
    some = subsample(samples, min(max(half, _FEW), _ENOUGH))
    events = SimulatedEvents.of(some, reference)
    candidates = {name: learn(name, some) for name in CANDIDATES}
    at_events = {name: risk_at_events(estimator, events) for name, estimator in candidates.items()}
    best = min(at_events, key=lambda name: float(at_events[name].mean()))
    table = {}
    for name, values in at_events.items():
        worse = values - at_events[best]
        table[name] = {
            "risk": float(values.mean()),
            "above_best": float(worse.mean()),
            "error": float(worse.std() / math.sqrt(len(worse))),
        }
    chosen = next(name for name, row in table.items() if row["above_best"] <= row["error"])
    everything = all(len(some[name]) == len(samples[name]) for name in samples)
    estimator = candidates[chosen] if everything else learn(chosen, samples)
    return estimator, {"chosen": chosen, "events": len(events.x), "candidates": table}


def subsample(samples: Mapping[str, EventSample], most: int) -> dict[str, EventSample]:
    """At most about so many events of each sample, chosen by id."""
    small = {}
    for name, events in samples.items():
        parts = -(-len(events) // most)
        kept = fold_of(events.ids, parts, _SUBSAMPLE_SEED) == 0 if parts > 1 else slice(None)
        small[name] = EventSample(events.features[kept], events.weights[kept], events.names, events.ids[kept])
    return small


def pilot_rho(events: SimulatedEvents) -> float:
    """PARE's rho: rho^2 is four times the most negative ratio that smooth averages show, at least 4."""
    return math.sqrt(MARGIN * max(1.0, -min(lowest_ratios(events).values())))
