"""What is done to the values of a tensor between checkpoint and GGUF.

A transform sees a slab of rows at a time, float32 [rows, columns]; `unit` says how many rows have to be in one slab
together. A one-dimensional tensor is a single column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convert.hyperparameters import Hyperparameters

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Transform:
    """A function of a slab; the slab's row count is a multiple of `unit`."""

    name: str
    apply: Callable[[Floats, Hyperparameters], Floats]
    unit: Callable[[Hyperparameters], int]

    def bind(self, shape: Hyperparameters) -> SlabTransform:
        """The transform for models of one shape."""
        return SlabTransform(self.name, lambda slab: self.apply(slab, shape), self.unit(shape))


@dataclass(frozen=True)
class SlabTransform:
    """A function of a slab whose row count is a multiple of `unit`; nothing else is needed to apply it."""

    name: str
    apply: Callable[[Floats], Floats]
    unit: int = 1


def _interleave_rope_halves(slab: Floats, shape: Hyperparameters) -> Floats:
    """Reorder the rows of each head from two halves, [2, head_dim/2], to pairs, [head_dim/2, 2].

    llama.cpp rotates neighbouring rows of the `llama` architecture, transformers a row and the one half a head away.
    Source: llama.cpp, conversion/llama.py, LlamaModel.permute.
    """
    halves = slab.reshape(-1, 2, shape.head_dim // 2, slab.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(slab.shape)


def _add_one(slab: Floats, shape: Hyperparameters) -> Floats:
    """Gemma's norms scale by 1 + weight, llama.cpp's by the weight. Source: transformers, Gemma2RMSNorm."""
    return slab + np.float32(1)


def _negative_exponential(slab: Floats, shape: Hyperparameters) -> Floats:
    """A decay that the checkpoint has as a logarithm. Source: transformers, Qwen3_5GatedDeltaNet."""
    return np.asarray(-np.exp(slab))


ROPE_PAIRS = Transform("rope pairs", _interleave_rope_halves, lambda shape: shape.head_dim)
ADD_ONE = Transform("add one", _add_one, lambda shape: 1)
NEGATIVE_EXPONENTIAL = Transform("negative exponential", _negative_exponential, lambda shape: 1)
