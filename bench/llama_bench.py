"""Our prefill and decode against llama-bench's in the same run: `python -m bench.llama_bench TOOL [MODEL]`.

TOOL is a llama-bench, built from the same llama.cpp as the installed binding. It is run with the binding's libraries:
two builds of one source may differ by several percent. Both sides are measured in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from bench.cases import PREFILL_STEP_TOKENS, BareSteps, BenchSettings, DecodeCase, PrefillCase
from bench.measure import Case
from bench.spread import ratio_interval
from edge.demo import find_demo_gguf
from edge.devices import physical_cores
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.library import library_folder
from edge.llama.model import Model
from edge.terminal import note, report_error

BAR = 0.03
_ERROR_LINES = 6
_REPETITIONS = 4
_REST_SECONDS = 2.0


@dataclass(frozen=True)
class Rate:
    """Tokens per second, and per second of processor time, which other work on the machine takes less from."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Sides:
    """Both sides, round by round."""

    name: str
    ours: tuple[Rate, ...]
    theirs: tuple[Rate, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(ours.wall / theirs.wall for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def processor_ratio(self) -> float:
        return median(ours.processor / theirs.processor for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the ratio of the medians, 95 times in 100."""
        return ratio_interval([rate.wall for rate in self.ours], [rate.wall for rate in self.theirs])

    @property
    def holds(self) -> bool:
        """Within the bar; or, where the clock cannot tell both sides apart, within it in processor time."""
        low, high = self.interval
        return abs(self.ratio - 1) <= BAR or (low <= 1 <= high and abs(self.processor_ratio - 1) <= BAR)


def main() -> None:
    arguments = _parse()
    try:
        model = arguments.model or find_demo_gguf()
        if model is None:
            raise EdgeError("The demo model is not installed.", hint="Give a model file.")
        settings = BenchSettings(arguments.pp, arguments.tg, threads=arguments.threads, rounds=arguments.rounds)
        found = measure_sides(arguments.tool, read_gguf(model).path, settings)
    except EdgeError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    for sides in found:
        print(sides_line(sides))
    sys.exit(0 if all(sides.holds for sides in found) else 1)


def measure_sides(tool: Path, path: Path, settings: BenchSettings) -> list[Sides]:
    """Both sides in turn; who is first changes from round to round. Round 0 warms up and does not count.

    Edge opens the model in a new process each time, as the tool does, and both rest before: in an old process, or on a
    processor that was not spared for a moment, a prompt takes several percent longer.
    """
    tests = ((settings.prompt_tokens, 0), (0, settings.generated_tokens))
    ours: list[list[Rate]] = [[], []]
    theirs: list[list[Rate]] = [[], []]
    for number in range(settings.rounds + 1):
        note(f"Round {number} of {settings.rounds}" if number else "Warming up")
        for place, test in enumerate(tests):
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                if side == "ours":
                    ours[place].append(_run_apart(path, settings, test, number))
                else:
                    theirs[place].append(_run_tool(tool, path, settings, test))
    names = (f"pp{settings.prompt_tokens}", f"tg{settings.generated_tokens}")
    return [Sides(name, tuple(ours[place][1:]), tuple(theirs[place][1:])) for place, name in enumerate(names)]


def _run_apart(path: Path, settings: BenchSettings, test: tuple[int, int], number: int) -> Rate:
    time.sleep(_REST_SECONDS)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_run_ours, path, settings, test, number).result()


def _run_ours(path: Path, settings: BenchSettings, test: tuple[int, int], number: int) -> Rate:
    """As often as the tool repeats it, after a first time that does not count, as the tool's does not."""
    with Model(path) as model:
        steps = BareSteps(model, settings, sum(test))
        case: Case = PrefillCase(steps, test[0]) if test[0] else DecodeCase(steps, test[1])
        case.run(number)
        started = time.process_time()
        runs = [case.run(number * _REPETITIONS + repetition) for repetition in range(1, 1 + _REPETITIONS)]
        processor = sum(run.tokens for run in runs) / (time.process_time() - started)
        steps.context.close()
    return Rate(median(run.values[case.name] for run in runs), processor)


def tool_command(tool: Path, path: Path, settings: BenchSettings, test: tuple[int, int], repetitions: int) -> list[str]:
    """One test, of so many prompt tokens and generated tokens, with what edge is run with."""
    options: dict[str, Any] = {
        "-m": path,
        "-p": test[0],
        "-n": test[1],
        "-r": repetitions,
        "-t": settings.threads,
        "-b": PREFILL_STEP_TOKENS,
        "-lm": "mmap",
        "-o": "json",
    }
    return [str(tool), *(str(word) for option in options.items() for word in option)]


def rates_of(output: str) -> list[float]:
    """The samples in what llama-bench prints for one test. EdgeError if they are not there."""
    try:
        (test,) = json.loads(output)
        return [float(sample) for sample in test["samples_ts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeError("llama-bench printed no results.", hint=f"It printed: {output[:200]!r}") from error


def _run_tool(tool: Path, path: Path, settings: BenchSettings, test: tuple[int, int]) -> Rate:
    """Run twice, with one repetition and with several more: the difference is what these took of the processor."""
    _, once = _timed(tool_command(tool, path, settings, test, 1))
    time.sleep(_REST_SECONDS)
    samples, often = _timed(tool_command(tool, path, settings, test, 1 + _REPETITIONS))
    seconds = max(often - once, 1e-6)  # a tool that does nothing may take less the second time
    return Rate(median(samples), sum(test) * _REPETITIONS / seconds)


def _timed(command: list[str]) -> tuple[list[float], float]:
    """What a run printed, and the processor time that it took."""
    before = os.times()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    except OSError as error:
        raise EdgeError(
            f"{command[0]} cannot be run: {error.strerror}.", hint="Give the path of a llama-bench."
        ) from error
    after = os.times()
    if done.returncode:
        lines = "\n".join(done.stderr.splitlines()[-_ERROR_LINES:]) or "It said nothing. Is it a llama-bench?"
        raise EdgeError(f"{command[0]} ended with exit code {done.returncode}.", hint=lines)
    taken = after.children_user + after.children_system - before.children_user - before.children_system
    return rates_of(done.stdout), taken


def _environment() -> dict[str, str]:
    """This process's own, with edge's llama.cpp first among the libraries that a program is given; not on Windows."""
    name = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
    folders = [str(library_folder()), *filter(None, [os.environ.get(name)])]
    return {**os.environ, name: os.pathsep.join(folders)}


def sides_line(sides: Sides) -> str:
    low, high = sides.interval
    ours, theirs = (median(rate.wall for rate in side) for side in (sides.ours, sides.theirs))
    verdict = "holds" if sides.holds else f"is off by more than {BAR:.0%}"
    return (
        f"{sides.name:<8} edge {ours:.1f} tok/s, llama-bench {theirs:.1f} tok/s, ratio {sides.ratio:.3f}"
        f" ({low:.3f} - {high:.3f}), in processor time {sides.processor_ratio:.3f}: {verdict}"
    )


def _parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.llama_bench", description="Compare prefill and decode with llama-bench's, in turn."
    )
    parser.add_argument("tool", type=Path, metavar="TOOL", help="a llama-bench of the same llama.cpp")
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="a GGUF file; default: the demo model")
    parser.add_argument("--pp", type=int, default=512, metavar="N", help="default: 512")
    parser.add_argument("--tg", type=int, default=128, metavar="N", help="default: 128")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--threads", type=int, default=physical_cores(), metavar="N", help="default: physical cores")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
