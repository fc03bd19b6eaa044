"""An engine that is still being opened: whoever needs it waits, everyone else goes on.

Opening begins at once, in a thread. What it fails with is raised where the engine is needed first; the next who needs
it has it opened again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge.errors import EdgeError
from edge.text_engine import TextEngine

if TYPE_CHECKING:
    from edge.checked import CheckedStream
    from edge.prompt import Message
    from edge.request import EngineStatus, Request
    from edge.settings import SamplingSettings
    from edge.stream import Stream


class ClosableEngine(TextEngine, Protocol):
    """What is opened: an engine that frees its model when it is closed."""

    def close(self) -> None: ...


class LoadingEngine:
    """A `TextEngine` that is there from the start. Waiting for it can be interrupted."""

    def __init__(self, open_engine: Callable[[], ClosableEngine]) -> None:
        self._open = open_engine
        self._lock = threading.Lock()
        self._is_closed = False
        self._has_failed = False
        self._opening = self._start()

    @property
    def is_ready(self) -> bool:
        """Whether nobody has to wait for it any more."""
        return self._opening.done()

    @property
    def context_tokens(self) -> int:
        return self._engine().context_tokens

    @property
    def default_sampling(self) -> SamplingSettings:
        return self._engine().default_sampling

    def submit(self, request: Request) -> Stream | CheckedStream:
        return self._engine().submit(request)

    def submit_choices(self, request: Request, count: int) -> Sequence[Stream | CheckedStream]:
        return self._engine().submit_choices(request, count)

    def chat_tokens(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, object] | None = None,
        known_tokens: Sequence[int] = (),
    ) -> tuple[int, ...]:
        return self._engine().chat_tokens(messages, variables, known_tokens)

    def text_tokens(self, text: str) -> tuple[int, ...]:
        return self._engine().text_tokens(text)

    def tokens_text(self, tokens: Sequence[int]) -> str:
        return self._engine().tokens_text(tokens)

    def embed(self, tokens: Sequence[int]) -> list[float]:
        return self._engine().embed(tokens)

    def status(self) -> EngineStatus:
        return self._engine().status()

    def save_prefix(self, tokens: Sequence[int], path: Path) -> int:
        return self._engine().save_prefix(tokens, path)

    def load_prefix(self, path: Path) -> int:
        return self._engine().load_prefix(path)

    def close(self) -> None:
        """Free the model; one that is still being opened is freed when it is, and waited for by nobody."""
        with self._lock:
            self._is_closed = True
            opening = self._opening
        if opening.done() and not opening.exception():
            opening.result().close()

    def _engine(self) -> ClosableEngine:
        """Wait for the engine. Raises what it could not be opened for."""
        with self._lock:
            if self._is_closed:
                raise EdgeError("The engine is closed.", hint="Open the model again.")
            if self._has_failed:
                self._has_failed = False
                self._opening = self._start()
            opening = self._opening
        try:
            return opening.result()
        except Exception:
            with self._lock:
                self._has_failed = opening is self._opening
            raise

    def _start(self) -> Future[ClosableEngine]:
        opening: Future[ClosableEngine] = Future()
        threading.Thread(target=self._run, args=(opening,), name="edge-open", daemon=True).start()
        return opening

    def _run(self, opening: Future[ClosableEngine]) -> None:
        try:
            engine = self._open()
        except BaseException as error:
            opening.set_exception(error)
            return
        with self._lock:
            is_closed = self._is_closed
            opening.set_result(engine)
        if is_closed:
            engine.close()
