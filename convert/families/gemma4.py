"""Gemma 4, without experts: attention of two widths, keys and values that layers share, embeddings per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.config_values import flag, positive_integer, positive_number
from convert.families.gemma import slides
from convert.families.parts import DECODER_KEYS, EMBEDDING, OUTPUT, OUTPUT_NORM, per_block
from convert.families.record import BYTE_FALLBACK, Config, Family, KeyRule, LeftOut, TensorRule
from convert.hyperparameters import Hyperparameters
from edge.errors import EdgeError
from edge.gguf_format import ValueType

_SLIDING, _FULL = "sliding_attention", "full_attention"
_UNTURNED = 1e30  # a frequency divided by it turns nothing

# Source: transformers, Gemma4TextConfig
_DEFAULTS = {
    "head_dim": 256,
    "hidden_size_per_layer_input": 256,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        _FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
        _SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 512,
    "tie_word_embeddings": True,
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
}
_WIDTH_OF_SLIDING, _HEADS_OF_SLIDING = "sliding_head_dim", "sliding_key_value_heads"


def _prepare(config: Config) -> Config:
    """The layers with full attention as if there were no others, and what differs in those that slide beside it.

    transformers 5.23 writes per_layer_config; published checkpoints have the width and number of heads of all full
    layers under keys of their own.
    """
    rope = config["rope_parameters"]
    if not isinstance(rope, Mapping) or not all(isinstance(rope.get(kind), Mapping) for kind in (_FULL, _SLIDING)):
        raise EdgeError(
            f"config.json gives rope_parameters as {rope!r}.", hint=f"One object for {_FULL}, one for {_SLIDING}."
        )
    full = _full_layers(config)
    return {
        **config,
        _WIDTH_OF_SLIDING: config["head_dim"],
        _HEADS_OF_SLIDING: config["num_key_value_heads"],
        "head_dim": full.get("head_dim") or config["head_dim"],
        "num_key_value_heads": full.get("num_key_value_heads") or config["num_key_value_heads"],
        "rope_parameters": {"rope_theta": rope[_FULL].get("rope_theta"), "rope_type": "default"},
        "layer_ropes": rope,
    }


def _full_layers(config: Config) -> Mapping[str, Any]:
    """What is said of the layers with full attention alone."""
    by_layer = config.get("per_layer_config")
    if by_layer is None:
        heads = config.get("num_global_key_value_heads") if config.get("attention_k_eq_v") else None
        return {"head_dim": config.get("global_head_dim", 512), "num_key_value_heads": heads}
    if by_layer == {}:
        return {}
    overrides = list(by_layer.values()) if isinstance(by_layer, Mapping) else []
    if not overrides or any(override != overrides[0] for override in overrides):
        raise EdgeError(
            f"config.json gives per_layer_config as {by_layer!r}.",
            hint=f"llama.cpp has one width of heads for all layers with {_FULL}.",
        )
    first: Mapping[str, Any] = overrides[0]
    return first


def _shared_layers(shape: Hyperparameters) -> int:
    """Layers at the end that take keys and values from those before them."""
    name = "num_kv_shared_layers"
    return positive_integer(shape.config, name) if shape.config.get(name) else 0


def _per_layer(shape: Hyperparameters) -> int:
    name = "hidden_size_per_layer_input"
    return positive_integer(shape.config, name) if shape.config.get(name) else 0


def _shares(shape: Hyperparameters, block: int) -> bool:
    return block >= shape.layers - _shared_layers(shape)


def _is_wide(shape: Hyperparameters, block: int) -> bool:
    return flag(shape.config, "use_double_wide_mlp", default=False) and _shares(shape, block)


def _is_not_wide(shape: Hyperparameters, block: int) -> bool:
    return not _is_wide(shape, block)


def _has_layer_embeddings(shape: Hyperparameters, block: int) -> bool:
    return _per_layer(shape) > 0


Condition = Callable[[Hyperparameters, int], bool]


def _attention(kind: str, is_sliding: bool) -> tuple[TensorRule, ...]:
    """The tensors of one kind of attention. Those that a sharing layer may have are not used by it."""

    def of_kind(shape: Hyperparameters, block: int) -> bool:
        return slides(shape)[block] == is_sliding

    def with_keys(shape: Hyperparameters, block: int) -> bool:
        return of_kind(shape, block) and not _shares(shape, block)

    def without_keys(shape: Hyperparameters, block: int) -> bool:
        return of_kind(shape, block) and _shares(shape, block)

    def with_values(shape: Hyperparameters, block: int) -> bool:
        return with_keys(shape, block) and (is_sliding or not shape.config.get("attention_k_eq_v"))

    query, key_value, head = f"{kind}_query", f"{kind}_key_value", f"{kind}_head"
    keys = (MODEL_TENSOR.ATTN_K, "self_attn.k_proj.weight", key_value, "hidden")
    values = (MODEL_TENSOR.ATTN_V, "self_attn.v_proj.weight", key_value, "hidden")
    key_norm = (MODEL_TENSOR.ATTN_K_NORM, "self_attn.k_norm.weight", head)
    return (
        per_block(MODEL_TENSOR.ATTN_Q, "self_attn.q_proj.weight", query, "hidden", is_in_layer=of_kind),
        per_block(*keys, is_in_layer=with_keys),
        per_block(*values, is_in_layer=with_values),
        per_block(MODEL_TENSOR.ATTN_OUT, "self_attn.o_proj.weight", "hidden", query, is_in_layer=of_kind),
        per_block(MODEL_TENSOR.ATTN_Q_NORM, "self_attn.q_norm.weight", head, is_in_layer=of_kind),
        per_block(*key_norm, is_in_layer=with_keys),
        *(per_block(*rule, presence="optional", is_in_layer=without_keys) for rule in (keys, values, key_norm)),
    )


def _feed_forward(dimension: str, condition: Condition) -> tuple[TensorRule, ...]:
    return (
        per_block(MODEL_TENSOR.FFN_GATE, "mlp.gate_proj.weight", dimension, "hidden", is_in_layer=condition),
        per_block(MODEL_TENSOR.FFN_UP, "mlp.up_proj.weight", dimension, "hidden", is_in_layer=condition),
        per_block(MODEL_TENSOR.FFN_DOWN, "mlp.down_proj.weight", "hidden", dimension, is_in_layer=condition),
    )


def _with_embeddings(target: MODEL_TENSOR, source: str, *shape: str) -> TensorRule:
    return TensorRule(target, source, shape, is_in_layer=_has_layer_embeddings)


_LAYER = "model.layers.{block}."
_TENSORS = (
    EMBEDDING,
    _with_embeddings(
        MODEL_TENSOR.PER_LAYER_TOKEN_EMBD, "model.embed_tokens_per_layer.weight", "vocabulary", "all_layers_input"
    ),
    _with_embeddings(
        MODEL_TENSOR.PER_LAYER_MODEL_PROJ, "model.per_layer_model_projection.weight", "all_layers_input", "hidden"
    ),
    _with_embeddings(MODEL_TENSOR.PER_LAYER_PROJ_NORM, "model.per_layer_projection_norm.weight", "layer_input"),
    per_block(MODEL_TENSOR.ATTN_NORM, "input_layernorm.weight", "hidden"),
    *_attention("sliding", True),
    *_attention("full", False),
    per_block(MODEL_TENSOR.ATTN_POST_NORM, "post_attention_layernorm.weight", "hidden"),
    per_block(MODEL_TENSOR.FFN_PRE_NORM, "pre_feedforward_layernorm.weight", "hidden"),
    *_feed_forward("feed_forward", _is_not_wide),
    *_feed_forward("wide_feed_forward", _is_wide),
    per_block(MODEL_TENSOR.FFN_POST_NORM, "post_feedforward_layernorm.weight", "hidden"),
    _with_embeddings(MODEL_TENSOR.PER_LAYER_INP_GATE, f"{_LAYER}per_layer_input_gate.weight", "layer_input", "hidden"),
    _with_embeddings(MODEL_TENSOR.PER_LAYER_PROJ, f"{_LAYER}per_layer_projection.weight", "hidden", "layer_input"),
    _with_embeddings(MODEL_TENSOR.PER_LAYER_POST_NORM, f"{_LAYER}post_per_layer_input_norm.weight", "hidden"),
    per_block(MODEL_TENSOR.LAYER_OUT_SCALE, "layer_scalar", "scalar", suffix="weight"),
    OUTPUT_NORM,
    OUTPUT,
)


def _key_value_heads(shape: Hyperparameters) -> int | list[int]:
    sliding = positive_integer(shape.config, _HEADS_OF_SLIDING)
    heads = [sliding if slide else shape.key_value_heads for slide in slides(shape)]
    return heads if len(set(heads)) > 1 else heads[0]


def _feed_forward_lengths(shape: Hyperparameters) -> int | list[int]:
    lengths = [shape.feed_forward * (2 if _is_wide(shape, block) else 1) for block in range(shape.layers)]
    return lengths if len(set(lengths)) > 1 else lengths[0]


def _sliding_width(shape: Hyperparameters) -> int:
    return positive_integer(shape.config, _WIDTH_OF_SLIDING)


def _sliding_theta(shape: Hyperparameters) -> float:
    return positive_number(shape.config["layer_ropes"][_SLIDING], "rope_theta", default=10000.0)


def _final_cap(shape: Hyperparameters) -> float | None:
    name = "final_logit_softcapping"
    return positive_number(shape.config, name) if shape.config.get(name) else None


def _turned_part(shape: Hyperparameters) -> dict[str, npt.NDArray[np.float32]]:
    """In full layers only the first pairs of dimensions turn, with the frequencies that they have in the whole head."""
    part = positive_number(shape.config["layer_ropes"][_FULL], "partial_rotary_factor", default=1.0)
    turned = int(shape.head_dim * part / 2)
    factors = np.full(shape.head_dim // 2, _UNTURNED, np.float32)
    factors[:turned] = 1
    return {"rope_freqs.weight": factors}


def _objection(shape: Hyperparameters) -> str | None:
    ropes = shape.config["layer_ropes"]
    if shape.config.get("enable_moe_block"):
        return "its layers have experts, which are not converted yet"
    if shape.config.get("use_bidirectional_attention") == "all":
        return "use_bidirectional_attention is 'all', llama.cpp lets a token see what is before it only"
    if not slides(shape)[0] or slides(shape)[-1]:
        return "its first layer must slide and its last one must not"
    if ropes[_FULL].get("rope_type") != "proportional" or ropes[_FULL].get("factor", 1.0) != 1.0:
        return f"full layers have the RoPE {dict(ropes[_FULL])}, llama.cpp has an unscaled proportional one"
    if ropes[_SLIDING].get("rope_type", "default") != "default":
        return f"sliding layers have the RoPE {dict(ropes[_SLIDING])}, llama.cpp does not scale them"
    if _per_layer(shape) and shape.config["vocab_size_per_layer_input"] != shape.config["vocab_size"]:
        return "vocab_size_per_layer_input is not vocab_size"
    return None


_OTHER_KEYS = ("context_length", "attention.head_count_kv", "feed_forward_length")
GEMMA4 = Family(
    name="gemma4",
    architecture=MODEL_ARCH.GEMMA4,
    hf_architectures=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    tokenizers=(BYTE_FALLBACK,),
    proven_by=("gemma4", "gemma4-dense"),
    activations=("gelu_pytorch_tanh",),
    tensors=_TENSORS,
    keys=(
        *(rule for rule in DECODER_KEYS if rule.key not in _OTHER_KEYS),
        KeyRule("context_length", ValueType.UINT32, lambda shape: shape.context_tokens),
        KeyRule("attention.head_count_kv", ValueType.UINT32, _key_value_heads),
        KeyRule("feed_forward_length", ValueType.UINT32, _feed_forward_lengths),
        KeyRule("attention.key_length_swa", ValueType.UINT32, _sliding_width),
        KeyRule("attention.value_length_swa", ValueType.UINT32, _sliding_width),
        KeyRule("attention.sliding_window", ValueType.UINT32, lambda s: positive_integer(s.config, "sliding_window")),
        KeyRule("attention.sliding_window_pattern", ValueType.BOOL, slides),
        KeyRule("attention.shared_kv_layers", ValueType.UINT32, _shared_layers),
        KeyRule("embedding_length_per_layer_input", ValueType.UINT32, _per_layer),
        KeyRule("rope.dimension_count_swa", ValueType.UINT32, _sliding_width),
        KeyRule("rope.freq_base_swa", ValueType.FLOAT32, _sliding_theta),
        KeyRule("final_logit_softcapping", ValueType.FLOAT32, _final_cap),
    ),
    rope_scalings=("default",),
    left_out=(
        LeftOut(r"^model\.(vision_tower|embed_vision)\.", "the vision tower"),
        LeftOut(r"^model\.(audio_tower|embed_audio)\.", "the audio tower"),
    ),
    prefixes={"model.language_model.": "model."},
    config_defaults=_DEFAULTS,
    prepare=_prepare,
    sizes={
        "scalar": lambda shape: 1,
        "layer_input": _per_layer,
        "all_layers_input": lambda shape: _per_layer(shape) * shape.layers,
        "wide_feed_forward": lambda shape: 2 * shape.feed_forward,
        "full_head": lambda shape: shape.head_dim,
        "full_query": lambda shape: shape.query,
        "full_key_value": lambda shape: shape.key_value,
        "sliding_head": _sliding_width,
        "sliding_query": lambda shape: shape.heads * _sliding_width(shape),
        "sliding_key_value": lambda s: positive_integer(s.config, _HEADS_OF_SLIDING) * _sliding_width(s),
    },
    computed=_turned_part,
    objection=_objection,
)
