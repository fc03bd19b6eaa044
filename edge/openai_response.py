"""Completions to the bodies of OpenAI's `/v1/chat/completions`: plain values, ready to be written as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge.errors import EdgeError
from edge.openai_fields import BodyError
from edge.request import Completion, Event, Logprobs, TokenEvent, Usage
from edge.stream import completion_of
from edge.tool_calls import ToolCall, read_reply

_LEAST_LOGPROB = -9999.0  # OpenAI's value for what is next to impossible; JSON has no infinity

OpenAIReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Answer:
    """A completion with the bytes of each of its tokens."""

    completion: Completion
    pieces: tuple[bytes, ...] = ()


def collect(events: Iterable[Event]) -> Answer:
    """Wait for the end of a stream. EdgeError if the engine had to give the request up."""
    pieces: list[bytes] = []

    def remembered() -> Iterable[Event]:
        for event in events:
            if isinstance(event, TokenEvent):
                pieces.append(event.piece)
            yield event

    return Answer(completion_of(remembered()), tuple(pieces))


def completion_body(
    answers: Sequence[Answer], *, identifier: str, created: int, model: str, system_fingerprint: str
) -> dict[str, Any]:
    """A `chat.completion` object with a choice for each answer. `created` is in seconds since 1970."""
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [_choice(index, answer) for index, answer in enumerate(answers)],
        "usage": usage_body([answer.completion.usage for answer in answers]),
        "system_fingerprint": system_fingerprint,
    }


def with_tool_calls(completion: dict[str, Any]) -> dict[str, Any]:
    """A `chat.completion` with the calls in its texts taken out of them."""
    return {**completion, "choices": [_choice_with_calls(choice) for choice in completion["choices"]]}


def finish_reason(completion: Completion) -> OpenAIReason:
    """`stop` only for a text that is whole. What was cut off for any reason is of `length`: there is no better word."""
    return "stop" if completion.finish_reason == "stop" and completion.is_valid else "length"


def usage_body(usages: Sequence[Usage]) -> dict[str, Any]:
    """Tokens of all choices together. The prompt counts once, and as cached what the first choice found of it.

    Guesses that turned out wrong are told, but are no completion tokens.
    """
    prompt, completion = usages[0].prompt_tokens, sum(usage.completion_tokens for usage in usages)
    accepted = sum(usage.accepted_tokens for usage in usages)
    drafted = sum(usage.drafted_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def token_logprob(piece: bytes, logprobs: Logprobs) -> dict[str, Any]:
    """One token of `logprobs.content`. `token` is its text, with replacement characters where it is none by itself."""
    top = [_token(other.piece, other.logprob) for other in logprobs.top]
    return {**_token(piece, logprobs.logprob), "top_logprobs": top}


def error_body(error: EdgeError, *, is_request_wrong: bool) -> dict[str, Any]:
    """OpenAI's form of an error; `param` is the field that was wrong, where there is one."""
    return {
        "error": {
            "message": f"{error.message} {error.hint}".strip(),
            "type": "invalid_request_error" if is_request_wrong else "server_error",
            "param": (error.field or None) if isinstance(error, BodyError) else None,
            "code": None,
        }
    }


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    completion = answer.completion
    logprobs = None
    if completion.logprobs:
        content = [token_logprob(*pair) for pair in zip(answer.pieces, completion.logprobs, strict=True)]
        logprobs = {"content": content, "refusal": None}
    return {
        "index": index,
        "message": {"role": "assistant", "content": completion.text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": finish_reason(completion),
    }


def _choice_with_calls(choice: dict[str, Any]) -> dict[str, Any]:
    message, reason = choice["message"], choice["finish_reason"]
    reply = read_reply(message["content"])
    if not reply.calls:
        return {**choice, "message": {**message, "content": reply.text}}
    calls = [_call(call) for call in reply.calls]
    return {
        **choice,
        "message": {**message, "content": reply.text or None, "tool_calls": calls},
        "finish_reason": "tool_calls" if reason == "stop" else reason,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    """A call in OpenAI's form."""
    return {
        "id": call.identifier,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    decoded = piece.decode("utf-8", "replace")
    return {"token": decoded, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(piece)}
