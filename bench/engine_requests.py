"""Requests that need fewer decode steps than they have tokens: constraints that force some, drafts that guess some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

from bench.calibration import HELD_OUT
from bench.engine_case import Case, model_name
from bench.engine_report import Bar, Finding, speed_finding
from bench.engine_sides import Run, counted_steps, run_requests
from bench.engine_turns import Speed, Stopwatch, measure_in_turn, quartiles
from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.local_engine import LocalEngine
from edge.prompt import Message
from edge.request import Request
from edge.settings import SamplingSettings

STRUCTURED, DRAFTS = "structured", "drafts"
STRUCTURED_PROMPT = "Invent a person who works with bees and describe them as JSON."
COPY_PROMPT = "Repeat the following text word for word, and correct nothing:\n\n{}"
_STRUCTURED_BAR, _PASSES_BAR, _DRAFTS_BAR = 1.25, 0.75, 1.5
_CONTEXT_TOKENS = 2048
_PARAGRAPHS = 3


def measure_structured(case: Case) -> list[Finding]:
    """A constrained reply against free text of the same length to the same prompt, sampled in the same way."""
    with LocalEngine(case.model, case.settings(1, context_tokens=_CONTEXT_TOKENS)) as engine:
        prompt = engine.chat_tokens([Message("user", STRUCTURED_PROMPT)])
        constraint = Constraint.json_schema(case.schema)
        constrained: dict[int, tuple[Run, int]] = {}

        def structured(number: int) -> Speed:
            request = Request(prompt, replace(engine.default_sampling, seed=number), constraint=constraint)
            with counted_steps() as steps, Stopwatch() as watch:
                (run,) = run_requests(engine, [request])
            _check_is_whole(run)
            constrained[number] = run, len(steps)
            return watch.speed(len(run.arrivals))

        def free(number: int) -> Speed:
            sampling = replace(engine.default_sampling, seed=number)
            with Stopwatch() as watch:
                (run,) = run_requests(engine, [Request(prompt, sampling, max_tokens=case.tokens, ignore_eos=True)])
            return watch.speed(len(run.arrivals))

        speeds = measure_in_turn(structured, free, case.rounds)
    runs = [constrained[number] for number in range(1, case.rounds + 1)]
    passes = [steps / run.completion.usage.completion_tokens for run, steps in runs]
    forced = sum(run.completion.usage.forced_tokens for run, _ in runs)
    return [
        speed_finding(
            STRUCTURED,
            f"structured output, {model_name(case.model)}",
            "free text",
            speeds,
            Bar(_STRUCTURED_BAR, "at least"),
            note=f"for example: {runs[0][0].completion.text}",
        ),
        Finding(
            STRUCTURED,
            "forward passes of structured output",
            f"{sum(steps for _, steps in runs)} passes",
            f"{sum(run.completion.usage.completion_tokens for run, _ in runs)} tokens",
            f"{forced} of them forced",
            median(passes),
            bar=Bar(_PASSES_BAR, "at most"),
            spread=quartiles(passes),
            samples={"passes_per_token": passes},
        ),
    ]


def _check_is_whole(run: Run) -> None:
    completion = run.completion
    if completion.finish_reason != "stop" or not completion.is_valid:
        raise EdgeError(
            f"A structured reply ended as {completion.finish_reason}: {completion.text!r}",
            hint="Give a schema whose instances are short.",
        )


def measure_drafts(case: Case) -> list[Finding]:
    """Copying a text greedily with drafts from the prompt, against the same without. The tokens have to be the same."""
    with ExitStack() as stack:
        with_drafts, without = (
            stack.enter_context(
                LocalEngine(case.model, case.settings(1, context_tokens=_CONTEXT_TOKENS, speculates=speculates))
            )
            for speculates in (True, False)
        )
        runs: dict[tuple[str, int], Run] = {}
        requests = _copy_requests(with_drafts)
        speeds = measure_in_turn(
            _copying(with_drafts, requests, runs, "drafts"), _copying(without, requests, runs, "none"), case.rounds
        )
    drafted = [run.completion.usage for (side, _), run in runs.items() if side == "drafts"]
    _check_are_identical(runs)
    accepted, guessed = sum(usage.accepted_tokens for usage in drafted), sum(usage.drafted_tokens for usage in drafted)
    tokens = sum(usage.completion_tokens for usage in drafted)
    return [
        speed_finding(
            DRAFTS,
            f"copying a text with drafts, {model_name(case.model)}",
            "without drafts",
            speeds,
            Bar(_DRAFTS_BAR, "at least"),
            note=f"identical tokens; {accepted} of {guessed} guesses were right, in a text of {tokens} tokens.",
        )
    ]


def _copy_requests(engine: LocalEngine) -> Sequence[Request]:
    paragraphs = HELD_OUT.read_text(encoding="utf-8").split("\n\n")[:_PARAGRAPHS]
    prompts = [engine.chat_tokens([Message("user", COPY_PROMPT.format(text))]) for text in paragraphs]
    return [Request(prompt, SamplingSettings(temperature=0), max_tokens=2 * len(prompt)) for prompt in prompts]


def _copying(
    engine: LocalEngine, requests: Sequence[Request], runs: dict[tuple[str, int], Run], side: str
) -> Callable[[int], Speed]:
    """A round copies one of the texts after another, each behind a prompt whose computing does not count."""

    def measure(number: int) -> Speed:
        watch, tokens = Stopwatch(), 0
        for place, request in enumerate(requests):
            run_requests(engine, [replace(request, max_tokens=1)])
            with watch:
                (run,) = run_requests(engine, [request])
            runs[side, place] = run
            tokens += len(run.arrivals)
        return watch.speed(tokens)

    return measure


def _check_are_identical(runs: dict[tuple[str, int], Run]) -> None:
    for side, place in runs:
        if runs[side, place].completion.tokens != runs["none", place].completion.tokens:
            raise EdgeError(
                "Greedy tokens differ with and without drafts.",
                hint="Report it, with the model and what edge doctor says.",
            )
