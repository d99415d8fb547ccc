"""A whole maximum-likelihood fit, covariance included, against other tools on the same model and the same events."""

from collections.abc import Callable
from typing import Any

import numpy as np
import peers
from internals import CountingModel
from measure import Section, interleave
from passes import likelihood, moving
from problem import Problem, Size

import nuratio

__all__ = ["call_costs", "call_counts", "fits"]


def fits(size: Size, *, rounds: int) -> Section:
    """Our fit against iminuit's cost function, torch (CPU, and GPU where there is one) and zfit (where installed)."""
    problem = Problem(size)
    model = problem.workspace.model()
    data = problem.workspace.data(model)
    ours = nuratio.fit(model, data)
    order = [ours.names.index(name) for name in problem.parameters]
    contenders: dict[str, Callable[[], Any]] = {
        "iminuit `ExtendedUnbinnedNLL`, numpy model": peers.numpy_fit(problem),
        "torch autograd, float64, MIGRAD with its gradient": peers.torch_fit(problem),
    }
    skipped = []
    if peers.has_cuda():
        contenders["torch autograd on the GPU, MIGRAD with its gradient"] = peers.torch_fit(problem, "cuda")
    else:
        skipped.append("torch on a GPU (none here)")
    if peers.has_zfit():
        contenders["zfit `ExtendedUnbinnedNLL`, its gradient"] = peers.zfit_fit(problem)
    else:
        skipped.append("zfit (not installed)")
    found: dict[str, tuple[Any, Any]] = {}

    def keep(name: str, fit: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            found[name] = fit()

        return run

    turns = {name: keep(name, fit) for name, fit in contenders.items()}
    times = interleave({"nuratio": lambda: nuratio.fit(model, data)} | turns, rounds=rounds)
    rows, numbers = [("nuratio", "1", "0", "0", "0")], {"nuratio: valid": float(ours.valid)}
    for name, (values, covariance) in found.items():
        theta = np.empty(len(order))
        theta[order] = values
        above = model.twice_nll(theta, data) - ours.twice_nll
        shift = float((values[0] - ours["mu"].value) / ours["mu"].uncertainty)
        width = float(np.max(np.abs(np.sqrt(np.diag(covariance)) / ours.uncertainty[order] - 1)))
        rows.append((name, times.ratio(name, "nuratio"), f"{above:+.1e}", f"{shift:+.1e}", f"{width:.1e}"))
        numbers |= {f"{name}: 2NLL above ours": above, f"{name}: mu, sigma": shift, f"{name}: uncertainties": width}
    return Section(
        f"A whole fit at {size}",
        "Best fit and covariance from mu = 1, alpha = 0: `nuratio.fit` against MIGRAD (default strategy and tolerance) "
        "and HESSE on the same likelihood as written for other tools: iminuit with numerical derivatives and one BLAS "
        "product per sample, torch with one product for all. Data are converted and graphs traced before the time is "
        "taken. Time in units of nuratio's, median / best; 2NLL above nuratio's minimum; distance of mu in units of "
        "its uncertainty; largest relative difference of an uncertainty. "
        + (f"Skipped: {', '.join(skipped)}. " if skipped else "")
        + f"Scale: nuratio's fit took {times.median('nuratio'):.2g} s.",
        ("", "time", "2NLL", "mu", "uncertainties"),
        tuple(rows),
        numbers,
    )


def call_costs(problem: Problem, *, rounds: int = 3) -> dict[str, float]:
    """Seconds of a value, gradient and Hessian call, and of a point of a pass over many."""
    target, theta = likelihood(problem)
    calls = {
        "value": target.value,
        "gradient": lambda t: target.derivatives(t, hessian=False),
        "hessian": lambda t: target.derivatives(t, hessian=True),
    }
    if hasattr(target, "many"):
        calls["many"] = lambda t: target.many(t + 0.01 * np.arange(4)[:, None])
    times = interleave({kind: moving(call, theta) for kind, call in calls.items()}, rounds=rounds)
    costs = {kind: times.median(kind) for kind in calls}
    return costs | ({"many": costs["many"] / 4} if "many" in costs else {})


def call_counts(sizes: list[Size]) -> Section:
    """Calls of a whole cold fit by kind, and their cost in Hessian calls."""
    rows = []
    numbers: dict[str, float] = {}
    for size in sizes:
        problem = Problem(size)
        model = problem.workspace.model()
        counting = CountingModel(model)
        result = nuratio.fit(counting, problem.workspace.data(model))
        counts = {kind: counting.calls[kind] for kind in ("value", "gradient", "hessian")}
        equivalents = counting.equivalents(call_costs(problem), "hessian")
        rows.append((str(size), *map(str, counts.values()), f"{equivalents:.1f}", "yes" if result.valid else "no"))
        numbers |= {f"{size}: valid": float(result.valid), f"{size}: Hessian equivalents": equivalents}
    return Section(
        "Likelihood calls of a whole fit",
        "From mu = 1, alpha = 0, covariance included; a look for densities that are not positive counts as a value. "
        "The cost of each kind, in units of a Hessian call, is measured in the same run.",
        ("size", "values", "gradients", "Hessians", "Hessian equivalents", "valid"),
        tuple(rows),
        numbers,
    )
