"""Tiny checkpoints of mixtures of experts."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.tiny.checkpoint import SMALL_TOKENS, TinyCheckpoint, base_config, published
from tests.tiny.llama import LLAMA2_TOKENS
from tests.tiny.shapes import Config, Shapes, attention, decoder_shapes, experts, query_key_norms


def _mixtral() -> dict[str, Any]:
    """Eight experts, for which llama.cpp's recipes have rules of their own."""
    return published(
        base_config(
            "MixtralForCausalLM",
            {
                **LLAMA2_TOKENS,
                "intermediate_size": 256,
                "model_type": "mixtral",
                "num_experts_per_tok": 2,
                "num_hidden_layers": 3,
                "num_local_experts": 8,
                "output_router_logits": False,
                "rope_theta": 1000000.0,
                "router_aux_loss_coef": 0.02,
                "sliding_window": None,
            },
        )
    )


def _qwen3_moe(**changes: Any) -> dict[str, Any]:
    return base_config(
        "Qwen3MoeForCausalLM",
        {
            "attention_bias": False,
            "bos_token_id": 617,
            "decoder_sparse_step": 1,
            "eos_token_id": 619,
            "head_dim": 128,
            "mlp_only_layers": [],
            "model_type": "qwen3_moe",
            "moe_intermediate_size": 256,
            "norm_topk_prob": True,
            "num_experts_per_tok": 3,
            "output_router_logits": False,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
            "router_aux_loss_coef": 0.001,
            "sliding_window": None,
            "use_sliding_window": False,
            "vocab_size": 624,
            **changes,
        },
    )


def _norms(config: Config) -> Shapes:
    return {f"{name}_layernorm.weight": (config["hidden_size"],) for name in ("input", "post_attention")}


def _mixtral_layer(config: Config) -> Shapes:
    sizes = (config["hidden_size"], config["intermediate_size"], config["num_local_experts"])
    return {
        **attention(config),
        **_norms(config),
        **experts(*sizes, prefix="block_sparse_moe", names="w1 w3 w2"),
    }


def _qwen3_moe_layer(config: Config) -> Shapes:
    sizes = (config["hidden_size"], config["moe_intermediate_size"], config["num_experts"])
    return {**attention(config), **query_key_norms(config), **_norms(config), **experts(*sizes)}


def _fused_layer(config: Config) -> Shapes:
    """As transformers 5 has the experts in memory."""
    hidden, inner, count = config["hidden_size"], config["moe_intermediate_size"], config["num_local_experts"]
    return {
        **attention(config),
        **query_key_norms(config),
        **_norms(config),
        "mlp.gate.weight": (count, hidden),
        "mlp.experts.gate_up_proj": (count, 2 * inner, hidden),
        "mlp.experts.down_proj": (count, hidden, inner),
    }


CHECKPOINTS = (
    TinyCheckpoint("mixtral", "llama2", _mixtral(), shapes=partial(decoder_shapes, layer=_mixtral_layer)),
    TinyCheckpoint(
        "qwen3_moe",
        "qwen",
        _qwen3_moe(num_experts=6),
        {"eos_token_id": [619, 617], "top_k": 20},
        shards=2,
        shapes=partial(decoder_shapes, layer=_qwen3_moe_layer),
    ),
    TinyCheckpoint(
        "qwen3_moe-fused",
        "small",
        _qwen3_moe(num_local_experts=4, num_experts_per_tok=2, **SMALL_TOKENS),
        shapes=partial(decoder_shapes, layer=_fused_layer),
    ),
)
