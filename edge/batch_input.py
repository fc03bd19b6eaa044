"""The lines of a batch: `{"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}`.

That a file is a batch at all is checked as a whole, before any line is answered. What is wrong within a line is an
error of that line alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge.errors import EdgeError
from edge.openai_fields import BodyError, Fields, parse_json, refusal, shortened
from edge.openai_request import ChatBody, parse_body

METHOD = "POST"
URL = "/v1/chat/completions"
_LISTED_PROBLEMS = 3


@dataclass(frozen=True)
class Line:
    """One line of a batch, its JSON as it stands, so that a long batch takes little more memory than its file."""

    number: int
    custom_id: str
    text: str
    request_id: str
    """A hash of what is asked for: answers keep it, and so show whether the line was changed since."""


def read_lines(content: bytes, name: str) -> list[Line]:
    """The lines of a batch, blank ones left out. EdgeError, with line numbers, for what is no batch."""
    lines: list[Line] = []
    first_places: dict[str, int] = {}
    problems: list[str] = []
    for number, text in _texts(content):
        try:
            line = _line(number, text)
        except EdgeError as error:
            problems.append(f"line {number}: {error.message.rstrip('.')}")
            continue
        if line.custom_id in first_places:
            place = first_places[line.custom_id]
            problems.append(f"line {number}: the custom_id {shortened(line.custom_id)!r} is that of line {place}")
        first_places.setdefault(line.custom_id, number)
        lines.append(line)
    if problems:
        more = f"; and {len(problems) - _LISTED_PROBLEMS} more" if len(problems) > _LISTED_PROBLEMS else ""
        raise EdgeError(
            f"{name} is not a batch: {'; '.join(problems[:_LISTED_PROBLEMS])}{more}.",
            hint=f'Each line is like {{"custom_id": "1", "method": "{METHOD}", "url": "{URL}", "body": {{...}}}}.',
        )
    if not lines:
        raise EdgeError(f"{name} has no lines.", hint="Write one request on each line.")
    return lines


def chat_body(line: Line) -> ChatBody:
    """What a line asks for; BodyError with the path of what is wrong in it."""
    request = Fields(json.loads(line.text))
    request.refuse_unknown(["custom_id", "method", "url", "body"])
    for name, only in (("method", METHOD), ("url", URL)):
        request.require(name)
        if request.text(name) != only:
            raise refusal(name, request.members[name], only)
    request.require("body")
    body = parse_body(request.members["body"])
    if body.session is not None:
        raise BodyError("session is given.", hint="Sessions are a server's: leave it out.", field="session")
    if body.is_streamed:
        raise BodyError("stream is true.", hint="Answers of a batch are not streamed: leave it out.", field="stream")
    return body


def _texts(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, text in enumerate(content.split(b"\n"), start=1):
        if text.strip():
            yield number, text


def _line(number: int, encoded: bytes) -> Line:
    try:
        text = encoded.decode()
    except UnicodeDecodeError as error:
        raise EdgeError(f"byte {error.start + 1} is not UTF-8.") from error
    document = parse_json(text, "it")
    request = Fields(document, "the line")
    custom_id = Fields(document).text("custom_id")
    if not custom_id:
        raise EdgeError("custom_id is missing.")
    return Line(number, custom_id, text, _request_id(request.members))


def _request_id(request: dict[str, Any]) -> str:
    asked = [request.get(name) for name in ("method", "url", "body")]
    return f"req_{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]}"
