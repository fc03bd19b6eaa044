"""Bodies of OpenAI's `/v1/responses`, as strictly read as those of its chat completions.

Nothing is stored: a conversation comes as a whole with each request, and what refers to an earlier response is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from edge.constraint import Constraint
from edge.openai_fields import BodyError, Fields, parse_json, shown
from edge.openai_messages import BodyMessage
from edge.openai_request import MAX_TOP_LOGPROBS, ChatBody, parse_options, parse_session
from edge.prompt import Role
from edge.settings import SamplingSettings
from edge.tools import Tool, ToolSet, make_tool_set, tool_of_fields

_SAMPLING = frozenset(setting.name for setting in fields(SamplingSettings))
_PASSED_ON = _SAMPLING | {"model", "user", "stream", "lora", "priority", "deadline_seconds", "chat_template_kwargs"}
_WITHOUT_EFFECT = frozenset(
    {"metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options"}
    | {"prompt_cache_retention", "max_tool_calls"}
)
_UNSUPPORTED = {
    "previous_response_id": "Responses are not stored: send the whole conversation as input.",
    "conversation": "Conversations are not stored: send the whole of it as input.",
    "prompt": "Prompts are not stored: send its text.",
    "reasoning": "Set what the model's template knows with chat_template_kwargs.",
    "context_management": "Shorten the input yourself.",
    "moderation": "Leave it out: nothing is moderated.",
    "background_options": "Leave it out: responses are not stored.",
    "verbosity": "Ask for it in the prompt.",
}
_KNOWN = sorted(
    _PASSED_ON
    | _WITHOUT_EFFECT
    | _UNSUPPORTED.keys()
    | {"input", "instructions", "max_output_tokens", "text", "tools", "tool_choice", "parallel_tool_calls", "include"}
    | {"store", "background", "truncation", "top_logprobs", "stream_options", "stop", "session"}
)
_LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (_LOGPROBS, "reasoning.encrypted_content")
_TEXT_PARTS = ("input_text", "output_text", "text")
_ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True)
class ResponsesBody:
    """A conversation to answer, the functions that may be called, and what an answer repeats of the body."""

    chat: ChatBody
    tools: ToolSet | None = None
    repeated: Mapping[str, Any] = field(default_factory=dict)


def parse_responses(value: object) -> ResponsesBody:
    """A body out of JSON; BodyError with the path of what is wrong in it."""
    body = Fields(value)
    body.refuse_unknown(_KNOWN)
    for name, hint in _UNSUPPORTED.items():
        if body.given(name):
            raise BodyError(f"{name} is not supported.", hint=hint, field=name)
    _refuse_storing(body)
    _check_stream_options(body)
    passed_on = {name: item for name, item in body.members.items() if name in (*_PASSED_ON, "stop")}
    instructions = body.text("instructions")
    system = [BodyMessage("system", instructions)] if instructions else []
    constraint, text_format = _format(body)
    chat = replace(
        parse_options(Fields(passed_on)),
        messages=(*system, *_input(body)),
        max_tokens=body.integer("max_output_tokens", 1),
        logprobs=_logprobs(body),
        constraint=constraint,
        session=parse_session(body),
    )
    tools = [_tool(Fields(item, path)) for path, item in body.items("tools") or ()]
    repeated = {
        "instructions": instructions,
        "max_output_tokens": chat.max_tokens,
        "metadata": body.members.get("metadata") or {},
        "parallel_tool_calls": body.boolean("parallel_tool_calls") is not False,
        "text": {"format": text_format},
        "tool_choice": body.members.get("tool_choice") or "auto",
        "tools": body.members.get("tools") or [],
        "top_logprobs": chat.logprobs or 0,
        "user": chat.client or None,
    }
    return ResponsesBody(chat, _tool_set(body, tools), repeated)


def _refuse_storing(body: Fields) -> None:
    if body.boolean("store"):
        raise BodyError("store is true.", hint="Nothing is stored: set it to false.", field="store")
    if body.boolean("background"):
        hint = "Responses are not stored: wait for them, or stream them."
        raise BodyError("background is true.", hint=hint, field="background")
    if body.choice("truncation", ("auto", "disabled")) == "auto":
        hint = "Nothing is left out of an input: shorten it yourself."
        raise BodyError("truncation is auto.", hint=hint, field="truncation")


def _check_stream_options(body: Fields) -> None:
    options = body.fields("stream_options")
    if options is not None:
        options.refuse_unknown(["include_obfuscation"])
        options.boolean("include_obfuscation")  # padding against listeners to the length of packets; there is none


def _logprobs(body: Fields) -> int | None:
    top = body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    included = []
    for path, item in body.items("include") or ():
        if item not in _INCLUDED:
            raise BodyError(f"{path} is {shown(item)}.", hint=f"There is only {_LOGPROBS}.", field=path)
        included.append(item)
    return (top or 0) if top or _LOGPROBS in included else None


def _format(body: Fields) -> tuple[Constraint | None, dict[str, Any]]:
    """The constraint of the text, and its format as it is repeated."""
    text = body.fields("text")
    wanted = None
    if text is not None:
        text.refuse_unknown(["format"])
        wanted = text.fields("format")
    if wanted is None:
        return None, {"type": "text"}
    wanted.require("type")
    kind = wanted.choice("type", ("text", "json_object", "json_schema"))
    known = ["type", "name", "description", "schema", "strict"] if kind == "json_schema" else ["type"]
    wanted.refuse_unknown(known)
    if kind == "text":
        return None, wanted.members
    if kind == "json_object":
        return Constraint.json_schema(_ANY_OBJECT), wanted.members
    wanted.require("schema")
    wanted.boolean("strict")  # held to the schema in any case
    schema = wanted.fields("schema")
    assert schema is not None
    return Constraint.json_schema(schema.members), wanted.members


def _input(body: Fields) -> list[BodyMessage]:
    body.require("input")
    value = body.members["input"]
    if isinstance(value, str):
        return [BodyMessage("user", value)]
    messages: list[BodyMessage] = []
    calls: set[str] = set()
    for path, item in body.items("input") or ():
        _add_item(messages, calls, Fields(item, path))
    if not messages:
        raise BodyError("input is empty.", hint="Give a text, or at least one item.", field="input")
    return messages


def _add_item(messages: list[BodyMessage], calls: set[str], item: Fields) -> None:
    kind = item.text("type") or "message"
    if kind == "message":
        messages.append(_message(item))
    elif kind == "function_call":
        call = _call(item)
        calls.add(call["id"])
        if messages and messages[-1].role == "assistant":
            messages[-1] = replace(messages[-1], tool_calls=(*messages[-1].tool_calls, call))
        else:
            messages.append(BodyMessage("assistant", "", (call,)))
    elif kind == "function_call_output":
        messages.append(_result(item, calls))
    else:
        path = item.path("type")
        hint = "Read here are message, function_call and function_call_output."
        raise BodyError(f"{path} is {shown(kind)}.", hint=hint, field=path)


def _message(item: Fields) -> BodyMessage:
    item.refuse_unknown(["type", "role", "content", "id", "status", "phase"])
    for needed in ("role", "content"):
        item.require(needed)
    role = item.choice("role", ("user", "assistant", "system", "developer"))
    known: Role = "system" if role == "developer" else role  # type: ignore[assignment]  # checked by choice
    return BodyMessage(known, _text(item, "content"))


def _text(item: Fields, name: str) -> str:
    """A text; its parts, if it has some, on lines of their own."""
    if not isinstance(item.members.get(name), list):
        return item.text(name) or ""
    texts = []
    for path, value in item.items(name) or ():
        part = Fields(value, path)
        kind = part.text("type")
        if kind not in _TEXT_PARTS:
            raise BodyError(f"{path} is of type {shown(kind)}.", hint="Only text is read.", field=path)
        part.refuse_unknown(["type", "text", "annotations", "logprobs", "parsed"])
        part.require("text")
        texts.append(part.text("text") or "")
    return "\n".join(texts)


def _call(item: Fields) -> dict[str, Any]:
    item.refuse_unknown(["type", "id", "call_id", "name", "arguments", "status", "parsed_arguments", "caller"])
    for needed in ("call_id", "name", "arguments"):
        item.require(needed)
    arguments, path = item.text("arguments") or "", item.path("arguments")
    if not isinstance(_parsed(arguments, path), dict):
        raise BodyError(f"{path} is {shown(arguments)}.", hint="It must be the text of a JSON object.", field=path)
    function = {"name": item.text("name"), "arguments": arguments}
    return {"id": item.text("call_id"), "type": "function", "function": function}


def _parsed(text: str, path: str) -> Any:
    try:
        return parse_json(text, path)
    except BodyError as error:
        raise BodyError(error.message, hint=error.hint, field=path) from error


def _result(item: Fields, calls: set[str]) -> BodyMessage:
    item.refuse_unknown(["type", "id", "call_id", "output", "status"])
    for needed in ("call_id", "output"):
        item.require(needed)
    identifier, path = item.text("call_id") or "", item.path("call_id")
    if identifier not in calls:
        hint = "Nothing is stored: send the function_call too."
        raise BodyError(f"{path} is {shown(identifier)}, which no call before it has.", hint=hint, field=path)
    return BodyMessage("tool", _text(item, "output"), tool_call_id=identifier)


def _tool(tool: Fields) -> Tool:
    kind = tool.text("type")
    if kind != "function":
        path = tool.path("type")
        raise BodyError(f"{path} is {shown(kind)}.", hint="Only functions can be called.", field=path)
    own = {name: item for name, item in tool.members.items() if name != "type"}
    return tool_of_fields(Fields(own, path_of(tool)), "parameters")


def path_of(item: Fields) -> str:
    return item.path("x").removesuffix(".x")


def _tool_set(body: Fields, tools: list[Tool]) -> ToolSet | None:
    choice, only = body.members.get("tool_choice"), None
    if isinstance(choice, dict):
        named = Fields(choice, "tool_choice")
        if named.text("type") != "function":
            hint = "It must be none, auto, required or a function."
            raise BodyError(f"tool_choice.type is {shown(choice.get('type'))}.", hint=hint, field="tool_choice.type")
        named.refuse_unknown(["type", "name"])
        named.require("name")
        only, choice = named.text("name"), "required"
    else:
        choice = body.choice("tool_choice", ("none", "auto", "required"))
    if not tools:
        if choice == "required":
            raise BodyError("tool_choice is given without tools.", hint="Give the tools too.", field="tool_choice")
        return None
    is_parallel = body.boolean("parallel_tool_calls") is not False
    tool_set = make_tool_set(
        tools, mode="required" if choice == "required" else "auto", only=only, is_parallel=is_parallel
    )
    return None if choice == "none" else tool_set
