"""Ministral 3: Llama whose queries grow with the position. The older Ministral is Llama."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH

from convert.config_values import number
from convert.families.llama import LLAMA
from convert.families.parts import DECODER_KEYS
from convert.families.record import BYTE_LEVEL, Family, KeyRule
from convert.hyperparameters import Hyperparameters
from edge.gguf_format import ValueType


def _objection(shape: Hyperparameters) -> str | None:
    """llama.cpp lets queries grow with every original context, which only yarn names."""
    if shape.rope.scaling != "yarn" and _temperature_scale(shape):
        return f"llama_4_scaling_beta comes with the RoPE scaling {shape.rope.scaling!r} instead of 'yarn'"
    return None


def _temperature_scale(shape: Hyperparameters) -> float | None:
    settings = shape.config.get("rope_parameters") or shape.config.get("rope_scaling") or {}
    return number(settings, "llama_4_scaling_beta", default=0.0) or None


MINISTRAL3 = Family(
    name="ministral3",
    architecture=MODEL_ARCH.MISTRAL3,
    hf_architectures=("Ministral3ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("ministral3",),
    activations=("silu",),
    tensors=LLAMA.tensors,
    keys=(*DECODER_KEYS, KeyRule("attention.temperature_scale", ValueType.FLOAT32, _temperature_scale)),
    rope_scalings=LLAMA.rope_scalings,
    config_defaults={"head_dim": 128},
    reads_yarn_betas=True,
    objection=_objection,
)
