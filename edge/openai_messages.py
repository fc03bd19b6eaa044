"""The messages of OpenAI's chat completions: roles, and texts that may come in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from edge.openai_fields import BodyError, Fields, refusal
from edge.prompt import Role

_ROLES = ("developer", *get_args(Role))
# what clients send back with an answer they got, empty where there is nothing of it
_EMPTY_IN_MESSAGES = ("refusal", "annotations", "audio", "function_call", "reasoning_content")


@dataclass(frozen=True)
class BodyMessage:
    """One message of a body, its text in one piece."""

    role: Role
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None


def parse_messages(body: Fields) -> tuple[BodyMessage, ...]:
    """The messages of a body; BodyError with the path of what is wrong in them."""
    body.require("messages")
    messages = tuple(_message(Fields(item, path)) for path, item in body.items("messages") or ())
    if not messages:
        raise BodyError("messages is empty.", hint="Give at least one message.", field="messages")
    return messages


def _message(message: Fields) -> BodyMessage:
    message.require("role")
    role = message.choice("role", _ROLES)
    extra = {"assistant": ["tool_calls", *_EMPTY_IN_MESSAGES], "tool": ["tool_call_id"]}.get(role or "", [])
    if message.given("name"):
        hint = "Chat templates have no place for it: write it into the text."
        raise BodyError(f"{message.path('name')} is not supported.", hint=hint, field=message.path("name"))
    message.refuse_unknown(["role", "content", "name", *extra])
    for name in set(extra) & set(_EMPTY_IN_MESSAGES):
        if message.members.get(name) not in (None, [], ""):
            raise refusal(message.path(name), message.members[name], "null here")
    calls = message.items("tool_calls") or []
    if not calls:
        message.require("content")
    return BodyMessage(
        role="system" if role == "developer" else role,  # type: ignore[arg-type]  # checked by choice
        content=_content(message),
        tool_calls=tuple(Fields(item, path).members for path, item in calls),
        tool_call_id=message.text("tool_call_id"),
    )


def _content(message: Fields) -> str:
    """The text of a message; its parts, if it has some, on lines of their own."""
    value = message.members.get("content")
    if not isinstance(value, list):
        if value is None or isinstance(value, str):
            return value or ""
        raise refusal(message.path("content"), value, "a text or a list of text parts")
    texts = []
    for path, item in message.items("content") or ():
        part = Fields(item, path)
        part.require("type")
        kind = part.text("type")
        if kind != "text":
            raise BodyError(f"{path} is of type {kind}.", hint="Only parts of type text are read.", field=path)
        part.refuse_unknown(["type", "text"])
        part.require("text")
        texts.append(part.text("text") or "")
    return "\n".join(texts)
