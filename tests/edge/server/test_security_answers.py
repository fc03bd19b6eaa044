"""What a server tells, to clients and in its log: neither traces nor prompts, nor what it is made of."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from edge.server.app import create_app
from edge.server.run import make_server
from edge.server.server_settings import ServerSettings
from tests.edge.server.conftest import ASK, Serve, ServedFake, ServeLive, pool_of, raw_answer

CHAT = "/v1/chat/completions"


def test_defect_is_told_without_a_trace(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ServedFake):
        def submit(self, request: Any) -> Any:
            raise ZeroDivisionError("my secret prompt")

    with caplog.at_level(logging.INFO, "edge.server"):
        response = serve(Broken()).post(CHAT, json=ASK, headers={"X-Request-Id": "abc-1"})
    assert response.status_code == 500
    assert response.json() == {
        "error": {
            "message": "The server failed. Its log says more, under the request's id.",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
    }
    assert "abc-1 ZeroDivisionError in submit (" in caplog.text
    assert "my secret prompt" not in caplog.text


def test_log_has_ids_and_no_prompts(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    body = {"messages": [{"role": "user", "content": "my secret"}]}
    with caplog.at_level(logging.DEBUG):
        response = serve(ServedFake(["the answer"])).post(CHAT, json=body)
    assert f"{response.headers['x-request-id']} POST {CHAT} 200 " in caplog.text
    assert "secret" not in caplog.text
    assert "answer" not in caplog.text


def test_log_has_prompts_where_a_person_wants_them(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    body = {"messages": [{"role": "user", "content": "my secret"}]}
    with caplog.at_level(logging.INFO, "edge.server"):
        serve(logs_prompts=True).post(CHAT, json=body)
    assert "my secret" in caplog.text


@pytest.mark.parametrize("given", ["a b", "x" * 65, "a%0aINFO", "é".encode("latin-1").decode("latin-1"), "<script>"])
def test_ids_that_could_forge_a_log_are_replaced(serve: Serve, given: str) -> None:
    response = serve().get("/health", headers={"X-Request-Id": given.encode("latin-1")})  # type: ignore[dict-item]
    assert response.headers["x-request-id"].startswith("req-")


def test_id_of_a_client_is_kept(serve: Serve) -> None:
    assert serve().get("/health", headers={"X-Request-Id": "trace-7.a"}).headers["x-request-id"] == "trace-7.a"


def test_answers_are_not_taken_for_something_else(serve: Serve) -> None:
    response = serve().get("/v1/models")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "server" not in response.headers


def test_nothing_is_said_of_what_serves(serve_live: ServeLive) -> None:
    answer = raw_answer(serve_live(), b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nserver:" not in answer.lower()


def test_the_web_server_adds_nothing_of_its_own() -> None:
    async def config() -> Any:
        return make_server(create_app(pool_of(ServedFake()), ServerSettings()), ServerSettings()).config

    made = asyncio.run(config())
    assert (made.ws, made.proxy_headers, made.access_log, made.log_config) == ("none", False, False, None)


def test_the_framework_reports_to_nobody() -> None:
    app = create_app(pool_of(ServedFake()), ServerSettings())
    assert not any(app._telemetry[what] for what in ("tracing", "metrics", "logs", "auto_configure"))


def test_paths_that_are_made_up_fill_no_metrics(serve: Serve) -> None:
    client = serve()
    for number in range(20):
        client.get(f"/made-up-{number}")
        client.get("/v1/models/x" + str(number))
    text = client.get("/metrics").text
    assert "made-up" not in text
    assert "/v1/models/x" not in text


def test_pages_that_load_from_elsewhere_are_not_there(serve: Serve) -> None:
    client = serve()
    assert client.get("/docs").status_code == 404
    assert client.get("/redoc").status_code == 404


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ],
)
def test_broken_requests_leave_the_server_serving(serve_live: ServeLive, request_bytes: bytes) -> None:
    server = serve_live()
    answer = raw_answer(server, request_bytes, patience_seconds=0.3)  # some get none
    assert b" 500 " not in answer.split(b"\r\n")[0]
    assert b"Traceback" not in answer
    sound = raw_answer(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert sound.startswith(b"HTTP/1.1 200 ")
    assert json.loads(sound.split(b"\r\n\r\n")[1]) == {"status": "ok"}
