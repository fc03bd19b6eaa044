"""What goes into the engine and what comes out: plain values that could cross a process border."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from edge.errors import EdgeError, EngineFailedError
from edge.settings import SamplingSettings

if TYPE_CHECKING:
    from edge.constraint import Constraint  # numpy comes with it, which a chat with an engine elsewhere can do without

FinishReason = Literal["stop", "length", "cancelled", "deadline"]
FailureKind = Literal["request", "engine"]
"""Whose fault it is that there is no answer: what was asked cannot be done, or the engine could not do it."""


@dataclass(frozen=True)
class AdapterChoice:
    """A loaded LoRA adapter, by the stem of its file name, and the share of it that is added to the weights."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class Request:
    """One completion of a prompt given as token ids."""

    prompt_tokens: tuple[int, ...]
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    max_tokens: int | None = None
    """None: as many as the context still holds."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; they are not part of it."""
    stop_tokens: tuple[int, ...] = ()
    """Tokens that end the completion, as those do that end a turn; they are not part of it."""
    min_tokens: int = 0
    """The completion does not end before it has as many, unless its constraint leaves nothing else."""
    ignore_eos: bool = False
    """Go on to `max_tokens`: tokens that would end the completion are not chosen."""
    logprobs: int | None = None
    """With each token, its log probability and those of this many likeliest tokens."""
    constraint: Constraint | None = None
    adapters: tuple[AdapterChoice, ...] | None = None
    """LoRA adapters to answer with; None: all that the engine has loaded, each at its own scale."""
    priority: int = 0
    """Of waiting requests, higher ones are started first."""
    client: str = ""
    """On whose behalf: clients get equal shares of a busy engine, however many requests each has waiting."""
    deadline_seconds: float | None = None
    """Time from submission after which the request ends with what there is."""


def choices_of(request: Request, count: int) -> list[Request]:
    """A request as often as it is to be answered, with seeds counted up. EdgeError if that is never."""
    if count < 1:
        raise EdgeError(f"{count} completions were asked for.", hint="Ask for at least 1.")
    sampling = request.sampling
    if sampling.seed is None:
        return [request] * count
    return [replace(request, sampling=replace(sampling, seed=sampling.seed + index)) for index in range(count)]


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its natural log probability as the model sees it, before sampling settings and constraint."""

    token: int
    piece: bytes
    logprob: float


@dataclass(frozen=True)
class Logprobs:
    """The log probability of a chosen token, and the likeliest tokens in its place, best first.

    A token that the constraint forced was not chosen from anything: its `logprob` is 0 and there are no others.
    """

    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """A token joined the completion. `text` is what can be shown now: it lags behind where a character or a stop text
    may still be incomplete. `piece` is the token's own bytes."""

    token: int
    piece: bytes
    text: str
    logprobs: Logprobs | None = None
    """There if the request asked for them."""


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens found in the KV cache, so not computed again."""
    completion_tokens: int
    forced_tokens: int = 0
    """Completion tokens that the constraint left no choice about, so that they cost no forward pass of their own."""
    drafted_tokens: int = 0
    """Guesses that were computed ahead."""
    accepted_tokens: int = 0
    """Guesses that turned out right."""


@dataclass(frozen=True)
class Timing:
    """Seconds: waiting for a slot, from submission to the first token, and from there to the last."""

    queued_seconds: float
    first_token_seconds: float
    decode_seconds: float

    def tokens_per_second(self, usage: Usage) -> float:
        """Decode rate, the first token (which belongs to the prefill) left out; 0 if there were no others."""
        return (usage.completion_tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class FinishEvent:
    """The last event. `text` is what had been held back."""

    text: str
    reason: FinishReason
    usage: Usage
    timing: Timing
    is_valid: bool = True
    """False if the request ended before its constraint was met."""


@dataclass(frozen=True)
class FailureEvent:
    """The last event of a request that the engine had to give up.

    A stream raises it as an EngineFailedError, or as a plain EdgeError if the request is at fault.
    """

    message: str
    hint: str
    kind: FailureKind = "engine"

    @classmethod
    def of(cls, error: EdgeError) -> FailureEvent:
        return cls(error.message, error.hint, "engine" if isinstance(error, EngineFailedError) else "request")

    def error(self) -> EdgeError:
        kind = EngineFailedError if self.kind == "engine" else EdgeError
        return kind(self.message, hint=self.hint)


@dataclass(frozen=True)
class EngineStatus:
    """How busy an engine is."""

    running: int
    """Requests that have a sequence."""
    held_tokens: int
    """Cells of the KV cache that hold something, kept ones of idle sequences included."""
    cache_tokens: int
    """Cells that there are."""


Event = TokenEvent | FinishEvent
Delivery = Event | FailureEvent


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timing: Timing
    logprobs: tuple[Logprobs, ...] = ()
    """One for each token, if they were asked for."""
    is_valid: bool = True
    """False if the request ended before its constraint was met."""
