"""A profile scan against cold fits of the same likelihood."""

import numpy as np
import peers
from fits import call_costs
from iminuit import Minuit
from internals import CountingModel
from measure import Section, interleave
from problem import Problem, Size

import nuratio

__all__ = ["scans"]

POINTS, WIDTH = 41, 2.5


def scans(size: Size, *, points: int = POINTS, rounds: int) -> Section:
    """`nuratio.scan` over +-2.5 sigma against three cold MIGRAD fits with our gradient, strategies 0 and 1."""
    problem = Problem(size)
    model = problem.workspace.model()
    data = problem.workspace.data(model)
    target = model.likelihood(data)
    begin = np.array(model.config.suggested_init(), dtype=np.float64)
    best = nuratio.fit(model, data)

    above: dict[str, float] = {}

    def cold(strategy: int) -> None:
        minuit = Minuit(target.value, begin, grad=target.gradient)
        minuit.errordef = Minuit.LEAST_SQUARES
        values, _ = peers.migrad(minuit, strategy=strategy, hesse=False)
        above[f"strategy {strategy}"] = target.value(values) - best.twice_nll

    counting = CountingModel(model)
    scan = nuratio.scan(counting, data, "mu", points=points, width=WIDTH)
    times = interleave(
        {
            "scan": lambda: nuratio.scan(model, data, "mu", points=points, width=WIDTH),
            "strategy 0": lambda: cold(0),
            "strategy 1": lambda: cold(1),
        },
        rounds=rounds,
        warm=0,
    )
    costs = call_costs(problem)
    total = counting.equivalents(costs, "gradient")
    free = CountingModel(model)
    nuratio.fit(free, data)
    per_point = (total - free.equivalents(costs, "gradient")) / points
    ends = (scan.values[[0, -1]] - best["mu"].value) / best["mu"].uncertainty
    numbers = {
        "valid": float(all(scan.valid)),
        "2 Delta NLL at the ends": float(np.mean(scan.delta_twice_nll[[0, -1]])),
        "ends in sigma": float(np.mean(np.abs(ends))),
        "gradient equivalents per point": per_point,
    }
    rows = []
    for name, difference in above.items():
        ratio = 3 * times.median(name) / times.median("scan")
        rows.append((f"3 cold fits, MIGRAD with our gradient, {name}", f"{ratio:.3g}", f"{difference:+.1e}"))
        numbers[f"{name}: 2NLL above ours"] = difference
    return Section(
        f"A profile scan of {points} points at {size}",
        f"`nuratio.scan` over +-{WIDTH} standard deviations, the free fit included, is the unit of time (medians; one "
        "cold fit is measured and counted three times). "
        f"A conditional fit costs {per_point:.2g} gradient equivalents per point "
        f"(the free fit not counted; calls weighted by their measured cost: {dict(counting.calls)} in all). "
        f"Scale: the scan took {times.median('scan'):.2g} s.",
        ("", "time / time of the scan", "2NLL above the minimum"),
        tuple(rows),
        numbers,
    )
