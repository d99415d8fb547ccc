"""Commands that write and read formats of other packages."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nuratio.cli.options import emit, output_options, read_json, read_workspace, workspace_argument
from nuratio.errors import InvalidData

if TYPE_CHECKING:
    from nuratio.ratios.estimator import RatioEstimator
    from nuratio.ratios.shape import ShapeEstimator
    from nuratio.workspace.workspace import Workspace

__all__ = ["COMMANDS"]

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def export() -> None:
    """Write a workspace, its event tables, or trained ratios in a format of other packages."""


@export.command("hs3")
@workspace_argument
@click.option("--measurement", help="Only this one [default: all].")
@click.option("--explicit", is_flag=True, help="Write per-bin constraints as distributions of their own (for pyhs3).")
@click.option("--no-events", is_flag=True, help="Leave out the observed events of unbinned channels.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the JSON to this file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export_hs3(
    workspace: Path, measurement: str | None, explicit: bool, no_events: bool, output: Path | None, overwrite: bool
) -> None:
    """Write WORKSPACE as a document of the HEP statistics serialization standard."""
    from nuratio.interop.hs3 import to_hs3

    if output is not None and output.exists() and not overwrite:
        raise InvalidData(f"{output} exists; choose another --output or give --overwrite")
    ws = read_workspace(workspace)
    emit(to_hs3(ws, measurement, explicit=explicit, events=not no_events), output)


def _tables_options(command: F) -> F:
    """Arguments of the commands that write event tables."""
    command = click.option("--overwrite", is_flag=True, help="Replace what an export left there.")(command)
    command = click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="What to write.")(
        command
    )
    return workspace_argument(command)


@export.command("root")
@_tables_options
def export_root(workspace: Path, output: Path, overwrite: bool) -> None:
    """Write the event tables of WORKSPACE as trees of one ROOT file."""
    from nuratio.interop.tables import to_root

    emit({"root": str(output), "trees": to_root(read_workspace(workspace), output, overwrite=overwrite)})


@export.command("parquet")
@_tables_options
def export_parquet(workspace: Path, output: Path, overwrite: bool) -> None:
    """Write the event tables of WORKSPACE as Parquet files in one directory."""
    from nuratio.interop.tables import to_parquet

    emit({"parquet": str(output), "files": to_parquet(read_workspace(workspace), output, overwrite=overwrite)})


@export.command("onnx")
@click.argument("estimator", type=click.Path(path_type=Path))
@click.option("--cross-fitted", is_flag=True, help="Choose each event's networks by its id, as for simulated events.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export_onnx(estimator: Path, cross_fitted: bool, output: Path, overwrite: bool) -> None:
    """Write the networks in the directory ESTIMATOR (of a cache of ``nuratio train``) as one ONNX file."""
    from nuratio.ratios.onnx import export_onnx as write

    described = write(_read_estimator(estimator), output, cross_fitted=cross_fitted, overwrite=overwrite)
    emit({"onnx": str(output)} | described)


def _read_estimator(directory: Path) -> "RatioEstimator | ShapeEstimator":
    """What `RatioEstimator.save` or `ShapeEstimator.save` wrote."""
    from nuratio.ratios.estimator import RatioEstimator
    from nuratio.ratios.shape import ShapeEstimator

    document = directory / "estimator.json"
    content = read_json(document) if document.is_file() else None
    shape = isinstance(content, dict) and content.get("kind") == "shape-estimator"
    return ShapeEstimator.load(directory) if shape else RatioEstimator.load(directory)


@click.group("import")
def import_() -> None:
    """Make a workspace from a format of other packages."""


@import_.command("hs3")
@click.argument("document", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--analysis", help="Only this one [default: all].")
@click.option(
    "--tables", type=click.Path(path_type=Path), help="The workspace with the events [default: FILE's folder]."
)
@click.option(
    "--shapesys",
    type=click.Choice(["absolute", "relative"]),
    help="What a shapesys' vals are [default: relative if ROOT wrote FILE].",
)
@output_options
def import_hs3(document: Path, analysis: str | None, tables: Path | None, shapesys: str | None) -> "Workspace":
    """Make a workspace from FILE (or - for stdin), a document of the HEP statistics serialization standard."""
    from nuratio.interop.hs3 import from_hs3

    return from_hs3(read_json(document), tables or document.parent, analysis=analysis, shapesys=shapesys)


COMMANDS = (export, import_)
