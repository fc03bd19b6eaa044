"""The two sides of every speed: an engine whose tokens somebody waits for, and decode steps with nothing around.

The bare loop is the engine's lower bound, measured in the same process over the same weights: a context of the same
size, the same number of tokens in each step, but no sampling, no text and nobody to deliver to, like llama-bench's. It
runs in the engine's thread (`LocalEngine.compute`): two threads that decode, each with helpers, slow each other down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from bench.engine_turns import Speed, Stopwatch
from edge.errors import EdgeError
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.llama.sampler import PlainChoice
from edge.request import Completion, Event, Request, TokenEvent
from edge.settings import ModelSettings
from edge.stream import completion_of
from edge.text_engine import TextEngine


class BareLoop:
    """Decode steps over a model's weights, for as many sequences as the settings have. A context manager."""

    def __init__(self, model: Model, settings: ModelSettings) -> None:
        assert settings.context_tokens is not None and settings.threads is not None
        self._sequences = settings.parallel
        self._vocabulary_size = model.vocab.size
        self._context = Context(
            model,
            context_tokens=settings.context_tokens,
            sequences=settings.parallel,
            threads=settings.threads,
            batch_tokens=settings.prefill_tokens,
        )
        self._batch = Batch(self._context.batch_tokens, settings.parallel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()

    def speed(self, prompts: Sequence[tuple[int, ...]], tokens: int) -> Speed:
        """Tokens of all sequences together, decoded step by step behind their prompts; those do not count."""
        for sequence, prompt in enumerate(prompts):
            self._context.remove(sequence, 0)
            self._feed([(sequence, list(prompt), 0)])
        positions = [len(prompt) for prompt in prompts]
        with Stopwatch() as watch:
            for step in range(tokens):
                fed = [(step * len(prompts) + sequence) % self._vocabulary_size for sequence in range(len(prompts))]
                self._feed([(sequence, [fed[sequence]], first + step) for sequence, first in enumerate(positions)])
            self._context.logits(0)  # waits for a device that computes on its own
        return watch.speed(tokens * len(prompts))

    def _feed(self, rows: Sequence[tuple[int, list[int], int]]) -> None:
        self._batch.clear()
        for sequence, tokens, position in rows:
            self._batch.add(tokens, sequence=sequence, position=position, last_logits=True)
        self._context.decode(self._batch)


@dataclass(frozen=True)
class Run:
    """One request as its consumer saw it: when each token came, by time.perf_counter, and what it came to."""

    submitted: float
    arrivals: tuple[float, ...]
    finished: float
    completion: Completion

    @property
    def wall_seconds(self) -> float:
        return self.finished - self.submitted


def run_requests(engine: TextEngine, requests: Sequence[Request]) -> list[Run]:
    """All requests at once, with a waiting thread for each, as a server has them. A single one needs no thread."""
    if len(requests) == 1:
        return [_run(engine, requests[0])]
    with ThreadPoolExecutor(len(requests)) as consumers:
        return list(consumers.map(lambda request: _run(engine, request), requests))


def _run(engine: TextEngine, request: Request) -> Run:
    events: list[Event] = []
    arrivals = []
    submitted = time.perf_counter()
    for event in engine.submit(request):
        events.append(event)
        if isinstance(event, TokenEvent):
            arrivals.append(time.perf_counter())
    return Run(submitted, tuple(arrivals), time.perf_counter(), completion_of(events))


def measure_speed(engine: TextEngine, requests: Sequence[Request]) -> Speed:
    """How fast requests are answered together. Their prompts should be cached but for the last token."""
    with Stopwatch() as watch:
        runs = run_requests(engine, requests)
    whole = watch.speed(sum(len(run.arrivals) for run in runs))
    return Speed(joint_tokens_per_second(runs), whole.per_cpu_second)


def joint_tokens_per_second(runs: Sequence[Run]) -> float:
    """The rate of all runs together while all of them were being answered. EdgeError if they hardly were."""
    start = max(run.arrivals[0] for run in runs)
    end = min(run.arrivals[-1] for run in runs)
    counted = sum(start < arrival <= end for run in runs for arrival in run.arrivals)
    if counted < len(runs):
        raise EdgeError(
            f"{len(runs)} requests were hardly answered at the same time.", hint="Ask for more tokens of each."
        )
    return counted / (end - start)


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """While it lasts, the number of tokens of every decode step in this process is added to the list."""
    steps: list[int] = []
    decode, decode_several = Context.decode, Context.decode_several

    def counting(self: Context, batch: Batch) -> None:
        steps.append(batch.count)
        decode(self, batch)

    def counting_several(self: Context, batch: Batch, choice: PlainChoice, **more: Any) -> tuple[int, list[int]]:
        made, tokens = decode_several(self, batch, choice, **more)
        steps.extend([1] * made)
        return made, tokens

    Context.decode, Context.decode_several = counting, counting_several  # type: ignore[method-assign]
    try:
        yield steps
    finally:
        Context.decode, Context.decode_several = decode, decode_several  # type: ignore[method-assign]
