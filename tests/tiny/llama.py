"""Tiny checkpoints of Llama and what copies its layout."""

from __future__ import annotations

from typing import Any

from tests.tiny.checkpoint import TinyCheckpoint, base_config, published


def _llama(**changes: Any) -> dict[str, Any]:
    defaults = {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    return base_config("LlamaForCausalLM", {**defaults, **changes})


# wavelengths between 16 and 64 tokens are interpolated and longer ones stretched, well within a golden sequence
LLAMA3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
LLAMA2_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": 666}
LLAMA3_TOKENS = {"bos_token_id": 616, "eos_token_id": [617, 621, 622], "vocab_size": 624}

CHECKPOINTS = (
    # as the first Llama 2 releases: no rope_theta, no grouped heads
    TinyCheckpoint(
        "llama2",
        "llama2",
        published(_llama(num_key_value_heads=4, rope_scaling=None, **LLAMA2_TOKENS)),
        {"bos_token_id": 1, "do_sample": True, "eos_token_id": 2, "temperature": 0.6, "top_p": 0.9},
    ),
    # enough layers that Q4_K_M's choice between Q4_K and Q6_K follows its pattern
    TinyCheckpoint(
        "llama3",
        "llama3",
        _llama(
            head_dim=64,
            num_hidden_layers=8,
            rope_parameters={**LLAMA3_ROPE, "rope_theta": 500000.0},
            **LLAMA3_TOKENS,
        ),
        {"bos_token_id": 616, "do_sample": True, "eos_token_id": [617, 621, 622], "temperature": 0.6},
        shards=3,
    ),
    TinyCheckpoint(
        "llama3-published",
        "llama3",
        published(
            _llama(
                num_key_value_heads=1,
                rope_scaling=LLAMA3_ROPE,
                rope_theta=500000.0,
                tie_word_embeddings=True,
                **LLAMA3_TOKENS,
            )
        ),
    ),
    TinyCheckpoint(
        "llama-linear",
        "mistral",
        published(_llama(rope_scaling={"factor": 4.0, "type": "linear"}, rope_theta=10000.0, **LLAMA2_TOKENS)),
    ),
    # rows that K-quants cannot take (288), and rows that no quantization can take (336)
    TinyCheckpoint(
        "llama-uneven",
        "llama2",
        _llama(
            hidden_size=288,
            intermediate_size=336,
            num_attention_heads=6,
            num_key_value_heads=3,
            num_hidden_layers=3,
            head_dim=48,
            rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
            **LLAMA2_TOKENS,
        ),
    ),
    TinyCheckpoint(
        "smollm2",
        "smollm2",
        published(
            _llama(
                bos_token_id=1,
                eos_token_id=2,
                hidden_size=288,
                intermediate_size=768,
                num_attention_heads=9,
                num_hidden_layers=3,
                num_key_value_heads=3,
                pad_token_id=2,
                rope_interleaved=False,
                rope_scaling=None,
                rope_theta=100000,
                tie_word_embeddings=True,
                vocab_size=608,
            )
        ),
    ),
    TinyCheckpoint(
        "mistral",
        "mistral",
        base_config(
            "MistralForCausalLM",
            {
                **LLAMA2_TOKENS,
                "head_dim": 64,
                "model_type": "mistral",
                "num_attention_heads": 8,
                "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
                "sliding_window": None,
            },
        ),
    ),
)
