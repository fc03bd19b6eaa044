"""Tiny checkpoints of families in which only some layers slide, and only some have RoPE."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.tiny.checkpoint import SMALL_TOKENS, TinyCheckpoint, base_config, published
from tests.tiny.dense import olmo2_layer, plain_rope
from tests.tiny.rope import YARN_ROPE
from tests.tiny.shapes import Config, Shapes, attention, decoder_shapes, feed_forward, query_key_norms

_MIXED = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]


def _olmo3() -> dict[str, Any]:
    """As published: yarn is for full layers, plain RoPE for sliding ones."""
    return published(
        base_config(
            "Olmo3ForCausalLM",
            {
                **SMALL_TOKENS,
                "attention_bias": False,
                "layer_types": _MIXED,
                "model_type": "olmo3",
                "num_hidden_layers": 4,
                "rms_norm_eps": 1e-6,
                "rope_scaling": YARN_ROPE,
                "rope_theta": 500000.0,
                "sliding_window": 16,
            },
        )
    )


def _exaone4(**changes: Any) -> dict[str, Any]:
    """The small model: no window, RoPE everywhere."""
    layers = changes.get("num_hidden_layers", 2)
    defaults: dict[str, Any] = {
        **SMALL_TOKENS,
        "layer_types": ["full_attention"] * layers,
        "model_type": "exaone4",
        "rope_parameters": plain_rope(1000000.0),
        "sliding_window": None,
        "sliding_window_pattern": 0,
        "tie_word_embeddings": True,
    }
    return base_config("Exaone4ForCausalLM", {**defaults, **changes})


def _exaone4_window() -> dict[str, Any]:
    """The large model has 64 layers, by which llama.cpp knows it: narrow ones here."""
    return _exaone4(
        hidden_size=64,
        intermediate_size=64,
        layer_types=[*["sliding_attention"] * 3, "full_attention"] * 16,
        num_attention_heads=2,
        num_hidden_layers=64,
        num_key_value_heads=1,
        rope_parameters={**plain_rope(10000.0), "factor": 4.0, **_LLAMA3},
        sliding_window=16,
        sliding_window_pattern=4,
        tie_word_embeddings=False,
    )


_LLAMA3 = {
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}


def _exaone4_layer(config: Config) -> Shapes:
    norms = {f"post_{part}_layernorm.weight": (config["hidden_size"],) for part in ("attention", "feedforward")}
    return {
        **attention(config),
        **feed_forward(config["hidden_size"], config["intermediate_size"]),
        **query_key_norms(config),
        **norms,
    }


def _cohere2() -> dict[str, Any]:
    config = base_config(
        "Cohere2ForCausalLM",
        {
            **SMALL_TOKENS,
            "attention_bias": False,
            "head_dim": 64,
            "layer_norm_eps": 1e-5,
            "layer_types": _MIXED,
            "logit_scale": 2.0,
            "model_type": "cohere2",
            "num_hidden_layers": 4,
            "rope_parameters": plain_rope(500.0),
            "rotary_pct": 1.0,
            "sliding_window": 16,
            "tie_word_embeddings": True,
        },
    )
    del config["rms_norm_eps"]
    return config


def _cohere2_layer(config: Config) -> Shapes:
    hidden = config["hidden_size"]
    return {
        **attention(config),
        **feed_forward(hidden, config["intermediate_size"]),
        "input_layernorm.weight": (hidden,),
    }


CHECKPOINTS = (
    TinyCheckpoint("olmo3", "small", _olmo3(), shapes=partial(decoder_shapes, layer=olmo2_layer)),
    TinyCheckpoint("exaone4", "small", _exaone4(), shapes=partial(decoder_shapes, layer=_exaone4_layer)),
    TinyCheckpoint("exaone4-window", "small", _exaone4_window(), shapes=partial(decoder_shapes, layer=_exaone4_layer)),
    TinyCheckpoint("cohere2", "small", _cohere2(), shapes=partial(decoder_shapes, layer=_cohere2_layer)),
)
