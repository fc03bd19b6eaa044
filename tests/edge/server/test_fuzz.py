"""Bodies that are almost right, by the hundreds: none is the server's fault, and all are answered in its form."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from edge.server.app import create_app
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings
from tests.edge.server.conftest import ServedFake, pool_of
from tests.edge.server.fuzzing import BODIES, Sound, check_answers, check_engine

IN_SESSION = {"messages": [{"role": "user", "content": "hi"}], "session": "trip", "max_tokens": 3}
SOUND: Sound = [
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": "x"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            ],
            "model": "fuzzed",
            "max_tokens": 3,
            "n": 2,
            "stop": ["a", "b"],
            "seed": 4,
            "logit_bias": {"5": 1.5},
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
                    "strict": True,
                },
            },
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "logprobs": True,
            "top_logprobs": 2,
            "chat_template_kwargs": {"a": [1, {"b": None}]},
            "deadline_seconds": 4,
            "dry_sequence_breakers": ["x"],
            "user": "u",
        },
    ),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2, "stop": "x", "n": 2, "stream": True}),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64", "model": "fuzzed"}),
    ("/tokenize", {"content": "abc"}),
    ("/detokenize", {"tokens": [5, 6]}),
    ("/v1/chat/completions", IN_SESSION),
    ("/v1/chat/completions", {**IN_SESSION, "stream": True}),
]


def check_error(path: str, body: Any) -> None:
    assert {"message", "type", "param", "code"} <= set(body["error"])
    assert body["error"]["message"]


def test_no_body_is_the_servers_fault() -> None:
    app = create_app(pool_of(ServedFake(), names=("fuzzed",)), ServerSettings())
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        check_answers(client, SOUND, BODIES, random.Random(1), check_error)
    assert app.state.doors.open_requests == 0


def test_no_body_is_too_much_for_the_engine_or_leaves_anything_behind(tiny_gguf: Path, tmp_path: Path) -> None:
    check_engine(tiny_gguf, ModelSettings(threads=1, parallel=4), tmp_path, SOUND, 2, check_error)
