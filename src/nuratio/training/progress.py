"""A progress bar on stderr for trainings that take long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]

_PATIENCE = 3.0  # seconds before an unrequested bar appears


@contextmanager
def progress_bar(title: str, total: int, show: bool | None = None, *, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Yield a function to call after each of ``total`` rounds (``done`` before), with a few words on how it went.

    ``show=None`` draws the bar only on a terminal and only once the work has taken three seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=not show)
    task = bar.add_task("", total=total, completed=done)
    begin = time.monotonic()
    if show:
        bar.start()

    def advance(words: str) -> None:
        bar.update(task, advance=1, description=words)
        if show is None and console.is_terminal and time.monotonic() - begin > _PATIENCE:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
