"""The bodies of Ollama's endpoints as the OpenAPI document describes them."""

from __future__ import annotations

from edge.server.openapi_schemas import Schema

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_SHARE: Schema = {"type": "number", "minimum": 0}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "user", "assistant", "tool"]},
        "content": _TEXT,
        "thinking": _TEXT,
        "tool_name": _TEXT,
        "tool_call_id": _TEXT,
        "tool_calls": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["function"],
                "properties": {
                    "id": _TEXT,
                    "function": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": _TEXT, "arguments": {"type": "object"}},
                        "additionalProperties": False,
                    },
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
_TOOL: Schema = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {**_TEXT, "pattern": "^[A-Za-z0-9_-]{1,128}$"},
                "description": _TEXT,
                "parameters": {"type": "object"},
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
_COMMON: dict[str, Schema] = {
    "model": _TEXT,
    "stream": {**_FLAG, "default": True},
    "format": {"oneOf": [{"const": "json"}, {"type": "object", "description": "A JSON Schema."}]},
    "think": _FLAG,
    "logprobs": _FLAG,
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "keep_alive": {
        "type": ["string", "number"],
        "description": "Without effect: how long unused models are kept is settled when the server starts.",
    },
    "options": {
        "type": "object",
        "properties": {
            "temperature": _SHARE,
            "top_k": _COUNT,
            "top_p": _SHARE,
            "min_p": _SHARE,
            "typical_p": _SHARE,
            "repeat_penalty": {"type": "number"},
            "repeat_last_n": _COUNT,
            "presence_penalty": {"type": "number"},
            "frequency_penalty": {"type": "number"},
            "seed": {"type": "integer"},
            "num_predict": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
            "num_ctx": {
                "type": "integer",
                "minimum": 1,
                "maximum": 2**31 - 1,
                "description": "Not more than the server's context, which a request cannot change.",
            },
            "stop": {"type": "array", "items": {**_TEXT, "minLength": 1}},
        },
    },
}
CHAT_REQUEST: Schema = {
    "title": "OllamaChatRequest",
    "type": "object",
    "required": ["model"],
    "properties": {
        **_COMMON,
        "messages": {"type": "array", "items": _MESSAGE},
        "tools": {"type": "array", "maxItems": 128, "items": _TOOL},
    },
    "additionalProperties": False,
}
GENERATE_REQUEST: Schema = {
    "title": "OllamaGenerateRequest",
    "type": "object",
    "required": ["model"],
    "properties": {**_COMMON, "prompt": _TEXT, "system": _TEXT, "raw": _FLAG},
    "additionalProperties": False,
}
SHOW_REQUEST: Schema = {
    "title": "OllamaShowRequest",
    "type": "object",
    "required": ["model"],
    "properties": {"model": _TEXT, "name": _TEXT, "verbose": _FLAG},
    "additionalProperties": False,
}
ERROR: Schema = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
