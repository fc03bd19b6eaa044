"""Rotary position embedding: what config.json says, and how a GGUF file says the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError
from edge.gguf_format import MetadataEntry, ValueType

SCALINGS = ("default", "linear", "llama3")


@dataclass(frozen=True)
class RopeParameters:
    """Base frequency and its scaling; `settings` are the scaling's own numbers."""

    theta: float
    scaling: str
    settings: Mapping[str, float]
    head_dim: int
    trained_context_tokens: int


def read_rope_parameters(config: Mapping[str, Any], head_dim: int, context_tokens: int) -> RopeParameters:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    EdgeError for a scaling that llama.cpp would not reproduce.
    """
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(settings, Mapping):
        raise EdgeError(f"config.json gives rope_scaling as {settings!r}.", hint="An object is needed.")
    theta = settings.get("rope_theta", config.get("rope_theta", 10000.0))
    scaling = settings.get("rope_type", settings.get("type", "default"))
    if scaling not in SCALINGS:
        raise EdgeError(f"RoPE scaling {scaling!r} is not supported.", hint=f"Supported are: {', '.join(SCALINGS)}.")
    partial = settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise EdgeError(f"partial_rotary_factor {partial} is not supported for this family.", hint="It must be 1.0.")
    numbers = {name: float(value) for name, value in settings.items() if isinstance(value, int | float)}
    needed = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}.get(scaling, ())
    for name in needed:
        if numbers.get(name, 0) <= 0:
            raise EdgeError(f"RoPE scaling {scaling!r} gives no {name}.", hint="Complete it in config.json.")
    return RopeParameters(float(theta), scaling, numbers, head_dim, context_tokens)


def rope_metadata(rope: RopeParameters, architecture: str) -> list[MetadataEntry]:
    """The GGUF keys for a rope. The "llama3" scaling needs none: it is the tensor of `frequency_factors`."""
    entries = [
        MetadataEntry(f"{architecture}.rope.dimension_count", ValueType.UINT32, rope.head_dim),
        MetadataEntry(f"{architecture}.rope.freq_base", ValueType.FLOAT32, rope.theta),
    ]
    if rope.scaling == "linear":
        entries.append(MetadataEntry(f"{architecture}.rope.scaling.type", ValueType.STRING, "linear"))
        entries.append(MetadataEntry(f"{architecture}.rope.scaling.factor", ValueType.FLOAT32, rope.settings["factor"]))
    return entries


def frequency_factors(rope: RopeParameters) -> npt.NDArray[np.float32] | None:
    """What each frequency is divided by, [head_dim / 2], for the "llama3" scaling; None for the others.

    Source: transformers, modeling_rope_utils._compute_llama3_parameters.
    """
    if rope.scaling != "llama3":
        return None
    factor = rope.settings["factor"]
    low, high = rope.settings["low_freq_factor"], rope.settings["high_freq_factor"]
    original = rope.settings.get("original_max_position_embeddings", rope.trained_context_tokens)
    frequencies = rope.theta ** -(np.arange(0, rope.head_dim, 2, dtype=np.float64) / rope.head_dim)
    turns = original * frequencies / (2 * math.pi)  # full rotations within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
