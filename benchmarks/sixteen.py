"""Signed ratios in sixteen dimensions, and what ``method="auto"`` makes of them.

The task of arXiv:2512.19913 (di-Higgs events with an effective operator: sixteen features, a source of positive
weights, a target 1.267 p+ - 0.267 p-) on Gaussian mixtures, so that the exact ratio is known, with as many events as
there. Source events are reweighted with the learned ratio and compared with the target on events that no network has
seen, by the extended sliced Wasserstein distance; learned, exact and no ratio have the same events and projections.

What is learned from n events repeats their fluctuations. A ratio that gives every average over its training events as
it is there, exact otherwise, is the column "repeated": about sqrt(1 + m / n) = 1.12 times the distance of the exact
ratio, with m events to compare. A network that does better has smoothed some of the fluctuations away.

    python benchmarks/sixteen.py                                # auto and what it can choose, three seeds
    python benchmarks/sixteen.py --methods rosmm pare --seeds 1 --share 0.25
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from nuratio.data.sample import EventSample
from nuratio.errors import NuratioError, NuratioWarning
from nuratio.ratios.closure import Weighted, sliced_wasserstein
from nuratio.ratios.options import TrainingOptions
from nuratio.training.train import train

FEATURES = 16
C = 1.267  # W+ / (W+ - W-)
TRAINED, COMPARED = 960_000, 240_000  # events a class; of the first, train holds out a share for early stopping
METHODS = ("auto", "mixture", "rosmm", "rosmm_r", "lsif", "revert", "pare", "linear")
METHOD_OPTIONS = {"pare": {"rho": "auto"}}
PUBLISHED = {  # distance on the physics sample of arXiv:2512.19913
    "no reweighting": 13.388,
    "RoSMM": 1.423,
    "RoSMM-c PARE": 1.421,
    "RoSMM-c REVERT": 1.009,
    "RoSMM-r PARE": 1.674,
    "RoSMM-r REVERT": 0.494,
    "MLP REVERT": 0.276,
}

# share, shift and width along some axes, which the rotation below spreads over all features
SOURCE = ((0.6, 0.0, 1.0, ()), (0.4, 0.4, 1.3, range(6)))
PLUS = ((0.6, 0.45, 0.9, range(4)), (0.4, -0.45, 0.9, range(3, 8)))
MINUS = ((1.0, 0.25, 0.85, range(2, 10)),)
ROTATION = np.linalg.qr(np.random.default_rng(FEATURES).normal(size=(FEATURES, FEATURES)))[0]


def gaussians(mixture: tuple) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Share, means and widths along all axes."""
    found = []
    for share, shift, width, axes in mixture:
        mean, sd = np.zeros(FEATURES), np.ones(FEATURES)
        mean[list(axes)], sd[list(axes)] = shift, width
        found.append((share, mean, sd))
    return found


def draw(rng: np.random.Generator, n: int, mixture: tuple) -> np.ndarray:
    shares, means, widths = (np.array(column) for column in zip(*gaussians(mixture), strict=True))
    k = rng.choice(len(shares), n, p=shares)
    return ((means[k] + widths[k] * rng.normal(size=(n, FEATURES))) @ ROTATION).astype(np.float32)


def log_density(x: np.ndarray, mixture: tuple) -> np.ndarray:
    z = x.astype(np.float64) @ ROTATION.T
    terms = [
        np.log(share) - 0.5 * (((z - mean) / sd) ** 2).sum(1) - np.log(sd).sum()
        for share, mean, sd in gaussians(mixture)
    ]
    return np.logaddexp.reduce(terms, axis=0)


def exact_ratio(x: np.ndarray) -> np.ndarray:
    source = log_density(x, SOURCE)
    return C * np.exp(log_density(x, PLUS) - source) - (C - 1) * np.exp(log_density(x, MINUS) - source)


