"""What it costs to have the engine in a process of its own: the same requests to both, in turn."""

from __future__ import annotations

from bench.engine_case import Case, free_requests, model_name, openings
from bench.engine_report import Bar, Finding
from bench.engine_sides import joint_tokens_per_second, run_requests
from bench.engine_turns import compare
from edge.local_engine import LocalEngine
from edge.worker import WorkerEngine

WORKER = "worker"
_BAR = 0.97


def measure_worker(case: Case) -> list[Finding]:
    return [_finding(case, streams) for streams in (1, 8)]


def _finding(case: Case, streams: int) -> Finding:
    settings = case.settings(streams)
    with LocalEngine(case.model, settings) as local, WorkerEngine(case.model, settings) as worker:
        prompts = openings(local, streams)

        def rate(engine: LocalEngine | WorkerEngine, number: int) -> float:
            requests = free_requests(prompts, engine.default_sampling, case.tokens, number)
            return joint_tokens_per_second(run_requests(engine, requests))

        samples = compare(lambda number: rate(worker, number), lambda number: rate(local, number), case.rounds)
    ours, anchor = samples.medians
    return Finding(
        WORKER,
        f"worker process, {streams} stream{'s' * (streams > 1)}, {model_name(case.model)}",
        f"{ours:.1f} tok/s",
        f"{anchor:.1f} tok/s",
        "in this process",
        samples.ratio,
        bar=Bar(_BAR, "at least"),
        spread=samples.spread,
        samples=samples.document,
    )
