"""Commands that draw toys: toys themselves, Neyman intervals, coverage, injection tests."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from nuratio.cli.options import (
    Opened,
    config_argument,
    config_options,
    emit,
    executor_options,
    model_options,
    pairs,
)

__all__ = ["COMMANDS", "or_by_toys"]

F = TypeVar("F", bound=Callable[..., Any])


def _grid(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for text in values:
        name, _, numbers = text.partition("=")
        try:
            found[name] = [float(v) for v in numbers.split(",")]
        except ValueError:
            raise click.BadParameter(f"{text!r} is not NAME=A,B,C", ctx, parameter) from None
    return found


_seed = click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the toys.")
_nuisances = click.option(
    "--nuisances",
    type=click.Choice(["fixed", "sampled"]),
    default="fixed",
    show_default=True,
    help="At one value with fluctuating auxiliary data, or drawn from the constraints.",
)
_starts = click.option(
    "--start", "starts", multiple=True, type=float, help="POI value a free fit starts from, too. Repeatable."
)
_keep = click.option("--keep", type=click.Path(path_type=Path), help="Keep the toys there; a killed run goes on.")


def or_by_toys(command: F) -> F:
    """Options of a test that can also be made by toys: the command gets ``by_toys``, the options of that, or None."""

    @wraps(command)
    def with_choice(*opened: Any, n: int | None, seed: int, keep: Path | None, **options: Any) -> Any:
        executor = options.pop("executor")
        by_toys = None if n is None else {"n": n, "seed": seed, "output": keep, "executor": executor}
        return command(*opened, by_toys=by_toys, **options)

    number = click.option("--toys", "n", type=click.IntRange(min=1), help="Count in so many toys [default: formulas].")
    return cast(F, executor_options()(number(_seed(_keep(with_choice)))))


def _number(default: int) -> Callable[[F], F]:
    return click.option("--toys", "n", type=click.IntRange(min=1), default=default, show_default=True, help="How many.")


def _tests(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in (next(iter(pairs(ctx, parameter, (text,)).items())) for text in values)]


@click.command("toys")
@model_options
@executor_options()
@_number(1000)
@click.option("--at", multiple=True, callback=pairs, metavar="NAME=VALUE", help="Where to draw. Repeatable.")
@click.option(
    "--test",
    "tests",
    multiple=True,
    callback=_tests,
    metavar="STATISTIC=VALUE",
    help="Test statistic (t, ttilde, q0, q, qtilde) and POI value. Repeatable.",
)
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the first toy.")
@_seed
@_nuisances
@_starts
@_keep
def toys_command(
    opened: Opened, output: Path | None, keep: Path | None, at: dict[str, float], n: int, **options: Any
) -> None:
    """Draw toys of WORKSPACE, the nuisances at their conditional best fit, and fit each.

    With --keep the toys go to a file of JSON lines; several of such files are parts of one run (--first).
    """
    from nuratio.infer.toys.toys import toys

    emit(toys(opened.model, at, n, data=opened.data, output=keep, **options).to_json(), output)


@click.command()
@model_options
@executor_options()
@_number(1000)
@click.option("--range", "limits", type=(float, float), required=True, help="Ends of the grid of the POI.")
@click.option("--points", type=click.IntRange(min=2), default=21, show_default=True, help="Of the grid.")
@click.option("--level", type=float, default=0.683, show_default=True, help="Confidence level.")
@click.option("--test-stat", type=click.Choice(["t", "ttilde", "q", "qtilde"]), default="t", show_default=True)
@_seed
@_nuisances
@_starts
@_keep
def neyman(
    opened: Opened,
    output: Path | None,
    keep: Path | None,
    limits: tuple[float, float],
    points: int,
    n: int,
    **options: Any,
) -> None:
    """Confidence interval of the POI of WORKSPACE by the Neyman construction, ordered by the likelihood ratio."""
    import numpy as np

    from nuratio.infer.toys.neyman import neyman as run

    values = np.linspace(*limits, points).tolist()
    emit(run(opened.model, opened.data, values, n=n, output=keep, **options).to_json(), output)


@click.command()
@model_options
@executor_options()
@_number(300)
@click.option("--grid", multiple=True, callback=_grid, metavar="NAME=A,B,C", help="True values. Repeatable.")
@click.option("--level", "levels", multiple=True, type=float, default=(0.683, 0.95), show_default=True)
@_seed
@_starts
@_keep
def coverage(
    opened: Opened, output: Path | None, keep: Path | None, grid: dict[str, list[float]], n: int, **options: Any
) -> None:
    """Coverage and bias of the intervals of WORKSPACE over all combinations of true values."""
    from nuratio.infer.toys.coverage import coverage as run
    from nuratio.infer.toys.coverage import grid_points

    result = run(opened.model, grid_points(grid), n, output=keep, **options)
    click.echo(result.verdict, err=True)
    emit(result.to_json(), output)


@click.command()
@config_argument
@click.argument("name")
@config_options
@executor_options()
@_number(300)
@click.option("--truth", multiple=True, callback=pairs, metavar="NAME=VALUE", help="What is injected. Repeatable.")
@click.option(
    "--on", multiple=True, callback=pairs, metavar="NAME=VALUE", help="Add what the model expects there. Repeatable."
)
@_seed
@_starts
@_keep
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the JSON to this file.")
def inject(
    config: Path,
    name: str,
    inputs: Path | None,
    cache: Path | None,
    device: str,
    output: Path | None,
    keep: Path | None,
    truth: dict[str, float],
    on: dict[str, float],
    n: int,
    **options: Any,
) -> None:
    """Fit the model of CONFIG to the simulation NAME of its Injections, and to toys about it."""
    from nuratio.infer.toys.injection import inject as run
    from nuratio.infer.toys.toys import hypothesis_point
    from nuratio.workspace.injection import injection

    found = injection(config, name, inputs=inputs, cache=cache, device=device)
    model = found.workspace.model(threads=1)
    expected, variance = found.main_data(model)
    if on:
        expected = expected + model.expected_actualdata(hypothesis_point(model, on, None))
    result = run(model, expected, truth, n, variance=variance, output=keep, **options)
    click.echo(str(result.expected[result.poi]), err=True)
    emit(result.to_json(), output)


COMMANDS = (toys_command, neyman, coverage, inject)
