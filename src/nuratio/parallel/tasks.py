"""Tasks on an executor, and what is done when a worker dies.

`run_tasks` runs one function over many tasks. `Crew` is the same for many rounds with the same shared object, such as
the calls of one likelihood. Any ``concurrent.futures`` executor will do: threads, processes, loky, Dask's
``Client.get_executor()``. Without one, a pool of processes is started, one for each processor this process may use.
"""

import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from nuratio.errors import InvalidModel, WorkersDied
from nuratio.parallel.shipping import Carrier, FileCarrier, Serial, carrier_for
from nuratio.parallel.threads import one_thread

__all__ = ["Crew", "Serial", "Shipment", "own_pool", "run_tasks", "workers_of"]

Task = TypeVar("Task")
R = TypeVar("R")

_IDLE = 60  # seconds until an idle worker of the own pool ends
_AHEAD = 3  # tasks of a worker that are submitted at once
_UNKNOWN = 1000  # tasks that are submitted at once where the number of workers is not known, or changes
_own: "weakref.WeakKeyDictionary[Executor, int]" = weakref.WeakKeyDictionary()  # pools of `own_pool`: workers
_ONE_THREAD = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "NUMBA", "VECLIB")


def run_tasks(
    function: Callable[[Any, Task], R],
    shared: Any,
    tasks: Sequence[Task],
    *,
    executor: Executor | None = None,
    attempts: int = 3,
) -> Iterator[tuple[int, R]]:
    """``function(shared, task)`` for every task; yields (position, result) as they are done, in any order.

    A task uses one thread of a model's kernel, whatever the model was made with.

    Parameters
    ----------
    function : callable
        One that can be imported; with the own pool or Dask, any that cloudpickle can pickle.
    shared : object
        What all tasks need. It reaches each worker once; arrays in it are read-only there.
    tasks : sequence
        Small: each is pickled.
    executor : concurrent.futures.Executor, optional
        By default a pool of processes of nuratio's own, with one thread for BLAS, OpenMP and torch in each.
    attempts : int
        How often a task is started, if its worker dies. An executor that cannot be used after that (that of
        ``concurrent.futures``) allows only one.

    Raises
    ------
    WorkersDied
        The workers of a task died ``attempts`` times.
    Exception
        What ``function`` raises; tasks that were not started are cancelled.
    """
    if len(tasks):
        with Crew(shared, executor, attempts=attempts) as crew:
            yield from crew.run(function, tasks)


def own_pool(workers: int | None = None) -> Executor:
    """The pool of processes that is used where no executor is given; it starts workers when it needs them.

    What gets it as its ``executor`` renews it, should a worker die.

    Parameters
    ----------
    workers : int, optional
        By default as many as processors that this process may use (affinity and limits of its container).
    """
    import loky

    one = {f"{library}_NUM_THREADS": "1" for library in _ONE_THREAD}
    leaks = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"}  # mapped tables are no leak
    number = workers or int(loky.cpu_count())
    pool: Executor = loky.get_reusable_executor(
        max_workers=number, timeout=_IDLE, env={"OMP_WAIT_POLICY": "PASSIVE", **one, **leaks}
    )
    _own[pool] = number
    return pool


def workers_of(executor: Executor | None) -> int | None:
    """How many workers an executor has, None if it does not tell; of the own pool without one."""
    if executor is None:
        import loky

        return int(loky.cpu_count())
    if isinstance(executor, Serial):
        return 1
    number = getattr(executor, "_max_workers", None)
    return number if isinstance(number, int) and number > 0 else None


@dataclass(frozen=True, eq=False)
class Shipment:
    """An object that was sent to the workers; in a task (a tuple) it arrives as something with ``open()``."""

    reference: Any


