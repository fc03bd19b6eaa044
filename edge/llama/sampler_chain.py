"""llama.cpp's own samplers, put together as `SamplingSettings` say.

Source: the order of the stages is that of llama.cpp's common/sampling.cpp. Biases are no stage here: `Sampler` adds
them before.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from edge.llama.library import backend
from edge.settings import SamplingSettings

_MIN_KEEP = 1
_LOWEST_TEMPERATURE = 1e-6  # what is divided by less may leave the range of float32, and any token would be drawn
_DRY_STAGES_KEPT = 4
_SEED_MODULUS = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED, by which llama.cpp would draw a seed of its own


class SamplerVocabulary(Protocol):
    """What a sampler needs of a vocabulary. The native pointer is used where DRY is on only."""

    @property
    def size(self) -> int: ...

    @property
    def pointer(self) -> int: ...


def build_chain(
    settings: SamplingSettings,
    vocabulary: SamplerVocabulary,
    *,
    seed: int,
    prompt_tokens: Sequence[int],
    context_tokens: int,
) -> Any:
    """A native chain that knows the prompt. Whoever calls frees it."""
    llama = backend()
    params = llama.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = llama.llama_sampler_chain_init(params)
    native_seed = seed % _SEED_MODULUS
    for stage in _adjusting_stages(settings, vocabulary, prompt_tokens, context_tokens):
        llama.llama_sampler_chain_add(chain, stage)
    for stage in _drawing_stages(settings, vocabulary.size, native_seed):
        llama.llama_sampler_chain_add(chain, stage)
    return chain


def has_repeat_penalty(settings: SamplingSettings) -> bool:
    return settings.repeat_penalty != 1 and settings.repeat_last_tokens > 0


def has_count_penalties(settings: SamplingSettings) -> bool:
    return (settings.frequency_penalty, settings.presence_penalty) != (0, 0)


def has_dry(settings: SamplingSettings) -> bool:
    return settings.dry_multiplier > 0 and settings.dry_penalty_last_n != 0


def _adjusting_stages(
    settings: SamplingSettings, vocabulary: SamplerVocabulary, prompt_tokens: Sequence[int], context_tokens: int
) -> Iterator[Any]:
    """What changes the logits of single tokens. The penalties that count the completion are not told the prompt."""
    llama = backend()
    if has_repeat_penalty(settings):
        window = min(settings.repeat_last_tokens, context_tokens)
        stage = llama.llama_sampler_init_penalties(vocabulary.size, window, settings.repeat_penalty, 0.0, 0.0)
        yield _fed(stage, prompt_tokens[-window:])
    if has_count_penalties(settings):
        penalties = (1.0, settings.frequency_penalty, settings.presence_penalty)
        yield llama.llama_sampler_init_penalties(vocabulary.size, context_tokens, *penalties)
    if has_dry(settings):
        # Memory for all of a window is set aside. A whole context is rounded up, so that requests share their stages
        last_tokens = settings.dry_penalty_last_n
        is_whole = last_tokens < 0 or last_tokens >= context_tokens
        window = 1 << (context_tokens - 1).bit_length() if is_whole else last_tokens
        yield _fed(_dry_stages.stage(settings, vocabulary, window), prompt_tokens[-window:])


def _fed(stage: Any, tokens: Sequence[int]) -> Any:
    accept = backend().llama_sampler_accept
    for token in tokens:
        accept(stage, token)
    return stage


def _drawing_stages(settings: SamplingSettings, vocabulary_size: int, seed: int) -> Iterator[Any]:
    """What narrows the choice and makes it. A stage whose setting switches it off is made as one that does nothing."""
    llama = backend()
    temperature = max(settings.temperature, _LOWEST_TEMPERATURE)
    if settings.temperature == 0:
        yield llama.llama_sampler_init_greedy()
    elif settings.mirostat_tau > 0:
        yield llama.llama_sampler_init_temp(temperature)
        yield llama.llama_sampler_init_mirostat_v2(seed, settings.mirostat_tau, settings.mirostat_eta)
    else:
        yield llama.llama_sampler_init_top_n_sigma(settings.top_n_sigma)
        yield llama.llama_sampler_init_top_k(min(settings.top_k, vocabulary_size))
        yield llama.llama_sampler_init_typical(settings.typical_p, _MIN_KEEP)
        yield llama.llama_sampler_init_top_p(settings.top_p, _MIN_KEEP)
        yield llama.llama_sampler_init_min_p(settings.min_p, _MIN_KEEP)
        yield llama.llama_sampler_init_xtc(settings.xtc_probability, settings.xtc_threshold, _MIN_KEEP, seed)
        yield llama.llama_sampler_init_temp_ext(temperature, settings.dynatemp_range, settings.dynatemp_exponent)
        yield llama.llama_sampler_init_dist(seed)


class _DryStages:
    """DRY stages to copy. To make one, llama.cpp spells out every token of the vocabulary for each sequence breaker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: weakref.WeakKeyDictionary[SamplerVocabulary, OrderedDict[Any, _DryStage]]
        self._kept = weakref.WeakKeyDictionary()

    def stage(self, settings: SamplingSettings, vocabulary: SamplerVocabulary, window: int) -> Any:
        """A stage of one's own. Whoever calls frees it."""
        allowed_length = min(
            settings.dry_allowed_length, window + 1
        )  # nothing longer fits, nor may it wrap around in C
        values = (settings.dry_multiplier, settings.dry_base, allowed_length, window)
        key = (*values, settings.dry_sequence_breakers)
        with self._lock:
            kept = self._kept.setdefault(vocabulary, OrderedDict())
            if key not in kept:
                kept[key] = _DryStage(vocabulary, *values, settings.dry_sequence_breakers)
            kept.move_to_end(key)
            while len(kept) > _DRY_STAGES_KEPT:
                kept.popitem(last=False)
            return kept[key].copy()


class _DryStage:
    """One native stage, freed with the object."""

    def __init__(
        self,
        vocabulary: SamplerVocabulary,
        multiplier: float,
        base: float,
        allowed_length: int,
        window: int,
        breakers: Sequence[str],
    ) -> None:
        encoded = [breaker.encode(errors="replace") for breaker in breakers if breaker]
        texts = (ctypes.c_char_p * len(encoded))(*encoded)
        self._llama = backend()
        self._pointer = self._llama.llama_sampler_init_dry(
            vocabulary.pointer, multiplier, base, allowed_length, window, texts, len(encoded)
        )
        weakref.finalize(self, self._llama.llama_sampler_free, self._pointer)

    def copy(self) -> Any:
        return self._llama.llama_sampler_clone(self._pointer)


_dry_stages = _DryStages()
