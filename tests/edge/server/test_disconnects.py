"""A client that leaves frees its place at once, wherever its request is."""

from __future__ import annotations

import json
import random
import socket
import threading
from typing import Any

import httpx2
import pytest

from edge.request import Request
from edge.server.background import BackgroundServer
from edge.stream import Stream
from tests.edge.server.conftest import ASK, ServedFake, ServeLive, eventually

ANSWER = "one two three four"


def send(server: BackgroundServer, body: Any, path: str = "/v1/chat/completions") -> socket.socket:
    """A connection on which a request was sent, and nothing read yet."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def received_until(connection: socket.socket, mark: bytes) -> bytes:
    """What comes until the mark is there; a failure if the connection ends before."""
    received = b""
    while mark not in received:
        content = connection.recv(65536)
        assert content, f"the connection ended after {received!r}"
        received += content
    return received


def is_empty(server: BackgroundServer) -> bool:
    return bool(server.app.state.doors.open_requests == 0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_client_that_leaves_before_the_first_token_is_dropped(serve_live: ServeLive, is_streamed: bool) -> None:
    engine = ServedFake([ANSWER], is_held=True)
    server = serve_live(engine)
    connection = send(server, {**ASK, "stream": is_streamed})
    eventually(lambda: len(engine.streams) == 1)
    assert not engine.streams[0].is_cancelled
    connection.close()
    eventually(lambda: engine.streams[0].is_cancelled)
    eventually(lambda: is_empty(server))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_client_that_leaves_in_the_middle_is_dropped(serve_live: ServeLive, is_streamed: bool) -> None:
    engine = ServedFake([ANSWER], is_held=True)
    server = serve_live(engine)
    connection = send(server, {**ASK, "stream": is_streamed})
    eventually(lambda: len(engine.streams) == 1)
    engine.step(2)
    if is_streamed:
        assert connection.recv(1000)
    connection.close()
    eventually(lambda: engine.streams[0].is_cancelled)
    eventually(lambda: is_empty(server))


def test_every_choice_of_a_client_that_leaves_is_dropped(serve_live: ServeLive) -> None:
    engine = ServedFake([ANSWER] * 3, is_held=True)
    server = serve_live(engine)
    connection = send(server, {**ASK, "n": 3})
    eventually(lambda: len(engine.streams) == 3)
    assert not any(stream.is_cancelled for stream in engine.streams)
    connection.close()
    eventually(lambda: all(stream.is_cancelled for stream in engine.streams))
    eventually(lambda: is_empty(server))
    assert len(engine.streams) == 3


def test_client_that_leaves_while_its_prompt_is_written_is_dropped(serve_live: ServeLive) -> None:
    is_in, may_go_on = threading.Event(), threading.Event()

    class Slow(ServedFake):
        def submit(self, request: Request) -> Stream:
            is_in.set()
            may_go_on.wait(10)
            return super().submit(request)

    engine = Slow([ANSWER], is_held=True)
    server = serve_live(engine)
    connection = send(server, ASK)
    assert is_in.wait(10)
    connection.close()
    eventually(lambda: is_empty(server))
    may_go_on.set()
    eventually(lambda: bool(engine.streams) and engine.streams[0].is_cancelled)


def test_client_that_leaves_while_it_still_sends_does_no_harm(serve_live: ServeLive) -> None:
    server = serve_live()
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    eventually(lambda: not is_empty(server))
    connection.close()
    eventually(lambda: is_empty(server))
    assert httpx2.get(server.url + "/health").status_code == 200


def test_clients_that_leave_at_random_leave_nothing_behind(serve_live: ServeLive) -> None:
    engine = ServedFake([ANSWER] * 40, is_held=True)
    server = serve_live(engine)
    chance = random.Random(5)
    for number in range(40):
        connection = send(server, {**ASK, "stream": chance.random() < 0.5})
        if chance.random() < 0.7:
            eventually(lambda number=number: len(engine.streams) > number - 20)  # type: ignore[misc]
            engine.step(chance.randrange(3))
        connection.close()
    eventually(lambda: is_empty(server))
    eventually(lambda: all(stream.is_cancelled for stream in engine.streams))
    metrics = server.app.state.metrics
    assert metrics.registry.get_sample_value("edge_completions_waiting") == 0
    assert metrics.registry.get_sample_value("edge_completions_running") == 0


def test_connection_is_used_again_after_a_streamed_answer(serve_live: ServeLive) -> None:
    server = serve_live(ServedFake([ANSWER, "five"]))
    connection = send(server, {**ASK, "stream": True})
    first = received_until(connection, b"0\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200") and first.endswith(b"0\r\n\r\n")
    content = json.dumps(ASK).encode()
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
        + str(len(content)).encode()
        + b"\r\n\r\n"
        + content
    )
    assert received_until(connection, b'"content":"five"').startswith(b"HTTP/1.1 200")
    connection.close()


def test_more_requests_than_are_let_in_are_refused(serve_live: ServeLive) -> None:
    engine = ServedFake([ANSWER], is_held=True)
    server = serve_live(engine, max_open_requests=1)
    connection = send(server, ASK)
    eventually(lambda: len(engine.streams) == 1)
    refused = httpx2.post(server.url + "/v1/chat/completions", json=ASK)
    assert refused.status_code == 429
    assert refused.json()["error"]["message"].startswith("No more than 1 request may be answered at once.")
    assert httpx2.get(server.url + "/health").status_code == 200
    connection.close()


def test_client_that_waits_for_long_sees_that_the_server_lives(
    serve_live: ServeLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.server.answering.PAUSE_SECONDS", 0.01)
    engine = ServedFake([ANSWER], is_held=True)
    connection = send(serve_live(engine), {**ASK, "stream": True})
    received = b""
    while received.count(b": waiting\n\n") < 3:
        received += connection.recv(1000)
    assert received.startswith(b"HTTP/1.1 200 OK")
    engine.step(10)
    while b"[DONE]" not in received:
        received += connection.recv(1000)
    assert b'"content":"one "' in received
    connection.close()


def test_large_bodies_are_read_as_well(serve_live: ServeLive) -> None:
    engine = ServedFake(["yes"], context_tokens=200_000)
    body = {"messages": [{"role": "user", "content": "x" * 100_000}]}
    response = httpx2.post(serve_live(engine).url + "/v1/chat/completions", json=body, timeout=60)
    assert response.json()["choices"][0]["message"]["content"] == "yes"
    assert len(engine.requests[0].prompt_tokens) > 100_000
