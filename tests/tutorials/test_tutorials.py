import runpy
from pathlib import Path

import matplotlib as mpl
import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_the_tutorial_runs_and_ends_with_its_number(path, tmp_path, monkeypatch, capsys):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(path))
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("kappa <")
    assert 0 < names["limit"].expected[0] < names["limit"].expected[4]
    # kappa = 1 was generated; half a sigma of it is the small simulation's
    assert abs(names["best"]["kappa"].value - 1) < 4 * names["best"]["kappa"].uncertainty
    assert {p.name for p in (tmp_path / "tutorial_plots").iterdir()} == {
        "pulls.png",
        "scan.png",
        "signal_region.png",
        "limit.png",
    }
