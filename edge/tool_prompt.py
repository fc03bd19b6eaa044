"""Functions, calls and their results as text of a conversation.

A model whose chat template describes functions, and has calls written as they are read here, is told of them by its
template. Any other finds them described in the system text, and results of calls in messages of the user's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edge.openai_fields import BodyError, Fields, parse_json, shown
from edge.openai_messages import BodyMessage
from edge.prompt import Message
from edge.tool_calls import CLOSING, OPENING, call_text, json_text
from edge.tools import Tool, ToolSet

_PROBE = {
    "type": "function",
    "function": {
        "name": "probe_of_template",
        "description": "Tells nothing.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}


class Prompts(Protocol):
    """What writes prompts; a TextEngine is one."""

    def chat_tokens(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, object] | None = None,
        known_tokens: Sequence[int] = (),
    ) -> tuple[int, ...]: ...
    def tokens_text(self, tokens: Sequence[int]) -> str: ...


def describes_tools(prompts: Prompts) -> bool:
    """Whether the model's own template describes functions, and has calls written in the form that is read here."""
    tokens = prompts.chat_tokens([Message("user", "Hello")], {"tools": [_PROBE]})
    written = prompts.tokens_text(tokens)
    return "probe_of_template" in written and OPENING in written


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """What templates read as `tools`."""
    return [{"type": "function", "function": _described(tool)} for tool in tools]


def tools_text(tools: ToolSet) -> str:
    """The description of functions for a model whose template has none."""
    described = "\n".join(json_text(_described(tool)) for tool in tools.tools)
    several = " Several calls may follow each other, each within marks of its own." if tools.is_parallel else ""
    when = "Call one now." if tools.mode == "required" else "If none of them helps, answer in text."
    return (
        f"You can call these functions:\n{described}\n\n"
        f"To call one, write nothing but its name and its arguments in this form:\n"
        f'{OPENING}\n{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}\n{CLOSING}\n'
        f"You get the result in the next message.{several} {when}"
    )


def has_calls(messages: Sequence[BodyMessage]) -> bool:
    """Whether calls or their results are among the messages."""
    return any(message.tool_calls or message.role == "tool" for message in messages)


def prompt_messages(messages: Sequence[BodyMessage], tools: ToolSet | None, *, is_native: bool) -> list[Message]:
    """The messages with calls and results written out; BodyError for a result of no call. `is_native`: the template
    describes functions itself, and knows results."""
    written = _written_out(messages, is_native=is_native)
    if tools is None or is_native:
        return written
    system = tools_text(tools)
    if written and written[0].role == "system":
        return [Message("system", f"{written[0].content}\n\n{system}"), *written[1:]]
    return [Message("system", system), *written]


def _written_out(messages: Sequence[BodyMessage], *, is_native: bool) -> list[Message]:
    names: dict[str, str] = {}
    written: list[Message] = []
    follows_result = False
    for index, message in enumerate(messages):
        is_result = message.role == "tool"
        if not is_result:
            written.append(Message(message.role, _with_calls(message, names, f"messages[{index}]")))
        else:
            name = _name_of_result(message, names, f"messages[{index}]")
            if is_native:
                written.append(Message("tool", message.content))
            elif follows_result:
                written[-1] = Message("user", f"{written[-1].content}\n{_result_text(name, message.content)}")
            else:
                written.append(Message("user", _result_text(name, message.content)))
        follows_result = is_result
    return written


def _with_calls(message: BodyMessage, names: dict[str, str], path: str) -> str:
    """The text of a message with its calls behind it."""
    calls = [_call(Fields(call, f"{path}.tool_calls[{index}]"), names) for index, call in enumerate(message.tool_calls)]
    return "\n".join([*([message.content] if message.content else []), *calls])


def _described(tool: Tool) -> dict[str, Any]:
    description = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **description, "parameters": json.loads(tool.arguments.text)}


def _call(call: Fields, names: dict[str, str]) -> str:
    """The text of a call that a client sends back, whose name is noted under its id."""
    call.refuse_unknown(["id", "type", "function", "index"])
    call.choice("type", ("function",))
    call.require("function")
    function = call.fields("function")
    assert function is not None
    function.refuse_unknown(["name", "arguments"])
    for needed in ("name", "arguments"):
        function.require(needed)
    name, path = function.text("name") or "", function.path("arguments")
    if call.given("id"):
        names[call.text("id") or ""] = name
    return call_text(name, _arguments(function.text("arguments") or "", path))


def _arguments(text: str, path: str) -> Mapping[str, Any]:
    try:
        value = parse_json(text, path)
    except BodyError as error:
        raise BodyError(error.message, hint=error.hint, field=path) from error
    if not isinstance(value, dict):
        raise BodyError(f"{path} is {shown(text)}.", hint="It must be the text of a JSON object.", field=path)
    return value


def _name_of_result(message: BodyMessage, names: Mapping[str, str], path: str) -> str:
    if message.tool_call_id is None:
        return ""
    name = names.get(message.tool_call_id)
    if name is None:
        field = f"{path}.tool_call_id"
        raise BodyError(
            f"{field} is {shown(message.tool_call_id)}, which no call before it has.",
            hint="Send the assistant's message with its tool_calls too.",
            field=field,
        )
    return name


def _result_text(name: str, content: str) -> str:
    """A result in marks that it cannot close itself, whatever a function returns."""
    named = {"name": name} if name else {}
    body = json_text({**named, "content": content}).replace("</", "<\\/")
    return f"<tool_response>\n{body}\n</tool_response>"
