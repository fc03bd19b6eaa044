"""The bodies of Ollama's endpoints as the OpenAPI document describes them."""

from __future__ import annotations

from edge.server.openapi_schemas import NUCLEUS, Schema

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_OF_LOADING = (
    *("numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap"),
    *("use_mlock", "embedding_only", "num_thread", "num_keep"),
)
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
            "temperature": {"type": "number", "minimum": 0},
            "top_k": _COUNT,
            "top_p": {"type": "number", **NUCLEUS},
            "min_p": {"type": "number", "minimum": 0, "maximum": 1},
            "typical_p": {"type": "number", **NUCLEUS},
            "repeat_penalty": {"type": "number", "exclusiveMinimum": 0},
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
            "mirostat": {"enum": [0, 2]},
            "mirostat_tau": {"type": "number", "minimum": 0},
            "mirostat_eta": {"type": "number", "exclusiveMinimum": 0},
            "tfs_z": {"const": 1},
            "penalize_newline": {"const": True},
            **{name: {"description": "Without effect: settled when the server starts."} for name in _OF_LOADING},
        },
        "additionalProperties": False,
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
