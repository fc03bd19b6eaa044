"""OLMo 2, which normalizes what attention and feed-forward give rather than what they get, and all heads as one."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.families.parts import (
    DECODER_KEYS,
    EMBEDDING,
    FEED_FORWARD,
    OUTPUT,
    OUTPUT_NORM,
    attention,
    attention_biases,
    heads_objection,
    per_block,
)
from convert.families.record import BYTE_LEVEL, Family
from convert.hyperparameters import Hyperparameters


def _objection(shape: Hyperparameters) -> str | None:
    if shape.tied_embeddings:
        return "tie_word_embeddings is true, llama.cpp needs an output of its own"
    return heads_objection(shape)


OLMO2 = Family(
    name="olmo2",
    architecture=MODEL_ARCH.OLMO2,
    hf_architectures=("Olmo2ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("olmo2",),
    activations=("silu",),
    tensors=(
        EMBEDDING,
        *attention(None),
        *attention_biases(None, "optional"),
        per_block(MODEL_TENSOR.ATTN_Q_NORM, "self_attn.q_norm.weight", "query"),
        per_block(MODEL_TENSOR.ATTN_K_NORM, "self_attn.k_norm.weight", "key_value"),
        per_block(MODEL_TENSOR.ATTN_POST_NORM, "post_attention_layernorm.weight", "hidden"),
        *FEED_FORWARD,
        per_block(MODEL_TENSOR.FFN_POST_NORM, "post_feedforward_layernorm.weight", "hidden"),
        OUTPUT_NORM,
        OUTPUT,
    ),
    keys=DECODER_KEYS,
    rope_scalings=("default", "linear", "yarn"),
    objection=_objection,
)
