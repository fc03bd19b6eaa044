"""Predicts the bytes that a model takes while it answers, on a graphics card and in main memory, before it is loaded.

The sum of its parts: weights, KV cache (`edge.kv_cache_memory`), compute buffers (`edge.compute_memory`), adapters, and
what the process needs besides. Parts that llama.cpp reports are checked against it by `python -m bench.memory`; what it
does not report was measured, and says so below.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edge.compute_memory import card_compute_bytes, compute_bytes, host_input_bytes, output_bytes
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

    gpu_split: tuple[int, ...] = ()
    """Layers on each graphics card, the first ones on the first; the output is the last layer."""
    repacked_types: Collection[str] = ()
    """Tensor types of which the processor gets a copy in an order that computes faster."""

    @property
    def gpu_layers(self) -> int:
        """As llama.cpp counts: the output, then the blocks from the last one on; all are one more than the blocks."""
        return sum(self.gpu_split)


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
    gpus: tuple[DeviceBytes, ...]
    """Each graphics card; one without layers has nothing."""
    ram: DeviceBytes
    mapped_copy_bytes: int
    """Pages of the file whose repacked copies are in use: they count in the process's peak, but can be dropped. The
    copies cannot: `edge.fitting` has weights repacked only where there is some room to spare."""

    @property
    def gpu_total(self) -> int:
        return sum(gpu.total for gpu in self.gpus)

    @property
    def total(self) -> int:
        return self.gpu_total + self.ram.total

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
    output: int
    host: int


@lru_cache(maxsize=1024)
def _context_bytes(shape: ModelShape, context: ContextPlan) -> _ContextBytes:
    return _ContextBytes(
        cache_by_layer=tuple(cache_bytes_by_layer(shape, context)),
        compute=compute_bytes(shape, context),
        output=output_bytes(shape, context),
        host=_host_bytes(shape, context),
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
    sizes = _context_bytes(model.shape, context)
    has_gpu = placement.gpu_layers > 0
    in_ram = DeviceBytes(
        weights=_ram_weights_bytes(model, placement),
        cache=sum(sizes.cache_by_layer[:first]),
        compute=_ram_compute_bytes(model, context, placement),
        adapters=0 if has_gpu else adapter_bytes,
        output=sizes.output,
        host=sizes.host,
        checkpoints=checkpoint_bytes if _keeps_checkpoints(model) else 0,
    )
    cards = range(len(placement.gpu_split))
    on_gpus = tuple(predict_card(model, context, placement, card, adapter_bytes=adapter_bytes) for card in cards)
    return MemoryPrediction(on_gpus, in_ram, repacked_bytes(model, placement))


def predict_card(
    model: StoredModel, context: ContextPlan, placement: Placement, card: int, *, adapter_bytes: int = 0
) -> DeviceBytes:
    """What a single graphics card of the placement holds."""
    count = placement.gpu_split[card]
    if not count:
        return DeviceBytes()
    layers = _layers_of(model, placement, card)
    return DeviceBytes(
        weights=_card_weights_bytes(model, placement, card),
        cache=sum(_context_bytes(model.shape, context).cache_by_layer[layers]),
        compute=_gpu_compute_bytes(model, context, placement, card),
        adapters=-(-adapter_bytes * count // placement.gpu_layers),
    )


def first_gpu_layer(model: StoredModel, gpu_layers: int) -> int:
    """The first block on the graphics card; the number of blocks if there is none."""
    count = len(model.shape.layers)
    return min(count, max(0, count + 1 - gpu_layers))


def _layers_of(model: StoredModel, placement: Placement, card: int) -> slice:
    """The blocks of a graphics card. Source: llama.cpp, src/llama-model.cpp (load_tensors)."""
    split, count = placement.gpu_split, len(model.shape.layers)
    start = first_gpu_layer(model, placement.gpu_layers) + sum(split[:card])
    return slice(min(start, count), min(start + split[card], count))


def _output_gpu(placement: Placement) -> int | None:
    """The card with the output: the last one that has layers."""
    return max((card for card, layers in enumerate(placement.gpu_split) if layers), default=None)


def weights_bytes(model: StoredModel, placement: Placement) -> list[int]:
    """Weights on each graphics card and, last, in main memory. Tied embeddings are on a card and in main memory.

    Source: llama.cpp, src/llama-model.cpp: embeddings are looked up by the CPU, the output is where the last block is.
    """
    cards = range(len(placement.gpu_split))
    return [*(_card_weights_bytes(model, placement, card) for card in cards), _ram_weights_bytes(model, placement)]


def _card_weights_bytes(model: StoredModel, placement: Placement, card: int) -> int:
    places = model.places
    output = places.output_bytes + places.tied_bytes if card == _output_gpu(placement) else 0
    return sum(places.block_bytes[_layers_of(model, placement, card)]) + output


def _ram_weights_bytes(model: StoredModel, placement: Placement) -> int:
    if not placement.gpu_layers:
        return model.weights_bytes
    first = first_gpu_layer(model, placement.gpu_layers)
    return model.places.embedding_bytes + sum(model.places.block_bytes[:first])


def repacked_bytes(model: StoredModel, placement: Placement) -> int:
    """Weights in main memory of which there is a second copy, while the pages of the file are still there as well."""
    first = first_gpu_layer(model, placement.gpu_layers)
    copied = [sizes for kind, sizes in model.places.bytes_by_type.items() if kind in placement.repacked_types]
    output = sum(sizes[-1] for sizes in copied) if placement.gpu_layers <= 0 else 0
    return sum(sum(sizes[:first]) for sizes in copied) + output


def decode_bytes(model: StoredModel, context: ContextPlan, placement: Placement, filled_tokens: int) -> list[int]:
    """Bytes that are read to decode one token, on each graphics card and, last, in main memory.

    All weights but the embeddings, of experts those that are used, and keys and values of `filled_tokens` tokens.
    """
    places = model.places
    filled = ContextPlan(
        max(filled_tokens, 1), key_type=context.key_type, value_type=context.value_type, batch_tokens=1
    )
    cache = _context_bytes(model.shape, filled).cache_by_layer
    read = [weights + keys for weights, keys in zip(places.read_bytes, cache, strict=True)]
    return _by_place(model, placement, read, places.output_bytes + places.tied_bytes)


def decode_operations(model: StoredModel, placement: Placement) -> list[int]:
    """Multiplications and additions of one token with the weights, on each graphics card and on the processor."""
    places = model.places
    return [2 * each for each in _by_place(model, placement, places.read_elements, places.output_elements)]


def _by_place(model: StoredModel, placement: Placement, of_blocks: Sequence[int], of_output: int) -> list[int]:
    """What belongs to blocks and output, summed for each graphics card and, last, for main memory."""
    output_gpu = _output_gpu(placement)
    sums = [sum(of_blocks[_layers_of(model, placement, card)]) for card in range(len(placement.gpu_split))]
    sums.append(sum(of_blocks[: first_gpu_layer(model, placement.gpu_layers)]))
    sums[-1 if output_gpu is None else output_gpu] += of_output
    return sums


def _is_whole_on_gpus(model: StoredModel, placement: Placement) -> bool:
    return placement.gpu_layers > len(model.shape.layers)


def _gpu_compute_bytes(model: StoredModel, context: ContextPlan, placement: Placement, card: int) -> int:
    """As on the CPU; and where some layers stay there, the first card has room for one of their weights.

    For steps of many tokens llama.cpp moves the weights of such layers to that card, one product after the other. If
    layers on a card share keys and values of such layers (Gemma 3n and 4), it has room for these.
    """
    used = [place for place, layers in enumerate(placement.gpu_split) if layers]
    if _is_whole_on_gpus(model, placement):
        return card_compute_bytes(model.shape, context, is_first=card == used[0], is_alone=len(used) == 1)
    first = first_gpu_layer(model, placement.gpu_layers)
    moved = max(model.places.largest_bytes[:first], default=0) if card == used[0] else 0
    shared = _shared_cache_bytes(model.shape, context, first) if card == used[-1] else 0
    return _context_bytes(model.shape, context).compute + moved + shared


def _shared_cache_bytes(shape: ModelShape, context: ContextPlan, first: int) -> int:
    """Room for keys and values of layers before the `first` one on a card, for the layers on it that share them.

    Those are the last with full attention and the last with a window. llama.cpp has them there up to four times, by
    what it reports.
    """
    cached = [place for place, layer in enumerate(shape.layers) if layer.has_cache]
    sharing = [place for place, layer in enumerate(shape.layers) if not layer.has_cache and not layer.has_state]
    if not cached or not sharing or sharing[-1] < first:
        return 0
    owners = {shape.layers[place].slides: place for place in cached}
    cache = _context_bytes(shape, context).cache_by_layer
    return 4 * sum(cache[place] for place in owners.values() if place < first)


def _ram_compute_bytes(model: StoredModel, context: ContextPlan, placement: Placement) -> int:
    if _is_whole_on_gpus(model, placement):
        return host_input_bytes(model.shape, context, sum(1 for layers in placement.gpu_split if layers))
    return _context_bytes(model.shape, context).compute


def _host_bytes(shape: ModelShape, context: ContextPlan) -> int:
    widest = max(layer.feed_forward for layer in shape.layers)
    work = _WORK_BYTES_PER_VALUE * context.step_tokens * max(widest, shape.query_width, shape.hidden)
    vocabulary = HOST_BYTES_PER_TOKEN * shape.vocabulary + HOST_BYTES_PER_MERGE * shape.merges
    return HOST_BASE_BYTES + vocabulary + round(work)


def _keeps_checkpoints(model: StoredModel) -> bool:
    return any(layer.slides or layer.has_state for layer in model.shape.layers)
