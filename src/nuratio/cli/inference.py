"""Commands that draw conclusions from a workspace: fits, scans, tests, limits; and pictures of their results."""

import sys
from pathlib import Path
from typing import Any

import click

from nuratio.cli.options import Opened, asymptotics_option, emit, model_options, pairs, test_stat_option
from nuratio.cli.toys import or_by_toys
from nuratio.errors import InvalidData

__all__ = ["COMMANDS"]


@click.command()
@model_options
@click.option("--fix", multiple=True, callback=pairs, metavar="NAME=VALUE", help="Hold a parameter. Repeatable.")
@click.option("--minos", multiple=True, metavar="NAME", help="MINOS interval of a parameter. Repeatable.")
def fit(
    opened: Opened,
    output: Path | None,
    fix: dict[str, float],
    minos: tuple[str, ...],
) -> None:
    """Maximum-likelihood fit of WORKSPACE; the POI with its errors on stderr."""
    from nuratio.infer.fitting.fit import fit as run

    _, model, data = opened
    result = run(model, data, fixed=fix, minos=minos)
    if model.config.poi_name is not None:
        click.echo(str(result[model.config.poi_name]), err=True)
    emit(result.to_json(), output)


@click.command()
@model_options
@click.option("--parameter", help="What to scan [default: the POI].")
@click.option("--points", type=click.IntRange(min=2), default=41, show_default=True)
@click.option("--range", "limits", type=(float, float), help="Ends of the scan [default: 3 standard deviations].")
def scan(
    opened: Opened,
    output: Path | None,
    parameter: str | None,
    points: int,
    limits: tuple[float, float] | None,
) -> None:
    """Profile-likelihood scan of one parameter."""
    import numpy as np

    from nuratio.infer.profiles.scan import scan as run

    _, model, data = opened
    values = None if limits is None else np.linspace(*limits, points).tolist()
    emit(run(model, data, parameter, values, points=points).to_json(), output)


@click.command()
@model_options
@click.option("--poi-value", type=float, default=1.0, show_default=True, help="The tested value.")
@test_stat_option
@or_by_toys
@asymptotics_option
def cls(
    opened: Opened,
    output: Path | None,
    poi_value: float,
    test_stat: str,
    by_toys: dict[str, Any] | None,
    asymptotics: str,
) -> None:
    """CLs of one POI value, observed and expected: asymptotic, or counted in toys."""
    from nuratio.infer.hypotheses.hypotest import hypotest
    from nuratio.infer.toys.p_values import toy_hypotest

    _, model, data = opened
    if by_toys is None:
        found: Any = hypotest(model, data, poi_value, test_stat=test_stat, asymptotics=asymptotics)
    else:
        found = toy_hypotest(model, data, poi_value, test_stat=test_stat, **by_toys)
    emit(found.to_json(), output)


@click.command()
@model_options
@click.option("--level", type=float, default=0.05, show_default=True, help="1 - confidence level.")
@test_stat_option
@or_by_toys
@asymptotics_option
def limit(
    opened: Opened,
    output: Path | None,
    level: float,
    test_stat: str,
    by_toys: dict[str, Any] | None,
    asymptotics: str,
) -> None:
    """CLs upper limit on the POI, observed and expected: asymptotic, or counted in toys."""
    from nuratio.infer.hypotheses.limits import upper_limit
    from nuratio.infer.toys.p_values import toy_limit

    _, model, data = opened
    if by_toys is None:
        found: Any = upper_limit(model, data, level=level, test_stat=test_stat, asymptotics=asymptotics)
    else:
        found = toy_limit(model, data, level=level, test_stat=test_stat, **by_toys)
    emit(found.to_json(), output)


