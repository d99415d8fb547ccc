"""A model whose events lie with many workers: for tables that fit on no single machine.

The events of all unbinned channels are cut into shards. A worker holds the rows of its shards, and the weights that a
data set gives them; it evaluates its part of the sum over events, so that a call of the likelihood is one round trip of
a few numbers. Rates, binned channels, constraints and the fit itself stay here. Asimov data and the errors from the
simulation are sums over the shards of the pool in the same way.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel
from nuratio.model.model import Model
from nuratio.model.normalisation import InCell, PoolIntegral
from nuratio.model.passes import IN_PROCESS, Point
from nuratio.model.unbinned import EventCell, Events, EventTerm, UnbinnedChannel
from nuratio.parallel.tasks import Crew, Shipment
from nuratio.ratios.table import RatioTable

__all__ = ["sharded"]

Floats = NDArray[np.float64]
Rows = tuple[int, int]
Place = tuple[str, int, bool]  # of a term: channel, cell, whether on the pool
R = TypeVar("R")

_BLOCKS = 8  # of a table in a shard, from which on shards begin where a block does
_DATA_SETS = 4  # of which a worker remembers the terms of a shard

_data_sets = count()


@contextmanager
def sharded(
    model: Model, *, shards: int | None = None, executor: Executor | None = None, same_files: bool = False
) -> Iterator[Model]:
    """The same model, its events with the workers of an executor: ``with sharded(model) as model: ...``.

    Whatever takes a model takes this one. Within rounding, the numbers are the same. A worker that dies is replaced.

    Parameters
    ----------
    model : Model
        Its tables are memory-mapped, if its workspace was loaded from a directory: this process looks only at the rows
        that it hands over.
    shards : int, optional
        As many as there are workers by default. More are of use where workers may come and go.
    executor : concurrent.futures.Executor, optional
        By default a pool of processes.
    same_files : bool
        The workers of a Dask cluster see the workspace's directory (a shared file system), and map their own rows.
        Otherwise each gets its rows over the network. Processes of one machine always map them.

    Raises
    ------
    InvalidModel
        Less than one shard; a normalisation by the pool's sum, which would be needed whole at every call.
    """
    if not model.unbinned:
        raise InvalidModel("the model has no unbinned channel, and so nothing to cut into shards")
    for name, channel in model.unbinned.items():
        for sample in (s for cell in channel.cells for s in cell.samples):
            norm = sample.norm.variation if isinstance(sample.norm, InCell) else sample.norm
            if isinstance(norm, PoolIntegral):
                raise InvalidModel(
                    f"channel {name!r}, sample {sample.name!r}: the normalisation 'pool' needs all pool events at "
                    "every call, so the channel cannot be cut into shards; build the workspace with 'cumulant'"
                )
    if shards is not None and shards < 1:
        raise InvalidModel(f"events are cut into at least one shard, not {shards}")
    with Crew(_Desk(uuid4().hex), executor, same_files=same_files) as crew:
        new = copy(model)
        new.passes = _Shards.cut(model, crew, shards or crew.workers or 1)
        yield new


@dataclass(frozen=True, eq=False)
class _Shards:
    """`Passes` by a crew.

    Attributes
    ----------
    crew : Crew
    channels : dict
        The model's.
    rows : tuple of dict
        For each shard: channel -> first and last row (exclusive) of its observed and of its pool events.
    sent : tuple of Shipment
        Each shard: channel -> channel with these events only.
    """

    crew: Crew
    channels: Mapping[str, UnbinnedChannel]
    rows: tuple[Mapping[str, tuple[Rows, Rows]], ...]
    sent: tuple[Shipment, ...]

    @classmethod
    def cut(cls, model: Model, crew: Crew, shards: int) -> "_Shards":
        """Into shards of about equal size."""
        cuts = {name: (_cuts(c.observed, shards), _cuts(c.pool, shards)) for name, c in model.unbinned.items()}
        rows = tuple({name: (observed[s], pool[s]) for name, (observed, pool) in cuts.items()} for s in range(shards))
        parts = ({name: _part(model.unbinned[name], *ends) for name, ends in of_shard.items()} for of_shard in rows)
        sent = tuple(crew.send(part, home=s) for s, part in enumerate(parts))
        return cls(crew, model.unbinned, rows, sent)

    def __reduce__(self) -> Any:
        raise InvalidModel(
            "a model whose events lie with workers cannot be sent to other workers: give them the model that it was "
            "made from, or run their tasks here with executor=nuratio.parallel.tasks.Serial()"
        )

    def sums(self, weights: Mapping[str, Floats]) -> "_ShardedSums":
        """See `nuratio.model.passes.Passes`."""
        return _ShardedSums(
            self, next(_data_sets), tuple(self._send_weights(weights, s) for s in range(len(self.rows)))
        )

    def _send_weights(self, weights: Mapping[str, Floats], s: int) -> Shipment:
        part = {}
        for name, ((a, b), (c, d)) in self.rows[s].items():
            n = len(self.channels[name].observed)
            part[name] = _short(weights[name][a:b]), _short(weights[name][n + c : n + d])
        return self.crew.send(part, home=s)

    def over_pool(self, channel: str, cell: EventCell, function: Callable[..., R], /, *arguments: Any) -> list[R]:
        """See `nuratio.model.passes.Passes`."""
        number = self.channels[channel].cells.index(cell)
        return self.ask(_over_pool, [None] * len(self.sent), (channel, number, function, arguments))

    def ask(
        self, function: Callable[["_Desk", Any], R], weights: Sequence[Shipment | None], question: tuple[Any, ...]
    ) -> list[R]:
        """The answers of all shards, in order, to a question about them and, maybe, about a data set."""
        shards = range(len(self.sent))
        tasks = [(s, self.sent[s], weights[s], *question) for s in shards]
        answers = dict(self.crew.run(function, tasks, homes=shards))
        return [answers[s] for s in shards]


@dataclass(frozen=True, eq=False)
class _ShardedSums:
    """`EventSums` of one data set.

    Attributes
    ----------
    shards : _Shards
    number : int
        Of the data set; no other one has it.
    weights : tuple of Shipment
        For each shard: channel -> weights of its observed and of its pool events.
    """

    shards: _Shards
    number: int
    weights: tuple[Shipment, ...]

    def values(self, terms: Sequence[EventTerm], points: Sequence[Point]) -> list[tuple[float, int]]:
        """See `nuratio.model.passes.EventSums`."""
        return self._added("values", terms, points)

    def derivatives(
        self, terms: Sequence[EventTerm], points: Sequence[Point], *, held: Sequence[bool], hessian: bool
    ) -> list[tuple[float, Floats, Floats]]:
        """See `nuratio.model.passes.EventSums`."""
        return self._added("derivatives", terms, points, held=held, hessian=hessian)

    def many(self, terms: Sequence[EventTerm], points: Sequence[Point]) -> list[tuple[Floats, Floats]]:
        """See `nuratio.model.passes.EventSums`."""
        return self._added("many", terms, points)

    def nonpositive(
        self, terms: Sequence[EventTerm], points: Sequence[Point]
    ) -> list[tuple[NDArray[np.int64], Floats, Floats]]:
        """See `nuratio.model.passes.EventSums`."""
        found = []
        for term, answers in zip(terms, self._answers("nonpositive", terms, points), strict=True):
            channel, _, on_pool = self._place(term)
            first = len(self.shards.channels[channel].observed) if on_pool else 0
            index = [i + first + self.shards.rows[s][channel][on_pool][0] for s, (i, _, _) in answers.items()]
            density, parts = ([answer[k] for answer in answers.values()] for k in (1, 2))
            found.append((np.concatenate(index), np.concatenate(density), np.concatenate(parts, axis=1)))
        return found

    def _added(self, method: str, terms: Sequence[EventTerm], points: Sequence[Point], **options: Any) -> list[Any]:
        """For each term, the sums over the shards of all numbers that the method returns."""
        found = self._answers(method, terms, points, **options)
        return [tuple(sum(part) for part in zip(*answers.values(), strict=True)) for answers in found]

    def _answers(
        self, method: str, terms: Sequence[EventTerm], points: Sequence[Point], **options: Any
    ) -> list[dict[int, Any]]:
        """For each term: shard -> what the method returns there; only of shards with events of the term."""
        if not terms:
            return []
        places = [self._place(term) for term in terms]
        of_shards = self.shards.ask(_evaluate, self.weights, (self.number, method, places, points, options))
        return [{s: found[k] for s, found in enumerate(of_shards) if k in found} for k in range(len(terms))]

    def _place(self, term: EventTerm) -> Place:
        for name, channel in self.shards.channels.items():
            for number, cell in enumerate(channel.cells):
                if cell is term.cell:
                    return name, number, term.events.table is cell.pool.table
        raise InvalidModel("a sharded model was asked for a term of another model")


@dataclass(frozen=True, eq=False)
class _Desk:
    """What a worker remembers of one sharded model.

    Attributes
    ----------
    model : str
        Which one: no two desks are the same.
    shards : dict
        Number of a shard -> channel -> channel with its events.
    terms : dict
        Number of a shard -> number of a data set, the last ones -> terms that have events here.
    """

    model: str
    shards: dict[int, Mapping[str, UnbinnedChannel]] = field(default_factory=dict)
    terms: dict[int, "OrderedDict[int, dict[Place, EventTerm]]"] = field(default_factory=dict)

    def shard(self, s: int, parcel: Any) -> Mapping[str, UnbinnedChannel]:
        """Channels with the events of a shard."""
        if s not in self.shards:
            self.shards[s] = parcel.open(remember=False)
        return self.shards[s]

    def terms_of(self, s: int, parcel: Any, data: int, weights: Any) -> Mapping[Place, EventTerm]:
        """The terms of a data set in a shard."""
        known = self.terms.setdefault(s, OrderedDict())
        if data not in known:
            found, given = {}, weights.open(remember=False)
            for name, channel in self.shard(s, parcel).items():
                seen, simulated = given[name]
                of_channel = _long(seen, len(channel.observed)), _long(simulated, len(channel.pool))
                for number, cell in enumerate(channel.cells):
                    for term in cell.terms(*of_channel):
                        found[name, number, term.events.table is channel.pool] = term
            known[data] = found
            while len(known) > _DATA_SETS:
                known.popitem(last=False)
        return known[data]


def _evaluate(desk: _Desk, task: Any) -> dict[int, Any]:
    """In a worker: number of a term -> what a method of `EventSums` says of it, if it has events here."""
    s, shard, weights, data, method, places, points, options = task
    terms = desk.terms_of(s, shard, data, weights)
    here = [k for k, place in enumerate(places) if place in terms]
    own = [terms[places[k]] for k in here]
    if "held" in options:
        options = options | {"held": [options["held"][k] for k in here]}
    found = getattr(IN_PROCESS, method)(own, [points[k] for k in here], **options)
    if method == "nonpositive":
        found = [(index - term.first, *rest) for term, (index, *rest) in zip(own, found, strict=True)]
    return dict(zip(here, found, strict=True))


def _over_pool(desk: _Desk, task: Any) -> Any:
    """In a worker: a function of a cell with the pool events of the shard."""
    s, shard, _, channel, number, function, arguments = task
    return function(desk.shard(s, shard)[channel].cells[number], *arguments)


def _cuts(table: RatioTable, shards: int) -> list[Rows]:
    """Where the shards of a table begin and end: at whole blocks, which need not be copied, if it has many."""
    n, step = len(table), table.size if len(table) >= _BLOCKS * shards * table.size else 1
    ends = [min(round(n * s / shards / step) * step, n) for s in range(shards)] + [n]
    return list(pairwise(ends))


def _part(channel: UnbinnedChannel, observed: Rows, pool: Rows) -> UnbinnedChannel:
    """The channel with some of its events, and no features."""
    seen, simulated = channel.observed.between(*observed), channel.pool.between(*pool)
    cells = []
    for cell in channel.cells:
        (of_observed, _), (of_pool, mine) = _events(cell.observed, seen, observed), _events(cell.pool, simulated, pool)
        q = np.ascontiguousarray(cell.pool_weights[mine])
        cells.append(replace(cell, observed=of_observed, pool=of_pool, pool_weights=q))
    return UnbinnedChannel(channel.name, seen, simulated, tuple(cells), simulation=channel.simulation)


def _events(events: Events, table: RatioTable, rows: Rows) -> tuple[Events, slice]:
    """Those in a part of their table, and which ones of all they are."""
    if events.index is None:
        return Events(table), slice(*rows)
    mine = slice(*np.searchsorted(events.index, rows).tolist())
    return Events(table, events.index[mine] - rows[0]), mine


def _short(weights: Floats) -> Floats | float:
    """One number where all are the same: those of observed data."""
    return float(weights[0]) if weights.size and (weights == weights[0]).all() else np.ascontiguousarray(weights)


def _long(weights: Floats | float, n: int) -> Floats:
    return np.full(n, weights) if isinstance(weights, float) else weights
