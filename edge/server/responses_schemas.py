"""The bodies of OpenAI's responses as the OpenAPI document describes them."""

from __future__ import annotations

from edge.server.openapi_schemas import (
    OWN_OPTIONS,
    OWN_REQUEST_OPTIONS,
    SESSION,
    TEMPLATE_VALUES,
    Schema,
    text_or_parts,
)

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_NAME: Schema = {**_TEXT, "pattern": "^[A-Za-z0-9_-]{1,128}$"}
_PARTS = text_or_parts({"enum": ["input_text", "output_text"]})
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "type": {"const": "message"},
        "role": {"enum": ["user", "assistant", "system", "developer"]},
        "content": _PARTS,
    },
    "additionalProperties": False,
}
_CALL: Schema = {
    "type": "object",
    "required": ["type", "call_id", "name", "arguments"],
    "properties": {
        "type": {"const": "function_call"},
        "call_id": _TEXT,
        "name": _TEXT,
        "arguments": {**_TEXT, "description": "The text of a JSON object."},
    },
    "additionalProperties": False,
}
_RESULT: Schema = {
    "type": "object",
    "required": ["type", "call_id", "output"],
    "properties": {"type": {"const": "function_call_output"}, "call_id": _TEXT, "output": _PARTS},
    "additionalProperties": False,
}
_FORMAT: Schema = {
    "oneOf": [
        {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object"]}},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "required": ["type", "schema"],
            "properties": {
                "type": {"const": "json_schema"},
                "name": _TEXT,
                "description": _TEXT,
                "schema": {"type": "object"},
                "strict": _FLAG,
            },
            "additionalProperties": False,
        },
    ]
}
RESPONSES_REQUEST: Schema = {
    "title": "ResponsesRequest",
    "type": "object",
    "required": ["input"],
    "properties": {
        **OWN_OPTIONS,
        **OWN_REQUEST_OPTIONS,
        "session": SESSION,
        "chat_template_kwargs": TEMPLATE_VALUES,
        "model": _TEXT,
        "input": {"oneOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"oneOf": [_MESSAGE, _CALL, _RESULT]}}]},
        "instructions": _TEXT,
        "max_output_tokens": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        "text": {"type": "object", "properties": {"format": _FORMAT}, "additionalProperties": False},
        "tools": {
            "type": "array",
            "maxItems": 128,
            "items": {
                "type": "object",
                "required": ["type", "name"],
                "properties": {
                    "type": {"const": "function"},
                    "name": _NAME,
                    "description": _TEXT,
                    "parameters": {"type": "object"},
                    "strict": _FLAG,
                },
                "additionalProperties": False,
            },
        },
        "tool_choice": {
            "oneOf": [
                {"enum": ["none", "auto", "required"]},
                {
                    "type": "object",
                    "required": ["type", "name"],
                    "properties": {"type": {"const": "function"}, "name": _NAME},
                    "additionalProperties": False,
                },
            ]
        },
        "parallel_tool_calls": {**_FLAG, "default": True},
        "include": {"type": "array", "items": {"enum": ["message.output_text.logprobs"]}},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "stream": {**_FLAG, "default": False},
        "store": {"const": False, "description": "Nothing is stored."},
        "metadata": {"type": "object"},
        "user": _TEXT,
    },
    "additionalProperties": False,
}
