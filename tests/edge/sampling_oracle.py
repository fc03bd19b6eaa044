"""llama.cpp's sampler chain over the whole vocabulary, put together apart from edge's, with every stage native."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.candidates import CANDIDATE
from edge.llama.library import backend
from edge.settings import SamplingSettings


class SamplingOracle:
    """What a `Sampler` has to choose. Tokens that are not allowed are left out of the array."""

    def __init__(
        self, settings: SamplingSettings, size: int, pointer: int, prompt_tokens: Sequence[int], context_tokens: int
    ) -> None:
        self._llama = backend()
        self._adjusting = self._chain(
            self._bias(settings, size),
            self._fed(
                self._llama.llama_sampler_init_penalties(
                    size, settings.repeat_last_tokens, settings.repeat_penalty, 0.0, 0.0
                ),
                prompt_tokens,
            ),
            self._llama.llama_sampler_init_penalties(
                size, context_tokens, 1.0, settings.frequency_penalty, settings.presence_penalty
            ),
            self._fed(self._dry(settings, pointer, context_tokens), prompt_tokens),
        )
        self._drawing = self._chain(*self._drawing_stages(settings))

    def close(self) -> None:
        for chain in (self._adjusting, self._drawing):
            self._llama.llama_sampler_free(chain)

    def accept(self, token: int) -> None:
        self._llama.llama_sampler_accept(self._adjusting, token)

    def choose(
        self, logits: npt.NDArray[np.float32], allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[int, npt.NDArray[np.float32]]:
        """The token, and all logits as biases and penalties left them."""
        tokens = np.arange(len(logits))
        _, adjusted = self._apply(self._adjusting, tokens, logits)
        if allowed is not None:
            tokens = tokens[allowed]
        token, _ = self._apply(self._drawing, tokens, adjusted[tokens])
        return token, adjusted

    def _apply(
        self, chain: Any, tokens: npt.NDArray[np.intp], logits: npt.NDArray[np.float32]
    ) -> tuple[int, npt.NDArray[np.float32]]:
        candidates = np.zeros(len(tokens), CANDIDATE)
        candidates["id"], candidates["logit"] = tokens, logits
        array = self._llama.llama_token_data_array()
        array.data = ctypes.cast(candidates.ctypes.data, type(array.data))
        array.size, array.selected, array.sorted = len(tokens), -1, False
        self._llama.llama_sampler_apply(chain, ctypes.byref(array))
        chosen = int(array.data[array.selected].id) if array.selected >= 0 else -1
        return chosen, candidates["logit"].copy()

    def _chain(self, *stages: Any) -> Any:
        chain = self._llama.llama_sampler_chain_init(self._llama.llama_sampler_chain_default_params())
        for stage in stages:
            self._llama.llama_sampler_chain_add(chain, stage)
        return chain

    def _fed(self, stage: Any, tokens: Sequence[int]) -> Any:
        for token in tokens:
            self._llama.llama_sampler_accept(stage, token)
        return stage

    def _bias(self, settings: SamplingSettings, size: int) -> Any:
        count = len(settings.logit_bias)
        entries = [self._llama.llama_logit_bias(token, bias) for token, bias in settings.logit_bias]
        return self._llama.llama_sampler_init_logit_bias(size, count, (self._llama.llama_logit_bias * count)(*entries))

    def _dry(self, settings: SamplingSettings, pointer: int, context_tokens: int) -> Any:
        breakers = [breaker.encode() for breaker in settings.dry_sequence_breakers]
        window = context_tokens if settings.dry_penalty_last_n == -1 else settings.dry_penalty_last_n
        return self._llama.llama_sampler_init_dry(
            pointer,
            settings.dry_multiplier,
            settings.dry_base,
            settings.dry_allowed_length,
            window,
            (ctypes.c_char_p * len(breakers))(*breakers),
            len(breakers),
        )

    def _drawing_stages(self, settings: SamplingSettings) -> list[Any]:
        llama, seed = self._llama, settings.seed
        if settings.temperature == 0:
            return [llama.llama_sampler_init_greedy()]
        if settings.mirostat_tau:
            return [
                llama.llama_sampler_init_temp(settings.temperature),
                llama.llama_sampler_init_mirostat_v2(seed, settings.mirostat_tau, settings.mirostat_eta),
            ]
        temperature = (settings.temperature, settings.dynatemp_range, settings.dynatemp_exponent)
        return [
            llama.llama_sampler_init_top_n_sigma(settings.top_n_sigma),
            llama.llama_sampler_init_top_k(settings.top_k),
            llama.llama_sampler_init_typical(settings.typical_p, 1),
            llama.llama_sampler_init_top_p(settings.top_p, 1),
            llama.llama_sampler_init_min_p(settings.min_p, 1),
            llama.llama_sampler_init_xtc(settings.xtc_probability, settings.xtc_threshold, 1, seed),
            llama.llama_sampler_init_temp_ext(*temperature),
            llama.llama_sampler_init_dist(seed),
        ]
