"""ggml's conversion and quantization of rows of weights.

Every call works on memory of the caller and releases the GIL, so several threads may convert at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError
from edge.gguf_format import FILE_TYPES, TENSOR_TYPES, TensorType
from edge.llama import log
from edge.llama.library import backend, native_function

Floats = npt.NDArray[np.float32]


def to_float32(rows: npt.NDArray[Any], out: Floats) -> None:
    """Widen F16 or BF16 (as uint16) values into `out` of the same shape; both contiguous."""
    assert rows.flags.c_contiguous and out.flags.c_contiguous and rows.size == out.size
    _convert_row("fp16_to_fp32" if rows.dtype == np.float16 else "bf16_to_fp32", rows, out)


def quantize_rows(rows: Floats, kind: TensorType, out: npt.NDArray[np.uint8], importance: Floats | None = None) -> None:
    """Encode float32 rows [rows, columns] as `kind` into `out` of exactly the encoded size.

    `importance` [columns] weighs the columns' errors. A type that cannot do without it must be given it: ggml aborts
    the process otherwise.
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
        weights = None if importance is None else _contiguous(importance, columns).ctypes.data
        quantize(kind.id, rows.ctypes.data, out.ctypes.data, 0, count, columns, weights)


def _contiguous(importance: Floats, columns: int) -> Floats:
    assert importance.dtype == np.float32 and importance.flags.c_contiguous and importance.shape == (columns,)
    return importance


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


@dataclass(frozen=True)
class FileQuantization:
    """What llama_model_quantize is asked for; an override is a regular expression and the type of what it fits."""

    quantization: str
    importance: Mapping[str, Floats] = field(default_factory=dict)
    overrides: Sequence[tuple[str, str]] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    is_trial: bool = False
    """Choose types and log them, but write nothing."""


def quantize_file(source: Path, target: Path, wanted: FileQuantization | str, *, threads: int = 0) -> None:
    """Quantize a GGUF file with llama.cpp's own llama_model_quantize: the oracle of our converter, and its anchor."""
    if isinstance(wanted, str):
        wanted = FileQuantization(wanted)
    llama = backend()
    params = llama.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = FILE_TYPES[wanted.quantization]
    params.allow_requantize = True
    params.dry_run = wanted.is_trial
    if wanted.output_type:
        params.output_tensor_type = TENSOR_TYPES[wanted.output_type].id
    if wanted.embedding_type:
        params.token_embedding_type = TENSOR_TYPES[wanted.embedding_type].id
    if wanted.importance:
        params.imatrix = _imatrix_entries(wanted.importance)
    if wanted.overrides:
        params.tt_overrides = _override_entries(wanted.overrides)
    log.forget()
    status = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0:
        raise EdgeError(
            f"llama.cpp cannot quantize {source}: {log.first_error() or 'no reason given'}",
            hint=f"See what is in the file with: edge inspect {source}",
        )


def _imatrix_entries(importance: Mapping[str, Floats]) -> Any:
    """An array of llama_model_imatrix_data that ends with an empty one; the values stay the caller's."""
    kind = backend().llama_model_imatrix_data
    value_pointer = dict(kind._fields_)["data"]
    entries = (kind * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = ctypes.cast(values.ctypes.data, value_pointer)
    return entries


def _override_entries(overrides: Sequence[tuple[str, str]]) -> Any:
    kind = backend().llama_model_tensor_override
    entries = (kind * (len(overrides) + 1))()
    for entry, (pattern, name) in zip(entries, overrides, strict=False):
        entry.pattern, entry.type = pattern.encode(), TENSOR_TYPES[name].id
    return entries
