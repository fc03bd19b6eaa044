"""How far encoded tensors may be from their source, and how far they are.

Knows types and numbers; which tensor stands for which, and where they are read, is for `convert.verify`.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.gguf_format import TENSOR_TYPES, TensorType

Floats = npt.NDArray[np.float32]

SMALLEST_FLOAT16 = 2.0**-24


@dataclass(frozen=True)
class Bounds:
    """Largest errors |file - source| / |source| that a type's rounding makes: of a whole tensor, and of one block.

    A block of values near zero is off by more, since its float16 scale has a smallest step: `scale_multiple` is the
    largest number by which the scale is multiplied.
    """

    tensor: float
    block: float
    scale_multiple: int = 0


# The block types stay below half of the tensor's bound on normal weights, and a tensor that is not the source's is off
# by about 1. The worst blocks that could be found reach 0.75 of the block's bound. Types of 2 or 3 bits have no value
# near zero for a block with a few large weights, so that only a scale many times too large shows in a single block.
ERROR_BOUNDS = {
    "F32": Bounds(0.0, 0.0),
    "F16": Bounds(1e-3, 1e-3, 1),
    "BF16": Bounds(4e-3, 4e-3),
    "Q8_0": Bounds(0.025, 0.05, 127),
    "Q6_K": Bounds(0.06, 0.15, 127 * 32),
    "Q5_0": Bounds(0.12, 0.30, 16),
    "Q5_1": Bounds(0.12, 0.30, 31),
    "Q5_K": Bounds(0.10, 0.25, 63 * 31),
    "Q4_K": Bounds(0.20, 0.40, 63 * 15),
    "Q4_0": Bounds(0.26, 0.45, 8),
    "Q4_1": Bounds(0.20, 0.45, 15),
    "IQ4_NL": Bounds(0.20, 0.45, 127),
    "IQ4_XS": Bounds(0.20, 0.45, 32 * 127),
    "Q3_K": Bounds(0.40, 0.49, 32 * 4),
    "Q2_K": Bounds(0.70, 3.0, 15 * 3),
    "IQ3_S": Bounds(0.80, 3.0, 31 * 15),
    "IQ3_XXS": Bounds(0.70, 3.0, 480),
    "IQ2_S": Bounds(0.85, 3.0, 167),
}
_LARGEST_TENSOR_BOUND = 0.95
_WEIGHTED_BLOCK_BOUND = 3.0


def bounds_of(kind: str, *, is_weighted: bool) -> Bounds:
    """A type's bounds; wider where an importance matrix let columns that matter less be off by more."""
    bounds = ERROR_BOUNDS[kind]
    if not is_weighted or not TENSOR_TYPES[kind].is_quantized or kind == "Q8_0":
        return bounds
    return Bounds(min(2 * bounds.tensor, _LARGEST_TENSOR_BOUND), _WEIGHTED_BLOCK_BOUND, bounds.scale_multiple)


@dataclass(frozen=True)
class TensorError:
    """How far a tensor of the file is from the checkpoint's: |file - source| / |source|."""

    name: str
    type: str
    relative_error: float
    damaged_row: int | None = None
    """The first row with a block that is off by more than the type's rounding."""
    is_weighted: bool = False
    """Whether the file was made with an importance matrix."""

    @property
    def bound(self) -> float:
        return bounds_of(self.type, is_weighted=self.is_weighted).tensor

    @property
    def share_of_bound(self) -> float:
        return self.relative_error / self.bound if self.bound else float(self.relative_error > 0) * 2


def damaged_blocks(
    wanted: Floats, difference: Floats, kind: TensorType, *, is_weighted: bool = False
) -> npt.NDArray[np.intp]:
    """The numbers of the blocks that are off by more than the type's rounding; a plain type's block is one value."""
    bounds = bounds_of(kind.name, is_weighted=is_weighted)
    largest = _block_squares(wanted, kind)
    with np.errstate(invalid="ignore"):
        largest *= np.float32(bounds.block**2)
    np.nan_to_num(largest, copy=False, nan=0.0, posinf=np.inf)  # an exact type, and a value too large to be squared
    largest += np.float32(kind.block_elements * (bounds.scale_multiple * SMALLEST_FLOAT16) ** 2)
    return np.flatnonzero(_block_squares(difference, kind) > largest)


class ErrorSums:
    """Errors of tensors that come slab by slab, from several threads; of a file made with a matrix if `is_weighted`."""

    def __init__(self, *, is_weighted: bool = False) -> None:
        self._is_weighted = is_weighted
        self._lock = threading.Lock()
        self._types: dict[str, str] = {}
        self._squares: dict[str, list[tuple[float, float]]] = {}
        self._damaged_rows: dict[str, int] = {}

    def add(self, name: str, kind: TensorType, first_row: int, wanted: Floats, found: Floats) -> None:
        """Take in a slab, float32 [rows, columns], that starts at a row of the tensor; `found` is written over."""
        difference = np.subtract(found, wanted, out=found)
        off, size = float(np.vdot(difference, difference)), float(np.vdot(wanted, wanted))
        damaged = damaged_blocks(wanted, difference, kind, is_weighted=self._is_weighted)
        with self._lock:
            self._squares.setdefault(name, []).append((off, size))
            self._types[name] = kind.name
            if len(damaged):
                row = first_row + int(damaged[0]) * kind.block_elements // wanted.shape[1]
                self._damaged_rows[name] = min(row, self._damaged_rows.get(name, row))

    def by_tensor(self) -> tuple[TensorError, ...]:
        """The error of each tensor, the nearest to its bound first; the same in whatever order slabs came."""
        errors = []
        for name, squares in self._squares.items():
            off, size = (math.fsum(column) for column in zip(*squares, strict=True))
            relative = math.sqrt(off / size) if 0 < size < math.inf else math.inf if off else 0.0
            errors.append(
                TensorError(name, self._types[name], relative, self._damaged_rows.get(name), self._is_weighted)
            )
        return tuple(sorted(errors, key=lambda error: (-error.share_of_bound, error.name)))


def _block_squares(values: Floats, kind: TensorType) -> Floats:
    """The sum of squares of each block; infinite where a damaged value is too large to be squared."""
    with np.errstate(over="ignore"):
        if kind.block_elements == 1:
            return np.square(values.reshape(-1))
        blocks = values.reshape(-1, kind.block_elements)
        return np.asarray(np.einsum("ij,ij->i", blocks, blocks))
