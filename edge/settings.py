"""The settings people choose: plain, frozen values with the defaults of the field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Literal, get_args

from edge.errors import EdgeError

KVType = Literal["F16", "Q8_0", "Q4_0"]
DEFAULT_CONTEXT_TOKENS = 8192
"""Where none is asked for, and the model was trained on as many."""


def kv_cache_types(text: str) -> tuple[KVType, KVType]:
    """Types of keys and values of `TYPE` or `KEYS/VALUES`, in whatever case. EdgeError with the known ones."""
    known: dict[str, KVType] = {name: name for name in get_args(KVType)}
    keys, slash, values = text.upper().partition("/")
    key_type, value_type = known.get(keys), known.get(values if slash else keys)
    if key_type is None or value_type is None:
        raise EdgeError(
            f"The KV cache cannot be kept as {text!r}.",
            hint=f"Types: {', '.join(known)}; or two of them with / between, for keys and values.",
        )
    return key_type, value_type


def kv_types_text(key_type: KVType, value_type: KVType) -> str:
    """Types of keys and values as `kv_cache_types` reads them."""
    return key_type if key_type == value_type else f"{key_type}/{value_type}"


MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ


@dataclass(frozen=True)
class AdapterSettings:
    """A LoRA to use: a GGUF adapter, and the share of it that is added to the weights."""

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isfinite(self.scale):
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
    gpu_split: tuple[int, ...] = ()
    """Of these, so many on each graphics card, or in that proportion; empty: as llama.cpp spreads them."""
    repack_weights: bool = True
    """Keep weights of some types once more in memory, in an order that processors decode faster from (llama.cpp's
    `--repack`). Without, prompts may be read faster or slower, and a start takes less time and memory."""
    prefill_tokens: int = 512
    """Prompt tokens decoded in one step at most (llama.cpp's n_batch and n_ubatch)."""
    key_type: KVType = "F16"
    """How keys are kept in the KV cache. Q8_0 halves their memory at next to no cost in quality."""
    value_type: KVType = "F16"
    """How values are kept. Other types than F16 need flash attention."""
    flash_attention: Literal["auto", "on", "off"] = "auto"
    adapters: tuple[AdapterSettings, ...] = ()
    """LoRA adapters to load. A request that names none of them is answered with all, each at its scale here."""
    queue_limit: int = 256
    """Requests that may wait for a sequence; one more is refused with an `EngineBusyError`."""
    speculation: Literal["prompt", "off"] = "prompt"
    """`prompt`: what the text so far suggests to come next is computed ahead, as long as that is often right."""
    draft_model: Path | None = None
    """A small model with the same vocabulary, whose guesses are computed ahead."""
    checkpoint_bytes: int = 256 << 20
    """Host memory for states to return to, where a cache cannot be cut back (sliding windows, recurrent layers)."""

    def __post_init__(self) -> None:
        limits = (
            ("context_tokens", self.context_tokens is None or self.context_tokens >= 16, "at least 16"),
            ("parallel", 1 <= self.parallel <= MAX_SEQUENCES, f"between 1 and {MAX_SEQUENCES}"),
            ("threads", self.threads is None or self.threads >= 1, "at least 1"),
            ("gpu_layers", self.gpu_layers >= -1, "-1 (all) or more"),
            ("gpu_split", all(layers >= 0 for layers in self.gpu_split), "numbers of layers"),
            ("prefill_tokens", self.prefill_tokens >= 1, "at least 1"),
            ("key_type", self.key_type in get_args(KVType), f"one of {', '.join(get_args(KVType))}"),
            ("value_type", self.value_type in get_args(KVType), f"one of {', '.join(get_args(KVType))}"),
            ("queue_limit", self.queue_limit >= 0, "at least 0"),
            ("checkpoint_bytes", self.checkpoint_bytes >= 0, "at least 0"),
        )
        _check(self, limits)


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is chosen from the logits. A temperature of 0 takes the most likely token.

    The names are those of llama.cpp's server. The stages run in this order: logit_bias, penalties, DRY, top_n_sigma,
    top_k, typical_p, top_p, min_p, XTC, temperature; or, with mirostat, bias, penalties, temperature, mirostat.
    """

    temperature: float = 0.7
    dynatemp_range: float = 0.0
    """How far the temperature follows the entropy, up and down; 0 switches it off."""
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    """Share of probability kept around the expected surprise; 1 switches it off."""
    top_n_sigma: float = 0.0
    """Keep logits within this many standard deviations of the highest; 0 switches it off."""
    xtc_probability: float = 0.0
    """How often the likeliest tokens above `xtc_threshold` are left out, but for the last of them."""
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    """Weight of the penalty on repeating a sequence that was there before; 0 switches it off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    """Repetitions up to this length are free."""
    dry_penalty_last_n: int = -1
    """Tokens that are searched for repetitions; -1: the whole context."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    repeat_penalty: float = 1.0
    repeat_last_tokens: int = 64
    """Tokens, of the prompt too, that `repeat_penalty` looks back on."""
    frequency_penalty: float = 0.0
    """For each time that a token is in the completion. Prompts do not count."""
    presence_penalty: float = 0.0
    mirostat_tau: float = 0.0
    """Surprise that mirostat 2 aims at, in bits; 0 switches it off, and else it takes the place of all truncation."""
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = field(default=())
    seed: int | None = None

    def __post_init__(self) -> None:
        limits = (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("dynatemp_range", self.dynatemp_range >= 0, "at least 0 (0 switches it off)"),
            ("dynatemp_exponent", self.dynatemp_exponent > 0, "above 0"),
            ("top_k", self.top_k >= 0, "at least 0 (0 switches it off)"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("typical_p", 0 < self.typical_p <= 1, "above 0 and at most 1 (1 switches it off)"),
            ("top_n_sigma", self.top_n_sigma >= 0, "at least 0 (0 switches it off)"),
            ("xtc_probability", 0 <= self.xtc_probability <= 1, "between 0 and 1"),
            ("xtc_threshold", 0 <= self.xtc_threshold <= 1, "between 0 and 1"),
            ("dry_multiplier", self.dry_multiplier >= 0, "at least 0 (0 switches it off)"),
            ("dry_base", self.dry_base >= 1, "at least 1"),
            ("dry_allowed_length", self.dry_allowed_length >= 1, "at least 1"),
            ("dry_penalty_last_n", self.dry_penalty_last_n >= -1, "-1 (the whole context) or more"),
            ("repeat_penalty", 0.001 <= self.repeat_penalty <= 1000, "between 0.001 and 1000 (1 switches it off)"),
            ("repeat_last_tokens", self.repeat_last_tokens >= 0, "at least 0"),
            ("frequency_penalty", -1000 <= self.frequency_penalty <= 1000, "between -1000 and 1000"),
            ("presence_penalty", -1000 <= self.presence_penalty <= 1000, "between -1000 and 1000"),
            ("mirostat_tau", self.mirostat_tau >= 0, "at least 0 (0 switches it off)"),
            ("mirostat_eta", self.mirostat_eta > 0, "above 0"),
            ("seed", self.seed is None or self.seed >= 0, "at least 0"),
        )
        _check(self, limits)


def _check(settings: object, limits: Iterable[tuple[str, bool, str]]) -> None:
    """EdgeError for the first setting whose rule does not hold."""
    for name, holds, rule in limits:
        if not holds:
            raise EdgeError(f"{name} is {getattr(settings, name)}.", hint=f"{name} must be {rule}.")
