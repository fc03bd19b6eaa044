"""The table of model families: what their tensors are called, their shapes, and what a GGUF file says about them.

A family is a record in one of these modules, a tiny checkpoint in the tests, and nothing else. Tensors are described
from the side of the checkpoint, so that one that is missing, left over or misshapen is known before a weight is read.
Sources: transformers' modeling files for names and shapes, llama.cpp's src/models for what it expects.
"""

from __future__ import annotations

from convert.families.cohere import COHERE2
from convert.families.ernie import ERNIE4_5
from convert.families.exaone import EXAONE4
from convert.families.experts import MIXTRAL, QWEN3_MOE
from convert.families.gemma import GEMMA, GEMMA2, GEMMA3
from convert.families.gemma4 import GEMMA4
from convert.families.glm import GLM4
from convert.families.granite import GRANITE
from convert.families.lfm import LFM2
from convert.families.llama import LLAMA
from convert.families.ministral import MINISTRAL3, MISTRAL3
from convert.families.olmo import OLMO2, OLMO3
from convert.families.phi import PHI3
from convert.families.qwen import QWEN2, QWEN3
from convert.families.qwen3_5 import QWEN3_5
from convert.families.record import Family as Family
from convert.families.record import KeyRule as KeyRule
from convert.families.record import TensorRule as TensorRule
from convert.families.record import check_reproducible as check_reproducible
from convert.families.smollm import SMOLLM3
from convert.families.stablelm import STABLELM
from convert.families.starcoder import STARCODER2
from edge.errors import EdgeError

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    MIXTRAL,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA4,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    QWEN3_5,
    MINISTRAL3,
    MISTRAL3,
    PHI3,
    SMOLLM3,
    OLMO2,
    OLMO3,
    GRANITE,
    STARCODER2,
    GLM4,
    EXAONE4,
    COHERE2,
    STABLELM,
    ERNIE4_5,
    LFM2,
)


def find_family(hf_architecture: str) -> Family:
    """The family of a config.json's `architectures` entry. EdgeError that lists the known ones if there is none."""
    for family in FAMILIES:
        if hf_architecture in family.hf_architectures:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.hf_architectures)
    raise EdgeError(f"The architecture {hf_architecture!r} is not supported.", hint=f"These are: {known}.")
