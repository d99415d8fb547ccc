"""Real weights of next-to-leading order: Z + jets of aMC@NLO (FxFx) as a reweighting of leading order (MLM).

Two samples of 10000 events each (MG5_aMC, 7 TeV, scikit-hep-testdata). 18.5% of the NLO weights are negative, 46% of
those with two partons. LO events are reweighted with the learned ratio and compared with the NLO events of the same
fold; the networks have seen neither. Both samples are cut to partons above 10 GeV, where LO ends: no weight can make
events where there are none. What is left of NLO is worth 4500 events of weight one, 65 of them with two partons.

Chi2 per degree of freedom and its p-value, for all events and for each number of partons; the variance includes that of
the training, by the delete-one-fold jackknife. The distance in all features should be like that between random halves
of both samples together, which is what two samples of one density give.

    python benchmarks/zjets.py DIRECTORY [--methods mixture lsif]      # with zjets_nlo_fxfx.root and zjets_lo_mlm.root
"""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import chi2

from nuratio.checks.run import check_ratios
from nuratio.data.root import read_root
from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import NuratioWarning
from nuratio.ratios.closure import Weighted, closure_chi2, sliced_wasserstein
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.options import TrainingOptions
from nuratio.training.train import train

METHODS = ("mixture", "lsif", "revert", "linear", "resampled", "auto")
FEATURES = {
    "ln mll": "log(mll)",
    "yll": "yll",
    "ln lep1_pt": "log(lep1_pt)",
    "lep1_eta": "lep1_eta",
    "ln lep2_pt": "log(lep2_pt)",
    "lep2_eta": "lep2_eta",
    "ln ptll": "log1p(ptll)",
    "nparton": "nparton",
    "ln p1_pt": "log1p(p1_pt)",  # 0 without a parton
    "p1_eta": "p1_eta",
    "ln p2_pt": "log1p(p2_pt)",
    "p2_eta": "p2_eta",
}
NOT_GIVEN = {"ht": "ht", "deta": "lep1_eta - lep2_eta"}  # compared, but no inputs of the networks
CUT = "(nparton == 0) | ((p1_pt > 10) & ((nparton == 1) | (p2_pt > 10)))"
PARTONS = (0, 1, 2)
BINS = 10
SHUFFLES = 100


def read(directory: Path) -> dict[str, EventSample]:
    """Leading and next-to-leading order, with all that is compared."""
    files = {"lo": "zjets_lo_mlm.root", "nlo": "zjets_nlo_fxfx.root"}
    return {
        name: read_root(directory / file, "events", FEATURES | NOT_GIVEN, weight="weight", cut=CUT)
        for name, file in files.items()
    }


def inputs(events: EventSample) -> EventSample:
    """What is trained on."""
    n = len(FEATURES)
    return EventSample(events.features[:, :n], events.weights, events.names[:n], events.ids)


def options() -> TrainingOptions:
    """A few thousand effective events: small networks, and several of them."""
    return TrainingOptions(hidden=(32, 32), epochs=40, batch_size=512, learning_rate=3e-3, folds=5, ensemble=3)


@dataclass(frozen=True, eq=False)
class Ratio:
    """NLO over LO at the LO events: by networks that have not seen them, and by those of every fold, (folds, n)."""

    cross_fitted: np.ndarray
    of_fold: np.ndarray

    @classmethod
    def of(cls, estimator: RatioEstimator, lo: EventSample) -> "Ratio":
        x = inputs(lo)

        def at(ids: np.ndarray) -> np.ndarray:
            table = estimator.ratios(x, event_ids=ids)
            return estimator.net(table, "nlo") / estimator.net(table, "lo")

        _, first = np.unique(folds(lo), return_index=True)  # an event of each fold stands for all of it
        return cls(at(x.ids), np.array([at(np.full(len(x), x.ids[i])) for i in first]))

    @classmethod
    def one(cls, lo: EventSample) -> "Ratio":
        """No reweighting."""
        return cls(np.ones(len(lo)), np.ones((options().folds, len(lo))))


def folds(events: EventSample) -> np.ndarray:
    return fold_of(events.ids, options().folds, options().fold_seed)


