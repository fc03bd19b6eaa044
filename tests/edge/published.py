"""Published models as candidates of a plan, made once."""

from __future__ import annotations

from functools import cache

from edge.fitting import Candidate
from edge.plan_source import find_model

GEMMA = "google/gemma-2-9b-it"
LLAMA = "meta-llama/Llama-3.2-3B-Instruct"
EXPERTS = "Qwen/Qwen3-30B-A3B"
RECURRENT = "Qwen/Qwen3.5-4B"


@cache
def candidates(name: str) -> tuple[Candidate, ...]:
    return find_model(name).candidates


def candidate(name: str, quantization: str) -> Candidate:
    return next(each for each in candidates(name) if each.quantization == quantization)
