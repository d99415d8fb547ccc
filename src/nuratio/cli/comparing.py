"""The command that asks what the unbinned fit is good for: the same events in the best bins there are."""

from pathlib import Path

import click

from nuratio.cli.options import Opened, emit, model_options, pairs
from nuratio.errors import InvalidData

__all__ = ["COMMANDS"]


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.replace(",", " ").split())
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 2,5,10", ctx, parameter) from None


@click.command()
@model_options
@click.option(
    "--bins",
    default="2,5,10,20",
    show_default=True,
    callback=_numbers,
    metavar="N,N,...",
    help="Numbers of bins of each unbinned channel.",
)
@click.option(
    "--observable",
    default="profiled score",
    show_default=True,
    help="What to bin in: 'profiled score', score, density, or a stored feature.",
)
@click.option(
    "--measure",
    default="total",
    show_default=True,
    help="What bins of equal probability have equal shares of: total, background, information.",
)
@click.option("--at", multiple=True, callback=pairs, metavar="NAME=VALUE", help="Where data are expected. Repeatable.")
@click.option("--staterror", is_flag=True, help="Give binned analyses the statistics of the pool as nuisances.")
@click.option("--limits/--no-limits", default=True, show_default=True, help="Expected limits and significances, too.")
@click.option("--toys", type=click.IntRange(min=0), default=0, show_default=True, help="Toys fitted by all analyses.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the toys.")
@click.option(
    "--save-binned",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the workspace of the best binned analysis: a directory, a zip, or (.json) a pyhf workspace.",
)
@click.pass_context
def compare(
    context: click.Context,
    opened: Opened,
    output: Path | None,
    bins: tuple[int, ...],
    observable: str,
    measure: str,
    at: dict[str, float],
    staterror: bool,
    limits: bool,
    toys: int,
    seed: int,
    save_binned: Path | None,
) -> None:
    """Compare the unbinned analysis of WORKSPACE with binned ones of the same events; a table on stderr."""
    from nuratio.infer.binned.binned_twin import binned_twin
    from nuratio.infer.binned.compare import compare as run

    workspace, model, data = opened
    measurement = context.params["measurement"]
    result = run(
        workspace, model, data, measurement=measurement, bins=bins, observable=observable, measure=measure, at=at,
        staterror=staterror, limits=limits, n_toys=toys, seed=seed,
    )  # fmt: skip
    click.echo(result.table(), err=True)
    if save_binned is not None:
        best = result.best()
        edges = {name: inner.tolist() for name, inner in best.edges.items()}
        twin = binned_twin(
            workspace, edges, observable=observable, at=result.at, model=model, data=data, staterror=staterror
        )
        if save_binned.suffix == ".json":
            if "unbinned" in twin.spec:
                raise InvalidData(
                    f"{save_binned}: parameters given by expressions, or other interpolation codes, are no part of a "
                    "pyhf workspace; save to a directory"
                )
            emit(twin.spec, save_binned)
        else:
            twin.save(save_binned)
        click.echo(f"{best.title}: {save_binned}", err=True)
    emit(result.to_json(), output)


COMMANDS = (compare,)
