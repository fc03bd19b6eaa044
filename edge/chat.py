"""A conversation: its history, and how much of it fits the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from edge.branches import Branches, shared_messages
from edge.checked import CheckedStream
from edge.errors import EdgeError
from edge.prompt import Message
from edge.request import AdapterChoice, Completion, FinishEvent, Request, TokenEvent
from edge.settings import SamplingSettings
from edge.stream import Stream
from edge.text_engine import TextEngine

if TYPE_CHECKING:
    from edge.constraint import Constraint

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
    branches: Branches = field(default_factory=Branches)
    """What became of it otherwise."""


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
        start: int,
    ) -> None:
        """`start` is where in the chat's messages the question will stand."""
        self.dropped_messages = dropped_messages
        """Messages that the context had no room for any more, newly left out of this prompt."""
        self.completion: Completion | None = None
        self.prompt_tokens = prompt_tokens
        self.new_tokens = len(prompt_tokens) - shared_tokens(prompt_tokens, chat.tokens)
        """Tokens of the prompt that the last turn had not."""
        self._chat = chat
        self._message = message
        self._start = start
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
                    self.completion = Completion(
                        text, tokens, event.reason, event.usage, event.timing, is_valid=event.is_valid
                    )
                if event.text:
                    yield event.text
        finally:
            self._record()

    def _record(self) -> None:
        """Make the question and what was written part of the conversation, once; not if nothing was written."""
        is_whole = self.completion is not None and self.completion.finish_reason != "cancelled"
        if not self._is_recorded and (self._tokens or is_whole):
            self._is_recorded = True
            answer = Message("assistant", "".join(self._pieces))
            self._chat.add_turn(self._start, self._message, answer, (*self.prompt_tokens, *self._tokens))

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
    the reply says how many; with `overflow="error"` the question is refused instead. A turn that is answered or asked
    again leaves the earlier line of the conversation as a branch.
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
        self.branches = Branches()
        self.max_tokens = max_tokens
        self.constraint: Constraint | None = None
        """What every answer must match."""
        self.adapters: tuple[AdapterChoice, ...] | None = None
        """LoRA adapters to answer with; None: all that the engine has loaded."""
        self._engine = engine
        self._sampling = sampling
        self._changes: dict[str, Any] = {}
        self._stop = tuple(stop)
        self._overflow = overflow
        self._left_out = 0

    def send(self, text: str, *, turn: int | None = None) -> Reply:
        """Ask; the answer is written as the reply is iterated. EdgeError if the question alone is too long.

        With `turn`, counted from 1, the question takes the place of that turn's, and what follows from there is kept
        as a branch as soon as there is an answer.
        """
        start = len(self.messages) if turn is None else self._start_of(turn)
        message = Message("user", text)
        before = self._left_out if self._left_out <= start else 0
        tokens, left_out = self._prompt(self.messages[:start], message, before)
        stream = self._engine.submit(
            Request(
                tokens,
                sampling=self.sampling,
                max_tokens=self.max_tokens,
                stop=self._stop,
                constraint=self.constraint,
                adapters=self.adapters,
            )
        )
        self._left_out = left_out  # not before: a question that is refused leaves the conversation as it was
        return Reply(self, message, tokens, stream, max(left_out - before, 0), start)

    def add_turn(self, start: int, question: Message, answer: Message, tokens: tuple[int, ...]) -> None:
        """Take in what was said after the first `start` messages; `tokens` are those of the prompt and the answer."""
        line = [*self.messages[:start], question, answer]
        if start < len(self.messages):
            self.branches = self.branches.left(self.messages, line)
        self.messages = line
        self.tokens = tokens

    def clear(self) -> None:
        """Forget every turn and branch; the system text stays."""
        self.messages.clear()
        self.tokens = ()
        self.branches = Branches()
        self._left_out = 0

    def undo(self) -> str | None:
        """Take back the last turn; gives its question, or None if there is none."""
        questions = self.questions
        if not questions:
            return None
        self._cut(self._start_of(len(questions)))
        return questions[-1]

    def switch_branch(self, number: int) -> None:
        """Go on with another branch, counted from 1. EdgeError if there is none of this number."""
        self.branches, line = self.branches.switched(self.messages, number)
        if self._left_out > shared_messages(self.messages, line):
            self._left_out = 0
        self.messages = list(line)

    @property
    def questions(self) -> list[str]:
        """What was asked in each turn."""
        return [message.content for message in self.messages if message.role == "user"]

    @property
    def context_tokens(self) -> int:
        """Tokens that a prompt and its answer may have."""
        return self._engine.context_tokens

    @property
    def left_out(self) -> int:
        """The oldest messages, as many as prompts have no room for any more."""
        return self._left_out

    @property
    def sampling(self) -> SamplingSettings:
        """What the model's makers recommend or was given at first, with what was set since."""
        chosen = self._sampling or self._engine.default_sampling
        return replace(chosen, **self._changes) if self._changes else chosen

    @property
    def sampling_changes(self) -> dict[str, Any]:
        """The sampling settings that were set one by one."""
        return dict(self._changes)

    def set_sampling(self, name: str, value: object) -> None:
        """Set one sampling setting, by the name that it has in `SamplingSettings`. EdgeError if it cannot be."""
        changes = {**self._changes, name: value}
        replace(self._sampling or SamplingSettings(), **changes)
        self._changes = changes

    def reset_sampling(self, name: str) -> None:
        """Give a sampling setting the model's default again."""
        self._changes.pop(name, None)
        if self._sampling is not None:
            self._changes[name] = getattr(self._engine.default_sampling, name)

    def count_tokens(self, text: str) -> int:
        """Tokens of a prompt that has nothing but the system text and this."""
        return len(self._tokens([], Message("user", text)))

    def use(self, engine: TextEngine) -> None:
        """Go on with another model; what it computes is its own. Settings that differed from defaults still do."""
        if self._sampling is not None:
            before = self._engine.default_sampling
            differing = [f.name for f in fields(before) if getattr(self._sampling, f.name) != getattr(before, f.name)]
            self._changes = {name: getattr(self._sampling, name) for name in differing} | self._changes
            self._sampling = None
        self._engine = engine
        self.tokens = ()
        self.adapters = None
        self._left_out = 0

    def conversation(self) -> Conversation:
        """What there is to go on from later."""
        return Conversation(tuple(self.messages), self.system, self._left_out, self.tokens, self.branches)

    def resume(self, conversation: Conversation, sampling: SamplingSettings | None = None) -> None:
        """Go on from an earlier conversation in the place of this one, and with its settings if they are given."""
        if sampling is not None:
            self._sampling, self._changes = sampling, {}
        self.messages = list(conversation.messages)
        self.system = conversation.system
        self.tokens = conversation.tokens
        self.branches = conversation.branches
        self._left_out = conversation.left_out

    def _start_of(self, turn: int) -> int:
        """The index of a turn's question. EdgeError if there is no such turn."""
        starts = [index for index, message in enumerate(self.messages) if message.role == "user"]
        if not 1 <= turn <= len(starts):
            known = f"Turns: 1 to {len(starts)}." if starts else "Nothing was said yet."
            raise EdgeError(f"There is no turn {turn}.", hint=known)
        return starts[turn - 1]

    def _cut(self, start: int) -> None:
        del self.messages[start:]
        if self._left_out > start:
            self._left_out = 0

    def _prompt(self, history: list[Message], message: Message, left_out: int) -> tuple[tuple[int, ...], int]:
        """Tokens of the conversation with one more message, and how many old messages are left out of them."""
        context = self.context_tokens
        answer = min(self.max_tokens or context // _ANSWER_SHARE, context // _KEPT_SHARE)
        tokens = self._tokens(history[left_out:], message)
        if self._overflow == "error":
            self._check_fits(len(tokens))
        elif len(tokens) + answer > context:
            while left_out < len(history) and len(tokens) > context // _KEPT_SHARE:
                left_out = _next_turn(history, left_out)
                tokens = self._tokens(history[left_out:], message)
        return tokens, left_out

    def _check_fits(self, prompt_tokens: int) -> None:
        """EdgeError if the whole conversation does not fit, together with an answer of the stated length."""
        answer_tokens = self.max_tokens or 1
        if prompt_tokens + answer_tokens > self.context_tokens:
            raise EdgeError(
                f"The conversation has {prompt_tokens} tokens, and its answer may have {answer_tokens}:"
                f" more than the {self.context_tokens} of the context.",
                hint='Begin a new one, ask for a longer context with --ctx, or leave out old turns: overflow "drop".',
            )

    def _tokens(self, history: list[Message], message: Message) -> tuple[int, ...]:
        system = [] if self.system is None else [Message("system", self.system)]
        return self._engine.chat_tokens([*system, *history, message], known_tokens=self.tokens)


def shared_tokens(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    pairs = zip(tokens, others, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(others)))


def _next_turn(history: list[Message], start: int) -> int:
    """Where the turn after the one at `start` begins."""
    later = range(start + 1, len(history))
    return next((index for index in later if history[index].role == "user"), len(history))
