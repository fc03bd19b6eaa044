"""What a server counts is what happened."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from edge.request import FinishEvent, TokenEvent, Usage
from edge.server.metrics import AnswerMetrics, Metrics
from tests.edge.fake_engine import TIMING
from tests.edge.server.conftest import ASK, Serve, ServedFake

TOKEN = TokenEvent(1, b"a", "a")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_times_are_from_submission_to_first_token_and_from_token_to_token() -> None:
    metrics, clock = Metrics(), Clock()
    answer = AnswerMetrics(metrics, "m", 1, clock)
    assert value(metrics, "edge_completions_waiting") == 1
    clock.now = 2.0
    answer.note([(0, TOKEN)])
    assert value(metrics, "edge_completions_waiting") == 0
    assert value(metrics, "edge_completions_running") == 1
    assert value(metrics, "edge_time_to_first_token_seconds_sum", model="m") == 2.0
    clock.now = 3.0
    answer.note([(0, TOKEN), (0, TOKEN)])
    assert value(metrics, "edge_time_between_tokens_seconds_sum", model="m") == 1.0
    assert value(metrics, "edge_time_between_tokens_seconds_count", model="m") == 2
    assert value(metrics, "edge_completion_tokens_total", model="m") == 3


def test_end_counts_the_prompt_and_frees_the_place() -> None:
    metrics = Metrics()
    answer = AnswerMetrics(metrics, "m", 2)
    answer.note([(0, TOKEN), (0, FinishEvent("", "stop", Usage(10, 4, 1), TIMING))])
    answer.note([(1, FinishEvent("", "deadline", Usage(10, 10, 0), TIMING))])  # it never had a token
    assert value(metrics, "edge_prompt_tokens_total", model="m") == 20
    assert value(metrics, "edge_cached_prompt_tokens_total", model="m") == 14
    assert value(metrics, "edge_completions_running") == 0
    assert value(metrics, "edge_completions_waiting") == 0


def test_what_is_broken_off_frees_its_places() -> None:
    metrics = Metrics()
    answer = AnswerMetrics(metrics, "m", 3)
    answer.note([(1, TOKEN)])
    answer.end()
    answer.end()
    assert value(metrics, "edge_completions_running") == 0
    assert value(metrics, "edge_completions_waiting") == 0


def test_endpoint_gives_what_prometheus_reads(serve: Serve) -> None:
    client = serve(ServedFake(["one two"]))
    client.post("/v1/chat/completions", json=ASK)
    client.post("/v1/chat/completions", json={})
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    path = ("path", "/v1/chat/completions")
    assert samples["edge_requests_total", path, ("status", "200")] == 1
    assert samples["edge_requests_total", path, ("status", "400")] == 1
    assert samples["edge_completion_tokens_total", ("model", "fake")] == 2
    assert samples["edge_kv_cache_tokens", ("model", "fake")] == 7
    assert samples["edge_kv_cache_usage_ratio", ("model", "fake")] == 7 / 4096
    assert samples["edge_models_loaded",] == 1
    assert samples["edge_open_requests",] == 1  # this one
