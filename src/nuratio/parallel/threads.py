"""Work that is spread over workers uses one thread in each: what else would start threads asks here."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["one_thread", "thread_limit"]

_limit: ContextVar[int | None] = ContextVar("nuratio_threads", default=None)


@contextmanager
def one_thread() -> Iterator[None]:
    """What runs inside, in this thread, starts no others of nuratio's."""
    token = _limit.set(1)
    try:
        yield
    finally:
        _limit.reset(token)


def thread_limit() -> int | None:
    """How many threads may be used; None where there is no limit."""
    return _limit.get()
