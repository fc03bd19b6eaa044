"""Our prefill and decode against llama-bench's in the same run: `python -m bench.llama_bench TOOL [MODEL]`.

TOOL is a llama-bench, built from the same llama.cpp as the installed binding. Both sides are measured in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
from edge.llama.model import Model
from edge.terminal import note, report_error

BAR = 0.03
_ERROR_LINES = 6


@dataclass(frozen=True)
class Sides:
    """Tokens per second of both sides, round by round."""

    name: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def best_ratio(self) -> float:
        """Of the fastest rounds, which other work on the machine disturbed least."""
        return max(self.ours) / max(self.theirs)

    @property
    def holds(self) -> bool:
        return abs(self.ratio - 1) <= BAR


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
    """Both sides in turn; who is first changes from round to round. Round 0 warms up and does not count."""
    names = (f"pp{settings.prompt_tokens}", f"tg{settings.generated_tokens}")
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with Model(path) as model:
        prefill = BareSteps(model, settings, settings.prompt_tokens)
        decode = BareSteps(model, settings, settings.generated_tokens)
        cases: tuple[Case, Case] = (
            PrefillCase(prefill, settings.prompt_tokens),
            DecodeCase(decode, settings.generated_tokens),
        )
        for number in range(settings.rounds + 1):
            note(f"Round {number} of {settings.rounds}" if number else "Warming up")
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                if side == "ours":
                    first, second = (case.run(number).values[name] for case, name in zip(cases, names, strict=True))
                    ours.append((first, second))
                else:
                    theirs.append(_run_tool(tool, path, settings))
        prefill.context.close()
        decode.context.close()
    return [
        Sides(name, tuple(each[place] for each in ours[1:]), tuple(each[place] for each in theirs[1:]))
        for place, name in enumerate(names)
    ]


def tool_command(tool: Path, path: Path, settings: BenchSettings) -> list[str]:
    """One repetition of both tests, with what edge is run with."""
    options: dict[str, Any] = {
        "-m": path,
        "-p": settings.prompt_tokens,
        "-n": settings.generated_tokens,
        "-r": 1,
        "-t": settings.threads,
        "-b": PREFILL_STEP_TOKENS,
        "-lm": "mmap",
        "-o": "json",
    }
    return [str(tool), *(str(word) for option in options.items() for word in option)]


def rates_of(output: str) -> tuple[float, float]:
    """Prefill and decode out of what llama-bench prints. EdgeError if they are not there."""
    try:
        tests = json.loads(output)
        by_kind = {test["n_prompt"] > 0: float(test["avg_ts"]) for test in tests}
        return by_kind[True], by_kind[False]
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeError("llama-bench printed no results.", hint=f"It printed: {output[:200]!r}") from error


def _run_tool(tool: Path, path: Path, settings: BenchSettings) -> tuple[float, float]:
    try:
        done = subprocess.run(tool_command(tool, path, settings), capture_output=True, text=True, check=False)
    except OSError as error:
        raise EdgeError(f"{tool} cannot be run: {error.strerror}.", hint="Give the path of a llama-bench.") from error
    if done.returncode:
        lines = "\n".join(done.stderr.splitlines()[-_ERROR_LINES:])
        raise EdgeError(f"{tool} ended with exit code {done.returncode}.", hint=lines)
    return rates_of(done.stdout)


def sides_line(sides: Sides) -> str:
    low, high = ratio_interval(sides.ours, sides.theirs)
    verdict = "holds" if sides.holds else f"is off by more than {BAR:.0%}"
    return (
        f"{sides.name:<8} edge {median(sides.ours):.1f} tok/s, llama-bench {median(sides.theirs):.1f} tok/s,"
        f" ratio {sides.ratio:.3f} ({low:.3f} - {high:.3f}), of the fastest rounds {sides.best_ratio:.3f}: {verdict}"
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
