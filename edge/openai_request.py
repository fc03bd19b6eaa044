"""Bodies of OpenAI's `/v1/chat/completions` to requests.

A body is read strictly: an unknown field is an error, so that no misspelt option is ever ignored. Beside OpenAI's
fields there are those of `SamplingSettings` under their own names, and what else a `Request` may ask for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.openai_fields import BodyError, Fields, as_integer, as_number, as_text, is_deeper, refusal
from edge.openai_messages import BodyMessage, parse_messages
from edge.request import AdapterChoice, Request
from edge.settings import SamplingSettings
from edge.text_engine import TextEngine

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
_SEEDS = 2**32
_MAX_VARIABLE_NESTING = 32
SESSION_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?"
"""As a regular expression."""
_ANY_OBJECT = {"type": "object"}

WITHOUT_EFFECT = frozenset(
    {"store", "metadata", "service_tier", "safety_identifier", "prediction"}
    | {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
)
"""Fields that change nothing here: they are about OpenAI's storage, accounts and prices, or only about speed."""
_UNSUPPORTED = {
    "functions": "Describe them in the prompt and ask for JSON with response_format.",
    "function_call": "Ask for JSON with response_format.",
    "audio": "Only text can be written.",
    "moderation": "Leave it out: nothing is moderated.",
    "reasoning_effort": "Set what the model's template knows with chat_template_kwargs.",
    "verbosity": "Ask for it in the prompt.",
    "web_search_options": "Put what was found into the prompt.",
}
_SETTINGS: dict[str, Any] = {
    setting.name: setting.default for setting in fields(SamplingSettings) if setting.name not in ("logit_bias", "seed")
}
_OWN = frozenset(
    {"stop_tokens", "min_tokens", "ignore_eos", "regex", "grammar", "lora", "priority", "deadline_seconds"}
    | {"chat_template_kwargs", "session"}
)
_OPENAI = frozenset(
    {"messages", "model", "max_tokens", "max_completion_tokens", "n", "stop", "seed", "logit_bias", "logprobs"}
    | {"top_logprobs", "response_format", "stream", "stream_options", "user", "modalities"}
    | {"tools", "tool_choice", "parallel_tool_calls"}
)
KNOWN_FIELDS = sorted(_OPENAI | _OWN | WITHOUT_EFFECT | _UNSUPPORTED.keys() | _SETTINGS.keys())


@dataclass(frozen=True)
class ChatBody:
    """What a body asks for. `sampling` holds the settings it names; all others are the model's defaults."""

    messages: tuple[BodyMessage, ...]
    model: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    choices: int = 1
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    constraint: Constraint | None = None
    adapters: tuple[AdapterChoice, ...] | None = None
    priority: int = 0
    client: str = ""
    deadline_seconds: float | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    is_streamed: bool = False
    includes_usage: bool = False
    """A stream ends with a chunk that says how many tokens there were."""
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool = True
    session: str | None = None
    """The name under which a server remembers the tokens of this conversation."""
    known_tokens: tuple[int, ...] = ()
    """Those of an earlier request of the session and its answer: where the prompt begins so, it is written in them."""


def parse_body(value: object) -> ChatBody:
    """A body out of JSON; BodyError with the path of what is wrong in it."""
    body = Fields(value)
    body.refuse_unknown(KNOWN_FIELDS)
    return parse_options(body, lambda: parse_messages(body))


