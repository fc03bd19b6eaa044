"""Predicts the bytes that a model takes while it answers, on a graphics card and in main memory, before it is loaded.

The sum of its parts: weights, KV cache (`edge.kv_cache_memory`), compute buffers (`edge.compute_memory`), adapters, and
what the process needs besides. Parts that llama.cpp reports are checked against it by `python -m bench.memory`; what it
does not report was measured, and says so below.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from edge.compute_memory import compute_bytes, host_input_bytes, output_bytes
from edge.kv_cache_memory import ContextPlan, cache_bytes_by_layer
from edge.model_shape import ModelShape, StoredModel

HOST_BASE_BYTES = 45 << 20
"""Python, numpy, llama.cpp and the loop. Measured with SmolLM2-135M and Gemma 3 270M on Linux."""
HOST_BYTES_PER_TOKEN = 205
"""Of the vocabulary, in llama.cpp's tables (155 to 165 bytes measured) and in ours (43)."""
HOST_BYTES_PER_MERGE = 170
"""In llama.cpp's tables: 172 bytes measured for SmolLM2's, 110 to 150 for merges of made-up tokens."""
LARGEST_ERROR_SHARE = 0.03
LARGEST_ERROR_BYTES = 16 << 20
DEFAULT_CHECKPOINT_BYTES = 256 << 20  # ModelSettings.checkpoint_bytes
_WORK_BYTES_PER_VALUE = 1.2
"""Rows that are quantized to be multiplied: blocks of Q8_K or Q8_0."""


@dataclass(frozen=True)
class Placement:
    """Where a model's layers are computed."""

    gpu_layers: int = 0
    """As llama.cpp counts: the output, then the blocks from the last one on; all are one more than the blocks."""
    repacked_types: Collection[str] = ()
    """Tensor types of which the processor gets a copy in an order that computes faster."""


@dataclass(frozen=True)
class DeviceBytes:
    """What one kind of memory holds."""

    weights: int = 0
    cache: int = 0
    compute: int = 0
    adapters: int = 0
    output: int = 0
    host: int = 0
    """The process itself, with its vocabulary and work space."""
    checkpoints: int = 0
    """States to return to, of models whose cache cannot be cut back."""

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute + self.adapters + self.output + self.host + self.checkpoints

    @property
    def with_error(self) -> int:
        """The total with the error that its parts may have; weights have none."""
        return self.weights + with_error(self.total - self.weights)


@dataclass(frozen=True)
class MemoryPrediction:
    gpu: DeviceBytes
    ram: DeviceBytes
    mapped_copy_bytes: int
    """Pages of the file whose repacked copies are in use: they count in the process's peak, but can be dropped."""

    @property
    def total(self) -> int:
        return self.gpu.total + self.ram.total

    @property
    def peak_resident_bytes(self) -> int:
        """What the process will have in main memory at its peak, checkpoints aside."""
        return self.ram.total - self.ram.checkpoints + self.mapped_copy_bytes

    def is_within_error(self, actual_bytes: int) -> bool:
        """Whether an actual total is as near to the prediction as is promised."""
        allowed = max(LARGEST_ERROR_BYTES, LARGEST_ERROR_SHARE * actual_bytes)
        return abs(self.total - actual_bytes) <= allowed


def with_error(n_bytes: int) -> int:
    """A prediction with the error that it may have."""
    return n_bytes + max(LARGEST_ERROR_BYTES, round(LARGEST_ERROR_SHARE * n_bytes)) if n_bytes else 0


@dataclass(frozen=True)
class _ContextBytes:
    """What a context takes, wherever its layers are."""

    cache_by_layer: tuple[int, ...]
    compute: int
    host_input: int
    output: int


@lru_cache(maxsize=1024)
def _context_bytes(shape: ModelShape, context: ContextPlan) -> _ContextBytes:
    return _ContextBytes(
        cache_by_layer=tuple(cache_bytes_by_layer(shape, context)),
        compute=compute_bytes(shape, context),
        host_input=host_input_bytes(shape, context),
        output=output_bytes(shape, context),
    )


