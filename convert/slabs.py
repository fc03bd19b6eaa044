"""Slabs of rows of a planned tensor as float32, ready to be encoded: read, widened, transformed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.safetensors_file import LowRank
from convert.shards import ShardMaps
from convert.tensor_plan import SourceRows, TensorPlan
from edge.errors import EdgeError
from edge.gguf_format import TENSOR_TYPES, TensorType
from edge.llama.quantize import dequantize_rows, to_float32

Floats = npt.NDArray[np.float32]

SLAB_ELEMENTS = 1 << 17
"""Weights converted at once: enough to make calls cheap; as float32 they stay in half a megabyte of a core's cache."""

READ_AHEAD_BYTES = 1 << 24
"""Bytes of the source that the system is to have read before they are asked for."""


@dataclass(frozen=True)
class Slab:
    """Rows `first` up to, but without, `last` of a tensor, and where they are in the checkpoint, if they are."""

    tensor: TensorPlan
    first: int
    last: int
    source: SourceRows | None


def slabs(tensor: TensorPlan) -> Iterator[Slab]:
    """A tensor cut into slabs of one source each that respect its transform's unit. A vector is one slab."""
    unit = tensor.transform.unit if tensor.transform else 1
    step = max(1, SLAB_ELEMENTS // tensor.columns // unit) * unit
    if not tensor.sources:
        for first in range(0, tensor.rows, step):
            yield Slab(tensor, first, min(first + step, tensor.rows), None)
    start = 0
    for rows in tensor.sources:
        for offset in range(0, rows.count, step):
            end = min(offset + step, rows.count)
            source = SourceRows(rows.tensor, rows.first + offset, rows.first + end)
            yield Slab(tensor, start + offset, start + end, source)
        start += rows.count


def read_ahead(pending: Iterable[Slab], maps: ShardMaps) -> Iterator[Slab]:
    """The same slabs, with the system reading `READ_AHEAD_BYTES` of those to come while one is worked on.

    By itself it reads on where a file was read last, but tensors are not stored in the order of the output.
    """
    waiting: deque[Slab] = deque()
    waiting_bytes = 0
    for slab in pending:
        if slab.source is not None:
            maps.read_ahead(slab.source.tensor, slab.source.first, slab.source.last)
        waiting.append(slab)
        waiting_bytes += source_bytes(slab)
        while waiting_bytes > READ_AHEAD_BYTES:
            waiting_bytes -= source_bytes(waiting[0])
            yield waiting.popleft()
    yield from waiting


def source_bytes(slab: Slab) -> int:
    """Bytes of the checkpoint that a slab stands for."""
    return slab.source.n_bytes if slab.source else 0


def read_slab(slab: Slab, maps: ShardMaps) -> Floats:
    """The slab's values, float32 [rows, columns], contiguous. EdgeError that names a row with NaN or infinity."""
    tensor, source = slab.tensor, slab.source
    if source is None:
        assert tensor.values is not None
        return tensor.values.reshape(tensor.rows, tensor.columns)[slab.first : slab.last]
    values = _source_values(source, maps)
    _refuse_non_finite(source, values)
    for addition in source.tensor.additions:
        values += _product_rows(addition, source, maps)
    return tensor.transform.apply(values) if tensor.transform else values


def stored_encoding(slab: Slab, kind: TensorType, maps: ShardMaps) -> npt.NDArray[np.uint8] | None:
    """The slab's bytes as its source has them, if those are blocks of `kind`: rounding them again would change some."""
    source = slab.source
    if source is None or source.tensor.dtype != kind.name or not kind.is_quantized or slab.tensor.transform:
        return None
    return maps.encoded_rows(source.tensor, source.first, source.last).copy()


def _source_values(source: SourceRows, maps: ShardMaps) -> Floats:
    tensor = source.tensor
    if tensor.dtype in TENSOR_TYPES and TENSOR_TYPES[tensor.dtype].is_quantized:
        encoded = maps.encoded_rows(tensor, source.first, source.last)
        return dequantize_rows(encoded, TENSOR_TYPES[tensor.dtype], tensor.columns)
    if len(tensor.shape) == 1:
        return widened(maps.rows(tensor, 0, 1).reshape(-1, 1)[source.first : source.last])
    return widened(maps.rows(tensor, source.first, source.last))


def widened(stored: npt.NDArray[Any]) -> Floats:
    """A copy as float32."""
    values = np.empty(stored.shape, np.float32)
    if stored.dtype == np.float32:
        values[:] = stored
    else:
        to_float32(stored, values)
    return values


def _product_rows(addition: LowRank, source: SourceRows, maps: ShardMaps) -> Floats:
    """The rows of a low-rank product that belong to those of a source. EdgeError that names a factor with NaN."""
    left, right = addition.left, addition.right
    if addition.is_transposed:
        stored = np.ascontiguousarray(maps.rows(left, 0, left.rows)[:, source.first : source.last])
    else:
        stored = maps.rows(left, source.first, source.last)
    factors = [widened(stored), widened(maps.rows(right, 0, right.rows))]
    for tensor, values in zip((left, right), factors, strict=True):
        if not np.isfinite(values).all():
            raise EdgeError(
                f"The tensor {tensor.name!r} of an adapter holds NaN or infinity.",
                hint="The adapter is damaged: save or download it again.",
            )
    upper, lower = (values.T for values in factors) if addition.is_transposed else factors
    product: Floats = np.float32(addition.scale) * (upper @ lower)
    return product


def release_slab(slab: Slab, maps: ShardMaps) -> None:
    """Let the system take back the memory of a slab's source."""
    if slab.source is not None and len(slab.source.tensor.shape) > 1:
        maps.release(slab.source.tensor, slab.source.first, slab.source.last)


def _refuse_non_finite(source: SourceRows, values: Floats) -> None:
    """Quantization hides most of them: a NaN comes out as some number of its block."""
    finite = np.isfinite(values)
    if finite.all():
        return
    row = source.first + int(np.flatnonzero(~finite.all(axis=1))[0])
    place = f"in row {row}" if len(source.tensor.shape) > 1 else f"at index {row}"
    raise EdgeError(
        f"The tensor {source.tensor.name!r} holds NaN or infinity {place}.",
        hint="The checkpoint is damaged: download it again.",
    )
