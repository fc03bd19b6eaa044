"""A hub on this machine: the addresses of the Hugging Face hub for one repository, answered from a dictionary."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.edge.fake_hub import COMMIT

CONTENT = bytes(range(256)) * 40


class HubServer:
    """What the hub's addresses for one repository answer, and what it was asked."""

    def __init__(self) -> None:
        self.files = {"model-Q8_0.gguf": CONTENT, "LICENSE": b"free"}
        self.sha: str | None = COMMIT
        self.card: dict[str, Any] = {"license": "apache-2.0"}
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.sent_instead: bytes | None = None
        self.breaks_after_bytes: int | None = None
        self.stalls_after_bytes: int | None = None
        self.may_go_on = threading.Event()
        self.address = ""
        self.asked: list[tuple[str, str | None]] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.refusal:
            status, headers = self.refusal
            return status, headers, b"{}"
        if path.startswith("/api/models/org/model"):
            siblings = [self._sibling(name) for name in self.files]
            model = {"id": "org/model", "sha": self.sha, "siblings": siblings, "cardData": self.card, "tags": []}
            return 200, {"Content-Type": "application/json"}, json.dumps(model).encode()
        name = path.removeprefix(f"/org/model/resolve/{COMMIT}/")
        if name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {}, self.files[name] if self.sent_instead is None else self.sent_instead

    def _sibling(self, name: str) -> dict[str, Any]:
        sibling: dict[str, Any] = {"rfilename": name, "size": len(self.files[name])}
        if name.endswith(".gguf"):
            digest = hashlib.sha256(self.files[name]).hexdigest()
            sibling["lfs"] = {"size": len(self.files[name]), "sha256": digest, "pointerSize": 130}
        return sibling


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """The server, while it listens at its `address`."""
    fake = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked_range = self.path.partition("?")[0], self.headers.get("Range")
            if "org/model" in path:  # the library may ask about itself as well
                fake.asked.append((path, asked_range))
            status, headers, body = fake.answer(path)
            total = len(body)
            if asked_range and status == 200:
                begin = int(asked_range.removeprefix("bytes=").partition("-")[0])
                status, body = (206, body[begin:]) if begin < total else (416, b"")
                headers = {**headers, "Content-Range": f"bytes {begin}-{total - 1}/{total}"}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # whoever asked may be dead by now
                self._send(body, is_file="resolve" in path)
            self.close_connection = True

        def _send(self, body: bytes, *, is_file: bool) -> None:
            if is_file and fake.stalls_after_bytes is not None:
                self.wfile.write(body[: fake.stalls_after_bytes])
                self.wfile.flush()
                fake.may_go_on.wait(60)
                body = body[fake.stalls_after_bytes :]
            self.wfile.write(body[: fake.breaks_after_bytes] if is_file else body)

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    fake.address = f"http://127.0.0.1:{listener.server_port}"
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield fake
    finally:
        fake.may_go_on.set()
        listener.shutdown()
        listener.server_close()
