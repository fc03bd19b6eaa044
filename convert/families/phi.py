"""Phi 3, 3.5, 4 and 4 mini, which keep queries, keys and values in one tensor, and gate and up in another."""

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
    heads_objection,
    per_block,
)
from convert.families.record import BYTE_FALLBACK, BYTE_LEVEL, Family

PHI3 = Family(
    name="phi3",
    architecture=MODEL_ARCH.PHI3,
    hf_architectures=("Phi3ForCausalLM",),
    tokenizers=(BYTE_LEVEL, BYTE_FALLBACK),
    proven_by=("phi3", "phi3-longrope", "phi3-longrope-short"),
    activations=("silu",),
    tensors=(
        EMBEDDING,
        ATTENTION_NORM,
        per_block(MODEL_TENSOR.ATTN_QKV, "self_attn.qkv_proj.weight", "query_key_value", "hidden"),
        per_block(MODEL_TENSOR.ATTN_OUT, "self_attn.o_proj.weight", "hidden", "query"),
        FEED_FORWARD_NORM,
        *GATE_UP,
        OUTPUT_NORM,
        OUTPUT,
    ),
    keys=DECODER_KEYS,
    rope_scalings=("default", "longrope"),
    turns_some_dimensions=True,
    objection=heads_objection,
)
