"""ggml's conversion and quantization of rows of weights.

Every call works on memory of the caller and releases the GIL, so several threads may convert at once.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError
from edge.gguf_format import TENSOR_TYPES, TensorType
from edge.llama import log
from edge.llama.library import backend, native_function

Floats = npt.NDArray[np.float32]

# llama_ftype numbers of general.file_type. Source: llama.h
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "Q4_K_M": 15, "BF16": 32}


def to_float32(rows: npt.NDArray[Any], out: Floats) -> None:
    """Widen F16 or BF16 (as uint16) values into `out` of the same shape; both contiguous."""
    assert rows.flags.c_contiguous and out.flags.c_contiguous and rows.size == out.size
    _convert_row("fp16_to_fp32" if rows.dtype == np.float16 else "bf16_to_fp32", rows, out)


def quantize_rows(rows: Floats, kind: TensorType, out: npt.NDArray[np.uint8]) -> None:
    """Encode float32 rows [rows, columns] as `kind` into `out` of exactly the encoded size.

    Source: ggml_quantize_chunk, which llama_model_quantize uses as well; F16 and BF16 round to nearest even.
    """
    count, columns = rows.shape
    assert rows.flags.c_contiguous and out.flags.c_contiguous
    assert out.nbytes == count * kind.row_bytes(columns), f"{out.nbytes} bytes for {count} rows of {kind.name}"
    if kind.name == "F32":
        out.view(np.float32)[:] = rows.reshape(-1)
    elif kind.name == "F16":
        _convert_row("fp32_to_fp16", rows, out)
    elif kind.name == "BF16":
        _convert_row("fp32_to_bf16", rows, out)
    else:
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        quantize = native_function(
            "ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, pointer, pointer, number, number, number, pointer
        )
        quantize(kind.id, rows.ctypes.data, out.ctypes.data, 0, count, columns, None)


# libggml-base has one function for each type; the K-quants keep their capital letter
_DECODERS = {
    name: f"dequantize_row_{name.lower().replace('_k', '_K')}"
    for name, kind in TENSOR_TYPES.items()
    if kind.is_quantized and name not in ("Q8_1", "Q8_K")
}


def dequantize_rows(encoded: npt.NDArray[np.uint8], kind: TensorType, columns: int) -> Floats:
    """Encoded rows as float32 [rows, columns]."""
    values = np.empty((encoded.nbytes // kind.row_bytes(columns), columns), np.float32)
    if kind.name == "F32":
        values.reshape(-1)[:] = encoded.view(np.float32)
    elif kind.name == "F16":
        to_float32(encoded.view(np.float16), values)
    elif kind.name == "BF16":
        to_float32(encoded.view(np.uint16), values)
    else:
        decode = native_function(_DECODERS[kind.name], None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        decode(encoded.ctypes.data, values.ctypes.data, values.size)
    return values


def is_sound(encoded: npt.NDArray[np.uint8], kind: TensorType) -> bool:
    """Whether encoded rows hold finite values only (the scales of quantized blocks included)."""
    validate = native_function("ggml_validate_row_data", ctypes.c_bool, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    return bool(validate(kind.id, encoded.ctypes.data, encoded.nbytes))


def _convert_row(conversion: str, values: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    convert = native_function(f"ggml_{conversion}_row", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    convert(values.ctypes.data, out.ctypes.data, values.size)


def quantize_file(source: Path, target: Path, quantization: str, *, threads: int = 0) -> None:
    """Quantize a GGUF file with llama.cpp's own llama_model_quantize: the oracle of our converter, and its anchor."""
    llama = backend()
    params = llama.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = FILE_TYPES[quantization]
    log.forget()
    status = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0:
        raise EdgeError(
            f"llama.cpp cannot quantize {source}: {log.first_error() or 'no reason given'}",
            hint=f"See what is in the file with: edge inspect {source}",
        )
