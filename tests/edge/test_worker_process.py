"""When the engine's process sends what: at once if somebody waits for it, else not more often than a screen shows."""

from __future__ import annotations

import io
import threading
import time

from edge.request import FinishEvent, Timing, TokenEvent, Usage
from edge.stream import Stream
from edge.wire import Delivered, Heartbeat, Returned
from edge.worker_process import _Reply, _Server

FINISH = FinishEvent("", "stop", Usage(1, 0, 1, 0, 0, 0), Timing(0, 0, 0), True)
LATER = 0.2  # seconds: far more than a step of this test takes


def server_with_reply() -> tuple[_Server, _Reply, Stream]:
    server, reply, stream = _Server(io.BytesIO(), io.BytesIO()), _Reply(1), Stream()
    reply.follow(stream)
    server._replies[1] = reply
    return server, reply, stream


def deliver(server: _Server, reply: _Reply, stream: Stream, text: str) -> None:
    stream.deliver(TokenEvent(5, text.encode(), text))
    reply.is_due = True
    server._outbox.put(reply)


def begin(server: _Server, reply: _Reply, stream: Stream) -> None:
    deliver(server, reply, stream, "one")
    (item,) = server._ready(0)
    assert server._message(item) == Delivered(1, [TokenEvent(5, b"one", "one")])  # type: ignore[arg-type]


def seconds_until_ready(server: _Server) -> float:
    started = time.monotonic()
    server._ready(started + LATER)
    return time.monotonic() - started


def test_first_text_is_sent_at_once() -> None:
    server, reply, stream = server_with_reply()
    deliver(server, reply, stream, "")
    assert seconds_until_ready(server) < LATER / 2
    server._message(reply)
    deliver(server, reply, stream, "one")  # a token without text is nothing that could be shown
    assert seconds_until_ready(server) < LATER / 2


def test_tokens_after_it_wait_for_their_time_and_go_together() -> None:
    server, reply, stream = server_with_reply()
    begin(server, reply, stream)
    deliver(server, reply, stream, "two")
    timer = threading.Timer(LATER / 4, stream.deliver, [TokenEvent(6, b"three", "three")])
    timer.start()
    assert seconds_until_ready(server) >= LATER * 0.9
    timer.join()
    assert [each.text for each in reply.take()] == ["two", "three"]  # type: ignore[union-attr]


def test_end_of_an_answer_is_sent_at_once() -> None:
    server, reply, stream = server_with_reply()
    begin(server, reply, stream)
    deliver(server, reply, stream, "two")

    def end() -> None:
        stream.deliver(FINISH)
        server._outbox.put(reply)

    timer = threading.Timer(LATER / 4, end)
    timer.start()
    assert seconds_until_ready(server) < LATER * 0.9
    timer.join()
    assert reply.take()[-1] == FINISH


def test_result_of_a_call_is_sent_at_once_and_a_sign_of_life_is_not() -> None:
    server, _, _ = server_with_reply()
    server._outbox.put(Heartbeat(0.0))
    assert seconds_until_ready(server) >= LATER * 0.9
    server._outbox.put(Heartbeat(0.0))
    server._outbox.put(Returned(3, ()))
    assert seconds_until_ready(server) < LATER / 2
