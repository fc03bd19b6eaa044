"""Ministral 3, which is Llama whose queries grow with the position, alone or below the vision tower of Mistral 3.

The language model of Mistral Small 3.1 and 3.2 is plain Llama below the same tower. The older Ministral is Llama.
"""

from __future__ import annotations

from dataclasses import replace

from gguf.constants import MODEL_ARCH

from convert.config_values import number
from convert.families.llama import LLAMA
from convert.families.parts import DECODER_KEYS, MULTIMODAL_PREFIXES, OUTPUT, VISION_TOWER
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


# transformers calls embeddings tied unless told, and still keeps an output of its own that a checkpoint has
_OWN_OUTPUT_IF_ANY = replace(OUTPUT, presence="optional")

MISTRAL3 = replace(
    MINISTRAL3,
    name="mistral3",
    hf_architectures=("Mistral3ForConditionalGeneration",),
    proven_by=("mistral3",),
    tensors=tuple(_OWN_OUTPUT_IF_ANY if rule is OUTPUT else rule for rule in MINISTRAL3.tensors),
    left_out=VISION_TOWER,
    prefixes=MULTIMODAL_PREFIXES,
)
