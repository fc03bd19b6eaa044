"""What everything above an engine needs of one, whether it runs in this process, in a child or is a fake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edge.checked import CheckedStream
from edge.prompt import Message
from edge.request import EngineStatus, Request
from edge.settings import SamplingSettings
from edge.stream import Stream


class TextEngine(Protocol):
    """A loaded model that answers requests. Every method may be called from any thread."""

    @property
    def context_tokens(self) -> int:
        """Tokens that one request may hold, prompt and completion."""

    @property
    def default_sampling(self) -> SamplingSettings:
        """What the model's makers recommend, where the file says so, and else the defaults."""

    def submit(self, request: Request) -> Stream | CheckedStream:
        """Queue a request and give its stream at once. EdgeError if it can never be answered."""

    def submit_choices(self, request: Request, count: int) -> Sequence[Stream | CheckedStream]:
        """Streams of several completions of one prompt, which is computed once. Each has a seed of its own."""

    def chat_tokens(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, object] | None = None,
        known_tokens: Sequence[int] = (),
    ) -> tuple[int, ...]:
        """The prompt of a conversation, up to where the answer begins. EdgeError if the template refuses it.

        `variables` are further names that the template reads (`tools`, `enable_thinking`, ...). Where the text begins
        like that of `known_tokens`, an earlier prompt and its answer, it is written in just these tokens.
        """

    def text_tokens(self, text: str) -> tuple[int, ...]:
        """A text to be continued as it is, as the model reads the beginning of one."""

    def tokens_text(self, tokens: Sequence[int]) -> str:
        """The text that tokens are, as a completion would show it. EdgeError if there are no such tokens."""

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """What the model makes of a text as one vector of length 1. EdgeError if it is empty or too long."""

    def status(self) -> EngineStatus:
        """How busy the engine is at this moment."""

    def save_prefix(self, tokens: Sequence[int], path: Path) -> int:
        """Write what is computed of the beginning of these tokens to a file; gives how many of them that are.

        With 0, nothing is written. EdgeError if the place cannot be written.
        """

    def load_prefix(self, path: Path) -> int:
        """Take in what `save_prefix` wrote: the next prompt that begins with it goes on from there; gives its tokens.

        EdgeError if the file is damaged, was made with something else than this engine has, or does not fit.
        """
