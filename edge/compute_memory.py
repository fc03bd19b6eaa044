"""Bytes of the buffer in which a decode step is computed: the largest that is needed at any moment of it.

llama.cpp lays out the graph of a full step once and gives each result a place as soon as an earlier one is free. So the
buffer is as large as the busiest moment: the feed-forward network, attention without flash attention, a layer with a
state, or the logits. Which results live at each moment follows from the graphs in llama.cpp's src/models. The gaps that
its allocator leaves between them have no formula; one of a query's width, which most graphs leave, is counted in.
`python -m bench.memory` compares all of it with what llama.cpp reports.
"""

from __future__ import annotations

from functools import lru_cache

from edge.kv_cache_memory import ContextPlan, window_cells
from edge.model_shape import Layer, ModelShape

_VALUE_BYTES = 4
_MASK_BYTES = 2
_MASK_BYTES_WITHOUT_FLASH_ATTENTION = 4
_STEPS_AT_ONCE = 4

# families whose feed-forward network runs beside attention, so that the input of both is kept meanwhile
_PARALLEL = frozenset({"cohere2", "command-r", "falcon", "gptneox", "phi2", "stablelm", "plamo", "codeshell"})
_WITHOUT_GAP = frozenset({"phi3", "exaone4"})


def compute_bytes(shape: ModelShape, context: ContextPlan) -> int:
    """The compute buffer of a context whose layers are all on one device."""
    tokens = _step_tokens(context)
    masks = _mask_bytes(shape, context, tokens)
    in_layers = masks + _embedding_bytes(shape, context)
    busiest = max(
        in_layers + _VALUE_BYTES * tokens * _feed_forward_values(shape),
        in_layers + _VALUE_BYTES * tokens * _attention_values(shape) + _score_bytes(shape, context, tokens),
        in_layers + _recurrent_bytes(shape, context, tokens),
        _logits_bytes(shape, context, tokens),
    )
    return busiest + _rotation_bytes(context)


@lru_cache(maxsize=1024)
def card_compute_bytes(shape: ModelShape, context: ContextPlan, *, is_first: bool = True, is_alone: bool = True) -> int:
    """The compute buffer of one of the graphics cards that hold all layers between them, in the order of the layers.

    A card alone gets the embeddings from main memory and keeps no second copy. Several work on several steps at once:
    each has what comes into the step as often as that, and all but the first what the card before gives.
    Source: llama.cpp, ggml/src/ggml-backend.cpp (GGML_SCHED_MAX_COPIES).
    """
    embeddings = _VALUE_BYTES * _step_tokens(context) * shape.hidden
    if is_alone:
        return compute_bytes(shape, context) - embeddings
    handed_over = 0 if is_first else _STEPS_AT_ONCE * embeddings
    return compute_bytes(shape, context) + (_STEPS_AT_ONCE - 1) * _input_bytes(shape, context) + handed_over


def host_input_bytes(shape: ModelShape, context: ContextPlan, cards: int = 1) -> int:
    """What main memory holds of a step that graphics cards compute: embeddings of its tokens, twice, and the masks."""
    steps = _STEPS_AT_ONCE if cards > 1 else 1
    return steps * _input_bytes(shape, context) + _VALUE_BYTES * _step_tokens(context) * shape.hidden


def _input_bytes(shape: ModelShape, context: ContextPlan) -> int:
    """Embeddings and masks of a step; of these, without flash attention, a second form."""
    masks = _mask_bytes(shape, context, _step_tokens(context))
    return _embedding_bytes(shape, context) + (masks if context.has_flash_attention else 2 * masks)


def _embedding_bytes(shape: ModelShape, context: ContextPlan) -> int:
    return _VALUE_BYTES * _step_tokens(context) * (shape.hidden + shape.layer_embedding * len(shape.layers))


def output_bytes(shape: ModelShape, context: ContextPlan) -> int:
    """The buffer in main memory that logits are copied into: a row for each sequence, or for each that a step asks."""
    return _VALUE_BYTES * shape.vocabulary * context.output_rows


def _step_tokens(context: ContextPlan) -> int:
    """Tokens of the graph: as many for each sequence."""
    return -(-context.step_tokens // context.sequences) * context.sequences


def _mask_bytes(shape: ModelShape, context: ContextPlan, tokens: int) -> int:
    """Which cell each token may see: a mask for layers with full attention, one for those with a window."""
    each = _MASK_BYTES if context.has_flash_attention else _MASK_BYTES_WITHOUT_FLASH_ATTENTION
    kinds = {layer.slides for layer in shape.layers if layer.has_cache}
    return each * tokens * sum(window_cells(shape, context) if slides else context.cells for slides in kinds)


def _feed_forward_values(shape: ModelShape) -> int:
    """For each token: gate, up and their product, two results as wide as the model, and the gap that a query left."""
    results = 3 if shape.is_gated else 1
    hidden = shape.hidden
    kept = 4 * hidden if shape.architecture in _PARALLEL else 2 * hidden
    has_gap = shape.architecture not in _WITHOUT_GAP and not any(layer.has_state for layer in shape.layers)
    kept += max(shape.query_width, hidden) if has_gap and shape.architecture not in _PARALLEL else 0
    if not shape.experts:
        return kept + results * max(layer.feed_forward for layer in shape.layers)
    width = shape.expert_feed_forward or max(layer.feed_forward for layer in shape.layers)
    gathered = 2 * shape.experts_used * hidden + 5 * hidden  # what the experts give, before and after it is weighted
    return max(kept + results * shape.experts_used * width, gathered)


def _attention_values(shape: ModelShape) -> int:
    """For each token: the query before and after it is turned, key and value, and two results as wide as the model."""
    return 2 * shape.hidden + max(2 * layer.heads * layer.key_width + _key_value_width(layer) for layer in shape.layers)


def _key_value_width(layer: Layer) -> int:
    return layer.key_value_heads * (layer.key_width + layer.value_width)


def _score_bytes(shape: ModelShape, context: ContextPlan, tokens: int) -> int:
    """Every token's score for every cell in every head; flash attention never has them all."""
    if context.has_flash_attention:
        return 0
    in_window = window_cells(shape, context)
    scores = (layer.heads * (in_window if layer.slides else context.cells) for layer in shape.layers if layer.has_cache)
    return _VALUE_BYTES * tokens * max(scores, default=0)


def _recurrent_bytes(shape: ModelShape, context: ContextPlan, tokens: int) -> int:
    """The states of all sequences before and after the step, and what is mixed into them."""
    if not shape.state_values:
        return 0
    per_token = 2 * shape.hidden + 2 * shape.mixed_width + shape.state_inner
    return _VALUE_BYTES * (2 * context.sequences * shape.state_values + tokens * per_token)


def _logits_bytes(shape: ModelShape, context: ContextPlan, tokens: int) -> int:
    """The logits of all tokens that may ask for them, beside the end of the last layer."""
    outputs = min(tokens, context.max_outputs)
    return _VALUE_BYTES * (outputs * shape.vocabulary + 2 * tokens * shape.hidden)


def _rotation_bytes(context: ContextPlan) -> int:
    """Matrices that turn keys and values before they are quantized."""
    return 0 if context.key_type == context.value_type == "F16" else 2 * _VALUE_BYTES * 256 * 256
