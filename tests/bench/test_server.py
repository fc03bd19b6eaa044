"""The server's bench counts tokens and places as they are, and fails where a bar is missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.server import Case, busy_places, measure
from bench.server_clients import Address, leave_at_random, stream_all
from edge.errors import EdgeError
from edge.server.background import BackgroundServer
from edge.server.server_settings import ServerSettings
from tests.edge.server.conftest import ASK, ServedFake, eventually, pool_of


def serving_fake(engine: ServedFake) -> BackgroundServer:
    return BackgroundServer(pool_of(engine), ServerSettings(port=0))


def test_clients_count_what_they_were_sent() -> None:
    with serving_fake(ServedFake(["one two three", "four"])) as server:
        answers = stream_all(Address.of(server.url), [ASK, ASK])
    first, second = sorted(answers, key=lambda answer: -answer.tokens)
    assert (first.tokens, second.tokens) == (3, 1)
    assert 0 < first.first_token_seconds <= first.seconds


def test_client_says_what_the_server_refused() -> None:
    with (
        serving_fake(ServedFake()) as server,
        pytest.raises(EdgeError, match="The field temprature is not known"),
    ):
        stream_all(Address.of(server.url), [{**ASK, "temprature": 1}])


def test_clients_leave_as_often_as_they_are_told() -> None:
    engine = ServedFake(["one"] * 20, is_held=True)
    with serving_fake(engine) as server:
        whole = leave_at_random(Address.of(server.url), [{**ASK, "stream": True}] * 3, 20, 0.02, seed=1)
        assert whole == 0
        eventually(lambda: server.app.state.doors.open_requests == 0)
    assert all(stream.is_cancelled for stream in engine.streams)


def test_places_are_those_that_run_and_wait() -> None:
    metrics = (
        '# TYPE edge_sequences_busy gauge\nedge_sequences_busy{model="a b"} 2.0\n'
        "edge_completions_waiting 3.0\nedge_completions_running 0.0\nedge_open_requests 1.0\n"
    )
    assert busy_places(metrics) == 5


def test_whole_bench_runs_on_a_tiny_model(tiny_gguf: Path) -> None:
    case = Case(tiny_gguf, threads=1, rounds=1, tokens=8, departures=8, load_seconds=0.5, context_tokens=512)
    findings = measure(case, ["speed", "first-token", "leaving", "load"])
    assert [finding.title for finding in findings] == [
        "1 stream",
        "4 streams",
        "8 streams",
        "time to first token, p50",
        "places taken after 8 clients left 8 times",
        "64 clients, 4 places, 0.5 s: neither answered nor 429",
        "64 clients, 4 places, 0.5 s: memory grown",
    ]
    assert all(finding.value is not None for finding in findings)
    assert [finding.verdict for finding in findings[4:6]] == ["holds", "holds"]
