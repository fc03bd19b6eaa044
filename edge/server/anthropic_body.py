"""Bodies of Anthropic's `/v1/messages`, as strictly read as OpenAI's, in the form in which all chats are answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from edge.constraint import Constraint
from edge.openai_fields import BodyError, Fields, as_text, shown
from edge.openai_messages import BodyMessage
from edge.openai_request import ChatBody, parse_options
from edge.prompt import Role
from edge.settings import SamplingSettings
from edge.tool_calls import json_text
from edge.tools import Tool, ToolMode, ToolSet, make_tool_set, tool_of_fields

_OPTIONS = frozenset(setting.name for setting in fields(SamplingSettings)) | {"model", "max_tokens", "stream", "lora"}
_WITHOUT_EFFECT = frozenset({"cache_control", "service_tier", "inference_geo", "diagnostics", "speed"})
_UNSUPPORTED = frozenset({"container", "mcp_servers", "context_management", "user_profile_id", "workspace_id"})
_KNOWN = sorted(
    _OPTIONS
    | _WITHOUT_EFFECT
    | _UNSUPPORTED
    | {"messages", "system", "stop_sequences", "metadata", "thinking", "tools", "tool_choice", "output_config"}
)
_CALLED = {"auto": "auto", "any": "required", "tool": "required", "none": "auto"}


@dataclass(frozen=True)
class MessagesBody:
    """A conversation to answer, and the functions that may be called."""

    chat: ChatBody
    tools: ToolSet | None


def parse_messages_body(value: object, *, needs_max_tokens: bool = True) -> MessagesBody:
    """A body out of JSON; BodyError with the path of what is wrong in it."""
    body = Fields(value)
    body.refuse_unknown(_KNOWN)
    for name in sorted(_UNSUPPORTED):
        if body.given(name):
            raise BodyError(f"{name} is not supported.", hint="Leave it out.", field=name)
    if needs_max_tokens:
        body.require("max_tokens")
    _check_thinking(body)
    options = parse_options(Fields({name: item for name, item in body.members.items() if name in _OPTIONS}))
    chat = replace(
        options,
        messages=(*_system(body), *_messages(body)),
        stop=_stop_sequences(body),
        constraint=_format(body),
        client=_user(body),
    )
    return MessagesBody(chat, _tools(body))


def _system(body: Fields) -> list[BodyMessage]:
    text = _text(body, "system")
    return [BodyMessage("system", text)] if text else []


def _messages(body: Fields) -> list[BodyMessage]:
    body.require("messages")
    items = body.items("messages") or []
    if not items:
        raise BodyError("messages is empty.", hint="Give at least one message.", field="messages")
    messages = [part for path, item in items for part in _message(Fields(item, path))]
    if messages and messages[-1].role == "assistant":
        hint = "End with a message of the user's; to have a form kept to, use output_config."
        raise BodyError("The last message is the assistant's.", hint=hint, field=items[-1][0])
    return messages


def _message(message: Fields) -> list[BodyMessage]:
    """A message, or several: results of functions are messages of their own."""
    message.refuse_unknown(["role", "content"])
    for needed in ("role", "content"):
        message.require(needed)
    role: Role = message.choice("role", ("user", "assistant"))  # type: ignore[assignment]  # checked by choice
    if not isinstance(message.members["content"], list):
        return [BodyMessage(role, _text(message, "content"))]
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[BodyMessage] = []
    for path, item in message.items("content") or ():
        block = Fields(item, path)
        kind = _kind_of_block(block, role)
        if kind == "text":
            texts.append(_text_of_block(block))
        elif kind == "tool_use":
            calls.append(_call(block))
        else:
            results.append(_result(block))
    own = [BodyMessage(role, "\n".join(texts), tuple(calls))] if texts or calls or not results else []
    return [*results, *own]


def _kind_of_block(block: Fields, role: Role) -> str:
    block.require("type")
    kind = block.text("type") or ""
    known = ("text", "tool_use") if role == "assistant" else ("text", "tool_result")
    if kind not in known:
        path = block.path("type")
        raise BodyError(f"{path} is {shown(kind)}.", hint=f"Read here are {' and '.join(known)}.", field=path)
    return kind


def _text_of_block(block: Fields) -> str:
    block.refuse_unknown(["type", "text", "cache_control", "citations", "parsed_output"])
    block.require("text")
    return block.text("text") or ""


def _call(block: Fields) -> dict[str, Any]:
    block.refuse_unknown(["type", "id", "name", "input", "cache_control", "caller"])
    for needed in ("id", "name", "input"):
        block.require(needed)
    arguments = block.fields("input")
    assert arguments is not None
    function = {"name": block.text("name"), "arguments": json_text(arguments.members)}
    return {"id": block.text("id"), "type": "function", "function": function}


def _result(block: Fields) -> BodyMessage:
    block.refuse_unknown(["type", "tool_use_id", "content", "is_error", "cache_control"])
    block.require("tool_use_id")
    text = _text(block, "content")
    if block.boolean("is_error"):
        text = f"Error: {text}"
    return BodyMessage("tool", text, tool_call_id=block.text("tool_use_id"))


def _text(body: Fields, name: str) -> str:
    """A text, or the texts of blocks on lines of their own."""
    if not isinstance(body.members.get(name), list):
        return body.text(name) or ""
    texts = []
    for path, item in body.items(name) or ():
        block = Fields(item, path)
        if block.text("type") != "text":
            field = block.path("type")
            raise BodyError(f"{field} is {shown(block.members.get('type'))}.", hint="Only text is read.", field=field)
        texts.append(_text_of_block(block))
    return "\n".join(texts)


def _stop_sequences(body: Fields) -> tuple[str, ...]:
    stops = [(path, as_text(item, path)) for path, item in body.items("stop_sequences") or ()]
    for path, text in stops:
        if not text:
            raise BodyError(f"{path} is empty.", hint="Give at least one character.", field=path)
    return tuple(text for _, text in stops)


def _check_thinking(body: Fields) -> None:
    thinking = body.fields("thinking")
    if thinking is not None and thinking.text("type") != "disabled":
        hint = "Leave it out: what a model thinks is part of its text."
        raise BodyError("thinking is not supported.", hint=hint, field="thinking")


def _user(body: Fields) -> str:
    metadata = body.fields("metadata")
    if metadata is None:
        return ""
    metadata.refuse_unknown(["user_id"])
    return metadata.text("user_id") or ""


def _format(body: Fields) -> Constraint | None:
    config = body.fields("output_config")
    if config is None:
        return None
    config.refuse_unknown(["format", "effort"])
    if config.given("effort"):
        path = config.path("effort")
        raise BodyError(f"{path} is not supported.", hint="Leave it out.", field=path)
    wanted = config.fields("format")
    if wanted is None:
        return None
    wanted.refuse_unknown(["type", "schema"])
    for needed in ("type", "schema"):
        wanted.require(needed)
    wanted.choice("type", ("json_schema",))
    schema = wanted.fields("schema")
    assert schema is not None
    return Constraint.json_schema(schema.members)


def _tools(body: Fields) -> ToolSet | None:
    tools = [_tool(Fields(item, path)) for path, item in body.items("tools") or ()]
    choice = body.fields("tool_choice")
    mode: ToolMode = "auto"
    kind, only, is_parallel = "auto", None, True
    if choice is not None:
        choice.require("type")
        kind = choice.choice("type", tuple(_CALLED)) or "auto"
        choice.refuse_unknown(["type", "name", "disable_parallel_tool_use"])
        is_parallel = not choice.boolean("disable_parallel_tool_use")
        mode = "required" if _CALLED[kind] == "required" else "auto"
        if kind == "tool":
            choice.require("name")
            only = choice.text("name")
    return _tool_set(tools, kind, mode, only, is_parallel)


def _tool_set(tools: Sequence[Tool], kind: str, mode: ToolMode, only: str | None, is_parallel: bool) -> ToolSet | None:
    if not tools:
        if mode == "required":
            raise BodyError("tool_choice is given without tools.", hint="Give the tools too.", field="tool_choice")
        return None
    tool_set = make_tool_set(tools, mode=mode, only=only, is_parallel=is_parallel, choice_field="tool_choice")
    return None if kind == "none" else tool_set


def _tool(tool: Fields) -> Tool:
    kind = tool.text("type") or "custom"
    if kind != "custom":
        path = tool.path("type")
        raise BodyError(f"{path} is {shown(kind)}.", hint="Only functions of your own can be called.", field=path)
    known = {"type", "cache_control", "eager_input_streaming", "strict"}
    own = Fields({name: item for name, item in tool.members.items() if name not in known}, tool.path("x")[:-2])
    own.require("input_schema")
    return tool_of_fields(own, "input_schema")
