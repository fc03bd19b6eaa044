"""Tiny checkpoints of Qwen."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.tiny.checkpoint import SMALL_TOKENS, TinyCheckpoint, base_config, published
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


def _qwen3_5() -> dict[str, Any]:
    """Two value heads to each key head of the delta nets, and RoPE on a quarter of the dimensions."""
    return base_config(
        "Qwen3_5ForCausalLM",
        {
            "attention_bias": False,
            **SMALL_TOKENS,
            "head_dim": 128,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 64,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_value_head_dim": 64,
            "model_type": "qwen3_5_text",
            "num_hidden_layers": 3,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": [6, 5, 5],
                "partial_rotary_factor": 0.25,
                "rope_theta": 10000.0,
                "rope_type": "default",
            },
        },
    )


def _qwen3_5_multimodal() -> dict[str, Any]:
    """As published: the language model's configuration inside, and a vision tower."""
    text = {name: value for name, value in _qwen3_5().items() if name not in ("architectures", "dtype")}
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "model_type": "qwen3_5_vision",
        "num_heads": 2,
        "num_position_embeddings": 16,
        "out_hidden_size": text["hidden_size"],
        "patch_size": 4,
    }
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "dtype": "bfloat16",
        "image_token_id": 5,
        "model_type": "qwen3_5",
        "text_config": {**text, "layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4},
        "tie_word_embeddings": False,
        "transformers_version": "5.23.0",
        "video_token_id": 6,
        "vision_config": vision,
        "vision_end_token_id": 8,
        "vision_start_token_id": 7,
    }


def _qwen3_5_multimodal_shapes(config: Config) -> Shapes:
    language = _qwen3_5_shapes(config["text_config"])
    renamed = {name.replace("model.", "model.language_model.", 1): shape for name, shape in language.items()}
    vision = _qwen3_5_vision(config["vision_config"])
    return {**renamed, **{f"model.visual.{name}": shape for name, shape in vision.items()}}


def _qwen3_5_vision(config: Config) -> Shapes:
    hidden, inner, merged = config["hidden_size"], config["intermediate_size"], 4 * config["hidden_size"]
    weights: Shapes = {
        "blocks.0.attn.proj": (hidden, hidden),
        "blocks.0.attn.qkv": (3 * hidden, hidden),
        "blocks.0.mlp.linear_fc1": (inner, hidden),
        "blocks.0.mlp.linear_fc2": (hidden, inner),
        "blocks.0.norm1": (hidden,),
        "blocks.0.norm2": (hidden,),
        "merger.linear_fc1": (merged, merged),
        "merger.linear_fc2": (config["out_hidden_size"], merged),
        "merger.norm": (hidden,),
        "patch_embed.proj": (hidden, 3, 2, config["patch_size"], config["patch_size"]),
    }
    shapes: Shapes = {"pos_embed.weight": (config["num_position_embeddings"], hidden)}
    for name, shape in weights.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _qwen3_5_shapes(config: Config) -> Shapes:
    shapes = decoder_shapes(config)
    for number, kind in enumerate(config["layer_types"]):
        layer = f"model.layers.{number}"
        if kind == "full_attention":
            shapes |= {f"{layer}.{name}": shape for name, shape in query_key_norms(config).items()}
            rows, columns = shapes[f"{layer}.self_attn.q_proj.weight"]
            shapes[f"{layer}.self_attn.q_proj.weight"] = (2 * rows, columns)
        else:
            shapes = {name: shape for name, shape in shapes.items() if not name.startswith(f"{layer}.self_attn.")}
            shapes |= {f"{layer}.linear_attn.{name}": shape for name, shape in _delta_net(config).items()}
    return shapes


def _delta_net(config: Config) -> Shapes:
    hidden, heads, width = config["hidden_size"], config["linear_num_value_heads"], config["linear_value_head_dim"]
    values = heads * width
    mixed = 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"] + values
    return {
        "A_log": (heads,),
        "conv1d.weight": (mixed, 1, config["linear_conv_kernel_dim"]),
        "dt_bias": (heads,),
        "in_proj_a.weight": (heads, hidden),
        "in_proj_b.weight": (heads, hidden),
        "in_proj_qkv.weight": (mixed, hidden),
        "in_proj_z.weight": (values, hidden),
        "norm.weight": (width,),
        "out_proj.weight": (hidden, values),
    }


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
    TinyCheckpoint(
        "qwen3_5",
        "small",
        _qwen3_5(),
        shapes=_qwen3_5_shapes,
        norm_center=0.0,
    ),
    TinyCheckpoint(
        "qwen3_5-multimodal",
        "small",
        _qwen3_5_multimodal(),
        shapes=_qwen3_5_multimodal_shapes,
        norm_center=0.0,
    ),
)
