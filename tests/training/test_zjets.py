"""Real weights of next-to-leading order: aMC@NLO Z + jets as a reweighting of leading order."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from nuratio.data.root import read_root
from nuratio.data.split import fold_of
from nuratio.ratios.closure import Weighted, closure_chi2
from nuratio.ratios.options import TrainingOptions
from nuratio.training.train import train

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "ntuples"
FILES = {"lo": "zjets_lo_mlm.root", "nlo": "zjets_nlo_fxfx.root"}
FEATURES = {
    "mll": "log(mll)",
    "yll": "yll",
    "lep1_pt": "log(lep1_pt)",
    "lep2_pt": "log(lep2_pt)",
    "ptll": "log1p(ptll)",
    "nparton": "nparton",
    "p1_pt": "log1p(p1_pt)",
    "p2_pt": "log1p(p2_pt)",
}
SUPPORT = "(nparton == 0) | ((p1_pt > 10) & ((nparton == 1) | (p2_pt > 10)))"  # of the leading order
OPTIONS = TrainingOptions(hidden=(24, 24), epochs=15, batch_size=256, learning_rate=5e-3, folds=3, ensemble=1)


@pytest.fixture(scope="module")
def zjets():
    for file in FILES.values():
        if not (DATA / file).exists():
            pytest.skip(f"no {file} in the shared data")
    return {
        name: read_root(DATA / file, "events", FEATURES, weight="weight", cut=SUPPORT) for name, file in FILES.items()
    }


def closure(zjets, ratio, name, partons=None):
    """Chi2 and degrees of freedom in six bins, each fold by itself: no network has seen what it is compared with."""
    column = zjets["nlo"].column(name)
    edges = np.quantile(column[column != 0], np.linspace(0, 1, 6))[:-1]  # no parton, no momentum: a bin of its own
    cells, total = {}, np.zeros(2)
    for key, events in zjets.items():
        cells[key] = np.searchsorted(np.unique(edges), events.column(name), side="right")
        if partons is not None:
            cells[key][events.column("nparton") != partons] = 6
    for k in range(OPTIONS.folds):
        source, target = (
            Weighted(cells[key][own], (events.weights * (ratio if key == "lo" else 1.0))[own])
            for key, events in zjets.items()
            for own in [fold_of(events.ids, OPTIONS.folds) == k]
        )
        total += closure_chi2(source, target, np.arange(8) - 0.5)
    return total


@pytest.mark.parametrize("method", ["mixture", "lsif", "linear"])
def test_next_to_leading_order_is_leading_order_reweighted(zjets, method):
    """18.5% of the weights are negative, 46% of those with two partons."""
    est = train(zjets, method=method, options=OPTIONS, progress=False, seed=1)
    lo = zjets["lo"]
    r = est.ratio(lo, "nlo", event_ids=lo.ids) / est.ratio(lo, "lo", event_ids=lo.ids)
    assert r.min() < r.max() / 5
    for name in FEATURES:
        assert chi2.sf(*closure(zjets, r, name)) > 1e-3, name
    for partons in (0, 1, 2):
        assert chi2.sf(*closure(zjets, r, "mll", partons)) > 1e-3, partons
    for name in ("nparton", "p2_pt"):
        assert chi2.sf(*closure(zjets, np.ones(len(lo)), name)) < 1e-5  # without the ratio they differ


def test_the_weights_are_those_of_the_generator(zjets):
    nlo, lo = zjets["nlo"], zjets["lo"]
    assert len(np.unique(np.abs(nlo.weights))) == 1
    assert 0.1 < nlo.negative_fraction < 0.2  # without the soft second partons
    assert nlo.effective_size == pytest.approx(len(nlo) * (1 - 2 * nlo.negative_fraction) ** 2)
    assert lo.negative_fraction == 0
