"""A long prompt that arrives beside running streams: how much longer their tokens take while it is computed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from bench.calibration import HELD_OUT
from bench.engine_case import Case, model_name, openings
from bench.engine_report import Bar, Finding
from bench.engine_sides import Run, run_requests
from bench.engine_turns import percentile, quartiles
from edge.local_engine import LocalEngine
from edge.request import Request

ARRIVAL = "arrival"
_STREAMS = 4
_PROMPT_TOKENS = 3000
_BEFORE_TOKENS = 48
"""Tokens of each stream before the prompt arrives, over which the time between them is measured."""
_STREAM_TOKENS = 1200
_BAR = 2.5
_MOST_ROUNDS = 3
"""A round has some thousand samples of its own, and may take a minute."""


@dataclass(frozen=True)
class Arrival:
    """Seconds between tokens of the streams, 95th percentile, and until the prompt's first token."""

    before: float
    during: float
    first_token: float


def measure_arrival(case: Case) -> list[Finding]:
    context_tokens = _PROMPT_TOKENS + _STREAMS * (_STREAM_TOKENS + 64) + 64
    settings = case.settings(_STREAMS + 1, context_tokens=context_tokens)
    # each token by itself, whose time is measured
    with LocalEngine(case.model, settings, delivery_seconds=0) as engine:
        (alone,) = run_requests(engine, [_long_request(engine, 0)])
        arrivals = [_measure_once(engine, number) for number in range(1, min(case.rounds, _MOST_ROUNDS) + 1)]
    ratios = [each.during / each.before for each in arrivals]
    ours, anchor = median(each.during for each in arrivals), median(each.before for each in arrivals)
    first_token = median(each.first_token for each in arrivals)
    return [
        Finding(
            ARRIVAL,
            f"p95 between tokens beside a prompt of {_PROMPT_TOKENS:,}, {model_name(case.model)}",
            f"{ours * 1e3:.1f} ms",
            f"{anchor * 1e3:.1f} ms",
            "before it arrives",
            median(ratios),
            bar=Bar(_BAR, "at most"),
            spread=quartiles(ratios),
            note=f"the prompt's first token comes after {first_token:.1f} s, alone after {alone.wall_seconds:.1f} s.",
            samples={"before": [each.before for each in arrivals], "during": [each.during for each in arrivals]},
        )
    ]


def _measure_once(engine: LocalEngine, number: int) -> Arrival:
    """Start the streams, let the prompt arrive once each has had its tokens, and end the streams after its first."""
    counts = [0] * _STREAMS
    runs_well = threading.Event()
    streams = [
        engine.submit(
            Request(
                prompt,
                replace(engine.default_sampling, seed=number * _STREAMS + place),
                max_tokens=_STREAM_TOKENS,
                ignore_eos=True,
            )
        )
        for place, prompt in enumerate(openings(engine, _STREAMS))
    ]
    arrivals: list[list[float]] = [[] for _ in streams]

    def consume(place: int) -> None:
        for _ in streams[place]:
            arrivals[place].append(time.perf_counter())
            counts[place] += 1
            if min(counts) >= _BEFORE_TOKENS:
                runs_well.set()
        runs_well.set()

    consumers = [threading.Thread(target=consume, args=(place,)) for place in range(_STREAMS)]
    for consumer in consumers:
        consumer.start()
    runs_well.wait()
    (run,) = run_requests(engine, [_long_request(engine, number)])
    for stream in streams:
        stream.cancel()
    for consumer in consumers:
        consumer.join()
    return _arrival(run, arrivals)


def _arrival(run: Run, arrivals: Sequence[Sequence[float]]) -> Arrival:
    start, end = run.submitted, run.arrivals[0]
    running = max(times[0] for times in arrivals)
    before = [gap for times in arrivals for gap in gaps(times, running, start)]
    during = [gap for times in arrivals for gap in gaps(times, start, end)]
    return Arrival(percentile(before, 0.95), percentile(during, 0.95), end - start)


def gaps(times: Sequence[float], start: float, end: float) -> list[float]:
    """Seconds between neighbouring times, of which the later lies after `start` and not after `end`."""
    return [later - earlier for earlier, later in pairwise(times) if start < later <= end]


def _long_request(engine: LocalEngine, number: int) -> Request:
    """A prompt that shares nothing with those of other rounds, so that none of it is in the cache."""
    tokens = engine.text_tokens(f"Report {number}. " + HELD_OUT.read_text(encoding="utf-8") * 8)
    return Request(tokens[:_PROMPT_TOKENS], replace(engine.default_sampling, seed=number), max_tokens=1)
