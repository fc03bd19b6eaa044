"""Deliveries reach their streams in order, whoever carries them."""

from __future__ import annotations

import threading

from edge.outbox import Outbox
from edge.request import FinishEvent, Timing, TokenEvent, Usage
from edge.stream import Stream

COUNT = 200
FINISH = FinishEvent("", "stop", Usage(1, 0, COUNT, 0, 0, 0), Timing(0, 0, 0), True)


def event(number: int) -> TokenEvent:
    return TokenEvent(number, b"", str(number))


def tokens(stream: Stream) -> list[int]:
    return [each.token for each in stream if isinstance(each, TokenEvent)]


def test_each_stream_gets_its_events_in_order_with_one_stream_and_with_several() -> None:
    streams, seen = [Stream() for _ in range(4)], dict[int, list[int]]()
    readers = [
        threading.Thread(target=lambda number=number: seen.update({number: tokens(streams[number])}))  # type: ignore[misc]
        for number in range(4)
    ]
    for reader in readers:
        reader.start()
    outbox = Outbox()
    for number in range(COUNT):
        for stream in streams[: 1 if number % 3 else 4]:
            outbox.put(stream, event(number))
        outbox.deliver()
    for stream in streams:
        outbox.put(stream, FINISH)
    outbox.close()
    for reader in readers:
        reader.join(timeout=10)
    assert seen[0] == list(range(COUNT))
    assert seen[1] == seen[2] == seen[3] == list(range(0, COUNT, 3))


def test_events_of_one_stream_are_there_at_once_and_need_no_thread() -> None:
    outbox, stream, before = Outbox(), Stream(), threading.active_count()
    outbox.put(stream, event(1))
    outbox.put(stream, event(2))
    assert stream.take() == []
    outbox.deliver()
    assert stream.take() == [event(1), event(2)]
    assert threading.active_count() == before


def test_closing_hands_over_what_is_left_and_ends_the_thread() -> None:
    outbox, streams, before = Outbox(), (Stream(), Stream()), threading.active_count()
    for stream in streams:
        outbox.put(stream, event(1))
    outbox.deliver()
    assert threading.active_count() == before + 1
    for stream in streams:
        outbox.put(stream, FINISH)
    outbox.close()
    assert threading.active_count() == before
    assert [stream.take() for stream in streams] == [[event(1), FINISH]] * 2
