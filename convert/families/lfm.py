"""LFM2, of which most layers are short convolutions instead of attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.config_values import flag, number, positive_integer
from convert.families.parts import DECODER_KEYS, EMBEDDING, OUTPUT, attention, heads_objection, per_block
from convert.families.record import BYTE_LEVEL, Config, Family, KeyRule, TensorRule
from convert.hyperparameters import Hyperparameters
from edge.errors import EdgeError
from edge.gguf_format import ValueType

_ATTENTION, _CONVOLUTION = "full_attention", "conv"


def _prepare(config: Config) -> Config:
    """The first release's names and sizes as those of transformers 5. Source: transformers, Lfm2Config, Lfm2MLP."""
    feed_forward = positive_integer(config, "block_ff_dim" if config.get("block_ff_dim") else "intermediate_size")
    if flag(config, "block_auto_adjust_ff_dim", default=True):
        feed_forward = int(number(config, "block_ffn_dim_multiplier", default=1.0) * int(2 * feed_forward / 3))
        multiple = positive_integer(config, "block_multiple_of", default=256)
        feed_forward = -(-feed_forward // multiple) * multiple
    return {
        **config,
        "intermediate_size": feed_forward,
        "layer_types": _layer_types(config),
        "tie_word_embeddings": config.get("tie_embedding", config["tie_word_embeddings"]),
    }


def _layer_types(config: Config) -> list[str]:
    count = positive_integer(config, "num_hidden_layers")
    found: Any = config.get("layer_types")
    if found is None:
        with_attention = config.get("full_attn_idxs")
        if with_attention is None:
            return [_ATTENTION] * count
        return [_ATTENTION if block in with_attention else _CONVOLUTION for block in range(count)]
    if not isinstance(found, list) or len(found) != count or set(found) - {_ATTENTION, _CONVOLUTION}:
        raise EdgeError(
            f"config.json gives layer_types as {found!r}.",
            hint=f"It must name one of {_ATTENTION} and {_CONVOLUTION} for each of {count} layers.",
        )
    return found


def _has_attention(shape: Hyperparameters, block: int) -> bool:
    return bool(shape.config["layer_types"][block] == _ATTENTION)


def _is_convolution(shape: Hyperparameters, block: int) -> bool:
    return not _has_attention(shape, block)


def _key_value_heads(shape: Hyperparameters) -> list[int]:
    """For each layer; llama.cpp tells convolutions by having none."""
    return [shape.key_value_heads if _has_attention(shape, block) else 0 for block in range(shape.layers)]


def _objection(shape: Hyperparameters) -> str | None:
    if flag(shape.config, "conv_bias", default=False):
        return "conv_bias is true, llama.cpp adds no biases"
    return heads_objection(shape)


LFM2 = Family(
    name="lfm2",
    architecture=MODEL_ARCH.LFM2,
    hf_architectures=("Lfm2ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("lfm2",),
    activations=("silu",),
    tensors=(
        EMBEDDING,
        per_block(MODEL_TENSOR.ATTN_NORM, "operator_norm.weight", "hidden"),
        *(replace(rule, is_in_layer=_has_attention) for rule in attention(None)[:3]),
        *(
            per_block(target, f"self_attn.{name}.weight", *shape, is_in_layer=_has_attention)
            for target, name, shape in (
                (MODEL_TENSOR.ATTN_OUT, "out_proj", ("hidden", "query")),
                (MODEL_TENSOR.ATTN_Q_NORM, "q_layernorm", ("head_dim",)),
                (MODEL_TENSOR.ATTN_K_NORM, "k_layernorm", ("head_dim",)),
            )
        ),
        *(
            per_block(target, f"conv.{name}.weight", *shape, is_in_layer=_is_convolution)
            for target, name, shape in (
                (MODEL_TENSOR.SHORTCONV_CONV, "conv", ("hidden", "1", "kernel")),
                (MODEL_TENSOR.SHORTCONV_INPROJ, "in_proj", ("gates", "hidden")),
                (MODEL_TENSOR.SHORTCONV_OUTPROJ, "out_proj", ("hidden", "hidden")),
            )
        ),
        per_block(MODEL_TENSOR.FFN_NORM, "ffn_norm.weight", "hidden"),
        per_block(MODEL_TENSOR.FFN_GATE, "feed_forward.w1.weight", "feed_forward", "hidden"),
        per_block(MODEL_TENSOR.FFN_UP, "feed_forward.w3.weight", "feed_forward", "hidden"),
        per_block(MODEL_TENSOR.FFN_DOWN, "feed_forward.w2.weight", "hidden", "feed_forward"),
        TensorRule(MODEL_TENSOR.TOKEN_EMBD_NORM, "model.embedding_norm.weight", ("hidden",)),
        OUTPUT,
    ),
    keys=(
        *(rule for rule in DECODER_KEYS if rule.key != "attention.head_count_kv"),
        KeyRule("attention.head_count_kv", ValueType.INT32, _key_value_heads),
        KeyRule("shortconv.l_cache", ValueType.UINT32, lambda shape: shape.size("kernel")),
    ),
    config_names={"rms_norm_eps": "norm_eps"},
    config_defaults={"norm_eps": 1e-5, "rope_theta": 1000000.0, "tie_word_embeddings": True},
    prepare=_prepare,
    sizes={
        "kernel": lambda shape: positive_integer(shape.config, "conv_L_cache", default=3),
        "gates": lambda shape: 3 * shape.hidden,
    },
    objection=_objection,
)