def predict_memory(
    model: StoredModel,
    context: ContextPlan,
    placement: Placement | None = None,
    *,
    adapter_bytes: int = 0,
    checkpoint_bytes: int = DEFAULT_CHECKPOINT_BYTES,
) -> MemoryPrediction:
    """What a model takes with a context, its layers split as `placement` says."""
    placement = placement or Placement()
    first = first_gpu_layer(model, placement.gpu_layers)
    gpu_weights, ram_weights = weights_bytes(model, placement.gpu_layers)
    sizes = _context_bytes(model.shape, context)
    cache = sizes.cache_by_layer
    has_gpu = placement.gpu_layers > 0
    on_gpu = DeviceBytes(
        weights=gpu_weights,
        cache=sum(cache[first:]),
        compute=_gpu_compute_bytes(model, context, first) if has_gpu else 0,
        adapters=adapter_bytes if has_gpu else 0,
    )
    is_whole_on_gpu = has_gpu and first == 0
    in_ram = DeviceBytes(
        weights=ram_weights,
        cache=sum(cache[:first]),
        compute=sizes.host_input if is_whole_on_gpu else sizes.compute,
        adapters=0 if has_gpu else adapter_bytes,
        output=sizes.output,
        host=_host_bytes(model, context),
        checkpoints=checkpoint_bytes if _keeps_checkpoints(model) else 0,
    )
    return MemoryPrediction(on_gpu, in_ram, repacked_bytes(model, placement))


def first_gpu_layer(model: StoredModel, gpu_layers: int) -> int:
    """The first block on the graphics card; the number of blocks if there is none."""
    count = len(model.shape.layers)
    return min(count, max(0, count + 1 - gpu_layers))


def weights_bytes(model: StoredModel, gpu_layers: int) -> tuple[int, int]:
    """Weights on the graphics card and in main memory. Of a model with tied embeddings, both have a copy of them.

    Source: llama.cpp, src/llama-model.cpp: embeddings are looked up by the CPU, the output is where the last block is.
    """
    if gpu_layers <= 0:
        return 0, model.weights_bytes
    first, places = first_gpu_layer(model, gpu_layers), model.places
    in_ram = places.embedding_bytes + sum(places.block_bytes[:first])
    return sum(places.block_bytes[first:]) + places.output_bytes + places.tied_bytes, in_ram


def repacked_bytes(model: StoredModel, placement: Placement) -> int:
    """Weights in main memory of which there is a second copy, while the pages of the file are still there as well."""
    first = first_gpu_layer(model, placement.gpu_layers)
    copied = [sizes for kind, sizes in model.places.bytes_by_type.items() if kind in placement.repacked_types]
    output = sum(sizes[-1] for sizes in copied) if placement.gpu_layers <= 0 else 0
    return sum(sum(sizes[:first]) for sizes in copied) + output


def decode_bytes(model: StoredModel, context: ContextPlan, gpu_layers: int, filled_tokens: int) -> tuple[int, int]:
    """Bytes that are read to decode one token, on the graphics card and in main memory.

    All weights but the embeddings, of experts those that are used, and keys and values of `filled_tokens` tokens.
    """
    first, places = first_gpu_layer(model, gpu_layers), model.places
    filled = ContextPlan(
        max(filled_tokens, 1), key_type=context.key_type, value_type=context.value_type, batch_tokens=1
    )
    cache = _context_bytes(model.shape, filled).cache_by_layer
    on_gpu = sum(places.read_bytes[first:]) + sum(cache[first:])
    in_ram = sum(places.read_bytes[:first]) + sum(cache[:first])
    output = places.output_bytes + places.tied_bytes
    return (on_gpu + output, in_ram) if gpu_layers > 0 else (on_gpu, in_ram + output)


def decode_operations(model: StoredModel, gpu_layers: int) -> tuple[int, int]:
    """Multiplications and additions of one token with the weights, on the graphics card and on the processor."""
    first, places = first_gpu_layer(model, gpu_layers), model.places
    on_gpu, in_ram = 2 * sum(places.read_elements[first:]), 2 * sum(places.read_elements[:first])
    output = 2 * places.output_elements
    return (on_gpu + output, in_ram) if gpu_layers > 0 else (on_gpu, in_ram + output)


def _gpu_compute_bytes(model: StoredModel, context: ContextPlan, first: int) -> int:
    """As on the CPU; and where some layers stay there, room for one of their weights.

    For steps of many tokens llama.cpp moves the weights of such layers to the card, one product after the other.
    """
    return _context_bytes(model.shape, context).compute + max(model.places.largest_bytes[:first], default=0)


def _host_bytes(model: StoredModel, context: ContextPlan) -> int:
    widest = max(layer.feed_forward for layer in model.shape.layers)
    work = _WORK_BYTES_PER_VALUE * context.step_tokens * max(widest, model.shape.query_width, model.shape.hidden)
    vocabulary = HOST_BYTES_PER_TOKEN * model.shape.vocabulary + HOST_BYTES_PER_MERGE * model.shape.merges
    return HOST_BASE_BYTES + vocabulary + round(work)


def _keeps_checkpoints(model: StoredModel) -> bool:
    return any(layer.slides or layer.has_state for layer in model.shape.layers)
