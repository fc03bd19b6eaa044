"""Completions in the forms of OpenAI's responses: the events of a stream, and the whole that they lead to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from edge.openai_response import token_logprob
from edge.request import FinishEvent, Request, TokenEvent, Usage
from edge.server.streaming import json_bytes
from edge.tool_calls import CallArguments, CallBegin, CallEnd, PlainReader, ReplyPart, ReplyReader, ReplyText

Body = dict[str, Any]


def event_frame(body: Mapping[str, Any]) -> bytes:
    """An event, named by its type; an error has OpenAI's form and no name."""
    kind = body.get("type")
    name = b"event: " + str(kind).encode() + b"\n" if kind else b""
    return name + b"data: " + json_bytes(body) + b"\n\n"


class ResponseWriter:
    """Writes one response, event by event. `repeated` is what it says again of its request."""

    def __init__(
        self, *, created: int, model: str, request: Request, repeated: Mapping[str, Any], has_tools: bool
    ) -> None:
        self._reader = ReplyReader() if has_tools else PlainReader()
        self._sequence = 0
        self._item: Body | None = None
        """The output item that is being written."""
        self._logprobs: list[Body] = []
        self.response: Body = {
            "id": _identifier("resp"),
            "object": "response",
            "created_at": created,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            **repeated,
        }

    def events(self, events: Iterable[TokenEvent | FinishEvent]) -> list[Body]:
        """The events that follow from those of the engine. With the last, `response` is whole."""
        return [body for event in events for body in self._events(event)]

    def _events(self, event: TokenEvent | FinishEvent) -> list[Body]:
        bodies = self._begun() if self._sequence == 0 else []
        is_last = isinstance(event, FinishEvent)
        logprobs = []
        if isinstance(event, TokenEvent) and event.logprobs:
            logprobs = [token_logprob(event.piece, event.logprobs)]
            self._logprobs += logprobs
        for part in [*self._reader.feed(event.text), *(self._reader.end() if is_last else ())]:
            bodies += self._part(part, logprobs)
        if isinstance(event, FinishEvent):
            is_whole = event.reason == "stop" and event.is_valid
            bodies += [*self._end_item("completed" if is_whole else "incomplete"), self._end(event.usage, is_whole)]
        return bodies

    def _begun(self) -> list[Body]:
        begun = {**self.response, "output": []}
        return [self._event(f"response.{kind}", response=begun) for kind in ("created", "in_progress")]

    def _part(self, part: ReplyPart, logprobs: list[Body]) -> list[Body]:
        match part:
            case ReplyText():
                begin = [] if self._item and self._item["type"] == "message" else self._begin_message()
                return [*begin, self._text_delta(part.text, logprobs)]
            case CallBegin():
                return self._begin_call(part)
            case CallArguments():
                assert self._item
                self._item["arguments"] += part.text
                return [self._of_item("response.function_call_arguments.delta", delta=part.text)]
            case CallEnd():
                return self._end_item("completed")

    def _begin_message(self) -> list[Body]:
        item = {"type": "message", "id": _identifier("msg"), "role": "assistant", "status": "in_progress"}
        begin = self._begin({**item, "content": []})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        assert self._item
        self._item["content"].append(part)
        return [*begin, self._of_item("response.content_part.added", content_index=0, part=dict(part))]

    def _begin_call(self, call: CallBegin) -> list[Body]:
        return self._begin(
            {
                "type": "function_call",
                "id": _identifier("fc"),
                "call_id": call.identifier,
                "name": call.name,
                "arguments": "",
                "status": "in_progress",
            }
        )

    def _begin(self, item: Body) -> list[Body]:
        ended = self._end_item("completed")
        self.response["output"].append(item)
        self._item = item
        added = {**item, "content": []} if "content" in item else dict(item)
        return [*ended, self._event("response.output_item.added", output_index=self._index, item=added)]

    def _text_delta(self, text: str, logprobs: list[Body]) -> Body:
        assert self._item
        self._item["content"][0]["text"] += text
        return self._of_item("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)

    def _end_item(self, status: str) -> list[Body]:
        item = self._item
        if item is None:
            return []
        item["status"] = status
        if item["type"] == "message":
            (part,) = item["content"]
            part["logprobs"] = self._logprobs
            text = {"text": part["text"], "logprobs": self._logprobs}
            ends = [
                self._of_item("response.output_text.done", content_index=0, **text),
                self._of_item("response.content_part.done", content_index=0, part=part),
            ]
        else:
            told = {"name": item["name"], "arguments": item["arguments"]}
            ends = [self._of_item("response.function_call_arguments.done", **told)]
        done = self._event("response.output_item.done", output_index=self._index, item=item)
        self._item = None
        return [*ends, done]

    def _end(self, usage: Usage, is_whole: bool) -> Body:
        status = "completed" if is_whole else "incomplete"
        self.response |= {
            "status": status,
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "usage": _usage(usage),
        }
        return self._event(f"response.{status}", response=self.response)

    @property
    def _index(self) -> int:
        return len(self.response["output"]) - 1

    def _of_item(self, kind: str, **fields: Any) -> Body:
        assert self._item
        return self._event(kind, item_id=self._item["id"], output_index=self._index, **fields)

    def _event(self, kind: str, **fields: Any) -> Body:
        body = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return body


def _usage(usage: Usage) -> Body:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _identifier(prefix: str) -> str:
    return f"{prefix}_{uuid4().hex}"
