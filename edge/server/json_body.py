"""The JSON of a request, read as strictly as everything in it."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from edge.openai_fields import BodyError, parse_json


async def json_of(request: Request) -> Any:
    """The body's value. BodyError if it is no JSON in UTF-8, whatever its content type claims."""
    content = await request.body()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BodyError(
            f"The request is not UTF-8: its byte {error.start} is {content[error.start]:#04x}.",
            hint="Send JSON in UTF-8.",
        ) from error
    return parse_json(text, "The request")
