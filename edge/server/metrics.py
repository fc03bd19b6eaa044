"""What a server counts and measures, in Prometheus' format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edge.request import EngineStatus, FinishEvent, TokenEvent
from edge.server.replies import Numbered

_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BETWEEN_TOKENS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """A registry of its own for each server, so that several in one process count apart."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "edge_requests", "HTTP requests that were answered.", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "edge_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["path"],
            registry=registry,
            buckets=_REQUEST_SECONDS,
        )
        self.open_requests = Gauge("edge_open_requests", "HTTP requests being answered.", registry=registry)
        self.waiting = Gauge("edge_completions_waiting", "Completions without a first token yet.", registry=registry)
        self.running = Gauge("edge_completions_running", "Completions being written.", registry=registry)
        self.prompt_tokens = Counter("edge_prompt_tokens", "Tokens of prompts.", ["model"], registry=registry)
        self.cached_tokens = Counter(
            "edge_cached_prompt_tokens", "Tokens of prompts found in the KV cache.", ["model"], registry=registry
        )
        self.completion_tokens = Counter("edge_completion_tokens", "Tokens written.", ["model"], registry=registry)
        self.first_token_seconds = Histogram(
            "edge_time_to_first_token_seconds",
            "From the submission of a request to the first token of its answer.",
            ["model"],
            registry=registry,
            buckets=_FIRST_TOKEN_SECONDS,
        )
        self.between_tokens_seconds = Histogram(
            "edge_time_between_tokens_seconds",
            "From a token of an answer to the next.",
            ["model"],
            registry=registry,
            buckets=_BETWEEN_TOKENS_SECONDS,
        )
        self.loaded_models = Gauge("edge_models_loaded", "Models in memory.", registry=registry)
        self.busy_sequences = Gauge(
            "edge_sequences_busy", "Sequences of the engine that have a request.", ["model"], registry=registry
        )
        self.kv_tokens = Gauge(
            "edge_kv_cache_tokens", "Tokens held in the KV cache, of idle sequences too.", ["model"], registry=registry
        )
        self.kv_share = Gauge(
            "edge_kv_cache_usage_ratio", "Share of the KV cache in use.", ["model"], registry=registry
        )

    def note_status(self, model: str, status: EngineStatus | None) -> None:
        if status:
            self.busy_sequences.labels(model).set(status.running)
            self.kv_tokens.labels(model).set(status.held_tokens)
            self.kv_share.labels(model).set(status.held_tokens / status.cache_tokens)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class AnswerMetrics:
    """What one request adds: its completions wait, run and end."""

    def __init__(self, metrics: Metrics, model: str, completions: int, clock: Callable[[], float] = time.perf_counter):
        self._metrics = metrics
        self._clock = clock
        self._submitted = clock()
        self._last: dict[int, float] = {}
        self._waiting = completions
        self._running = 0
        self._first_token_seconds = metrics.first_token_seconds.labels(model)
        self._between_tokens_seconds = metrics.between_tokens_seconds.labels(model)
        self._tokens = metrics.completion_tokens.labels(model)
        self._prompt_tokens = metrics.prompt_tokens.labels(model)
        self._cached_tokens = metrics.cached_tokens.labels(model)
        metrics.waiting.inc(completions)

    def note(self, batch: Sequence[Numbered]) -> None:
        now = self._clock()
        for number in dict.fromkeys(number for number, _ in batch):
            self._note_tokens(number, sum(number == of and isinstance(each, TokenEvent) for of, each in batch), now)
        self._note_ends(event for _, event in batch if isinstance(event, FinishEvent))

    def end(self) -> None:
        """Whatever has not ended by now never will."""
        self._metrics.waiting.dec(self._waiting)
        self._metrics.running.dec(self._running)
        self._waiting = self._running = 0

    def _note_tokens(self, number: int, tokens: int, now: float) -> None:
        if not tokens:
            return
        self._tokens.inc(tokens)
        before = self._last.get(number)
        self._last[number] = now
        if before is None:
            self._first_token_seconds.observe(now - self._submitted)
            self._change(waiting=-1, running=1)
            return
        for _ in range(tokens):
            self._between_tokens_seconds.observe((now - before) / tokens)

    def _note_ends(self, ends: Iterable[FinishEvent]) -> None:
        for end in ends:
            self._prompt_tokens.inc(end.usage.prompt_tokens)
            self._cached_tokens.inc(end.usage.cached_tokens)
            if end.usage.completion_tokens:
                self._change(waiting=0, running=-1)
            else:
                self._change(waiting=-1, running=0)

    def _change(self, *, waiting: int, running: int) -> None:
        self._waiting += waiting
        self._running += running
        self._metrics.waiting.inc(waiting)
        self._metrics.running.inc(running)
