"""Chooses a token from logits: llama.cpp's sampler chain, set up from `SamplingSettings`."""

from __future__ import annotations

import ctypes
import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.llama.library import backend
from edge.settings import SamplingSettings

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class Sampler:
    """Sampling state of one stream.

    `choose` and `accept` are apart, so that a constraint can refuse a choice before it counts: logits are only read by
    `choose`, and penalties only see what was accepted.
    """

    def __init__(self, settings: SamplingSettings, vocabulary_size: int) -> None:
        self._llama = backend()
        self.seed = settings.seed if settings.seed is not None else secrets.randbits(32)
        self._is_plain_argmax = settings.temperature == 0 and not _has_adjustments(settings)
        self._identifiers = np.arange(vocabulary_size, dtype=np.int32)
        self._candidates = np.empty(vocabulary_size, _CANDIDATE)
        self._array = self._llama.llama_token_data_array()
        self._chain = self._build_chain(settings, vocabulary_size)

    def close(self) -> None:
        if self._chain:
            self._llama.llama_sampler_free(self._chain)
            self._chain = None

    def choose(self, logits: npt.NDArray[np.float32]) -> int:
        """A token for logits [vocabulary]."""
        if self._is_plain_argmax:
            return int(logits.argmax())
        self._candidates["id"] = self._identifiers
        self._candidates["logit"] = logits
        array = self._array
        array.data = ctypes.cast(self._candidates.ctypes.data, type(array.data))
        array.size = len(self._candidates)
        array.selected = -1
        array.sorted = False
        self._llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def accept(self, token: int) -> None:
        """Let penalties know that a token became part of the text."""
        if not self._is_plain_argmax:
            self._llama.llama_sampler_accept(self._chain, token)

    def _build_chain(self, settings: SamplingSettings, vocabulary_size: int) -> Any:
        """Stages in llama.cpp's own order: bias, penalties, top-k, top-p, min-p, temperature, draw."""
        llama = self._llama
        params = llama.llama_sampler_chain_default_params()
        params.no_perf = True
        chain = llama.llama_sampler_chain_init(params)
        stages = []
        if settings.logit_bias:
            entries = [llama.llama_logit_bias(token, bias) for token, bias in settings.logit_bias]
            biases = (llama.llama_logit_bias * len(entries))(*entries)
            stages.append(llama.llama_sampler_init_logit_bias(vocabulary_size, len(biases), biases))
        if _has_penalties(settings):
            stages.append(
                llama.llama_sampler_init_penalties(
                    vocabulary_size,
                    settings.repeat_last_tokens,
                    settings.repeat_penalty,
                    settings.frequency_penalty,
                    settings.presence_penalty,
                )
            )
        if settings.temperature == 0:
            stages.append(llama.llama_sampler_init_greedy())
        else:
            stages += [
                llama.llama_sampler_init_top_k(settings.top_k),
                llama.llama_sampler_init_top_p(settings.top_p, 1),
                llama.llama_sampler_init_min_p(settings.min_p, 1),
                llama.llama_sampler_init_temp(settings.temperature),
                llama.llama_sampler_init_dist(self.seed & 0xFFFFFFFF),
            ]
        for stage in stages:
            llama.llama_sampler_chain_add(chain, stage)
        return chain


def _has_penalties(settings: SamplingSettings) -> bool:
    return (settings.repeat_penalty, settings.frequency_penalty, settings.presence_penalty) != (1.0, 0.0, 0.0)


def _has_adjustments(settings: SamplingSettings) -> bool:
    return bool(settings.logit_bias) or _has_penalties(settings)
