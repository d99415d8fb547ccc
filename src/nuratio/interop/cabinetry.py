"""Exact derivatives for cabinetry.

`cabinetry.fit` makes a minuit optimizer of pyhf's for every fit. Inside ``with exact_derivatives():`` it is nuratio's,
for all of ``fit``, ``ranking``, ``scan``, ``limit`` and ``significance``, except with ``custom_fit=True``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyhf

from nuratio.interop import optimizer

__all__ = ["exact_derivatives"]


@contextmanager
def exact_derivatives(**options: Any) -> Iterator[optimizer.Optimizer]:
    """Let every minuit optimizer that is made from `pyhf.optimize` be nuratio's, and undo that afterwards.

    Besides that, it does what `nuratio.interop.optimizer.exact_derivatives` does.
    """
    with optimizer.exact_derivatives(**options) as lent:
        original = pyhf.optimize.minuit_optimizer
        pyhf.optimize.minuit_optimizer = optimizer.Optimizer
        try:
            yield lent
        finally:
            pyhf.optimize.minuit_optimizer = original
