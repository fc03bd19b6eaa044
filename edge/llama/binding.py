"""The binding's module of C functions, without the second runtime that its package brings along.

`import llama_cpp` runs an `__init__` that imports the high-level classes and all they need, a tenth of a second that
every command would pay. Only the submodule `llama_cpp.llama_cpp` is wanted here; a host program that imports the whole
package later gets it as usual, around the same submodule.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType

from edge.errors import EdgeError

_PACKAGE = "llama_cpp"


def _import_functions() -> ModuleType:
    if _PACKAGE in sys.modules:
        return import_module(f"{_PACKAGE}.llama_cpp")
    spec = find_spec(_PACKAGE)
    if spec is None:
        raise EdgeError("llama-cpp-python is not installed.", hint="Install it with: pip install llama-cpp-python")
    sys.modules[_PACKAGE] = module_from_spec(spec)  # knows where its submodules are; its own code does not run
    try:
        return import_module(f"{_PACKAGE}.llama_cpp")
    finally:
        del sys.modules[_PACKAGE]


llama = _import_functions()
