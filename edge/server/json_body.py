"""The JSON of a request, read as strictly as everything in it."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request

from edge.openai_fields import BodyError, parse_json

_LARGE_BYTES = 1 << 16


async def json_of(request: Request) -> Any:
    """The body's value. BodyError if it is no JSON in UTF-8, whatever its content type claims."""
    content = await request.body()
    if len(content) > _LARGE_BYTES:  # others are not to wait for it
        return await asyncio.to_thread(_value_of, content)
    return _value_of(content)


def _value_of(content: bytes) -> Any:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BodyError(
            f"The request is not UTF-8: its byte {error.start} is {content[error.start]:#04x}.",
            hint="Send JSON in UTF-8.",
        ) from error
    return parse_json(text, "The request")
