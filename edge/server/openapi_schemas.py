"""The bodies of requests as the OpenAPI document describes them, made from what the readers of bodies know."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from edge.openai_request import MAX_CHOICES, MAX_TOP_LOGPROBS, SESSION_NAME
from edge.settings import SamplingSettings

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_FLAG: Schema = {"type": "boolean"}
_TOKEN: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
NUCLEUS: Schema = {"exclusiveMinimum": 0, "maximum": 1}
_SHARE: Schema = {"minimum": 0, "maximum": 1}
_ABOVE_ZERO: Schema = {"exclusiveMinimum": 0}
_WITHIN_THOUSAND: Schema = {"minimum": -1000, "maximum": 1000}
_NUMBER_LIMITS: dict[str, Schema] = {
    "top_p": NUCLEUS,
    "typical_p": NUCLEUS,
    "min_p": _SHARE,
    "xtc_probability": _SHARE,
    "xtc_threshold": _SHARE,
    "dry_base": {"minimum": 1},
    "repeat_penalty": {"minimum": 0.001, "maximum": 1000},
    "dynatemp_exponent": _ABOVE_ZERO,
    "mirostat_eta": _ABOVE_ZERO,
    "frequency_penalty": _WITHIN_THOUSAND,
    "presence_penalty": _WITHIN_THOUSAND,
}
_LEAST = {"dry_penalty_last_n": -1, "dry_allowed_length": 1}


def _integer(least: int, most: int = 2**31 - 1) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _sampling() -> dict[str, Schema]:
    described: dict[str, Schema] = {}
    for setting in fields(SamplingSettings):
        default = setting.default
        if setting.name in ("logit_bias", "seed"):
            continue
        if isinstance(default, tuple):
            described[setting.name] = {**_TEXTS, "default": list(default)}
        elif isinstance(default, int):
            described[setting.name] = {**_integer(_LEAST.get(setting.name, 0)), "default": default}
        else:
            described[setting.name] = {"type": "number", **_NUMBER_LIMITS.get(setting.name, {"minimum": 0})}
    return described


_CALL: Schema = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "id": _TEXT,
        "index": {"type": "integer"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": _TEXT, "arguments": {**_TEXT, "description": "The text of a JSON object."}},
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def text_or_parts(kind: Schema) -> Schema:
    """A text, or parts of such a type that have it."""
    part: Schema = {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": kind, "text": _TEXT},
        "additionalProperties": False,
    }
    return {"oneOf": [_TEXT, {"type": "array", "items": part}]}


_CONTENT = text_or_parts({"const": "text"})


def _message(roles: list[str], required: list[str], **more: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["role", *required],
        "properties": {"role": {"enum": roles}, "content": _CONTENT, **more},
        "additionalProperties": False,
    }


_MESSAGE: Schema = {
    "oneOf": [
        _message(["developer", "system", "user"], ["content"]),
        _message(["assistant"], ["content"]),
        _message(["assistant"], ["tool_calls"], tool_calls={"type": "array", "minItems": 1, "items": _CALL}),
        _message(
            ["tool"],
            ["content", "tool_call_id"],
            tool_call_id={**_TEXT, "description": "The call of the assistant's that this is the result of."},
        ),
    ]
}
_RESPONSE_FORMAT: Schema = {
    "oneOf": [
        {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object"]}},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "required": ["type", "json_schema"],
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "required": ["schema"],
                    "properties": {
                        "name": _TEXT,
                        "description": _TEXT,
                        "schema": {"type": "object"},
                        "strict": _FLAG,
                    },
                    "additionalProperties": False,
                },
            },
        },
    ]
}
_OPTIONS: dict[str, Schema] = {
    "model": {**_TEXT, "description": "One of /v1/models; without it, the first of them."},
    "max_tokens": _integer(1),
    "n": {**_integer(1, MAX_CHOICES), "default": 1},
    "stop": {"oneOf": [{**_TEXT, "minLength": 1}, {"type": "array", "items": {**_TEXT, "minLength": 1}}]},
    "seed": {"type": "integer"},
    "logit_bias": {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    },
    "response_format": _RESPONSE_FORMAT,
    "stream": {**_FLAG, "default": False},
    "stream_options": {"type": "object", "properties": {"include_usage": _FLAG, "include_obfuscation": _FLAG}},
    "user": _TEXT,
    **_sampling(),
    "regex": {**_TEXT, "description": "A regular expression that the whole answer matches."},
    "grammar": {**_TEXT, "description": "A Lark or GBNF grammar for the answer."},
    "lora": {
        "type": "array",
        "description": "Adapters of the loaded model, by name.",
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": _TEXT, "scale": {"type": "number"}},
            "additionalProperties": False,
        },
    },
    "stop_tokens": {"type": "array", "items": _TOKEN},
    "min_tokens": _integer(0),
    "ignore_eos": _FLAG,
    "priority": {"type": "integer"},
    "deadline_seconds": {"type": "number", "exclusiveMinimum": 0},
}
OWN_OPTIONS = {name: _OPTIONS[name] for name in (*_sampling(), "seed", "logit_bias", "lora")}
"""Ours, which other protocols take under the same names."""
OWN_REQUEST_OPTIONS = {name: _OPTIONS[name] for name in ("stop", "priority", "deadline_seconds")}
SESSION: Schema = {
    **_TEXT,
    "pattern": f"^{SESSION_NAME}$",
    "description": "A name, for the tokens of this conversation to be remembered under.",
}
TEMPLATE_VALUES: Schema = {"type": "object", "description": "Values that the model's template reads."}
_FUNCTION_NAME: Schema = {**_TEXT, "pattern": "^[A-Za-z0-9_-]{1,128}$"}
_TOOL: Schema = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": _FUNCTION_NAME,
                "description": _TEXT,
                "parameters": {"type": "object", "description": "A JSON Schema that arguments are held to."},
                "strict": _FLAG,
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
_TOOL_CHOICE: Schema = {
    "oneOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "required": ["type", "function"],
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "required": ["name"], "properties": {"name": _FUNCTION_NAME}},
            },
        },
    ]
}
CHAT_REQUEST: Schema = {
    "title": "ChatRequest",
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
        "max_completion_tokens": _integer(1),
        "logprobs": _FLAG,
        "top_logprobs": _integer(0, MAX_TOP_LOGPROBS),
        "tools": {"type": "array", "maxItems": 128, "items": _TOOL},
        "tool_choice": _TOOL_CHOICE,
        "parallel_tool_calls": {**_FLAG, "default": True},
        "session": SESSION,
        "chat_template_kwargs": TEMPLATE_VALUES,
        **_OPTIONS,
    },
    "additionalProperties": False,
}
COMPLETIONS_REQUEST: Schema = {
    "title": "CompletionsRequest",
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {
            "oneOf": [
                _TEXT,
                {"type": "array", "minItems": 1, "items": _TEXT},
                {"type": "array", "minItems": 1, "items": _TOKEN},
                {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 1, "items": _TOKEN}},
            ]
        },
        "logprobs": _integer(0, MAX_TOP_LOGPROBS),
        **_OPTIONS,
    },
    "additionalProperties": False,
}
TOKENIZE_REQUEST: Schema = {
    "title": "TokenizeRequest",
    "type": "object",
    "required": ["content"],
    "properties": {"content": _TEXT, "model": _TEXT},
    "additionalProperties": False,
}
DETOKENIZE_REQUEST: Schema = {
    "title": "DetokenizeRequest",
    "type": "object",
    "required": ["tokens"],
    "properties": {"tokens": {"type": "array", "items": _TOKEN}, "model": _TEXT},
    "additionalProperties": False,
}
_ONE_INPUT: Schema = {"type": "array", "minItems": 1, "items": _TOKEN}
EMBEDDINGS_REQUEST: Schema = {
    "title": "EmbeddingsRequest",
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {
            "oneOf": [
                {**_TEXT, "minLength": 1},
                {"type": "array", "minItems": 1, "items": {**_TEXT, "minLength": 1}},
                _ONE_INPUT,
                {"type": "array", "minItems": 1, "items": _ONE_INPUT},
            ]
        },
        "model": _TEXT,
        "encoding_format": {"enum": ["float", "base64"], "default": "float"},
        "dimensions": _integer(1),
        "user": _TEXT,
    },
    "additionalProperties": False,
}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERRORS = {
    "400": "The request is wrong.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model.",
    "413": "The request is too large.",
    "422": "No attempt satisfied the schema.",
    "429": "The queue is full.",
    "503": "The engine cannot answer now.",
}


def request_body(schema: Schema, error: Schema = _ERROR) -> dict[str, Any]:
    """What a route that reads its body itself tells of it, and of the errors that it answers with."""
    errors = {
        status: {"description": reason, "content": {"application/json": {"schema": error}}}
        for status, reason in _ERRORS.items()
    }
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": errors,
    }
