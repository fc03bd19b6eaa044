"""Tiny checkpoints of Llama's layout whose RoPE is scaled for a context beyond that of the golden sequences' start."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.tiny.checkpoint import SMALL_TOKENS, TinyCheckpoint, base_config, published
from tests.tiny.shapes import Config, Shapes, decoder_shapes, feed_forward, llama_layer, query_key_norms

# fast frequencies stay, slow ones are stretched, and a few pairs of dimensions lie between
YARN_ROPE: dict[str, Any] = {"factor": 8.0, "original_max_position_embeddings": 64, "rope_type": "yarn"}
LONGROPE: dict[str, Any] = {
    "attention_factor": 1.25,
    "long_factor": [1.0 + pair / 4 for pair in range(32)],
    "original_max_position_embeddings": 48,
    "rope_type": "longrope",
    "short_factor": [1.0] * 32,
}


def _llama(rope: dict[str, Any]) -> dict[str, Any]:
    config = {**SMALL_TOKENS, "model_type": "llama", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    return base_config("LlamaForCausalLM", {**config, "rope_parameters": {"rope_theta": 10000.0, **rope}})


def _ministral3() -> dict[str, Any]:
    """Queries grow with every 32 tokens. The betas are not those that llama.cpp takes unless told."""
    rope = {
        **YARN_ROPE,
        "beta_fast": 8.0,
        "beta_slow": 0.5,
        "llama_4_scaling_beta": 0.4,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 1000000.0,
    }
    defaults = {"head_dim": 128, "model_type": "ministral3", "rope_parameters": rope, "sliding_window": None}
    return base_config("Ministral3ForCausalLM", {**defaults, **SMALL_TOKENS})


def _mistral3() -> dict[str, Any]:
    """As Ministral 3 is published: below a vision tower, by the names that transformers 4 gave tensors."""
    text = {name: value for name, value in _ministral3().items() if name not in ("architectures", "dtype")}
    vision = {
        "head_dim": 8,
        "hidden_size": 16,
        "image_size": 28,
        "intermediate_size": 48,
        "model_type": "pixtral",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "patch_size": 14,
    }
    return {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "image_token_index": 10,
        "model_type": "mistral3",
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "text_config": text,
        "tie_word_embeddings": False,
        "transformers_version": "5.23.0",
        "vision_config": vision,
        "vision_feature_layer": -1,
    }


def _mistral3_shapes(config: Config) -> Shapes:
    text, vision = config["text_config"], config["vision_config"]
    hidden, inner, merged = vision["hidden_size"], vision["intermediate_size"], config["spatial_merge_size"] ** 2
    layer: Shapes = {
        "attention_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
        **feed_forward(hidden, inner, "feed_forward"),
        **{f"attention.{name}_proj.weight": (hidden, hidden) for name in "kqvo"},
    }
    return {
        **{f"language_model.{name}": shape for name, shape in decoder_shapes(text).items()},
        **{f"vision_tower.transformer.layers.0.{name}": shape for name, shape in layer.items()},
        "vision_tower.ln_pre.weight": (hidden,),
        "vision_tower.patch_conv.weight": (hidden, 3, vision["patch_size"], vision["patch_size"]),
        "multi_modal_projector.linear_1.weight": (text["hidden_size"], hidden),
        "multi_modal_projector.linear_2.weight": (text["hidden_size"], text["hidden_size"]),
        "multi_modal_projector.norm.weight": (hidden,),
        "multi_modal_projector.patch_merger.merging_layer.weight": (hidden, hidden * merged),
    }


def _ministral() -> dict[str, Any]:
    """Sliding layers between full ones, as transformers 5 reads Ministral 8B; within the window they are the same."""
    return base_config(
        "MinistralForCausalLM",
        {
            **SMALL_TOKENS,
            "head_dim": 128,
            "layer_types": ["full_attention", "sliding_attention"],
            "model_type": "ministral",
            "rope_parameters": {"rope_theta": 100000000.0, "rope_type": "default"},
            "sliding_window": 512,
        },
    )


def _qwen3() -> dict[str, Any]:
    """As the model cards of Qwen say how to extend the context."""
    return published(
        base_config(
            "Qwen3ForCausalLM",
            {
                **SMALL_TOKENS,
                "model_type": "qwen3",
                "attention_bias": False,
                "head_dim": 64,
                "max_window_layers": 2,
                "rope_scaling": YARN_ROPE,
                "rope_theta": 1000000.0,
                "sliding_window": None,
                "use_sliding_window": False,
            },
        )
    )


def _qwen3_layer(config: Config) -> Shapes:
    return {**llama_layer(config), **query_key_norms(config)}


CHECKPOINTS = (
    TinyCheckpoint("llama-yarn", "small", _llama({**YARN_ROPE, "attention_factor": 0.75})),
    TinyCheckpoint("llama-longrope", "small", _llama(LONGROPE)),
    TinyCheckpoint("qwen3-yarn", "small", _qwen3(), shapes=partial(decoder_shapes, layer=_qwen3_layer)),
    TinyCheckpoint("ministral", "small", _ministral()),
    TinyCheckpoint("ministral3", "small", _ministral3()),
    TinyCheckpoint("mistral3", "small", _mistral3(), shapes=_mistral3_shapes),
)
