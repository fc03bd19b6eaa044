"""A server with the page and the routes that it uses, whose answers a test writes and whose pace it sets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "edge" / "server" / "page"
POLICY = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Wait:
    """In an answer: nothing more until the test calls `server.go_on()`."""


class Drop:
    """In an answer: the connection ends here."""


@dataclass(frozen=True)
class Reply:
    """What the server says to one question. `steps` are pieces of text, waits, drops and error bodies."""

    steps: tuple[str | Wait | Drop | dict[str, Any], ...] = ("Hello ", "there.")
    finish_reason: str = "stop"
    prompt_tokens: int = 20
    status: int = 200
    error: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)


class FakeServer:
    """Answers with `replies` in turn, then with the last reply again; keeps the bodies it was sent."""

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = [{"id": "tiny-model", "object": "model", "context_tokens": 512}]
        self.key: str | None = None
        self.was_left = threading.Event()
        """Whether the connection of an answer has ended."""
        self._permits = threading.Semaphore(0)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/"

    def says(self, *steps: str | Wait | Drop | dict[str, Any], **settings: Any) -> None:
        self.replies.append(Reply(steps, **settings))

    def refuses(self, status: int, message: str, headers: dict[str, str] | None = None, **error: Any) -> None:
        self.replies.append(Reply(status=status, error={"message": message, **error}, headers=headers or {}))

    def go_on(self) -> None:
        self._permits.release()

    def wait(self) -> None:
        self._permits.acquire(timeout=60)

    def next_reply(self) -> Reply:
        return self.replies.popleft() if self.replies else Reply()

    def close(self) -> None:
        self._permits.release(100)
        self._http.shutdown()
        self._http.server_close()


def _handler_of(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/v1/models":
                if not self._is_refused():
                    self._send(200, "application/json", json.dumps({"object": "list", "data": server.models}).encode())
                return
            file = PAGE / ("index.html" if path == "/" else path.removeprefix("/page/"))
            if file.parent != PAGE or not file.is_file():
                self._send(404, "text/plain", b"")
                return
            self._send(200, TYPES[file.suffix], file.read_bytes(), {"Content-Security-Policy": POLICY})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self._is_refused():
                return
            server.bodies.append(body)
            reply = server.next_reply()
            if reply.error is not None:
                document = json.dumps({"error": reply.error}).encode()
                self._send(reply.status, "application/json", document, reply.headers)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            threading.Thread(target=self._notice_leaving, daemon=True).start()
            with contextlib.suppress(OSError):
                for event in events(server, reply):
                    self.wfile.write(f"{event}\n\n".encode())
                    self.wfile.flush()

        def _notice_leaving(self) -> None:
            with contextlib.suppress(OSError):
                self.connection.recv(1, socket.MSG_PEEK)
            server.was_left.set()

        def _is_refused(self) -> bool:
            if server.key is None or self.headers.get("Authorization") == f"Bearer {server.key}":
                return False
            self._send(401, "application/json", b'{"error": {"message": "No."}}')
            return True

        def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


def events(server: FakeServer, reply: Reply) -> Iterator[str]:
    """Each event of a streamed answer, as OpenAI's clients read them."""
    count = 0
    for step in reply.steps:
        if isinstance(step, Drop):
            return
        if isinstance(step, Wait):
            server.wait()
        elif isinstance(step, dict):
            yield _data({"error": step})
            return
        else:
            count += 1
            yield _data({"choices": [{"index": 0, "delta": {"content": step}, "finish_reason": None}]})
    yield _data({"choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]})
    usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": count}
    yield _data({"choices": [], "usage": {**usage, "total_tokens": sum(usage.values())}})
    yield "data: [DONE]"


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}"
