"""Tiny checkpoints of Gemma."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.tiny.checkpoint import CONTEXT_TOKENS, SMALL_TOKENS, TinyCheckpoint, base_config, published
from tests.tiny.shapes import Config, Shapes, attention, decoder_shapes, feed_forward, llama_layer, query_key_norms

GEMMA3_PADDING = 17
_TOKENS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "vocab_size": 679}


def _gemma() -> dict[str, Any]:
    """As published: an activation under the name of another."""
    return published(
        base_config(
            "GemmaForCausalLM",
            {
                **_TOKENS,
                "head_dim": 128,
                "hidden_act": "gelu",
                "intermediate_size": 768,
                "model_type": "gemma",
                "num_key_value_heads": 1,
                "rms_norm_eps": 1e-6,
                "rope_scaling": None,
                "rope_theta": 10000.0,
                "tie_word_embeddings": True,
            },
        )
    )


def _gemma2(**changes: Any) -> dict[str, Any]:
    """Soft caps and a window small enough to be felt by a tiny model. Heads are wider than hidden / heads."""
    defaults: dict[str, Any] = {
        "model_type": "gemma2",
        "attention_bias": False,
        "attn_logit_softcapping": 6.0,
        **_TOKENS,
        "final_logit_softcapping": 4.0,
        "head_dim": 128,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "intermediate_size": 768,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": 128,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "sliding_window": 16,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": None,
    }
    return base_config("Gemma2ForCausalLM", {**defaults, **changes})


def _gemma2_layer(config: Config) -> Shapes:
    norms = {f"{side}_feedforward_layernorm.weight": (config["hidden_size"],) for side in ("pre", "post")}
    return {**llama_layer(config), **norms}


_GEMMA3_LAYERS = {
    **_TOKENS,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 128,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 256,
    "intermediate_size": 768,
    "max_position_embeddings": CONTEXT_TOKENS,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "query_pre_attn_scalar": 128,
    "rms_norm_eps": 1e-6,
    "sliding_window": 16,
}


_GEMMA3_GAINS = {"embed_tokens": 1.0}


def _gemma3() -> dict[str, Any]:
    """Kinds of layers in no pattern, and a RoPE for each kind, short enough to be felt."""
    changes = {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
        "model_type": "gemma3_text",
        "rope_parameters": {
            "full_attention": {"rope_theta": 5000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 500.0, "rope_type": "default"},
        },
        "tie_word_embeddings": True,
        "use_bidirectional_attention": False,
    }
    config = base_config("Gemma3ForCausalLM", {**_GEMMA3_LAYERS, **changes})
    del config["hidden_act"]
    return config


def _gemma3_multimodal() -> dict[str, Any]:
    """As published: a vision tower, scaled RoPE on full layers, and embeddings for more tokens than there are."""
    text = {
        **_GEMMA3_LAYERS,
        "model_type": "gemma3_text",
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"factor": 2.0, "rope_type": "linear"},
        "rope_theta": 100.0,
        "sliding_window_pattern": 3,
        "vocab_size": _TOKENS["vocab_size"] + GEMMA3_PADDING,
    }
    vision = {
        "hidden_size": 32,
        "image_size": 28,
        "intermediate_size": 48,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "patch_size": 14,
        "vision_use_head": False,
    }
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 9,
        "eoi_token_index": 10,
        "eos_token_id": [1, 8],
        "image_token_index": _TOKENS["vocab_size"],
        "mm_tokens_per_image": 1,
        "model_type": "gemma3",
        "text_config": text,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0",
        "vision_config": vision,
    }


def _gemma2_layer(config: Config) -> Shapes:
    norms = {f"{side}_feedforward_layernorm.weight": (config["hidden_size"],) for side in ("pre", "post")}
    return {**llama_layer(config), **norms}


def _gemma3_layer(config: Config) -> Shapes:
    return {**_gemma2_layer(config), **query_key_norms(config)}


def _gemma3_multimodal_shapes(config: Config) -> Shapes:
    text = {**config["text_config"], "tie_word_embeddings": True}
    language = decoder_shapes(text, layer=_gemma3_layer)
    return {
        **{f"language_model.{name}": shape for name, shape in language.items()},
        **_siglip_shapes(config["vision_config"]),
        "multi_modal_projector.mm_input_projection_weight": (
            config["vision_config"]["hidden_size"],
            text["hidden_size"],
        ),
        "multi_modal_projector.mm_soft_emb_norm.weight": (config["vision_config"]["hidden_size"],),
    }


def _siglip_shapes(config: Config) -> Shapes:
    hidden, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    patches = (config["image_size"] // patch) ** 2
    layer = {
        **{f"layer_norm{number}": (hidden,) for number in (1, 2)},
        "mlp.fc1": (inner, hidden),
        "mlp.fc2": (hidden, inner),
        **{f"self_attn.{name}_proj": (hidden, hidden) for name in ("k", "out", "q", "v")},
    }
    weights: Shapes = {
        "embeddings.patch_embedding": (hidden, 3, patch, patch),
        **{f"encoder.layers.0.{name}": shape for name, shape in layer.items()},
        "post_layernorm": (hidden,),
    }
    shapes: Shapes = {"embeddings.position_embedding.weight": (patches, hidden)}
    for name, shape in weights.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {f"vision_tower.vision_model.{name}": shape for name, shape in shapes.items()}


def _gemma4(**changes: Any) -> dict[str, Any]:
    """As the smaller ones: embeddings per layer, and layers at the end that share keys and values and are wider."""
    config = base_config(
        "Gemma4ForCausalLM",
        {
            **SMALL_TOKENS,
            "attention_bias": False,
            "attention_k_eq_v": False,
            "enable_moe_block": False,
            "final_logit_softcapping": 6.0,
            "global_head_dim": 128,
            "head_dim": 64,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size_per_layer_input": 64,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "model_type": "gemma4_text",
            "num_global_key_value_heads": None,
            "num_hidden_layers": 6,
            "num_kv_shared_layers": 2,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 100.0, "rope_type": "proportional"},
                "sliding_attention": {"rope_theta": 500.0, "rope_type": "default"},
            },
            "sliding_window": 16,
            "tie_word_embeddings": True,
            "use_bidirectional_attention": None,
            "use_double_wide_mlp": True,
            "vocab_size_per_layer_input": SMALL_TOKENS["vocab_size"],
            **changes,
        },
    )
    del config["hidden_act"]
    return config


# attention is not scaled by the width of a head: its norms have to do it
_GEMMA4_GAINS = {"embed_tokens": 1.0, "q_norm": 0.3, "k_norm": 0.3}
_GEMMA4_DENSE = {
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "num_global_key_value_heads": 1,
    "num_hidden_layers": 3,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
}


def _gemma4_multimodal() -> dict[str, Any]:
    """As published, and as the larger ones: full layers with fewer heads, whose keys are their values."""
    text = {name: value for name, value in _gemma4(**_GEMMA4_DENSE).items() if name not in ("architectures", "dtype")}
    vision = {
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "model_type": "gemma4_vision",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "patch_size": 4,
        "position_embedding_size": 16,
    }
    return {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "audio_config": None,
        "dtype": "bfloat16",
        "eos_token_id": SMALL_TOKENS["eos_token_id"],
        "model_type": "gemma4",
        "text_config": text,
        "transformers_version": "5.23.0",
        "vision_config": vision,
    }


def _gemma4_multimodal_shapes(config: Config) -> Shapes:
    text, vision = config["text_config"], config["vision_config"]
    hidden, inner, width = vision["hidden_size"], vision["intermediate_size"], vision["head_dim"]
    layer = {**attention(vision), **feed_forward(hidden, inner)}
    weights: Shapes = {
        **{f"encoder.layers.0.{name.replace('.weight', '.linear.weight')}": shape for name, shape in layer.items()},
        **{f"encoder.layers.0.self_attn.{name}_norm.weight": (width,) for name in "qk"},
        **{
            f"encoder.layers.0.{name}_layernorm.weight": (hidden,)
            for name in ("input", "post_attention", "pre_feedforward", "post_feedforward")
        },
        "patch_embedder.input_proj.weight": (hidden, 3 * vision["patch_size"] ** 2),
        "patch_embedder.position_embedding_table": (2, vision["position_embedding_size"], hidden),
    }
    language = _gemma4_shapes(text)
    return {
        "model.embed_vision.embedding_projection.weight": (text["hidden_size"], hidden),
        **{name.replace("model.", "model.language_model.", 1): shape for name, shape in language.items()},
        **{f"model.vision_tower.{name}": shape for name, shape in weights.items()},
    }


def _gemma4_shapes(config: Config) -> Shapes:
    hidden, layers, per_layer = (
        config["hidden_size"],
        config["num_hidden_layers"],
        config["hidden_size_per_layer_input"],
    )
    shapes: Shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if per_layer:
        shapes |= {
            "model.embed_tokens_per_layer.weight": (config["vocab_size"], layers * per_layer),
            "model.per_layer_model_projection.weight": (layers * per_layer, hidden),
            "model.per_layer_projection_norm.weight": (per_layer,),
        }
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in _gemma4_layer(config, number).items()}
    return shapes


def _gemma4_layer(config: Config, number: int) -> Shapes:
    hidden, per_layer = config["hidden_size"], config["hidden_size_per_layer_input"]
    is_full = config["layer_types"][number] == "full_attention"
    is_shared = number >= config["num_hidden_layers"] - config["num_kv_shared_layers"]
    width = config["global_head_dim"] if is_full else config["head_dim"]
    heads = (is_full and config["num_global_key_value_heads"]) or config["num_key_value_heads"]
    layer = attention({**config, "head_dim": width, "num_key_value_heads": heads})
    layer |= query_key_norms({"head_dim": width})
    if is_full and config["attention_k_eq_v"]:
        del layer["self_attn.v_proj.weight"]
    if is_shared:
        layer = {name: shape for name, shape in layer.items() if "k_" not in name and "v_" not in name}
    is_wide = is_shared and config["use_double_wide_mlp"]
    layer |= feed_forward(hidden, config["intermediate_size"] * (2 if is_wide else 1))
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    layer |= {f"{name}_layernorm.weight": (hidden,) for name in norms}
    if per_layer:
        layer |= {
            "per_layer_input_gate.weight": (per_layer, hidden),
            "per_layer_projection.weight": (hidden, per_layer),
            "post_per_layer_input_norm.weight": (hidden,),
        }
    return {**layer, "layer_scalar": (1,)}


CHECKPOINTS = (
    # embeddings are scaled up, and the sums of its layers are not normalized: they would be lost beside them
    TinyCheckpoint(
        "gemma", "gemma2", _gemma(), norm_center=0.0, gains={"embed_tokens": 1.0, "o_proj": 3.0, "down_proj": 6.0}
    ),
    TinyCheckpoint(
        "gemma2",
        "gemma2",
        _gemma2(),
        {"bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 8], "pad_token_id": 0},
        shapes=partial(decoder_shapes, layer=_gemma2_layer),
        norm_center=0.0,
    ),
    TinyCheckpoint(
        "gemma3",
        "gemma2",
        _gemma3(),
        {"bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 8], "pad_token_id": 0},
        shapes=partial(decoder_shapes, layer=_gemma3_layer),
        norm_center=0.0,
        gains=_GEMMA3_GAINS,
    ),
    TinyCheckpoint(
        "gemma3-multimodal",
        "gemma2",
        _gemma3_multimodal(),
        {"bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 8], "pad_token_id": 0},
        shapes=_gemma3_multimodal_shapes,
        norm_center=0.0,
        gains=_GEMMA3_GAINS,
        padding_tokens=GEMMA3_PADDING,
    ),
    TinyCheckpoint("gemma4", "small", _gemma4(), shapes=_gemma4_shapes, gains=_GEMMA4_GAINS),
    TinyCheckpoint(
        "gemma4-dense", "small", _gemma4_multimodal(), shapes=_gemma4_multimodal_shapes, gains=_GEMMA4_GAINS
    ),
)
