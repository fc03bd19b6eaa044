"""Deliveries reach their streams in order, whoever carries them, and as soon as somebody waits for them."""

from __future__ import annotations

import threading
import time

from edge.outbox import Outbox
from edge.request import FinishEvent, Timing, TokenEvent, Usage
from edge.stream import Stream

COUNT = 200
FOREVER = 1000.0
FINISH = FinishEvent("", "stop", Usage(1, 0, COUNT, 0, 0, 0), Timing(0, 0, 0), True)


def event(number: int) -> TokenEvent:
    return TokenEvent(number, b"", str(number))


def begun(outbox: Outbox) -> Stream:
    """A stream whose first text was handed over just now."""
    stream = Stream()
    outbox.put(stream, event(0))
    outbox.deliver()
    assert stream.take() == [event(0)]
    return stream


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


def test_nothing_need_be_handed_over_until_a_screen_shows_it_anew_or_somebody_waits_for_it() -> None:
    outbox = Outbox(interval_seconds=FOREVER)
    assert outbox.unhurried_seconds < 0
    stream = begun(outbox)
    assert FOREVER - 10 < outbox.unhurried_seconds <= FOREVER
    outbox.put(stream, event(1))
    assert outbox.unhurried_seconds > FOREVER - 10
    outbox.put(stream, FINISH)
    assert outbox.unhurried_seconds == 0


def test_tokens_behind_the_first_text_wait_for_those_of_the_next_steps_as_long_as_these_come_in_time() -> None:
    outbox = Outbox(interval_seconds=FOREVER)
    stream = begun(outbox)
    for number in (1, 2):
        outbox.put(stream, event(number))
        outbox.deliver(until_next=0.001)
        assert stream.take() == []
    outbox.put(stream, event(3))
    outbox.deliver(until_next=2 * FOREVER)
    assert stream.take() == [event(1), event(2), event(3)]


def test_tokens_are_handed_over_once_they_have_waited_long_enough() -> None:
    outbox = Outbox(interval_seconds=0.05)
    stream = begun(outbox)
    outbox.put(stream, event(1))
    time.sleep(0.06)
    outbox.deliver(until_next=0.0)
    assert stream.take() == [event(1)]


def test_nothing_waits_without_an_interval() -> None:
    outbox = Outbox(interval_seconds=0)
    stream = begun(outbox)
    outbox.put(stream, event(1))
    outbox.deliver(until_next=0.0)
    assert stream.take() == [event(1)]


def test_the_first_text_is_handed_over_at_once_and_what_was_there_before_with_it() -> None:
    outbox = Outbox(interval_seconds=FOREVER)
    stream, new, has_arrived = begun(outbox), Stream(), threading.Event()
    outbox.put(stream, event(1))
    outbox.deliver(until_next=0.0)
    assert stream.take() == []
    outbox.put(new, event(2))
    new.notify_by(lambda: has_arrived.set() if new.has_text else None)
    outbox.deliver(until_next=0.0)
    assert has_arrived.wait(timeout=10)
    assert stream.take() == [event(1)]
    assert new.take() == [event(2)]
    outbox.close()


def test_a_token_without_text_is_no_first_text() -> None:
    outbox, stream = Outbox(interval_seconds=FOREVER), Stream()
    for each in (TokenEvent(7, b"\xc3", ""), event(1)):
        outbox.put(stream, each)
        outbox.deliver(until_next=0.0)
        assert stream.take() == [each]
    outbox.put(stream, event(2))
    outbox.deliver(until_next=0.0)
    assert stream.take() == []


def test_the_end_is_handed_over_at_once() -> None:
    outbox = Outbox(interval_seconds=FOREVER)
    stream = begun(outbox)
    outbox.put(stream, event(1))
    outbox.put(stream, FINISH)
    outbox.deliver(until_next=0.0)
    assert stream.take() == [event(1), FINISH]
