"""Gemma, whose norms scale by one more than their weight."""

from __future__ import annotations

from functools import partial

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.config_values import positive_integer, positive_number
from convert.families.parts import DECODER_KEYS, EMBEDDING, FEED_FORWARD, attention, per_block
from convert.families.record import IGNORED, Family, KeyRule, TensorRule
from convert.hyperparameters import Hyperparameters
from convert.transforms import ADD_ONE
from edge.gguf_format import ValueType

_GEMMA2_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # Source: transformers, Gemma2Config


def _gemma2_objection(shape: Hyperparameters) -> str | None:
    """llama.cpp fixes the attention scale by layer count and lets every second layer slide, from the first on."""
    expected = shape.hidden // shape.heads if shape.layers == 46 else shape.head_dim
    scalar = positive_number(shape.config, "query_pre_attn_scalar", default=256)
    if scalar != expected:
        return f"query_pre_attn_scalar is {scalar:g}, llama.cpp assumes {expected}"
    for name, default in _GEMMA2_CAPS.items():
        if not shape.config.get(name, default):
            return f"{name} is {shape.config[name]}, llama.cpp always caps"
    if not shape.tied_embeddings:
        return "tie_word_embeddings is false, llama.cpp always uses the embeddings as output"
    layer_types = shape.config.get("layer_types")
    alternating = [("sliding_attention", "full_attention")[block % 2] for block in range(shape.layers)]
    if layer_types is not None and layer_types != alternating:
        return "layer_types do not alternate between sliding and full attention"
    return None


def _sliding_window(shape: Hyperparameters) -> int:
    return positive_integer(shape.config, "sliding_window", default=4096)


def _gemma2_cap(name: str, shape: Hyperparameters) -> float:
    return positive_number(shape.config, name, default=_GEMMA2_CAPS[name])


def _gemma_norm(target: MODEL_TENSOR, name: str) -> TensorRule:
    return per_block(target, name, "hidden", transform=ADD_ONE)


GEMMA2 = Family(
    name="gemma2",
    architecture=MODEL_ARCH.GEMMA2,
    hf_architectures=("Gemma2ForCausalLM",),
    activations=("gelu_pytorch_tanh",),
    config_defaults={"tie_word_embeddings": True},
    tensors=(
        EMBEDDING,
        _gemma_norm(MODEL_TENSOR.ATTN_NORM, "input_layernorm.weight"),
        *attention(None),
        _gemma_norm(MODEL_TENSOR.ATTN_POST_NORM, "post_attention_layernorm.weight"),
        _gemma_norm(MODEL_TENSOR.FFN_PRE_NORM, "pre_feedforward_layernorm.weight"),
        *FEED_FORWARD,
        _gemma_norm(MODEL_TENSOR.FFN_POST_NORM, "post_feedforward_layernorm.weight"),
        TensorRule(MODEL_TENSOR.OUTPUT_NORM, "model.norm.weight", ("hidden",), transform=ADD_ONE),
    ),
    keys=(
        *(rule for rule in DECODER_KEYS if rule.key != "context_length"),
        KeyRule("context_length", ValueType.UINT32, lambda shape: shape.context_tokens),
        KeyRule("attention.sliding_window", ValueType.UINT32, _sliding_window),
        *(KeyRule(name, ValueType.FLOAT32, partial(_gemma2_cap, name)) for name in _GEMMA2_CAPS),
    ),
    ignored=(*IGNORED, r"^lm_head\.weight$"),  # always tied: a copy of the embeddings, which transformers ignores too
    objection=_gemma2_objection,
)
