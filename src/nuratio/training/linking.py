"""The nominal and the varied simulations of a sample as one set of generated events.

A generated event and its variations are kept together, so that they share every batch and every fold and their common
fluctuation cancels. A varied simulation is stored as what it changes of the nominal one: of sixty nuisances each of
which moves the leptons of one pT bin, an event is changed by two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuratio.data.sample import EventSample

__all__ = ["Batch", "LinkedEvents", "link"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LinkedEvents:
    """n generated events with r feature vectors (rows) between them, sorted by event.

    The simulation at point v is the nominal one plus its changes: each has the row, the point and the weight that is
    added there (negative: taken away). Weights are in units of the nominal yield divided by the number of events.

    Attributes
    ----------
    x : Tensor, shape (r, d)
    first_row : Tensor of int, shape (n + 1,)
        Rows of event e are ``first_row[e]`` to ``first_row[e + 1] - 1``, the nominal one first if there is one.
    nominal : Tensor, shape (n,)
        Nominal weights; 0 for events that are only in variations.
    first_change : Tensor of int, shape (n + 1,)
        Changes of event e, likewise.
    row, point : Tensor of int, shape (changes,)
    change : Tensor, shape (changes,)
    log_yield : Tensor, shape (v,)
        ln(yield at the point / nominal yield).
    ids : ndarray of int, shape (n,)
    """

    x: Tensor
    first_row: Tensor
    nominal: Tensor
    first_change: Tensor
    row: Tensor
    point: Tensor
    change: Tensor
    log_yield: Tensor
    ids: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: str) -> "LinkedEvents":
        """The same on another device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def batch(self, events: Tensor) -> "Batch":
        """Rows and changes of some events for each of m networks; events of shape (m, b)."""
        m, b = events.shape
        row, owner = _ragged(self.first_row, events)
        network = owner // b
        rows_of = torch.bincount(network, minlength=m)
        slot = torch.arange(len(row), device=row.device) - (rows_of.cumsum(0) - rows_of)[network]
        x = self.x.new_zeros(m, int(rows_of.max()), self.x.shape[1])
        x[network, slot] = self.x[row]
        counts = (self.first_row[events + 1] - self.first_row[events]).flatten()
        first = (counts.cumsum(0) - counts).view(m, b)
        first = first - first[:, :1]
        change, owner = _ragged(self.first_change, events)
        event = events.flatten()[owner]
        return Batch(
            x=x,
            nominal=self.nominal[events],
            first=first,
            owner=owner,
            row=first.flatten()[owner] + self.row[change] - self.first_row[event],
            point=self.point[change],
            change=self.change[change],
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """b events for each of m networks.

    Attributes
    ----------
    x : Tensor, shape (m, rows, d)
        Their rows, filled up with zeros.
    nominal : Tensor, shape (m, b)
    first : Tensor of int, shape (m, b)
        The (nominal) row of each event.
    owner : Tensor of int, shape (changes,)
        Event of a change, counted through all networks.
    row, point, change : Tensor, shape (changes,)
        Its row among those of its network, point and weight.
    """

    x: Tensor
    nominal: Tensor
    first: Tensor
    owner: Tensor
    row: Tensor
    point: Tensor
    change: Tensor


def link(nominal: EventSample, varied: Sequence[EventSample]) -> LinkedEvents:
    """Link a nominal sample to its variations by event id; of events that share an id, in their order."""
    ids, event_of = _events([nominal, *varied])
    n, scale = len(ids), len(ids) / nominal.total
    base, nominal_row = np.zeros(n), np.full(n, -1)
    base[event_of[0]] = nominal.weights * scale
    nominal_row[event_of[0]] = np.arange(len(nominal))
    x, row_owner = [nominal.features], [event_of[0]]
    owner, row, point, change = [], [], [], []
    rows = len(nominal)
    for v, (events, e) in enumerate(zip(varied, event_of[1:], strict=True)):
        weights = events.weights * scale
        there = nominal_row[e]
        same = (there >= 0) & (events.features == nominal.features[there]).all(axis=1)
        kept = np.zeros(n, dtype=bool)
        kept[e[same]] = True
        gone = np.flatnonzero((nominal_row >= 0) & ~kept)
        moved = ~same
        reweighted = same & (weights != base[e])
        owner += [e[reweighted], gone, e[moved]]
        row += [there[reweighted], nominal_row[gone], rows + np.arange(moved.sum())]
        change += [(weights - base[e])[reweighted], -base[gone], weights[moved]]
        point.append(np.full(sum(len(o) for o in owner[-3:]), v))
        x.append(events.features[moved])
        row_owner.append(e[moved])
        rows += int(moved.sum())
    owners = np.concatenate(row_owner)
    order = np.argsort(owners, kind="stable")  # nominal rows come first
    position = np.empty(rows, dtype=np.int64)
    position[order] = np.arange(rows)
    change_owner = np.concatenate(owner) if owner else np.empty(0, dtype=np.int64)
    by_event = np.argsort(change_owner, kind="stable")
    first_row, first_change = (np.r_[0, np.cumsum(np.bincount(o, minlength=n))] for o in (owners, change_owner))
    return LinkedEvents(
        x=torch.from_numpy(np.concatenate(x)[order]),
        first_row=torch.from_numpy(first_row),
        nominal=torch.from_numpy(base.astype(np.float32)),
        first_change=torch.from_numpy(first_change),
        row=torch.from_numpy(position[np.concatenate(row)[by_event]]),
        point=torch.from_numpy(np.concatenate(point)[by_event]),
        change=torch.from_numpy(np.concatenate(change)[by_event].astype(np.float32)),
        log_yield=torch.tensor([np.log(v.total / nominal.total) for v in varied], dtype=torch.float32),
        ids=ids,
    )


def _ragged(first: Tensor, events: Tensor) -> tuple[Tensor, Tensor]:
    """All entries of the events' ranges, and the number of the event (counted through ``events``) of each."""
    start = first[events].flatten()
    counts = first[events + 1].flatten() - start
    owner = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return (start - before)[owner] + torch.arange(len(owner), device=owner.device), owner


def _events(samples: Sequence[EventSample]) -> tuple[Ints, list[Ints]]:
    """The n generated events of all samples: their ids (n,), and for each sample the numbers of its events.

    Of rows that share an id within a sample, the first ones of all samples are one event, the second ones another.
    """
    copies = [_copies(events.ids) for events in samples]
    most = max(int(copy.max()) for copy in copies) + 1
    ids, index = np.unique(np.concatenate([events.ids for events in samples]), return_inverse=True)
    keys, event = np.unique(index * most + np.concatenate(copies), return_inverse=True)
    return ids[keys // most], np.split(event, np.cumsum([len(s) for s in samples])[:-1])


def _copies(ids: Ints) -> Ints:
    """How many of the same id came before, shape (n,)."""
    order = np.argsort(ids, kind="stable")
    first = np.r_[True, np.diff(ids[order]) != 0]
    position = np.arange(len(ids))
    copies = np.empty(len(ids), dtype=np.int64)
    copies[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return copies
