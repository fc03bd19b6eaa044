"""The settings people choose: plain, frozen values with the defaults of the field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from edge.errors import EdgeError


@dataclass(frozen=True)
class AdapterSettings:
    """A LoRA to use: a GGUF adapter, and the share of it that is added to the weights."""

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise EdgeError(f"The scale of {self.path} is {self.scale}.", hint="Give a finite number, such as 0.5.")


@dataclass(frozen=True)
class ModelSettings:
    """How a model is loaded and how much it may hold."""

    context_tokens: int | None = None
    """Context length shared by all sequences; None: what the model was trained on, at most 8192."""
    parallel: int = 1
    """Sequences that may be in flight at once."""
    threads: int | None = None
    """Threads of a decode step; None: one for each physical core."""
    gpu_layers: int = -1
    """Layers to offload; -1: all that the build can."""
    prefill_tokens: int = 512
    """Prompt tokens decoded in one step (llama.cpp's n_batch and n_ubatch)."""
    adapters: tuple[AdapterSettings, ...] = ()
    """LoRA adapters that every request is answered with."""


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is chosen from the logits. A temperature of 0 takes the most likely token."""

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_tokens: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = field(default=())
    seed: int | None = None

    def __post_init__(self) -> None:
        limits = (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0 (0 switches it off)"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repeat_penalty", self.repeat_penalty > 0, "above 0 (1 switches it off)"),
            ("repeat_last_tokens", self.repeat_last_tokens >= 0, "at least 0"),
        )
        for name, holds, rule in limits:
            if not holds:
                raise EdgeError(f"{name} is {getattr(self, name)}.", hint=f"{name} must be {rule}.")
