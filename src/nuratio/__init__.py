"""Unbinned neural-likelihood-ratio channels beside HistFactory.

The names a user meets are here; each is imported when first used, so that ``import nuratio`` and ``nuratio --help``
load neither torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nuratio import interop, plots
    from nuratio.data.parquet import read_parquet
    from nuratio.data.root import read_root
    from nuratio.data.sample import EventSample
    from nuratio.infer.binned.compare import compare
    from nuratio.infer.fitting.asymptotics import check_asymptotics
    from nuratio.infer.fitting.fit import fit
    from nuratio.infer.goodness.goodness import goodness_of_fit
    from nuratio.infer.hypotheses.hypotest import hypotest, significance
    from nuratio.infer.hypotheses.limits import upper_limit
    from nuratio.infer.hypotheses.look_elsewhere import global_significance, scan_significance
    from nuratio.infer.impacts.breakdown import breakdown
    from nuratio.infer.impacts.ranking import ranking
    from nuratio.infer.profiles.contour import contour
    from nuratio.infer.profiles.intervals import interval
    from nuratio.infer.profiles.scan import scan
    from nuratio.infer.toys.coverage import coverage
    from nuratio.infer.toys.injection import inject
    from nuratio.infer.toys.neyman import neyman
    from nuratio.infer.toys.p_values import toy_hypotest, toy_limit, toy_significance
    from nuratio.infer.toys.toys import toys
    from nuratio.model.model import Model
    from nuratio.model.sharded import sharded
    from nuratio.ratios.estimator import RatioEstimator
    from nuratio.ratios.parametrised import ParametrisedEstimator
    from nuratio.ratios.table import RatioTable
    from nuratio.training.parametrised import train_parametrised
    from nuratio.training.train import train
    from nuratio.workspace.workspace import Workspace

_HOME = {
    "EventSample": "nuratio.data.sample",
    "Model": "nuratio.model.model",
    "ParametrisedEstimator": "nuratio.ratios.parametrised",
    "RatioEstimator": "nuratio.ratios.estimator",
    "RatioTable": "nuratio.ratios.table",
    "Workspace": "nuratio.workspace.workspace",
    "breakdown": "nuratio.infer.impacts.breakdown",
    "check_asymptotics": "nuratio.infer.fitting.asymptotics",
    "compare": "nuratio.infer.binned.compare",
    "contour": "nuratio.infer.profiles.contour",
    "coverage": "nuratio.infer.toys.coverage",
    "fit": "nuratio.infer.fitting.fit",
    "global_significance": "nuratio.infer.hypotheses.look_elsewhere",
    "goodness_of_fit": "nuratio.infer.goodness.goodness",
    "hypotest": "nuratio.infer.hypotheses.hypotest",
    "inject": "nuratio.infer.toys.injection",
    "interval": "nuratio.infer.profiles.intervals",
    "neyman": "nuratio.infer.toys.neyman",
    "ranking": "nuratio.infer.impacts.ranking",
    "read_parquet": "nuratio.data.parquet",
    "read_root": "nuratio.data.root",
    "scan": "nuratio.infer.profiles.scan",
    "scan_significance": "nuratio.infer.hypotheses.look_elsewhere",
    "sharded": "nuratio.model.sharded",
    "significance": "nuratio.infer.hypotheses.hypotest",
    "toy_hypotest": "nuratio.infer.toys.p_values",
    "toy_limit": "nuratio.infer.toys.p_values",
    "toy_significance": "nuratio.infer.toys.p_values",
    "toys": "nuratio.infer.toys.toys",
    "train": "nuratio.training.train",
    "train_parametrised": "nuratio.training.parametrised",
    "upper_limit": "nuratio.infer.hypotheses.limits",
}

__all__ = [
    "EventSample",
    "Model",
    "ParametrisedEstimator",
    "RatioEstimator",
    "RatioTable",
    "Workspace",
    "__version__",
    "breakdown",
    "check_asymptotics",
    "compare",
    "contour",
    "coverage",
    "fit",
    "global_significance",
    "goodness_of_fit",
    "hypotest",
    "inject",
    "interop",
    "interval",
    "neyman",
    "plots",
    "ranking",
    "read_parquet",
    "read_root",
    "scan",
    "scan_significance",
    "sharded",
    "significance",
    "toy_hypotest",
    "toy_limit",
    "toy_significance",
    "toys",
    "train",
    "train_parametrised",
    "upper_limit",
]


def __getattr__(name: str) -> Any:
    if name in ("interop", "plots"):
        return import_module(f"nuratio.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'nuratio' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
