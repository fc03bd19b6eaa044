"""Granite: Llama with a multiplier at each of its seams."""

from __future__ import annotations

from functools import partial

from gguf.constants import MODEL_ARCH

from convert.config_values import positive_number
from convert.families.llama import LLAMA
from convert.families.parts import DECODER_KEYS
from convert.families.record import BYTE_LEVEL, Family, KeyRule
from convert.hyperparameters import Hyperparameters
from edge.gguf_format import ValueType

# GGUF key -> config.json name
_MULTIPLIERS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _multiplier(name: str, shape: Hyperparameters) -> float:
    return positive_number(shape.config, name, default=1.0)


GRANITE = Family(
    name="granite",
    architecture=MODEL_ARCH.GRANITE,
    hf_architectures=("GraniteForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("granite",),
    activations=("silu",),
    tensors=LLAMA.tensors,
    keys=(
        *DECODER_KEYS,
        *(KeyRule(key, ValueType.FLOAT32, partial(_multiplier, name)) for key, name in _MULTIPLIERS.items()),
    ),
    rope_scalings=LLAMA.rope_scalings,
)
