"""Memory of a fit whose events stay on disk, measured in a process of its own.

Anonymous memory (the process's own arrays) and mapped files (the table's pages, which the system may drop at any time)
are counted separately. A limit on the anonymous memory, set by the kernel, proves that nothing else is needed.
"""

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from measure import Section

__all__ = ["larger_than_memory", "resident"]

MIB = 2**20


def resident(size: Any, *, scratch: Path | None = None) -> Section:
    """Memory of a loaded, memory-mapped model and of its fit, in units of the table."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        table, report = _fit_in_process(size, Path(directory), limit=None)
    rows = []
    for stage in ("model loaded", "likelihood made", "fit"):
        anonymous, mapped = (report[f"{stage}: {k}"] - report[f"baseline: {k}"] for k in ("anonymous", "mapped"))
        rows.append((stage, f"{anonymous / table:.2f}", f"{mapped / table:.2f}"))
    numbers = {
        "anonymous / table": anonymous / table,
        "mapped / table": mapped / table,
        "valid": float(report["valid"]),
    }
    return Section(
        "Memory of a fit from disk",
        f"A workspace of {size} is loaded (memory-mapped) and fitted in a process of its own. Peaks up to each stage, "
        f"in units of the table ({table / MIB:.0f} MiB): anonymous memory, and mapped files, beyond those of the "
        f"imported and warmed-up package ({report['baseline: anonymous'] / MIB:.0f} and "
        f"{report['baseline: mapped'] / MIB:.0f} MiB).",
        ("stage", "anonymous / table", "mapped / table"),
        tuple(rows),
        numbers,
    )


def larger_than_memory(gigabytes: float, *, limit: float | None = None, scratch: Path | None = None) -> Section:
    """A fit of a table written block by block, its process held to ``limit`` GB (a fifth, at least 1) of own memory."""
    from problem import Size

    samples, nuisances = 5, 30
    events = int(gigabytes * 1e9 / (4 * Size(1, samples, nuisances).columns))
    limit = max(gigabytes / 5, 1.0) if limit is None else limit
    size = Size(events, samples, nuisances)
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        table, report = _fit_in_process(size, Path(directory), limit=int(limit * 1e9))
    anonymous = report["fit: anonymous"]
    return Section(
        "A table larger than the memory allowed",
        f"{gigabytes:g} GB of events ({size}), written block by block, fitted by a process whose anonymous memory the "
        f"kernel limits to {limit:g} GB (RLIMIT_DATA, Python and its packages included; {limit / gigabytes:.2f} of the "
        f"table): {'the fit is valid' if report['valid'] else 'THE FIT IS NOT VALID'}, mu is "
        f"{report['pull']:+.2f} sigma from where the events were drawn, and the peak of anonymous memory was "
        f"{anonymous / table:.2f} of the table. Scale: load and fit took {report['seconds']:.0f} s.",
        numbers={"valid": float(report["valid"]), "pull": report["pull"], "anonymous / table": anonymous / table},
    )


def _fit_in_process(size: Any, scratch: Path, *, limit: int | None) -> tuple[int, dict[str, float]]:
    """Write the workspace, then fit it in a new process; bytes of the table, and what `_child` reports."""
    from problem import Problem

    path = Problem(size).write(scratch / "workspace")
    table = (path / "observed.npy").stat().st_size
    arguments = [str(path), str(size.events), str(size.samples), str(size.nuisances), str(limit or 0)]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process with {limit} bytes allowed failed:\n{done.stderr[-2000:]}")
    return table, json.loads(done.stdout)


class _Peak:
    """Largest anonymous and mapped memory so far, sampled by a thread (the kernel keeps only their sum's)."""

    def __init__(self) -> None:
        self.anonymous = self.mapped = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.sample()
            time.sleep(0.002)

    def sample(self) -> None:
        """Update, in bytes."""
        lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        status = {key: value for key, value in lines if key in ("RssAnon", "RssFile")}
        anonymous, mapped = (int(status[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile"))
        self.anonymous, self.mapped = max(self.anonymous, anonymous), max(self.mapped, mapped)


def _child(path: Path, size: tuple[int, int, int], limit: int) -> dict[str, float]:
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    from problem import Problem, Size

    import nuratio

    small = Problem(Size(2000, *size[1:])).workspace
    model = small.model()
    nuratio.fit(model, small.data(model))  # every import done, every kernel compiled
    del small, model
    peak = _Peak()
    report: dict[str, float] = {}

    def note(stage: str) -> None:
        peak.sample()
        report[f"{stage}: anonymous"], report[f"{stage}: mapped"] = peak.anonymous, peak.mapped

    note("baseline")
    start = time.perf_counter()
    workspace = nuratio.Workspace.load(path, verify=False)
    model = workspace.model()
    note("model loaded")
    data = workspace.data(model)
    model.likelihood(data)
    note("likelihood made")
    result = nuratio.fit(model, data)
    note("fit")
    mu = result["mu"]
    return report | {
        "seconds": time.perf_counter() - start,
        "valid": result.valid,
        "pull": (mu.value - Problem(Size(*size)).truth[0]) / mu.uncertainty,
    }


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[2:]]
    print(json.dumps(_child(Path(sys.argv[1]), (numbers[0], numbers[1], numbers[2]), numbers[3])))
