"""Measures what choosing a token costs, against llama.cpp's chain alone: `python -m bench.sampling --help`.

llama.cpp's chain is shown the whole vocabulary, and logits go to it the fastest way that numpy has. Both sides choose
from the same random logits with the same seed, in turn, and the tokens are compared. Times are medians. Streams that
choose one after the other are measured against a pool of two threads as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edge.devices import examine_machine
from edge.errors import EdgeError
from edge.llama.sampler import Sampler
from edge.settings import SamplingSettings
from edge.tables import cell, show, table
from edge.terminal import note, report_error

VOCABULARIES = (49_152, 131_072, 262_144)
STREAMS = (4, 8)
STREAM_CASES = ("default", "top_p alone")
POOL_THREADS = 2
CONTEXT_TOKENS = 4096
ROWS = 8
DEFAULT = SamplingSettings(seed=1)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Case:
    """Settings, and the share of the vocabulary that a constraint allows."""

    name: str
    settings: SamplingSettings
    allowed_share: float | None = None


CASES = (
    Case("greedy", replace(DEFAULT, temperature=0.0)),
    Case("default", DEFAULT),
    Case("default, penalties", replace(DEFAULT, repeat_penalty=1.1, frequency_penalty=0.2, presence_penalty=0.2)),
    # no sequence breakers, which would take a vocabulary of real tokens
    Case("default, DRY", replace(DEFAULT, dry_multiplier=0.8, dry_sequence_breakers=())),
    Case("default, few allowed", DEFAULT, 0.0005),
    Case("default, half allowed", DEFAULT, 0.5),
    Case("default, most allowed", DEFAULT, 0.95),
    Case("greedy, few allowed", replace(DEFAULT, temperature=0.0), 0.0005),
    Case("min_p alone", replace(DEFAULT, top_k=0, top_p=1.0)),
    Case("top_p alone", replace(DEFAULT, top_k=0, min_p=0.0)),
    Case("mirostat", replace(DEFAULT, mirostat_tau=5.0)),
)


@dataclass(frozen=True)
class CaseTimes:
    """Microseconds for each token."""

    vocabulary_tokens: int
    case: str
    llama: float
    edge: float

    @property
    def ratio(self) -> float:
        return self.llama / self.edge


@dataclass(frozen=True)
class StreamTimes:
    """Microseconds for one token of each stream."""

    vocabulary_tokens: int
    case: str
    streams: int
    in_turn: float
    pooled: float

    @property
    def ratio(self) -> float:
        return self.in_turn / self.pooled


@dataclass(frozen=True, eq=False)
class _Vocabulary:
    size: int
    pointer: int = 0


def main() -> None:
    arguments = _parse()
    try:
        note("choosing")
        times = [measure(case, size, arguments.rounds) for size in VOCABULARIES for case in CASES]
        note("streams")
        streams = [
            measure_streams(case, count, size, arguments.rounds)
            for case in CASES
            if case.name in STREAM_CASES
            for size in VOCABULARIES
            for count in STREAMS
        ]
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    machine = examine_machine().cpu.name
    if arguments.json:
        document = {
            "processor": machine,
            "times": [asdict(each) for each in times],
            "streams": [asdict(each) for each in streams],
        }
        print(json.dumps(document, indent=2))
    else:
        print_tables(times, streams, machine)


def measure(case: Case, vocabulary_tokens: int, rounds: int) -> CaseTimes:
    """Both sides of one case. EdgeError if they choose tokens of different logits."""
    random = np.random.default_rng(1)
    rows = _logits(random, vocabulary_tokens)
    allowed = _mask(random, vocabulary_tokens, case.allowed_share)
    llama, edge = [], []
    with _sampler(case.settings, rows) as all_shown, _sampler(case.settings, rows) as few_shown:
        for turn in range(rounds):
            row = rows[turn % ROWS]
            expected, seconds = _timed(all_shown.choose_from_all, row, allowed)
            llama.append(seconds)
            chosen, seconds = _timed(few_shown.choose, row, allowed)
            edge.append(seconds)
            if chosen != expected:
                raise EdgeError(
                    f"Of {vocabulary_tokens} tokens, {case.name} chose {chosen}, and llama.cpp's chain {expected}.",
                    hint="Report it, with what edge doctor says.",
                )
    return CaseTimes(vocabulary_tokens, case.name, median(llama) * 1e6, median(edge) * 1e6)


def measure_streams(case: Case, count: int, vocabulary_tokens: int, rounds: int) -> StreamTimes:
    """Streams that choose one after the other, and the same ones in a pool."""
    rows = _logits(np.random.default_rng(1), vocabulary_tokens, count)
    in_turn, pooled = [], []
    with ExitStack() as stack:
        samplers = [stack.enter_context(_sampler(case.settings, rows)) for _ in range(count)]
        pool = stack.enter_context(ThreadPoolExecutor(POOL_THREADS))

        def choose(first: int, step: int) -> list[int]:
            return [samplers[place].choose(rows[place]) for place in range(first, count, step)]

        def choose_pooled() -> list[list[int]]:
            return list(pool.map(choose, range(POOL_THREADS), [POOL_THREADS] * POOL_THREADS))

        for _ in range(rounds):
            in_turn.append(_timed(choose, 0, 1)[1])
            pooled.append(_timed(choose_pooled)[1])
    return StreamTimes(vocabulary_tokens, case.name, count, median(in_turn) * 1e6, median(pooled) * 1e6)


def _logits(random: np.random.Generator, vocabulary_tokens: int, count: int = ROWS) -> npt.NDArray[np.float32]:
    """Logits [count, vocabulary] about as a model's are: most in a wide heap, a few dozen well above it."""
    rows = random.standard_normal((count, vocabulary_tokens)) * 2
    for row in rows:
        row[random.choice(vocabulary_tokens, 60, replace=False)] += random.exponential(4, 60) + 6
    return rows.astype(np.float32)


