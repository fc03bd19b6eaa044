"""An engine's own process: opens the model that its host asks for and serves it until the host closes it or is gone.

The host is at the other end of standard input and output, which nothing else gets to use here: what is printed goes to
standard error, and so do llama.cpp's warnings and errors. None of what happens here can end the host.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, TextIO

from edge.errors import EdgeError, EngineFailedError
from edge.request import Delivery, FailureEvent, FinishEvent
from edge.stream import Stream
from edge.wire import (
    OPENING,
    Call,
    Cancel,
    Close,
    Delivered,
    FromEngine,
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
from edge.worker_launch import ARGUMENT, MARK

if TYPE_CHECKING:
    from edge.local_engine import LocalEngine

_CALL_THREADS = 4  # a long conversation that is made into tokens keeps no other request from being taken
_FLUSH_SECONDS = 2.0
_OUT_OF_MEMORY_SCORE = 500  # of 1000: where memory runs out, this process ends sooner than the host
_STDERR = 2


def run_if_worker() -> None:
    """For the first line of apps that are frozen into one executable: serve, if it was started as an engine's process.

    Does not return then. Elsewhere it does nothing.
    """
    if sys.argv[1:2] == [ARGUMENT]:
        main()


def main() -> NoReturn:
    """Serve the host at the other end of standard input and output."""
    os.environ.pop(MARK, None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the host ends an answer by it
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OUT_OF_MEMORY_SCORE), encoding="ascii")
    exit_code = 1
    try:
        incoming, outgoing = _take_pipes()
        with contextlib.suppress(Exception):  # what is wrong is said when the model is opened
            import_module("edge.local_engine")  # meanwhile the host gets ready to say what to open
        _Server(incoming, outgoing).run()
        exit_code = 0
    except EOFError:
        exit_code = 0  # the host changed its mind
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_code)  # whatever native code is still doing


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes from and to the host; standard input is empty from then on, and standard output is standard error."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(_STDERR, 1)
    return os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb")


class _Reply:
    """A request under the host's number. It may be cancelled before the engine has it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.stream: Stream | None = None
        self.is_due = False
        """Whether it is in the outbox, to be taken with all that it has by then."""
        self._is_cancelled = False

    def follow(self, stream: Stream) -> None:
        self.stream = stream
        if self._is_cancelled:
            stream.cancel()

    def cancel(self) -> None:
        self._is_cancelled = True
        if self.stream:
            self.stream.cancel()

    def take(self) -> list[Delivery]:
        """What there is to send."""
        assert self.stream
        self.is_due = False  # before the look: what is delivered after it is put into the outbox once more
        return self.stream.take()


