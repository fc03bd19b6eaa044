"""ERNIE 4.5 without experts: Llama that turns neighbours, as llama.cpp does."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH

from convert.config_values import flag
from convert.families.parts import DECODER_KEYS, attention, decoder
from convert.families.record import BYTE_FALLBACK, Family
from convert.hyperparameters import Hyperparameters


def _objection(shape: Hyperparameters) -> str | None:
    if flag(shape.config, "use_bias", default=False):
        return "use_bias is true, llama.cpp adds no biases"
    return None


ERNIE4_5 = Family(
    name="ernie4_5",
    architecture=MODEL_ARCH.ERNIE4_5,
    hf_architectures=("Ernie4_5ForCausalLM",),
    tokenizers=(BYTE_FALLBACK,),
    proven_by=("ernie4_5",),
    activations=("silu",),
    tensors=decoder(*attention(None)),
    keys=DECODER_KEYS,
    config_defaults={"head_dim": 128, "rope_theta": 500000.0, "tie_word_embeddings": True},
    objection=_objection,
)
