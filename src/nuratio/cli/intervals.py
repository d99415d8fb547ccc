"""Commands for confidence intervals and contours."""

from pathlib import Path
from typing import Any

import click

from nuratio.cli.options import Opened, asymptotics_option, emit, model_options

__all__ = ["COMMANDS"]


@click.command()
@model_options
@click.option("--parameter", help="Of which parameter [default: the POI].")
@click.option("--level", "levels", type=float, multiple=True, help="Confidence level [default: 0.683]. Repeatable.")
@click.option("--points", type=click.IntRange(min=3), default=31, show_default=True, help="Of the scan.")
@click.option("--range", "limits", type=(float, float), help="Ends of the scan [default: the parameter's bounds].")
@asymptotics_option
def interval(
    opened: Opened,
    output: Path | None,
    parameter: str | None,
    levels: tuple[float, ...],
    points: int,
    limits: tuple[float, float] | None,
    asymptotics: str,
) -> None:
    """Profile-likelihood intervals of one parameter, in all pieces."""
    from nuratio.infer.fitting.fit import require_poi
    from nuratio.infer.profiles.intervals import interval as run

    _, model, data = opened
    name = require_poi(model) if parameter is None else parameter
    options: dict[str, Any] = {} if limits is None else {"bounds": {name: limits}}
    result = run(model, data, name, level=levels or 0.683, points=points, asymptotics=asymptotics, **options)
    emit(result.to_json(), output)


@click.command()
@model_options
@click.option("--parameters", type=(str, str), required=True, help="The two parameters.")
@click.option("--level", "levels", type=float, multiple=True, help="[default: 0.683, 0.954] Repeatable.")
@click.option("--points", type=click.IntRange(min=4), default=24, show_default=True, help="Across a contour.")
@asymptotics_option
def contour(
    opened: Opened,
    output: Path | None,
    parameters: tuple[str, str],
    levels: tuple[float, ...],
    points: int,
    asymptotics: str,
) -> None:
    """Profile-likelihood contours of two parameters, all others profiled."""
    from nuratio.infer.profiles.contour import contour as run

    _, model, data = opened
    result = run(model, data, parameters, levels or (0.683, 0.954), points=points, asymptotics=asymptotics)
    emit(result.to_json(), output)


COMMANDS = (interval, contour)
