"""What the unbinned fit gains over the best binned one, on the dilepton and the emu example.

    python benchmarks/compare.py NTUPLES [--cache DIR] [--toys 1000] [--bins 2 5 10 20] [--examples dilepton emu]

NTUPLES holds the folders ``dilepton`` and ``emu``. Every analysis is made of the same networks and events: the binned
ones are histograms of the pool in the score of the parameter of interest, with nuisances profiled or held, or in the
one feature that is best. Best bins are chosen on expected data without their
statistical error. Toys are drawn from the unbinned model.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from time import perf_counter
from typing import Any

from measure import Section, machine

from nuratio.errors import NuratioWarning
from nuratio.infer.binned.compare import CompareResult, compare
from nuratio.parallel.tasks import Serial
from nuratio.workspace.build import build
from nuratio.workspace.config import Config
from nuratio.workspace.workspace import Workspace

WORKSPACES = Path(__file__).parents[1] / "workspaces"
EXAMPLES = ("dilepton", "emu")
SCORES = ("profiled score", "score")


def learned(example: str, ntuples: Path, cache: Path | None) -> Workspace:
    """The workspace of an example."""
    config = Config.read(WORKSPACES / f"{example}.yml", inputs=ntuples / example)
    with tempfile.TemporaryDirectory() as scratch:
        return build(config, cache=cache or scratch)


def best_feature(workspace: Workspace, model: Any, bins: int) -> str:
    """The feature whose best bins say most."""
    (channel,) = model.unbinned.values()
    results = {
        f: compare(workspace, model, bins=[bins], observable=f, limits=False) for f in channel.pool_features.names
    }
    return min(results, key=lambda f: results[f].best().uncertainty)


def compared(
    workspace: Workspace, bins: Sequence[int], toys: int, executor: Executor | None
) -> dict[str, CompareResult]:
    """Binned in each observable; toys with the first one."""
    model = workspace.model(threads=1)
    found = {}
    for name in (*SCORES, best_feature(workspace, model, max(bins))):
        start = perf_counter()
        n_toys = 0 if found else toys
        found[name] = compare(
            workspace, model, bins=bins, observable=name, limits=False, n_toys=n_toys, executor=executor
        )
        print(f"{name}: {perf_counter() - start:.0f} s\n{found[name].table()}", file=sys.stderr, flush=True)
        if found[name].message:
            print(found[name].message, file=sys.stderr)
    return found


def section(example: str, found: dict[str, CompareResult]) -> Section:
    """Expected uncertainties of each analysis in each observable, and the toys."""
    first = next(iter(found.values()))
    toys = len(first.unbinned.estimates) > 2
    rows, numbers = [], {}
    for j, analysis in enumerate(first.analyses):
        cells = []
        for name, result in found.items():
            own = result.analyses[j]
            cells.append(f"{own.uncertainty:.4g} ({result.gain(own):+.1f}%)")
            numbers[f"{analysis.title}, {name}"] = result.gain(own)
        if toys:
            spread = first.spread(analysis)
            cells.append(f"{spread.mean:.4g} +- {spread.mean_error:.2g}")
            cells.append(f"{spread.spread:.3g} +- {spread.spread_error:.2g}")
            cells.append(f"{spread.efficiency:.3f} +- {spread.efficiency_error:.3f}")
        rows.append((analysis.title, *cells))
    heads = [f"expected sigma, in {name}" for name in found]
    heads += [f"toys in {first.observable}: mean", "spread", "efficiency"] if toys else []
    text = f"Expected uncertainty of {first.poi}, and in brackets by how much it is above the unbinned one."
    return Section(f"Binned and unbinned: {example}", text, ("", *heads), tuple(rows), numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ntuples", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--toys", type=int, default=1000)
    parser.add_argument("--bins", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=list(EXAMPLES))
    parser.add_argument("--serial", action="store_true", help="toys one after another, in this process")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NuratioWarning)
    print(machine(), file=sys.stderr)
    for example in args.examples:
        workspace = learned(example, args.ntuples, args.cache)
        executor = Serial() if args.serial else None
        found = compared(workspace, args.bins, args.toys, executor)
        print(section(example, found).markdown(), flush=True)


if __name__ == "__main__":
    main()
