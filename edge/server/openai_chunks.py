"""Events as the chunks of OpenAI's streams.

All but the text of a chunk is the same for every token, so it is made once for each completion.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.openai_completions import plain_logprobs, usage_of_prompts
from edge.openai_response import OpenAIReason, token_logprob
from edge.request import FinishEvent, TokenEvent, Usage
from edge.server.replies import Numbered
from edge.server.streaming import data_frame

DONE = b"data: [DONE]\n\n"
_MARK = "\ue000edge"  # stands where the text goes while the rest of a chunk is made


@dataclass(frozen=True)
class Head:
    """What all bodies of one answer have in common."""

    identifier: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str


@dataclass(frozen=True)
class ChunkForm:
    """How the chunks of a protocol look: a choice with some text, and what is said before and after all text."""

    kind: str
    """The chunks' `object`."""
    text_choice: Callable[[int, str, TokenEvent | None], dict[str, Any]]
    first_choice: Callable[[int], dict[str, Any]] | None
    last_choice: Callable[[int, OpenAIReason], dict[str, Any]]


class ChunkWriter:
    """Frames of one answer, with as many `choices` for each prompt. `counts_tokens`: the last one says how many there
    were, and no other does."""

    def __init__(self, form: ChunkForm, head: Head, *, choices: int, counts_tokens: bool) -> None:
        self._form = form
        self._choices = choices
        self._head = head
        self._counts_tokens = counts_tokens
        self._around: dict[int, tuple[bytes, bytes]] = {}
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
        first = b""
        if number not in self._around:
            first = self._begin(number)
        if isinstance(event, FinishEvent):
            self._usages[number] = event.usage
            reason: OpenAIReason = "stop" if event.reason == "stop" and event.is_valid else "length"
            last = data_frame(self._chunk(self._form.last_choice(number, reason)))
            return first + (self._text_frame(number, event.text) if event.text else b"") + last
        if event.logprobs is not None:
            return first + data_frame(self._chunk(self._form.text_choice(number, event.text, event)))
        return first + (self._text_frame(number, event.text) if event.text else b"")

    def _begin(self, number: int) -> bytes:
        whole = data_frame(self._chunk(self._form.text_choice(number, _MARK, None)))
        before, _, after = whole.partition(json.dumps(_MARK, ensure_ascii=False).encode())
        self._around[number] = (before, after)
        return data_frame(self._chunk(self._form.first_choice(number))) if self._form.first_choice else b""

    def _text_frame(self, number: int, text: str) -> bytes:
        before, after = self._around[number]
        return before + json.dumps(text).encode() + after

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        body = self._body([choice])
        return {**body, "usage": None} if self._counts_tokens else body

    def _body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = self._head
        return {
            "id": head.identifier,
            "object": self._form.kind,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
            "choices": choices,
        }


def _chat_text(number: int, text: str, event: TokenEvent | None) -> dict[str, Any]:
    logprobs = None
    if event and event.logprobs:
        logprobs = {"content": [token_logprob(event.piece, event.logprobs)], "refusal": None}
    return {"index": number, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}


def _chat_first(number: int) -> dict[str, Any]:
    delta = {"role": "assistant", "content": "", "refusal": None}
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}


def _chat_last(number: int, reason: OpenAIReason) -> dict[str, Any]:
    return {"index": number, "delta": {}, "logprobs": None, "finish_reason": reason}


def _plain_text(number: int, text: str, event: TokenEvent | None) -> dict[str, Any]:
    logprobs = plain_logprobs([event.piece], [event.logprobs]) if event and event.logprobs else None
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": None}


def _plain_last(number: int, reason: OpenAIReason) -> dict[str, Any]:
    return {"index": number, "text": "", "logprobs": None, "finish_reason": reason}


CHAT = ChunkForm("chat.completion.chunk", _chat_text, _chat_first, _chat_last)
COMPLETION = ChunkForm("text_completion", _plain_text, None, _plain_last)