def _mask(random: np.random.Generator, size: int, share: float | None) -> npt.NDArray[np.bool_] | None:
    return None if share is None else random.random(size) < share


@contextmanager
def _sampler(settings: SamplingSettings, rows: npt.NDArray[np.float32]) -> Iterator[Sampler]:
    """A stream behind a prompt of 400 likely tokens and a completion of 200, which repeats it."""
    likely = np.argsort(rows[0])[-200:].tolist()
    vocabulary = _Vocabulary(rows.shape[1])
    sampler = Sampler(settings, vocabulary, prompt_tokens=likely * 2, context_tokens=CONTEXT_TOKENS)
    with closing(sampler):
        for token in likely:
            sampler.accept(token)
        yield sampler


def _timed(call: Callable[..., Result], *values: object) -> tuple[Result, float]:
    """What a call gives, and the seconds that it takes."""
    start = time.perf_counter()
    result = call(*values)
    return result, time.perf_counter() - start


def print_tables(times: Sequence[CaseTimes], streams: Sequence[StreamTimes], machine: str) -> None:
    of_cases, of_streams = ("llama.cpp", "edge", ""), ("Streams", "in turn", f"{POOL_THREADS} threads", "")
    chosen = table(
        f"Microseconds per token, {machine}",
        ("Vocabulary", "left"),
        ("Settings", "left"),
        *((name, "right") for name in of_cases),
    )
    for each in times:
        figures = (f"{each.llama:.0f}", f"{each.edge:.0f}", f"{each.ratio:.1f}x")
        chosen.add_row(*map(cell, [f"{each.vocabulary_tokens:,}", each.case, *figures]))
    together = table(
        "Microseconds for all streams",
        ("Vocabulary", "left"),
        ("Settings", "left"),
        *((name, "right") for name in of_streams),
    )
    for entry in streams:
        figures = (f"{entry.in_turn:.0f}", f"{entry.pooled:.0f}", f"{entry.ratio:.1f}x")
        together.add_row(*map(cell, [f"{entry.vocabulary_tokens:,}", entry.case, str(entry.streams), *figures]))
    show(chosen, together)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sampling",
        description="Measure what choosing a token costs, against llama.cpp's chain over the whole vocabulary.",
    )
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="tokens of each case (default: 100)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
