"""What one likelihood call costs, against the time it takes to read its numbers from memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from internals import stored, threads
from measure import Section, interleave
from numpy.typing import NDArray
from problem import Problem, Size

import nuratio

__all__ = ["likelihood", "many", "moving", "on_device", "passes"]


@numba.njit(nogil=True, fastmath=True)
def _sum(numbers: NDArray[np.float32]) -> np.float32:
    total = np.float32(0)
    for i in range(numbers.shape[0]):
        total += numbers[i]
    return total


def streaming_read(numbers: NDArray[np.float32], pool: ThreadPoolExecutor) -> float:
    """Sum of all numbers, one contiguous part per thread."""
    return float(sum(pool.map(_sum, np.array_split(numbers, threads()))))


def likelihood(problem: Problem, **options: Any) -> tuple[Any, NDArray[np.float64]]:
    """The likelihood of the observed data, and theta* in the model's order of parameters."""
    model = problem.workspace.model(**options)
    truth = dict(zip(problem.parameters, problem.truth, strict=True))
    theta = np.array([truth[name] for name in model.config.par_names])
    return model.likelihood(problem.workspace.data(model)), theta


def moving(call: Callable[[NDArray[np.float64]], Any], theta: NDArray[np.float64]) -> Callable[[], Any]:
    """The call at another point near theta every time: nothing remembered can help."""
    rng = np.random.default_rng(0)
    return lambda: call(theta + 1e-3 * rng.standard_normal(len(theta)))


def passes(sizes: list[Size], *, rounds: int) -> Section:
    """Value, gradient and Hessian in units of the streaming read of the same float32 numbers with the same threads."""
    rows, scales = [], []
    numbers: dict[str, float] = {}
    for size in sizes:
        problem = Problem(size)
        table = stored(problem.workspace.tables["observed"])
        target, theta = likelihood(problem)
        with ThreadPoolExecutor(threads()) as pool:
            times = interleave(
                {
                    "read": lambda table=table, pool=pool: streaming_read(table, pool),
                    "value": moving(target.value, theta),
                    "gradient": moving(lambda t, target=target: target.derivatives(t, hessian=False), theta),
                    "hessian": moving(lambda t, target=target: target.derivatives(t, hessian=True), theta),
                },
                rounds=rounds,
            )
        ratios = [times.ratio(name, "read") for name in ("value", "gradient", "hessian")]
        rows.append((str(size), *ratios, times.ratio("hessian", "gradient")))
        scales.append(f"{1e3 * times.median('read'):.3g} ms for {table.nbytes / 1e6:.0f} MB")
        numbers[f"{size}: value - value of derivatives"] = (
            target.value(theta) - target.derivatives(theta, hessian=True)[0]
        )
    return Section(
        "One likelihood call",
        f"Sizes are (events, samples, nuisances). Time in units of a streaming read of the table's float32 numbers "
        f"(numba sum, {threads()} threads, as many as the likelihood uses), median / best of interleaved rounds, every "
        "call at a new parameter point. The last column compares the two calls before it. "
        f"Scale of the read: {'; '.join(scales)}.",
        ("size", "value", "value + gradient", "value + gradient + Hessian", "Hessian call / gradient call"),
        tuple(rows),
        numbers,
    )


def many(size: Size, *, points: tuple[int, ...] = (8, 32), rounds: int) -> Section:
    """Values and gradients at many parameter points in one pass over the events, against separate calls."""
    title = "Many parameter points in one pass"
    target, theta = likelihood(Problem(size))
    if not hasattr(target, "many"):
        return Section(title, "Skipped: this engine has no such call.")
    rows = []
    numbers: dict[str, float] = {}
    for m in points:
        grid = theta + 0.1 * np.random.default_rng(0).standard_normal((m, len(theta)))

        def separate(grid: NDArray[np.float64] = grid) -> list[Any]:
            return [target.derivatives(point, hessian=False) for point in grid]

        values, gradients = target.many(grid)
        one = separate()
        numbers[f"{m} points: largest difference of a value"] = float(max(abs(values - [v for v, *_ in one])))
        numbers[f"{m} points: largest difference of a gradient"] = float(
            np.max(np.abs(gradients - np.array([g for _, g, _ in one])))
        )
        times = interleave({"one by one": separate, "together": lambda grid=grid: target.many(grid)}, rounds=rounds)
        rows.append((str(m), times.ratio("one by one", "together")))
    return Section(
        title,
        f"Value and gradient at {size}: time of separate calls in units of one call for all points, median / best.",
        ("points", "separate / together"),
        tuple(rows),
        numbers,
    )


def on_device(size: Size, *, rounds: int, device: str = "cuda") -> Section:
    """The torch kernel against a read of the same numbers on its device, and its minimum against the compiled one's."""
    import torch

    title = "The torch kernel on a GPU"
    if device == "cuda" and not torch.cuda.is_available():
        return Section(title, "Skipped: no GPU here; the tests run this kernel on the CPU.")
    problem = Problem(size)
    options = {"kernel": "torch", "device": device}
    target, theta = likelihood(problem, **options)
    numbers = torch.tensor(stored(problem.workspace.tables["observed"]), device=device)
    times = interleave(
        {
            "read": lambda: float(numbers.sum()),
            "gradient": moving(lambda t: target.derivatives(t, hessian=False), theta),
            "hessian": moving(lambda t: target.derivatives(t, hessian=True), theta),
        },
        rounds=rounds,
    )
    here, there = (problem.workspace.model(**o) for o in ({}, options))
    data = problem.workspace.data(here)
    difference = nuratio.fit(there, data).twice_nll - nuratio.fit(here, data).twice_nll
    rate = numbers.nbytes / times.median("read") / 1e9
    return Section(
        title,
        f"At {size} on {torch.cuda.get_device_name() if device == 'cuda' else device}, in units of a sum of the "
        f"table's float32 numbers there ({rate:.3g} GB/s), median / best.",
        ("value + gradient", "value + gradient + Hessian", "2NLL of the fit minus the CPU's"),
        ((times.ratio("gradient", "read"), times.ratio("hessian", "read"), f"{difference:+.1e}"),),
        {"2NLL of the fit minus the CPU's": difference},
    )
