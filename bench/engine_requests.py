"""Requests that need fewer decode steps than they have tokens: constraints that force some, drafts that guess some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

from bench.calibration import HELD_OUT
from bench.engine_case import Case, model_name
from bench.engine_report import Bar, Finding
from bench.engine_sides import Run, counted_steps, run_requests
from bench.engine_turns import compare, quartiles
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

        def structured(number: int) -> float:
            request = Request(prompt, replace(engine.default_sampling, seed=number), constraint=constraint)
            with counted_steps() as steps:
                (run,) = run_requests(engine, [request])
            _check_is_whole(run)
            constrained[number] = run, len(steps)
            return run.tokens_per_second

        def free(number: int) -> float:
            tokens = case.tokens
            sampling = replace(engine.default_sampling, seed=number)
            (run,) = run_requests(engine, [Request(prompt, sampling, max_tokens=tokens, ignore_eos=True)])
            return run.tokens_per_second

        samples = compare(structured, free, case.rounds)
    runs = [constrained[number] for number in range(1, case.rounds + 1)]
    ours, anchor = samples.medians
    passes = [steps / run.completion.usage.completion_tokens for run, steps in runs]
    forced = sum(run.completion.usage.forced_tokens for run, _ in runs)
    return [
        Finding(
            STRUCTURED,
            f"structured output, {model_name(case.model)}",
            f"{ours:.1f} tok/s",
            f"{anchor:.1f} tok/s",
            "free text",
            samples.ratio,
            bar=Bar(_STRUCTURED_BAR, "at least"),
            spread=samples.spread,
            note=f"for example: {runs[0][0].completion.text}",
            samples=samples.document,
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
        samples = compare(
            _copying(with_drafts, requests, runs, "drafts"), _copying(without, requests, runs, "none"), case.rounds
        )
    drafted = [run.completion.usage for (side, _), run in runs.items() if side == "drafts"]
    _check_are_identical(runs)
    ours, anchor = samples.medians
    accepted, guessed = sum(usage.accepted_tokens for usage in drafted), sum(usage.drafted_tokens for usage in drafted)
    return [
        Finding(
            DRAFTS,
            f"copying a text with drafts, {model_name(case.model)}",
            f"{ours:.1f} tok/s",
            f"{anchor:.1f} tok/s",
            "without drafts",
            samples.ratio,
            bar=Bar(_DRAFTS_BAR, "at least"),
            spread=samples.spread,
            note=f"identical tokens; {accepted} of {guessed} guesses were right.",
            samples=samples.document,
        )
    ]


def _copy_requests(engine: LocalEngine) -> Sequence[Request]:
    paragraphs = HELD_OUT.read_text(encoding="utf-8").split("\n\n")[:_PARAGRAPHS]
    prompts = [engine.chat_tokens([Message("user", COPY_PROMPT.format(text))]) for text in paragraphs]
    return [Request(prompt, SamplingSettings(temperature=0), max_tokens=2 * len(prompt)) for prompt in prompts]


def _copying(
    engine: LocalEngine, requests: Sequence[Request], runs: dict[tuple[str, int], Run], side: str
) -> Callable[[int], float]:
    """A round copies one of the texts after another, each behind a prompt whose computing does not count."""

    def measure(number: int) -> float:
        measured = []
        for place, request in enumerate(requests):
            run_requests(engine, [replace(request, max_tokens=1)])
            (run,) = run_requests(engine, [request])
            runs[side, place] = run
            measured.append(run)
        return sum(len(run.arrivals) for run in measured) / sum(run.wall_seconds for run in measured)

    return measure


def _check_are_identical(runs: dict[tuple[str, int], Run]) -> None:
    for side, place in runs:
        if runs[side, place].completion.tokens != runs["none", place].completion.tokens:
            raise EdgeError(
                "Greedy tokens differ with and without drafts.",
                hint="Report it, with the model and what edge doctor says.",
            )
