"""nuratio in other packages.

`exact_derivatives` is for `pyhf.infer` (and `.cabinetry` for cabinetry), `to_hs3` and `from_hs3` for packages that read
the HEP statistics serialization standard, `to_root` and `to_parquet` for those that read event tables.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuratio.interop.hs3 import from_hs3, to_hs3
    from nuratio.interop.optimizer import Optimizer, exact_derivatives
    from nuratio.interop.tables import to_parquet, to_root

_HOME = {
    "Optimizer": "nuratio.interop.optimizer",
    "exact_derivatives": "nuratio.interop.optimizer",
    "from_hs3": "nuratio.interop.hs3",
    "to_hs3": "nuratio.interop.hs3",
    "to_parquet": "nuratio.interop.tables",
    "to_root": "nuratio.interop.tables",
}

__all__ = ["Optimizer", "exact_derivatives", "from_hs3", "to_hs3", "to_parquet", "to_root"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'nuratio.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
