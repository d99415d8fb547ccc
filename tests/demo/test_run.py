import json

import matplotlib as mpl
import pytest

from nuratio.demo.run import run_demo


def test_the_demo_in_small(tmp_path):
    mpl.use("Agg")
    events = {
        "sm": (40_000, 30_000, 20_000),
        "interference": (4_000, 15_000, 15_000),
        "newphys": (2_000, 8_000, 15_000),
    }
    ratio = {"hidden": [24, 24, 24], "folds": 2, "ensemble": 1, "epochs": 10, "batch_size": 512, "learning_rate": 0.01}
    training = {"Ratio": ratio, "Shape": {"hidden": [16], "epochs": 2, "ensemble": 1}}
    summary = run_demo(tmp_path / "demo", seed=4, events=events, training=training)
    assert json.loads((tmp_path / "demo" / "summary.json").read_text()) == summary
    keys = {"bestfit", "uncertainty", "upper_limit"}
    assert {name: set(values) for name, values in summary.items()} == {"learned": keys, "exact": keys}
    learned, exact = summary["learned"], summary["exact"]
    # a fifth of the events and one small network per fold: within one sigma
    assert abs(learned["bestfit"] - exact["bestfit"]) < exact["uncertainty"]
    assert learned["upper_limit"] == pytest.approx(exact["upper_limit"], rel=0.25)
    made = {p.name for p in (tmp_path / "demo" / "plots").iterdir()}
    assert {"limit.png", "pulls.png", "scan.png", "SR_ln_mll.png", "SR_costh.png", "CR_mll.png"} == made
