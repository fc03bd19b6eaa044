"""The shapes of a checkpoint's tensors, by the names that transformers gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]
Config = Mapping[str, Any]


def decoder_shapes(config: Config, *, layer: Callable[[Config], Shapes] | None = None) -> Shapes:
    """A decoder of equal layers; `layer` gives the tensors of one of them, by default those of Llama."""
    hidden = config["hidden_size"]
    shapes: Shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    tensors = (layer or llama_layer)(config)
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in tensors.items()}
    return shapes


def llama_layer(config: Config) -> Shapes:
    hidden = config["hidden_size"]
    return {
        **attention(config),
        **feed_forward(hidden, config["intermediate_size"]),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }


def attention(config: Config) -> Shapes:
    hidden, head_dim = config["hidden_size"], head_dim_of(config)
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    return {
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
    }


def query_key_norms(config: Config) -> Shapes:
    return {f"self_attn.{name}_norm.weight": (head_dim_of(config),) for name in "qk"}


def feed_forward(hidden: int, inner: int, prefix: str = "mlp") -> Shapes:
    return {
        f"{prefix}.down_proj.weight": (hidden, inner),
        f"{prefix}.gate_proj.weight": (inner, hidden),
        f"{prefix}.up_proj.weight": (inner, hidden),
    }


def experts(
    hidden: int, inner: int, count: int, *, prefix: str = "mlp", names: str = "gate_proj up_proj down_proj"
) -> Shapes:
    """A router, and experts with tensors of their own."""
    gate, up, down = names.split()
    shapes: Shapes = {f"{prefix}.gate.weight": (count, hidden)}
    for number in range(count):
        expert = f"{prefix}.experts.{number}"
        shapes |= {f"{expert}.{name}.weight": (inner, hidden) for name in (gate, up)}
        shapes[f"{expert}.{down}.weight"] = (hidden, inner)
    return shapes


def head_dim_of(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
