"""The engine that everything runs on, in a process of its own or in this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from edge.checked import CheckedStream
    from edge.gguf_file import GGUFFile
    from edge.local_engine import LocalEngine
    from edge.prompt import Message
    from edge.request import EngineStatus, Request
    from edge.settings import ModelSettings, SamplingSettings
    from edge.stream import Stream
    from edge.worker import WorkerEngine


class Engine:
    """A loaded model that answers requests. A context manager; closing it ends what is still running.

    Isolated, a crash of native code ends the requests in flight with an EdgeError, and the next one starts afresh.
    Every method may be called from any thread.
    """

    def __init__(self, model: Path | GGUFFile, settings: ModelSettings | None = None, *, isolate: bool = True) -> None:
        """`model` is a GGUF file, which need not be read again if it has been."""
        self.path = model if isinstance(model, Path) else model.path
        self._engine = _open_isolated(self.path, settings) if isolate else _open_here(model, settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def context_tokens(self) -> int:
        """Tokens that one request may hold, prompt and completion."""
        return self._engine.context_tokens

    @property
    def default_sampling(self) -> SamplingSettings:
        """What the model's makers recommend, where the file says so, and else the defaults."""
        return self._engine.default_sampling

    def submit(self, request: Request) -> Stream | CheckedStream:
        """Queue a request and give its stream at once. EdgeError if it can never be answered.

        Where a JSON Schema says more than can be enforced, the stream gives only a reply that was checked.
        """
        return self._engine.submit(request)

    def submit_choices(self, request: Request, count: int) -> Sequence[Stream | CheckedStream]:
        """Streams of several completions of one prompt, which is computed once. Each has a seed of its own."""
        return self._engine.submit_choices(request, count)

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
        return self._engine.chat_tokens(messages, variables, known_tokens)

    def text_tokens(self, text: str) -> tuple[int, ...]:
        """A text to be continued as it is, as the model reads the beginning of one."""
        return self._engine.text_tokens(text)

    def tokens_text(self, tokens: Sequence[int]) -> str:
        """The text that tokens are, as a completion would show it. EdgeError if there are no such tokens."""
        return self._engine.tokens_text(tokens)

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """What the model makes of a text as one vector of length 1. EdgeError if it is empty or too long."""
        return self._engine.embed(tokens)

    def status(self) -> EngineStatus:
        """How busy the engine is at this moment."""
        return self._engine.status()

    def save_prefix(self, tokens: Sequence[int], path: Path) -> int:
        """Write what is computed of the beginning of these tokens to a file; gives how many of them that are.

        With 0, nothing is written. EdgeError if the place cannot be written.
        """
        return self._engine.save_prefix(tokens, path)

    def load_prefix(self, path: Path) -> int:
        """Take in what `save_prefix` wrote: the next prompt that begins with it goes on from there; gives its tokens.

        EdgeError if the file is damaged, was made with something else than this engine has, or does not fit.
        """
        return self._engine.load_prefix(path)

    def close(self) -> None:
        """End running requests as cancelled and free the model. Safe to call twice."""
        self._engine.close()


def _open_isolated(path: Path, settings: ModelSettings | None) -> LocalEngine | WorkerEngine:
    from edge.worker_launch import launch

    process = launch()  # before the imports, which take as long as the process needs to get ready
    from edge.worker import WorkerEngine

    return WorkerEngine(path, settings, process=process)


def _open_here(model: Path | GGUFFile, settings: ModelSettings | None) -> LocalEngine | WorkerEngine:
    from edge.gguf_file import read_gguf
    from edge.model_loading import ModelLoading
    from edge.settings import ModelSettings

    settings = settings or ModelSettings()
    file = read_gguf(model) if isinstance(model, Path) else model
    with ModelLoading(file, settings) as loading:  # before the imports, which take as long
        from edge.local_engine import LocalEngine

        return LocalEngine(file, settings, loading=loading)
