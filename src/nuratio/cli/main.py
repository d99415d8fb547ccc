"""``nuratio``: from ntuples to limits.

Every command prints JSON on stdout (or writes it with ``--output``), reads a workspace from a directory or zip, and
exits with 1 and one clear message on an error. Results are read back by ``nuratio plot``, from a file or ``-``.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

from nuratio import __version__
from nuratio.errors import InvalidConfig, InvalidData, NuratioError

if TYPE_CHECKING:
    from nuratio.model.model import Model
    from nuratio.ratios.estimator import RatioEstimator
    from nuratio.ratios.shape import ShapeEstimator
    from nuratio.workspace.workspace import Workspace

__all__ = ["cli"]

# Threads that wait without spinning: on a shared machine spinning makes training ten times slower. Read by torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

F = TypeVar("F", bound=Callable[..., Any])


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


# --- shared options

_config_argument = click.argument("config", type=click.Path(path_type=Path))
_workspace_argument = click.argument("workspace", type=click.Path(path_type=Path))


def _config_options(command: F) -> F:
    command = click.option(
        "--device", default="cpu", show_default=True, help="Where networks learn: cpu, or a device such as cuda."
    )(command)
    command = click.option(
        "--cache",
        type=click.Path(path_type=Path),
        help="Trained networks [default: CONFIG.nuratio-cache].",
    )(command)
    return click.option(
        "--inputs", type=click.Path(path_type=Path), help="Directory of the ntuples, instead of the config's InputPath."
    )(command)


class _Opened(NamedTuple):
    """What the options of `_model_options` stand for."""

    workspace: "Workspace"
    model: "Model"
    data: Any


def _model_options(command: F) -> F:
    """Options of the commands that use a model; the command gets it opened, as its first argument."""

    @wraps(command)
    def with_model(**options: Any) -> Any:
        names = ("workspace", "measurement", "poi", "asimov", "device", "threads")
        opened = _open(**{name: options.pop(name) for name in names})
        return command(opened, **options)

    for option in (
        click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the JSON to this file."),
        click.option("--threads", type=click.IntRange(min=1), help="Of the likelihood [default: all processors]."),
        click.option("--device", default="cpu", show_default=True, help="Where events are evaluated: cpu, or cuda."),
        click.option(
            "--asimov", type=float, help="Fit the Asimov data of this POI value (nuisances nominal), not the observed."
        ),
        click.option("--poi", help="Another parameter of interest."),
        click.option("--measurement", help="Name of the measurement [default: the first]."),
        _workspace_argument,
    ):
        with_model = option(with_model)
    return cast(F, with_model)


def _open(
    workspace: Path, measurement: str | None, poi: str | None, asimov: float | None, device: str, threads: int | None
) -> _Opened:
    import numpy as np

    from nuratio.infer.fit import require_poi

    ws = _read_workspace(workspace)
    model = ws.model(measurement, poi="" if poi is None else poi, device=device, threads=threads)
    if asimov is None:
        return _Opened(ws, model, ws.data(model))
    pars = np.array(model.config.suggested_init())
    pars[model.config.par_names.index(require_poi(model))] = asimov
    return _Opened(ws, model, model.asimov(pars))


def _emit(content: Any, output: Path | None = None) -> None:
    text = content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False)
    if output is None:
        click.echo(text)
        return
    from nuratio.ratios.storage import write_whole

    write_whole(output, (text + "\n").encode())


def _pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    pairs = {}
    for text in values:
        name, _, value = text.partition("=")
        try:
            pairs[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER", ctx, parameter) from None
    return pairs


# --- making a workspace


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path), default="demo")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of generation and training.")
@click.option("--no-plots", is_flag=True, help="Draw nothing.")
def demo(directory: Path, seed: int, no_plots: bool) -> None:
    """Generate ntuples with exact densities, train, build, fit and set a limit; compare with the exact likelihood."""
    from nuratio.demo.run import run_demo

    _emit(run_demo(directory, seed=seed, plots=not no_plots))


@cli.command()
@_config_argument
@_config_options
def train(config: Path, inputs: Path | None, cache: Path | None, device: str) -> None:
    """Train every network CONFIG asks for; what is in the cache is not trained again."""
    from nuratio.workspace.train import train_all

    trained = train_all(config, inputs=inputs, cache=cache, device=device)
    _emit(
        {region: {"trained": t.new, "cache": dict(t.keys), "report": t.ratio.report} for region, t in trained.items()}
    )


@cli.command()
@_config_argument
@_config_options
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
    _emit({region: found.to_dict() for region, found in reports.items()}, output)
    if report is not None:
        write_page(reports, report, title=f"nuratio check {config}")
    if not all(found.passed for found in reports.values()):
        sys.exit(2)


@cli.command()
@_config_argument
@_config_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The workspace [default: CONFIG's name].")
@click.option("--overwrite", is_flag=True, help="Replace an existing workspace.")
def build(
    config: Path, inputs: Path | None, cache: Path | None, device: str, output: Path | None, overwrite: bool
) -> None:
    """Build the workspace of CONFIG, training what is missing."""
    from nuratio.workspace.build import build as build_workspace

    target = Path(config.stem) if output is None else output
    if target.exists() and not overwrite:
        raise InvalidConfig(f"{target} exists; choose another --output or give --overwrite")
    workspace = build_workspace(config, inputs=inputs, cache=cache, device=device)
    workspace.save(target, overwrite=overwrite)
    _emit({"workspace": str(target)} | _summary(workspace))


@cli.command()
@click.argument("workspace", type=click.Path(path_type=Path), required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of a workspace's key `unbinned` instead.")
def validate(workspace: Path | None, schema: bool) -> None:
    """Check WORKSPACE: schema, names, checksums, NaN, positive densities. All problems are listed."""
    from nuratio.workspace.validate import schema as published

    if schema == (workspace is not None):
        raise click.UsageError("give a WORKSPACE, or --schema")
    if workspace is None:
        _emit(published())
        return
    ws = _read_workspace(workspace)
    ws.validate()
    _emit({"workspace": str(workspace), "valid": True})


@cli.command()
@_workspace_argument
def inspect(workspace: Path) -> None:
    """Say what is in WORKSPACE: channels, samples, yields, parameters, events."""

    _emit(_summary(_read_workspace(workspace)))


def _summary(workspace: "Workspace") -> dict[str, Any]:
    channels = {}
    for channel in workspace.spec["channels"]:
        name = channel["name"]
        entry: dict[str, Any] = {
            "type": "unbinned" if name in workspace.unbinned else "binned",
            "bins": len(channel["samples"][0]["data"]),
            "yields": {s["name"]: sum(s["data"]) for s in channel["samples"]},
            "observed": sum(next(o["data"] for o in workspace.spec["observations"] if o["name"] == name)),
        }
        if name in workspace.unbinned:
            events = workspace.unbinned[name]["events"]
            entry["pool events"] = len(workspace.tables[events["pool"]["file"]])
        channels[name] = entry
    model = workspace.model()
    return {
        "measurements": workspace.measurements,
        "poi": model.config.poi_name,
        "parameters": model.config.par_names,
        "channels": channels,
    }


# --- workspaces from workspaces


def _read_workspace(path: Path) -> "Workspace":
    """A workspace directory or zip, or a pyhf workspace (.json)."""
    from nuratio.workspace.workspace import Workspace

    if path.suffix == ".json" and path.is_file():
        return Workspace.from_pyhf(_read_json(path))
    return Workspace.load(path)


def _read_json(path: Path) -> Any:
    from nuratio.workspace.strict_json import parse_json

    return parse_json(sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes(), str(path))


def _output_options(command: F) -> F:
    """Options of the commands that write a workspace; the command returns it."""

    @wraps(command)
    def with_output(output: Path, overwrite: bool, **options: Any) -> None:
        new = command(**options)
        new.save(output, overwrite=overwrite)
        _emit({"workspace": str(output)} | _summary(new))

    with_output = click.option("--overwrite", is_flag=True, help="Replace an existing workspace.")(with_output)
    with_output = click.option(
        "-o", "--output", type=click.Path(path_type=Path), required=True, help="The new workspace: a directory or zip."
    )(with_output)
    return cast(F, with_output)


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


@cli.command()
@_workspace_argument
@click.argument("channel")
@click.option("--split", type=click.IntRange(min=1), default=1, show_default=True, help="Events for each bin.")
@_output_options
def unbin(workspace: Path, channel: str, split: int) -> "Workspace":
    """Rewrite a binned CHANNEL as an unbinned one with piecewise-constant ratios: the same likelihood."""
    return _read_workspace(workspace).unbin(channel, split=split)


@cli.command()
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
@_output_options
def combine(left: Path, right: Path, join: str, merge_channels: bool) -> "Workspace":
    """Combine the workspaces LEFT and RIGHT; parameters of the same name are shared."""
    from nuratio.workspace.operations import combine as run

    return run(_read_workspace(left), _read_workspace(right), join, merge_channels)


@cli.command()
@_workspace_argument
@_names_options("modifier", "modifier type", "sample", "channel", "measurement")
@_output_options
def prune(workspace: Path, **names: list[str]) -> "Workspace":
    """Remove parts of WORKSPACE; the modifier type ratiosys is that of the per-event ones."""
    return _read_workspace(workspace).prune(**names)


@cli.command()
@_workspace_argument
@_names_options("modifier", "sample", "channel", "measurement", pairs=True)
@_output_options
def rename(workspace: Path, **names: dict[str, str]) -> "Workspace":
    """Rename parts of WORKSPACE: the same likelihood under other names."""
    return _read_workspace(workspace).rename(**names)


@cli.command()
@_workspace_argument
@click.argument("operations", metavar="PATCH", type=click.Path(path_type=Path))
@_output_options
def patch(workspace: Path, operations: Path) -> "Workspace":
    """Apply the JSON patch PATCH (a file, or - for stdin) to WORKSPACE; event tables are kept."""
    return _read_workspace(workspace).patch(_read_json(operations))


@cli.command()
@_workspace_argument
@click.option("--algorithm", default="sha256", show_default=True, help="A hash of Python's hashlib.")
def digest(workspace: Path, algorithm: str) -> None:
    """Checksum of what WORKSPACE means, whatever the order of its parts."""
    _emit({algorithm: _read_workspace(workspace).digest(algorithm)})


# --- other formats


@cli.group()
def export() -> None:
    """Write a workspace, its event tables, or trained ratios in a format of other packages."""


@export.command("hs3")
@_workspace_argument
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
    ws = _read_workspace(workspace)
    _emit(to_hs3(ws, measurement, explicit=explicit, events=not no_events), output)


def _tables_options(command: F) -> F:
    """Arguments of the commands that write event tables."""
    command = click.option("--overwrite", is_flag=True, help="Replace what an export left there.")(command)
    command = click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="What to write.")(
        command
    )
    return _workspace_argument(command)


@export.command("root")
@_tables_options
def export_root(workspace: Path, output: Path, overwrite: bool) -> None:
    """Write the event tables of WORKSPACE as trees of one ROOT file."""
    from nuratio.interop.tables import to_root

    _emit({"root": str(output), "trees": to_root(_read_workspace(workspace), output, overwrite=overwrite)})


@export.command("parquet")
@_tables_options
def export_parquet(workspace: Path, output: Path, overwrite: bool) -> None:
    """Write the event tables of WORKSPACE as Parquet files in one directory."""
    from nuratio.interop.tables import to_parquet

    _emit({"parquet": str(output), "files": to_parquet(_read_workspace(workspace), output, overwrite=overwrite)})


@export.command("onnx")
@click.argument("estimator", type=click.Path(path_type=Path))
@click.option("--cross-fitted", is_flag=True, help="Choose each event's networks by its id, as for simulated events.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export_onnx(estimator: Path, cross_fitted: bool, output: Path, overwrite: bool) -> None:
    """Write the networks in the directory ESTIMATOR (of a cache of ``nuratio train``) as one ONNX file."""
    from nuratio.ratios.onnx import export_onnx as write

    described = write(_read_estimator(estimator), output, cross_fitted=cross_fitted, overwrite=overwrite)
    _emit({"onnx": str(output)} | described)


def _read_estimator(directory: Path) -> "RatioEstimator | ShapeEstimator":
    """What `RatioEstimator.save` or `ShapeEstimator.save` wrote."""
    from nuratio.ratios.estimator import RatioEstimator
    from nuratio.ratios.shape import ShapeEstimator

    document = directory / "estimator.json"
    content = _read_json(document) if document.is_file() else None
    shape = isinstance(content, dict) and content.get("kind") == "shape-estimator"
    return ShapeEstimator.load(directory) if shape else RatioEstimator.load(directory)


@cli.group("import")
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
@_output_options
def import_hs3(document: Path, analysis: str | None, tables: Path | None, shapesys: str | None) -> "Workspace":
    """Make a workspace from FILE (or - for stdin), a document of the HEP statistics serialization standard."""
    from nuratio.interop.hs3 import from_hs3

    return from_hs3(_read_json(document), tables or document.parent, analysis=analysis, shapesys=shapesys)


# --- inference


@cli.command()
@_model_options
@click.option("--fix", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Hold a parameter. Repeatable.")
@click.option("--minos", multiple=True, metavar="NAME", help="MINOS interval of a parameter. Repeatable.")
def fit(
    opened: _Opened,
    output: Path | None,
    fix: dict[str, float],
    minos: tuple[str, ...],
) -> None:
    """Maximum-likelihood fit of WORKSPACE; the POI with its errors on stderr."""
    from nuratio.infer.fit import fit as run

    _, model, data = opened
    result = run(model, data, fixed=fix, minos=minos)
    if model.config.poi_name is not None:
        click.echo(str(result[model.config.poi_name]), err=True)
    _emit(result.to_json(), output)


@cli.command()
@_model_options
@click.option("--parameter", help="What to scan [default: the POI].")
@click.option("--points", type=click.IntRange(min=2), default=41, show_default=True)
@click.option("--range", "limits", type=(float, float), help="Ends of the scan [default: 3 standard deviations].")
def scan(
    opened: _Opened,
    output: Path | None,
    parameter: str | None,
    points: int,
    limits: tuple[float, float] | None,
) -> None:
    """Profile-likelihood scan of one parameter."""
    import numpy as np

    from nuratio.infer.scan import scan as run

    _, model, data = opened
    values = None if limits is None else np.linspace(*limits, points).tolist()
    _emit(run(model, data, parameter, values, points=points).to_json(), output)


_test_stat_option = click.option(
    "--test-stat", type=click.Choice(["qtilde", "q"]), default="qtilde", show_default=True, help="Test statistic."
)


@cli.command()
@_model_options
@click.option("--poi-value", type=float, default=1.0, show_default=True, help="The tested value.")
@_test_stat_option
def cls(
    opened: _Opened,
    output: Path | None,
    poi_value: float,
    test_stat: str,
) -> None:
    """Asymptotic CLs of one POI value, observed and expected."""
    from nuratio.infer.hypotest import hypotest

    _, model, data = opened
    _emit(hypotest(model, data, poi_value, test_stat=test_stat).to_json(), output)


@cli.command()
@_model_options
@click.option("--level", type=float, default=0.05, show_default=True, help="1 - confidence level.")
@_test_stat_option
def limit(
    opened: _Opened,
    output: Path | None,
    level: float,
    test_stat: str,
) -> None:
    """CLs upper limit on the POI, observed and expected."""
    from nuratio.infer.limits import upper_limit

    _, model, data = opened
    _emit(upper_limit(model, data, level=level, test_stat=test_stat).to_json(), output)


@cli.command()
@_model_options
@click.option("--expected-at", type=float, default=1.0, show_default=True, help="POI of the expected significance.")
def significance(
    opened: _Opened,
    output: Path | None,
    expected_at: float,
) -> None:
    """Discovery significance, observed and expected."""
    from nuratio.infer.hypotest import significance as run

    _, model, data = opened
    _emit(run(model, data, expected_at=expected_at).to_json(), output)


@cli.command()
@_model_options
@click.option("--channel", required=True, help="The channel to draw.")
@click.option("--feature", help="Feature of an unbinned channel [default: the first].")
@click.option("--bins", type=click.IntRange(min=1), default=30, show_default=True, help="Of an unbinned channel.")
@click.option("--range", "limits", type=(float, float), help="Range of the feature [default: that of the data].")
def project(
    opened: _Opened,
    output: Path | None,
    channel: str,
    feature: str | None,
    bins: int,
    limits: tuple[float, float] | None,
) -> None:
    """Fit, and histogram data and fitted samples of a channel in a feature (for ``nuratio plot``)."""
    import numpy as np

    from nuratio.infer.fit import fit as run
    from nuratio.infer.projection import project as histogram

    ws, model, data = opened
    axes = {a["channel"]: a for a in ws.spec.get("unbinned", {}).get("axes", [])}
    edges: Any = bins if limits is None else np.linspace(*limits, bins + 1)
    if channel in axes:
        feature, edges = axes[channel]["name"], axes[channel]["edges"]
    _emit(histogram(model, data, run(model, data), channel, feature, edges).to_json(), output)


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


@cli.command()
@_model_options
@click.option(
    "--projection",
    "projections",
    multiple=True,
    callback=_projections,
    metavar="CHANNEL:FEATURE:BINS",
    help="An unbinned channel's feature and number of bins, or edges a,b,c. Repeatable, one for each such channel.",
)
@click.option("--toys", type=click.IntRange(min=0), default=200, show_default=True, help="Toys to draw and fit.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the toys.")
def gof(
    opened: _Opened,
    output: Path | None,
    projections: dict[str, Any],
    toys: int,
    seed: int,
) -> None:
    """Goodness of the fit of WORKSPACE: saturated model, p-value from toys."""
    from nuratio.infer.fit import fit as run
    from nuratio.infer.goodness import goodness_of_fit

    _, model, data = opened
    result = goodness_of_fit(model, data, run(model, data), projections or None, n_toys=toys, seed=seed)
    _emit(result.to_json(), output)


@cli.command()
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
    _emit({"picture": str(picture)})
