"""Bodies that are almost right, by the hundreds: none of them is the server's fault, and all are answered in its form.

EDGE_FUZZ_BODIES says how many, if not as few as fit a test.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from edge.openai_request import KNOWN_FIELDS
from edge.server.app import create_app
from edge.server.model_files import open_model, source_of
from edge.server.model_pool import ModelPool
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings
from tests.edge.server.conftest import ServedFake, pool_of

BODIES = int(os.environ.get("EDGE_FUZZ_BODIES", "300"))

SOUND: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
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
    "/v1/completions": {"prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2, "stop": "x", "n": 2, "stream": True},
    "/v1/embeddings": {"input": ["a", "b"], "encoding_format": "base64", "model": "fuzzed"},
    "/tokenize": {"content": "abc"},
    "/detokenize": {"tokens": [5, 6]},
}
ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, -(2**63), 2**70, 1e308, 0.1, "", "a", "\0", "\U0001f600", "<|im_end|>",
    "x" * 5000, [], {}, [[]], [{}], {"a": {}}, [None], ["a", 1], {"type": "object"}, {"": ""}, "NaN",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that is inside of a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


def almost(body: Any, chance: random.Random) -> bytes:
    """A body that was changed in a few places, or in a few bytes."""
    body = copy.deepcopy(body)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        paths = list(places(body))
        if not paths:
            break
        *above, last = chance.choice(paths)
        holder = body
        for key in above:
            holder = holder[key]
        match chance.randrange(4):
            case 0 | 1:
                holder[last] = copy.deepcopy(chance.choice(ODD))
            case 2:
                del holder[last]
            case 3:
                body[chance.choice(KNOWN_FIELDS)] = copy.deepcopy(chance.choice(ODD))
    content = bytearray(json.dumps(body).encode())
    if chance.random() < 0.1:
        for _ in range(3):
            content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def check_answers(client: TestClient, bodies: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(bodies):
        path = chance.choice(list(SOUND))
        content = almost(SOUND[path], chance)
        response = client.post(path, content=content)
        assert response.status_code < 500, (path, content, response.text)
        if response.status_code >= 400:
            error = response.json()["error"]
            assert {"message", "type", "param", "code"} <= set(error)
            assert error["message"]
            assert "Traceback" not in response.text
    assert client.get("/health").status_code == 200


def test_no_body_is_the_servers_fault() -> None:
    app = create_app(pool_of(ServedFake(), names=("fuzzed",)), ServerSettings())
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        check_answers(client, BODIES, seed=1)
    assert app.state.doors.open_requests == 0


@pytest.mark.parametrize("seed", [2])
def test_no_body_is_too_much_for_the_engine(tiny_gguf: Path, seed: int) -> None:
    source = source_of("fuzzed", tiny_gguf, ModelSettings(threads=1, parallel=4))
    app = create_app(ModelPool([source], open_model), ServerSettings(max_answer_tokens=8))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        check_answers(client, BODIES // 3, seed)
