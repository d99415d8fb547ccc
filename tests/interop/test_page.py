"""What docs/interoperability.md shows and claims."""

import re
from pathlib import Path

import analytic
from nuratio.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "interoperability.md").read_text()


def test_the_examples_run(tmp_path, monkeypatch):
    (tmp_path / "workspaces").symlink_to(ROOT / "workspaces")
    monkeypatch.chdir(tmp_path)

    def counting_and_shape():
        return analytic.workspace(pool=100).prune(modifier_types=["ratiosys"])

    names = {"counting_and_shape": counting_and_shape}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "interoperability.md", "exec"), names)
    assert names["document"]["likelihoods"][0]["distributions"] == ["model_CR", "events_SR"]
    assert {e["id"] for e in names["trees"].values()} == set(names["workspace"].tables)
    assert (tmp_path / "events.root").is_file()
    assert {p.name for p in (tmp_path / "events").iterdir()} == set(names["files"])


def test_the_commands_exist():
    commands = set(re.findall(r"`nuratio (export|import) (\w+)", PAGE))
    assert commands == {*(("export", kind) for kind in ("hs3", "root", "parquet", "onnx")), ("import", "hs3")}
    assert all(kind in cli.commands[group].commands for group, kind in commands)
    for option in re.findall(r"`--(\w+)`", PAGE):
        known = [p.opts for kind in ("export", "import") for p in cli.commands[kind].commands["hs3"].params]
        assert [f"--{option}"] in known
