"""StableLM: LayerNorm with biases, a quarter of each head turned."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.config_values import flag
from convert.families.parts import (
    ATTENTION_NORM,
    EMBEDDING,
    FEED_FORWARD,
    FEED_FORWARD_NORM,
    LAYER_NORM_KEYS,
    OUTPUT,
    OUTPUT_NORM,
    attention,
    attention_biases,
    own_output_objection,
    per_block,
)
from convert.families.record import BYTE_LEVEL, Config, Family, TensorRule
from edge.errors import EdgeError


def _refuse_12b(config: Config) -> Config:
    for name in ("use_parallel_residual", "qk_layernorm"):
        if flag(config, name, default=False):
            raise EdgeError(
                f"config.json gives {name} as true, as StableLM 2 12B has it.",
                hint="Of StableLM, the models with 1.6B and 3B parameters are supported.",
            )
    return config


STABLELM = Family(
    name="stablelm",
    architecture=MODEL_ARCH.STABLELM,
    hf_architectures=("StableLmForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("stablelm",),
    activations=("silu",),
    tensors=(
        EMBEDDING,
        ATTENTION_NORM,
        per_block(MODEL_TENSOR.ATTN_NORM, "input_layernorm.bias", "hidden"),
        *attention(None),
        *attention_biases(None, "optional"),
        FEED_FORWARD_NORM,
        per_block(MODEL_TENSOR.FFN_NORM, "post_attention_layernorm.bias", "hidden"),
        *FEED_FORWARD,
        OUTPUT_NORM,
        TensorRule(MODEL_TENSOR.OUTPUT_NORM, "model.norm.bias", ("hidden",)),
        OUTPUT,
    ),
    keys=LAYER_NORM_KEYS,
    turns_some_dimensions=True,
    config_names={"rms_norm_eps": "layer_norm_eps"},
    config_defaults={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25},
    prepare=_refuse_12b,
    objection=own_output_objection,
)