def parse_options(body: Fields, messages: Callable[[], tuple[BodyMessage, ...]] = tuple) -> ChatBody:
    """All of a body but its messages, which endpoints of other protocols may have in another form, or not at all."""
    for name, hint in _UNSUPPORTED.items():
        if body.given(name):
            raise BodyError(f"{name} is not supported.", hint=hint, field=name)
    _check_modalities(body)
    is_streamed, includes_usage = _streaming(body)
    tools, tool_choice = _tools(body)
    parallel_tool_calls = body.boolean("parallel_tool_calls")
    return ChatBody(
        messages=messages(),
        model=body.text("model"),
        sampling=_sampling(body),
        max_tokens=_max_tokens(body),
        choices=body.integer("n", 1, MAX_CHOICES) or 1,
        stop=_stop(body),
        stop_tokens=tuple(as_integer(item, path, 0) for path, item in body.items("stop_tokens") or ()),
        min_tokens=body.integer("min_tokens", 0) or 0,
        ignore_eos=body.boolean("ignore_eos") or False,
        logprobs=_logprobs(body),
        constraint=_constraint(body),
        adapters=_adapters(body),
        priority=body.integer("priority", -(2**31)) or 0,
        client=body.text("user") or "",
        deadline_seconds=body.number("deadline_seconds", 0),
        template_variables=_template_variables(body),
        is_streamed=is_streamed,
        includes_usage=includes_usage,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=True if parallel_tool_calls is None else parallel_tool_calls,
        session=parse_session(body),
    )


def requests_for(body: ChatBody, tokens: tuple[int, ...], engine: TextEngine) -> list[Request]:
    """A request for each choice, with a prompt that is written already; they differ in their seeds."""
    seed = body.sampling.get("seed")
    first = Request(
        tokens,
        sampling=replace(engine.default_sampling, **body.sampling),
        max_tokens=body.max_tokens,
        stop=body.stop,
        stop_tokens=body.stop_tokens,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        logprobs=body.logprobs,
        constraint=body.constraint,
        adapters=body.adapters,
        priority=body.priority,
        client=body.client,
        deadline_seconds=body.deadline_seconds,
    )
    if seed is None:
        return [first] * body.choices
    seeds = ((seed + index) % _SEEDS for index in range(body.choices))
    return [replace(first, sampling=replace(first.sampling, seed=seed)) for seed in seeds]


def _sampling(body: Fields) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, default in _SETTINGS.items():
        if not body.given(name):
            continue
        if isinstance(default, tuple):
            chosen[name] = tuple(as_text(item, path) for path, item in body.items(name) or ())
        elif isinstance(default, int):
            chosen[name] = body.integer(name, -1)
        else:
            chosen[name] = body.number(name)
        try:
            replace(SamplingSettings(), **{name: chosen[name]})
        except EdgeError as error:
            raise BodyError(error.message, hint=error.hint, field=name) from error
    seed = body.integer("seed", -(2**63), 2**63 - 1)
    if seed is not None:
        chosen["seed"] = seed % _SEEDS
    biases = body.fields("logit_bias")
    if biases:
        chosen["logit_bias"] = tuple(_bias(biases, token) for token in biases.members)
    return chosen


def _bias(biases: Fields, token: str) -> tuple[int, float]:
    path = biases.path(token)
    if not (token.isascii() and token.isdigit() and len(token) < 10):
        raise BodyError(f"logit_bias has the key {token!r}.", hint="Keys are token ids, such as 1234.", field=path)
    return int(token), as_number(biases.members[token], path, -100, 100)


def _max_tokens(body: Fields) -> int | None:
    both = [body.integer(name, 1) for name in ("max_completion_tokens", "max_tokens")]
    given = {value for value in both if value is not None}
    if len(given) > 1:
        raise BodyError(
            f"max_completion_tokens is {both[0]} and max_tokens is {both[1]}.",
            hint="Give one of them.",
            field="max_tokens",
        )
    return next(iter(given), None)


def _stop(body: Fields) -> tuple[str, ...]:
    value = body.members.get("stop")
    if isinstance(value, str):
        stops = [("stop", value)]
    elif value is None or isinstance(value, list):
        stops = [(path, as_text(item, path)) for path, item in body.items("stop") or ()]
    else:
        raise refusal("stop", value, "a text or a list of texts")
    for path, text in stops:
        if not text:
            raise refusal(path, text, "a text of at least one character")
    return tuple(text for _, text in stops)


