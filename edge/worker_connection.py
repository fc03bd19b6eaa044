"""The host's end of one engine's process, from its start to its end.

Whoever waits for something from the process gets it, or an error once the process has ended. It is watched: one that
sends no sign of life, or does not finish a step, is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import signal
import subprocess
import threading
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from edge.errors import EdgeError, EngineGoneError
from edge.request import FailureEvent, FinishEvent, Request
from edge.settings import ModelSettings
from edge.stream import Stream
from edge.wire import (
    OPENING,
    Call,
    Cancel,
    Close,
    Delivered,
    FromEngine,
    FromHost,
    Heartbeat,
    Method,
    Open,
    Opened,
    Raised,
    Returned,
    Submit,
    Warned,
    pack,
    read_frame,
    write_frame,
)

_LONGEST_HEARTBEAT_SECONDS = 1.0
_HEARTBEATS = 4  # at least, in the time after which a process counts as hanging
_EXIT_SECONDS = 2.0
_KEPT_LINES = 20
_SHOWN_LINES = 3
_LINE_BYTES = 400
_FIRST_WINDOWS_FAULT = 0xC0000000  # NTSTATUS codes are better known in hexadecimal


@dataclass(frozen=True)
class WorkerSettings:
    """When a process that still exists counts as dead, and how long it may take to end."""

    start_seconds: float = 120.0
    """Without the first sign of life. It comes before the model is loaded."""
    hang_seconds: float = 30.0
    """Without any further one."""
    step_seconds: float = 300.0
    """In one step of the engine's loop: the decoding of one batch."""
    close_seconds: float = 5.0
    """From the wish to close to being killed."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise EdgeError(f"{name} is {value}.", hint=f"{name} must be above 0.")

    @property
    def heartbeat_seconds(self) -> float:
        return min(_LONGEST_HEARTBEAT_SECONDS, self.hang_seconds / _HEARTBEATS)


class EngineDiedError(EngineGoneError):
    """The process of an engine ended while something was expected of it."""


class WorkerConnection:
    """A process that opens a model, and the threads that write to it, read from it, keep its log and watch it."""

    def __init__(
        self, process: subprocess.Popen[bytes], path: Path, settings: ModelSettings, worker: WorkerSettings
    ) -> None:
        assert process.stdin and process.stdout and process.stderr
        self.process_id = process.pid
        self._process = process
        self._worker = worker
        self._lock = threading.Lock()
        self._numbers = itertools.count(OPENING + 1)
        self._answers: dict[int, queue.SimpleQueue[Returned | Raised]] = {OPENING: queue.SimpleQueue()}
        self._opening = self._answers[OPENING]
        self._streams: dict[int, Stream] = {}
        self._death: EngineGoneError | None = None
        self._ended = threading.Event()
        self._is_closing = False
        self._killed_because = ""
        self._silence_limit_seconds = worker.start_seconds
        self._silent_beats = 0
        self._step_seconds = 0.0
        self._warnings: deque[str] = deque()
        self._log: deque[str] = deque(maxlen=_KEPT_LINES)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._outbox.put(pack([Open(path, settings, worker.heartbeat_seconds, worker.hang_seconds)]))
        _start_thread("edge-worker-write", partial(self._write, process.stdin))
        log_thread = _start_thread("edge-worker-log", partial(self._keep_log, process.stderr))
        self._reader = _start_thread("edge-worker-read", partial(self._read, process.stdout, log_thread))
        _start_thread("edge-worker-watch", self._watch)

    @property
    def has_ended(self) -> bool:
        return self._death is not None

    def opened(self) -> Opened:
        """Wait until the model is open. EdgeError if it cannot be, EngineDiedError if the process died over it."""
        try:
            opened: Opened = self._value_of(self._opening.get())
        except BaseException:  # a KeyboardInterrupt too: nobody else could end the process
            self.close()
            raise
        return opened

    def call(self, method: Method, arguments: tuple[object, ...]) -> Any:
        """What the engine's method returns; raises the EdgeError that it raises."""
        return self._ask(Call(next(self._numbers), method, arguments))

    def submit(self, request: Request) -> Stream:
        """Queue a request. EdgeError if it can never be answered."""
        number = next(self._numbers)
        stream = Stream(on_cancel=lambda: self._outbox.put(pack([Cancel(number)])))
        self._streams[number] = stream
        try:
            self._ask(Submit(number, request))
        except BaseException:  # a KeyboardInterrupt too
            if self._streams.pop(number, None):
                stream.cancel()
            raise
        return stream

    def close(self) -> None:
        """End the process, gently at first. Safe to call twice."""
        self._is_closing = True
        self._outbox.put(pack([Close()]))
        self._reader.join(self._worker.close_seconds)
        if self._reader.is_alive():
            self._process.kill()
            self._reader.join(_EXIT_SECONDS)

    def _ask(self, question: Call | Submit) -> Any:
        answer: queue.SimpleQueue[Returned | Raised] = queue.SimpleQueue()
        frame = _packed(question)
        with self._lock:
            if self._death:
                raise _copy(self._death)
            self._answers[question.number] = answer
        self._outbox.put(frame)
        return self._value_of(answer.get())

    def _value_of(self, answer: Returned | Raised) -> Any:
        """What an answer comes to. Warnings are given where the answer is waited for, as they would be in process."""
        with contextlib.suppress(IndexError):
            while True:
                warnings.warn(self._warnings.popleft(), stacklevel=2)
        if isinstance(answer, Raised):
            raise answer.error()
        return answer.value

    # Threads

    def _write(self, pipe: IO[bytes]) -> None:
        """Send what is put into the outbox, so that nobody has to wait while the process does not read."""
        with contextlib.suppress(OSError), pipe:  # if the process is gone, the reader sees it
            while (frame := self._outbox.get()) is not None:
                write_frame(pipe, frame)

    def _read(self, pipe: IO[bytes], log_thread: threading.Thread) -> None:
        """Pass on what comes from the process, to its end."""
        try:
            with pipe:
                while True:
                    for message in read_frame(pipe):
                        self._receive(message)
        except EOFError:
            pass
        except Exception as error:
            self._kill(f"sent what cannot be read ({type(error).__name__}: {error}) and was ended")
        self._end(log_thread)

    def _keep_log(self, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(_LINE_BYTES):
                text = line.decode("utf-8", "replace").strip()
                if text:
                    self._log.append(text)

    def _watch(self) -> None:
        """Kill the process when it hangs. Beats are counted, not seconds: a host that was stopped itself saw none."""
        seconds = self._worker.heartbeat_seconds
        while not self._ended.wait(seconds):
            self._silent_beats += 1
            if self._silent_beats * seconds > self._silence_limit_seconds:
                self._kill(f"stopped answering for {self._silence_limit_seconds:g} seconds and was ended")
            elif self._step_seconds > self._worker.step_seconds:
                self._kill(f"did not finish a step within {self._worker.step_seconds:g} seconds and was ended")

    # In these threads

    def _receive(self, message: FromEngine) -> None:
        self._silent_beats = 0
        self._silence_limit_seconds = self._worker.hang_seconds
        match message:
            case Delivered(number, deliveries):
                stream = self._streams.get(number)
                if stream is None:
                    return
                if isinstance(deliveries[-1], FinishEvent | FailureEvent):
                    self._streams.pop(number, None)
                for delivery in deliveries:
                    stream.deliver(delivery)
            case Warned(text):
                self._warnings.append(text)
            case Heartbeat(step_seconds):
                self._step_seconds = step_seconds
            case Returned(number) | Raised(number):
                if number == OPENING:
                    self._log.clear()  # what was said about a model that opened in the end explains nothing later on
                self._answers.pop(number).put(message)

    def _kill(self, reason: str) -> None:
        self._killed_because = reason
        self._process.kill()

    def _end(self, log_thread: threading.Thread) -> None:
        """Tell everyone who waits why there will be nothing more."""
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        log_thread.join(_EXIT_SECONDS)
        death = self._explanation()
        with self._lock:
            self._death = death
            answers, self._answers = self._answers, {}
        self._ended.set()
        self._outbox.put(None)
        for number, answer in answers.items():
            answer.put(Raised.by(number, death))
        for number in list(self._streams):
            stream = self._streams.pop(number, None)
            if stream:
                stream.deliver(FailureEvent.of(death))

    def _explanation(self) -> EngineGoneError:
        if self._is_closing and not self._killed_because:
            return EngineGoneError("The engine is closed.", hint="Open the model again.")
        how = self._killed_because or exit_text(self._process.returncode)
        log = " / ".join(list(self._log)[-_SHOWN_LINES:])
        return EngineDiedError(
            f"The engine's process {how}{f': {log}' if log else ''}.",
            hint="Send the request again: a fresh process answers it.",
        )


def _start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def _packed(question: FromHost) -> bytes:
    try:
        return pack([question])
    except Exception as error:  # pickle raises many kinds
        raise EdgeError(
            f"What was asked of the engine cannot go to its process: {error}", hint="Give plain values."
        ) from error


def _copy(error: EdgeError) -> EdgeError:
    """Each thread that raises it gets a traceback of its own."""
    return Raised.by(OPENING, error).error()


def exit_text(code: int) -> str:
    """How a process ended, by its return code: a verb and the rest of a sentence about it."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was ended by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"ended with exit code {code:#x}" if code >= _FIRST_WINDOWS_FAULT else f"ended with exit code {code}"