def simulated(seed: int, n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """n events a class: features and weights of source and target."""
    rng = np.random.default_rng(seed)
    negative = rng.uniform(size=n) < (C - 1) / (2 * C - 1)
    target = draw(rng, n, PLUS)
    target[negative] = draw(rng, int(negative.sum()), MINUS)
    return {"source": (draw(rng, n, SOURCE), np.ones(n)), "target": (target, np.where(negative, -1.0, 1.0))}


def options(epochs: int) -> TrainingOptions:
    """Sixteen features and two million events: two wider layers, larger steps, a small share held out."""
    return TrainingOptions(
        hidden=(128, 128),
        epochs=epochs,
        batch_size=4096,
        learning_rate=5e-3,
        folds=2,
        ensemble=1,
        validation_fraction=0.03,
        patience=epochs,
    )


def distance(source: Weighted, target: Weighted, seed: int) -> float:
    return sliced_wasserstein(source, target, rng=np.random.default_rng(seed))[0]


def repeated(events: dict[str, tuple[np.ndarray, np.ndarray]], cut: int, seed: int) -> float:
    """Distance of the exact ratio with the difference of target and reweighted source among the training events."""
    (x0, _), (x1, w1) = events.values()
    r, target = exact_ratio(x0), Weighted(x1[cut:], w1[cut:])
    shares = [w / w.sum() for w in (r[cut:], w1[:cut], r[:cut])]
    found = Weighted(np.concatenate([x0[cut:], x1[:cut], x0[:cut]]), np.concatenate([*shares[:2], -shares[2]]))

    def mass(weights: np.ndarray) -> float:  # what a distance is in units of
        share, t = weights / weights.sum(), target.weights / target.weights.sum()
        return float(share[share > 0].sum() - t[t < 0].sum())

    return distance(found, target, seed) * mass(found.weights) / mass(shares[0])


def run(method: str, seed: int, share: float, epochs: int) -> dict[str, object]:
    """Train, reweight, compare."""
    cut, n = int(share * TRAINED), int(share * (TRAINED + COMPARED))
    events = simulated(seed, n)
    seen = {name: EventSample(x[:cut], w[:cut]) for name, (x, w) in events.items()}
    (x0, w0), (x1, w1) = ((x[cut:], w[cut:]) for x, w in events.values())
    start = time.perf_counter()
    try:
        made = {"method": method, "method_options": METHOD_OPTIONS.get(method), "options": options(epochs)}
        estimator = train(seen, seed=seed, progress=False, **made)
        seconds = time.perf_counter() - start
        r = estimator.ratio(x0, "target") / estimator.ratio(x0, "source")
    except NuratioError as error:
        return {"method": method, "seed": seed, "failed": str(error)}
    exact, target = exact_ratio(x0), Weighted(x1, w1)
    distances = {
        name: distance(Weighted(x0, w0 * ratio), target, seed)
        for name, ratio in {"learned": r, "exact": exact, "none": np.ones(len(x0))}.items()
    }
    distances["repeated"] = repeated(events, cut, seed)
    rmse = float(np.sqrt(np.average((r - exact) ** 2, weights=w0)))
    result = {"method": method, "seed": seed, **distances, "rmse": rmse, "spread": float(exact.std())}
    result |= {"negative": float((exact < 0).mean()), "seconds": seconds}
    if method == "auto":
        result["auto"] = estimator.report["auto"]
    return result


def table(results: list[dict]) -> str:
    """Means over seeds; those of ratios of distances with their errors."""
    titles = [
        "method",
        "seeds",
        "learned",
        "exact",
        "learned / exact",
        "repeated / exact",
        "none",
        "RMSE(r)",
        "seconds",
        "chosen",
    ]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for method in dict.fromkeys(row["method"] for row in results):
        mine = [row for row in results if row["method"] == method]
        good = [row for row in mine if "failed" not in row]
        lines += [f"| {method} | {row['seed']} | failed: {row['failed']} |" for row in mine if "failed" in row]
        if not good:
            continue
        mean = {key: np.mean([row[key] for row in good]) for key in ("learned", "exact", "none", "rmse", "seconds")}
        to_exact = {key: np.array([row[key] / row["exact"] for row in good]) for key in ("learned", "repeated")}
        quotients = [
            f"{q.mean():.3f}" + (f" +- {q.std(ddof=1) / np.sqrt(len(q)):.3f}" if len(q) > 1 else "")
            for q in to_exact.values()
        ]
        chosen = ", ".join(row["auto"]["chosen"] for row in good if "auto" in row)
        lines.append(
            f"| {method} | {len(good)} | {mean['learned']:.5f} | {mean['exact']:.5f} | {' | '.join(quotients)} "
            f"| {mean['none']:.4f} | {mean['rmse']:.4f} | {mean['seconds']:.0f} | {chosen} |"
        )
    lines += _comparisons(results)
    lines += ["", "| published, another sample | distance |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {distance} |" for name, distance in PUBLISHED.items()])


def _comparisons(results: list[dict]) -> list[str]:
    """What auto saw: by how much the risk of each candidate is above the best."""
    lines = []
    for row in results:
        for name, found in row.get("auto", {}).get("candidates", {}).items():
            lines.append(f"seed {row['seed']}: {name} {found['above_best']:.5f} +- {found['error']:.5f} above the best")
    return ["", *lines] if lines else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=1.0, help="of the events of the publication")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NuratioWarning)
    results = []
    for seed in args.seeds:
        for method in args.methods:
            results.append(run(method, seed, args.share, args.epochs))
            print(json.dumps(results[-1], default=float), file=sys.stderr, flush=True)
            if args.output:
                args.output.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
