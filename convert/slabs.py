"""Slabs of rows of a planned tensor as float32, ready to be encoded: read, widened, transformed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convert.hyperparameters import Hyperparameters
from convert.plan import TensorPlan
from convert.shards import ShardMaps
from edge.errors import EdgeError
from edge.llama.quantize import to_float32

Floats = npt.NDArray[np.float32]

SLAB_ELEMENTS = 1 << 20
"""Weights converted at once: enough to make calls cheap, small enough to stay in the cache and the memory bound."""


@dataclass(frozen=True)
class Slab:
    """Rows `first` up to, but without, `last` of a tensor."""

    tensor: TensorPlan
    first: int
    last: int


def slabs(tensor: TensorPlan, shape: Hyperparameters) -> Iterator[Slab]:
    """A tensor cut into slabs that respect its transform's unit. A vector is one slab."""
    unit = tensor.transform.unit(shape) if tensor.transform else 1
    step = max(1, SLAB_ELEMENTS // tensor.columns // unit) * unit
    for first in range(0, tensor.rows, step):
        yield Slab(tensor, first, min(first + step, tensor.rows))


def source_bytes(slab: Slab) -> int:
    """Bytes of the checkpoint that a slab stands for."""
    source = slab.tensor.source
    return source.n_bytes * (slab.last - slab.first) // slab.tensor.rows if source else 0


def read_slab(slab: Slab, shape: Hyperparameters, maps: ShardMaps) -> Floats:
    """The slab's values, float32 [rows, columns], contiguous. EdgeError that names a row with NaN or infinity."""
    tensor = slab.tensor
    if tensor.values is not None:
        return tensor.values.reshape(tensor.rows, tensor.columns)[slab.first : slab.last]
    assert tensor.source is not None
    if len(tensor.shape) == 1:
        stored = maps.rows(tensor.source, 0, 1).reshape(tensor.rows, 1)[slab.first : slab.last]
    else:
        stored = maps.rows(tensor.source, slab.first, slab.last)
    values = np.empty(stored.shape, np.float32)
    if stored.dtype == np.float32:
        values[:] = stored
    else:
        to_float32(stored, values)
    _refuse_non_finite(slab, values)
    return tensor.transform.apply(values, shape) if tensor.transform else values


def release_slab(slab: Slab, maps: ShardMaps) -> None:
    """Let the system take back the memory of a slab's source."""
    if slab.tensor.source is not None and len(slab.tensor.shape) > 1:
        maps.release(slab.tensor.source, slab.first, slab.last)


def _refuse_non_finite(slab: Slab, values: Floats) -> None:
    """Quantization hides most of them: a NaN comes out as some number of its block."""
    finite = np.isfinite(values)
    if finite.all():
        return
    assert slab.tensor.source is not None
    row = slab.first + int(np.flatnonzero(~finite.all(axis=1))[0])
    place = f"in row {row}" if len(slab.tensor.shape) > 1 else f"at index {row}"
    raise EdgeError(
        f"The tensor {slab.tensor.source.name!r} holds NaN or infinity {place}.",
        hint="The checkpoint is damaged: download it again.",
    )
