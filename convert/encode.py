"""Encodes rows of weights: with our own C module where it was built and gives ggml's bytes, with ggml's functions else.

libggml-base is compiled for the oldest processor of its kind, so that its searches for scales run a weight at a time.
The C module runs the same operations on a sub-block in each lane of a vector: the same bytes, several times sooner.
That holds on x86-64. Elsewhere compilers fuse multiplications and additions, not always the same ones in both, so that
another of two scales that are nearly as good can win. Which types are the same on this machine is found out by trying.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from edge.gguf_format import TensorType
from edge.llama.quantize import Floats, quantize_rows

try:
    from convert import _encoder
except ImportError:  # built where there is a compiler that it knows
    _encoder = None  # type: ignore[assignment]

VECTOR_TYPES = frozenset(_encoder.types()) if _encoder else frozenset()

SAMPLE_COLUMNS = 512
_SAMPLE_ROWS = 16


def encode_rows(rows: Floats, kind: TensorType, out: npt.NDArray[np.uint8], importance: Floats | None = None) -> None:
    """Encode float32 rows [rows, columns] as `kind` into `out` of exactly the encoded size.

    `importance` [columns] weighs the columns' errors. The bytes are those of ggml_quantize_chunk, whoever makes them;
    but on other processors than x86-64, levels of denormal weights, which all mean zero, may differ.
    """
    if is_vectorized(kind, has_importance=importance is not None):
        _encoder.encode(kind.id, rows, out, rows.shape[1], importance)
    else:
        quantize_rows(rows, kind, out, importance)


@cache
def is_vectorized(kind: TensorType, *, has_importance: bool) -> bool:
    """Whether the C module encodes a type: it has to give ggml's bytes for rows that tell fused operations apart."""
    if kind.id not in VECTOR_TYPES:
        return False
    rows, importance = sample_rows()
    weights = importance if has_importance else None
    ours, theirs = (np.empty(len(rows) * kind.row_bytes(SAMPLE_COLUMNS), np.uint8) for _ in range(2))
    _encoder.encode(kind.id, rows, ours, SAMPLE_COLUMNS, weights)
    quantize_rows(rows, kind, theirs, weights)
    return bool((ours == theirs).all())


@cache
def sample_rows() -> tuple[Floats, Floats]:
    """Rows whose scales are near ties, and importance of their columns with zeros in it."""
    random = np.random.default_rng(0)
    normal = random.standard_normal((_SAMPLE_ROWS, SAMPLE_COLUMNS))
    sparse = normal * (random.random(normal.shape) < 0.05)
    rows = np.concatenate([normal, sparse, 1 + 1e-6 * normal, np.rint(normal), np.full_like(normal[:1], 0.37)])
    importance = np.abs(random.standard_t(1.2, SAMPLE_COLUMNS)) ** 3 * (random.random(SAMPLE_COLUMNS) > 0.2)
    return rows.astype(np.float32), importance.astype(np.float32)


def encoder_name() -> str:
    """What encodes quantized rows: the instruction set of the C module in use, or "ggml"."""
    return _encoder.variant() if _encoder else "ggml"


def types_left_to_ggml(kinds: Iterable[TensorType]) -> tuple[str, ...]:
    """Those of the C module's types that ggml encodes all the same, because the bytes would differ on this machine."""
    return tuple(
        kind.name
        for kind in kinds
        if kind.id in VECTOR_TYPES and not all(is_vectorized(kind, has_importance=choice) for choice in (False, True))
    )
