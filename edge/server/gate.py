"""What every request goes through before a route sees it, and its answer on the way back.

The gate checks who asks, reads the body within its limits, ends a route whose client has gone, turns whatever is raised
into an answer in the client's form, and writes one line into the log. Routes can forget none of that.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.errors import EdgeError
from edge.quantities import counted
from edge.server.errors import UNEXPECTED, Problem, RefusedError, body_of, problem_of
from edge.server.metrics import Metrics
from edge.server.security import Access
from edge.server.server_settings import ServerSettings
from edge.server.streaming import json_bytes

OPEN_PATHS = frozenset({"/", "/health", "/ready"})
OPEN_PREFIX = "/page/"
"""Without a key: the page, which asks for one, and what tells only whether the server runs."""
_GONE = 499  # as nginx calls it: the client has left before its answer
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PREFLIGHT_SECONDS = b"600"
_DRAIN_RETRY_SECONDS = 5
_RETRY_SECONDS = 1

_BROKEN_OFF = Problem(
    503, "The server ended before the answer did.", "server_ended", retry_seconds=_DRAIN_RETRY_SECONDS
)

log = logging.getLogger("edge.server")


class Doors:
    """How many requests are inside, and whether more may come in."""

    def __init__(self) -> None:
        self.open_requests = 0
        self.is_draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self) -> None:
        self.open_requests += 1
        self._empty.clear()

    def leave(self) -> None:
        self.open_requests -= 1
        if not self.open_requests:
            self._empty.set()

    async def drain(self, seconds: float) -> bool:
        """Let nobody in any more and wait until all are out; False if some are still inside after that time."""
        self.is_draining = True
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, doors: Doors) -> None:
        self._app = app
        self._settings = settings
        self._access = Access(settings)
        self._metrics = metrics
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(_Exchange(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # nothing here speaks WebSocket
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, exchange: _Exchange) -> None:
        self._doors.enter()
        self._metrics.open_requests.inc()
        try:
            await self._answer(exchange)
        finally:
            self._doors.leave()
            self._metrics.open_requests.dec()
            seconds = time.perf_counter() - exchange.started
            path = exchange.route_path()
            self._metrics.requests.labels(path, str(exchange.status)).inc()
            self._metrics.request_seconds.labels(path).observe(seconds)
            log.info("%s %s %s %s %.0f ms", exchange.request_id, exchange.method, path, exchange.status, 1000 * seconds)

    async def _answer(self, exchange: _Exchange) -> None:
        try:
            self._access.check_host(exchange.headers)
            exchange.origin = self._access.check_origin(exchange.headers)
            if exchange.is_preflight:
                await exchange.allow()
                return
            if exchange.path not in OPEN_PATHS and not exchange.path.startswith(OPEN_PREFIX):
                exchange.scope["state"]["owner"] = self._access.check_key(exchange.headers)
            self._check_doors(exchange)
            body = await self._body(exchange)
            async with _UntilGone(exchange):
                await self._app(exchange.scope, exchange.replay(body), exchange.send)
        except EdgeError as error:
            await exchange.refuse(problem_of(error))
        except _GoneError:
            exchange.status = _GONE
        except asyncio.CancelledError:  # by the server, which ends now
            await exchange.refuse(_BROKEN_OFF)
        except Exception as error:
            log.error("%s %s", exchange.request_id, _where(error))
            if self._settings.logs_prompts:
                log.error("%s %s: %s", exchange.request_id, type(error).__name__, error)
            await exchange.refuse(UNEXPECTED)

    def _check_doors(self, exchange: _Exchange) -> None:
        if exchange.path in OPEN_PATHS:
            return
        if self._doors.is_draining:
            raise RefusedError(
                "The server is about to end.",
                hint="Send the request to the next one.",
                status=503,
                code="draining",
                retry_seconds=_DRAIN_RETRY_SECONDS,
            )
        if self._doors.open_requests > self._settings.max_open_requests:
            raise RefusedError(
                f"No more than {counted(self._settings.max_open_requests, 'request')} may be answered at once.",
                hint="Try again when some are answered.",
                status=429,
                code="too_many_requests",
                retry_seconds=_RETRY_SECONDS,
            )

    async def _body(self, exchange: _Exchange) -> bytes:
        """The whole body. RefusedError if it is too large or does not come."""
        limit = self._settings.max_body_bytes
        length = exchange.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                body = await exchange.read(limit)
        except TimeoutError:
            raise RefusedError(
                f"The request did not arrive within {self._settings.body_seconds:g} seconds.",
                hint="Send it at once.",
                status=408,
                code="request_timeout",
            ) from None
        if self._settings.logs_prompts and body:
            log.info("%s %s", exchange.request_id, body.decode("utf-8", "backslashreplace"))
        return body


class _GoneError(Exception):
    """The client has closed its connection."""


class _Exchange:
    """One request and the answer to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.started = time.perf_counter()
        self.status = 0
        self.origin: str | None = None
        """A foreign page that may read the answer."""
        self.is_complete = False
        self._receive = receive
        self._send = send
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else f"req-{uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = self.request_id

    @property
    def is_preflight(self) -> bool:
        return self.method == "OPTIONS" and b"access-control-request-method" in self.headers

    def route_path(self) -> str:
        """The path for logs and metrics: that of the route, so that nobody can fill either with made-up paths."""
        route = self.scope.get("route")
        path = getattr(route, "path", None)
        return path if isinstance(path, str) else self.path if self.status == 200 else "other"

    async def read(self, limit: int) -> bytes:
        """The body. RefusedError beyond the limit, _GoneError if the client leaves before its end."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def replay(self, body: bytes) -> Receive:
        """A `receive` for the route: the body that was read. That the client is gone, nobody needs to tell it."""
        remaining: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if remaining:
                return remaining.pop()
            await asyncio.Event().wait()
            raise AssertionError

        return receive

    async def gone(self) -> None:
        """Waits until the client has closed its connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._own_headers()]}
        elif not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)

    async def allow(self) -> None:
        """Answer the question of a browser whether a page of an allowed origin may send its request."""
        wanted = self.headers.get(b"access-control-request-headers", b"")
        headers = [
            (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
            (b"access-control-allow-headers", wanted),
            (b"access-control-max-age", _PREFLIGHT_SECONDS),
            (b"content-length", b"0"),
        ]
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    async def refuse(self, problem: Problem) -> None:
        """Answer with an error, if no answer has begun; one that has is cut off, which its client sees."""
        if self.status:
            self.status = problem.status
            return
        body = json_bytes(body_of(problem, self.path))
        headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if problem.status in (408, 413, 503):
            headers.append((b"connection", b"close"))  # what is left of the request is not read
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", self.request_id.encode()), (b"x-content-type-options", b"nosniff")]
        if self.origin:
            headers += [
                (b"access-control-allow-origin", self.origin.encode("latin-1")),
                (b"access-control-expose-headers", b"x-request-id, retry-after"),
                (b"vary", b"Origin"),
            ]
        return headers


class _UntilGone:
    """The block is cancelled, and ends with _GoneError, when the client closes its connection before its answer."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._is_gone = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if not self._is_gone:
            return
        assert self._task
        if self._task.uncancel() == 0 and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise _GoneError from None

    async def _watch(self) -> None:
        await self._exchange.gone()
        if not self._exchange.is_complete:
            self._is_gone = True
            assert self._task
            self._task.cancel()


def _too_large(limit: int) -> RefusedError:
    return RefusedError(
        f"The request has more than {counted(limit, 'byte')}.", hint="Send less.", status=413, code="request_too_large"
    )


def _where(error: BaseException) -> str:
    """The kind of a defect and the lines that led to it, without any value: those may be what somebody wrote."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
    return f"{type(error).__name__} in {places}"
