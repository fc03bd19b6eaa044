"""Encodes rows of weights: with our own C module where it was built, with ggml's functions otherwise.

libggml-base is compiled for the oldest processor of its kind, so that its searches for scales run a weight at a time.
The C module runs the same operations on a sub-block in each lane of a vector: the same bytes, several times sooner.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.gguf_format import TensorType
from edge.llama.quantize import Floats, quantize_rows

try:
    from convert import _encoder
except ImportError:  # built where there is a compiler that it knows
    _encoder = None  # type: ignore[assignment]

VECTOR_TYPES = frozenset(_encoder.types()) if _encoder else frozenset()


def encode_rows(rows: Floats, kind: TensorType, out: npt.NDArray[np.uint8], importance: Floats | None = None) -> None:
    """Encode float32 rows [rows, columns] as `kind` into `out` of exactly the encoded size.

    `importance` [columns] weighs the columns' errors. On x86-64 the bytes are those of ggml_quantize_chunk, whoever
    makes them. Elsewhere a compiler may have fused some of ggml's operations, so that another of two scales that are
    nearly as good can win.
    """
    if kind.id in VECTOR_TYPES:
        _encoder.encode(kind.id, rows, out, rows.shape[1], importance)
    else:
        quantize_rows(rows, kind, out, importance)


def encoder_name() -> str:
    """What encodes quantized rows: the instruction set of the C module in use, or "ggml"."""
    return _encoder.variant() if _encoder else "ggml"
