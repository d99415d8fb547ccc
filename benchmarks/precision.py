"""What float32 storage costs in precision: 2 Delta NLL against plain numpy in float64."""

import numpy as np
from measure import Section
from numpy.typing import NDArray
from problem import Problem, Size

import nuratio

__all__ = ["precision"]

Floats = NDArray[np.float64]


def log_sums(problem: Problem, points: Floats) -> tuple[Floats, Floats]:
    """sum_i ln density_i at each point, (float32 columns, float64 columns), all arithmetic in float64."""
    phi = np.concatenate([points[:, 1:], points[:, 1:] ** 2], axis=1)
    nu = np.array([problem.rates(theta) for theta in points])
    ln_z = np.array([problem.ln_z(theta) for theta in points])
    stored, exact = np.zeros(len(points)), np.zeros(len(points))
    for block in problem.blocks():
        for total, events in ((stored, block.astype(np.float32).astype(np.float64)), (exact, block)):
            density = np.zeros((len(points), events.shape[2]))
            for c, sample in enumerate(events):
                density += nu[:, c, None] * sample[0] * np.exp(phi @ sample[1:] - ln_z[:, c, None])
            total += np.log(density).sum(1)
    return stored, exact


def precision(size: Size) -> Section:
    """2 Delta NLL between the best fit and points one to three standard deviations away, against float64."""
    problem = Problem(size)
    model = problem.workspace.model()
    data = problem.workspace.data(model)
    best = nuratio.fit(model, data)
    order = [best.names.index(name) for name in problem.parameters]
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(best.covariance)
    points, labels = [best.bestfit], []
    for sigma in (1.0, 2.0, 3.0):
        for _ in range(3):
            direction = rng.standard_normal(len(order))
            points.append(best.bestfit + sigma * root @ direction / np.linalg.norm(direction))
            labels.append(sigma)
    grid = np.array(points)
    ours = np.array([model.twice_nll(theta, data) for theta in grid])
    total = np.array([problem.rates(theta[order]).sum() for theta in grid])
    constraint = (grid[:, order][:, 1:] ** 2).sum(1)
    rows, numbers = [], {}
    references = log_sums(problem, grid[:, order])
    for name, logs in zip(("the same float32 columns", "float64 columns"), references, strict=True):
        twice_nll = 2 * (total - logs) + constraint
        error = np.abs((ours - ours[0]) - (twice_nll - twice_nll[0]))[1:]
        at = {s: max(e for e, label in zip(error, labels, strict=True) if label == s) for s in (1.0, 2.0, 3.0)}
        rows.append((f"plain numpy, float64 arithmetic, {name}", *(f"{e:.1e}" for e in at.values())))
        numbers[name] = float(error.max())
    numbers["2 Delta NLL at 3 sigma"] = float(np.mean((ours - ours[0])[-3:]))
    return Section(
        "Precision of float32 storage",
        f"At {size}: largest error of 2 Delta NLL between the best fit and three random points at each distance (in "
        "the metric of the covariance), our float32 tables against:",
        ("", "1 sigma", "2 sigma", "3 sigma"),
        tuple(rows),
        numbers,
    )
