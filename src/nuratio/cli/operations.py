"""Commands that make workspaces from workspaces."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nuratio.cli.options import emit, output_options, read_json, read_workspace, workspace_argument

if TYPE_CHECKING:
    from nuratio.workspace.workspace import Workspace

__all__ = ["COMMANDS"]

F = TypeVar("F", bound=Callable[..., Any])


def _names_options(*kinds: str, pairs: bool = False) -> Callable[[F], F]:
    """A repeatable option for each kind of name, passed on as a list, or with ``pairs`` as a dict old -> new."""

    def collect(ctx: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> Any:
        return dict(values) if pairs else list(values)

    def decorate(command: F) -> F:
        for kind in reversed(kinds):
            command = click.option(
                f"--{kind.replace(' ', '-')}",
                f"{kind.replace(' ', '_')}s",
                type=(str, str) if pairs else str,
                metavar="OLD NEW" if pairs else "NAME",
                multiple=True,
                callback=collect,
                help=f"A {kind}. Repeatable.",
            )(command)
        return command

    return decorate


@click.command()
@workspace_argument
@click.argument("channel")
@click.option("--split", type=click.IntRange(min=1), default=1, show_default=True, help="Events for each bin.")
@output_options
def unbin(workspace: Path, channel: str, split: int) -> "Workspace":
    """Rewrite a binned CHANNEL as an unbinned one with piecewise-constant ratios: the same likelihood."""
    return read_workspace(workspace).unbin(channel, split=split)


@click.command()
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option(
    "--join",
    type=click.Choice(["none", "outer", "left outer", "right outer"]),
    default="none",
    show_default=True,
    help="What to do with channels and measurements that both have, as in pyhf.",
)
@click.option("--merge-channels", is_flag=True, help="Join the samples of binned channels that both have.")
@output_options
def combine(left: Path, right: Path, join: str, merge_channels: bool) -> "Workspace":
    """Combine the workspaces LEFT and RIGHT; parameters of the same name are shared."""
    from nuratio.workspace.operations import combine as run

    return run(read_workspace(left), read_workspace(right), join, merge_channels)


@click.command()
@workspace_argument
@_names_options("modifier", "modifier type", "sample", "channel", "measurement")
@output_options
def prune(workspace: Path, **names: list[str]) -> "Workspace":
    """Remove parts of WORKSPACE; the modifier type ratiosys is that of the per-event ones."""
    return read_workspace(workspace).prune(**names)


@click.command()
@workspace_argument
@_names_options("modifier", "sample", "channel", "measurement", pairs=True)
@output_options
def rename(workspace: Path, **names: dict[str, str]) -> "Workspace":
    """Rename parts of WORKSPACE: the same likelihood under other names."""
    return read_workspace(workspace).rename(**names)


@click.command()
@workspace_argument
@click.argument("operations", metavar="PATCH", type=click.Path(path_type=Path))
@output_options
def patch(workspace: Path, operations: Path) -> "Workspace":
    """Apply the JSON patch PATCH (a file, or - for stdin) to WORKSPACE; event tables are kept."""
    return read_workspace(workspace).patch(read_json(operations))


@click.command()
@workspace_argument
@click.option("--algorithm", default="sha256", show_default=True, help="A hash of Python's hashlib.")
def digest(workspace: Path, algorithm: str) -> None:
    """Checksum of what WORKSPACE means, whatever the order of its parts."""
    emit({algorithm: read_workspace(workspace).digest(algorithm)})


COMMANDS = (unbin, combine, prune, rename, patch, digest)
