"""nuratio's models in other packages: exact derivatives for `pyhf.infer` (here) and for cabinetry (`.cabinetry`)."""

from nuratio.interop.optimizer import Optimizer, exact_derivatives

__all__ = ["Optimizer", "exact_derivatives"]
