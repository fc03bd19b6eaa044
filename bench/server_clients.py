"""Clients of a server that cost next to nothing, so that what is measured is the server.

Answers whose speed is measured are read from plain sockets: an event loop would take a tenth of a millisecond more for
each token, which the server's processes have to do without on a machine of two cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import selectors
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.errors import EdgeError

_FIRST_TEXT = b'"delta":{"content":'
_END = b"data: [DONE]"
_USAGE = b'"completion_tokens":'
_CHUNK_BYTES = 1 << 16
_BUSY = 429
_BUSY_SECONDS = 0.1


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Address:
        host, _, port = url.removeprefix("http://").rpartition(":")
        return cls(host, int(port))


@dataclass(frozen=True)
class Streamed:
    """One streamed answer: its tokens, and seconds from sending to the first text and to the end."""

    tokens: int
    first_token_seconds: float
    seconds: float


def stream_all(address: Address, bodies: Sequence[Mapping[str, Any]]) -> list[Streamed]:
    """The answers to requests that are sent together. EdgeError if one fails."""
    with contextlib.ExitStack() as opened, selectors.DefaultSelector() as selector:
        answers = [
            _Answer(opened.enter_context(socket.create_connection((address.host, address.port)))) for _ in bodies
        ]
        for answer, body in zip(answers, bodies, strict=True):
            answer.ask(body)
            selector.register(answer.connection, selectors.EVENT_READ, answer)
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.receive():
                    selector.unregister(key.fileobj)
        return [answer.read for answer in answers]


class _Answer:
    """One streamed answer on its connection, as far as it has come."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = bytearray()
        self._started = self._first = self._ended = 0.0

    def ask(self, body: Mapping[str, Any]) -> None:
        self._started = time.perf_counter()
        self.connection.sendall(_request({**body, "stream": True, "stream_options": {"include_usage": True}}))

    def receive(self) -> bool:
        """Read what is there; True if that was the end. EdgeError if it is no answer, or not a whole one."""
        part = self.connection.recv(_CHUNK_BYTES)
        received = self._received
        received += part
        if not part or not received.startswith(b"HTTP/1.1 200"[: len(received)]):
            while rest := self.connection.recv(_CHUNK_BYTES):
                received += rest
            raise EdgeError(f"The server answered: {received[-300:].decode(errors='replace')}", hint="See its log.")
        if not self._first and _FIRST_TEXT in received:
            self._first = time.perf_counter()
        if _END not in received[-64:]:
            return False
        self._ended = time.perf_counter()
        return True

    @property
    def read(self) -> Streamed:
        tokens = int(self._received.rpartition(_USAGE)[2].split(b",")[0])
        return Streamed(tokens, (self._first or self._ended) - self._started, self._ended - self._started)


def leave_at_random(
    address: Address, bodies: Sequence[Mapping[str, Any]], times: int, longest_seconds: float, seed: int
) -> int:
    """As many clients as there are bodies, which together leave that often in the middle of an answer.

    Gives how many answers were there before their client wanted to leave.
    """
    chance = random.Random(seed)
    pauses = [chance.uniform(0, longest_seconds) for _ in range(times)]

    async def client(body: Mapping[str, Any]) -> int:
        whole = 0
        while pauses:
            whole += await _leave(address, body, pauses.pop())
        return whole

    async def leave() -> int:
        return sum(await asyncio.gather(*(client(body) for body in bodies)))

    return asyncio.run(leave())


@dataclass(frozen=True)
class Load:
    """What became of the requests of many clients."""

    statuses: Mapping[int, int]
    lost: int
    """Connections that ended without a whole answer."""


def load(address: Address, body: Mapping[str, Any], clients: int, seconds: float) -> Load:
    """Clients that ask again as soon as they are answered, for so long; after a 429 they wait a little."""
    statuses: Counter[int] = Counter()
    deadline = time.perf_counter() + seconds

    async def client() -> int:
        lost = 0
        while time.perf_counter() < deadline:
            status = await _status(address, body)
            statuses[status] += 1
            lost += status == 0
            if status == _BUSY:
                await asyncio.sleep(_BUSY_SECONDS)
        return lost

    async def ask() -> int:
        return sum(await asyncio.gather(*(client() for _ in range(clients))))

    lost = asyncio.run(ask())
    return Load(statuses, lost)


def get_text(address: Address, path: str) -> str:
    """What a GET request gives."""

    async def get() -> str:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        content = await reader.read()
        writer.close()
        return content.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")

    return asyncio.run(get())


def _request(body: Mapping[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def _status(address: Address, body: Mapping[str, Any]) -> int:
    """The status of a whole answer; 0 if there was none."""
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(_request(body))
        content = await reader.read()
        writer.close()
    except OSError:
        return 0
    head, _, answer = content.partition(b"\r\n\r\n")
    is_whole = answer.endswith(b"}") or _END in answer
    return int(head.split()[1]) if is_whole else 0


async def _leave(address: Address, body: Mapping[str, Any], seconds: float) -> bool:
    """Whether the answer was whole before the client left."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(_request(body))
    try:
        async with asyncio.timeout(seconds):
            while part := await reader.read(_CHUNK_BYTES):
                if _END in part:
                    return True
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return False
