"""Answers the lines of a batch: several at once, each written as soon as it is there.

A thread for each line in flight waits for its tokens; the caller's thread writes. Knows nothing of files.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol
from uuid import uuid4

from edge.batch_input import Line, chat_body
from edge.checked import CheckedStream, InvalidReplyError
from edge.constraint import Constraint
from edge.errors import EdgeError, EngineBusyError
from edge.openai_fields import BodyError
from edge.openai_response import Answer, collect, completion_body, error_body, with_tool_calls
from edge.request import Request
from edge.stream import Stream
from edge.text_engine import TextEngine
from edge.tool_grammar import submit_with_tools
from edge.tool_requests import chat_requests, tools_of
from edge.tools import ToolSet

_REPORT_SECONDS = 0.5
_BUSY_SECONDS = 0.05
_WAITING_LINES = 4  # beyond those being answered, so that the engine always finds the next one

Outcome = Literal["done", "wrong", "failed"]
"""Answered; refused for what the line says; or given up by the engine."""
_WRONG: Outcome = "wrong"
_FAILED: Outcome = "failed"


@dataclass(frozen=True)
class BatchSettings:
    """What the answers say of where they come from, and how many requests the engine takes at once."""

    model: str
    """The name in answers to lines that give none."""
    system_fingerprint: str
    parallel: int = 8


@dataclass(frozen=True)
class Totals:
    """What has been done so far."""

    lines: int = 0
    wrong_lines: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    last_error: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def cached_share(self) -> float:
        """Of all prompt tokens, those that were found in the KV cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class Write(Protocol):
    def __call__(self, document: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class _Result:
    document: Mapping[str, Any]
    outcome: Outcome
    answers: tuple[Answer, ...] = ()
    error: EdgeError | None = None


def run_batch(
    lines: Iterable[Line],
    engine: TextEngine,
    write: Write,
    settings: BatchSettings,
    report: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Answer lines in about the given order. EdgeError if the engine answers none any more, or `write` fails.

    Whatever ends it, every answer that was there has been given to `write` whole, and each only once.
    """
    workers = _Workers(lines, engine, settings)
    in_flight = settings.parallel + _WAITING_LINES
    started = time.perf_counter()
    totals = Totals()
    failures = 0
    try:
        workers.start(in_flight)
        while not workers.are_done:
            result = workers.next_result()
            if result:
                write(result.document)
                totals = _added(totals, result)
                failures = _failures_in_a_row(failures, result)
                if result.error and failures >= 2 * in_flight:
                    raise _is_hopeless(failures, result.error)
            totals = replace(totals, seconds=time.perf_counter() - started)
            report(totals)
    finally:
        workers.stop()
    return totals


class _Workers:
    """Threads that take one line after the other."""

    def __init__(self, lines: Iterable[Line], engine: TextEngine, settings: BatchSettings) -> None:
        self._lines = deque(lines)
        self._engine = engine
        self._settings = settings
        self._results: queue.SimpleQueue[_Result | BaseException | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running = 0
        self._lock = threading.Lock()
        self._streams: set[Stream | CheckedStream] = set()
        self._is_stopping = False

    def start(self, count: int) -> None:
        for number in range(min(count, len(self._lines))):
            thread = threading.Thread(target=self._work, name=f"edge-batch-{number}", daemon=True)
            self._threads.append(thread)
            self._running += 1
            thread.start()

    @property
    def are_done(self) -> bool:
        return not self._running

    def next_result(self) -> _Result | None:
        """The next line that is done; None if there is none for a moment."""
        try:
            result = self._results.get(timeout=_REPORT_SECONDS)
        except queue.Empty:
            return None
        if result is None:
            self._running -= 1
        elif isinstance(result, BaseException):
            raise result
        return result

    def stop(self) -> None:
        """Cancel what is in flight and wait for its end."""
        with self._lock:
            self._is_stopping = True
            for stream in self._streams:
                stream.cancel()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            while not self._is_stopping:
                try:
                    line = self._lines.popleft()
                except IndexError:
                    return
                result = self._result(line)
                if result:
                    self._results.put(result)
        except BaseException as error:  # a defect of ours; the caller's thread raises it
            self._results.put(error)
        finally:
            self._results.put(None)

    def _result(self, line: Line) -> _Result | None:
        """A line's answer or error; None if it was cancelled."""
        streams: list[Stream | CheckedStream] = []
        refusal_status, outcome = 400, _WRONG  # until the engine has taken the requests
        try:
            body = chat_body(line)
            tools = tools_of(body)
            for request in chat_requests(body, tools, self._engine):
                streams.append(self._submit(request, tools, body.constraint))
            refusal_status, outcome = 500, _FAILED
            answers = tuple(collect(stream) for stream in streams)
            if any(answer.completion.finish_reason == "cancelled" for answer in answers):
                raise EdgeError("The engine was closed.", hint="Run the batch again.")
        except InvalidReplyError as error:
            return _refused(line, error, 422, _WRONG)
        except EdgeError as error:
            return None if self._is_stopping else _refused(line, error, refusal_status, outcome)
        finally:
            self._release(streams)
        completion = completion_body(
            answers,
            identifier=f"chatcmpl-{uuid4().hex}",
            created=int(time.time()),
            model=body.model or self._settings.model,
            system_fingerprint=self._settings.system_fingerprint,
        )
        return _Result(_document(line, 200, with_tool_calls(completion) if tools else completion), "done", answers)

    def _submit(self, request: Request, tools: ToolSet | None, answer: Constraint | None) -> Stream | CheckedStream:
        """Submit a request, and wait where the engine's queue is full. `answer` constrains one without calls."""
        while True:
            try:
                if tools is None:
                    stream = self._engine.submit(request)
                else:
                    stream = submit_with_tools(request, self._engine, tools, answer)
            except EngineBusyError:
                if self._is_stopping:
                    raise
                time.sleep(_BUSY_SECONDS)
                continue
            with self._lock:
                self._streams.add(stream)
                if self._is_stopping:
                    stream.cancel()
            return stream

    def _release(self, streams: Iterable[Stream | CheckedStream]) -> None:
        """Let go of streams, whether or not they have ended."""
        with self._lock:
            for stream in streams:
                stream.cancel()
                self._streams.discard(stream)


def _refused(line: Line, error: EdgeError, status: int, outcome: Outcome) -> _Result:
    body = error_body(error, is_request_wrong=outcome == "wrong")
    if isinstance(error, InvalidReplyError):
        body["error"]["best_attempt"] = error.text
    return _Result(_document(line, status, body), outcome, error=error)


def _document(line: Line, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """An answer in OpenAI's batch format; the output file knows it again by its first characters."""
    return {
        "id": f"batch_req_{uuid4().hex}",
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": line.request_id, "body": body},
        "error": None,
    }


def _added(totals: Totals, result: _Result) -> Totals:
    usages = [answer.completion.usage for answer in result.answers]
    return replace(
        totals,
        lines=totals.lines + 1,
        wrong_lines=totals.wrong_lines + (result.outcome != "done"),
        prompt_tokens=totals.prompt_tokens + sum(usage.prompt_tokens for usage in usages),
        cached_tokens=totals.cached_tokens + sum(usage.cached_tokens for usage in usages),
        completion_tokens=totals.completion_tokens + sum(usage.completion_tokens for usage in usages),
        last_error=result.error.message if result.error else totals.last_error,
    )


def _failures_in_a_row(before: int, result: _Result) -> int:
    """A wrong line counts only behind a failure: an engine that has died refuses all that comes after."""
    if result.outcome == "failed":
        return before + 1
    is_refused_by_engine = result.outcome == "wrong" and not isinstance(result.error, BodyError)
    return before + 1 if before and is_refused_by_engine else 0


def _is_hopeless(failures: int, error: EdgeError) -> EdgeError:
    return EdgeError(
        f"{failures} lines in a row failed, the last because: {error.message}",
        hint="What was answered is kept; the same command goes on from there.",
    )
