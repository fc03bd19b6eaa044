"""Completions in the forms of Anthropic's messages: whole, and as the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge.openai_response import Answer
from edge.request import FinishEvent, TokenEvent, Usage
from edge.server.streaming import json_bytes
from edge.tool_calls import (
    CallArguments,
    CallBegin,
    CallEnd,
    PlainReader,
    ReplyPart,
    ReplyReader,
    ReplyText,
    reply_of,
)

PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def event_frame(body: Mapping[str, Any]) -> bytes:
    """An event, named by its type."""
    return b"event: " + str(body["type"]).encode() + b"\ndata: " + json_bytes(body) + b"\n\n"


def reader_of(*, has_tools: bool) -> ReplyReader | PlainReader:
    """What reads a reply that may, or cannot, hold calls."""
    return ReplyReader() if has_tools else PlainReader()


def message_body(
    answer: Answer, *, identifier: str, model: str, stop: Sequence[str], has_tools: bool
) -> dict[str, Any]:
    """A whole message."""
    completion = answer.completion
    reader = reader_of(has_tools=has_tools)
    reply = reply_of([*reader.feed(completion.text), *reader.end()])
    content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text else []
    for call in reply.calls:
        content.append({"type": "tool_use", "id": call.identifier, "name": call.name, "input": _whole(call.arguments)})
    stopped_by = stop_text(completion.text, answer.pieces, stop) if completion.finish_reason == "stop" else None
    is_whole = completion.finish_reason == "stop" and completion.is_valid
    return {
        **_head(identifier, model, usage_body(completion.usage)),
        "content": content,
        "stop_reason": _stop_reason(is_whole=is_whole, has_calls=bool(reply.calls), stopped_by=stopped_by),
        "stop_sequence": stopped_by,
    }


def usage_body(usage: Usage) -> dict[str, int]:
    """Tokens as Anthropic counts them: those found in the cache are not among those of the input."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def stop_text(text: str, pieces: Iterable[bytes], stops: Sequence[str]) -> str | None:
    """Which of the stop texts ended a reply, which does not show it, though its tokens have it."""
    written = b"".join(pieces).decode("utf-8", "replace")
    return next((stop for stop in stops if text + stop in written), None)


class EventWriter:
    """The events of one message."""

    def __init__(self, identifier: str, model: str, prompt_tokens: int, stop: Sequence[str], *, has_tools: bool):
        self._identifier = identifier
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._stop = stop
        self._reader = reader_of(has_tools=has_tools)
        self._is_begun = False
        self._block = -1
        self._open = ""
        """The type of the block that is being written."""
        self._has_calls = False
        self._text: list[str] = []
        self._pieces: list[bytes] = []

    def frames(self, events: Iterable[TokenEvent | FinishEvent]) -> bytes:
        return b"".join(map(event_frame, [body for event in events for body in self._bodies(event)]))

    def _bodies(self, event: TokenEvent | FinishEvent) -> list[dict[str, Any]]:
        bodies: list[dict[str, Any]] = []
        if not self._is_begun:
            self._is_begun = True
            usage = usage_body(Usage(self._prompt_tokens, 0, 0))
            message = {**_head(self._identifier, self._model, usage), "stop_reason": None, "stop_sequence": None}
            bodies.append({"type": "message_start", "message": {**message, "content": []}})
        if self._stop:
            self._text.append(event.text)
            self._pieces += [event.piece] if isinstance(event, TokenEvent) else []
        for part in self._reader.feed(event.text):
            bodies += self._part(part)
        if isinstance(event, FinishEvent):
            for part in self._reader.end():
                bodies += self._part(part)
            bodies += [*self._close(), *self._last(event)]
        return bodies

    def _part(self, part: ReplyPart) -> list[dict[str, Any]]:
        match part:
            case ReplyText():
                begin = [] if self._open == "text" else self._begin({"type": "text", "text": ""})
                return [*begin, self._delta({"type": "text_delta", "text": part.text})]
            case CallBegin():
                self._has_calls = True
                block = {"type": "tool_use", "id": part.identifier, "name": part.name, "input": {}}
                return self._begin(block)
            case CallArguments():
                return [self._delta({"type": "input_json_delta", "partial_json": part.text})]
            case CallEnd():
                return self._close()

    def _begin(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        closing = self._close()
        self._block += 1
        self._open = block["type"]
        return [*closing, {"type": "content_block_start", "index": self._block, "content_block": block}]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._block, "delta": delta}

    def _close(self) -> list[dict[str, Any]]:
        if not self._open:
            return []
        self._open = ""
        return [{"type": "content_block_stop", "index": self._block}]

    def _last(self, event: FinishEvent) -> list[dict[str, Any]]:
        is_whole = event.reason == "stop" and event.is_valid
        has_stopped = event.reason == "stop"
        stopped_by = stop_text("".join(self._text), self._pieces, self._stop) if has_stopped else None
        reason = _stop_reason(is_whole=is_whole, has_calls=self._has_calls, stopped_by=stopped_by)
        delta = {"stop_reason": reason, "stop_sequence": stopped_by}
        return [
            {"type": "message_delta", "delta": delta, "usage": usage_body(event.usage)},
            {"type": "message_stop"},
        ]


def _head(identifier: str, model: str, usage: dict[str, int]) -> dict[str, Any]:
    return {"id": identifier, "type": "message", "role": "assistant", "model": model, "usage": usage}


def _stop_reason(*, is_whole: bool, has_calls: bool, stopped_by: str | None) -> str:
    if stopped_by is not None:
        return "stop_sequence"
    if not is_whole:
        return "max_tokens"
    return "tool_use" if has_calls else "end_turn"


def _whole(arguments: str) -> Any:
    """The value of a call's arguments, empty where they were cut off."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {}
