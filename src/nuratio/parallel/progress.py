"""A progress bar on stderr for work that takes long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar", "rate_text"]

_PATIENCE = 3.0  # seconds before an unrequested bar appears


@contextmanager
def progress_bar(title: str, total: int, show: bool | None = None, *, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Yield a function to call after each of ``total`` rounds (``done`` before), with a few words on how it went.

    The bar tells the rate since it was made and the remaining time at that rate. ``show=None`` draws it only on a
    terminal and only once the work has taken three seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    bar = Progress(*columns, console=console, transient=not show)
    task = bar.add_task("", total=total, completed=done, rate="")
    begin, rounds = time.monotonic(), 0
    if show:
        bar.start()

    def advance(words: str) -> None:
        nonlocal rounds
        rounds += 1
        passed = time.monotonic() - begin
        bar.update(task, advance=1, description=words, rate=rate_text(rounds, passed))
        if show is None and console.is_terminal and passed > _PATIENCE and not bar.live.is_started:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def rate_text(rounds: int, seconds: float) -> str:
    """Rounds per second, or per minute where that is less than one."""
    if seconds <= 0:
        return ""
    rate = rounds / seconds
    return f"{rate:.3g}/s" if rate >= 1 else f"{60 * rate:.3g}/min"
