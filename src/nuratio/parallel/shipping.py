"""How objects reach the workers of an executor: once each, never once per task.

Threads get the object itself. Processes of one machine map it from files in a temporary folder, which is removed at the
end. The workers of a Dask cluster get it over the network and keep it; no file system is shared with them, unless they
are said to see the same files.
"""

import asyncio
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from nuratio.errors import WorkersDied
from nuratio.parallel.parcel import Contents, FileParcel, Parcel, pack

__all__ = ["Carrier", "DaskCarrier", "FileCarrier", "LocalCarrier", "Serial", "carrier_for", "dask_client"]

_FRESH = 5.0  # seconds for which a cluster's list of workers is believed
_PATIENCE = 60  # seconds for a cluster to have a worker (again)


class Serial(Executor):
    """Runs each task in ``submit``, in the calling thread: for tests, and to look into a task with a debugger."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (whatever a task raises is its result)
            future.set_exception(error)
        return future


class Carrier(Protocol):
    """Brings objects to the workers of one executor, and tasks after them."""

    deaths: tuple[type[BaseException], ...]

    def send(self, thing: Any, home: int | None = None) -> Any:
        """A reference to the object: for all workers, or for the one that is number ``home`` modulo their number."""
        ...

    def submit(self, home: int | None, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """A task, with references from `arriving` among its arguments."""
        ...

    def arriving(self, reference: Any) -> Any:
        """What stands for the object in an argument; it has ``open()`` when it arrives."""
        ...

    def discard(self, reference: Any) -> None:
        """Nobody will ask for an object again."""
        ...

    def renew(self) -> None:
        """After workers died."""
        ...

    def close(self) -> None:
        """Remove what was sent."""
        ...


class LocalCarrier:
    """For threads of this process: objects go as they are."""

    deaths: tuple[type[BaseException], ...] = (BrokenExecutor,)

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def send(self, thing: Any, home: int | None = None) -> Contents:
        """See `Carrier`."""
        return Contents(thing)

    def arriving(self, reference: Any) -> Any:
        """See `Carrier`."""
        return reference

    def submit(self, home: int | None, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """See `Carrier`."""
        return self.executor.submit(function, *args)

    def discard(self, reference: Contents) -> None:
        """See `Carrier`."""

    def renew(self) -> None:
        """Threads do not come back.

        Raises
        ------
        WorkersDied
        """
        raise WorkersDied("the executor is broken and cannot be used again; make a new one, or leave it out")

    def close(self) -> None:
        """See `Carrier`."""


class FileCarrier:
    """For processes that see the same files as this one: objects go through a temporary folder.

    Parameters
    ----------
    executor : Executor or callable
        A pool, or what makes a new one when the last is broken.
    deaths : tuple of exception types
        What futures raise whose worker died, and ``submit`` if the pool cannot be used.
    """

    def __init__(
        self, executor: Executor | Callable[[], Executor], deaths: tuple[type[BaseException], ...] = (BrokenExecutor,)
    ) -> None:
        self.deaths = deaths
        self._make = None if isinstance(executor, Executor) else executor
        self.executor = executor if isinstance(executor, Executor) else executor()
        self.folder = Path(tempfile.mkdtemp(prefix="nuratio-"))
        self._removal = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._sent = 0

    def send(self, thing: Any, home: int | None = None) -> FileParcel:
        """See `Carrier`."""
        self._sent += 1
        return pack(thing, same_files=True).write(self.folder / str(self._sent))

    def arriving(self, reference: Any) -> Any:
        """See `Carrier`."""
        return reference

    def submit(self, home: int | None, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """See `Carrier`."""
        return self.executor.submit(function, *args)

    def discard(self, reference: FileParcel) -> None:
        """See `Carrier`."""
        shutil.rmtree(reference.folder, ignore_errors=True)

    def renew(self) -> None:
        """A new pool, if it is known how to make one.

        Raises
        ------
        WorkersDied
        """
        if self._make is None:
            raise WorkersDied(
                "a worker died, and this executor cannot be used again after that; leave executor out for a pool that "
                "starts new workers, or make another"
            )
        self.executor = self._make()

    def close(self) -> None:
        """See `Carrier`."""
        self._removal()


class DaskCarrier:
    """For a Dask cluster: objects are scattered to its workers, again if they are lost.

    Parameters
    ----------
    executor : distributed.cfexecutor.ClientExecutor
        ``Client.get_executor()``.
    same_files : bool
        The workers see the same files as this process.
    """

    def __init__(self, executor: Any, *, same_files: bool = False) -> None:
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        self.executor, self.client, self.same_files = executor, dask_client(executor), same_files
        self.deaths: tuple[type[BaseException], ...] = (
            BrokenExecutor,
            CancelledError,
            asyncio.CancelledError,
            KilledWorker,
            CommClosedError,
        )
        self._workers: tuple[float, list[str]] = (-_FRESH, [])

    def send(self, thing: Any, home: int | None = None) -> "_Scattered":
        """See `Carrier`."""
        return _Scattered(pack(thing, same_files=self.same_files), home)

    def arriving(self, reference: "_Scattered") -> Any:
        """See `Carrier`."""
        if reference.future is None or reference.future.status not in ("pending", "finished"):
            self.renew()  # to no worker that has left
            self.client.wait_for_workers(1, timeout=_PATIENCE)
            where = None if reference.home is None else [self.worker(reference.home)]
            options = {"workers": where, "broadcast": where is None, "hash": False, "timeout": _PATIENCE}
            try:
                (reference.future,) = self.client.scatter([reference.parcel], **options)
            except (KeyError, OSError) as error:  # it has left just now
                raise BrokenExecutor(f"{len(reference.parcel.pickled)} bytes could not be sent: {error}") from error
        return reference.future

    def submit(self, home: int | None, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """See `Carrier`."""
        where: dict[str, Any] = {}
        if home is not None:
            where = {"workers": [self.worker(home)], "allow_other_workers": True}
        options = {"pure": False, **self.executor._kwargs, **where}
        asked, answer = self.client.submit(function, *args, **options), Future[Any]()
        answer.add_done_callback(lambda done: asked.cancel() if done.cancelled() else None)
        self.client.loop.add_callback(_pass_on, asked, answer)
        return answer

    def worker(self, home: int) -> str:
        """Address of the worker that is number ``home`` modulo their number."""
        asked, addresses = self._workers
        if time.monotonic() - asked > _FRESH or not addresses:
            self.client.wait_for_workers(1, timeout=_PATIENCE)
            addresses = sorted(self.client.ncores())
            self._workers = time.monotonic(), addresses
        return addresses[home % len(addresses)]

    def discard(self, reference: "_Scattered") -> None:
        """See `Carrier`."""
        reference.future = None

    def renew(self) -> None:
        """Ask who is there now."""
        self._workers = (-_FRESH, [])

    def close(self) -> None:
        """Futures that nobody refers to are released by Dask."""


async def _pass_on(asked: Any, answer: "Future[Any]") -> None:
    """From Dask's future to the other one, whatever happens: Dask's own executor forgets results that were lost."""
    try:
        result = await asked._result()
    except BaseException as error:  # noqa: BLE001
        if answer.set_running_or_notify_cancel():
            answer.set_exception(error)
    else:
        if answer.set_running_or_notify_cancel():
            answer.set_result(result)


class _Scattered:
    def __init__(self, parcel: Parcel, home: int | None) -> None:
        self.parcel, self.home = parcel, home
        self.future: Any = None


def dask_client(executor: Any) -> Any:
    """The client of Dask's executor; None for any other."""
    client = getattr(executor, "_client", None)
    return client if type(executor).__module__.startswith("distributed.") else None


def carrier_for(executor: Executor, *, same_files: bool = False) -> Carrier:
    """How objects reach the workers of an executor, whose kind is recognised.

    Parameters
    ----------
    executor : Executor
        One that is neither threads, nor `Serial`, nor Dask's counts as processes that see the same files.
    same_files : bool
        The workers of a Dask cluster see the same files.
    """
    if isinstance(executor, Serial | ThreadPoolExecutor):
        return LocalCarrier(executor)
    return DaskCarrier(executor, same_files=same_files) if dask_client(executor) else FileCarrier(executor)
