"""Arguments and options that commands share, and how they read a workspace and write JSON."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

if TYPE_CHECKING:
    from nuratio.model.model import Model
    from nuratio.workspace.workspace import Workspace

__all__ = [
    "Opened",
    "asymptotics_option",
    "config_argument",
    "config_options",
    "emit",
    "executor_options",
    "model_options",
    "output_options",
    "pairs",
    "read_json",
    "read_workspace",
    "summary",
    "test_stat_option",
    "workspace_argument",
]

F = TypeVar("F", bound=Callable[..., Any])

config_argument = click.argument("config", type=click.Path(path_type=Path))
workspace_argument = click.argument("workspace", type=click.Path(path_type=Path))


def config_options(command: F) -> F:
    """Options of the commands that read a config."""
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


class Opened(NamedTuple):
    """What the options of `model_options` stand for."""

    workspace: "Workspace"
    model: "Model"
    data: Any


def model_options(command: F) -> F:
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
        workspace_argument,
    ):
        with_model = option(with_model)
    return cast(F, with_model)


def _open(
    workspace: Path, measurement: str | None, poi: str | None, asimov: float | None, device: str, threads: int | None
) -> Opened:
    from nuratio.infer.fitting.fit import point, require_poi

    ws = read_workspace(workspace)
    model = ws.model(measurement, poi="" if poi is None else poi, device=device, threads=threads)
    if asimov is None:
        return Opened(ws, model, ws.data(model))
    return Opened(ws, model, model.asimov(point(model, {require_poi(model): asimov})))


@contextmanager
def _executor(workers: int | None, dask: str | None) -> Iterator[Any]:
    if dask is not None:
        if workers is not None:
            raise click.UsageError("--dask has workers of its own: leave --workers out")
        from nuratio.errors import MissingExtra

        try:
            from distributed import Client
        except ModuleNotFoundError as error:
            raise MissingExtra(f"--dask needs {error.name}: pip install 'nuratio[dask]'") from error
        with Client(dask) as client:  # type: ignore[no-untyped-call]
            yield client.get_executor()
    elif workers is not None:
        from nuratio.parallel.tasks import own_pool

        yield own_pool(workers)
    else:
        yield None


def executor_options(default: str = "one for each processor") -> Callable[[F], F]:
    """Options that say where the work is done; the command gets ``executor``, None by default."""

    def decorate(command: F) -> F:
        return _with_executor(command, default)

    return decorate


def _with_executor(command: F, default: str) -> F:
    @wraps(command)
    def with_executor(*opened: Any, workers: int | None, dask: str | None, **options: Any) -> Any:
        with _executor(workers, dask) as executor:
            return command(*opened, executor=executor, **options)

    for option in (
        click.option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster to work on."),
        click.option("--workers", type=click.IntRange(min=1), help=f"Processes [default: {default}]."),
    ):
        with_executor = option(with_executor)
    return cast(F, with_executor)


def emit(content: Any, output: Path | None = None) -> None:
    """JSON to stdout, or whole into a file."""
    text = content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False)
    if output is None:
        click.echo(text)
        return
    from nuratio.ratios.storage import write_whole

    write_whole(output, (text + "\n").encode())


def pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Callback of options NAME=NUMBER."""
    pairs = {}
    for text in values:
        name, _, value = text.partition("=")
        try:
            pairs[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER", ctx, parameter) from None
    return pairs


def summary(workspace: "Workspace") -> dict[str, Any]:
    """What is in a workspace: channels, samples, yields, parameters, events."""
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


def read_workspace(path: Path) -> "Workspace":
    """A workspace directory or zip, or a pyhf workspace (.json)."""
    from nuratio.workspace.workspace import Workspace

    if path.suffix == ".json" and path.is_file():
        return Workspace.from_pyhf(read_json(path))
    return Workspace.load(path)


def read_json(path: Path) -> Any:
    """Strict JSON from a file, or from stdin for ``-``."""
    from nuratio.workspace.strict_json import parse_json

    return parse_json(sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes(), str(path))


def output_options(command: F) -> F:
    """Options of the commands that write a workspace; the command returns it."""

    @wraps(command)
    def with_output(output: Path, overwrite: bool, **options: Any) -> None:
        new = command(**options)
        new.save(output, overwrite=overwrite)
        emit({"workspace": str(output)} | summary(new))

    with_output = click.option("--overwrite", is_flag=True, help="Replace an existing workspace.")(with_output)
    with_output = click.option(
        "-o", "--output", type=click.Path(path_type=Path), required=True, help="The new workspace: a directory or zip."
    )(with_output)
    return cast(F, with_output)


test_stat_option = click.option(
    "--test-stat", type=click.Choice(["qtilde", "q"]), default="qtilde", show_default=True, help="Test statistic."
)

asymptotics_option = click.option(
    "--asymptotics",
    type=click.Choice(["check", "force"]),
    default="check",
    show_default=True,
    help="Warn, or refuse, where asymptotic formulas do not hold; or do not look.",
)
