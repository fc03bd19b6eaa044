"""What a quantization costs: the mean KL divergence of its probabilities from those of the unquantized model, in nats.

Smaller models lose more than the ones measured here, larger ones less. The costs of weights and of the KV cache are
added up, which is an estimate.
"""

from __future__ import annotations

from edge.settings import KVType

WEIGHTS_SOURCE = "Llama 3 8B on Wikitext-2; llama.cpp, tools/perplexity/README.md"
CACHE_SOURCE = "SmolLM2-135M-Instruct (F16) on bench/texts/held_out.txt, 1,530 tokens, with llama-cpp-python 0.3.36"

_OF_WEIGHTS = {
    "F32": 0.0,
    "BF16": 0.0,
    "F16": 0.000551,
    "Q8_0": 0.001355,
    "Q6_K": 0.005452,
    "Q5_K_M": 0.010762,
    "Q5_K_S": 0.016595,
    "Q5_1": 0.018045,
    "Q5_0": 0.022239,
    "Q4_K_M": 0.031273,
    "IQ4_NL": 0.035742,  # this one, IQ4_XS and the smaller IQ types with an importance matrix
    "IQ4_XS": 0.036334,
    "Q4_K_S": 0.043136,
    "Q4_1": 0.071683,
    "Q4_0": 0.071940,
    "Q3_K_L": 0.087176,
    "Q3_K_M": 0.101913,
    "IQ3_M": 0.102534,
    "IQ3_XXS": 0.183625,
    "Q3_K_S": 0.228217,
    "IQ2_M": 0.325989,
    "Q2_K": 0.445132,
}
_OF_CACHE: dict[tuple[KVType, KVType], float] = {
    ("F16", "F16"): 0.0,
    ("Q8_0", "F16"): 0.00021,
    ("Q8_0", "Q8_0"): 0.00025,
    ("Q8_0", "Q4_0"): 0.0050,
    ("Q4_0", "F16"): 0.040,
    ("Q4_0", "Q4_0"): 0.047,
}


def weights_cost(quantization: str) -> float | None:
    """The cost of a quantization of the weights; None if none is known."""
    return _OF_WEIGHTS.get(quantization.upper())


def cache_cost(key_type: KVType, value_type: KVType) -> float | None:
    return _OF_CACHE.get((key_type, value_type))


def total_cost(quantization: str, key_type: KVType, value_type: KVType) -> float | None:
    weights, cache = weights_cost(quantization), cache_cost(key_type, value_type)
    return None if weights is None or cache is None else weights + cache
