"""``nuratio``: from ntuples to limits.

Every command prints JSON on stdout (or writes it with ``--output``), reads a workspace from a directory or zip, and
exits with 1 and one clear message on an error. Results are read back by ``nuratio plot``, from a file or ``-``.
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

from nuratio import __version__
from nuratio.cli import comparing, formats, inference, intervals, making, operations, ranking, reporting, toys
from nuratio.errors import NuratioError

__all__ = ["cli"]

# Threads that wait without spinning: on a shared machine spinning makes training ten times slower. Read by torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class _Group(click.Group):
    """Turns nuratio's errors into one message and exit code 1, and its warnings into lines on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_once()
            try:
                return super().invoke(ctx)
            except NuratioError as error:
                click.echo(f"nuratio: {error}", err=True)
                sys.exit(1)
            except BrokenPipeError:
                sys.exit(1)
            except OSError as error:  # a disk that is full, a folder that cannot be written
                click.echo(f"nuratio: {error}", err=True)
                sys.exit(1)


def _show_once() -> Callable[..., None]:
    """Shows a warning on stderr, and no line twice."""
    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = f"nuratio: {category.__name__}: {message}"
        if line not in told:
            told.add(line)
            click.echo(line, err=True)

    return show


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="nuratio")
def cli() -> None:
    """Unbinned neural-likelihood-ratio channels beside HistFactory: train, build, fit, set limits."""


for room in (making, operations, formats, inference, comparing, toys, ranking, reporting, intervals):
    for command in room.COMMANDS:
        cli.add_command(command)
