"""Answers with calls of functions as the chunks of a stream, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge.openai_completions import usage_of_prompts
from edge.request import FinishEvent, TokenEvent, Usage
from edge.server.openai_chunks import DONE, ChunkForm, Head
from edge.server.replies import Numbered
from edge.server.streaming import data_frame
from edge.tool_calls import CallArguments, CallBegin, CallEnd, ReplyPart, ReplyReader, ReplyText


class ToolChunkWriter:
    """Frames of an answer that may hold calls; used as a ChunkWriter of chats is."""

    def __init__(self, form: ChunkForm, head: Head, *, choices: int, counts_tokens: bool) -> None:
        self._kind = form.kind
        self._head = head
        self._choices = choices
        self._counts_tokens = counts_tokens
        self._readers: dict[int, ReplyReader] = {}
        self._callers: set[int] = set()
        self._usages: dict[int, Usage] = {}

    def frames(self, batch: Sequence[Numbered]) -> bytes:
        """The chunks of some events."""
        return b"".join([self._frame(number, event) for number, event in batch])

    def end(self) -> bytes:
        """What comes behind the last event."""
        if not self._counts_tokens:
            return DONE
        usage = usage_of_prompts([self._usages[number] for number in sorted(self._usages)], self._choices)
        return data_frame({**self._body([]), "usage": usage}) + DONE

    def _frame(self, number: int, event: TokenEvent | FinishEvent) -> bytes:
        chunks = []
        reader = self._readers.get(number)
        if reader is None:
            reader = self._readers[number] = ReplyReader()
            chunks.append(self._chunk(number, {"role": "assistant", "content": "", "refusal": None}))
        parts = reader.feed(event.text)
        is_last = isinstance(event, FinishEvent)
        deltas = [_delta(part) for part in [*parts, *(reader.end() if is_last else ())]]
        chunks += [self._chunk(number, delta) for delta in deltas if delta]
        if any("tool_calls" in delta for delta in deltas):
            self._callers.add(number)
        if isinstance(event, FinishEvent):
            self._usages[number] = event.usage
            is_whole = event.reason == "stop" and event.is_valid
            reason = "length" if not is_whole else "tool_calls" if number in self._callers else "stop"
            chunks.append(self._chunk(number, {}, reason))
        return b"".join(map(data_frame, chunks))

    def _chunk(self, number: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        body = self._body([{"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}])
        return {**body, "usage": None} if self._counts_tokens else body

    def _body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = self._head
        return {
            "id": head.identifier,
            "object": self._kind,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
            "choices": choices,
        }


def _delta(part: ReplyPart) -> dict[str, Any]:
    """What a part adds to a message; nothing for the end of a call, which only what follows tells."""
    match part:
        case ReplyText():
            return {"content": part.text}
        case CallBegin():
            function = {"name": part.name, "arguments": ""}
            call = {"index": part.index, "id": part.identifier, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case CallArguments():
            return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}
        case CallEnd():
            return {}
