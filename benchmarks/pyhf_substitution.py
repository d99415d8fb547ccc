"""A pytest plugin: pyhf's own tests with nuratio's models in place of pyhf's.

``pytest -p pyhf_substitution --substitute counting`` makes every `pyhf.Model` that pyhf's code or tests construct a
nuratio model around it, without unbinned channels; ``--substitute unbinned`` rewrites every channel of it as an
unbinned one (`nuratio.Workspace.unbin`: one event per bin), which leaves its flat data vector as it is. What is not
substituted is counted with the reason; nothing else falls back. `pyhf_suite.py` runs it and prints what came out.
"""

import inspect
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyhf
import pytest

from nuratio.model.model import Model
from nuratio.workspace.workspace import Workspace

MODES = ("pyhf", "counting", "unbinned")

_BINS = "rates per bin and sample: main_model and modifications are of bins, not of events"
_CONSTANT = "the value of ln L: events have a density, bins a probability; parameters do not change the difference"
_TOYS = "random numbers: toys come one after the other, from pyhf all main data first; the distributions are the same"
_MINIMISER = "an uncertainty to 1e-6 (found: 8e-6), where minuit's numerical one is 5e-4 off the exact one"
_ZERO = "pyhf 0.7 divides by q_A = 0 at mu = 0 where both fits agree to the last digit (pyhf #2725, repaired on main)"
_SLOW = "not run, minutes to hours: many parameters per bin are as many cells of one event, with numerical derivatives"

# Tests that fail with a substituted model, and why they should: (modes, pattern of the test's id, reason).
EXCLUSIONS = (
    ("counting unbinned", "test_minuit_param_names", "it replaces an attribute of pyhf's own class of configurations"),
    ("unbinned", "test_pdf_inputs|test_optim_with_value", _CONSTANT),
    ("unbinned", "test_optim_uncerts", _MINIMISER),
    ("unbinned", "test_infer.*(test_toms748_scan|test_upper_limit|test_deprecated_upperlimit)", _ZERO),
    ("unbinned", "test_emperical_distribution|test_toy_calculator|q0_mu1_toys", _TOYS),
    ("unbinned", "test_smoketest_toys", "make_pdf(pars) draws toys; the likelihood is logpdf(pars, data)"),
    ("unbinned", "test_pdf_basicapi_tests|test_pdf_expected_data_by_sample|test_pdf_invalid_parameter_shapes", _BINS),
    ("unbinned", "test_lumi_np_scaling|test_staterror_holes|test_shapesys_holes", _BINS),
    ("unbinned", "test_pdf_integration_histosys", "exact equality of 102 and 102.00000000000009 expected events"),
    ("unbinned", "test_pdf_clipping", "negative expectation: pyhf's goes on, nuratio warns and expects no event"),
)
# Tests that are not run: the same.
NOT_RUN = (("unbinned", "test_backend_consistency|test_regression|test_public_api.*test_hypotest.numpy", _SLOW),)

MISSING: dict[str, set[str]] = {}  # backends that are not installed -> how tests call them


class Substitution:
    """Makes the models, and counts them."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.made = 0
        self.left: Counter[str] = Counter()
        self._original = pyhf.pdf.Model
        self._busy = False

    def install(self) -> None:
        """Put it wherever pyhf keeps its class."""
        for module in (pyhf, pyhf.pdf, pyhf.workspace, pyhf.simplemodels):
            if module.Model is not self._original:
                raise pytest.UsageError(f"{module.__name__}.Model is not pyhf's own")
            module.Model = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What takes the place of ``pyhf.Model(*args, **kwargs)``; what pyhf refuses, it refuses."""
        model = self._original(*args, **kwargs)
        if self._busy:  # the companion of a model being substituted
            return model
        given = inspect.signature(self._original).bind(*args, **kwargs).arguments
        reason = self._left_alone(given)
        if reason is not None:
            self.left[reason] += 1
            return model
        self._busy = True
        try:
            substitute = Model.from_pyhf(model) if self.mode == "counting" else unbinned(model)
        finally:
            self._busy = False
        self.made += 1
        return substitute

    def _left_alone(self, given: dict[str, Any]) -> str | None:
        if given.get("batch_size") is not None:
            return "batch_size: nuratio evaluates one point, or several by itself"
        if given.get("modifier_set") is not None:
            return "modifier_set: nuratio has no modifiers written in Python"
        if self.mode == "counting":
            return None
        if given.get("clip_sample_data") is not None or given.get("clip_bin_data") is not None:
            return "clip_sample_data, clip_bin_data: nuratio clips no density"
        if pyhf.tensorlib.name != "numpy":
            return f"backend {pyhf.tensorlib.name}: nuratio evaluates events for the numpy backend"
        return None


