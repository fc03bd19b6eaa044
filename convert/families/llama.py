"""Llama and what copies its layout: Mistral, the first Ministral, SmolLM2."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.families.parts import (
    DECODER_KEYS,
    FEED_FORWARD_BIASES,
    attention,
    attention_biases,
    decoder,
    per_block,
)
from convert.families.record import BYTE_FALLBACK, BYTE_LEVEL, Family
from convert.transforms import ROPE_PAIRS

LLAMA = Family(
    name="llama",
    architecture=MODEL_ARCH.LLAMA,
    hf_architectures=("LlamaForCausalLM", "MistralForCausalLM", "MinistralForCausalLM"),
    tokenizers=(BYTE_LEVEL, BYTE_FALLBACK),
    proven_by=(
        "llama2",
        "llama3",
        "llama3-published",
        "llama-linear",
        "llama-uneven",
        "smollm2",
        "mistral",
        "llama-yarn",
        "llama-longrope",
        "ministral",
    ),
    activations=("silu",),
    tensors=decoder(
        *attention(ROPE_PAIRS),
        *attention_biases(ROPE_PAIRS, "optional"),
        per_block(MODEL_TENSOR.ATTN_OUT, "self_attn.o_proj.bias", "hidden", presence="optional"),
        *FEED_FORWARD_BIASES,
    ),
    keys=DECODER_KEYS,
    rope_scalings=("default", "linear", "llama3", "yarn", "longrope"),
)
