"""What is computed again of a conversation, counted in tokens: nothing should be."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from bench.calibration import HELD_OUT
from bench.engine_case import NO_SLIDING_MODEL, Case, model_name
from bench.engine_report import Bar, Finding, skipped
from bench.engine_sides import counted_steps
from edge.chat import Chat
from edge.local_engine import LocalEngine
from edge.prompt import Message
from edge.request import Completion, Request

SECOND_TURN, SESSION = "second-turn", "session"
_CONTEXT_TOKENS = 4096
_LONG_HISTORY_TOKENS, _SESSION_TOKENS = 1000, 2000
_ANSWER_TOKENS = 60
_QUESTION = "And what would you do if it rained all day?"


def measure_second_turn(case: Case) -> list[Finding]:
    """The second turn of a chat; and of a text that is longer than the sliding window, continued twice."""
    findings = [_chat_finding(case)]
    if case.sliding_model is None:
        return [*findings, skipped(SECOND_TURN, "second turn, sliding window", NO_SLIDING_MODEL)]
    return [*findings, _continued_finding(case, case.sliding_model)]


def _chat_finding(case: Case) -> Finding:
    with LocalEngine(case.model, case.settings(1, context_tokens=_CONTEXT_TOKENS)) as engine:
        sampling = replace(engine.default_sampling, seed=1)
        chat = Chat(engine, system="You plan trips.", sampling=sampling, max_tokens=_ANSWER_TOKENS)
        first = chat.send("Plan a walk along the coast.").result()
        with counted_steps() as steps:
            second = chat.send(_QUESTION).result()
        history = [Message("system", "You plan trips."), Message("user", "Plan a walk along the coast.")]
        asked = len(engine.chat_tokens(history))
    return _finding(f"second turn of a chat, {model_name(case.model)}", asked, first, second, steps)


def _continued_finding(case: Case, path: Path) -> Finding:
    with LocalEngine(path, case.settings(1, context_tokens=_CONTEXT_TOKENS)) as engine:
        sampling = replace(engine.default_sampling, seed=1)
        prompt = engine.text_tokens(HELD_OUT.read_text(encoding="utf-8"))[:_LONG_HISTORY_TOKENS]
        first = engine.submit(Request(prompt, sampling, max_tokens=_ANSWER_TOKENS)).result()
        following = engine.text_tokens(f" {_QUESTION}")
        with counted_steps() as steps:
            continued = (*prompt, *first.tokens, *following)
            second = engine.submit(Request(continued, sampling, max_tokens=_ANSWER_TOKENS)).result()
    return _finding(f"second turn after {len(prompt)} tokens, {model_name(path)}", len(prompt), first, second, steps)


def measure_session(case: Case) -> list[Finding]:
    """A conversation that was saved, and goes on in an engine that was opened afterwards."""
    findings = [_session_finding(case, case.model)]
    if case.sliding_model is None:
        return [*findings, skipped(SESSION, "resumed session, sliding window", NO_SLIDING_MODEL)]
    return [*findings, _session_finding(case, case.sliding_model)]


def _session_finding(case: Case, path: Path) -> Finding:
    settings = case.settings(1, context_tokens=_CONTEXT_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "session"
        with LocalEngine(path, settings) as engine:
            sampling = replace(engine.default_sampling, seed=1)
            prompt = engine.text_tokens(HELD_OUT.read_text(encoding="utf-8") * 2)[:_SESSION_TOKENS]
            first = engine.submit(Request(prompt, sampling, max_tokens=_ANSWER_TOKENS)).result()
            history = (*prompt, *first.tokens)
            engine.save_prefix(history, file)
            file_bytes = file.stat().st_size if file.exists() else 0
        with LocalEngine(path, settings) as engine, counted_steps() as steps:
            engine.load_prefix(file)
            continued = (*history, *engine.text_tokens(f" {_QUESTION}"))
            second = engine.submit(Request(continued, sampling, max_tokens=_ANSWER_TOKENS)).result()
    title = f"resumed session of {len(prompt):,} tokens, {model_name(path)}"
    found = _finding(title, len(prompt), first, second, steps)
    return replace(found, row=SESSION, note=f"its file has {file_bytes:,} bytes.")


def _finding(title: str, asked: int, first: Completion, second: Completion, steps: list[int]) -> Finding:
    """`asked` is the length of the first prompt, `steps` are the decode steps of the second turn.

    The last token of an answer that was cut off was never fed, so it is as new as the question behind it.
    """
    new = second.usage.prompt_tokens - asked - first.usage.completion_tokens + (first.finish_reason == "length")
    prefilled = sum(steps) - (second.usage.completion_tokens - (second.finish_reason == "length"))
    return Finding(
        SECOND_TURN,
        title,
        f"{prefilled} tokens",
        f"{new} tokens",
        f"new, of {second.usage.prompt_tokens}",
        abs(prefilled - new),
        unit="",
        bar=Bar(0, "at most"),
        samples={"steps": steps, "cached_tokens": second.usage.cached_tokens},
    )
