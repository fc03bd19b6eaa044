"""Loads the bound libraries once, and finds the ggml functions that the binding leaves out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.llama import amx, log
from edge.llama.binding import llama


@cache
def backend() -> Any:
    """The binding's module with llama.cpp initialized and its log captured."""
    log.capture()
    llama.llama_backend_init()
    with amx.declined(_cpu_libraries()):
        _load_processors()
        _name_extra_buffers()
    return llama


def declines_amx() -> bool:
    """Whether `backend` keeps llama.cpp off AMX, because its build would crash on it."""
    return amx.must_be_declined(_cpu_libraries())


def _cpu_libraries() -> Iterator[Path]:
    return library_folder().glob("libggml-cpu*.so")


def library_folder() -> Path:
    """Where llama.cpp's and ggml's libraries are."""
    return Path(llama._lib._name).parent  # where LLAMA_CPP_LIB_PATH says, or else beside the binding


def _load_processors() -> None:
    """Where ggml was built for many processors (GGML_BACKEND_DL), load the libraries that fit this one best.

    Said no folder, ggml would also look into the current directory.
    """
    count = _native("ggml_backend_reg_count", ctypes.c_size_t)
    if not count():
        folder = library_folder()
        _native("ggml_backend_load_all_from_path", None, ctypes.c_char_p)(os.fsencode(folder))
        if not count():
            raise EdgeError(
                f"None of llama.cpp's libraries in {folder} is for this processor.",
                hint="Compile llama-cpp-python on this machine: pip install --no-cache-dir --force-reinstall --no-deps"
                " llama-cpp-python",
            )


def _name_extra_buffers() -> None:
    """Let ggml's CPU backend find out, once and for all, which units of the processor it may use."""
    find = cpu_function("ggml_backend_dev_get_extra_bufts", ctypes.c_void_p, ctypes.c_void_p)
    if find:
        find(None)


def cpu_registry() -> int | None:
    """The address of ggml's registry of the CPU backend."""
    address: int | None = _native("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)(b"CPU")
    return address


def cpu_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function that the CPU backend gives out by its name, with its ctypes prototype; None if it has no such one."""
    registry = cpu_registry()
    find = _native("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    address = find(registry, name.encode()) if registry else None
    return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


def native_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml with its ctypes prototype."""
    backend()
    return _native(name, result, *arguments)


@cache
def _native(name: str, result: Any, *arguments: Any) -> Any:
    """The same before the backend is there.

    The loader finds symbols of a library's dependencies, except on Windows. Opening libggml by its file name is no
    substitute on Linux: a wheel holds copies instead of links, and a copy knows no devices.
    """
    libraries = [llama._lib, *(ctypes.CDLL(str(path)) for path in sorted(library_folder().glob("*ggml*.dll")))]
    library = next((library for library in libraries if hasattr(library, name)), None)
    if library is None:
        raise EdgeError(
            f"The installed llama-cpp-python has no function {name}.",
            hint="Install the version that edge is tested with: pip install --upgrade edge-llm",
        )
    function = library[name]
    function.restype, function.argtypes = result, list(arguments)
    return function
