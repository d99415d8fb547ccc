"""All benchmarks of the likelihood engine, and the table of results in README.md.

    python benchmarks/engine.py [--quick] [--only NAME ...] [--workspaces DIR] [--huge GB] [--limit GB] [--scratch DIR]

A whole run (no --quick, no --only) rewrites the results between the markers of benchmarks/README.md; --quick runs the
smallest sizes, to see that everything works.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before any library reads it: waiting threads must not spin

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from fits import call_counts, fits
from measure import Section, machine
from memory import larger_than_memory, resident
from passes import many, on_device, passes
from precision import precision
from problem import Size
from published import hypothesis_tests, published
from scans import scans

README = Path(__file__).parent / "README.md"
MARKERS = "<!-- results -->", "<!-- end of results -->"
WORKSPACES = Path(__file__).parents[1] / ".." / "shared" / "data" / "workspaces"

SMALL, MEDIUM, LARGE = Size(100_000, 3, 10), Size(100_000, 5, 50), Size(1_000_000, 5, 30)


def whole(arguments: argparse.Namespace) -> dict[str, Callable[[], Section]]:
    """Every benchmark at its full size."""
    folder, scratch = arguments.workspaces, arguments.scratch
    huge = 2.0 if arguments.huge is None else arguments.huge
    return {
        "passes": lambda: passes([SMALL, MEDIUM, LARGE], rounds=9),
        "many": lambda: many(MEDIUM, rounds=3),
        "gpu": lambda: on_device(Size(1_000_000, 5, 100), rounds=5),
        "fits": lambda: fits(SMALL, rounds=3),
        "calls": lambda: call_counts([SMALL, Size(100_000, 3, 50), Size(100_000, 3, 100)]),
        "scan": lambda: scans(Size(100_000, 3, 50), rounds=2),
        "published": lambda: published(folder, rounds=3),
        "cls": lambda: hypothesis_tests(folder, rounds=1),
        "precision": lambda: precision(LARGE),
        "memory": lambda: resident(LARGE, scratch=scratch),
        "huge": lambda: larger_than_memory(huge, limit=arguments.limit, scratch=scratch),
    }


def quick(arguments: argparse.Namespace) -> dict[str, Callable[[], Section]]:
    """Every benchmark at a size that says nothing about speed."""
    folder, scratch = arguments.workspaces, arguments.scratch
    huge = 0.02 if arguments.huge is None else arguments.huge
    small = Size(5_000, 3, 3)
    return {
        "passes": lambda: passes([small], rounds=2),
        "many": lambda: many(small, points=(4,), rounds=1),
        "gpu": lambda: on_device(small, rounds=1),
        "fits": lambda: fits(small, rounds=1),
        "calls": lambda: call_counts([small]),
        "scan": lambda: scans(small, points=5, rounds=1),
        "published": lambda: published(folder, rounds=1),
        "cls": lambda: hypothesis_tests(folder, rounds=1),
        "precision": lambda: precision(small),
        "memory": lambda: resident(small, scratch=scratch),
        "huge": lambda: larger_than_memory(huge, limit=arguments.limit, scratch=scratch),
    }


def write(sections: list[Section], readme: Path = README) -> None:
    """Put the results between the markers of a README."""
    head, rest = readme.read_text().split(MARKERS[0])
    tail = rest.split(MARKERS[1])[1]
    results = "\n".join([MARKERS[0], "", machine(), "", *(s.markdown() for s in sections), MARKERS[1]])
    readme.write_text(head + results + tail)


def parse(line: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes; README.md is not written")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some benchmarks; README.md is not written")
    parser.add_argument("--workspaces", type=Path, default=WORKSPACES, help="folder of published pyhf workspaces")
    parser.add_argument("--huge", type=float, metavar="GB", help="size of the table larger than memory (default 2)")
    parser.add_argument("--limit", type=float, metavar="GB", help="anonymous memory for it (default a fifth, >= 1)")
    parser.add_argument("--scratch", type=Path, help="folder for tables on disk (default: the system's)")
    return parser.parse_args(line)


def main(arguments: argparse.Namespace) -> list[Section]:
    """Run, print, and write what the command line asks for."""
    benchmarks = (quick if arguments.quick else whole)(arguments)
    unknown = set(arguments.only or ()) - set(benchmarks)
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(benchmarks)}")
    print(machine(), "\n")
    sections = []
    for name in arguments.only or benchmarks:
        start = perf_counter()
        sections.append(benchmarks[name]())
        print(sections[-1].markdown())
        for what, number in sections[-1].numbers.items():
            print(f"  {what}: {number:.3g}")
        print(f"  ({name}: {perf_counter() - start:.0f} s)\n", flush=True)
    if not arguments.quick and not arguments.only:
        write(sections)
    return sections


if __name__ == "__main__":
    main(parse())
