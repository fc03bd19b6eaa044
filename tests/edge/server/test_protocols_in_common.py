"""What holds for every protocol that the server speaks: who may use it, and that who leaves is dropped."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.routing import APIRoute

from edge.server.app import ROUTERS
from edge.server.gate import OPEN_PATHS, OPEN_PREFIX
from tests.edge.server.conftest import Serve, ServedFake, ServeLive, eventually

HI = [{"role": "user", "content": "Hi"}]
STREAMED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": HI,
        "stream": True,
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    "/v1/responses": {"input": "Hi", "stream": True},
    "/v1/messages": {"messages": HI, "stream": True, "max_tokens": 50},
    "/api/chat": {"messages": HI},
    "/api/generate": {"prompt": "Hi", "raw": True},
}
GUARDED = sorted(
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute) and route.path not in OPEN_PATHS and not route.path.startswith(OPEN_PREFIX)
    for method in route.methods
)


def test_all_protocols_are_among_the_guarded_paths() -> None:
    paths = {path for _, path in GUARDED}
    assert STREAMED.keys() <= paths
    assert {"/api/tags", "/api/show", "/api/ps", "/api/version", "/v1/messages/count_tokens"} <= paths


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_no_path_answers_without_the_key_or_under_a_strangers_name(serve: Serve, method: str, path: str) -> None:
    client = serve(api_keys=("secret",))
    assert client.request(method, path, json={}).status_code == 401
    assert client.request(method, path, json={}, headers={"x-api-key": "wrong"}).status_code == 401
    key = {"x-api-key": "secret"}
    assert client.request(method, path, json={}, headers=key).status_code not in (401, 403)
    assert client.request(method, path, json={}, headers={**key, "host": "evil.example"}).status_code == 403
    assert client.request(method, path, json={}, headers={**key, "origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize("path", STREAMED)
def test_who_leaves_a_stream_frees_its_place(serve_live: ServeLive, path: str) -> None:
    engine = ServedFake(["one two three"], is_held=True)
    server = serve_live(engine)
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request("POST", path, json.dumps(STREAMED[path]))
    eventually(lambda: bool(engine.streams))
    engine.step(1)
    response = connection.getresponse()
    assert response.status == 200 and response.read(1)
    response.close()
    connection.close()
    eventually(lambda: engine.streams[0].is_cancelled)


@pytest.mark.parametrize("path", STREAMED)
def test_prompt_beyond_the_context_is_refused_with_both_numbers(serve: Serve, path: str) -> None:
    engine = ServedFake(context_tokens=4)
    body = json.dumps(STREAMED[path]).replace('"Hi"', '"Hi there, all of you"')
    answer = serve(engine).post(path, content=body)
    assert answer.status_code == 400
    assert "tokens, the context holds 4." in answer.text
    assert engine.requests == []


@pytest.mark.parametrize("path", STREAMED)
def test_limit_of_the_server_on_tokens_holds(serve: Serve, path: str) -> None:
    engine = ServedFake(["one two three"])
    serve(engine, max_answer_tokens=2).post(path, json=STREAMED[path])
    assert engine.requests[0].max_tokens == 2
