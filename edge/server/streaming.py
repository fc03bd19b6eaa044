"""Server-sent events: an answer that is written to its client as it comes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge.errors import EdgeError
from edge.server.errors import body_of, problem_of

SIGN_OF_LIFE = b": waiting\n\n"
"""A comment: clients read over it, and whatever lies between sees that the connection is in use."""
EVENT_STREAM = "text/event-stream; charset=utf-8"
Frames = AsyncGenerator[bytes, None]
WriteFrame = Callable[[Mapping[str, Any]], bytes]


class StreamedResponse(Response):
    """A response whose parts come one after the other. Its status is that of whether the first one came.

    Once it has begun, an error is an event like the others, and the last one.
    """

    def __init__(self, first: bytes, frames: Frames, media_type: str, error_frame: WriteFrame) -> None:
        self.status_code = 200
        self.background = None
        self._first = first
        self._frames = frames
        self._error_frame = error_frame
        self.raw_headers = [
            (b"content-type", media_type.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # proxies would gather what should be shown at once
        ]

    @classmethod
    async def of(cls, frames: Frames, media_type: str = EVENT_STREAM, error_frame: WriteFrame | None = None) -> Self:
        """Waits for the first part. EdgeError if the answer failed before it.

        `error_frame` writes the body of an error as the last part, by default as an event.
        """
        return cls(await anext(frames), frames, media_type, error_frame or data_frame)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            try:
                async for frame in self._frames:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
            except EdgeError as error:
                frame = self._error_frame(body_of(problem_of(error), scope["path"]))
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            with contextlib.suppress(RuntimeError):  # it is being closed already
                await self._frames.aclose()


def data_frame(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json_bytes(body) + b"\n\n"


def json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
