"""OLMo 2 and 3, which normalize what attention and feed-forward give, not what they get, and all heads as one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.families.parts import (
    DECODER_KEYS,
    EMBEDDING,
    FEED_FORWARD,
    FULL_CONTEXT_KEYS,
    OUTPUT,
    OUTPUT_NORM,
    attention,
    attention_biases,
    own_output_objection,
    per_block,
)
from convert.families.record import BYTE_LEVEL, Config, Family
from convert.families.sliding import FULL, SLIDING, sliding_keys, sliding_layers
from convert.hyperparameters import Hyperparameters
from convert.rope import read_rope_parameters
from edge.errors import EdgeError

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
    objection=own_output_objection,
)


# OLMo 3

_THETA = 500000.0  # Source: transformers, Olmo3Config
_LOCAL_ROPE = "local_rope_parameters"  # not a key of config.json, which has it inside rope_parameters


def _olmo3_rope(config: Config) -> Config:
    """The RoPE of full layers as if it were that of all, and the one of sliding layers under a key of its own.

    transformers 5 writes them side by side; before, rope_scaling was for full layers only.
    """
    stored = config.get("rope_parameters") or {}
    if not isinstance(stored, Mapping) or set(stored) - {FULL, SLIDING}:
        raise EdgeError(
            f"config.json gives rope_parameters as {stored!r}.", hint=f"An object with {FULL} and {SLIDING} is needed."
        )
    full: Any = stored.get(FULL) or config.get("rope_scaling") or {}
    local: Any = stored.get(SLIDING) or {}
    if isinstance(full, Mapping):
        full = {"rope_theta": config.get("rope_theta") or _THETA, **full}
    if isinstance(local, Mapping):
        local = {"rope_theta": _THETA, **local}
    return {**config, "rope_parameters": full, _LOCAL_ROPE: local}


def _olmo3_objection(shape: Hyperparameters) -> str | None:
    local = read_rope_parameters({"rope_parameters": shape.config[_LOCAL_ROPE]}, shape.head_dim, shape.context_tokens)
    if local.scaling != "default":
        return f"its sliding layers have the RoPE scaling {local.scaling!r}, llama.cpp scales full ones only"
    if local.theta != shape.rope.theta:
        return (
            f"rope_theta is {local.theta:g} in sliding layers, llama.cpp takes that of full ones, {shape.rope.theta:g}"
        )
    return own_output_objection(shape)


OLMO3 = Family(
    name="olmo3",
    architecture=MODEL_ARCH.OLMO2,
    hf_architectures=("Olmo3ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("olmo3",),
    activations=("silu",),
    tensors=OLMO2.tensors,
    keys=(*FULL_CONTEXT_KEYS, *sliding_keys(partial(sliding_layers, full_every=4))),
    rope_scalings=OLMO2.rope_scalings,
    prepare=_olmo3_rope,
    objection=_olmo3_objection,
)