class _Server:
    """The engine and the threads around it.

    One reads, so that the end of the host is noticed whatever else goes on; one writes, so that the engine's thread
    never waits for the host; one says that the process lives; some make calls.
    """

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._outbox: queue.SimpleQueue[FromEngine | _Reply | None] = queue.SimpleQueue()
        self._calls: queue.SimpleQueue[Call | Submit] = queue.SimpleQueue()
        self._replies: dict[int, _Reply] = {}
        self._engine: LocalEngine | None = None
        self._is_closing = threading.Event()
        self._step = (0, time.monotonic())

    def run(self) -> None:
        """Open the engine and serve it until the host closes it."""
        (asked,) = read_frame(self._incoming)
        assert isinstance(asked, Open)
        writer = _start_thread(self._write)
        threading.Thread(target=self._beat, args=(asked,), daemon=True).start()
        _start_thread(self._read)
        warnings.showwarning = self._show_warning
        try:
            self._open(asked)
        except Exception as error:
            self._outbox.put(_raised(OPENING, error))
        else:
            self._is_closing.wait()
            assert self._engine
            self._engine.close()
        self._outbox.put(None)
        writer.join(_FLUSH_SECONDS)

    def _open(self, asked: Open) -> None:
        from edge.llama import log
        from edge.local_engine import LocalEngine

        log.echo_problems(_STDERR)
        engine = self._engine = LocalEngine(asked.path, asked.settings)
        self._outbox.put(Returned(OPENING, Opened(engine.context_tokens, engine.default_sampling)))
        for _ in range(_CALL_THREADS):
            _start_thread(self._answer_calls)

    def _read(self) -> None:
        try:
            while True:
                for message in read_frame(self._incoming):
                    self._receive(message)
        except EOFError:
            os._exit(0)  # the host is gone

    def _receive(self, message: Call | Submit | Cancel | Close) -> None:
        match message:
            case Submit(number):
                self._replies[number] = _Reply(number)
                self._calls.put(message)
            case Call():
                self._calls.put(message)
            case Cancel(number):
                reply = self._replies.get(number)
                if reply:
                    reply.cancel()
            case Close():
                if self._engine is None:
                    os._exit(0)  # it is still being opened, which nothing can interrupt
                self._is_closing.set()

    def _answer_calls(self) -> None:
        while True:
            call = self._calls.get()
            try:
                self._outbox.put(Returned(call.number, self._answer(call)))
            except Exception as error:
                self._replies.pop(call.number, None)
                self._outbox.put(_raised(call.number, error))

    def _answer(self, call: Call | Submit) -> object:
        engine = self._engine
        assert engine
        if isinstance(call, Submit):
            self._submit(engine, call)
            return None
        methods: dict[Method, Callable[..., object]] = {
            "chat_tokens": engine.chat_tokens,
            "text_tokens": engine.text_tokens,
            "tokens_text": engine.tokens_text,
            "embed": engine.embed,
            "status": engine.status,
            "save_prefix": engine.save_prefix,
            "load_prefix": engine.load_prefix,
        }
        return methods[call.method](*call.arguments)

    def _submit(self, engine: LocalEngine, call: Submit) -> None:
        stream = engine.submit(call.request)
        assert isinstance(stream, Stream), "the host sends only what needs no check of the reply"
        reply = self._replies[call.number]
        reply.follow(stream)

        def notify() -> None:
            if not reply.is_due:
                reply.is_due = True
                self._outbox.put(reply)

        stream.notify_by(notify)

    def _write(self) -> None:
        """Send what is ready, as much of it together as there is."""
        is_last = False
        while not is_last:
            ready = [self._outbox.get()]
            while not self._outbox.empty():
                ready.append(self._outbox.get())
            is_last = None in ready
            messages = [message for item in ready if item and (message := self._message(item))]
            if messages:
                try:
                    write_frame(self._outgoing, pack(messages))
                except OSError:
                    os._exit(0)  # the host is gone

    def _message(self, item: FromEngine | _Reply) -> FromEngine | None:
        if not isinstance(item, _Reply):
            return item
        deliveries = item.take()
        if not deliveries:  # they went with an earlier one
            return None
        if isinstance(deliveries[-1], FinishEvent | FailureEvent):
            del self._replies[item.number]
        return Delivered(item.number, deliveries)

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """In place of the function in `warnings`: what is meant for a person goes to the host, the rest to the log."""
        if category is UserWarning:
            self._outbox.put(Warned(str(message)))
        else:
            print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)

    def _beat(self, asked: Open) -> None:
        """Say that the process lives, and end it when its host is gone or when it does not."""
        parent = os.getppid()
        while os.getppid() == parent:
            # needs no interpreter to run, so that nothing can outlive its host by being stuck
            faulthandler.dump_traceback_later(asked.hang_seconds + asked.heartbeat_seconds, exit=True, file=_STDERR)
            self._outbox.put(Heartbeat(self._step_seconds()))
            time.sleep(asked.heartbeat_seconds)
        os._exit(0)

    def _step_seconds(self) -> float:
        now = time.monotonic()
        engine = self._engine
        if engine is None or not engine.is_busy or engine.steps != self._step[0]:
            self._step = (engine.steps if engine else 0, now)
        return now - self._step[1]


def _raised(number: int, error: Exception) -> Raised:
    if not isinstance(error, EdgeError):
        message = f"The engine failed: {type(error).__name__}: {error}"
        error = EngineFailedError(message, hint="Report it if it happens twice.")
    return Raised.by(number, error)


def _start_thread(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


if __name__ == "__main__":
    main()
