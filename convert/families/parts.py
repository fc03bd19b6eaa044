"""Rules that many families share: the tensors and keys of a pre-norm decoder."""

from __future__ import annotations

from typing import Any

from gguf.constants import MODEL_TENSOR

from convert.config_values import flag, positive_integer
from convert.families.record import KeyRule, LeftOut, Presence, TensorRule
from convert.hyperparameters import Hyperparameters
from convert.transforms import Transform
from edge.gguf_format import ValueType


def per_block(target: MODEL_TENSOR, name: str, *shape: str, **rest: Any) -> TensorRule:
    return TensorRule(target, f"model.layers.{{block}}.{name}", shape, **rest)


def attention(transform: Transform | None) -> tuple[TensorRule, ...]:
    return (
        per_block(MODEL_TENSOR.ATTN_Q, "self_attn.q_proj.weight", "query", "hidden", transform=transform),
        per_block(MODEL_TENSOR.ATTN_K, "self_attn.k_proj.weight", "key_value", "hidden", transform=transform),
        per_block(MODEL_TENSOR.ATTN_V, "self_attn.v_proj.weight", "key_value", "hidden"),
        per_block(MODEL_TENSOR.ATTN_OUT, "self_attn.o_proj.weight", "hidden", "query"),
    )


def attention_biases(transform: Transform | None, presence: Presence) -> tuple[TensorRule, ...]:
    rest: dict[str, Any] = {"presence": presence}
    return (
        per_block(MODEL_TENSOR.ATTN_Q, "self_attn.q_proj.bias", "query", transform=transform, **rest),
        per_block(MODEL_TENSOR.ATTN_K, "self_attn.k_proj.bias", "key_value", transform=transform, **rest),
        per_block(MODEL_TENSOR.ATTN_V, "self_attn.v_proj.bias", "key_value", **rest),
    )


QUERY_KEY_NORMS = (
    per_block(MODEL_TENSOR.ATTN_Q_NORM, "self_attn.q_norm.weight", "head_dim"),
    per_block(MODEL_TENSOR.ATTN_K_NORM, "self_attn.k_norm.weight", "head_dim"),
)
EMBEDDING = TensorRule(MODEL_TENSOR.TOKEN_EMBD, "model.embed_tokens.weight", ("vocabulary", "hidden"))
OUTPUT = TensorRule(MODEL_TENSOR.OUTPUT, "lm_head.weight", ("vocabulary", "hidden"), presence="untied")
OUTPUT_NORM = TensorRule(MODEL_TENSOR.OUTPUT_NORM, "model.norm.weight", ("hidden",))
ATTENTION_NORM = per_block(MODEL_TENSOR.ATTN_NORM, "input_layernorm.weight", "hidden")
FEED_FORWARD_NORM = per_block(MODEL_TENSOR.FFN_NORM, "post_attention_layernorm.weight", "hidden")
FEED_FORWARD = (
    per_block(MODEL_TENSOR.FFN_GATE, "mlp.gate_proj.weight", "feed_forward", "hidden"),
    per_block(MODEL_TENSOR.FFN_UP, "mlp.up_proj.weight", "feed_forward", "hidden"),
    per_block(MODEL_TENSOR.FFN_DOWN, "mlp.down_proj.weight", "hidden", "feed_forward"),
)
GATE_UP = (
    per_block(MODEL_TENSOR.FFN_UP, "mlp.gate_up_proj.weight", "gate_up", "hidden"),
    per_block(MODEL_TENSOR.FFN_DOWN, "mlp.down_proj.weight", "hidden", "feed_forward"),
)
FEED_FORWARD_BIASES = (
    per_block(MODEL_TENSOR.FFN_GATE, "mlp.gate_proj.bias", "feed_forward", presence="optional"),
    per_block(MODEL_TENSOR.FFN_UP, "mlp.up_proj.bias", "feed_forward", presence="optional"),
    per_block(MODEL_TENSOR.FFN_DOWN, "mlp.down_proj.bias", "hidden", presence="optional"),
)


def decoder(*block: TensorRule) -> tuple[TensorRule, ...]:
    """A pre-norm decoder's tensors around those that differ between families."""
    return (EMBEDDING, ATTENTION_NORM, *block, *FEED_FORWARD, FEED_FORWARD_NORM, OUTPUT_NORM, OUTPUT)


def usable_context(shape: Hyperparameters) -> int:
    """Context up to which full attention equals the checkpoint's sliding window, for architectures without one."""
    if not shape.config.get("sliding_window") or not flag(shape.config, "use_sliding_window", default=True):
        return shape.context_tokens
    return min(shape.context_tokens, positive_integer(shape.config, "sliding_window"))


def heads_objection(shape: Hyperparameters) -> str | None:
    """For architectures whose attention is as wide as the model."""
    if shape.query != shape.hidden:
        return (
            f"{shape.heads} heads of {shape.head_dim} are not hidden_size {shape.hidden}, llama.cpp takes them for it"
        )
    return None


def own_output_objection(shape: Hyperparameters) -> str | None:
    """For architectures whose attention is as wide as the model, and whose output is never the embeddings."""
    if shape.tied_embeddings:
        return "tie_word_embeddings is true, llama.cpp needs an output of its own"
    return heads_objection(shape)


DECODER_KEYS = (
    KeyRule("block_count", ValueType.UINT32, lambda shape: shape.layers),
    KeyRule("context_length", ValueType.UINT32, usable_context),
    KeyRule("embedding_length", ValueType.UINT32, lambda shape: shape.hidden),
    KeyRule("feed_forward_length", ValueType.UINT32, lambda shape: shape.feed_forward),
    KeyRule("attention.head_count", ValueType.UINT32, lambda shape: shape.heads),
    KeyRule("attention.head_count_kv", ValueType.UINT32, lambda shape: shape.key_value_heads),
    KeyRule("attention.key_length", ValueType.UINT32, lambda shape: shape.head_dim),
    KeyRule("attention.value_length", ValueType.UINT32, lambda shape: shape.head_dim),
    KeyRule("attention.layer_norm_rms_epsilon", ValueType.FLOAT32, lambda shape: shape.norm_epsilon),
    KeyRule("vocab_size", ValueType.UINT32, lambda shape: shape.vocabulary),
)
FULL_CONTEXT_KEYS = (
    *(rule for rule in DECODER_KEYS if rule.key != "context_length"),
    KeyRule("context_length", ValueType.UINT32, lambda shape: shape.context_tokens),
)
LAYER_NORM_KEYS = (
    *(rule for rule in DECODER_KEYS if rule.key != "attention.layer_norm_rms_epsilon"),
    KeyRule("attention.layer_norm_epsilon", ValueType.FLOAT32, lambda shape: shape.norm_epsilon),
)

VISION_TOWER = (LeftOut(r"^(model\.)?(vision_tower|multi_modal_projector)\.", "the vision tower and its projector"),)
MULTIMODAL_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
"""How names begin in multimodal checkpoints, before transformers 5 and since."""
