"""What goes wrong while a request is served, as HTTP says it: a status and a body in the form that its client reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.checked import InvalidReplyError
from edge.errors import EdgeError, EngineBusyError, EngineFailedError, EngineGoneError
from edge.openai_fields import BodyError

_RETRY_SECONDS = 1
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class RefusedError(EdgeError):
    """A request that is not answered, with the HTTP status that says so and OpenAI's word for the reason."""

    def __init__(
        self,
        message: str,
        *,
        hint: str,
        status: int,
        code: str | None = None,
        field: str | None = None,
        retry_seconds: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.field = field
        self.retry_seconds = retry_seconds


@dataclass(frozen=True)
class Problem:
    """An error as a response: what every form of body is made of."""

    status: int
    message: str
    code: str | None = None
    field: str | None = None
    """The path of what is wrong in the body."""
    retry_seconds: int | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_seconds is None else {"Retry-After": str(self.retry_seconds)}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


UNEXPECTED = Problem(500, "The server failed. Its log says more, under the request's id.", "internal_error")
"""For defects of ours: what exactly happened is for the log only."""


def problem_of(error: EdgeError) -> Problem:
    """What an error means to a client. Whatever is not known to be ours is about the request."""
    message = f"{error.message} {error.hint}".strip()
    match error:
        case RefusedError():
            return Problem(error.status, message, error.code, error.field, error.retry_seconds)
        case EngineBusyError():
            return Problem(429, message, "queue_full", retry_seconds=_RETRY_SECONDS)
        case EngineGoneError():
            return Problem(503, message, "engine_gone", retry_seconds=_RETRY_SECONDS)
        case EngineFailedError():
            return Problem(503, message, "engine_failed", retry_seconds=_RETRY_SECONDS)
        case InvalidReplyError():
            return Problem(422, message, "invalid_reply", extra={"best_attempt": error.text})
        case BodyError():
            return Problem(400, message, field=error.field or None)
    return Problem(400, message)


def openai_body(problem: Problem) -> dict[str, Any]:
    fallback = "invalid_request_error" if problem.status < 500 else "server_error"
    kind = _OPENAI_TYPES.get(problem.status, fallback)
    return {
        "error": {
            "message": problem.message,
            "type": kind,
            "param": problem.field,
            "code": problem.code,
            **problem.extra,
        }
    }


def anthropic_body(problem: Problem) -> dict[str, Any]:
    kinds = {**_OPENAI_TYPES, 413: "request_too_large", 503: "overloaded_error"}
    kind = kinds.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": problem.message, **problem.extra}}


def ollama_body(problem: Problem) -> dict[str, Any]:
    return {"error": problem.message}


BodyOf = Callable[[Problem], dict[str, Any]]
FLAVOURS: Mapping[str, BodyOf] = {"/v1/messages": anthropic_body, "/api/": ollama_body}
"""Forms of error bodies by the beginning of the paths that answer with them; all others have OpenAI's."""


def body_of(problem: Problem, path: str) -> dict[str, Any]:
    """The body that the clients of a path read."""
    flavour = next((make for prefix, make in FLAVOURS.items() if path.startswith(prefix)), openai_body)
    return flavour(problem)
