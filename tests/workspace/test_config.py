import copy

import pytest
import yaml

from nuratio.errors import InvalidConfig
from nuratio.workspace.config import Config

GOOD = {
    "General": {"Measurement": "m", "POI": "mu", "InputPath": "ntuples"},
    "Regions": [
        {"Name": "SR", "Type": "unbinned", "Features": ["x"]},
        {"Name": "CR", "Variable": "x", "Binning": [0, 1, 2]},
    ],
    "Samples": [
        {"Name": "data", "Data": True, "SamplePath": "data.root", "Tree": "t"},
        {"Name": "signal", "SamplePath": ["a.root", "./b.root"], "Tree": "t", "Weight": "w"},
        {"Name": "background", "SamplePath": "b*.root", "Tree": "t", "Regions": "SR"},
    ],
    "NormFactors": [
        {"Name": "mu", "Samples": "signal", "Bounds": [0, 5]},
        {"Name": "mu2", "Samples": ["background"], "Regions": "SR", "Expression": "mu**2"},
    ],
    "Systematics": [
        {"Name": "jes", "Type": "NormPlusShape", "Up": {"Tree": "up"}, "Down": {"Symmetrize": True}},
        {
            "Name": "xs",
            "Type": "Normalization",
            "Samples": "signal",
            "Up": {"Normalization": 0.1},
            "Down": {"Normalization": -0.1},
        },
    ],
}


def written(tmp_path, values):
    path = tmp_path / "config.yml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_a_good_configuration(tmp_path):
    config = Config.read(written(tmp_path, GOOD))
    assert config.paths(["a.root", "./b.root"]) == [str(tmp_path / "ntuples/a.root"), str(tmp_path / "b.root")]
    assert config.data["Name"] == "data"
    assert [s["Name"] for s in config.samples("SR")] == ["signal", "background"]
    assert [s["Name"] for s in config.samples("CR")] == ["signal"]
    assert [n["Name"] for n in config.norm_factors("SR", "background")] == ["mu2"]
    assert config.norm_factors("CR", "background") == []
    assert [s["Name"] for s in config.systematics("CR", "signal")] == ["jes", "xs"]
    assert Config.read(written(tmp_path, GOOD), inputs="/elsewhere").paths("a.root") == ["/elsewhere/a.root"]


CHANGES = {
    "missing section": (["Samples"], None, "'Samples' is a required property"),
    "unknown word": (["Regions", 0, "Feature"], ["x"], "unknown word 'Feature'; did you mean 'Features'"),
    "wrong type": (["Regions", 1, "Type"], "unbind", "Regions/1/Type"),
    "binning alone": (["Regions", 0, "Binning"], [0, 1], "Regions/0: 'Variable' is a dependency of 'Binning'"),
    "features in binned": (["Regions", 1, "Features"], ["x"], "Regions/1: ['x'] is not for this type of region"),
    "cells in no feature": (
        ["Regions", 0],
        {"Name": "SR", "Type": "unbinned", "Features": ["xx"], "Variable": "x", "Binning": [0, 1]},
        "Variable 'x' is none; did you mean 'xx'",
    ),
    "no binning": (["Regions", 1, "Binning"], None, "'Binning' is a required property"),
    "edges fall": (["Regions", 1, "Binning"], [0, 2, 1], "Binning must increase"),
    "no data": (["Samples", 0, "Data"], False, "none has Data: true"),
    "second data": (["Samples", 1, "Data"], True, "more than one has Data"),
    "unknown sample": (["NormFactors", 0, "Samples"], "signnal", "no 'signnal'; did you mean 'signal'"),
    "unknown region": (["Samples", 2, "Regions"], "SRR", "no 'SRR'; did you mean 'SR'"),
    "unknown poi": (["General", "POI"], "muu", "POI 'muu' is no NormFactor"),
    "twice": (["Samples", 2, "Name"], "signal", "'signal' occurs more than once"),
    "type against template": (["Systematics", 1, "Up"], {"Tree": "up"}, "Type Normalization does not go with ['Tree']"),
    "too low": (["Systematics", 1, "Down"], {"Normalization": -1.0}, "must be above -1"),
    "one-sided": (["Systematics", 0, "Down"], None, "'Down' is a required property"),
    "symmetrized up": (["Systematics", 0, "Up"], {"Symmetrize": True}, "Symmetrize belongs to Down"),
    "expression without samples": (["NormFactors", 1, "Samples"], None, "an Expression needs Samples"),
    "fixed": (["General", "Fixed"], [{"Name": "jess", "Value": 0}], "no parameter 'jess'; did you mean 'jes'"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_defect_is_named(tmp_path, case):
    path, value, message = CHANGES[case]
    values = copy.deepcopy(GOOD)
    place = values
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(InvalidConfig) as error:
        Config.read(written(tmp_path, values))
    assert message in str(error.value)


def test_problems_are_listed_together(tmp_path):
    values = copy.deepcopy(GOOD)
    values["General"]["POI"] = "nu"
    values["Regions"][1]["Binning"] = [1, 0]
    with pytest.raises(InvalidConfig, match=r"2 problems:\n.*\n"):
        Config.read(written(tmp_path, values))


def test_what_is_no_configuration(tmp_path):
    with pytest.raises(InvalidConfig, match="no configuration file"):
        Config.read(tmp_path / "missing.yml")
    with pytest.raises(InvalidConfig, match="is not YAML"):
        Config.read(written(tmp_path, "General: [unclosed"))
    with pytest.raises(InvalidConfig, match="has the sections General"):
        Config.read(written(tmp_path, "- a list"))
    with pytest.raises(InvalidConfig, match="is not YAML"):
        Config.read(written(tmp_path, "General: !!python/object/apply:os.system ['true']"))
