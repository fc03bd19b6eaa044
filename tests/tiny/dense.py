"""Tiny checkpoints of smaller dense families, each with what sets it apart from Llama."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.tiny.checkpoint import SMALL_TOKENS, TinyCheckpoint, base_config, published
from tests.tiny.shapes import Config, Shapes, attention, decoder_shapes, feed_forward, head_dim_of, llama_layer


def plain_rope(theta: float) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default"}


def _smollm3(**changes: Any) -> dict[str, Any]:
    """Enough layers for one without RoPE between others."""
    layers = 6
    defaults: dict[str, Any] = {
        "model_type": "smollm3",
        "attention_bias": False,
        "layer_types": ["full_attention"] * layers,
        "mlp_bias": False,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0, 1, 1],
        "num_hidden_layers": layers,
        "rms_norm_eps": 1e-6,
        "rope_parameters": plain_rope(2000000.0),
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        **SMALL_TOKENS,
    }
    return base_config("SmolLM3ForCausalLM", {**defaults, **changes})


def _phi3(**changes: Any) -> dict[str, Any]:
    """As published for Phi-3 mini 4k: full heads, and a sliding window, which llama.cpp does not have."""
    defaults: dict[str, Any] = {
        "model_type": "phi3",
        "attention_bias": False,
        "embd_pdrop": 0.0,
        "num_key_value_heads": 4,
        "original_max_position_embeddings": 512,
        "resid_pdrop": 0.0,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": 512,
        **SMALL_TOKENS,
    }
    return published(base_config("Phi3ForCausalLM", {**defaults, **changes}))


def _phi3_layer(config: Config) -> Shapes:
    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], head_dim_of(config)
    heads = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    return {
        "input_layernorm.weight": (hidden,),
        "mlp.down_proj.weight": (hidden, inner),
        "mlp.gate_up_proj.weight": (2 * inner, hidden),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.o_proj.weight": (hidden, config["num_attention_heads"] * head_dim),
        "self_attn.qkv_proj.weight": (heads * head_dim, hidden),
    }


def _longrope(original: int) -> dict[str, Any]:
    """Three quarters of each head of 64 are turned, 24 pairs, by factors of their own on either side of `original`."""
    return {
        "long_factor": [1.0 + pair / 3 for pair in range(24)],
        "original_max_position_embeddings": original,
        "partial_rotary_factor": 0.75,
        "rope_theta": 10000.0,
        "rope_type": "longrope",
        "short_factor": [1.0 + pair / 24 for pair in range(24)],
    }


def _phi4(original: int, context_tokens: int) -> dict[str, Any]:
    """As transformers 5 saves Phi-4 mini: grouped heads turned in part, tied embeddings."""
    return base_config(
        "Phi3ForCausalLM",
        {
            "model_type": "phi3",
            "attention_bias": False,
            "embd_pdrop": 0.0,
            "max_position_embeddings": context_tokens,
            "original_max_position_embeddings": original,
            "resid_pdrop": 0.0,
            "rope_parameters": _longrope(original),
            "sliding_window": 4096,
            "tie_word_embeddings": True,
            **SMALL_TOKENS,
        },
    )


def olmo2_layer(config: Config) -> Shapes:
    hidden, head_dim = config["hidden_size"], head_dim_of(config)
    return {
        **attention(config),
        **feed_forward(hidden, config["intermediate_size"]),
        "post_attention_layernorm.weight": (hidden,),
        "post_feedforward_layernorm.weight": (hidden,),
        "self_attn.k_norm.weight": (config["num_key_value_heads"] * head_dim,),
        "self_attn.q_norm.weight": (config["num_attention_heads"] * head_dim,),
    }


def _starcoder2_layer(config: Config) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    norms = {f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    network = {"mlp.c_fc.weight": (inner, hidden), "mlp.c_proj.weight": (hidden, inner)}
    weights: Shapes = {**attention(config), **norms, **network}
    return weights | {name.replace(".weight", ".bias"): shape[:1] for name, shape in weights.items()}


def _starcoder2_shapes(config: Config) -> Shapes:
    return {**decoder_shapes(config, layer=_starcoder2_layer), "model.norm.bias": (config["hidden_size"],)}


def _starcoder2() -> dict[str, Any]:
    config = base_config(
        "Starcoder2ForCausalLM",
        {
            **SMALL_TOKENS,
            "model_type": "starcoder2",
            "embedding_dropout": 0.0,
            "hidden_act": "gelu_pytorch_tanh",
            "intermediate_size": 1024,
            "norm_epsilon": 1e-5,
            "residual_dropout": 0.0,
            "rope_parameters": plain_rope(999999.4420358813),
            "sliding_window": 512,
            "tie_word_embeddings": True,
            "use_bias": True,
        },
    )
    del config["rms_norm_eps"]
    return config


def _glm4_layer(config: Config) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    norms = ("input", "post_attention", "post_mlp", "post_self_attn")
    return {
        **attention(config),
        **attention_biases(config),
        **{f"{name}_layernorm.weight": (hidden,) for name in norms},
        "mlp.down_proj.weight": (hidden, inner),
        "mlp.gate_up_proj.weight": (2 * inner, hidden),
    }


def _stablelm() -> dict[str, Any]:
    config = base_config(
        "StableLmForCausalLM",
        {
            **SMALL_TOKENS,
            "hidden_dropout": 0.0,
            "layer_norm_eps": 1e-5,
            "model_type": "stablelm",
            "partial_rotary_factor": 0.25,
            "qk_layernorm": False,
            "rope_theta": 10000,
            "use_parallel_residual": False,
            "use_qkv_bias": True,
        },
    )
    del config["rms_norm_eps"]
    return published(config)


def _stablelm_layer(config: Config) -> Shapes:
    biases = {f"{name}_layernorm.bias": (config["hidden_size"],) for name in ("input", "post_attention")}
    return {**llama_layer(config), **attention_biases(config), **biases}


def _stablelm_shapes(config: Config) -> Shapes:
    return {**decoder_shapes(config, layer=_stablelm_layer), "model.norm.bias": (config["hidden_size"],)}


def attention_biases(config: Config) -> Shapes:
    return {
        name.replace(".weight", ".bias"): shape[:1] for name, shape in attention(config).items() if "o_proj" not in name
    }


CHECKPOINTS = (
    TinyCheckpoint("phi3", "small", _phi3(), shapes=partial(decoder_shapes, layer=_phi3_layer)),
    # all of both golden sequences is beyond the original context, or within it
    TinyCheckpoint("phi3-longrope", "small", _phi4(48, 512), shapes=partial(decoder_shapes, layer=_phi3_layer)),
    TinyCheckpoint("phi3-longrope-short", "small", _phi4(512, 2048), shapes=partial(decoder_shapes, layer=_phi3_layer)),
    TinyCheckpoint("smollm3", "small", _smollm3()),
    TinyCheckpoint(
        "olmo2",
        "small",
        base_config(
            "Olmo2ForCausalLM",
            {
                **SMALL_TOKENS,
                "attention_bias": False,
                "model_type": "olmo2",
                "rms_norm_eps": 1e-6,
                "rope_parameters": plain_rope(500000.0),
            },
        ),
        shapes=partial(decoder_shapes, layer=olmo2_layer),
    ),
    TinyCheckpoint(
        "granite",
        "small",
        base_config(
            "GraniteForCausalLM",
            {
                **SMALL_TOKENS,
                "attention_bias": False,
                "attention_multiplier": 0.25,
                "embedding_multiplier": 1.5,
                "logits_scaling": 3.0,
                "mlp_bias": False,
                "model_type": "granite",
                "residual_multiplier": 0.5,
                "rope_parameters": plain_rope(10000.0),
                "tie_word_embeddings": True,
            },
        ),
    ),
    TinyCheckpoint("starcoder2", "small", _starcoder2(), shapes=_starcoder2_shapes),
    TinyCheckpoint(
        "glm4",
        "small",
        base_config(
            "Glm4ForCausalLM",
            {
                **SMALL_TOKENS,
                "attention_bias": True,
                "head_dim": 128,
                "model_type": "glm4",
                "rms_norm_eps": 1.5625e-7,
                "rope_parameters": {**plain_rope(10000.0), "partial_rotary_factor": 0.5},
            },
        ),
        shapes=partial(decoder_shapes, layer=_glm4_layer),
    ),
    TinyCheckpoint("stablelm", "small", _stablelm(), shapes=_stablelm_shapes),
    TinyCheckpoint(
        "ernie4_5",
        "small",
        base_config(
            "Ernie4_5ForCausalLM",
            {
                **SMALL_TOKENS,
                "head_dim": 128,
                "model_type": "ernie4_5",
                "rope_parameters": plain_rope(500000.0),
                "tie_word_embeddings": True,
                "use_bias": False,
            },
        ),
    ),
)
