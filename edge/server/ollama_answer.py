"""Completions in the forms of Ollama: whole, and as the lines of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from edge.openai_response import token_logprob
from edge.request import FinishEvent, TokenEvent
from edge.server.streaming import json_bytes
from edge.tool_calls import PlainReader, ReplyPart, ReplyReader, ReplyText, reply_of

NDJSON = "application/x-ndjson"
Kind = Literal["chat", "generate"]


def line(body: Mapping[str, Any]) -> bytes:
    return json_bytes(body) + b"\n"


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as Ollama writes a time."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def loaded_body(kind: Kind, model: str) -> dict[str, Any]:
    """The answer to a request that asks for nothing but the model."""
    text = {"message": {"role": "assistant", "content": ""}} if kind == "chat" else {"response": ""}
    return {"model": model, "created_at": timestamp(time.time()), **text, "done": True, "done_reason": "load"}


@dataclass
class LineWriter:
    """The lines of one answer. Calls are told as soon as they are whole."""

    kind: Kind
    model: str
    started: float
    """By `time.perf_counter`: when the request came."""
    loaded_seconds: float
    """From there until the model had it."""
    has_tools: bool = False
    _parts: list[ReplyPart] = field(default_factory=list)
    _logprobs: list[dict[str, Any]] = field(default_factory=list)
    _told_calls: int = 0

    def __post_init__(self) -> None:
        self._reader = ReplyReader() if self.has_tools else PlainReader()

    def bodies(self, events: Iterable[TokenEvent | FinishEvent]) -> list[dict[str, Any]]:
        """What is to be told after these events, the last of which is marked as done."""
        bodies: list[dict[str, Any]] = []
        for event in events:
            parts = self._reader.feed(event.text)
            if isinstance(event, TokenEvent) and event.logprobs:
                self._logprobs.append(token_logprob(event.piece, event.logprobs))
            if isinstance(event, FinishEvent):
                parts += self._reader.end()
            text = "".join(part.text for part in parts if isinstance(part, ReplyText))
            calls = self._new_calls(parts)
            if text or calls:
                bodies.append({**self._body(text, calls), "done": False})
            if isinstance(event, FinishEvent):
                bodies.append(self._last(event))
        return bodies

    def sign_of_life(self) -> dict[str, Any]:
        """For a pause: nothing new, as a line that clients read."""
        return {**self._body("", []), "done": False}

    def _new_calls(self, parts: Sequence[ReplyPart]) -> list[dict[str, Any]]:
        """Calls whose arguments have come to their end."""
        self._parts += [part for part in parts if not isinstance(part, ReplyText)]
        calls = reply_of(self._parts).calls if parts and self._parts else ()
        bodies = []
        for call in calls[self._told_calls :]:
            try:
                arguments = json.loads(call.arguments)
            except ValueError:  # not whole yet
                break
            bodies.append({"id": call.identifier, "function": {"name": call.name, "arguments": arguments}})
        self._told_calls += len(bodies)
        return bodies

    def _body(self, text: str, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
        head = {"model": self.model, "created_at": timestamp(time.time())}
        logprobs = {"logprobs": self._logprobs} if self._logprobs else {}
        self._logprobs = []
        if self.kind == "generate":
            return {**head, "response": text, **logprobs}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = list(calls)
        return {**head, "message": message, **logprobs}

    def _last(self, event: FinishEvent) -> dict[str, Any]:
        is_whole = event.reason == "stop" and event.is_valid
        usage, timing = event.usage, event.timing
        return {
            **self._body("", []),
            "done": True,
            "done_reason": "stop" if is_whole else "length",
            "total_duration": _nanoseconds(time.perf_counter() - self.started),
            "load_duration": _nanoseconds(self.loaded_seconds),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(timing.first_token_seconds - timing.queued_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(timing.decode_seconds),
        }


def merged(bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All lines of an answer as one body."""
    last = dict(bodies[-1])
    logprobs = [token for body in bodies for token in body.get("logprobs", ())]
    if logprobs:
        last["logprobs"] = logprobs
    if "response" in last:
        return {**last, "response": "".join(body["response"] for body in bodies)}
    message = {"role": "assistant", "content": "".join(body["message"]["content"] for body in bodies)}
    calls = [call for body in bodies for call in body["message"].get("tool_calls", ())]
    return {**last, "message": {**message, "tool_calls": calls} if calls else message}


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
