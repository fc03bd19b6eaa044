"""Chooses a token from logits: llama.cpp's sampler chain, shown only the tokens that it may take.

The choice is the one that the chain makes over the whole vocabulary with the same seed. Only a token of exactly the
same logit may come instead, since the chain's sort leaves open which of two equals is first. A temperature of 0 takes
the lowest id among equals.
"""

from __future__ import annotations

import ctypes
import math
import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge.candidates import CANDIDATE, Logits, TokenIds, find_candidates, maxima_of
from edge.errors import EdgeError, EngineFailedError
from edge.llama.library import backend
from edge.llama.penalized import PenalizedTokens
from edge.llama.preselection import Mask, Preselection
from edge.llama.sampler_chain import SamplerVocabulary, build_chain
from edge.settings import SamplingSettings

PlainChoice = tuple[int, npt.NDArray[np.void], npt.NDArray[np.float32], int]
"""What a choice takes that depends on nothing but the logits: the address of the chain, room for the CANDIDATEs that it
is shown and for `find_candidates` to work in, and how many of the highest logits it needs."""

_FIRST_CAPACITY = 1024
_HIGHEST_BIAS = 1e30  # within the range of float32, with room for a few of them


class Sampler:
    """Sampling state of one stream: draws and penalties depend on nothing but its settings and its text.

    `choose` and `accept` are apart, so that a constraint can refuse a choice before it counts: logits are only read by
    `choose`, and penalties only see what was accepted. Each `choose` draws anew.

    What truncates by the whole distribution has to be shown all of it: mirostat, top_n_sigma, and without top_k also
    typical_p, top_p or no truncation. Over 262,144 tokens that takes milliseconds, where top_k, min_p alone or a
    temperature of 0 take a small part of one. With mirostat, DRY counts among the penalties.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        vocab: SamplerVocabulary,
        *,
        prompt_tokens: Sequence[int] = (),
        context_tokens: int,
    ) -> None:
        """EdgeError for a bias that no vocabulary or number bears."""
        self._llama = backend()
        self.seed = settings.seed if settings.seed is not None else secrets.randbits(32)
        self._biased, self._biases = _biases(settings, vocab.size)
        self._penalized = PenalizedTokens(settings, prompt_tokens, context_tokens)
        self._preselection = Preselection(settings)
        changes_logits = len(self._biased) > 0 or self._penalized.can_be_any
        self._own_logits = np.empty(vocab.size, np.float32) if changes_logits else None
        self._plain_count = None if self._penalized.can_be_any else self._preselection.count
        """How many of the highest logits are enough, where nothing but them matters."""
        self._maxima = maxima_of(vocab.size)
        self._is_greedy = settings.temperature == 0 and not self._penalized.can_be_any
        self._array = self._llama.llama_token_data_array()
        self._array_pointer = ctypes.pointer(self._array)
        self._reserve(_FIRST_CAPACITY)
        self._chain = build_chain(
            settings, vocab, seed=self.seed, prompt_tokens=prompt_tokens, context_tokens=context_tokens
        )

    def close(self) -> None:
        if self._chain:
            self._llama.llama_sampler_free(self._chain)
            self._chain = None

    def accept(self, token: int) -> None:
        """Let penalties know that a token became part of the text."""
        if self._penalized.can_be_any:
            self._penalized.accept(token)
            self._llama.llama_sampler_accept(self._chain, token)

    def choose(self, logits: Logits, allowed: Mask | None = None) -> int:
        """A token for logits [vocabulary]; with `allowed` [vocabulary], as if there were no others.

        EdgeError if biases and penalties rule out all of them, and if the logits are not numbers.
        """
        row = self._with_biases(logits)
        if self._is_greedy and allowed is None:
            token = int(row.argmax())
            _check_numbers(row[token])
            self._check_chosen(row[token])
            return token
        if allowed is None and self._plain_count is not None:
            found = find_candidates(row, self._plain_count, self._maxima, self._candidates)
            if found > 0:
                return self._draw_from(found)
        tokens = self._preselection.tokens(row, allowed, self._penalized.tokens())
        if not len(tokens):  # what is not a number is not among the likely tokens
            assert allowed is None or allowed.any(), "no token is allowed"
            _check_numbers(row.max())
        return self._draw(tokens, row)

    def plain_choice(self) -> PlainChoice | None:
        """What `choose` takes without `allowed`, if it is neither biased nor penalized and needs few tokens."""
        if self._own_logits is not None or self._plain_count is None:
            return None
        chain = ctypes.cast(self._chain, ctypes.c_void_p).value or 0
        return chain, self._candidates, self._maxima, self._plain_count

    def choose_from_all(self, logits: Logits, allowed: Mask | None = None) -> int:
        """What `choose` gives, by showing the chain every token: what llama.cpp would spend on it."""
        row = self._with_biases(logits)
        return self._draw(np.arange(len(row)) if allowed is None else np.flatnonzero(allowed), row)

    def _with_biases(self, logits: Logits) -> Logits:
        """The logits themselves if nothing will change them, and else a copy with the biases added."""
        if self._own_logits is None:
            return logits
        np.copyto(self._own_logits, logits)
        self._own_logits[self._biased] += self._biases
        return self._own_logits

    def _draw(self, tokens: TokenIds, row: Logits) -> int:
        """Let the chain choose among some tokens."""
        count = len(tokens)
        values = row if count == len(row) else row[tokens]
        if count > len(self._ids):
            self._reserve(count)
        self._ids[:count] = tokens
        self._logits[:count] = values
        return self._draw_from(count)

    def _draw_from(self, count: int) -> int:
        """Let the chain choose among the first candidates."""
        array = self._array
        array.data, array.size = self._first_candidate, count  # a stage may have moved the start
        array.selected, array.sorted = -1, False
        self._llama.llama_sampler_apply(self._chain, self._array_pointer)
        chosen = array.data[array.selected]
        if not chosen.p > 0:  # there are none behind a greedy stage, and none where a logit was no number
            _check_numbers(self._logits[:count].max())
        self._check_chosen(chosen.logit)
        return int(chosen.id)

    def _reserve(self, capacity: int) -> None:
        self._candidates = np.zeros(capacity, CANDIDATE)
        self._ids, self._logits = self._candidates["id"], self._candidates["logit"]
        self._first_candidate = ctypes.cast(self._candidates.ctypes.data, type(self._array.data))

    def _check_chosen(self, logit: float) -> None:
        """EdgeError if even the token that was chosen is ruled out."""
        if logit != -math.inf:
            return
        assert self._own_logits is not None, "every token has a logit of -inf"
        raise EdgeError(
            "Biases and penalties rule out every token that may follow here.",
            hint="Give fewer tokens a logit_bias of -inf, or lower the penalties.",
        )


def _check_numbers(highest_logit: float) -> None:
    if not highest_logit < math.inf:
        raise EngineFailedError(
            f"The model computed {highest_logit} as a logit.",
            hint="Its file may be damaged: check it with edge verify.",
        )


def _biases(settings: SamplingSettings, vocabulary_size: int) -> tuple[TokenIds, Logits]:
    """Token ids, each once, and what is added to their logits."""
    sums: dict[int, float] = {}
    for token, bias in settings.logit_bias:
        if not 0 <= token < vocabulary_size:
            raise EdgeError(
                f"logit_bias names token {token}, and the vocabulary has {vocabulary_size} tokens.",
                hint=f"Token ids are 0 to {vocabulary_size - 1}.",
            )
        if not bias <= _HIGHEST_BIAS:
            raise EdgeError(
                f"logit_bias gives token {token} a bias of {bias}.",
                hint=f"A bias must be a number up to {_HIGHEST_BIAS:.0e}; one of -inf rules the token out.",
            )
        sums[token] = sums.get(token, 0.0) + (bias if bias >= -_HIGHEST_BIAS else -math.inf)
    return np.fromiter(sums, np.intp, len(sums)), np.fromiter(sums.values(), np.float32, len(sums))
