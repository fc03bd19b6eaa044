"""GLM 4, which normalizes before and after attention and feed-forward, and turns neighbours in half of each head."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.families.parts import (
    ATTENTION_NORM,
    DECODER_KEYS,
    EMBEDDING,
    FEED_FORWARD_NORM,
    GATE_UP,
    OUTPUT,
    OUTPUT_NORM,
    attention,
    attention_biases,
    per_block,
)
from convert.families.record import BYTE_LEVEL, Family

GLM4 = Family(
    name="glm4",
    architecture=MODEL_ARCH.GLM4,
    hf_architectures=("Glm4ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("glm4",),
    activations=("silu",),
    tensors=(
        EMBEDDING,
        ATTENTION_NORM,
        *attention(None),
        *attention_biases(None, "optional"),
        per_block(MODEL_TENSOR.ATTN_POST_NORM, "post_self_attn_layernorm.weight", "hidden"),
        FEED_FORWARD_NORM,
        *GATE_UP,
        per_block(MODEL_TENSOR.FFN_POST_NORM, "post_mlp_layernorm.weight", "hidden"),
        OUTPUT_NORM,
        OUTPUT,
    ),
    keys=DECODER_KEYS,
    turns_some_dimensions=True,
    config_defaults={"head_dim": 128, "partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-7},
)
