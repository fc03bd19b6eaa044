"""The bodies of Anthropic's endpoints as the OpenAPI document describes them."""

from __future__ import annotations

from edge.server.openapi_schemas import OWN_OPTIONS, Schema

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_TEXT_BLOCK: Schema = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": _TEXT, "cache_control": {"type": "object"}},
    "additionalProperties": False,
}
_TEXTS: Schema = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT_BLOCK}]}
_CALL_BLOCK: Schema = {
    "type": "object",
    "required": ["type", "id", "name", "input"],
    "properties": {"type": {"const": "tool_use"}, "id": _TEXT, "name": _TEXT, "input": {"type": "object"}},
    "additionalProperties": False,
}
_RESULT_BLOCK: Schema = {
    "type": "object",
    "required": ["type", "tool_use_id"],
    "properties": {
        "type": {"const": "tool_result"},
        "tool_use_id": _TEXT,
        "content": _TEXTS,
        "is_error": _FLAG,
    },
    "additionalProperties": False,
}


def _message(role: str, block: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"const": role},
            "content": {"oneOf": [_TEXT, {"type": "array", "items": {"oneOf": [_TEXT_BLOCK, block]}}]},
        },
        "additionalProperties": False,
    }


_MESSAGE: Schema = {"oneOf": [_message("user", _RESULT_BLOCK), _message("assistant", _CALL_BLOCK)]}
_TOOL: Schema = {
    "type": "object",
    "required": ["name", "input_schema"],
    "properties": {
        "name": {**_TEXT, "pattern": "^[A-Za-z0-9_-]{1,128}$"},
        "description": _TEXT,
        "input_schema": {"type": "object", "description": "A JSON Schema that the input of calls is held to."},
    },
    "additionalProperties": False,
}
_COUNTED: dict[str, Schema] = {
    "model": _TEXT,
    "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
    "system": _TEXTS,
    "tools": {"type": "array", "maxItems": 128, "items": _TOOL},
    "tool_choice": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["auto", "any", "tool", "none"]},
            "name": _TEXT,
            "disable_parallel_tool_use": _FLAG,
        },
        "additionalProperties": False,
    },
}
COUNT_REQUEST: Schema = {
    "title": "CountTokensRequest",
    "type": "object",
    "required": ["messages"],
    "properties": _COUNTED,
    "additionalProperties": False,
}
MESSAGES_REQUEST: Schema = {
    "title": "MessagesRequest",
    "type": "object",
    "required": ["messages", "max_tokens"],
    "properties": {
        **_COUNTED,
        **OWN_OPTIONS,
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        "stop_sequences": {"type": "array", "items": {**_TEXT, "minLength": 1}},
        "stream": {**_FLAG, "default": False},
        "metadata": {"type": "object", "properties": {"user_id": _TEXT}, "additionalProperties": False},
        "output_config": {
            "type": "object",
            "properties": {
                "format": {
                    "type": "object",
                    "required": ["type", "schema"],
                    "properties": {"type": {"const": "json_schema"}, "schema": {"type": "object"}},
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
ERROR: Schema = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": _TEXT, "message": _TEXT},
        },
    },
}
