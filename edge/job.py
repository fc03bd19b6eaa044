"""A request being worked on: what it still has to feed, how its next token is chosen, and what it has delivered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge.ending import Ending
from edge.errors import EdgeError
from edge.llama.sampler import PlainChoice, Sampler
from edge.llama.vocab import Vocab
from edge.logprobs import token_logprobs
from edge.matcher import Matcher
from edge.outbox import Outbox
from edge.request import (
    AdapterChoice,
    Delivery,
    FailureEvent,
    FinishEvent,
    FinishReason,
    Logprobs,
    Request,
    Timing,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from edge.stream import Stream
from edge.text import TextStream

_FORCED = Logprobs(0.0)


class Drafting(Protocol):
    """Guesses at what comes next; `edge.speculation.Speculation` is one."""

    def extend(self, tokens: Sequence[int]) -> None: ...
    def draft(self, limit: int, running_tokens: int) -> list[int]: ...
    def pass_by(self, steps: int) -> int: ...
    def learn(self, drafted: int, accepted: int) -> None: ...


@dataclass(frozen=True)
class Choice:
    """A token chosen from logits, or several where the constraint has to be brought to its end."""

    tokens: tuple[int, ...]
    logprobs: Logprobs | None
    is_closing: bool = False


class Job:
    """A request in the loop. `pending` are tokens that the next decode steps have to feed: prompt, then answer."""

    def __init__(
        self,
        request: Request,
        *,
        vocab: Vocab,
        adapters: tuple[AdapterChoice, ...],
        limit_tokens: int,
        context_tokens: int,
        matcher: Matcher | None,
        outbox: Outbox,
        on_cancel: Callable[[], None],
    ) -> None:
        self.request = request
        self.prompt = request.prompt_tokens
        self.adapters = adapters
        self.stream = Stream(on_cancel)
        self.limit_tokens = limit_tokens
        """Completion tokens at most: what the request or the context allows."""
        self.pending: list[int] = []
        self.completion_tokens = 0
        self.checkpoint_positions: set[int] = set()
        """Tokens behind which a checkpoint is wanted. No chunk of the prompt goes beyond one."""
        self.drafting: Drafting | None = None
        self.submitted = time.perf_counter()
        self.deadline = inf if request.deadline_seconds is None else self.submitted + request.deadline_seconds
        self._vocab = vocab
        self._outbox = outbox
        self._context_tokens = context_tokens
        self._matcher = matcher
        self._ending = Ending(matcher) if matcher else None
        self._ends = vocab.end_tokens | frozenset(request.stop_tokens)
        self._text = TextStream(request.stop)
        self._sampler: Sampler | None = None
        self._cached_tokens = self._forced_tokens = self._drafted_tokens = self._accepted_tokens = 0
        self._started = self._first = self._last = self.submitted

    @property
    def reserved_tokens(self) -> int:
        """KV cells the job may come to need."""
        return len(self.prompt) + self.limit_tokens

    @property
    def is_prefilling(self) -> bool:
        """Whether no token was chosen yet."""
        return self._first == self._started and bool(self.pending)

    @property
    def remaining_tokens(self) -> int:
        return self.limit_tokens - self.completion_tokens

    def start(self, cached_tokens: int) -> FinishReason | None:
        """Begin behind the prompt tokens that the cache holds already.

        What the constraint forces from the start is computed together with the prompt.
        """
        self._cached_tokens = cached_tokens
        self.pending = list(self.prompt[cached_tokens:])
        self._sampler = Sampler(
            self.request.sampling, self._vocab, prompt_tokens=self.prompt, context_tokens=self._context_tokens
        )
        self._started = self._first = self._last = time.perf_counter()
        return self._append(self._forced(), _FORCED)

    def plain_choice(self) -> PlainChoice | None:
        """What it takes to choose tokens from nothing but logits, if they need not be looked at one by one.

        `choose` has to be told the last token that is so chosen: it may be an end before its time.
        """
        is_looked_at = self._matcher or self.request.stop or self.request.logprobs is not None
        return None if is_looked_at or self._sampler is None else self._sampler.plain_choice()

    def choose(self, logits: npt.NDArray[np.float32], token: int | None = None) -> Choice:
        """What comes next: sampled freely first, and again over the allowed tokens only if that broke a rule.

        `token` is what was sampled freely, if that was done.
        """
        assert self._sampler is not None
        if token is None:
            token = self._sampler.choose(logits)
        if not self._is_allowed(token):
            token = self._sampler.choose(logits, self._allowed_tokens())
        logprobs = self._logprobs(logits, token) if self.request.logprobs is not None else None
        if self._ending and token not in self._ends:
            closing = self._ending.closing_instead_of(token, self.remaining_tokens)
            if closing is not None:
                return Choice(tuple(closing), _FORCED, is_closing=True)
        return Choice((token,), logprobs)

    def take(self, choice: Choice) -> FinishReason | None:
        """Make what was chosen, and what the constraint forces after it, part of the completion."""
        self._last = time.perf_counter()
        if self._first == self._started:
            self._first = self._last
        if choice.is_closing:
            self._append(map(self._accepted, choice.tokens), choice.logprobs)
            return "stop" if self._text.is_stopped else "length"
        (token,) = choice.tokens
        if token in self._ends:
            return "stop"
        reason = self._append(map(self._accepted, choice.tokens), choice.logprobs)
        if self._matcher is None:
            return reason
        return reason or self._append(self._forced(), _FORCED)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens behind which nothing follows, if they may come."""
        return self._ends

    @property
    def served_tokens(self) -> int:
        """Tokens that were computed for it, more or less."""
        return len(self.prompt) - self._cached_tokens + self.completion_tokens

    def learn(self, drafted: int, accepted: int) -> None:
        """Note how many guesses were fed, and how many of them were right."""
        self._drafted_tokens += drafted
        self._accepted_tokens += accepted
        if self.drafting:
            self.drafting.learn(drafted, accepted)

    def finish(self, reason: FinishReason) -> None:
        """Deliver the end and free what is native."""
        timing = Timing(self._started - self.submitted, self._first - self.submitted, self._last - self._first)
        usage = Usage(
            len(self.prompt),
            self._cached_tokens,
            self.completion_tokens,
            self._forced_tokens,
            self._drafted_tokens,
            self._accepted_tokens,
        )
        is_valid = self._matcher is None or self._matcher.is_accepting
        self.close()
        self._deliver(FinishEvent(self._text.finish(), reason, usage, timing, is_valid))

    def fail(self, error: EdgeError) -> None:
        """Deliver why the request cannot be finished and free what is native."""
        self.close()
        self._deliver(FailureEvent.of(error))

    def _deliver(self, delivery: Delivery) -> None:
        """Events wait until the loop has nothing else to do: whoever is woken by one wants the interpreter's lock."""
        self._outbox.put(self.stream, delivery)

    def close(self) -> None:
        if self._sampler:
            self._sampler.close()
            self._sampler = None

    # The rules

    @property
    def _may_end(self) -> bool:
        """Whether the completion may end before its limit, as far as the request goes."""
        return not self.request.ignore_eos and self.completion_tokens >= self.request.min_tokens

    def _is_allowed(self, token: int) -> bool:
        if token in self._ends:
            return self._may_end and (self._matcher is None or self._matcher.is_accepting)
        return self._matcher is None or self._matcher.is_allowed(token)

    def _allowed_tokens(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next; those that end the completion before its time only where nothing else can."""
        allowed = self._matcher.allowed_tokens() if self._matcher else np.ones(self._vocab.size, np.bool_)
        if self._may_end:
            return allowed
        without_ends = allowed.copy()
        without_ends[list(self._ends)] = False
        return without_ends if without_ends.any() else allowed

    def _logprobs(self, logits: npt.NDArray[np.float32], token: int) -> Logprobs:
        assert self.request.logprobs is not None
        logprob, top = token_logprobs(logits, token, self.request.logprobs)
        return Logprobs(logprob, tuple(TokenLogprob(each, self._vocab.piece(each), value) for each, value in top))

    # The completion

    def _append(self, tokens: Iterator[int], logprobs: Logprobs | None) -> FinishReason | None:
        """Add tokens to the completion, up to the one that ends it."""
        wants_logprobs = self.request.logprobs is not None
        added: list[int] = []
        reason: FinishReason | None = None
        for token in tokens:
            assert self._sampler is not None
            self._sampler.accept(token)
            self.completion_tokens += 1
            added.append(token)
            piece = self._vocab.piece(token)
            self._deliver(TokenEvent(token, piece, self._text.push(piece), logprobs if wants_logprobs else None))
            if self._text.is_stopped:
                reason = "stop"
                break
            if self.completion_tokens >= self.limit_tokens:
                reason = "length"
                break
        self.pending += added
        if self.drafting and added:
            self.drafting.extend(added)
        if reason is None and self._matcher and self._matcher.is_stopped:
            return "stop"
        return reason

    def _accepted(self, token: int) -> int:
        """The token, once the constraint knows of it."""
        if self._matcher:
            self._matcher.accept(token)
        return token

    def _forced(self) -> Iterator[int]:
        """The tokens that the constraint leaves no choice about, accepted one by one as they are taken."""
        if self._matcher is None:
            return
        for token in self._matcher.forced_tokens():
            self._forced_tokens += 1
            yield self._accepted(token)
