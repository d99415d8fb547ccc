"""Reading ntuples of real experiments and generators, where the shared data are present."""

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from nuratio.data.parquet import read_parquet
from nuratio.data.root import read_root
from nuratio.data.templates import histogram
from nuratio.data.variation import Variation

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "ntuples"


def ntuple(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in the shared data")
    return path


def test_jagged_muons_of_the_hzz_tutorial():
    path = ntuple("uproot-HZZ.root")
    mass = "sqrt((first(Muon_E) + nth(Muon_E, 1))**2" + "".join(
        f" - (first(Muon_P{k}) + nth(Muon_P{k}, 1))**2" for k in "xyz"
    )
    features = {"m": mass + ")", "ht": "sum(Jet_E[abs(Jet_btag) < 2])"}
    sample = read_root(path, "events", features, weight="EventWeight", cut="count(Muon_Px) >= 2", step_size=500)
    e = uproot.open(path)["events"].arrays(["Muon_E", "Muon_Px", "Muon_Py", "Muon_Pz", "EventWeight"])
    e = e[ak.num(e.Muon_E) >= 2]
    px, py, pz, energy = (
        ak.to_numpy(ak.sum(e[f"Muon_{k}"][:, :2], axis=1)).astype(float) for k in ("Px", "Py", "Pz", "E")
    )
    np.testing.assert_allclose(sample.column("m"), np.sqrt(energy**2 - px**2 - py**2 - pz**2), rtol=1e-3)
    np.testing.assert_allclose(sample.weights, e.EventWeight, rtol=1e-12)
    peak = histogram(sample, "m", [60, 80, 100, 120])
    assert peak.values[1] > peak.values[0] + peak.values[2]  # the Z


def test_signed_weights_of_the_interference():
    path = ntuple("dilepton/interference.root")
    sample = read_root(path, "nominal", ["mll", "yll", "costh"], weight="weight", event_id="event")
    assert len(sample) == 102039
    assert sample.total == pytest.approx(2351.7, abs=0.05)
    assert sample.sign(+1).total == pytest.approx(5680.9, abs=0.05)
    assert sample.sign(-1).total == pytest.approx(-3329.2, abs=0.05)
    template = histogram(sample, "mll", np.linspace(400, 3000, 14))
    assert template.values.sum() == pytest.approx(sample.total)


def test_varied_trees_share_the_generated_events():
    path = ntuple("dilepton/sm.root")
    read = {"weight": "weight", "event_id": "event"}
    nominal = read_root(path, "nominal", ["mll"], **read)
    up = read_root(path, "nominal", ["mll"], variation=Variation(tree="mu_scale_up"), **read)
    common, i, j = np.intersect1d(nominal.ids, up.ids, return_indices=True)
    assert len(common) > 0.9 * len(nominal)
    np.testing.assert_allclose(up.column("mll")[j] / nominal.column("mll")[i], 1.01, rtol=1e-5)


def test_shower_weights_of_the_emu_sample():
    path = ntuple("emu/WW.root")
    nominal = read_root(path, "nominal", ["mll", "met"], weight="weight", cut="njet == 0")
    varied = read_root(
        path, "nominal", ["mll", "met"], weight="weight", cut="njet == 0", variation=Variation(weight="weight_isrUp")
    )
    np.testing.assert_array_equal(nominal.ids, varied.ids)
    assert nominal.total != varied.total


def test_processes_of_the_higgs_challenge():
    path = ntuple("FAIR_Universe_HiggsML_data.parquet")
    table = pq.read_table(path)
    labels, weights = table["detailed_labels"].to_numpy(), table["weights"].to_numpy()
    for process in ("htautau", "ztautau", "ttbar", "diboson"):
        sample = read_parquet(
            path,
            {"vis": "DER_mass_vis", "lep": "log(PRI_lep_pt)"},
            weight="weights",
            cut=f"detailed_labels == '{process}'",
        )
        assert len(sample) == (labels == process).sum()
        assert sample.total == pytest.approx(weights[labels == process].sum(dtype=float), rel=1e-6)
