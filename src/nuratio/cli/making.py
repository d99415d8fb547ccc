"""Commands that make a workspace: from ntuples over networks, and checks on the way."""

import sys
from pathlib import Path
from typing import Any

import click

from nuratio.cli.options import (
    config_argument,
    config_options,
    emit,
    executor_options,
    read_workspace,
    summary,
    workspace_argument,
)
from nuratio.errors import InvalidConfig

__all__ = ["COMMANDS"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default="demo")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of generation and training.")
@click.option("--no-plots", is_flag=True, help="Draw nothing.")
def demo(directory: Path, seed: int, no_plots: bool) -> None:
    """Generate ntuples with exact densities, train, build, fit and set a limit; compare with the exact likelihood."""
    from nuratio.demo.run import run_demo

    emit(run_demo(directory, seed=seed, plots=not no_plots))


@click.command()
@config_argument
@config_options
@executor_options("none besides this one")
def train(config: Path, inputs: Path | None, cache: Path | None, device: str, executor: Any) -> None:
    """Train every network CONFIG asks for; what is in the cache is not trained again."""
    from nuratio.workspace.train import train_all

    trained = train_all(config, inputs=inputs, cache=cache, device=device, executor=executor)
    emit({region: {"trained": t.new, "cache": dict(t.keys), "report": t.ratio.report} for region, t in trained.items()})


@click.command()
@config_argument
@config_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file [default: stdout].")
@click.option("--report", type=click.Path(path_type=Path), help="Also write a page of HTML with pictures.")
def check(
    config: Path, inputs: Path | None, cache: Path | None, device: str, output: Path | None, report: Path | None
) -> None:
    """Check what CONFIG trains, on events no network has seen; fails (exit code 2) if a check does.

    Observed data are fitted to see how far single networks move the result; the result itself is not told.
    """
    from nuratio.checks.run import check_analysis

    if report is not None:
        from nuratio.plots.checks import write_page
        from nuratio.plots.save import in_folder

        in_folder(report)  # what is wrong with it, or without matplotlib, is said before the work
    reports = check_analysis(config, inputs=inputs, cache=cache, device=device)
    for region, found in reports.items():
        click.echo(f"{region}\n{found}\n", err=True)
    emit({region: found.to_dict() for region, found in reports.items()}, output)
    if report is not None:
        write_page(reports, report, title=f"nuratio check {config}")
    if not all(found.passed for found in reports.values()):
        sys.exit(2)


@click.command()
@config_argument
@config_options
@executor_options("none besides this one")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The workspace [default: CONFIG's name].")
@click.option("--overwrite", is_flag=True, help="Replace an existing workspace.")
def build(
    config: Path,
    inputs: Path | None,
    cache: Path | None,
    device: str,
    executor: Any,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Build the workspace of CONFIG, training what is missing."""
    from nuratio.workspace.build import build as build_workspace

    target = Path(config.stem) if output is None else output
    if target.exists() and not overwrite:
        raise InvalidConfig(f"{target} exists; choose another --output or give --overwrite")
    workspace = build_workspace(config, inputs=inputs, cache=cache, device=device, executor=executor)
    workspace.save(target, overwrite=overwrite)
    emit({"workspace": str(target)} | summary(workspace))


@click.command()
@click.argument("workspace", type=click.Path(path_type=Path), required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of a workspace's key `unbinned` instead.")
def validate(workspace: Path | None, schema: bool) -> None:
    """Check WORKSPACE: schema, names, checksums, NaN, positive densities. All problems are listed."""
    from nuratio.workspace.validate import schema as published

    if schema == (workspace is not None):
        raise click.UsageError("give a WORKSPACE, or --schema")
    if workspace is None:
        emit(published())
        return
    ws = read_workspace(workspace)
    ws.validate()
    emit({"workspace": str(workspace), "valid": True})


@click.command()
@workspace_argument
def inspect(workspace: Path) -> None:
    """Say what is in WORKSPACE: channels, samples, yields, parameters, events."""

    emit(summary(read_workspace(workspace)))


COMMANDS = (demo, train, check, build, validate, inspect)
