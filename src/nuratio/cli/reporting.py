"""The command that puts everything on one page."""

from pathlib import Path
from typing import Any

import click

from nuratio.cli.options import Opened, emit, executor_options, model_options, read_json

__all__ = ["COMMANDS"]


@click.command()
@model_options
@executor_options()
@click.argument("page", type=click.Path(path_type=Path))
@click.option("--title", default="Statistical report", show_default=True)
@click.option(
    "--toys", type=click.IntRange(min=0), default=0, show_default=True, help="For coverage, p0, goodness of fit."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the toys.")
@click.option("--checks", type=click.Path(path_type=Path), help="JSON of `nuratio check`, to be shown with the rest.")
def report(opened: Opened, page: Path, output: Path | None, checks: Path | None, **options: Any) -> None:
    """Everything about WORKSPACE as one PAGE of HTML: yields, fit, ranking, limits, goodness of fit, provenance.

    All numbers of the page are printed as JSON, too.
    """
    from nuratio.infer.report import statistical_report
    from nuratio.plots.report import write_report
    from nuratio.plots.save import in_folder

    in_folder(page)
    found = read_json(checks) if checks is not None else None
    result = statistical_report(*opened, checks=found, **options)
    write_report(result, page)
    for note in result.notes:
        click.echo(f"nuratio: {note}", err=True)
    emit(result.to_json(), output)


COMMANDS = (report,)
