"""Bodies of Ollama's `/api/chat` and `/api/generate`, as strictly read as OpenAI's.

What Ollama lets a request change about how a model is loaded is a matter of the server's start here. Such options are
taken where they ask for nothing else than there is, or only concern speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

from edge.constraint import Constraint
from edge.openai_fields import BodyError, Fields, as_text, refusal
from edge.openai_messages import BodyMessage
from edge.openai_request import ChatBody, parse_options
from edge.prompt import Role
from edge.tool_calls import json_text
from edge.tools import ToolSet, parse_tools

_SETTINGS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repeat_penalty",
    "repeat_last_n": "repeat_last_tokens",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}
_OF_LOADING = frozenset(
    {"numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap"}
    | {"use_mlock", "embedding_only", "num_thread", "num_keep"}
)
"""Options without effect: they concern speed and memory, which are settled when the server starts."""
_NEUTRAL = {"tfs_z": 1, "penalize_newline": True, "mirostat": 0}
_OPTIONS = sorted(
    _SETTINGS.keys()
    | _OF_LOADING
    | _NEUTRAL.keys()
    | {"num_ctx", "num_predict", "stop", "mirostat_tau", "mirostat_eta"}
)
_COMMON = frozenset(
    {"model", "stream", "options", "format", "keep_alive", "think", "logprobs", "top_logprobs", "truncate", "shift"}
)
_CHAT = sorted(_COMMON | {"messages", "tools"})
_GENERATE = sorted(_COMMON | {"prompt", "system", "raw", "images", "suffix", "template", "context"})
_ANY_OBJECT = {"type": "object"}
_UNSUPPORTED = {
    "suffix": "Only the end of a text can be written.",
    "template": "The model's own is used: none is taken from a request.",
    "context": "Send the conversation to /api/chat.",
    "images": "Only text is read.",
}


@dataclass(frozen=True)
class OllamaBody:
    """What is asked for. Without messages and prompt, the model is only to be loaded."""

    chat: ChatBody
    tools: ToolSet | None = None
    raw_prompt: str | None = None
    """A text to be continued as it is, instead of the messages."""
    context_tokens: int | None = None
    """How many tokens the context has to hold."""

    @property
    def is_empty(self) -> bool:
        return not self.chat.messages and not self.raw_prompt


def parse_chat(value: object) -> OllamaBody:
    """A body of `/api/chat` out of JSON; BodyError with the path of what is wrong in it."""
    body = Fields(value)
    body.refuse_unknown(_CHAT)
    tools = parse_tools([Fields(item, path).members for path, item in body.items("tools") or ()], None)
    return replace(_parse(body, lambda: _messages(body)), tools=tools)


def parse_generate(value: object) -> OllamaBody:
    """A body of `/api/generate` out of JSON; BodyError with the path of what is wrong in it."""
    body = Fields(value)
    body.refuse_unknown(_GENERATE)
    for name, hint in _UNSUPPORTED.items():
        if body.members.get(name) not in (None, "", []):
            raise BodyError(f"{name} is not supported.", hint=hint, field=name)
    prompt, system, is_raw = body.text("prompt") or "", body.text("system"), body.boolean("raw") or False
    messages = [BodyMessage("user", prompt)] if prompt and not is_raw else []
    if messages and system:
        messages.insert(0, BodyMessage("system", system))
    parsed = _parse(body, lambda: messages)
    return replace(parsed, raw_prompt=prompt) if is_raw else parsed


def _parse(body: Fields, messages: Callable[[], list[BodyMessage]]) -> OllamaBody:
    options = body.fields("options") or Fields({}, "options")
    options.refuse_unknown(_OPTIONS)
    _refuse_stages(options)
    members = {name: body.members.get(name) for name in ("logprobs", "top_logprobs")}
    chat = replace(
        parse_options(Fields({**members, **_sampling(options)})),
        model=body.text("model"),
        messages=tuple(messages()),
        stop=_stop(options),
        max_tokens=_max_tokens(options),
        constraint=_format(body),
        template_variables=_thinking(body),
        is_streamed=body.boolean("stream") is not False,
    )
    return OllamaBody(chat, context_tokens=options.integer("num_ctx", 1))


def _sampling(options: Fields) -> dict[str, Any]:
    """The settings under their names here, each checked under its name there."""
    chosen: dict[str, Any] = {}
    for theirs, ours in _SETTINGS.items():
        if options.given(theirs):
            try:
                parse_options(Fields({ours: options.members[theirs]}))
            except BodyError as error:
                path = options.path(theirs)
                message = error.message.replace(ours, path, 1)
                raise BodyError(message, hint=error.hint, field=path) from error
            chosen[ours] = options.members[theirs]
    if options.integer("mirostat", 0, 2) == 2:
        tau, eta = options.number("mirostat_tau", 0), options.number("mirostat_eta", 0)
        chosen["mirostat_tau"] = 5.0 if tau is None else tau
        chosen["mirostat_eta"] = 0.1 if eta is None else eta
    return chosen


def _refuse_stages(options: Fields) -> None:
    """BodyError for stages of sampling that there are none of."""
    for name, neutral in _NEUTRAL.items():
        value = options.members.get(name)
        if value is None or value == neutral or (name, value) == ("mirostat", 2):
            continue
        path = options.path(name)
        raise BodyError(f"{path} is not supported.", hint="Leave it out.", field=path)


def _stop(options: Fields) -> tuple[str, ...]:
    if isinstance(options.members.get("stop"), str):
        return tuple(filter(None, (options.text("stop"),)))
    stops = [(path, as_text(item, path)) for path, item in options.items("stop") or ()]
    for path, text in stops:
        if not text:
            raise refusal(path, text, "a text of at least one character")
    return tuple(text for _, text in stops)


def _max_tokens(options: Fields) -> int | None:
    """None for -1 and -2: as many as the context still holds."""
    if options.members.get("num_predict") in (-1, -2):
        return None
    return options.integer("num_predict", 1)


def _format(body: Fields) -> Constraint | None:
    wanted = body.members.get("format")
    if wanted in (None, ""):
        return None
    if wanted == "json":
        return Constraint.json_schema(_ANY_OBJECT)
    if not isinstance(wanted, dict):
        raise refusal("format", wanted, "json or a JSON Schema")
    return Constraint.json_schema(wanted)


def _thinking(body: Fields) -> dict[str, bool]:
    """Whether the model is to think first, for templates that ask. What it thinks is part of its text."""
    wanted = body.members.get("think")
    if wanted is None:
        return {}
    if not isinstance(wanted, bool):
        raise refusal("think", wanted, "true or false")
    return {"enable_thinking": wanted}


def _messages(body: Fields) -> list[BodyMessage]:
    messages: list[BodyMessage] = []
    open_calls: list[tuple[str, str]] = []
    """Name and id of calls whose results have not come yet."""
    for path, item in body.items("messages") or ():
        message = Fields(item, path)
        message.refuse_unknown(["role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"])
        message.require("role")
        role: Role = message.choice("role", get_args(Role))  # type: ignore[assignment]  # checked by choice
        if message.members.get("images") not in (None, []):
            field = message.path("images")
            raise BodyError(f"{field} is not supported.", hint="Only text is read.", field=field)
        calls = [_call(Fields(call, place), open_calls) for place, call in message.items("tool_calls") or ()]
        identifier = _answered(message, open_calls) if role == "tool" else None
        messages.append(BodyMessage(role, message.text("content") or "", tuple(calls), identifier))
    return messages


def _call(call: Fields, open_calls: list[tuple[str, str]]) -> dict[str, Any]:
    call.refuse_unknown(["function", "id", "type"])
    call.require("function")
    function = call.fields("function")
    assert function is not None
    function.refuse_unknown(["name", "arguments", "index"])
    function.require("name")
    name, arguments = function.text("name") or "", function.fields("arguments") or Fields({})
    identifier = call.text("id") or f"{call.path('id')} of {name}"  # of its place, so it is the only one
    open_calls.append((name, identifier))
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": json_text(arguments.members)}}


def _answered(message: Fields, open_calls: list[tuple[str, str]]) -> str | None:
    """The id of the call that a result is of: it is named, or the first that has none yet."""
    given, name = message.text("tool_call_id"), message.text("tool_name")
    for index, (called, identifier) in enumerate(open_calls):
        if given in (None, "", identifier) and name in (None, "", called):
            del open_calls[index]
            return identifier
    return None
