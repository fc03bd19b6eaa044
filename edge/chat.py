"""A conversation: its history, and how much of it fits the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edge.checked import CheckedStream
from edge.errors import EdgeError
from edge.prompt import Message
from edge.request import Completion, FinishEvent, Request, TokenEvent
from edge.settings import SamplingSettings
from edge.stream import Stream
from edge.text_engine import TextEngine

_KEPT_SHARE = 2  # when history overflows, it is cut back to 1/2 of the context, so that the next turns reuse the cache
_ANSWER_SHARE = 4  # 1/4 of the context is kept free for an answer of unstated length


@dataclass(frozen=True)
class Conversation:
    """All that a chat remembers, as a value."""

    messages: tuple[Message, ...] = ()
    system: str | None = None
    left_out: int = 0
    """The oldest messages, as many as prompts have no room for any more."""
    tokens: tuple[int, ...] = ()
    """The last prompt with its answer, as the engine's cache holds them."""


class Reply:
    """An answer as it is written: iterate over its text. `completion` is there once the iteration has ended.

    Leaving the loop early cancels the answer; what was written by then stays in the conversation.
    """

    def __init__(
        self,
        chat: Chat,
        message: Message,
        prompt_tokens: tuple[int, ...],
        stream: Stream | CheckedStream,
        dropped_messages: int,
    ) -> None:
        self.dropped_messages = dropped_messages
        """Messages that the context had no room for any more, newly left out of this prompt."""
        self.completion: Completion | None = None
        self._chat = chat
        self._message = message
        self._prompt_tokens = prompt_tokens
        self._stream = stream
        self._pieces: list[str] = []
        self._tokens: list[int] = []
        self._is_recorded = False

    def __iter__(self) -> Iterator[str]:
        try:
            for event in self._stream:
                self._pieces.append(event.text)
                if isinstance(event, TokenEvent):
                    self._tokens.append(event.token)
                if isinstance(event, FinishEvent):
                    text, tokens = "".join(self._pieces), tuple(self._tokens)
                    self.completion = Completion(text, tokens, event.reason, event.usage, event.timing)
                if event.text:
                    yield event.text
        finally:
            self._record()

    def _record(self) -> None:
        """Make the question and what was written part of the conversation, once; not if nothing was written."""
        is_whole = self.completion is not None and self.completion.finish_reason != "cancelled"
        if not self._is_recorded and (self._tokens or is_whole):
            self._is_recorded = True
            self._chat.messages += [self._message, Message("assistant", "".join(self._pieces))]
            self._chat.tokens = (*self._prompt_tokens, *self._tokens)

    def cancel(self) -> None:
        """End the answer where it is; the iteration then ends with what there is."""
        self._stream.cancel()

    def result(self) -> Completion:
        """Wait for the whole answer."""
        for _ in self:
            pass
        assert self.completion is not None
        return self.completion


class Chat:
    """Turns with a model. Each turn's prompt begins with the last one's, whose KV cache the engine reuses.

    When the history outgrows the context, the oldest turns are left out of the prompt, never out of `messages`, and
    the reply says how many; with `overflow="error"` the question is refused instead.
    """

    def __init__(
        self,
        engine: TextEngine,
        *,
        system: str | None = None,
        sampling: SamplingSettings | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        overflow: Literal["drop", "error"] = "drop",
    ) -> None:
        self.messages: list[Message] = []
        self.system = system
        self.tokens: tuple[int, ...] = ()
        """The last prompt with its answer. As far as the next prompt is the same text, it has the same tokens."""
        self.context_tokens = engine.context_tokens
        self._engine = engine
        self._sampling = sampling or engine.default_sampling
        self._max_tokens = max_tokens
        self._stop = tuple(stop)
        self._overflow = overflow
        self._left_out = 0

    def send(self, text: str) -> Reply:
        """Ask; the answer is written as the reply is iterated. EdgeError if the question alone is too long."""
        message = Message("user", text)
        tokens, left_out = self._prompt(message)
        stream = self._engine.submit(
            Request(tokens, sampling=self._sampling, max_tokens=self._max_tokens, stop=self._stop)
        )
        dropped = left_out - self._left_out
        self._left_out = left_out  # not before: a question that is refused leaves the conversation as it was
        return Reply(self, message, tokens, stream, dropped)

    def clear(self) -> None:
        """Forget every turn; the system text stays."""
        self.messages.clear()
        self.tokens = ()
        self._left_out = 0

    @property
    def sampling(self) -> SamplingSettings:
        return self._sampling

    def conversation(self) -> Conversation:
        """What there is to go on from later."""
        return Conversation(tuple(self.messages), self.system, self._left_out, self.tokens)

    def resume(self, conversation: Conversation) -> None:
        """Go on from an earlier conversation in the place of this one."""
        self.messages = list(conversation.messages)
        self.system = conversation.system
        self.tokens = conversation.tokens
        self._left_out = conversation.left_out

    def _prompt(self, message: Message) -> tuple[tuple[int, ...], int]:
        """Tokens of the conversation with one more message, and how many old messages are left out of them."""
        context = self.context_tokens
        answer = min(self._max_tokens or context // _ANSWER_SHARE, context // _KEPT_SHARE)
        left_out = self._left_out
        tokens = self._tokens(message, left_out)
        if self._overflow == "error":
            self._check_fits(len(tokens))
        elif len(tokens) + answer > context:
            while left_out < len(self.messages) and len(tokens) > context // _KEPT_SHARE:
                left_out = self._next_turn(left_out)
                tokens = self._tokens(message, left_out)
        return tokens, left_out

    def _check_fits(self, prompt_tokens: int) -> None:
        """EdgeError if the whole conversation does not fit, together with an answer of the stated length."""
        answer_tokens = self._max_tokens or 1
        if prompt_tokens + answer_tokens > self.context_tokens:
            raise EdgeError(
                f"The conversation has {prompt_tokens} tokens, and its answer may have {answer_tokens}:"
                f" more than the {self.context_tokens} of the context.",
                hint='Begin a new one, ask for a longer context with --ctx, or leave out old turns: overflow "drop".',
            )

    def _next_turn(self, start: int) -> int:
        """Where the turn after the one at `start` begins."""
        later = range(start + 1, len(self.messages))
        return next((index for index in later if self.messages[index].role == "user"), len(self.messages))

    def _tokens(self, message: Message, left_out: int) -> tuple[int, ...]:
        system = [] if self.system is None else [Message("system", self.system)]
        return self._engine.chat_tokens([*system, *self.messages[left_out:], message], known_tokens=self.tokens)
