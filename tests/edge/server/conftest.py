"""Servers over fake engines: in process for what a response says, and on a real port for what happens meanwhile."""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from edge.request import Delivery, FailureEvent, Request
from edge.server.app import create_app
from edge.server.background import BackgroundServer
from edge.server.model_files import open_model, source_of
from edge.server.model_pool import LoadedModel, ModelPool, ModelSource
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings
from edge.stream import Stream
from tests.edge.fake_engine import Answer, FakeEngine
from tests.tiny import write_tiny_checkpoint

ASK = {"messages": [{"role": "user", "content": "Hi"}]}


class ServedFake(FakeEngine):
    """A FakeEngine that delivers into real streams: all at once, or, while it `is_held`, what `step` lets through.

    Its streams are kept, so that a test sees which were cancelled.
    """

    def __init__(self, answers: Iterable[Answer] = (), *, context_tokens: int = 4096, is_held: bool = False) -> None:
        super().__init__(answers, context_tokens=context_tokens)
        self.is_held = is_held
        self.streams: list[Stream] = []
        self._coming: list[tuple[Stream, deque[Delivery]]] = []

    def submit(self, request: Request) -> Stream:  # type: ignore[override]  # a real one instead of a fake
        events = deque[Delivery](super().submit(request))
        stream = Stream()
        self.streams.append(stream)
        self._coming.append((stream, events))
        if not self.is_held:
            self.step(len(events))
        return stream

    def step(self, count: int = 1) -> None:
        """Deliver the next events of every stream."""
        for stream, events in self._coming:
            for _ in range(min(count, len(events))):
                stream.deliver(events.popleft())

    def fail(self, message: str) -> None:
        """Give up all that is running, as when the process dies."""
        for stream, _ in self._coming:
            stream.deliver(FailureEvent(message, "Try again."))


@pytest.fixture(scope="session")
def roomy_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with random weights and room for long prompts: one with a system role, and a Gemma without."""
    from convert.pipeline import write_checkpoint

    folder = tmp_path_factory.mktemp("roomy")
    paths = {}
    for name in ("llama3", "gemma2"):
        checkpoint = write_tiny_checkpoint(name, folder)
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
        (paths[name],) = write_checkpoint(checkpoint, ["F32"], folder / f"{name}.gguf")
    return paths


@pytest.fixture(scope="session")
def roomy_server(roomy_models: dict[str, Path]) -> Iterator[BackgroundServer]:
    """A server of these models, each loaded when it is first asked for."""
    settings = ModelSettings(threads=1, parallel=1, context_tokens=4096)
    sources = [source_of(name, path, settings) for name, path in roomy_models.items()]
    with BackgroundServer(ModelPool(sources, open_model), ServerSettings(port=0)) as server:
        yield server


Serve = Callable[..., TestClient]
ServeLive = Callable[..., BackgroundServer]


def pool_of(*engines: FakeEngine, names: Sequence[str] = ("fake",), **settings: Any) -> ModelPool:
    """A pool of engines that are loaded as they are."""
    by_name = dict(zip(names, engines, strict=True))

    def open_model(source: ModelSource) -> LoadedModel:
        return LoadedModel(source, by_name[source.name], "fp_fake")

    return ModelPool([ModelSource(name, Path(f"{name}.gguf")) for name in by_name], open_model, **settings)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(engine, max_messages=3)` gives a client of a server in this process, which is addressed as localhost."""
    with ExitStack() as opened:

        def start(*engines: FakeEngine, names: Sequence[str] = ("fake",), **settings: Any) -> TestClient:
            app = create_app(pool_of(*(engines or (ServedFake(),)), names=names), ServerSettings(**settings))
            return opened.enter_context(TestClient(app, base_url="http://localhost", raise_server_exceptions=False))

        yield start


@pytest.fixture
def serve_live() -> Iterator[ServeLive]:
    """`serve_live(engine)` gives a server on a port of its own."""
    with ExitStack() as opened:

        def start(*engines: FakeEngine, names: Sequence[str] = ("fake",), **settings: Any) -> BackgroundServer:
            pool = pool_of(*(engines or (ServedFake(),)), names=names)
            return opened.enter_context(BackgroundServer(pool, ServerSettings(port=0, **settings)))

        yield start


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do. Fails after more time than any machine needs for it."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def raw_answer(server: BackgroundServer, request: bytes, patience_seconds: float = 20) -> bytes:
    """What comes back for these very bytes, until the server closes the connection or says no more for so long."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        connection.settimeout(patience_seconds)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except (TimeoutError, ConnectionResetError):
            pass
    return b"".join(parts)
