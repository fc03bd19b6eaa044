"""Gemma, whose norms scale by one more than their weight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.config_values import flag, positive_integer, positive_number
from convert.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    FULL_CONTEXT_KEYS,
    MULTIMODAL_PREFIXES,
    OUTPUT,
    VISION_TOWER,
    attention,
    per_block,
)
from convert.families.record import BYTE_FALLBACK, IGNORED, Config, Family, KeyRule, TensorRule
from convert.families.sliding import FULL, SLIDING, sliding_keys, sliding_layers
from convert.hyperparameters import Hyperparameters
from convert.rope import RopeParameters, read_rope_parameters
from convert.transforms import ADD_ONE
from edge.errors import EdgeError
from edge.gguf_format import ValueType

_TIED = {"tie_word_embeddings": True}
_ALWAYS_TIED = (*IGNORED, r"^lm_head\.weight$")  # a copy of the embeddings, which transformers ignores too


def _gemma_norm(target: MODEL_TENSOR, name: str, dimension: str = "hidden") -> TensorRule:
    return per_block(target, name, dimension, transform=ADD_ONE)


_ATTENTION_NORM = _gemma_norm(MODEL_TENSOR.ATTN_NORM, "input_layernorm.weight")
_OUTPUT_NORM = TensorRule(MODEL_TENSOR.OUTPUT_NORM, "model.norm.weight", ("hidden",), transform=ADD_ONE)
_AROUND_FEED_FORWARD = (
    _gemma_norm(MODEL_TENSOR.ATTN_POST_NORM, "post_attention_layernorm.weight"),
    _gemma_norm(MODEL_TENSOR.FFN_PRE_NORM, "pre_feedforward_layernorm.weight"),
    *FEED_FORWARD,
    _gemma_norm(MODEL_TENSOR.FFN_POST_NORM, "post_feedforward_layernorm.weight"),
)


def _common_objection(shape: Hyperparameters) -> str | None:
    if flag(shape.config, "use_bidirectional_attention", default=False):
        return "use_bidirectional_attention is true, llama.cpp lets a token see what is before it only"
    return None


def _untied_objection(shape: Hyperparameters) -> str | None:
    if not shape.tied_embeddings:
        return "tie_word_embeddings is false, llama.cpp always uses the embeddings as output"
    return None


def _scale_objection(shape: Hyperparameters, *, layers_of_27b: int) -> str | None:
    """llama.cpp tells the 27B model, whose attention is scaled otherwise, by its layers."""
    expected = shape.hidden // shape.heads if shape.layers == layers_of_27b else shape.head_dim
    scalar = positive_number(shape.config, "query_pre_attn_scalar", default=256)
    return None if scalar == expected else f"query_pre_attn_scalar is {scalar:g}, llama.cpp assumes {expected}"


# Gemma

GEMMA = Family(
    name="gemma",
    architecture=MODEL_ARCH.GEMMA,
    hf_architectures=("GemmaForCausalLM",),
    tokenizers=(BYTE_FALLBACK,),
    proven_by=("gemma",),
    activations=("gelu_pytorch_tanh", "gelu"),  # published as "gelu", by which transformers means the other as well
    tensors=(
        EMBEDDING,
        _ATTENTION_NORM,
        *attention(None),
        _gemma_norm(MODEL_TENSOR.FFN_NORM, "post_attention_layernorm.weight"),
        *FEED_FORWARD,
        _OUTPUT_NORM,
    ),
    keys=FULL_CONTEXT_KEYS,
    config_defaults={**_TIED, "head_dim": 256},
    ignored=_ALWAYS_TIED,
    objection=lambda shape: _common_objection(shape) or _untied_objection(shape),
)


# Gemma 2

_GEMMA2_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # Source: transformers, Gemma2Config


def _gemma2_objection(shape: Hyperparameters) -> str | None:
    """llama.cpp lets every second layer slide, from the first on."""
    objection = _scale_objection(shape, layers_of_27b=46)
    if objection:
        return objection
    for name, default in _GEMMA2_CAPS.items():
        if not shape.config.get(name, default):
            return f"{name} is {shape.config[name]}, llama.cpp always caps"
    layer_types = shape.config.get("layer_types")
    alternating = [(SLIDING, FULL)[block % 2] for block in range(shape.layers)]
    if layer_types is not None and layer_types != alternating:
        return "layer_types do not alternate between sliding and full attention"
    return _untied_objection(shape) or _common_objection(shape)


def _gemma2_cap(name: str, shape: Hyperparameters) -> float:
    return positive_number(shape.config, name, default=_GEMMA2_CAPS[name])


def _sliding_window(shape: Hyperparameters) -> int:
    return positive_integer(shape.config, "sliding_window", default=4096)


GEMMA2 = Family(
    name="gemma2",
    architecture=MODEL_ARCH.GEMMA2,
    hf_architectures=("Gemma2ForCausalLM",),
    tokenizers=(BYTE_FALLBACK,),
    proven_by=("gemma2",),
    activations=("gelu_pytorch_tanh",),
    tensors=(EMBEDDING, _ATTENTION_NORM, *attention(None), *_AROUND_FEED_FORWARD, _OUTPUT_NORM),
    keys=(
        *FULL_CONTEXT_KEYS,
        KeyRule("attention.sliding_window", ValueType.UINT32, _sliding_window),
        *(KeyRule(name, ValueType.FLOAT32, partial(_gemma2_cap, name)) for name in _GEMMA2_CAPS),
    ),
    config_defaults=_TIED,
    ignored=_ALWAYS_TIED,
    objection=_gemma2_objection,
)


# Gemma 3

# Source: transformers, Gemma3TextConfig. The multimodal checkpoints leave most of them out.
_GEMMA3_DEFAULTS = {
    **_TIED,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "vocab_size": 262208,
}
_GEMMA3_THETA = {FULL: 1000000.0, SLIDING: 10000.0}
_LOCAL_ROPE = "local_rope_parameters"  # not a key of config.json, which has it in one of two other places


def gemma3_rope(config: Config) -> Config:
    """Both RoPEs of a configuration as if there were one, and the one of the sliding layers under a key of its own.

    transformers 5 writes them side by side in rope_parameters; before, rope_local_base_freq was that of sliding layers.
    """
    stored = config.get("rope_parameters") or {}
    if not isinstance(stored, Mapping):
        raise EdgeError(f"config.json gives rope_parameters as {stored!r}.", hint="An object is needed.")
    full: Any = stored.get(FULL)
    local: Any = stored.get(SLIDING)
    if not isinstance(full, Mapping):
        scaling = config.get("rope_scaling") or {}
        full = {**scaling, "rope_theta": config.get("rope_theta")} if isinstance(scaling, Mapping) else scaling
    if not isinstance(local, Mapping):
        local = {"rope_theta": config.get("rope_local_base_freq")}
    full, local = (
        {**rope, "rope_theta": rope.get("rope_theta") or _GEMMA3_THETA[kind]}
        for kind, rope in ((FULL, full), (SLIDING, local))
    )
    return {**config, "rope_parameters": full, _LOCAL_ROPE: local}


def local_rope(shape: Hyperparameters) -> RopeParameters:
    """The RoPE of layers with a sliding window."""
    return read_rope_parameters({"rope_parameters": shape.config[_LOCAL_ROPE]}, shape.head_dim, shape.context_tokens)


def slides(shape: Hyperparameters) -> list[bool]:
    """Whether each layer has a sliding window."""
    return sliding_layers(shape, full_every=6)


def _if_any_slides(value: Any, shape: Hyperparameters) -> Any:
    return value(shape) if any(slides(shape)) else None


def _gemma3_objection(shape: Hyperparameters) -> str | None:
    objection = _scale_objection(shape, layers_of_27b=62) or _common_objection(shape)
    if objection:
        return objection
    if shape.config.get("attn_logit_softcapping"):
        return "attn_logit_softcapping is set, llama.cpp does not cap"
    if local_rope(shape).scaling != "default":
        return (
            f"its sliding layers have the RoPE scaling {local_rope(shape).scaling!r}, llama.cpp scales full ones only"
        )
    return None


def _gemma3_cap(shape: Hyperparameters) -> float | None:
    name = "final_logit_softcapping"
    return positive_number(shape.config, name) if shape.config.get(name) else None


GEMMA3 = Family(
    name="gemma3",
    architecture=MODEL_ARCH.GEMMA3,
    hf_architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    tokenizers=(BYTE_FALLBACK,),
    proven_by=("gemma3", "gemma3-multimodal"),
    activations=("gelu_pytorch_tanh",),
    tensors=(
        EMBEDDING,
        _ATTENTION_NORM,
        *attention(None),
        _gemma_norm(MODEL_TENSOR.ATTN_Q_NORM, "self_attn.q_norm.weight", "head_dim"),
        _gemma_norm(MODEL_TENSOR.ATTN_K_NORM, "self_attn.k_norm.weight", "head_dim"),
        *_AROUND_FEED_FORWARD,
        _OUTPUT_NORM,
        OUTPUT,
    ),
    keys=(
        *FULL_CONTEXT_KEYS,
        *sliding_keys(slides),
        KeyRule(
            "rope.freq_base_swa", ValueType.FLOAT32, partial(_if_any_slides, lambda shape: local_rope(shape).theta)
        ),
        KeyRule("final_logit_softcapping", ValueType.FLOAT32, _gemma3_cap),
    ),
    left_out=VISION_TOWER,
    prefixes=MULTIMODAL_PREFIXES,
    config_defaults=_GEMMA3_DEFAULTS,
    prepare=gemma3_rope,
    trims_vocabulary=True,
    objection=_gemma3_objection,
)
