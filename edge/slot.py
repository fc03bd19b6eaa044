"""One sequence of the context: the tokens its KV cache holds, and the request that is using it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edge.constraint import Matcher
from edge.errors import EdgeError
from edge.llama.sampler import Sampler
from edge.llama.vocab import Vocab
from edge.request import FailureEvent, FinishEvent, FinishReason, Request, Timing, TokenEvent, Usage
from edge.stream import Stream
from edge.text import TextStream


class Job:
    """A request being worked on. `pending` are tokens that the next decode steps have to feed: prompt, then answer."""

    def __init__(self, request: Request, stream: Stream, limit_tokens: int, submitted_seconds: float) -> None:
        self.request = request
        self.stream = stream
        self.limit_tokens = limit_tokens
        """Completion tokens at most: what the request or the context allows."""
        self.pending: list[int] = []
        self.cached_tokens = 0
        self.completion_tokens = 0
        self._submitted = submitted_seconds
        self._started = self._first = self._last = submitted_seconds
        self._text = TextStream(request.stop)
        self._sampler: Sampler | None = None
        self._matcher: Matcher | None = None

    @property
    def reserved_tokens(self) -> int:
        """KV cells the job may come to need."""
        return len(self.request.prompt_tokens) + self.limit_tokens

    def start(self, cached_tokens: int, matcher: Matcher | None, vocab: Vocab) -> FinishReason | None:
        """Begin behind the prompt tokens that the cache holds already.

        What the constraint forces from the start is computed together with the prompt.
        """
        self._started = time.perf_counter()
        self.cached_tokens = cached_tokens
        self.pending = list(self.request.prompt_tokens[cached_tokens:])
        self._sampler = Sampler(
            self.request.sampling, vocab, prompt_tokens=self.request.prompt_tokens, context_tokens=self.reserved_tokens
        )
        self._matcher = matcher
        self._first = self._last = self._started
        return self._append(self._forced(), vocab)

    def choose(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token: sampled freely first, and again over the allowed ones only if it breaks the constraint.

        Overwrites forbidden logits in place.
        """
        assert self._sampler is not None
        token = self._sampler.choose(logits)
        if self._matcher and not self._matcher.is_allowed(token):
            self._matcher.mask_logits(logits)
            token = self._sampler.choose(logits)
        return token

    def take(self, token: int, vocab: Vocab) -> FinishReason | None:
        """Make a chosen token, and those that the constraint forces after it, part of the completion."""
        now = time.perf_counter()
        self._first = self._first if self.completion_tokens else now
        self._last = now
        if vocab.is_end_of_generation(token):
            return "stop"
        return self._append(self._with_forced(token), vocab)

    def _append(self, tokens: Iterator[int], vocab: Vocab) -> FinishReason | None:
        """Add tokens to the completion, up to the one that ends it."""
        for following in tokens:
            assert self._sampler is not None
            self._sampler.accept(following)
            self.completion_tokens += 1
            piece = vocab.piece(following)
            self.stream.deliver(TokenEvent(following, piece, self._text.push(piece)))
            self.pending.append(following)
            if self._text.is_stopped:
                return "stop"
            if self.completion_tokens >= self.limit_tokens:
                return "length"
        return "stop" if self._matcher and self._matcher.is_stopped else None

    def finish(self, reason: FinishReason) -> None:
        """Deliver the end and free what is native."""
        timing = Timing(self._started - self._submitted, self._first - self._submitted, self._last - self._first)
        usage = Usage(len(self.request.prompt_tokens), self.cached_tokens, self.completion_tokens)
        self.close()
        self.stream.deliver(FinishEvent(self._text.finish(), reason, usage, timing))

    def fail(self, error: EdgeError) -> None:
        """Deliver why the request cannot be finished and free what is native."""
        self.close()
        self.stream.deliver(FailureEvent(error.message, error.hint))

    def close(self) -> None:
        if self._sampler:
            self._sampler.close()
            self._sampler = None

    def _with_forced(self, token: int) -> Iterator[int]:
        yield token
        if self._matcher:
            self._matcher.accept(token)
        yield from self._forced()

    def _forced(self) -> Iterator[int]:
        """The tokens that the constraint leaves no choice about, accepted one by one as they are taken."""
        if self._matcher is None:
            return
        for forced in self._matcher.forced_tokens():
            self._matcher.accept(forced)
            yield forced


class Slot:
    """A sequence number with the tokens whose keys and values the context holds for it, oldest first."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.held_tokens: list[int] = []
        self.job: Job | None = None
        self.last_used = 0.0

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` are what the slot holds."""
        length = min(len(tokens), len(self.held_tokens))
        if list(tokens[:length]) == self.held_tokens[:length]:
            return length
        return next(index for index in range(length) if tokens[index] != self.held_tokens[index])
