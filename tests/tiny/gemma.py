"""Tiny checkpoints of Gemma."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.tiny.checkpoint import TinyCheckpoint, base_config
from tests.tiny.shapes import Config, Shapes, decoder_shapes, llama_layer


def _gemma2(**changes: Any) -> dict[str, Any]:
    """Soft caps and a window small enough to be felt by a tiny model. Heads are wider than hidden / heads."""
    defaults: dict[str, Any] = {
        "model_type": "gemma2",
        "attention_bias": False,
        "attn_logit_softcapping": 6.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": 4.0,
        "head_dim": 128,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "intermediate_size": 768,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 128,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "sliding_window": 16,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": None,
        "vocab_size": 679,
    }
    return base_config("Gemma2ForCausalLM", {**defaults, **changes})


def _gemma2_layer(config: Config) -> Shapes:
    norms = {f"{side}_feedforward_layernorm.weight": (config["hidden_size"],) for side in ("pre", "post")}
    return {**llama_layer(config), **norms}


CHECKPOINTS = (
    TinyCheckpoint(
        "gemma2",
        "gemma2",
        _gemma2(),
        {"bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 8], "pad_token_id": 0},
        shapes=partial(decoder_shapes, layer=_gemma2_layer),
        norm_center=0.0,
    ),
)
