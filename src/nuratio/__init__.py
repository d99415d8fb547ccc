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
    from nuratio.infer.asymptotics import check_asymptotics
    from nuratio.infer.breakdown import breakdown
    from nuratio.infer.compare import compare
    from nuratio.infer.contour import contour
    from nuratio.infer.coverage import coverage
    from nuratio.infer.fit import fit
    from nuratio.infer.goodness import goodness_of_fit
    from nuratio.infer.hypotest import hypotest, significance
    from nuratio.infer.injection import inject
    from nuratio.infer.intervals import interval
    from nuratio.infer.limits import upper_limit
    from nuratio.infer.look_elsewhere import global_significance, scan_significance
    from nuratio.infer.neyman import neyman
    from nuratio.infer.ranking import ranking
    from nuratio.infer.scan import scan
    from nuratio.infer.toy_tests import toy_hypotest, toy_limit, toy_significance
    from nuratio.infer.toys import toys
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
    "breakdown": "nuratio.infer.breakdown",
    "check_asymptotics": "nuratio.infer.asymptotics",
    "compare": "nuratio.infer.compare",
    "contour": "nuratio.infer.contour",
    "coverage": "nuratio.infer.coverage",
    "fit": "nuratio.infer.fit",
    "global_significance": "nuratio.infer.look_elsewhere",
    "goodness_of_fit": "nuratio.infer.goodness",
    "hypotest": "nuratio.infer.hypotest",
    "inject": "nuratio.infer.injection",
    "interval": "nuratio.infer.intervals",
    "neyman": "nuratio.infer.neyman",
    "ranking": "nuratio.infer.ranking",
    "read_parquet": "nuratio.data.parquet",
    "read_root": "nuratio.data.root",
    "scan": "nuratio.infer.scan",
    "scan_significance": "nuratio.infer.look_elsewhere",
    "sharded": "nuratio.model.sharded",
    "significance": "nuratio.infer.hypotest",
    "toy_hypotest": "nuratio.infer.toy_tests",
    "toy_limit": "nuratio.infer.toy_tests",
    "toy_significance": "nuratio.infer.toy_tests",
    "toys": "nuratio.infer.toys",
    "train": "nuratio.training.train",
    "train_parametrised": "nuratio.training.parametrised",
    "upper_limit": "nuratio.infer.limits",
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
