"""Compiled functions are kept on disk, stamped with the text of their own file only."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

import nuratio.model
from nuratio.errors import CompilationWarning
from nuratio.model import compiling

FOLDER = Path(nuratio.model.__file__).parent
MODULES = sorted(
    "nuratio.model." + ".".join(path.relative_to(FOLDER).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if path.stem != "__init__"
)


def compiled(module):
    return [
        f for f in vars(import_module(module)).values() if isinstance(f, Dispatcher) and f.py_func.__module__ == module
    ]


def test_there_are_compiled_functions():
    assert compiled("nuratio.model.histfactory")


@pytest.mark.parametrize("module", MODULES)
def test_a_compiled_function_calls_none_of_another_file(module):
    """Its code on disk would stay what it was when the other file changes."""
    for function in compiled(module):
        code = function.py_func.__code__
        called = [vars(sys.modules[module]).get(name) for name in code.co_names]
        for other in (f for f in called if isinstance(f, Dispatcher)):
            assert other.py_func.__module__ == module, f"{function.py_func.__name__} calls {other.py_func.__name__}"


def test_without_a_folder_to_write_to_it_compiles_every_time(monkeypatch):
    def njit(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file")
        return lambda function: (function, options)

    monkeypatch.setattr(compiling, "njit", njit)
    with pytest.warns(CompilationWarning, match="NUMBA_CACHE_DIR"):
        function, options = compiling.compiler(fastmath=True)(abs)
    assert function is abs
    assert options == {"nogil": True, "error_model": "numpy", "fastmath": True}
