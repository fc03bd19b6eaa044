"""Loads the bound libraries once and declares the ggml functions that the binding leaves out."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as llama

from edge.llama import log


@cache
def backend() -> Any:
    """The binding's module with llama.cpp initialized and its log captured."""
    log.capture()
    llama.llama_backend_init()
    return llama


@cache
def ggml() -> ctypes.CDLL:
    """libggml-base with the prototypes of its conversion and quantization functions. Source: ggml.h"""
    folder = Path(llama.__file__).parent / "lib"
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll", "libggml-base.dll")
    path = next((folder / name for name in names if (folder / name).exists()), None)
    library = ctypes.CDLL(str(path)) if path else llama._lib
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, pointer, ctypes.c_size_t]
    library.ggml_validate_row_data.restype = ctypes.c_bool
    for name in (
        "ggml_bf16_to_fp32_row",
        "ggml_fp16_to_fp32_row",
        "ggml_fp32_to_fp16_row",
        "ggml_fp32_to_bf16_row",
    ):
        function = getattr(library, name)
        function.argtypes = [pointer, pointer, count]
        function.restype = None
    return library
