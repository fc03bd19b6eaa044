"""StarCoder2: LayerNorm, biases everywhere, and a feed-forward network without a gate."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.config_values import flag
from convert.families.parts import (
    ATTENTION_NORM,
    EMBEDDING,
    FEED_FORWARD_NORM,
    LAYER_NORM_KEYS,
    OUTPUT,
    OUTPUT_NORM,
    attention,
    attention_biases,
    heads_objection,
    per_block,
)
from convert.families.record import BYTE_LEVEL, Family, TensorRule
from convert.hyperparameters import Hyperparameters


def _objection(shape: Hyperparameters) -> str | None:
    if not flag(shape.config, "use_bias", default=True):
        return "use_bias is false, llama.cpp needs biases"
    return heads_objection(shape)


STARCODER2 = Family(
    name="starcoder2",
    architecture=MODEL_ARCH.STARCODER2,
    hf_architectures=("Starcoder2ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("starcoder2",),
    activations=("gelu_pytorch_tanh",),
    tensors=(
        EMBEDDING,
        ATTENTION_NORM,
        per_block(MODEL_TENSOR.ATTN_NORM, "input_layernorm.bias", "hidden"),
        *attention(None),
        *attention_biases(None, "required"),
        per_block(MODEL_TENSOR.ATTN_OUT, "self_attn.o_proj.bias", "hidden"),
        FEED_FORWARD_NORM,
        per_block(MODEL_TENSOR.FFN_NORM, "post_attention_layernorm.bias", "hidden"),
        per_block(MODEL_TENSOR.FFN_UP, "mlp.c_fc.weight", "feed_forward", "hidden"),
        per_block(MODEL_TENSOR.FFN_UP, "mlp.c_fc.bias", "feed_forward"),
        per_block(MODEL_TENSOR.FFN_DOWN, "mlp.c_proj.weight", "hidden", "feed_forward"),
        per_block(MODEL_TENSOR.FFN_DOWN, "mlp.c_proj.bias", "hidden"),
        OUTPUT_NORM,
        TensorRule(MODEL_TENSOR.OUTPUT_NORM, "model.norm.bias", ("hidden",)),
        OUTPUT,
    ),
    keys=LAYER_NORM_KEYS,
    rope_scalings=("default", "linear", "yarn"),
    config_names={"rms_norm_eps": "norm_epsilon"},
    config_defaults={"norm_epsilon": 1e-5, "tie_word_embeddings": True},
    objection=_objection,
)
