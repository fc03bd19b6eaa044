"""Mixtures of experts: Mixtral and Qwen 3 MoE. The experts of a block are one tensor of the file."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH, MODEL_TENSOR

from convert.config_values import flag, positive_integer
from convert.families.parts import (
    ATTENTION_NORM,
    DECODER_KEYS,
    EMBEDDING,
    FEED_FORWARD_NORM,
    OUTPUT,
    OUTPUT_NORM,
    QUERY_KEY_NORMS,
    attention,
    per_block,
)
from convert.families.record import BYTE_FALLBACK, BYTE_LEVEL, Family, FusedExperts, KeyRule, TensorRule
from convert.hyperparameters import Hyperparameters
from convert.transforms import ROPE_PAIRS
from edge.gguf_format import ValueType


def expert_layer(prefix: str, gate: str, up: str, down: str) -> tuple[TensorRule, ...]:
    """The router and the experts of a block, under a family's names for them.

    On the hub each expert has its own tensors; fused is how transformers 5 holds them in memory.
    """

    def expert(target: MODEL_TENSOR, name: str, fused: FusedExperts, *shape: str) -> TensorRule:
        return per_block(target, f"{prefix}.experts.{{expert}}.{name}.weight", *shape, fused=fused)

    gate_and_up = f"model.layers.{{block}}.{prefix}.experts.gate_up_proj"
    fused_down = FusedExperts(f"model.layers.{{block}}.{prefix}.experts.down_proj")
    rows = ("expert_feed_forward", "hidden")
    return (
        per_block(MODEL_TENSOR.FFN_GATE_INP, f"{prefix}.gate.weight", "experts", "hidden"),
        expert(MODEL_TENSOR.FFN_GATE_EXP, gate, FusedExperts(gate_and_up, part=0, parts=2), *rows),
        expert(MODEL_TENSOR.FFN_UP_EXP, up, FusedExperts(gate_and_up, part=1, parts=2), *rows),
        expert(MODEL_TENSOR.FFN_DOWN_EXP, down, fused_down, *reversed(rows)),
    )


EXPERT_KEYS = (
    KeyRule("expert_count", ValueType.UINT32, lambda shape: shape.experts),
    KeyRule("expert_used_count", ValueType.UINT32, lambda shape: shape.experts_used),
)
EXPERT_LENGTH = KeyRule("expert_feed_forward_length", ValueType.UINT32, lambda shape: shape.expert_feed_forward)


def _decoder_with_experts(*block: TensorRule) -> tuple[TensorRule, ...]:
    return (EMBEDDING, ATTENTION_NORM, *block, FEED_FORWARD_NORM, OUTPUT_NORM, OUTPUT)


MIXTRAL = Family(
    name="mixtral",
    architecture=MODEL_ARCH.LLAMA,
    hf_architectures=("MixtralForCausalLM",),
    tokenizers=(BYTE_FALLBACK,),
    proven_by=("mixtral",),
    activations=("silu",),
    tensors=_decoder_with_experts(*attention(ROPE_PAIRS), *expert_layer("block_sparse_moe", "w1", "w3", "w2")),
    keys=(*DECODER_KEYS, *EXPERT_KEYS),
    config_names={"moe_intermediate_size": "intermediate_size"},
    config_defaults={"rope_theta": 1000000.0},
)


def _qwen3_moe_objection(shape: Hyperparameters) -> str | None:
    if not flag(shape.config, "norm_topk_prob", default=False):
        return "norm_topk_prob is false, llama.cpp always makes the weights of the chosen experts add up to one"
    if shape.config.get("mlp_only_layers"):
        return "mlp_only_layers has layers without experts, llama.cpp has them in every layer"
    if positive_integer(shape.config, "decoder_sparse_step", default=1) != 1:
        return "decoder_sparse_step leaves layers without experts, llama.cpp has them in every layer"
    return None


QWEN3_MOE = Family(
    name="qwen3_moe",
    architecture=MODEL_ARCH.QWEN3MOE,
    hf_architectures=("Qwen3MoeForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("qwen3_moe", "qwen3_moe-fused"),
    activations=("silu",),
    tensors=_decoder_with_experts(
        *attention(None), *QUERY_KEY_NORMS, *expert_layer("mlp", "gate_proj", "up_proj", "down_proj")
    ),
    keys=(*DECODER_KEYS, *EXPERT_KEYS, EXPERT_LENGTH),
    objection=_qwen3_moe_objection,
)
