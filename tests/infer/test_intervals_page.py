"""docs/intervals.md is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
def test_the_page_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "intervals.md").read_text(), re.DOTALL):
        exec(compile(code.replace("n=20", "n=6"), "intervals.md", "exec"), names)  # fewer toys
    found, both, excess = names["found"], names["both"], names["excess"]
    assert found.valid
    assert both.valid
    assert found.pieces[1][0][0] < found.pieces[0][0][0] < found.bestfit["kappa"].value
    assert excess.valid
    assert excess.at == pytest.approx(9.0, abs=0.6)
    assert excess.local_significance > excess.global_significance > 2
