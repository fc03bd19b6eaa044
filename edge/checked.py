"""Replies to JSON Schemas that say more than can be enforced token by token.

What can be enforced is; the whole reply is then checked, and sampled again from its prompt, whose KV cache is there,
until it is valid or its attempts are used up. No text is shown before it was checked. Works on any `submit`.

Each retry makes other draws: a seed is counted up, and the temperature is at least 0.4 in the second attempt, 0.8 in
the third and 1 from then on, so that greedy requests differ as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from edge.errors import EdgeError
from edge.request import Completion, Event, FinishEvent, Request
from edge.schema_check import parse_schema
from edge.schema_validation import SchemaCheck, Violation
from edge.stream import Stream, completion_of, texts_of

if TYPE_CHECKING:
    from edge.constraint import Constraint

_TEMPERATURE_STEP = 0.4
_MAX_RAISED_TEMPERATURE = 1.0
_SEEDS = 2**32


class InvalidReplyError(EdgeError):
    """No attempt was valid. `text` is the best one, `violation` what it does not satisfy."""

    def __init__(self, message: str, *, hint: str, text: str, violation: Violation) -> None:
        super().__init__(message, hint=hint)
        self.text = text
        self.violation = violation


def submit_checked(request: Request, submit: Callable[[Request], Stream]) -> Stream | CheckedStream:
    """Submit a request, with a check of the reply where its constraint needs one.

    EdgeError if the constraint is a JSON Schema of which nothing can be enforced, or that cannot be checked.
    """
    constraint = request.constraint
    if constraint is None or constraint.kind != "json_schema":
        return submit(request)
    checked = checked_constraint(constraint)
    if checked is None:
        return submit(request)
    return CheckedStream(replace(request, constraint=checked.enforced), checked.check, submit)


@dataclass(frozen=True)
class CheckedConstraint:
    """What is enforced token by token, and the check of the whole."""

    enforced: Constraint
    check: SchemaCheck


@lru_cache(maxsize=64)
def checked_constraint(constraint: Constraint) -> CheckedConstraint | None:
    """How a JSON Schema is held; None if all of it can be enforced. EdgeError if it can be neither."""
    from edge.constraint import Constraint, relax

    relaxation = relax(constraint)
    if not relaxation.unenforced:
        return None
    enforced = Constraint.json_schema(relaxation.schema, attempts=constraint.attempts)
    return CheckedConstraint(enforced, SchemaCheck(parse_schema(constraint.text), relaxation))


class ReplyChecker(Protocol):
    """Says what is wrong with a whole reply; a SchemaCheck is one."""

    def violations(self, text: str) -> Sequence[Violation]: ...


@dataclass(frozen=True)
class _Attempt:
    text: str
    violations: Sequence[Violation]
    is_cut_off: bool

    @property
    def badness(self) -> tuple[bool, int]:
        return not self.violations[0].keyword, len(self.violations)


class CheckedStream:
    """The events of the first valid attempt, all at once; used like a `Stream`.

    Iterating raises InvalidReplyError when no attempt was valid. Usage and timing are those of the attempt shown. A
    request that was cancelled ends without any text.
    """

    def __init__(self, request: Request, check: ReplyChecker, submit: Callable[[Request], Stream]) -> None:
        assert request.constraint is not None
        self._request = request
        self._check = check
        self._submit = submit
        self._attempts = request.constraint.attempts
        self._rejected: list[_Attempt] = []
        self._is_cancelled = False
        self._is_finished = False
        self._stream = submit(request)

    def __iter__(self) -> Iterator[Event]:
        try:
            while not self._is_finished:
                yield from self._judge(list(self._stream))
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while not self._is_finished:
                for event in self._judge([event async for event in self._stream]):
                    yield event
        finally:
            self.cancel()

    def text(self) -> Iterator[str]:
        """The text of the valid attempt, without empty pieces."""
        return texts_of(self)

    def result(self) -> Completion:
        """Wait for a valid attempt. EdgeError if there was none."""
        return completion_of(self)

    def cancel(self) -> None:
        """Let the engine drop the request at its next step. No effect once it is finished."""
        self._is_cancelled = True
        self._stream.cancel()

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def _judge(self, events: list[Event]) -> list[Event]:
        """An attempt's events if they may be shown; else none, and the next attempt is on its way."""
        finish = events[-1]
        assert isinstance(finish, FinishEvent)
        if finish.reason == "cancelled":
            self._is_finished = True
            return [replace(finish, text="")]
        text = "".join(event.text for event in events)
        violations = self._check.violations(text)
        if not violations:
            self._is_finished = True
            return events
        is_cut_off = finish.reason == "length" and not violations[0].keyword  # else it was closed in time
        self._rejected.append(_Attempt(text, violations, is_cut_off))
        if len(self._rejected) == self._attempts:
            self._is_finished = True
            raise self._failure()
        self._stream = self._submit(_redrawn(self._request, len(self._rejected)))
        if self._is_cancelled:  # while nothing was in flight
            self._stream.cancel()
        return []

    def _failure(self) -> InvalidReplyError:
        best = min(self._rejected, key=lambda attempt: attempt.badness)
        violation = best.violations[0]
        reason = f"{violation.message} ({violation.pointer})"
        if best.is_cut_off:
            reason = "it was cut off at the token limit"
        return InvalidReplyError(
            f"None of {self._attempts} attempts satisfies the JSON Schema; of the best, {reason}.",
            hint="Allow more tokens, or bound what may be long."
            if best.is_cut_off
            else "Ask for it in the prompt, or allow more attempts.",
            text=best.text,
            violation=violation,
        )


def _redrawn(request: Request, retry: int) -> Request:
    """The request with other random draws than before."""
    sampling = request.sampling
    temperature = max(sampling.temperature, min(_TEMPERATURE_STEP * retry, _MAX_RAISED_TEMPERATURE))
    seed = None if sampling.seed is None else (sampling.seed + retry) % _SEEDS
    return replace(request, sampling=replace(sampling, temperature=temperature, seed=seed))
