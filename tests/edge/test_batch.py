"""Batches: what is one, in which order it is answered, and what becomes of each line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.batch import BatchSettings, Totals, run_batch
from edge.batch_input import Line, chat_body, read_lines
from edge.batch_plan import Plan, open_prompts, plan_batch, trained_tokens
from edge.batch_progress import BarDisplay, NoteDisplay, duration_text, summary
from edge.checked import InvalidReplyError
from edge.engine import Engine
from edge.errors import EdgeError, EngineBusyError
from edge.gguf_file import GGUFFile, read_gguf
from edge.openai_fields import BodyError
from edge.prompt import Message
from edge.request import Event, Request
from edge.schema_validation import Violation
from edge.settings import ModelSettings
from tests.edge.batches import batch_of, content_of, line_text, status
from tests.edge.fake_engine import FakeEngine, FakeStream

SETTINGS = BatchSettings(model="demo", system_fingerprint="fp_1", parallel=2)


def answers(lines: list[Line], engine: FakeEngine) -> dict[str, dict[str, Any]]:
    """The answers to lines by their custom_ids."""
    written: list[Mapping[str, Any]] = []
    run_batch(lines, engine, written.append, SETTINGS)
    assert len({answer["custom_id"] for answer in written}) == len(written)
    return {answer["custom_id"]: dict(answer) for answer in written}


# Input


def test_lines_are_numbered_and_blank_ones_left_out() -> None:
    lines = read_lines(f"{line_text('a')}\r\n\n{line_text('b')}".encode(), "in.jsonl")
    assert [(line.number, line.custom_id) for line in lines] == [(1, "a"), (3, "b")]
    assert chat_body(lines[0]).messages[0].content == "Hello"


def test_request_id_changes_with_what_is_asked_and_with_nothing_else() -> None:
    first, same, other = batch_of(line_text("a"), line_text("b").replace(": ", " :  "), line_text("c", "Bye"))
    assert first.request_id == same.request_id != other.request_id
    (reordered,) = batch_of(line_text("a", response_format={"b": 1, "a": 2}))
    (ordered,) = batch_of(line_text("a", response_format={"a": 2, "b": 1}))
    assert reordered.request_id != ordered.request_id  # properties are written in the order of their schema


def test_file_that_is_no_batch_is_refused_with_its_line_numbers() -> None:
    content = b"\n".join(
        [line_text("a").encode(), b"{", b'{"custom_id": 5}', line_text("a").encode(), b'{"custom_id": "\xff"}', b"[]"]
    )
    with pytest.raises(EdgeError) as caught:
        read_lines(content, "in.jsonl")
    assert caught.value.message == (
        "in.jsonl is not a batch: line 2: it is not valid JSON: column 2: Expecting property name enclosed in double"
        " quotes; line 3: custom_id is 5; line 4: the custom_id 'a' is that of line 1; and 2 more."
    )
    assert '"url": "/v1/chat/completions"' in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "in.jsonl has no lines."),
        (b"\n  \n", "in.jsonl has no lines."),
        (b'{"body": {}}', "in.jsonl is not a batch: line 1: custom_id is missing."),
        (b'{"custom_id": "\xff"}', "in.jsonl is not a batch: line 1: byte 16 is not UTF-8."),
        (b"[]", "in.jsonl is not a batch: line 1: the line is a list with 0 members."),
    ],
)
def test_input_without_requests_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(EdgeError) as caught:
        read_lines(content, "in.jsonl")
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        (line_text("a").replace("POST", "GET"), "method", 'method is "GET".'),
        (line_text("a").replace("chat/", ""), "url", 'url is "/v1/completions".'),
        ('{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}', "body", "body is missing."),
        (line_text("a")[:-1] + ', "bdy": 1}', "bdy", "The field bdy is not known."),
        (line_text("a", stream=True), "stream", "stream is true."),
        (line_text("a", top_p=7), "top_p", "top_p is 7.0."),
    ],
)
def test_what_is_wrong_in_a_line_is_named(text: str, field: str, message: str) -> None:
    (line,) = batch_of(text)
    with pytest.raises(BodyError) as caught:
        chat_body(line)
    assert (caught.value.field, caught.value.message) == (field, message)


# Plan


def test_lines_with_the_same_beginning_become_neighbours() -> None:
    contents = {"1": "river of Peru", "2": "capital of Peru", "3": "river of Kenya", "4": "capital of Kenya"}
    plan = plan_batch(batch_of(*(line_text(custom_id, text) for custom_id, text in contents.items())), FakeEngine())
    assert [line.custom_id for line in plan.lines] == ["4", "2", "3", "1"]


def test_plan_knows_the_longest_request_and_leaves_wrong_lines_out_of_it() -> None:
    engine = FakeEngine()
    texts = [line_text("a", "x" * 50, max_tokens=30), line_text("b", "x" * 9, max_tokens=40, n=3)]
    plan = plan_batch(batch_of(*texts, line_text("c", top_p=7)), engine)
    prompt = len(engine.chat_tokens([Message("user", "x" * 50)]))
    assert (plan.longest_tokens, plan.requests) == (prompt + 30, 4)
    assert plan.lines[0].custom_id == "c"
    open_ended = plan_batch(batch_of(line_text("a", "x" * 50)), engine)
    assert open_ended.longest_tokens == prompt + 1024


@pytest.mark.parametrize(
    ("longest", "requests", "parallel", "trained", "expected"),
    [
        (500, 100, 8, 8192, 8 * 500),
        (500, 3, 8, 8192, 3 * 500),  # no more than there are requests
        (5000, 100, 8, 8192, 16384),  # bounded: then fewer are in flight
        (30_000, 100, 8, 32768, 30_000),  # but one always fits
        (9000, 100, 1, 8192, 8192),  # what the model was not trained for is refused by the engine
        (20, 1, 8, 8192, 256),
        (0, 0, 8, 8192, 256),
    ],
)
def test_context_is_enough_for_the_longest_times_those_in_flight(
    longest: int, requests: int, parallel: int, trained: int, expected: int
) -> None:
    assert Plan((), longest, requests).context_tokens(parallel, trained) == expected


def test_prompts_are_read_with_the_vocabulary_alone(tiny_gguf: Path) -> None:
    file, question = read_gguf(tiny_gguf), [Message("user", "Où?")]
    assert trained_tokens(file) == 512
    with open_prompts(file) as prompts, Engine(tiny_gguf, ModelSettings(context_tokens=64, threads=1)) as engine:
        assert prompts.chat_tokens(question) == engine.chat_tokens(question)


def test_model_without_its_context_length_needs_one(tiny_gguf: Path) -> None:
    file: GGUFFile = replace(read_gguf(tiny_gguf), metadata={"general.architecture": "llama"})
    with pytest.raises(EdgeError, match=r"does not say its context length") as caught:
        trained_tokens(file)
    assert caught.value.hint == "Give one with --ctx."


# Answers


def test_each_line_gets_its_answer_in_the_format_of_openai() -> None:
    lines = batch_of(line_text("a", model="mine", max_tokens=2))
    answer = answers(lines, FakeEngine(["one two three"]))["a"]
    assert answer.keys() == {"id", "custom_id", "response", "error"}
    assert answer["id"].startswith("batch_req_") and answer["error"] is None
    assert answer["response"].keys() == {"status_code", "request_id", "body"}
    assert (status(answer), answer["response"]["request_id"]) == (200, lines[0].request_id)
    body = answer["response"]["body"]
    assert (body["model"], body["system_fingerprint"]) == ("mine", "fp_1")
    assert (content_of(answer), body["choices"][0]["finish_reason"]) == ("one two ", "length")
    assert body["usage"]["completion_tokens"] == 2


def test_wrong_line_gets_an_error_and_the_others_their_answers() -> None:
    got = answers(batch_of(line_text("a"), line_text("b", top_p=7), line_text("c")), FakeEngine())
    assert {custom_id: status(answer) for custom_id, answer in got.items()} == {"a": 200, "b": 400, "c": 200}
    assert got["b"]["response"]["body"]["error"] == {
        "message": "top_p is 7.0. top_p must be above 0 and at most 1.",
        "type": "invalid_request_error",
        "param": "top_p",
        "code": None,
    }


def test_every_choice_is_asked_for() -> None:
    engine = FakeEngine(["one", "two"])
    answer = answers(batch_of(line_text("a", n=2, seed=5)), engine)["a"]
    assert [choice["message"]["content"] for choice in answer["response"]["body"]["choices"]] == ["one", "two"]
    assert [request.sampling.seed for request in engine.requests] == [5, 6]
    assert answer["response"]["body"]["model"] == "demo"


TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "find", "arguments": {"city": "Oslo"}}\n</tool_call>'


def test_functions_are_told_of_and_their_calls_are_read() -> None:
    engine = FakeEngine([CALL])
    got = answers(batch_of(line_text("a", tools=[TOOL])), engine)
    choice = got["a"]["response"]["body"]["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "find", "arguments": '{"city": "Oslo"}'}
    ]
    assert '"name": "find"' in engine.prompt(0)
    constraint = engine.requests[0].constraint
    assert constraint is not None and constraint.kind == "grammar"


def test_functions_that_may_not_be_called_are_left_out() -> None:
    engine = FakeEngine(["Rain."])
    assert content_of(answers(batch_of(line_text("a", tools=[TOOL], tool_choice="none")), engine)["a"]) == "Rain."
    assert engine.requests[0].constraint is None


def test_calls_of_earlier_turns_and_their_results_are_told() -> None:
    engine = FakeEngine()
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Oslo"}'}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    answers(batch_of(line_text("a", messages=messages)), engine)
    assert CALL in engine.prompt(0)
    assert "rain" in engine.prompt(0)


def test_what_is_wrong_with_a_function_is_an_error_of_its_line() -> None:
    got = answers(batch_of(line_text("a", tools=[TOOL, TOOL]), line_text("b")), FakeEngine())
    assert {custom_id: status(answer) for custom_id, answer in got.items()} == {"a": 400, "b": 200}
    assert (
        got["a"]["response"]["body"]["error"]["message"] == "tools[1] has the name 'find', as another has. Rename one."
    )


def test_functions_count_in_the_length_of_the_prompt() -> None:
    engine = FakeEngine()
    plain = plan_batch(batch_of(line_text("a", max_tokens=30)), engine).longest_tokens
    with_tools = plan_batch(batch_of(line_text("a", max_tokens=30, tools=[TOOL])), engine).longest_tokens
    answers(batch_of(line_text("a", max_tokens=30, tools=[TOOL])), engine)
    assert with_tools == len(engine.requests[0].prompt_tokens) + 30 > plain


def test_response_format_reaches_the_engine() -> None:
    engine = FakeEngine()
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answers(batch_of(line_text("a", response_format=wanted)), engine)
    constraint = engine.requests[0].constraint
    assert constraint is not None and constraint.kind == "json_schema"


def test_line_that_the_engine_refuses_gets_its_reason() -> None:
    engine = FakeEngine([EdgeError("The prompt has 9 tokens, the context holds 4.", hint="Shorten it.")])
    answer = answers(batch_of(line_text("a")), engine)["a"]
    assert status(answer) == 400
    assert answer["response"]["body"]["error"]["message"] == "The prompt has 9 tokens, the context holds 4. Shorten it."


class FailingStream(FakeStream):
    def __init__(self, request: Request, error: EdgeError) -> None:
        super().__init__([], request, lambda word: None)
        self._error = error

    def __iter__(self) -> Iterator[Event]:
        raise self._error


class Failing(FakeEngine):
    """Takes every request and gives it up."""

    def __init__(self, error: EdgeError) -> None:
        super().__init__()
        self._error = error

    def submit(self, request: Request) -> FakeStream:
        return FailingStream(request, self._error)


def test_line_that_the_engine_gives_up_is_an_error_of_the_server() -> None:
    engine = Failing(EdgeError("The worker was killed.", hint="Ask again."))
    answer = answers(batch_of(line_text("a")), engine)["a"]
    assert status(answer) == 500
    assert answer["response"]["body"]["error"]["type"] == "server_error"


def test_reply_that_is_not_valid_is_given_as_a_best_attempt_only() -> None:
    violation = Violation("uniqueItems", "#/0", "has two equal items")
    error = InvalidReplyError("None of 4 attempts is valid.", hint="Ask.", text='["a", "a"]', violation=violation)
    answer = answers(batch_of(line_text("a")), Failing(error))["a"]
    assert status(answer) == 422
    assert answer["response"]["body"]["error"]["best_attempt"] == '["a", "a"]'


def test_engine_that_answers_nothing_any_more_ends_the_batch() -> None:
    engine = Failing(EdgeError("The engine failed."))
    written: list[Mapping[str, Any]] = []
    with pytest.raises(EdgeError, match=r"12 lines in a row failed, the last because: The engine failed\.") as caught:
        run_batch(batch_of(*(line_text(str(n)) for n in range(100))), engine, written.append, SETTINGS)
    assert "goes on from there" in caught.value.hint
    assert len(written) == 12


def test_full_queue_is_waited_for() -> None:
    busy = EngineBusyError("256 requests are waiting.")
    got = answers(batch_of(line_text("a")), FakeEngine([busy, busy, "here"]))
    assert content_of(got["a"]) == "here"


def test_no_more_lines_are_in_flight_than_the_engine_needs() -> None:
    in_flight: set[str] = set()
    most = 0
    lock = threading.Lock()

    class Counting(FakeEngine):
        def submit(self, request: Request) -> FakeStream:
            nonlocal most
            with lock:
                in_flight.add(threading.current_thread().name)
                most = max(most, len(in_flight))
            return super().submit(request)

    answers(batch_of(*(line_text(str(n)) for n in range(50))), Counting())
    assert most <= 2 + 4


def test_output_that_cannot_be_written_ends_the_batch_with_its_error() -> None:
    def refuse(document: Mapping[str, Any]) -> None:
        raise EdgeError("out.jsonl cannot be written: No space left on device.")

    with pytest.raises(EdgeError, match="No space left"):
        run_batch(batch_of(*(line_text(str(n)) for n in range(50))), FakeEngine(), refuse, SETTINGS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-batch")]


def test_interruption_cancels_what_is_in_flight_and_writes_none_of_it() -> None:
    engine = FakeEngine(["word " * 1000] * 50)
    is_started = threading.Event()
    written: list[Mapping[str, Any]] = []

    def write_slowly(word: str) -> None:
        is_started.set()
        time.sleep(0.01)

    def interrupt(totals: Totals) -> None:
        raise KeyboardInterrupt

    engine.before_token = write_slowly
    with pytest.raises(KeyboardInterrupt):
        run_batch(batch_of(*(line_text(str(n)) for n in range(50))), engine, written.append, SETTINGS, interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-batch")]
    assert is_started.is_set()
    assert written == []


def test_defect_in_a_worker_is_raised_where_it_can_be_seen() -> None:
    class Broken(FakeEngine):
        def submit(self, request: Request) -> FakeStream:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_batch(batch_of(line_text("a")), Broken(), lambda document: None, SETTINGS)


def test_totals_count_tokens_and_what_was_wrong() -> None:
    lines = batch_of(line_text("a", n=2), line_text("b", top_p=7))
    engine = FakeEngine(["one two", "three"])
    totals = run_batch(lines, engine, lambda document: None, SETTINGS)
    assert (totals.lines, totals.wrong_lines, totals.completion_tokens) == (2, 1, 3)
    assert totals.prompt_tokens == 2 * len(engine.requests[0].prompt_tokens)
    assert totals.last_error == "top_p is 7.0."


# Progress


TOTALS = Totals(
    lines=1200, prompt_tokens=4000, cached_tokens=1000, completion_tokens=90_000, seconds=90.0, last_error=""
)


def test_summary_says_rate_and_cached_share() -> None:
    assert summary(TOTALS) == (
        "1,200 lines in 1 min 30 s: 90,000 tokens, 1000 tokens/s; 25% of 4,000 prompt tokens came from the cache"
    )
    assert summary(Totals(lines=1)).startswith("1 line in 0.0 s: 0 tokens, 0 tokens/s; 0% of 0 ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.54, "1.5 s"), (59.97, "1 min 00 s"), (125, "2 min 05 s"), (3600, "1 h 00 min"), (11_045, "3 h 04 min")],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_without_a_terminal_a_line_now_and_then_says_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    display = NoteDisplay(2400)
    for seconds in (1.0, 90.0, 91.0):
        display.update(replace(TOTALS, seconds=seconds))
    display.close()
    assert capsys.readouterr().err == "1,200 of 2,400 lines, 1000 tokens/s, 1 min 30 s left\n"


def test_on_a_terminal_a_bar_shows_the_lines_that_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    display = BarDisplay(2400)
    display.update(TOTALS)
    display.close()
    shown = capsys.readouterr().err
    assert "1200/2400" in shown and "1000 tokens/s" in shown
