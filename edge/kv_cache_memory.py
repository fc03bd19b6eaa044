"""Bytes of the KV cache, by layer: keys and values of every cell, and the states of recurrent layers.

Exact, because llama.cpp makes one tensor for each. Source: llama.cpp, src/llama-kv-cache.cpp,
src/llama-kv-cache-iswa.cpp (cells of layers with a window), src/llama-memory-recurrent.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.gguf_format import TENSOR_TYPES, align
from edge.model_shape import Layer, ModelShape
from edge.settings import KVType

CELLS_MULTIPLE = 256
_STATE_VALUE_BYTES = 4


@dataclass(frozen=True)
class ContextPlan:
    """The parameters of a context that decide how large it is, as `edge.local_engine` sets them."""

    context_tokens: int
    """Shared by all sequences."""
    sequences: int = 1
    batch_tokens: int = 512
    max_outputs: int = 17
    """Tokens of a step that may ask for logits: one for each sequence, and the engine's guesses."""
    key_type: KVType = "F16"
    value_type: KVType = "F16"
    has_flash_attention: bool = True

    @property
    def cells(self) -> int:
        """Tokens that a layer with full attention holds."""
        return align(self.context_tokens, CELLS_MULTIPLE)

    @property
    def step_tokens(self) -> int:
        """Tokens of one decode step at most."""
        return min(self.batch_tokens, self.context_tokens)

    @property
    def output_rows(self) -> int:
        """Rows of logits that a step may give."""
        return max(self.sequences, min(self.max_outputs, self.step_tokens))


def allows_cache_type(shape: ModelShape, kind: KVType) -> bool:
    """Whether the heads of every layer fill the blocks of a type; llama.cpp makes no context where they do not.

    Source: llama.cpp, src/llama-context.cpp (llama_init_from_model).
    """
    block = TENSOR_TYPES[kind].block_elements
    widths = (width for layer in shape.layers if layer.has_cache for width in (layer.key_width, layer.value_width))
    return all(width % block == 0 for width in widths)


def window_cells(shape: ModelShape, context: ContextPlan) -> int:
    """Tokens that a layer with a sliding window holds: a window for each sequence, and the step that comes."""
    needed = shape.sliding_window * context.sequences + context.step_tokens
    return align(min(context.cells, needed), CELLS_MULTIPLE)


def cache_bytes_by_layer(shape: ModelShape, context: ContextPlan) -> list[int]:
    """What each layer keeps for all sequences."""
    in_window = window_cells(shape, context)
    state_bytes = shape.state_values * _STATE_VALUE_BYTES * context.sequences
    values = [_values_of_cell(layer) for layer in shape.layers if layer.has_cache]
    padded = None if context.has_flash_attention else max(values, default=0)
    return [
        (_cell_bytes(layer, context, padded) * (in_window if layer.slides else context.cells) if layer.has_cache else 0)
        + (state_bytes if layer.has_state else 0)
        for layer in shape.layers
    ]


def cache_bytes(shape: ModelShape, context: ContextPlan) -> int:
    return sum(cache_bytes_by_layer(shape, context))


def _cell_bytes(layer: Layer, context: ContextPlan, padded_values: int | None) -> int:
    """Keys and values of a token in a layer. Without flash attention, all layers have room for the widest values."""
    values = _values_of_cell(layer) if padded_values is None or not layer.value_width else padded_values
    keys = layer.key_value_heads * layer.key_width
    return _row_bytes(keys, context.key_type) + _row_bytes(values, context.value_type)


def _row_bytes(values: int, kind: KVType) -> int:
    """Bytes of so many numbers; a block that is not full takes as much as one that is."""
    stored = TENSOR_TYPES[kind]
    return -(-values // stored.block_elements) * stored.block_bytes


def _values_of_cell(layer: Layer) -> int:
    return layer.key_value_heads * layer.value_width
