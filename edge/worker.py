"""The engine in a child process: what ends native code, a crash, a kill or a hang, does not end the host.

Requests that were in flight end with an EdgeError that says what happened, and the next one starts a fresh process.
Replies to schemas are checked here, beside their consumer, as in process: the child only enforces.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import Any, Self

from edge.checked import CheckedStream, submit_checked
from edge.errors import EngineGoneError
from edge.prompt import Message
from edge.request import EngineStatus, Request, choices_of
from edge.settings import ModelSettings, SamplingSettings
from edge.stream import Stream
from edge.wire import Method, Opened
from edge.worker_connection import EngineDiedError, WorkerConnection, WorkerSettings
from edge.worker_launch import launch

_START_ATTEMPTS = 3
_BACKOFF_SECONDS = 0.5


class WorkerEngine:
    """A model that is loaded in a process of its own. A context manager; closing it ends what is still running.

    Opening fails with the errors of an engine in this process. Every method may be called from any thread. The first
    call after the process died waits for a fresh one to load the model.
    """

    def __init__(
        self,
        path: Path,
        settings: ModelSettings | None = None,
        worker: WorkerSettings | None = None,
        *,
        process: Popen[bytes] | None = None,
    ) -> None:
        """`process` is one that `launch` started earlier, so that it could get ready meanwhile."""
        self.path = path
        self._settings = settings or ModelSettings()
        self._worker_settings = worker or WorkerSettings()
        self._starting = threading.Lock()
        self._closed = threading.Event()
        self._connection = self._connect(process or launch())
        self._opened = self._connection.opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_id(self) -> int:
        """Of the process that is, or was last, running."""
        return self._connection.process_id

    @property
    def context_tokens(self) -> int:
        """Tokens that one request may hold, prompt and completion."""
        return self._opened.context_tokens

    @property
    def default_sampling(self) -> SamplingSettings:
        """What the model's makers recommend, where the file says so, and else the defaults."""
        return self._opened.default_sampling

    def submit(self, request: Request) -> Stream | CheckedStream:
        """Queue a request and give its stream at once. EdgeError if it can never be answered."""
        return submit_checked(request, self._submit)

    def submit_choices(self, request: Request, count: int) -> list[Stream | CheckedStream]:
        """Streams of several completions of one prompt, which is computed once. Each has a seed of its own."""
        return [self.submit(each) for each in choices_of(request, count)]

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
        named = None if variables is None else dict(variables)
        tokens: tuple[int, ...] = self._call("chat_tokens", tuple(messages), named, tuple(known_tokens))
        return tokens

    def text_tokens(self, text: str) -> tuple[int, ...]:
        """A text to be continued as it is, as the model reads the beginning of one."""
        tokens: tuple[int, ...] = self._call("text_tokens", text)
        return tokens

    def tokens_text(self, tokens: Sequence[int]) -> str:
        """The text that tokens are, as a completion would show it. EdgeError if there are no such tokens."""
        text: str = self._call("tokens_text", tuple(tokens))
        return text

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """What the model makes of a text as one vector of length 1. EdgeError if it is empty or too long."""
        vector: list[float] = self._call("embed", tuple(tokens))
        return vector

    def status(self) -> EngineStatus:
        """How busy the engine is at this moment."""
        status: EngineStatus = self._call("status")
        return status

    def save_prefix(self, tokens: Sequence[int], path: Path) -> int:
        """Write what is computed of the beginning of these tokens to a file; gives how many of them that are.

        With 0, nothing is written. EdgeError if the place cannot be written.
        """
        count: int = self._call("save_prefix", tuple(tokens), path.absolute())
        return count

    def load_prefix(self, path: Path) -> int:
        """Take in what `save_prefix` wrote: the next prompt that begins with it goes on from there; gives its tokens.

        EdgeError if the file is damaged, was made with something else than this engine has, or does not fit.
        """
        count: int = self._call("load_prefix", path.absolute())
        return count

    def close(self) -> None:
        """End running requests as cancelled, and the process with them. Takes a few seconds at most."""
        self._closed.set()
        self._connection.close()
        with self._starting:  # a start that was under way has failed by now
            self._connection.close()

    def _submit(self, request: Request) -> Stream:
        return self._running().submit(request)

    def _call(self, method: Method, *arguments: object) -> Any:
        return self._running().call(method, arguments)

    def _running(self) -> WorkerConnection:
        """The connection to a process that lives, as far as is known."""
        with self._starting:
            if self._closed.is_set():
                raise EngineGoneError("The engine is closed.", hint="Open the model again.")
            if self._connection.has_ended:
                self._opened = self._restart()
            return self._connection

    def _restart(self) -> Opened:
        """Start a process like the one that ended. EdgeError if it dies again and again while it opens the model."""
        for attempt in range(_START_ATTEMPTS):
            if attempt:
                self._closed.wait(_BACKOFF_SECONDS * 2 ** (attempt - 1))
            self._connection = self._connect(launch())
            if self._closed.is_set():
                self._connection.close()
            try:
                return self._connection.opened()
            except EngineDiedError as error:
                last = error
            if self._closed.is_set():
                raise EngineGoneError("The engine is closed.", hint="Open the model again.")
        raise EngineGoneError(
            f"The engine died {_START_ATTEMPTS} times while it opened {self.path}. The last time: {last.message}",
            hint="Check the file with edge verify, and whether there is memory for it; then send the request again.",
        )

    def _connect(self, process: Popen[bytes]) -> WorkerConnection:
        return WorkerConnection(process, self.path, self._settings, self._worker_settings)
