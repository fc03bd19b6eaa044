"""As test_fuzz, for functions and for the other protocols, whose errors have forms of their own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from edge.server.app import create_app
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings
from edge.tool_calls import call_text
from tests.edge.server.conftest import ServedFake, pool_of
from tests.edge.server.fuzzing import BODIES, Sound, check_answers, check_engine

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
SOUND: Sound = [
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": "r"},
            ],
            "tools": [FUNCTION],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": False,
            "max_tokens": 8,
        },
    ),
    (
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "r"},
            ],
            "instructions": "i",
            "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
            "tool_choice": "required",
            "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
            "max_output_tokens": 8,
            "stream": True,
            "store": False,
        },
    ),
    (
        "/v1/messages",
        {
            "max_tokens": 8,
            "system": [{"type": "text", "text": "s"}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "r"}]},
            ],
            "tools": [{"name": "f", "input_schema": SCHEMA}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "stop_sequences": ["q"],
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
            "stream": True,
        },
    ),
    (
        "/v1/messages/count_tokens",
        {
            "messages": [{"role": "user", "content": "x"}],
            "tools": [{"name": "f", "input_schema": SCHEMA}],
        },
    ),
    (
        "/api/chat",
        {
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
                {"role": "tool", "tool_name": "f", "content": "r"},
            ],
            "tools": [FUNCTION],
            "options": {"temperature": 0.5, "num_ctx": 10, "num_predict": 8, "stop": ["q"], "mirostat": 2, "seed": 1},
            "format": SCHEMA,
            "think": False,
        },
    ),
    ("/api/generate", {"prompt": "x", "system": "s", "raw": True, "options": {"top_k": 3}, "stream": False}),
    ("/api/show", {"model": "fuzzed", "verbose": True}),
]


def check_error(path: str, body: Any) -> None:
    message = body["error"] if path.startswith("/api/") else body["error"]["message"]
    assert isinstance(message, str)
    assert message
    assert not path.startswith("/v1/messages") or body["type"] == "error"


def test_no_body_is_the_servers_fault() -> None:
    call = call_text("f", {"a": 1})
    answers = ["ok", call, f"text\n{call}\n{call}", call[:40], '{"a": 1}', ""] * BODIES
    app = create_app(pool_of(ServedFake(answers), names=("fuzzed",)), ServerSettings())
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        check_answers(client, SOUND, BODIES, random.Random(1), check_error)
    assert app.state.doors.open_requests == 0


def test_no_body_is_too_much_for_the_engine_or_leaves_anything_behind(
    roomy_models: dict[str, Path], tmp_path: Path
) -> None:
    settings = ModelSettings(threads=1, parallel=1, context_tokens=4096)
    check_engine(roomy_models["llama3"], settings, tmp_path, SOUND, 2, check_error)
