"""Calls of functions as they stand in a reply, and a reply with calls read back while it comes.

A call is written `<tool_call>`, a line with a JSON object of `name` and `arguments`, `</tool_call>`, which many models
were trained to write. Text may stand before the first call, nothing behind the last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
_MARK = re.compile(r'["\\{}]')


@dataclass(frozen=True)
class ToolCall:
    """A call of a function. `arguments` is the text of a JSON object, cut off where the reply was."""

    identifier: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ReplyText:
    """Some text of the answer."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    """A call, of which the arguments follow."""

    index: int
    identifier: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """Some more of the text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """The arguments of a call are whole."""

    index: int


ReplyPart = ReplyText | CallBegin | CallArguments | CallEnd


@dataclass(frozen=True)
class Reply:
    """What a reply says, and what it calls."""

    text: str
    calls: tuple[ToolCall, ...]


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as models write it."""
    return f'{OPENING}\n{{"name": {json.dumps(name)}, "arguments": {json_text(arguments)}}}\n{CLOSING}'


def json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def read_reply(text: str) -> Reply:
    """A whole reply, or as much as there is of one."""
    reader = ReplyReader()
    return reply_of([*reader.feed(text), *reader.end()])


def reply_of(parts: Iterable[ReplyPart]) -> Reply:
    text, begun, arguments = "", list[CallBegin](), list[str]()
    for part in parts:
        match part:
            case ReplyText():
                text += part.text
            case CallBegin():
                begun.append(part)
                arguments.append("")
            case CallArguments():
                arguments[part.index] += part.text
    calls = zip(begun, arguments, strict=True)
    return Reply(text, tuple(ToolCall(call.identifier, call.name, written) for call, written in calls))


class ReplyReader:
    """Reads a reply in pieces of any size. White space before a call belongs neither to it nor to the text."""

    def __init__(self) -> None:
        self._waiting = ""
        self._step = self._read_text
        self._calls = 0
        self._depth = 0
        self._is_string = self._is_escaped = False

    def feed(self, text: str) -> list[ReplyPart]:
        """What can be said with this text, which comes behind all before it."""
        self._waiting += text
        parts: list[ReplyPart] = []
        while self._step(parts):
            pass
        return parts

    def end(self) -> list[ReplyPart]:
        """What was held back, when nothing more comes."""
        text, self._waiting = self._waiting, ""
        return [ReplyText(text)] if text and self._step == self._read_text else []

    def _read_text(self, parts: list[ReplyPart]) -> bool:
        before, opening, after = self._waiting.partition(OPENING)
        if opening:
            self._say(parts, before.rstrip())
            self._waiting, self._step = after, self._read_head
            return True
        kept = len(before) - _unfinished(before)
        kept = len(before[:kept].rstrip())
        self._say(parts, before[:kept])
        self._waiting = before[kept:]
        return False

    def _read_head(self, parts: list[ReplyPart]) -> bool:
        head = _HEAD.match(self._waiting)
        if not head:
            return False
        parts.append(CallBegin(self._calls, f"call_{uuid4().hex[:24]}", json.loads(head[1])))
        self._waiting, self._step = self._waiting[head.end() :], self._read_arguments
        self._depth, self._is_string, self._is_escaped = 0, False, False
        return True

    def _read_arguments(self, parts: list[ReplyPart]) -> bool:
        end = self._end_of_object()
        written = self._waiting if end is None else self._waiting[:end]
        if written:
            parts.append(CallArguments(self._calls, written))
        self._waiting = self._waiting[len(written) :]
        if end is None:
            return False
        parts.append(CallEnd(self._calls))
        self._calls += 1
        self._step = self._read_between
        return True

    def _read_between(self, parts: list[ReplyPart]) -> bool:
        """Nothing between two calls is said to anyone."""
        _, opening, after = self._waiting.partition(OPENING)
        if not opening:
            return False
        self._waiting, self._step = after, self._read_head
        return True

    def _end_of_object(self) -> int | None:
        """The position behind the object's last brace, if that is there."""
        position = 0
        while position < len(self._waiting):
            if self._is_escaped:
                self._is_escaped = False
                position += 1
                continue
            mark = _MARK.search(self._waiting, position)
            if mark is None:
                return None
            position = mark.end()
            if mark[0] == '"':
                self._is_string = not self._is_string
            elif self._is_string:
                self._is_escaped = mark[0] == "\\"
            elif mark[0] != "\\":
                self._depth += 1 if mark[0] == "{" else -1
                if self._depth == 0:
                    return position
        return None

    def _say(self, parts: list[ReplyPart], text: str) -> None:
        if text:
            parts.append(ReplyText(text))


class PlainReader:
    """Reads a reply that can hold no calls: all of it is text."""

    def feed(self, text: str) -> list[ReplyPart]:
        return [ReplyText(text)] if text else []

    def end(self) -> list[ReplyPart]:
        return []


def _unfinished(text: str) -> int:
    """How many characters at the end could become the mark of a call."""
    return next((size for size in range(len(OPENING) - 1, 0, -1) if text.endswith(OPENING[:size])), 0)
