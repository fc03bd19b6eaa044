"""Qwen 2, 2.5 and 3."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH

from convert.families.parts import DECODER_KEYS, QUERY_KEY_NORMS, attention, attention_biases, decoder, heads_objection
from convert.families.record import BYTE_LEVEL, Family

QWEN2 = Family(
    name="qwen2",
    architecture=MODEL_ARCH.QWEN2,
    hf_architectures=("Qwen2ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("qwen2",),
    activations=("silu",),
    tensors=decoder(*attention(None), *attention_biases(None, "required")),
    keys=DECODER_KEYS,
    rope_scalings=("default", "linear", "yarn"),
    objection=heads_objection,
)

QWEN3 = Family(
    name="qwen3",
    architecture=MODEL_ARCH.QWEN3,
    hf_architectures=("Qwen3ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("qwen3", "qwen3-untied", "qwen3-yarn"),
    activations=("silu",),
    tensors=decoder(*attention(None), *QUERY_KEY_NORMS),
    keys=DECODER_KEYS,
    rope_scalings=("default", "linear", "yarn"),
)
