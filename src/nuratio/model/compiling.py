"""numba, the way nuratio uses it: compiled when first called, kept on disk, without Python's lock."""

import warnings
from collections.abc import Callable
from typing import Any

from numba import njit

from nuratio.errors import CompilationWarning

__all__ = ["compiler"]


def compiler(**options: Any) -> Callable[..., Any]:
    """A decorator for functions that numba compiles.

    They divide as numpy does, run beside other threads, and call compiled functions of their own file only: code on
    disk is stamped with the text of one file.

    Parameters
    ----------
    **options
        Further options of ``numba.njit``.

    Warns
    -----
    CompilationWarning
        Nothing can be kept on disk: every process compiles anew.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        settings = {"nogil": True, "error_model": "numpy", **options}
        try:
            return njit(cache=True, **settings)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            warnings.warn(
                "compiled code cannot be kept on disk, so each process compiles it again, for some seconds; set "
                "NUMBA_CACHE_DIR to a folder that can be written",
                CompilationWarning,
                stacklevel=2,
            )
            return njit(**settings)(function)

    return compiled
