"""SmolLM3: Llama, of which every fourth layer has no RoPE. SmolLM and SmolLM2 are Llama."""

from __future__ import annotations

from gguf.constants import MODEL_ARCH

from convert.config_values import positive_integer
from convert.families.parts import DECODER_KEYS, attention, attention_biases, decoder
from convert.families.record import BYTE_LEVEL, Family
from convert.hyperparameters import Hyperparameters
from convert.transforms import ROPE_PAIRS

_INTERVAL = 4


def _objection(shape: Hyperparameters) -> str | None:
    """llama.cpp leaves RoPE out in every fourth layer, whatever config.json says."""
    interval = positive_integer(shape.config, "no_rope_layer_interval", default=_INTERVAL)
    turned = shape.config.get("no_rope_layers") or _turned_layers(shape, interval)
    if turned != _turned_layers(shape, _INTERVAL):
        return f"the layers without RoPE are not every {_INTERVAL}th"
    return None


def _turned_layers(shape: Hyperparameters, interval: int) -> list[int]:
    """1 for each layer with RoPE, 0 for those without: what config.json calls no_rope_layers."""
    return [int((block + 1) % interval != 0) for block in range(shape.layers)]


SMOLLM3 = Family(
    name="smollm3",
    architecture=MODEL_ARCH.SMOLLM3,
    hf_architectures=("SmolLM3ForCausalLM",),
    tokenizers=(BYTE_LEVEL,),
    proven_by=("smollm3",),
    activations=("silu",),
    tensors=decoder(*attention(ROPE_PAIRS), *attention_biases(ROPE_PAIRS, "optional")),
    keys=DECODER_KEYS,
    rope_scalings=("default", "linear", "yarn"),
    config_defaults={"rope_theta": 2000000.0, "tie_word_embeddings": True, "use_sliding_window": False},
    objection=_objection,
)
