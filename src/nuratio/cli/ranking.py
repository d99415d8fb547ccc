"""Commands that say where an uncertainty comes from: the ranking of the nuisances, and the breakdown."""

from pathlib import Path
from typing import Any

import click

from nuratio.cli.options import Opened, emit, executor_options, model_options

__all__ = ["COMMANDS"]


def _groups(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[str]]:
    """Callback of options NAME=PATTERN,PATTERN; a name that comes again gets more patterns."""
    found: dict[str, list[str]] = {}
    for text in values:
        name, _, patterns = text.partition("=")
        if not (name and patterns and all(patterns.split(","))):
            raise click.BadParameter(f"{text!r} is not NAME=PATTERN,PATTERN", ctx, parameter)
        found.setdefault(name, []).extend(patterns.split(","))
    return found


@click.command()
@model_options
@click.option(
    "--method",
    type=click.Choice(["refit", "auxdata", "covariance"]),
    default="refit",
    show_default=True,
    help="Impacts by refits or from the covariance, or components from refits to shifted auxiliary data.",
)
@click.option("--top", type=click.IntRange(min=1), help="Print so many parameters [default: all].")
@executor_options("none besides this one")
def ranking(opened: Opened, output: Path | None, method: Any, top: int | None, executor: Any) -> None:
    """Rank the nuisances of WORKSPACE by what they do to the POI."""
    from nuratio.infer.impacts.ranking import ranking as run

    _, model, data = opened
    result = run(model, data, method=method, executor=executor)
    emit((result if top is None else result.page(1, top)).to_json(), output)


@click.command()
@model_options
@click.option(
    "--group",
    "groups",
    multiple=True,
    callback=_groups,
    metavar="NAME=PATTERN,PATTERN",
    help="A group of nuisances, by names or glob patterns. Repeatable; the rest is grouped by type.",
)
@click.option(
    "--method",
    type=click.Choice(["covariance", "auxdata", "freeze", "cumulative"]),
    default="covariance",
    show_default=True,
    help="Components, linear or by refits; or what is lost with groups held, alone or in turn.",
)
@click.option(
    "--statistics",
    type=click.Choice(["hessian", "score"]),
    default="hessian",
    show_default=True,
    help="What the data contribute: their part of the curvature, or the scatter of their score.",
)
@click.option(
    "--bootstraps", type=click.IntRange(min=0), default=0, show_default=True, help="Fits that tell the statistics."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the bootstraps.")
@executor_options("none besides this one")
def breakdown(
    opened: Opened,
    output: Path | None,
    groups: dict[str, list[str]],
    method: Any,
    statistics: Any,
    bootstraps: int,
    seed: int,
    executor: Any,
) -> None:
    """Break the uncertainty of the POI down into statistics, groups of nuisances and simulation; a table on stderr."""
    from nuratio.infer.impacts.breakdown import breakdown as run

    _, model, data = opened
    options: dict[str, Any] = {
        "statistics": statistics,
        "bootstraps": bootstraps,
        "seed": seed,
        "executor": executor,
    }
    result = run(model, data, groups, method=method, **options)
    click.echo(str(result), err=True)
    emit(result.to_json(), output)


COMMANDS = (ranking, breakdown)