class Crew:
    """Workers that share an object, for any number of rounds of tasks; to be closed.

    Parameters
    ----------
    shared : object
        See `run_tasks`, also for the other parameters.
    executor : concurrent.futures.Executor, optional
    attempts : int
    same_files : bool
        The workers of a Dask cluster see the same files as this process.
    """

    def __init__(
        self, shared: Any, executor: Executor | None = None, *, attempts: int = 3, same_files: bool = False
    ) -> None:
        if attempts < 1:
            raise InvalidModel(f"a task has at least one attempt, not {attempts}")
        self.attempts, self._closed = attempts, False
        self.workers = workers_of(executor)
        self._room = 1 if isinstance(executor, Serial) else _UNKNOWN if self.workers is None else _AHEAD * self.workers
        self.carrier: Carrier
        if executor is None or executor in _own:
            from loky.process_executor import ShutdownExecutorError

            again = partial(own_pool, None if executor is None else _own[executor])
            self.carrier = FileCarrier(again, (BrokenExecutor, ShutdownExecutorError))
        else:
            self.carrier = carrier_for(executor, same_files=same_files)
        try:
            self.shared = self.send(shared)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was sent to the workers."""
        self._closed = True
        self.carrier.close()

    def send(self, thing: Any, home: int | None = None) -> Shipment:
        """Send an object to all workers, or to the one at ``home``; it is there as long as the shipment is kept."""
        reference = self.carrier.send(thing, home)
        shipment = Shipment(reference)
        weakref.finalize(shipment, self.carrier.discard, reference)
        return shipment

    def run(
        self, function: Callable[[Any, Any], R], tasks: Sequence[Any], homes: Sequence[int] | None = None
    ) -> Iterator[tuple[int, R]]:
        """As `run_tasks`; shipments may be among the elements of a task that is a tuple.

        Parameters
        ----------
        function : callable
        tasks : sequence
        homes : sequence of int, optional
            Which worker each task prefers, modulo their number; for executors that can choose.
        """
        if self._closed:
            raise InvalidModel("these workers were let go: what needs them belongs inside the 'with' that made them")
        waiting, started = deque(range(len(tasks))), Counter[int]()
        running: dict[Future[R], int] = {}
        try:
            while waiting or running:
                lost: list[int] = []
                reason: BaseException | None = None
                while waiting and len(running) < self._room and not lost:
                    position = waiting.popleft()
                    started[position] += 1
                    try:
                        running[self._submit(function, tasks[position], None if homes is None else homes[position])] = (
                            position
                        )
                    except self.carrier.deaths as error:
                        lost, reason = [position], error
                done = wait(running, return_when=FIRST_COMPLETED).done if running and not lost else set()
                for future in done:
                    position = running.pop(future)
                    try:
                        result = future.result()
                    except self.carrier.deaths as error:
                        lost, reason = [*lost, position], error
                    else:
                        yield position, result
                if reason is not None:
                    self._lost(lost, started, reason)
                    waiting.extendleft(sorted(lost, reverse=True))
        finally:
            for future in running:
                future.cancel()

    def _submit(self, function: Callable[..., R], task: Any, home: int | None) -> "Future[R]":
        sent = self.carrier.arriving(self.shared.reference)
        if isinstance(task, tuple):
            task = tuple(self.carrier.arriving(t.reference) if isinstance(t, Shipment) else t for t in task)
        return self.carrier.submit(home, _work, function, sent, task)

    def _lost(self, positions: Sequence[int], started: "Counter[int]", reason: BaseException) -> None:
        worst = max(positions, key=lambda position: started[position])
        if started[worst] >= self.attempts:
            told, *_ = *str(reason).splitlines(), "no reason given"
            raise WorkersDied(
                f"task {worst}: its worker died {started[worst]} times ({type(reason).__name__}: {told}); look at the "
                "workers' memory and log, or find the task with executor=nuratio.parallel.tasks.Serial()"
            ) from reason
        try:
            self.carrier.renew()
        except WorkersDied as error:
            raise error from reason


def _work(function: Callable[[Any, Any], R], shared: Any, task: Any) -> R:
    with one_thread():
        return function(shared.open(), task)
