"""Tiny checkpoints of LFM2: convolutions before and behind attention."""

from __future__ import annotations

from typing import Any

from tests.tiny.checkpoint import SMALL_TOKENS, TinyCheckpoint, base_config
from tests.tiny.shapes import Config, Shapes, attention, head_dim_of

_KINDS = ["conv", "conv", "full_attention", "conv", "full_attention"]


def _lfm2() -> dict[str, Any]:
    changes: dict[str, Any] = {
        **SMALL_TOKENS,
        "block_auto_adjust_ff_dim": False,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "conv_L_cache": 3,
        "conv_bias": False,
        "layer_types": _KINDS,
        "model_type": "lfm2",
        "norm_eps": 1e-5,
        "num_hidden_layers": len(_KINDS),
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
    }
    config = base_config("Lfm2ForCausalLM", changes)
    del config["rms_norm_eps"]
    return config


def _shapes(config: Config) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.embedding_norm.weight": (hidden,),
    }
    for number, kind in enumerate(_KINDS):
        layer = _attention(config) if kind == "full_attention" else _convolution(config)
        layer |= {f"{name}_norm.weight": (hidden,) for name in ("operator", "ffn")}
        layer |= {f"feed_forward.w{number}.weight": (inner, hidden) for number in (1, 3)}
        layer["feed_forward.w2.weight"] = (hidden, inner)
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def _attention(config: Config) -> Shapes:
    shapes = {name.replace("o_proj", "out_proj"): shape for name, shape in attention(config).items()}
    return shapes | {f"self_attn.{name}_layernorm.weight": (head_dim_of(config),) for name in "qk"}


def _convolution(config: Config) -> Shapes:
    hidden = config["hidden_size"]
    return {
        "conv.conv.weight": (hidden, 1, config["conv_L_cache"]),
        "conv.in_proj.weight": (3 * hidden, hidden),
        "conv.out_proj.weight": (hidden, hidden),
    }


CHECKPOINTS = (TinyCheckpoint("lfm2", "small", _lfm2(), shapes=_shapes),)
