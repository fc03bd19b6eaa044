"""Runs the application: binds, says when it is ready, and ends without breaking off what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from edge.errors import EdgeError
from edge.server.app import create_app, load_first
from edge.server.model_pool import ModelPool
from edge.server.server_settings import ServerSettings, address_of

_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 1024
_LAST_SECONDS = 5  # for the last bytes of answers to go out

Ready = Callable[[str], None]
"""Called with the server's URL once the first model is loaded."""


def serve(pool: ModelPool, settings: ServerSettings, ready: Ready, *, ready_fd: int | None = None) -> None:
    """Serve until a signal ends it. EdgeError if the port cannot be had or the first model not be loaded.

    `ready_fd` is a file descriptor on which a parent waits: it gets the URL as a line, and is closed.
    """
    with bind(settings) as listener:
        url = url_of(listener, settings.host)
        app = create_app(pool, settings)

        def tell() -> None:
            ready(url)
            if ready_fd is not None:
                _tell_parent(ready_fd, url)

        asyncio.run(run_app(app, pool, settings, listener, tell))


def bind(settings: ServerSettings) -> socket.socket:
    """The socket to listen on. EdgeError if it is taken or not this machine's."""
    address = address_of(settings.host)
    family = socket.AF_INET6 if address and address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host.strip("[]"), settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise EdgeError(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or error}.",
            hint="Choose another port with --port, or 0 for one that is free.",
        ) from error
    return listener


def url_of(listener: socket.socket, host: str) -> str:
    """Where the server is reached from this machine."""
    port = listener.getsockname()[1]
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1" if host != "::" else "::1"
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


class EdgeServer(uvicorn.Server):
    """uvicorn's server, which on the first signal lets running requests finish and answers new ones with 503."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._draining: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; a second one breaks off."""
        self._loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        """As a signal does."""
        if self._draining:
            self._break_off()
        else:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        if await self._app.state.doors.drain(self._drain_seconds):
            self.should_exit = True
        else:
            self._break_off()

    def _break_off(self) -> None:
        self.config.timeout_graceful_shutdown = 0
        self.should_exit = True


def make_server(app: FastAPI, settings: ServerSettings) -> EdgeServer:
    """A server for an application. To be called in the event loop that runs it."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    return EdgeServer(config, app, settings.drain_seconds)


async def run_app(
    app: FastAPI,
    pool: ModelPool,
    settings: ServerSettings,
    listener: socket.socket,
    tell: Callable[[], None],
    started: Callable[[EdgeServer], None] = lambda server: None,
) -> None:
    """Serve until the server ends. `tell` is called when the first model is loaded, `started` with the server at once.

    EdgeError if the model cannot be loaded; whatever else keeps it from being loaded ends the server as well.
    """
    server = make_server(app, settings)
    started(server)
    failures: list[Exception] = []

    async def load() -> None:
        try:
            await load_first(app, pool)
            tell()
        except Exception as error:
            failures.append(error)
            server.should_exit = True

    loading = asyncio.create_task(load())
    await server.serve([listener])
    loading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading
    if failures:
        raise failures[0]


def _tell_parent(descriptor: int, url: str) -> None:
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as pipe:
            pipe.write(f"{url}\n")
    except OSError as error:
        raise EdgeError(
            f"Nothing can be written to file descriptor {descriptor}: {error.strerror}.",
            hint="Give one that is open for writing in --ready-fd.",
        ) from error
