"""Loads the bound libraries once, and finds the ggml functions that the binding leaves out."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.llama import log
from edge.llama.binding import llama


@cache
def backend() -> Any:
    """The binding's module with llama.cpp initialized and its log captured."""
    log.capture()
    llama.llama_backend_init()
    return llama


@cache
def native_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml with its ctypes prototype.

    The loader finds symbols of a library's dependencies, except on Windows. Opening libggml by its file name is no
    substitute on Linux: a wheel holds copies instead of links, and a copy knows no devices.
    """
    folder = Path(backend().__file__).parent / "lib"
    libraries = [llama._lib, *(ctypes.CDLL(str(path)) for path in sorted(folder.glob("*ggml*.dll")))]
    library = next((library for library in libraries if hasattr(library, name)), None)
    if library is None:
        raise EdgeError(
            f"The installed llama-cpp-python has no function {name}.",
            hint="Install the version that edge is tested with: pip install --upgrade edge-llm",
        )
    function = library[name]
    function.restype, function.argtypes = result, list(arguments)
    return function
