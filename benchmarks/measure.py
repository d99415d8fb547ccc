"""What every benchmark here shares: interleaved timing, one shape of result, a description of the machine.

Times of a shared machine drift by factors within minutes. So contenders take turns, every one of them in every round,
and only ratios inside one such run are reported.
"""

import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["Section", "Times", "interleave", "machine"]

SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")
PACKAGES = ("numpy", "numba", "scipy", "iminuit", "pyhf", "torch", "zfit")


@dataclass(frozen=True)
class Section:
    """The answer to one question: a table of text, and the numbers that must be right whatever the speed."""

    title: str
    text: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)

    def markdown(self) -> str:
        """The section as Markdown."""
        lines = [f"### {self.title}", "", self.text, ""]
        if self.rows:
            table = (self.header, ("---",) * len(self.header), *self.rows)
            lines += [f"| {' | '.join(row)} |" for row in table] + [""]
        return "\n".join(lines)


@dataclass(frozen=True)
class Times:
    """Seconds of each contender, one entry per round."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return median(self.seconds[name])

    def ratio(self, name: str, to: str) -> str:
        """Medians and minima as ``1.93 / 1.87``, in units of another contender's."""
        return f"{self.median(name) / self.median(to):.3g} / {min(self.seconds[name]) / min(self.seconds[to]):.3g}"


def interleave(contenders: Mapping[str, Callable[[], Any]], *, rounds: int, warm: int = 1) -> Times:
    """Run all contenders in turn, ``rounds`` times, after ``warm`` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-warm, rounds):
        for name, call in contenders.items():
            start = perf_counter()
            call()
            if turn >= 0:
                seconds[name].append(perf_counter() - start)
    return Times(seconds)


def machine() -> str:
    """CPU, caches, memory, versions, settings, date and load, as a Markdown list."""
    cpu, caches = _cpu()
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return "\n".join(
        [
            f"- {cpu}, {len(os.sched_getaffinity(0))} cores; {caches}; {memory:.0f} GiB of memory",
            f"- Python {platform.python_version()}, {', '.join(versions)}",
            "- " + ", ".join(f"{name} {os.environ.get(name, 'not set')}" for name in SETTINGS),
            f"- {date.today()}, load of the last 1, 5 and 15 minutes {load}",
        ]
    )


def _cpu() -> tuple[str, str]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line[:10] == "model name"]
        model = names[0] if names else model
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return model, "caches of core 0: " + (", ".join(found) or "unknown")
