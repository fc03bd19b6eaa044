"""What goes into the engine and what comes out: plain values that could cross a process border."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge.constraint import Constraint
from edge.settings import SamplingSettings

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """One completion of a prompt given as token ids."""

    prompt_tokens: tuple[int, ...]
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    max_tokens: int | None = None
    """None: as many as the context still holds."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; they are not part of it."""
    constraint: Constraint | None = None


@dataclass(frozen=True)
class TokenEvent:
    """A token joined the completion. `text` is what can be shown now: it lags behind where a character or a stop text
    may still be incomplete. `piece` is the token's own bytes."""

    token: int
    piece: bytes
    text: str


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens found in the KV cache, so not computed again."""
    completion_tokens: int


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


@dataclass(frozen=True)
class FailureEvent:
    """The last event of a request that the engine had to give up; a stream raises it as an EdgeError."""

    message: str
    hint: str


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
