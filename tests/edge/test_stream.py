"""The consumer's end of a request, fed by hand where an engine would be."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator

import pytest

from edge.errors import EdgeError, EngineFailedError
from edge.request import Completion, Event, FailureEvent, FinishEvent, Timing, TokenEvent, Usage
from edge.stream import Stream

USAGE = Usage(prompt_tokens=5, cached_tokens=0, completion_tokens=2)
TIMING = Timing(queued_seconds=0.0, first_token_seconds=0.1, decode_seconds=0.5)
EVENTS = (
    TokenEvent(7, b"Hel", "Hel"),
    TokenEvent(8, "lo \xe9".encode()[:4], ""),
    FinishEvent("lo �", "stop", USAGE, TIMING),
)
FAILURE = FailureEvent("The KV cache is full.", "Ask for a longer context.")


def stream_of(*deliveries: Event | FailureEvent) -> Stream:
    stream = Stream()
    for delivery in deliveries:
        stream.deliver(delivery)
    return stream


def test_events_come_in_order_and_end_with_the_finish() -> None:
    assert tuple(stream_of(*EVENTS)) == EVENTS


def test_text_leaves_out_empty_pieces() -> None:
    assert list(stream_of(*EVENTS).text()) == ["Hel", "lo �"]


def test_result_is_the_whole_completion() -> None:
    assert stream_of(*EVENTS).result() == Completion("Hello �", (7, 8), "stop", USAGE, TIMING)


def test_result_can_be_had_only_once() -> None:
    stream = stream_of(*EVENTS)
    stream.result()
    with pytest.raises(EdgeError, match="read to its end before") as caught:
        stream.result()
    assert caught.value.hint == "Ask for the result of a stream only once."


def test_consumer_waits_for_what_another_thread_delivers() -> None:
    stream = Stream()
    consumed: list[Event] = []
    consumer = threading.Thread(target=lambda: consumed.extend(stream))
    consumer.start()
    for event in EVENTS:
        stream.deliver(event)
    consumer.join(timeout=30)
    assert tuple(consumed) == EVENTS


def test_failure_is_raised_as_an_edge_error_after_what_came_before() -> None:
    events = iter(stream_of(EVENTS[0], FAILURE))
    assert next(events) == EVENTS[0]
    with pytest.raises(EngineFailedError) as caught:
        next(events)
    assert (caught.value.message, caught.value.hint) == (FAILURE.message, FAILURE.hint)


def test_failure_that_is_the_requests_fault_is_no_failure_of_the_engine() -> None:
    with pytest.raises(EdgeError) as caught:
        list(stream_of(FailureEvent.of(EdgeError("No token is left.", hint="Give fewer biases."))))
    assert type(caught.value) is EdgeError
    assert FailureEvent.of(EngineFailedError("It died.")).kind == "engine"


def test_failure_ends_the_stream() -> None:
    stream = stream_of(FAILURE)
    with pytest.raises(EdgeError):
        stream.result()
    assert list(stream) == []


def test_leaving_the_loop_cancels_the_request() -> None:
    stream = stream_of(*EVENTS[:2])
    for _ in stream:
        assert not stream.is_cancelled
        break
    gc.collect()  # for interpreters that do not close an abandoned generator at once
    assert stream.is_cancelled


def test_reader_that_raises_cancels_the_request() -> None:
    stream = stream_of(*EVENTS[:2])

    def read() -> None:
        for _ in stream:
            raise RuntimeError("the reader failed")

    with pytest.raises(RuntimeError, match="the reader failed"):
        read()
    gc.collect()
    assert stream.is_cancelled


def test_cancelled_stream_still_delivers_up_to_its_finish() -> None:
    stream = stream_of(EVENTS[0])
    stream.cancel()
    stream.deliver(FinishEvent("", "cancelled", USAGE, TIMING))
    assert stream.result().finish_reason == "cancelled"


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def test_events_come_in_order_in_an_event_loop() -> None:
    assert tuple(asyncio.run(collect(stream_of(*EVENTS)))) == EVENTS


def test_event_loop_goes_on_while_it_waits_for_another_thread() -> None:
    stream = Stream()

    async def consume() -> list[Event]:
        task = asyncio.create_task(collect(stream))
        await asyncio.sleep(0)  # the task is waiting now, and nothing is there yet
        feeder = threading.Thread(target=lambda: [stream.deliver(event) for event in EVENTS])
        feeder.start()
        return await asyncio.wait_for(task, timeout=30)

    assert tuple(asyncio.run(consume())) == EVENTS


def test_failure_is_raised_in_an_event_loop() -> None:
    with pytest.raises(EdgeError, match=r"The KV cache is full\."):
        asyncio.run(collect(stream_of(EVENTS[0], FAILURE)))


def test_leaving_the_loop_in_an_event_loop_cancels_the_request() -> None:
    stream = stream_of(*EVENTS[:2])

    async def leave() -> None:
        async for _ in stream:
            break
        gc.collect()
        for _ in range(3):
            await asyncio.sleep(0)  # the event loop closes the abandoned generator
        assert stream.is_cancelled

    asyncio.run(leave())


def test_cancelled_task_cancels_the_request() -> None:
    stream = stream_of(EVENTS[0])

    async def give_up() -> None:
        task = asyncio.create_task(collect(stream))
        for _ in range(3):
            await asyncio.sleep(0)  # the task takes the first event and waits for another
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert stream.is_cancelled


def test_event_loop_that_was_closed_does_not_disturb_the_engine() -> None:
    stream = stream_of(EVENTS[0])
    loop = asyncio.new_event_loop()
    events = aiter(stream)
    assert loop.run_until_complete(anext(events)) == EVENTS[0]
    loop.close()
    stream.deliver(EVENTS[1])  # as the engine's thread does


# The engine's end


def test_engine_hears_once_of_a_consumer_that_leaves_early_and_not_of_one_that_saw_the_end() -> None:
    heard: list[str] = []
    left = Stream(on_cancel=lambda: heard.append("left early"))
    left.deliver(EVENTS[0])
    for _ in left:
        break
    left.cancel()
    read = Stream(on_cancel=lambda: heard.append("was read"))
    for event in EVENTS:
        read.deliver(event)
    list(read)
    assert heard == ["left early"]


def test_who_passes_events_on_is_told_of_them_and_takes_all_there_are() -> None:
    stream = stream_of(EVENTS[0])
    taken: list[list[Event | FailureEvent]] = []
    stream.notify_by(lambda: taken.append(stream.take()))
    stream.deliver(EVENTS[1])
    stream.deliver(EVENTS[2])
    assert taken == [[EVENTS[0]], [EVENTS[1]], [EVENTS[2]]]
    assert stream.take() == []
