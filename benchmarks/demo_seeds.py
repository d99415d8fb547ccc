"""The demo over several seeds: learned against exact best fit, uncertainty and limit, on the same events.

    python benchmarks/demo_seeds.py [SEEDS ...]          (default: 1 2 3 4 5)

Prints one line per seed and the summary the package is held to: |difference| of the best fits in units of the exact
uncertainty (mean below 0.15, never beyond 0.4) and the relative difference of the limits (within 5%). Beside the shift
stands what `nuratio check` says that it may be, from the differences of single networks: their root mean squares agree.
"""

import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from nuratio.checks.run import check_analysis
from nuratio.demo.run import run_demo


def expected_shift(directory: Path) -> float:
    """The error of the best fit from the training that the checks report, in units of the uncertainty."""
    reports = check_analysis(directory / "demo.yml", inputs=directory / "ntuples", cache=directory / "cache")
    return next(c.value for c in reports["likelihood"].checks if c.name.startswith("minimum"))


def main(seeds: list[int]) -> None:
    shifts, expected, widths, limits = [], [], [], []
    print("seed   learned kappa      exact kappa        shift/sigma   checked   limit learned / exact    time")
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            start = perf_counter()
            summary = run_demo(directory, seed=seed, plots=False)
            seconds = perf_counter() - start
            expected.append(expected_shift(Path(directory)))
        learned, exact = summary["learned"], summary["exact"]
        shifts.append((learned["bestfit"] - exact["bestfit"]) / exact["uncertainty"])
        widths.append(learned["uncertainty"] / exact["uncertainty"] - 1)
        limits.append(learned["upper_limit"] / exact["upper_limit"] - 1)
        print(
            f"{seed:4d}   {learned['bestfit']:.4f} +- {learned['uncertainty']:.4f}   {exact['bestfit']:.4f} +- "
            f"{exact['uncertainty']:.4f}   {shifts[-1]:+.3f}        {expected[-1]:.3f}     "
            f"{learned['upper_limit']:.4f} / {exact['upper_limit']:.4f} ({100 * limits[-1]:+.1f}%)   {seconds:.0f} s",
            flush=True,
        )
    print(
        f"|shift|: mean {np.mean(np.abs(shifts)):.3f} (goal 0.15), largest {np.max(np.abs(shifts)):.3f} (goal 0.4); "
        f"rms {np.sqrt(np.mean(np.square(shifts))):.3f}, by the checks {np.sqrt(np.mean(np.square(expected))):.3f}; "
        f"limits: largest difference {100 * np.max(np.abs(limits)):.1f}% (goal 5%); "
        f"uncertainties: largest difference {100 * np.max(np.abs(widths)):.1f}%"
    )


if __name__ == "__main__":
    main([int(s) for s in sys.argv[1:]] or [1, 2, 3, 4, 5])