def _logprobs(body: Fields) -> int | None:
    wanted, top = body.boolean("logprobs"), body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top is not None and not wanted:
        raise BodyError("top_logprobs is given without logprobs.", hint="Set logprobs to true.", field="top_logprobs")
    return (top or 0) if wanted else None


def _constraint(body: Fields) -> Constraint | None:
    regex, grammar, schema = body.text("regex"), body.text("grammar"), _schema(body)
    given = {"response_format": schema, "regex": regex, "grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise BodyError(f"{' and '.join(names)} exclude each other.", hint="Give one constraint.", field=names[1])
    if schema is not None:
        return Constraint.json_schema(schema)
    if regex is not None:
        return Constraint.regex(regex)
    return None if grammar is None else Constraint.grammar(grammar)


def _schema(body: Fields) -> dict[str, Any] | None:
    wanted = body.fields("response_format")
    if wanted is None:
        return None
    wanted.require("type")
    kind = wanted.choice("type", ("text", "json_object", "json_schema"))
    wanted.refuse_unknown(["type", "json_schema"] if kind == "json_schema" else ["type"])
    if kind != "json_schema":
        return _ANY_OBJECT if kind == "json_object" else None
    wanted.require("json_schema")
    named = wanted.fields("json_schema")
    assert named is not None
    named.refuse_unknown(["name", "description", "schema", "strict"])
    named.text("name"), named.text("description"), named.boolean("strict")  # held to the schema in any case
    named.require("schema")
    schema = named.fields("schema")
    assert schema is not None
    return schema.members


def _adapters(body: Fields) -> tuple[AdapterChoice, ...] | None:
    items = body.items("lora")
    if items is None:
        return None
    chosen = []
    for path, item in items:
        adapter = Fields(item, path)
        adapter.refuse_unknown(["name", "scale"])
        adapter.require("name")
        scale = adapter.number("scale")
        chosen.append(AdapterChoice(adapter.text("name") or "", 1.0 if scale is None else scale))
    return tuple(chosen)


def _template_variables(body: Fields) -> dict[str, Any]:
    variables = body.fields("chat_template_kwargs")
    if variables is None:
        return {}
    if is_deeper(variables.members, _MAX_VARIABLE_NESTING):
        hint = f"At most {_MAX_VARIABLE_NESTING} levels are passed on."
        raise BodyError("chat_template_kwargs is nested too deeply.", hint=hint, field="chat_template_kwargs")
    return variables.members


def parse_session(body: Fields) -> str | None:
    """The name of the session that a body belongs to. BodyError if it is no name."""
    name = body.text("session")
    if name is not None and not re.fullmatch(SESSION_NAME, name):
        raise refusal("session", name, "a name of up to 64 letters, digits, and between them '-', '_' and '.'")
    return name


def _check_modalities(body: Fields) -> None:
    for path, item in body.items("modalities") or ():
        if item != "text":
            raise BodyError(f"{path} is {item!r}.", hint="Only text can be written.", field=path)


def _streaming(body: Fields) -> tuple[bool, bool]:
    is_streamed, options = body.boolean("stream") or False, body.fields("stream_options")
    if options is None:
        return is_streamed, False
    if not is_streamed:
        raise BodyError("stream_options is given without stream.", hint="Set stream to true.", field="stream_options")
    options.refuse_unknown(["include_usage", "include_obfuscation"])
    options.boolean("include_obfuscation")  # padding against listeners to the length of packets; there is none
    return is_streamed, options.boolean("include_usage") or False


def _tools(body: Fields) -> tuple[tuple[Mapping[str, Any], ...], str | Mapping[str, Any] | None]:
    tools = tuple(Fields(item, path).members for path, item in body.items("tools") or ())
    choice = body.members.get("tool_choice")
    if not isinstance(choice, dict):
        choice = body.choice("tool_choice", ("none", "auto", "required"))
    if not tools and choice not in (None, "none", "auto"):
        raise BodyError("tool_choice is given without tools.", hint="Give the tools too.", field="tool_choice")
    return tools, choice
