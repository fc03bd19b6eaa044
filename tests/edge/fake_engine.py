"""An engine without a model: everything above `Engine.submit` can be tested with it in milliseconds."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edge.errors import EdgeError
from edge.known_tokens import with_known_tokens
from edge.prefix_file import open_prefix, write_prefix
from edge.prefix_identity import PrefixIdentity
from edge.prompt import Message, PromptTemplate, plain_tokens
from edge.request import (
    Completion,
    EngineStatus,
    Event,
    FinishEvent,
    FinishReason,
    Request,
    Timing,
    TokenEvent,
    Usage,
)
from edge.settings import SamplingSettings
from edge.stream import Stream, completion_of
from tests.edge.toy_vocabulary import FIRST_CHARACTER_TOKEN, ToyVocabulary

CONTROL = ("<|im_start|>", "<|im_end|>")
TIMING = Timing(queued_seconds=0.0, first_token_seconds=0.25, decode_seconds=0.5)

LAST_TOKEN = FIRST_CHARACTER_TOKEN + sys.maxunicode

Answer = str | EdgeError


class FakeEngine:
    """Answers requests with what it was told to, one token for each word, and remembers them.

    Prompts are ChatML with one token for each character. An EdgeError among the answers refuses the request. Without
    any answers left it says "ok". Requests may limit their tokens. `before_token` is called with each word on its way.
    Prefix files are real ones with a made-up state; `loaded_tokens` are those of the last one that was loaded.
    """

    def __init__(self, answers: Iterable[Answer] = (), *, context_tokens: int = 4096) -> None:
        self.vocab = ToyVocabulary(CONTROL)
        self.template = PromptTemplate.of_model(None, self.vocab)
        self.default_sampling = SamplingSettings(temperature=0.5)
        self.context_tokens = context_tokens
        self.requests: list[Request] = []
        self.is_closed = False
        self.before_token: Callable[[str], None] = lambda word: None
        self.identity = PrefixIdentity(model="fake 0", adapters="", cache="keys F16", library="1 (a)")
        self.loaded_tokens: tuple[int, ...] = ()
        self._answers = deque(answers)

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.is_closed = True

    def chat_tokens(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, object] | None = None,
        known_tokens: Sequence[int] = (),
    ) -> tuple[int, ...]:
        return with_known_tokens(
            self.template.tokens(messages, self.vocab, variables=variables), known_tokens, self.vocab
        )

    def text_tokens(self, text: str) -> tuple[int, ...]:
        return tuple(plain_tokens(text, self.vocab))

    def tokens_text(self, tokens: Sequence[int]) -> str:
        unknown = next((token for token in tokens if token > LAST_TOKEN), None)
        if unknown is not None:
            raise EdgeError(f"There is no token {unknown}.", hint="Give others.")
        return "".join(map(self.vocab.text, tokens))

    def embed(self, tokens: Sequence[int]) -> list[float]:
        return [len(tokens) / 5, 0.5]

    def status(self) -> EngineStatus:
        return EngineStatus(running=0, held_tokens=7, cache_tokens=self.context_tokens)

    def submit(self, request: Request) -> FakeStream:
        answer = self._answers.popleft() if self._answers else "ok"
        if isinstance(answer, EdgeError):
            raise answer
        self.requests.append(request)
        return FakeStream(re.findall(r"\S+\s*|\s+", answer), request, self.before_token)

    def save_prefix(self, tokens: Sequence[int], path: Path) -> int:
        write_prefix(path, self.identity, tokens, b"state")
        return len(tokens)

    def load_prefix(self, path: Path) -> int:
        prefix = open_prefix(path)
        prefix.check_identity(self.identity)
        self.loaded_tokens = prefix.tokens
        return len(prefix.tokens)

    def prompt(self, number: int = -1) -> str:
        """The text of a request's prompt, control tokens written out."""
        return "".join(map(self.vocab.text, self.requests[number].prompt_tokens))


class FakeStream:
    """A stream that makes each event when it is asked for, so that a cancellation takes effect at a known place."""

    text = Stream.text

    def __init__(self, words: list[str], request: Request, before_token: Callable[[str], None]) -> None:
        self.is_cancelled = False
        self._words = deque(words[: request.max_tokens])
        self._end: FinishReason = "stop" if len(self._words) == len(words) else "length"
        self._request = request
        self._before_token = before_token
        self._made = 0
        self._is_finished = False

    def __iter__(self) -> Iterator[Event]:
        try:
            while self._words and not self.is_cancelled:
                word = self._words.popleft()
                self._before_token(word)
                self._made += 1
                yield TokenEvent(self._made, word.encode(), word)
            if not self._is_finished:
                self._is_finished = True
                usage = Usage(len(self._request.prompt_tokens), 0, self._made)
                reason = "cancelled" if self.is_cancelled else self._end
                yield FinishEvent("", reason, usage, TIMING, reason == "stop" or not self._request.constraint)
        finally:
            self.is_cancelled = True

    def result(self) -> Completion:
        return completion_of(self)

    def cancel(self) -> None:
        self.is_cancelled = True