@click.command()
@model_options
@click.option("--expected-at", type=float, default=1.0, show_default=True, help="POI of the expected significance.")
@or_by_toys
@asymptotics_option
def significance(
    opened: Opened,
    output: Path | None,
    expected_at: float,
    by_toys: dict[str, Any] | None,
    asymptotics: str,
) -> None:
    """Discovery significance, observed and (by the asymptotic formulas) expected."""
    from nuratio.infer.hypotheses.hypotest import significance as run
    from nuratio.infer.toys.p_values import toy_significance

    _, model, data = opened
    if by_toys is None:
        found: Any = run(model, data, expected_at=expected_at, asymptotics=asymptotics)
    else:
        found = toy_significance(model, data, **by_toys)
    emit(found.to_json(), output)


@click.command()
@model_options
@click.option("--channel", required=True, help="The channel to draw.")
@click.option("--feature", help="Feature of an unbinned channel [default: the first].")
@click.option("--bins", type=click.IntRange(min=1), default=30, show_default=True, help="Of an unbinned channel.")
@click.option("--range", "limits", type=(float, float), help="Range of the feature [default: that of the data].")
def project(
    opened: Opened,
    output: Path | None,
    channel: str,
    feature: str | None,
    bins: int,
    limits: tuple[float, float] | None,
) -> None:
    """Fit, and histogram data and fitted samples of a channel in a feature (for ``nuratio plot``)."""
    import numpy as np

    from nuratio.infer.binned.projection import project as histogram
    from nuratio.infer.fitting.fit import fit as run

    ws, model, data = opened
    edges: Any = bins if limits is None else np.linspace(*limits, bins + 1)
    if channel in ws.axes:
        feature, edges = ws.axes[channel]["name"], ws.axes[channel]["edges"]
    emit(histogram(model, data, run(model, data), channel, feature, edges).to_json(), output)


def _projections(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in values:
        try:
            channel, feature, bins = text.rsplit(":", 2)
            edges = [float(edge) for edge in bins.split(",")]
            found[channel] = (feature, int(bins) if len(edges) == 1 else edges)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not CHANNEL:FEATURE:BINS", ctx, parameter) from None
    return found


@click.command()
@model_options
@click.option(
    "--projection",
    "projections",
    multiple=True,
    callback=_projections,
    metavar="CHANNEL:FEATURE:BINS",
    help="An unbinned channel's feature and number of bins, or edges a,b,c. Repeatable, one for each such channel.",
)
@click.option(
    "--test",
    type=click.Choice(["projection", "score", "density", "distance"]),
    default="projection",
    show_default=True,
    help="In bins of a feature, of the learned score or density, or a distance without bins.",
)
@click.option("--bins", type=click.IntRange(min=1), help="Of the learned score or density [default: 20 or fewer].")
@click.option("--toys", type=click.IntRange(min=0), default=200, show_default=True, help="Toys to draw and fit.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the toys.")
def gof(
    opened: Opened,
    output: Path | None,
    projections: dict[str, Any],
    test: str,
    bins: int | None,
    toys: int,
    seed: int,
) -> None:
    """Goodness of the fit of WORKSPACE: saturated model or distance, p-value from toys."""
    from nuratio.infer.fitting.fit import fit as run
    from nuratio.infer.goodness.goodness import goodness_of_fit

    _, model, data = opened
    best = run(model, data)
    result = goodness_of_fit(model, data, best, projections or None, test=test, bins=bins, n_toys=toys, seed=seed)
    emit(result.to_json(), output)


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--log", is_flag=True, help="Logarithmic y axis, where there is one.")
def plot(result: Path, picture: Path, log: bool) -> None:
    """Draw RESULT (a JSON file, or - for stdin) into PICTURE (.png, .pdf, .svg): limit, scan, fit or projection."""
    from nuratio.infer.results import load_result

    if str(result) != "-" and not result.is_file():
        raise InvalidData(f"no result file {result}")
    content = load_result(sys.stdin.read() if str(result) == "-" else result)
    from nuratio.plots.save import save_plot

    save_plot(content, picture, log=log)
    emit({"picture": str(picture)})


COMMANDS = (fit, scan, cls, limit, significance, project, gof, plot)
