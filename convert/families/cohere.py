"""Command R7B, Command A and Aya: LayerNorm without bias, attention and feed-forward side by side on the same input."""

from __future__ import annotations

from functools import partial

from gguf.constants import MODEL_ARCH

from convert.config_values import positive_number
from convert.families.parts import (
    ATTENTION_NORM,
    EMBEDDING,
    FEED_FORWARD,
    LAYER_NORM_KEYS,
    OUTPUT_NORM,
    attention,
    heads_objection,
)
from convert.families.record import BYTE_LEVEL, IGNORED, Family, KeyRule
from convert.families.sliding import has_window, sliding_keys, sliding_layers
from convert.hyperparameters import Hyperparameters
from edge.gguf_format import ValueType

_slides = partial(sliding_layers, full_every=4)


def _objection(shape: Hyperparameters) -> str | None:
    if not shape.tied_embeddings:
        return "tie_word_embeddings is false, llama.cpp always uses the embeddings as output"
    if not has_window(shape) or not any(_slides(shape)):
        return "it has no sliding window, llama.cpp needs one"
    return heads_objection(shape)


COHERE2 = Family(
    name="cohere2",
    architecture=MODEL_ARCH.COHERE2,
    hf_architectures=("Cohere2ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("cohere2",),
    activations=("silu",),
    tensors=(EMBEDDING, ATTENTION_NORM, *attention(None), *FEED_FORWARD, OUTPUT_NORM),
    keys=(
        *(rule for rule in LAYER_NORM_KEYS if rule.key != "context_length"),
        KeyRule("context_length", ValueType.UINT32, lambda shape: shape.context_tokens),
        *sliding_keys(_slides),
        KeyRule("logit_scale", ValueType.FLOAT32, lambda shape: positive_number(shape.config, "logit_scale")),
    ),
    ignored=(*IGNORED, r"^lm_head\.weight$"),  # a copy of the embeddings, which transformers ignores too
    config_names={"rms_norm_eps": "layer_norm_eps"},
    config_defaults={
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
        "tie_word_embeddings": True,
    },
    objection=_objection,
)