def by_fold(events: Mapping[str, EventSample], ratio: Ratio) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each fold: which LO events, their weights, which NLO events, theirs."""
    lo, nlo = events["lo"], events["nlo"]
    for k in range(options().folds):
        i, j = folds(lo) == k, folds(nlo) == k
        yield i, (lo.weights * ratio.cross_fitted)[i], j, nlo.weights[j]


def closure(events: Mapping[str, EventSample], ratio: Ratio, name: str, partons: int | None) -> tuple[float, int]:
    """Chi2 and degrees of freedom of one quantity, summed over folds; events with other partons share one more bin."""
    values = [events[key].column(name) for key in ("lo", "nlo")]
    chosen = [partons is None or events[key].column("nparton") == partons for key in ("lo", "nlo")]
    among = np.concatenate([v[np.broadcast_to(c, v.shape)] for v, c in zip(values, chosen, strict=True)])
    inner = np.unique(np.quantile(among, np.linspace(0, 1, BINS + 1)))[1:]
    inner = inner[:-1] if len(inner) > 1 else inner
    bins = len(inner) + 2
    lo, nlo = (
        np.where(c, np.searchsorted(inner, v, side="right"), bins - 1) for c, v in zip(chosen, values, strict=True)
    )
    learned = events["lo"].weights * ratio.of_fold
    shares = np.array([np.bincount(lo, w, bins) / w.sum() for w in learned])
    training = (len(shares) - 1) * shares.var(axis=0)  # delete-one-fold jackknife
    edges = np.arange(bins + 1) - 0.5
    each = [
        closure_chi2(Weighted(lo[i], w0), Weighted(nlo[j], w1), edges, training=training)
        for i, w0, j, w1 in by_fold(events, ratio)
    ]
    return sum(value for value, _ in each), sum(ndf for _, ndf in each)


def distance(events: Mapping[str, EventSample], ratio: Ratio, shuffles: int = SHUFFLES) -> tuple[float, float, float]:
    """Sliced Wasserstein distance with features in units of their spread, mean over folds; its null; its p-value."""
    rng, n = np.random.default_rng(0), len(FEATURES)
    scale = events["nlo"].features[:, :n].std(0)
    found = np.zeros(1 + shuffles)
    for i, w0, j, w1 in by_fold(events, ratio):
        x = np.concatenate([events["lo"].features[i], events["nlo"].features[j]])[:, :n] / scale
        w = np.concatenate([w0 / w0.sum(), w1 / w1.sum()])
        sides = [np.arange(len(w)) < len(w0), *(rng.uniform(size=(shuffles, len(w))) < 0.5)]
        found += [sliced_wasserstein(Weighted(x[s], w[s]), Weighted(x[~s], w[~s]))[0] for s in sides]
    found /= options().folds
    return float(found[0]), float(found[1:].mean()), float((1 + (found[1:] >= found[0]).sum()) / (1 + shuffles))


def quantities(events: Mapping[str, EventSample]) -> list[tuple[str, int | None]]:
    """What is compared: every quantity for all events, and where it varies for each number of partons."""
    lo = events["lo"]
    varies = [
        (name, partons)
        for partons in PARTONS
        for name in lo.names
        if np.ptp(lo.column(name)[lo.column("nparton") == partons]) > 0
    ]
    return [(name, None) for name in lo.names] + varies


def column(
    events: Mapping[str, EventSample], ratio: Ratio, rows: list[tuple[str, int | None]], notes: list[str]
) -> list[str]:
    """A column of the table."""
    found = [closure(events, ratio, *row) for row in rows]
    p = [chi2.sf(*each) for each in found]
    far, null, p_far = distance(events, ratio)
    cells = [f"{value / ndf:.2f} ({q:.2g})" for (value, ndf), q in zip(found, p, strict=True)]
    return [*cells, f"{sum(q < 0.05 for q in p)}", f"{far / null:.2f} ({p_far:.2g})", *notes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore", NuratioWarning)
    events = read(args.directory)
    seen, rows = {name: inputs(sample) for name, sample in events.items()}, quantities(events)
    columns = {"none": column(events, Ratio.one(events["lo"]), rows, ["", "", ""])}
    for method in args.methods:
        start = time.perf_counter()
        estimator = train(seen, method=method, options=options(), seed=args.seed, progress=False)
        seconds = f"{time.perf_counter() - start:.0f}"
        checks = check_ratios(estimator, seen).checks
        failed = [check for check in checks if not check.passed]
        notes = [f"{len(checks) - len(failed)} of {len(checks)}", seconds, ""]
        if method == "auto":
            notes[-1] = estimator.report["auto"]["chosen"]
            print(estimator.report["auto"]["candidates"], file=sys.stderr)
        columns[method] = column(events, Ratio.of(estimator, events["lo"]), rows, notes)
        print(method, columns[method], *failed, sep="\n", file=sys.stderr, flush=True)
    labels = [name if partons is None else f"{name}, {partons} partons" for name, partons in rows]
    labels += [f"p < 0.05, of {len(rows)}", "distance / null (p)", "checks passed", "seconds", "chosen"]
    print("| chi2/ndf (p) | " + " | ".join(columns) + " |\n" + "| --- " * (len(columns) + 1) + "|")
    for label, *cells in zip(labels, *columns.values(), strict=True):
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