def unbinned(model: Any) -> Model:
    """The same model with every channel unbinned, one event per bin."""
    given = model.config.modifier_settings
    codes = {"normsys": "code1", "histosys": "code0"}  # pyhf's for what settings that are given lack
    spec = {
        "version": "1.0.0",
        "channels": model.spec["channels"],
        "observations": [{"name": c, "data": [0.0] * n} for c, n in model.config.channel_nbins.items()],
        "measurements": [{"name": "suite", "config": {"poi": "", "parameters": model.spec.get("parameters", [])}}],
        "unbinned": {
            "version": "1.0.0",
            "files": [],
            "channels": [],
            "modifier_settings": {k: {"interpcode": code} | given.get(k, {}) for k, code in codes.items()},
        },
    }
    workspace = Workspace(json.loads(json.dumps(spec, default=np.ndarray.tolist)))
    for channel in model.config.channels:
        workspace = workspace.unbin(channel)
    return workspace.model(poi=model.config.poi_name)


class Outcomes:
    """What became of each test."""

    def __init__(self, substitution: Substitution, report: Path) -> None:
        self.substitution, self.report = substitution, report
        self.tests: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)  # after what -k deselects
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept, without = [], []
        for item in items:
            parameters = re.split(r"[\[\]-]", item.name)[1:]
            absent = [f"not run: {name} is not installed" for name in MISSING if MISSING[name] & set(parameters)]
            absent += self._matching(NOT_RUN, item)
            for reason in (*absent, *self._matching(EXCLUSIONS, item)):
                self.reasons.setdefault(item.nodeid, reason)
            if absent:
                self.tests[item.nodeid] = "excluded"
            (without if absent else kept).append(item)
        items[:] = kept
        config.hook.pytest_deselected(items=without)

    def _matching(self, entries: Iterable[tuple[str, str, str]], item: pytest.Item) -> list[str]:
        mode = self.substitution.mode
        return [reason for modes, pattern, reason in entries if mode in modes and re.search(pattern, item.nodeid)]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tests[report.nodeid] = "failed"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = report.outcome
        if report.when == "call" or outcome != "passed":
            if outcome == "failed" and report.nodeid in self.reasons:
                outcome = "excluded"
            if self.tests.get(report.nodeid) not in ("failed", "excluded"):
                self.tests[report.nodeid] = outcome

    def pytest_sessionfinish(self) -> None:
        self.report.write_text(
            json.dumps(
                {
                    "tests": self.tests,
                    "reasons": self.reasons,
                    "made": self.substitution.made,
                    "left": self.substitution.left,
                }
            )
        )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Let numpy stand in for backends that are not installed: pyhf's conftest makes all of them."""
    for name in ("pytorch", "tensorflow", "jax"):
        try:
            getattr(pyhf.tensor, f"{name}_backend", None)
        except pyhf.exceptions.ImportBackendError:
            setattr(pyhf.tensor, f"{name}_backend", _stand_in(f"{name}_backend"))
            MISSING[name] = {name, f"{name}64", f"{name}_backend"}


def _stand_in(name: str) -> Any:
    def backend(**_: Any) -> Any:
        return pyhf.tensor.numpy_backend()

    backend.__name__ = name  # from which pytest makes ids
    return backend


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--substitute", choices=MODES, default="pyhf")
    parser.addoption("--outcomes", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    substitution = Substitution(config.getoption("--substitute"))
    if substitution.mode != "pyhf":
        substitution.install()
    config.pluginmanager.register(Outcomes(substitution, config.getoption("--outcomes")))
