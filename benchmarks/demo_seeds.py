"""The demo over several seeds: learned against exact best fit, uncertainty and limit, on the same events.

    python benchmarks/demo_seeds.py [SEEDS ...]          (default: 1 2 3 4 5)

Prints one line per seed and the summary the package is held to: |difference| of the best fits in units of the exact
uncertainty (mean below 0.15, never beyond 0.4) and the relative difference of the limits (within 5%).
"""

import sys
import tempfile
from time import perf_counter

import numpy as np

from nuratio.demo.run import run_demo


def main(seeds: list[int]) -> None:
    shifts, widths, limits = [], [], []
    print("seed   learned kappa      exact kappa        shift/sigma   limit learned / exact    time")
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            start = perf_counter()
            summary = run_demo(directory, seed=seed, plots=False)
        learned, exact = summary["learned"], summary["exact"]
        shifts.append((learned["bestfit"] - exact["bestfit"]) / exact["uncertainty"])
        widths.append(learned["uncertainty"] / exact["uncertainty"] - 1)
        limits.append(learned["upper_limit"] / exact["upper_limit"] - 1)
        print(
            f"{seed:4d}   {learned['bestfit']:.4f} +- {learned['uncertainty']:.4f}   {exact['bestfit']:.4f} +- "
            f"{exact['uncertainty']:.4f}   {shifts[-1]:+.3f}        {learned['upper_limit']:.4f} / "
            f"{exact['upper_limit']:.4f} ({100 * limits[-1]:+.1f}%)   {perf_counter() - start:.0f} s",
            flush=True,
        )
    print(
        f"|shift|: mean {np.mean(np.abs(shifts)):.3f} (goal 0.15), largest {np.max(np.abs(shifts)):.3f} (goal 0.4); "
        f"limits: largest difference {100 * np.max(np.abs(limits)):.1f}% (goal 5%); "
        f"uncertainties: largest difference {100 * np.max(np.abs(widths)):.1f}%"
    )


if __name__ == "__main__":
    main([int(s) for s in sys.argv[1:]] or [1, 2, 3, 4, 5])
