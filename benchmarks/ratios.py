"""Ratios of signed samples, closed against the exact one: the "camel" of arXiv:2410.10216.

Source: (4 N(0, 2.5^2) - N(0, 2.3^2)) / 3 in two dimensions, positive with 20% negative events. Target:
2 N(0, 2^2) - N(0, 1.2^2), negative near the origin, a third of the events negative. Source events are reweighted with
the learned ratio and compared with the target on events that no network has seen.

    python benchmarks/ratios.py                        # every method at 400 000 events a class, one seed
    python benchmarks/ratios.py --methods mixture --events 4000000 --seeds 1 2 3
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
from nuratio.ratios.closure import Weighted, closure_chi2, common_edges, tsallis_distance
from nuratio.ratios.options import TrainingOptions
from nuratio.training.train import METHODS, train

PUBLISHED = {  # chi2 per bin of x, y, radius; Tsallis distance of the same (one seed, 4e6 events a class)
    "no reweighting": (217.9, 222.7, 579.2, 0.1468, 0.1490, 0.5262),
    "MLP REVERT": (6.60, 6.84, 26.44, 0.0027, 0.0019, 0.0024),
    "RoSMM": (2.38, 1.89, 4.35, 0.0014, 0.0021, 0.0002),
    "RoSMM-c REVERT": (2.98, 2.60, 5.87, 0.0018, 0.0025, 0.0006),
    "RoSMM-r REVERT": (4.42, 2.38, 5.35, 0.0022, 0.0015, 0.0003),
    "exact ratio": (1.63, 1.04, 2.95, 0.0007, 0.0009, 0.0004),
}
COLUMNS = ("chi2 x", "chi2 y", "chi2 R", "D x", "D y", "D R")
TRAINED = 0.65  # of the events; the rest is compared


def gauss(x: np.ndarray, sd: float) -> np.ndarray:
    return np.exp(-0.5 * (x**2).sum(1) / sd**2) / (2 * np.pi * sd**2)


def source_density(x: np.ndarray) -> np.ndarray:
    return (4 * gauss(x, 2.5) - gauss(x, 2.3)) / 3


def exact_ratio(x: np.ndarray) -> np.ndarray:
    return (2 * gauss(x, 2.0) - gauss(x, 1.2)) / source_density(x)


def draw(rng: np.random.Generator, n: int, plus: float, minus: float, share: float) -> tuple[np.ndarray, np.ndarray]:
    """n events of which a ``share`` has weight -1 and the width ``minus``."""
    negative = rng.uniform(size=n) < share
    x = rng.normal(size=(n, 2)) * np.where(negative, minus, plus)[:, None]
    return x.astype(np.float32), np.where(negative, -1.0, 1.0)


def camel(seed: int, n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {"source": draw(rng, n, 2.5, 2.3, 1 / 5), "target": draw(rng, n, 2.0, 1.2, 1 / 3)}


def closure(events: dict[str, tuple[np.ndarray, np.ndarray]], ratio: np.ndarray) -> list[float]:
    """The six numbers of the table for source events reweighted by a ratio."""
    (x0, w0), (x1, w1) = events["source"], events["target"]
    quantities = [lambda x: x[:, 0], lambda x: x[:, 1], lambda x: np.hypot(x[:, 0], x[:, 1])]
    chi2, distance = [], []
    for quantity in quantities:
        a, b = Weighted(quantity(x0), w0 * ratio), Weighted(quantity(x1), w1)
        edges = common_edges(Weighted(a.values), Weighted(b.values))
        chi2.append(closure_chi2(a, b, edges)[0] / (len(edges) - 2))
        distance.append(tsallis_distance(a, b, edges))
    return chi2 + distance


def options(n: int) -> TrainingOptions:
    """Few passes over many events, many over few: between 10 and 40."""
    epochs = int(np.clip(10 * 4_000_000 / n, 10, 40))
    batch = int(np.clip(n // 250, 1024, 16384))
    return TrainingOptions(
        hidden=(48, 48, 48), epochs=epochs, batch_size=batch, learning_rate=1e-2, folds=2, ensemble=1, patience=epochs
    )


def run(method: str, seed: int, n: int) -> dict[str, object]:
    """Train, reweight, compare; differences are to the exact ratio on the same events."""
    events = camel(seed, n)
    cut = int(TRAINED * n)
    seen = {name: EventSample(x[:cut], w[:cut], names=("x", "y")) for name, (x, w) in events.items()}
    unseen = {name: (x[cut:], w[cut:]) for name, (x, w) in events.items()}
    x0, _ = unseen["source"]
    exact = exact_ratio(x0.astype(np.float64))
    base = closure(unseen, exact)
    start = time.perf_counter()
    try:
        estimator = train(seen, method=method, seed=seed, options=options(n), progress=False)
        seconds = time.perf_counter() - start
        r = estimator.ratio(x0, "target") / estimator.ratio(x0, "source")
    except NuratioError as error:
        return {"method": method, "seed": seed, "failed": str(error)}
    error = float(np.sqrt(np.mean((r - exact) ** 2)))  # over all source events, whatever their sign
    found = closure(unseen, r)
    excess = [a - b for a, b in zip(found, base, strict=True)]
    return {"method": method, "seed": seed, "excess": excess, "exact": base, "rmse": error, "seconds": seconds}


def table(results: list[dict[str, object]]) -> str:
    lines = [f"{'excess over the exact ratio':26s}" + "".join(f"{c:>9s}" for c in COLUMNS) + "     RMSE  seconds"]
    for method in dict.fromkeys(r["method"] for r in results):
        mine = [r for r in results if r["method"] == method]
        good = [r for r in mine if "failed" not in r]
        for r in mine:
            if "failed" in r:
                lines.append(f"{method:26s} failed, seed {r['seed']}: {str(r['failed'])[:90]}")
        if good:
            excess = np.mean([r["excess"] for r in good], axis=0)
            numbers = "".join(f"{v:9.2f}" for v in excess[:3]) + "".join(f"{v:9.4f}" for v in excess[3:])
            rmse, seconds = (np.mean([r[k] for r in good]) for k in ("rmse", "seconds"))
            lines.append(f"{method:26s}{numbers}{rmse:9.4f}{seconds:9.1f}")
    lines += ["", f"{'published, whole':26s}" + "".join(f"{c:>9s}" for c in COLUMNS)]
    for name, row in PUBLISHED.items():
        lines.append(f"{name:26s}" + "".join(f"{v:9.2f}" for v in row[:3]) + "".join(f"{v:9.4f}" for v in row[3:]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--events", type=int, default=400_000, help="a class")
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NuratioWarning)
    results = []
    for method in args.methods:
        for seed in args.seeds:
            results.append(run(method, seed, args.events))
            print(json.dumps(results[-1], default=float), file=sys.stderr, flush=True)
            if args.output:
                args.output.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
