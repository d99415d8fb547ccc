"""How fast networks are evaluated on events: chunk sizes and threads of torch, and onnxruntime with the exported file.

Six networks (3 folds, ensembles of 2) of hidden layers 64-64-64 with a softmax over three parts, random weights. Every
contender gives the ratios of all events, heads included. They take turns; times are in units of `RatioEstimator.ratios`
as it is, with the same number of threads.

    python benchmarks/evaluation.py                      # a million events of 5 and of 16 features
    python benchmarks/evaluation.py --events 100000 --rounds 3
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from measure import Section, interleave, machine

from nuratio.ratios import network
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import Part, RatioEstimator
from nuratio.ratios.heads import Softmax
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.onnx import export_onnx
from nuratio.ratios.options import TrainingOptions

CHUNKS = (1024, 2048, 4096, 8192, 16384)
NOW = f"torch, {network._CHUNK} (as it is)"


def estimator(d: int) -> RatioEstimator:
    options = TrainingOptions()
    generator = torch.Generator().manual_seed(1)
    stack = NetworkStack([d, *options.hidden, 3], options.folds * options.ensemble)
    for weight in stack.weights:
        weight.data.normal_(0, weight.shape[1] ** -0.5, generator=generator)
    names = ("a", "b", "c")
    t = (0.5, 0.3, 0.2)
    return RatioEstimator(
        components=tuple(Part(name, name, 1, 1.0, 1, 1.0) for name in names),
        reference_fractions=dict(zip(names, t, strict=True)),
        head=Softmax(t, t),
        normalisation=dict.fromkeys(names, (1.0, 0.0)),
        networks=CrossFit(stack.requires_grad_(False), tuple(f"x{j}" for j in range(d)), options),
        report={},
    )


def with_torch(est: RatioEstimator, x: np.ndarray, threads: int, chunk: int) -> np.ndarray:
    torch.set_num_threads(threads)
    before, network._CHUNK = network._CHUNK, chunk
    try:
        return est.ratios(x).values
    finally:
        network._CHUNK = before


def with_onnxruntime(path: Path, x: np.ndarray, threads: int, chunk: int) -> Callable[[], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run() -> np.ndarray:
        parts = (x[start : start + chunk] for start in range(0, len(x), chunk))
        return np.concatenate([session.run(["ratios"], {"features": part})[0] for part in parts]).T

    return run


def contenders(d: int, n: int, threads: int, path: Path) -> dict[str, Callable[[], np.ndarray]]:
    est = estimator(d)
    x = np.random.default_rng(d).normal(size=(n, d)).astype(np.float32)
    export_onnx(est, path, overwrite=True)
    found: dict[str, Callable[[], np.ndarray]] = {NOW: partial(with_torch, est, x, threads, network._CHUNK)}
    found |= {f"torch, {c}": partial(with_torch, est, x, threads, c) for c in CHUNKS if c != network._CHUNK}
    return found | {f"onnxruntime, {c}": with_onnxruntime(path, x, threads, c) for c in CHUNKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, nargs="+", default=[5, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    columns: dict[str, list[str]] = {}
    header, largest, scale = [], 0.0, []
    with tempfile.TemporaryDirectory() as scratch:
        for d in options.features:
            for threads in options.threads:
                calls = contenders(d, options.events, threads, Path(scratch) / "ratios.onnx")
                expected = calls[NOW]()
                largest = max(largest, *(float(abs(call() / expected - 1).max()) for call in calls.values()))
                times = interleave(calls, rounds=options.rounds, warm=0)
                header.append(f"{d} features, {threads} thread{'s' * (threads > 1)}")
                scale.append(f"{times.median(NOW):.2f} / {min(times.seconds[NOW]):.2f}")
                for name in calls:
                    columns.setdefault(name, []).append(times.ratio(name, NOW))
    text = (
        f"Ratios of {options.events:.3g} events; chunks of so many events; median / best. Largest relative difference "
        f"of a ratio to that of the first row: {largest:.1e}. Scale: the first row took {', '.join(scale)} s."
    )
    rows = tuple((name, *values) for name, values in columns.items())
    print(machine() + "\n")
    print(Section("Evaluation of networks", text, ("", *header), rows).markdown())


if __name__ == "__main__":
    main()
