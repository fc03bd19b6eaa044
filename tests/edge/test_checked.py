"""Replies that are checked as a whole: shown when they are valid, sampled again when not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from edge.checked import CheckedStream, InvalidReplyError, submit_checked
from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.request import Event, FinishEvent, FinishReason, Request, TokenEvent, Usage
from edge.settings import SamplingSettings
from edge.stream import Stream
from tests.edge.fake_engine import TIMING, FakeEngine

UNIQUE = {"type": "array", "uniqueItems": True}
PROMPT = (1, 2, 3)


def asking(schema: dict[str, object] = UNIQUE, *, attempts: int = 4, **settings: object) -> Request:
    sampling = SamplingSettings(**settings)  # type: ignore[arg-type]
    return Request(PROMPT, sampling, constraint=Constraint.json_schema(schema, attempts=attempts))


def test_the_first_valid_attempt_is_the_reply() -> None:
    engine = FakeEngine(["[1, 1]", "[2, 2]", "[1, 2]", "[3]"])
    completion = submit_checked(asking(), engine.submit).result()
    assert (completion.text, completion.finish_reason) == ("[1, 2]", "stop")
    assert completion.usage.completion_tokens == len(completion.tokens) == 2
    assert [request.prompt_tokens for request in engine.requests] == [PROMPT] * 3


def test_nothing_of_an_attempt_is_shown_before_it_was_checked() -> None:
    engine = FakeEngine(["[1, 1]", "[1, 2]"])
    told: list[str] = []
    engine.before_token = lambda word: told.append(f"sampled {word.strip()}")
    for text in submit_checked(asking(), engine.submit).text():
        told.append(f"shown {text.strip()}")
    sampled = ["sampled [1,", "sampled 1]", "sampled [1,", "sampled 2]"]
    assert told == [*sampled, "shown [1,", "shown 2]"]


def test_what_is_enforced_is_the_relaxation() -> None:
    engine = FakeEngine(["[]"])
    submit_checked(asking(), engine.submit).result()
    assert engine.requests[0].constraint == Constraint("json_schema", '{"type": "array"}')


def test_without_a_valid_attempt_the_error_carries_the_best_one() -> None:
    engine = FakeEngine(["[1,", '["a", "a"]', "[2, 2]"])
    with pytest.raises(InvalidReplyError) as caught:
        submit_checked(asking({**UNIQUE, "contains": {"const": 2}}, attempts=3), engine.submit).result()
    assert caught.value.text == "[2, 2]"
    assert (caught.value.violation.keyword, caught.value.violation.pointer) == ("uniqueItems", "#/uniqueItems")
    assert caught.value.message == (
        "None of 3 attempts satisfies the JSON Schema; of the best, [2, 2] has non-unique elements (#/uniqueItems)."
    )
    assert "allow more attempts" in caught.value.hint


def test_attempts_that_were_cut_off_are_not_valid() -> None:
    engine = FakeEngine(["[1, 2, 3]"] * 2)
    request = replace(asking(attempts=2), max_tokens=2)
    with pytest.raises(InvalidReplyError, match="it was cut off at the token limit") as caught:
        submit_checked(request, engine.submit).result()
    assert (caught.value.text.strip(), caught.value.violation.keyword) == ("[1, 2,", "")
    assert "Allow more tokens" in caught.value.hint


def test_an_attempt_that_was_closed_at_the_limit_is_judged_by_what_it_says() -> None:
    with pytest.raises(InvalidReplyError, match="has non-unique elements") as caught:
        submit_checked(asking(attempts=1), lambda request: delivered("[1, 1]", "length")).result()
    assert caught.value.violation.keyword == "uniqueItems"
    completion = submit_checked(asking(), lambda request: delivered("[1, 2]", "length")).result()
    assert (completion.text, completion.finish_reason) == ("[1, 2]", "length")


def test_each_retry_draws_differently() -> None:
    engine = FakeEngine(["[1, 1]"] * 4)
    with pytest.raises(InvalidReplyError):
        submit_checked(asking(temperature=0.0, seed=2**32 - 2), engine.submit).result()
    drawn = [(request.sampling.temperature, request.sampling.seed) for request in engine.requests]
    assert drawn == [(0.0, 2**32 - 2), (0.4, 2**32 - 1), (0.8, 0), (1.0, 1)]


def test_a_temperature_that_is_higher_already_stays() -> None:
    engine = FakeEngine(["[1, 1]", "[1]"])
    submit_checked(asking(temperature=1.3), engine.submit).result()
    assert [(request.sampling.temperature, request.sampling.seed) for request in engine.requests] == [(1.3, None)] * 2


@pytest.mark.parametrize(
    "constraint", [None, Constraint.regex("a"), Constraint.json_schema({"type": "array", "maxItems": 3})]
)
def test_a_request_that_needs_no_check_is_passed_on_as_it_is(constraint: Constraint | None) -> None:
    engine = FakeEngine(["[1, 1]"])
    request = Request(PROMPT, constraint=constraint)
    stream = submit_checked(request, engine.submit)
    assert not isinstance(stream, CheckedStream)
    assert engine.requests == [request]


def test_a_cancelled_request_ends_without_text() -> None:
    engine = FakeEngine(["[1, 1]", "[1, 2]"])
    engine.before_token = lambda word: stream.cancel()
    stream = submit_checked(asking(), engine.submit)
    completion = stream.result()
    assert (completion.text, completion.finish_reason) == ("", "cancelled")
    assert stream.is_cancelled
    assert len(engine.requests) == 1


def test_a_request_cancelled_between_attempts_is_not_sampled_to_the_end() -> None:
    engine = FakeEngine(["[1, 1]", "[1, 2]"])
    submitted = 0

    def submit(request: Request) -> Stream:
        nonlocal submitted
        submitted += 1
        if submitted == 2:
            stream.cancel()
        return engine.submit(request)  # type: ignore[return-value]

    stream = submit_checked(asking(), submit)
    assert stream.result().finish_reason == "cancelled"


def test_a_checked_stream_ends_once() -> None:
    stream = submit_checked(asking(), FakeEngine(["[1]"]).submit)
    assert len(list(stream)) == 2
    assert list(stream) == []
    with pytest.raises(EdgeError, match="read to its end before"):
        stream.result()


def test_an_error_of_the_engine_ends_the_attempts() -> None:
    engine = FakeEngine(["[1, 1]", EdgeError("The engine is closed.")])
    with pytest.raises(EdgeError, match="The engine is closed"):
        submit_checked(asking(), engine.submit).result()


def delivered(text: str, reason: FinishReason = "stop") -> Stream:
    stream = Stream()
    stream.deliver(TokenEvent(5, text.encode(), text))
    stream.deliver(FinishEvent("", reason, Usage(3, 0, 1), TIMING))
    return stream


def test_an_event_loop_sees_only_the_valid_attempt() -> None:
    streams = iter([delivered("[1, 1]"), delivered("[1, 2]")])

    async def events() -> list[Event]:
        return [event async for event in submit_checked(asking(), lambda request: next(streams))]

    assert [event.text for event in asyncio.run(events())] == ["[1, 2]", ""]


def test_attempts_are_counted_from_one() -> None:
    with pytest.raises(EdgeError, match="attempts is 0") as caught:
        Constraint.json_schema(UNIQUE, attempts=0)
    assert caught.value.hint == "Allow at least 1 attempt."
