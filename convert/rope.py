"""Rotary position embedding: what config.json says, and how a GGUF file says the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.config_values import positive_number
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


def read_rope_parameters(config: Mapping[str, Any], head_dim: int, context_tokens: int) -> RopeParameters:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    EdgeError for a scaling that llama.cpp would not reproduce.
    """
    place = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    settings = config.get(place) or {}
    if not isinstance(settings, Mapping):
        raise EdgeError(f"config.json gives {place} as {settings!r}.", hint="An object is needed.")
    if any(isinstance(value, Mapping) for value in settings.values()):
        raise EdgeError(
            f"config.json gives {place} for {' and '.join(settings)} separately.",
            hint="A RoPE that differs from layer to layer is not supported for this family.",
        )
    theta = positive_number({"rope_theta": config.get("rope_theta"), **settings}, "rope_theta", default=10000.0)
    scaling = settings.get("rope_type") or settings.get("type") or "default"
    if scaling not in SCALINGS:
        raise EdgeError(f"RoPE scaling {scaling!r} is not supported.", hint=f"Supported are: {', '.join(SCALINGS)}.")
    partial = settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise EdgeError(f"partial_rotary_factor {partial} is not supported for this family.", hint="It must be 1.0.")
    return RopeParameters(theta, scaling, _scaling_settings(scaling, place, settings, context_tokens), head_dim)


def _scaling_settings(scaling: str, place: str, settings: Mapping[str, Any], context_tokens: int) -> dict[str, float]:
    named = {f"{place}.{name}": value for name, value in settings.items()}

    def read(name: str, default: float | None = None) -> float:
        return positive_number(named, f"{place}.{name}", default=default)

    if scaling == "default":
        return {}
    if scaling == "linear":
        return {"factor": read("factor")}
    low, high = read("low_freq_factor"), read("high_freq_factor")
    if high <= low:
        raise EdgeError(
            f"config.json gives {place}.high_freq_factor as {high:g}, not above low_freq_factor, which is {low:g}.",
            hint="Correct one of them: frequencies between the two are interpolated.",
        )
    return {
        "factor": read("factor"),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": read("original_max_position_embeddings", context_tokens),
    }


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
    original = rope.settings["original_max_position_embeddings"]
    frequencies = rope.theta ** -(np.arange(0, rope.head_dim, 2, dtype=np.float64) / rope.head_dim)
    turns = original * frequencies / (2 * math.pi)  # full rotations within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
