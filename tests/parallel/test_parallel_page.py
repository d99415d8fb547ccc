"""The documentation's examples are true."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_on_parallel_work_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "parallel.md").read_text()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "parallel.md", "exec"), names)
    assert names["again"].valid
