"""Tiny checkpoints of Qwen."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.tiny.checkpoint import TinyCheckpoint, base_config, published
from tests.tiny.shapes import Config, Shapes, decoder_shapes, head_dim_of, llama_layer, query_key_norms


def _qwen2(**changes: Any) -> dict[str, Any]:
    """As published: a sliding window that is switched off, and more rows of embeddings than there are tokens."""
    defaults: dict[str, Any] = {
        "model_type": "qwen2",
        "bos_token_id": 617,
        "eos_token_id": 619,
        "max_window_layers": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 256,
        "use_sliding_window": False,
        "vocab_size": 640,
    }
    return published(base_config("Qwen2ForCausalLM", {**defaults, **changes}))


def _qwen3(**changes: Any) -> dict[str, Any]:
    layers = changes.get("num_hidden_layers", 2)
    defaults: dict[str, Any] = {
        "model_type": "qwen3",
        "attention_bias": False,
        "bos_token_id": 617,
        "eos_token_id": 619,
        "head_dim": 128,
        "layer_types": ["full_attention"] * layers,
        "max_window_layers": layers,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 624,
    }
    return base_config("Qwen3ForCausalLM", {**defaults, **changes})


def _qwen2_layer(config: Config) -> Shapes:
    head_dim = head_dim_of(config)
    keys = config["num_key_value_heads"] * head_dim
    rows = {"q": config["num_attention_heads"] * head_dim, "k": keys, "v": keys}
    return {**llama_layer(config), **{f"self_attn.{name}_proj.bias": (count,) for name, count in rows.items()}}


def _qwen3_layer(config: Config) -> Shapes:
    return {**llama_layer(config), **query_key_norms(config)}


CHECKPOINTS = (
    TinyCheckpoint(
        "qwen2",
        "qwen",
        _qwen2(),
        {"bos_token_id": 617, "eos_token_id": [619, 617], "repetition_penalty": 1.05, "temperature": 0.7},
        shapes=partial(decoder_shapes, layer=_qwen2_layer),
    ),
    TinyCheckpoint(
        "qwen3",
        "qwen",
        _qwen3(tie_word_embeddings=True),
        {"eos_token_id": [619, 617], "top_k": 20},
        shapes=partial(decoder_shapes, layer=_qwen3_layer),
    ),
    TinyCheckpoint(
        "qwen3-untied",
        "qwen",
        _qwen3(num_hidden_layers=3),
        {"eos_token_id": [619, 617], "top_k": 20},
        shapes=partial(decoder_shapes, layer=_qwen3_layer),
    ),
)
