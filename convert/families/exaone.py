"""EXAONE 4, of which the large model has sliding windows, and RoPE in the layers with one only."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    FULL_CONTEXT_KEYS,
    OUTPUT,
    OUTPUT_NORM,
    QUERY_KEY_NORMS,
    attention,
    heads_objection,
    per_block,
)
from convert.families.record import BYTE_LEVEL, Family
from convert.families.sliding import has_window, sliding_keys, sliding_layers
from convert.hyperparameters import Hyperparameters

_LAYERS_WITH_WINDOW = 64


def _slides(shape: Hyperparameters) -> list[bool]:
    return sliding_layers(shape, full_every=4) if has_window(shape) else [False] * shape.layers


def _objection(shape: Hyperparameters) -> str | None:
    """llama.cpp tells the model with sliding windows by its layers."""
    if has_window(shape) and shape.layers != _LAYERS_WITH_WINDOW:
        return f"it has a sliding window and {shape.layers} layers, llama.cpp slides with {_LAYERS_WITH_WINDOW} only"
    if not has_window(shape) and shape.layers == _LAYERS_WITH_WINDOW:
        return f"it has {_LAYERS_WITH_WINDOW} layers and no sliding window, llama.cpp slides then"
    return heads_objection(shape)


EXAONE4 = Family(
    name="exaone4",
    architecture=MODEL_ARCH.EXAONE4,
    hf_architectures=("Exaone4ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=(
        "exaone4",
        "exaone4-window",
    ),
    activations=("silu",),
    tensors=(
        EMBEDDING,
        *attention(None),
        *QUERY_KEY_NORMS,
        per_block(MODEL_TENSOR.ATTN_POST_NORM, "post_attention_layernorm.weight", "hidden"),
        *FEED_FORWARD,
        per_block(MODEL_TENSOR.FFN_POST_NORM, "post_feedforward_layernorm.weight", "hidden"),
        OUTPUT_NORM,
        OUTPUT,
    ),
    keys=(*FULL_CONTEXT_KEYS, *sliding_keys(_slides)),
    rope_scalings=("default", "linear", "llama3"),
    objection=_objection,
)
