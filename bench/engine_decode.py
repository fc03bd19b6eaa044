"""Plain decoding: tokens per second of 1 to 8 streams against the bare loop, and what batching is worth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.engine_case import NO_SLIDING_MODEL, Case, free_requests, model_name, openings
from bench.engine_report import Bar, Finding, skipped, speed_finding
from bench.engine_sides import BareLoop, measure_speed, run_requests
from bench.engine_turns import compare, measure_in_turn
from edge.local_engine import LocalEngine
from edge.request import Request

DECODE, STREAMS, BATCH = "decode", "streams", "batch"
_ONE_STREAM_BAR, _SLIDING_BAR, _STREAMS_BAR = 0.99, 0.97, 0.97
_BATCH_STREAMS, _BATCH_TOKENS = 8, 32


def measure_decode(case: Case) -> list[Finding]:
    """One stream, for both models."""
    findings = [_decode_finding(DECODE, case, case.model, 1, _ONE_STREAM_BAR)]
    if case.sliding_model is None:
        return [*findings, skipped(DECODE, "one stream, Gemma 3 270M", NO_SLIDING_MODEL)]
    return [*findings, _decode_finding(DECODE, case, case.sliding_model, 1, _SLIDING_BAR)]


def measure_streams(case: Case) -> list[Finding]:
    return [_decode_finding(STREAMS, case, case.model, streams, _STREAMS_BAR) for streams in (4, 8)]


def _decode_finding(row: str, case: Case, model: Path, streams: int, limit: float) -> Finding:
    settings = case.settings(streams)
    with LocalEngine(model, settings) as engine, BareLoop(engine.model, settings) as bare:
        prompts = openings(engine, streams)
        speeds = measure_in_turn(
            lambda number: measure_speed(engine, _requests(case, engine, prompts, number)),
            lambda _: engine.compute(lambda: bare.speed(prompts, case.tokens)),
            case.rounds,
        )
    return speed_finding(
        row,
        f"{streams} stream{'s' * (streams > 1)}, {model_name(model)}",
        "bare loop",
        speeds,
        Bar(limit, "at least"),
        note="With the steps before all had begun," if streams > 1 else "",
    )


def _requests(case: Case, engine: LocalEngine, prompts: Sequence[tuple[int, ...]], number: int) -> list[Request]:
    """Free text as the model's makers recommend to sample it."""
    return free_requests(prompts, engine.default_sampling, case.tokens, number)


def measure_batch(case: Case) -> list[Finding]:
    """Short prompts all at once against one after the other, from the first submission to the last token."""
    case = replace(case, tokens=_BATCH_TOKENS)
    settings = case.settings(_BATCH_STREAMS)
    with LocalEngine(case.model, settings) as engine, BareLoop(engine.model, settings) as bare:
        prompts = openings(engine, _BATCH_STREAMS)

        def together(number: int) -> float:
            return _requests_per_second(engine, [_requests(case, engine, prompts, number)])

        def one_by_one(number: int) -> float:
            requests = _requests(case, engine, prompts, number)
            return _requests_per_second(engine, [[request] for request in requests])

        samples = compare(together, one_by_one, case.rounds)
        bound = compare(
            lambda _: engine.compute(lambda: bare.speed(prompts, _BATCH_TOKENS)).per_second,
            lambda _: engine.compute(lambda: bare.speed(prompts[:1], _BATCH_TOKENS)).per_second,
            case.rounds,
        )
    ours, anchor = samples.medians
    return [
        Finding(
            BATCH,
            f"{_BATCH_STREAMS} short prompts at once, {model_name(case.model)}",
            f"{ours:.2f} requests/s",
            f"{anchor:.2f} requests/s",
            "one by one",
            samples.ratio,
            spread=samples.spread,
            note=f"the bare loop decodes {bound.ratio:.2f}x as many tokens/s at {_BATCH_STREAMS} streams as at one.",
            samples={**samples.document, "bare": bound.document},
        )
    ]


def _requests_per_second(engine: LocalEngine, groups: Sequence[Sequence[Request]]) -> float:
    start = time.perf_counter()
    for group in groups:
        run_requests(engine, group)
    return sum(map(len, groups)) / (time.perf_counter() - start)
