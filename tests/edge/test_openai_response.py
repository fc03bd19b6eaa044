"""Completions become the bodies that OpenAI's clients read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge.errors import EdgeError
from edge.openai_fields import BodyError
from edge.openai_response import Answer, collect, completion_body, error_body, finish_reason, usage_body
from edge.request import (
    Completion,
    FailureEvent,
    FinishEvent,
    FinishReason,
    Logprobs,
    Timing,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from edge.stream import Stream

TIMING = Timing(0, 0, 0)
USAGE = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=2, drafted_tokens=5, accepted_tokens=3)
COMPLETION = Completion("hé", (1, 2), "stop", USAGE, TIMING)


def body_of(*answers: Answer) -> dict[str, object]:
    return completion_body(answers, identifier="chatcmpl-1", created=7, model="demo", system_fingerprint="fp_1")


def test_body_has_the_shape_of_a_chat_completion() -> None:
    assert body_of(Answer(COMPLETION)) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "demo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hé", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 2},
        },
        "system_fingerprint": "fp_1",
    }


def test_choices_are_numbered_and_the_prompt_is_counted_once() -> None:
    body = body_of(Answer(COMPLETION), Answer(replace(COMPLETION, text="b", usage=Usage(10, 9, 5))))
    choices = body["choices"]
    assert isinstance(choices, list)
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, "hé"), (1, "b")]
    usage = usage_body([USAGE, Usage(10, 9, 5)])
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 7, 17)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}


@pytest.mark.parametrize(
    ("reason", "is_valid", "expected"),
    [
        ("stop", True, "stop"),
        ("length", True, "length"),
        ("deadline", True, "length"),
        ("cancelled", True, "length"),
        ("stop", False, "length"),
    ],
)
def test_only_a_whole_answer_has_stopped(reason: FinishReason, is_valid: bool, expected: str) -> None:
    assert finish_reason(replace(COMPLETION, finish_reason=reason, is_valid=is_valid)) == expected


def test_logprobs_give_each_token_with_its_bytes() -> None:
    top = (TokenLogprob(1, b"h", -0.5), TokenLogprob(9, b"\xc3", float("-inf")))
    completion = replace(COMPLETION, logprobs=(Logprobs(-0.5, top), Logprobs(0.0)))
    body = body_of(Answer(completion, (b"h", b"\xc3\xa9")))
    choices = body["choices"]
    assert isinstance(choices, list)
    assert choices[0]["logprobs"] == {
        "content": [
            {
                "token": "h",
                "logprob": -0.5,
                "bytes": [104],
                "top_logprobs": [
                    {"token": "h", "logprob": -0.5, "bytes": [104]},
                    {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xC3]},
                ],
            },
            {"token": "é", "logprob": 0.0, "bytes": [0xC3, 0xA9], "top_logprobs": []},
        ],
        "refusal": None,
    }
    json.dumps(body, allow_nan=False)


def test_stream_is_collected_with_the_bytes_of_its_tokens() -> None:
    stream = Stream()
    stream.deliver(TokenEvent(1, b"h", "h", Logprobs(-1.0)))
    stream.deliver(TokenEvent(2, b"\xc3", "", Logprobs(-2.0)))
    stream.deliver(FinishEvent("\ufffd", "length", USAGE, TIMING, is_valid=False))
    answer = collect(stream)
    assert answer.pieces == (b"h", b"\xc3")
    assert (answer.completion.text, answer.completion.tokens) == ("h\ufffd", (1, 2))
    assert answer.completion.logprobs == (Logprobs(-1.0), Logprobs(-2.0))
    assert not answer.completion.is_valid


def test_failure_of_a_stream_is_raised() -> None:
    stream = Stream()
    stream.deliver(FailureEvent("The engine failed.", "Open it again."))
    with pytest.raises(EdgeError, match=r"The engine failed\."):
        collect(stream)


def test_errors_have_the_shape_of_openai() -> None:
    wrong = BodyError("top_p is 7.", hint="It must be less.", field="top_p")
    assert error_body(wrong, is_request_wrong=True) == {
        "error": {
            "message": "top_p is 7. It must be less.",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": None,
        }
    }
    failed = error_body(EdgeError("It died."), is_request_wrong=False)["error"]
    assert (failed["message"], failed["type"], failed["param"]) == ("It died.", "server_error", None)
