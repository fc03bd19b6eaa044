"""What a sound GGUF file may still say that ends the process once llama.cpp believes it.

llama.cpp answers most nonsense with an error code, which is left to it. Here are only the cases where it calls
GGML_ASSERT, or where a C++ exception would leave its C functions: neither can be caught from Python.
Source: llama.cpp's src/llama-model.cpp (load_hparams), src/llama-vocab.cpp (load, byte_to_token), ggml-cpu/ops.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from edge.gguf_array import FixedArray, StringArray, Value

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
ROPE_SCALING_TYPES = ("none", "linear", "yarn", "longrope")


def why_llama_cpp_would_abort(metadata: Mapping[str, Value]) -> str:
    """The first reason, as the end of a sentence that starts with the file's name; "" when there is none."""
    return _shape_reason(metadata) or _expert_reason(metadata) or _vocabulary_reason(metadata)


def _shape_reason(metadata: Mapping[str, Value]) -> str:
    architecture = metadata["general.architecture"]
    layers = metadata.get(f"{architecture}.block_count")
    if _is_integer(layers) and not 1 <= layers <= MAX_LAYERS:
        return f"claims {layers} layers instead of 1 to {MAX_LAYERS}"
    extra_layers = metadata.get(f"{architecture}.nextn_predict_layers")
    if _is_integer(extra_layers) and _is_integer(layers) and extra_layers > layers:
        return f"claims {extra_layers} layers for predicting ahead, but only {layers} layers"
    scaling = metadata.get(f"{architecture}.rope.scaling.type")
    if isinstance(scaling, str) and scaling not in ROPE_SCALING_TYPES:
        return f"has the RoPE scaling type {scaling[:40]!r}; known are {', '.join(ROPE_SCALING_TYPES)}"
    for name in ("layer_norm_epsilon", "layer_norm_rms_epsilon"):
        epsilon = metadata.get(f"{architecture}.attention.{name}")
        if isinstance(epsilon, float) and not epsilon >= 0:
            return f"has the normalization epsilon {epsilon}, which must not be negative"
    return ""


def _expert_reason(metadata: Mapping[str, Value]) -> str:
    architecture = metadata["general.architecture"]
    experts = _integer(metadata, f"{architecture}.expert_count")
    groups = _integer(metadata, f"{architecture}.expert_group_count")
    groups_used = _integer(metadata, f"{architecture}.expert_group_used_count")
    used = metadata.get(f"{architecture}.expert_used_count", 0)
    most_used = max(used, default=0) if isinstance(used, FixedArray) else used if _is_integer(used) else 0
    if experts > MAX_EXPERTS:
        return f"claims {experts} experts, more than {MAX_EXPERTS}"
    if most_used > experts or (experts and not most_used):
        return f"uses {most_used} of {experts} experts for a token"
    if groups and groups >= experts:
        return f"puts {experts} experts into {groups} groups"
    if groups > 1 and (experts % groups or not 0 < groups_used < groups):
        return f"uses {groups_used} of {groups} groups of {experts} experts"
    return ""


def _vocabulary_reason(metadata: Mapping[str, Value]) -> str:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray):
        return ""
    distinct = set(tokens.iter_bytes())
    if len(distinct) < len(tokens):
        return f"has a vocabulary of {len(tokens)} tokens of which only {len(distinct)} differ"
    if metadata.get("tokenizer.ggml.model") == "llama":
        missing = [byte for byte in range(256) if not {b"<0x%02X>" % byte, bytes([byte])} & distinct]
        if missing:
            return f"has a vocabulary without a token for {len(missing)} of the 256 bytes, such as 0x{missing[0]:02X}"
    for name in ("bos", "eos"):
        token = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if metadata.get(f"tokenizer.ggml.add_{name}_token") is True and _is_integer(token) and token >= len(tokens):
            return f"adds the {name.upper()} token {token} to prompts, but its vocabulary has {len(tokens)} tokens"
    return ""


def _integer(metadata: Mapping[str, Value], key: str) -> int:
    value = metadata.get(key)
    return value if _is_integer(value) else 0


def _is_integer(value: Value | None) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
