"""Toys: how fast, and how far p-values counted in them are from the asymptotic formulas.

    python benchmarks/toys.py                       # all of it; minutes on two cores
    python benchmarks/toys.py --only speed resume
    python benchmarks/toys.py --quick               # does it still run?

The counting example has s = 10 and b = 50 +- 7; the joint one an unbinned channel with 30 signal events from
N(1 + 0.2 a, 0.5) on 300 of N(0, 1.5), whose yield a control region of twice its size measures.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyhf
from measure import Section, interleave
from numpy.typing import NDArray
from problem import Problem, Size
from scipy.stats import norm

import nuratio
from nuratio.infer.hypotheses.hypotest import Tester, hypotest, significance
from nuratio.infer.toys.p_values import toy_hypotest, toy_significance
from nuratio.infer.toys.result import ToyResult
from nuratio.infer.toys.toys import toys
from nuratio.model.model import Model
from nuratio.parallel.tasks import Serial
from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

Floats = NDArray[np.float64]

COUNTS = ((45, 1.0), (45, 2.0), (50, 2.0), (60, 2.0))  # observed events, tested strength
EVENTS, SAMPLES, NUISANCES, POOL = 5000, 3, 10, 100_000
SIGMA = {"signal": 0.5, "background": 1.5}
TAU = 2.0


def counting() -> Model:
    """s = 10, b = 50 +- 7."""
    mu = {"name": "mu", "type": "normfactor", "data": None}
    error = {"name": "b", "type": "histosys", "data": {"hi_data": [57.0], "lo_data": [43.0]}}
    samples = [
        {"name": "signal", "data": [10.0], "modifiers": [mu]},
        {"name": "background", "data": [50.0], "modifiers": [error]},
    ]
    return Model.from_pyhf(pyhf.Model({"channels": [{"name": "SR", "samples": samples}]}))


def joint(seed: int, *, mu: float = 1.0, pool: int = 50_000) -> Workspace:
    """The joint example, with data drawn at a strength."""
    rng = np.random.default_rng([seed, 5])

    def draw(n_signal: int, n_background: int) -> Floats:
        x = rng.normal(1.0, SIGMA["signal"], n_signal), rng.normal(0.0, SIGMA["background"], n_background)
        return np.concatenate(x)

    def columns(x: Floats, **more: Floats) -> RatioTable:
        p = {"signal": norm.pdf(x, 1.0, 0.5), "background": norm.pdf(x, 0.0, 1.5)}
        q = (p["signal"] + p["background"]) / 2
        shift = {"d1": 0.2 * (x - 1) / 0.25, "d2": np.full(len(x), -0.5 * 0.04 / 0.25)}
        return RatioTable.from_columns({name: d / q for name, d in p.items()} | shift | more, np.float64)

    observed = draw(int(rng.poisson(30 * mu)), int(rng.poisson(300)))
    simulated = draw(pool // 2, pool - pool // 2)
    tables = {"observed": columns(observed), "pool": columns(simulated, weight=np.full(pool, 1 / pool))}
    strength = {"name": "mu", "type": "normfactor", "data": None}
    free = {"name": "b", "type": "normfactor", "data": None}
    flat = {"name": "a", "type": "normsys", "data": {"hi": 1.0, "lo": 1.0}}
    shape = {
        "name": "a",
        "type": "ratiosys",
        "interpcode": "quadexp",
        "data": {"d1": {"column": "d1"}, "d2": {"column": "d2"}},
    }
    # a Gaussian with a moved mean: ln Z = 0 at every a, which are cumulants of D1 and D2
    normalisation = {
        "type": "cumulant",
        "parameters": ["a"],
        "mean": [0.0, -0.08],
        "covariance": [[0.16, 0.0], [0.0, 0.0]],
    }
    rates = [
        {"name": "background", "data": [300.0], "modifiers": [free]},
        {"name": "signal", "data": [30.0], "modifiers": [strength, flat]},
    ]
    unbinned = {
        "name": "SR",
        "samples": [
            {"name": "background", "ratio": {"column": "background"}},
            {"name": "signal", "ratio": {"column": "signal"}, "modifiers": [shape], "normalisation": normalisation},
        ],
        "events": {"observed": {"file": "observed"}, "pool": {"file": "pool", "weight": {"column": "weight"}}},
    }
    control = [{"name": "background", "data": [300.0 * TAU], "modifiers": [free]}]
    spec = {
        "version": "1.0.0",
        "channels": [{"name": "CR", "samples": control}, {"name": "SR", "samples": rates}],
        "observations": [
            {"name": "CR", "data": [float(rng.poisson(300 * TAU))]},
            {"name": "SR", "data": [float(len(observed))]},
        ],
        "measurements": [{"name": "joint", "config": {"poi": "mu", "parameters": []}}],
        "unbinned": {
            "version": "1.0.0",
            "files": [file_entry(name, table) for name, table in tables.items()],
            "channels": [unbinned],
        },
    }
    return Workspace(spec, tables)


def asymptotics(n: int) -> Section:
    """CLs by the formulas and by toys, on both examples."""
    rows, numbers = [], {}
    cases: list[tuple[str, Model, Floats, float]] = []
    model = counting()
    for count, mu in COUNTS:
        cases.append((f"counting, n = {count}", model, np.array([count, 0.0]), mu))
    for seed in (1, 2):
        analysis = joint(seed)
        own = analysis.model(threads=1)
        cases.append((f"joint, data {seed}", own, analysis.data(own), 1.5))
    for name, own, data, mu in cases:
        formula, counted = hypotest(own, data, mu), toy_hypotest(own, data, mu, n=n)
        difference = counted.CLs - formula.CLs
        numbers[f"{name}: difference"] = difference
        numbers[f"{name}: error"] = counted.CLs_error
        rows.append(
            (
                name,
                f"{mu:g}",
                f"{formula.CLs:.4f}",
                f"{counted.CLs:.4f} +- {counted.CLs_error:.4f}",
                f"{difference:+.4f}",
            )
        )
        print(rows[-1], file=sys.stderr, flush=True)
    for name, own, data, _ in cases[-2:]:
        z, toy_z = significance(own, data), toy_significance(own, data, n=n)
        p = f"{toy_z.p0:.4f} +- {toy_z.p0_error:.4f}"
        rows.append((f"{name}, p0", "0", f"{z.p0:.4f}", p, f"{toy_z.p0 - z.p0:+.4f}"))
        print(rows[-1], file=sys.stderr, flush=True)
    return Section(
        "Asymptotic formulas against toys",
        f"{n} toys of each hypothesis; CLs with qtilde, p0 with q0.",
        ("example", "mu", "asymptotic", "toys", "difference"),
        tuple(rows),
        numbers,
    )


def speed(n: int, events: int, rounds: int) -> Section:
    """Toys of a mid-sized unbinned model, two fits each, against two cold fits of the data."""
    problem = Problem(Size(events, SAMPLES, NUISANCES), pool=POOL)
    model = problem.workspace.model(threads=1)
    data = problem.workspace.data(model)

    def run(count: int, executor: Any = None) -> ToyResult:
        return toys(model, {"mu": 1.0}, count, data=data, tests=[("t", 1.0)], executor=executor, progress=False)

    def cold() -> None:
        for fixed in ({}, {"mu": 1.0}):
            nuratio.fit(model, data, fixed=fixed, simulation=False)

    run(10)  # the workers are there
    times = interleave({"toys": lambda: run(n), "two cold fits": cold}, rounds=rounds, warm=1)
    result = run(20, Serial())
    per_toy = times.median("toys") / n / times.median("two cold fits")
    seconds = times.median("toys")
    return Section(
        f"{n} toys of {events} events, {NUISANCES} nuisances, two fits each",
        f"{SAMPLES} samples, a pool of {POOL} events, the default executor ({os.cpu_count()} processors). Scale: "
        f"{seconds:.3g} s in all. One toy, drawing and both fits, takes {per_toy:.2g} times as long as two "
        "cold fits of the observed data in this process.",
        numbers={"seconds": seconds, "failed": float(len(result.failures)), "per toy": per_toy},
    )


def cls_scan(size: Size, points: int, rounds: int) -> Section:
    """A CLs scan, observed and expected."""
    problem = Problem(size)
    workspace = problem.workspace
    model = workspace.model()
    data = workspace.data(model)
    best = nuratio.fit(model, data)
    values = np.linspace(0, best["mu"].value + 3 * best["mu"].uncertainty, points)

    def scan() -> None:
        tester = Tester(model, data)
        tester.prepare(values.tolist())
        for value in values:
            tester.test(float(value))

    times = interleave({"scan": scan, "fit": lambda: nuratio.fit(model, data)}, rounds=rounds, warm=1)
    ratio = times.median("scan") / times.median("fit")
    return Section(
        f"A CLs scan of {points} points at {size}",
        f"Observed and expected. Scale: {times.median('scan'):.3g} s, {ratio:.3g} times a fit of the data.",
        numbers={"seconds": times.median("scan"), "fits": ratio},
    )


_KILLED = """
import sys
import toys
toys.long_run(int(sys.argv[1]), sys.argv[2])
"""


def long_run(n: int, path: str) -> ToyResult:
    """Toys that are worth keeping."""
    analysis = joint(1)
    model = analysis.model(threads=1)
    return toys(model, {"mu": 1.0}, n, data=analysis.data(model), tests=[("t", 1.0)], output=path, progress=False)


def resume(n: int) -> Section:
    """Kill a run in the middle, go on, and compare with one that nothing happened to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toys.jsonl"
        command = [sys.executable, "-c", _KILLED, str(n), str(path)]
        process = subprocess.Popen(command, cwd=Path(__file__).parent, start_new_session=True)
        while not path.exists() or path.read_bytes().count(b"\n") < n // 3:
            time.sleep(0.02)
            if process.poll() is not None:
                raise RuntimeError("the run ended before it could be killed; ask for more toys")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = path.read_bytes().count(b"\n") - 1
        resumed = long_run(n, str(path))
        whole = long_run(n, str(Path(folder) / "whole.jsonl"))
    same = resumed.to_json() == whole.to_json()
    return Section(
        f"A run of {n} toys that was killed",
        f"{found} toys were in the file; the resumed run is {'identical to' if same else 'DIFFERENT from'} an "
        "undisturbed one.",
        numbers={"identical": float(same), "kept": float(found)},
    )


def main(arguments: Sequence[str] | None = None) -> list[Section]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=("asymptotics", "speed", "scan", "resume"))
    parser.add_argument("--toys", type=int, default=40_000, help="of each hypothesis, against the asymptotic formulas")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(arguments)
    quick = args.quick
    sections: dict[str, Callable[[], Section]] = {
        "asymptotics": lambda: asymptotics(100 if quick else args.toys),
        "speed": lambda: speed(*((20, 500, 1) if quick else (1000, EVENTS, 3))),
        "scan": lambda: cls_scan(Size(1000, 2, 2) if quick else Size(100_000, 4, 10), 21, 1 if quick else 3),
        "resume": lambda: resume(150 if quick else 500),
    }
    done = []
    for name, section in sections.items():
        if args.only is None or name in args.only:
            done.append(section())
            print(done[-1].markdown(), flush=True)
    return done


if __name__ == "__main__":
    main()
