import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert re.match(r"kappa 0\.\d+ \+- 0\.\d+", capsys.readouterr().out)


@pytest.mark.parametrize("target", re.findall(r"^\$ make (\w+)", README, re.MULTILINE))
def test_the_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_commands_exist():
    from nuratio.cli.main import cli

    commands = set(re.findall(r"(?:^\$|&&) nuratio ([a-z]+) ", README, re.MULTILINE))
    assert {"train", "build", "validate", "fit", "limit", "plot"} <= commands
    assert commands <= set(cli.commands)


def test_the_pictures_exist():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file(), picture


@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
def test_the_systematics_page_is_true():
    import numpy as np

    page = (ROOT / "docs" / "systematics.md").read_text()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "systematics.md", "exec"), names)
    assert names["log_ratio"].shape == (20_000,)
    assert len(names["entry"]["cross"]) > 0
    assert len(names["points"]) >= 5
    true = names["efficiency"](np.array([1.7, 1.2]))
    value, error = (float(v[0]) for v in names["surface"].at([[1.7, 1.2]]))
    assert abs(value - true) < 5 * error + 2e-3


def test_the_systematics_of_the_page_are_a_configuration():
    import jsonschema
    import yaml

    from nuratio.workspace.config import config_schema

    page = (ROOT / "docs" / "systematics.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    schema = config_schema()
    part = schema["properties"]["Systematics"] | {"$defs": schema["$defs"]}
    jsonschema.Draft202012Validator(part).validate(yaml.safe_load(text)["Systematics"])


def test_the_likelihood_page_is_true(monkeypatch):
    import numpy as np
    import pyhf

    import nuratio

    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "likelihood.md").read_text()
    workspace = nuratio.Workspace.load("workspaces/zprime")
    model = workspace.model(kernel="numpy")
    theta = np.array(model.config.suggested_init())
    names = {"pyhf": pyhf, "model": model, "data": workspace.data(model)}
    names |= {"theta": theta, "thetas": [theta, 0.9 * theta]}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "likelihood.md", "exec"), names)
    assert 0 < names["cls"] < 1
    assert names["hessian"].shape == (len(theta), len(theta))
    assert names["values"][0] == names["value"]
    for file in re.findall(r"`(benchmarks/\w+\.py)`|\]\(\.\./([\w/.]+)\)", page):
        assert (ROOT / "".join(file)).is_file(), file


@pytest.mark.filterwarnings("ignore::nuratio.errors.NuratioWarning")
def test_the_page_on_toys_is_true(monkeypatch):
    from nuratio.cli.main import cli

    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "toys.md").read_text()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "toys.md", "exec"), names)
    assert len(names["drawn"]) == 20
    for command, options in re.findall(r"`nuratio ([a-z]+)([^`]*)`", page):
        known = {name for p in cli.commands[command].params for name in p.opts}
        assert set(re.findall(r"--[a-z-]+", options)) <= known, (command, options)
