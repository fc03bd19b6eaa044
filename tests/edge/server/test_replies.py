"""Streams are read in an event loop, without a thread for each, and without a wake-up for each token."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge.checked import CheckedStream, submit_checked
from edge.constraint import Constraint
from edge.errors import EdgeError, EngineFailedError
from edge.request import FailureEvent, FinishEvent, Request, TokenEvent, Usage
from edge.server.replies import Numbered, Replies, Waker
from edge.stream import Stream
from tests.edge.fake_engine import TIMING

FINISH = FinishEvent("", "stop", Usage(1, 0, 1), TIMING)
LONG_SECONDS = 60.0


def token(text: str) -> TokenEvent:
    return TokenEvent(1, text.encode(), text)


def reading(work: Callable[[Callable[..., Replies]], Awaitable[None]]) -> None:
    """Run `work` with what makes Replies of streams."""

    async def main() -> None:
        with ThreadPoolExecutor(2) as threads:
            waker = Waker(asyncio.get_running_loop())
            await work(lambda *streams: Replies(streams, waker, threads))

    asyncio.run(main())


async def all_of(replies: Replies) -> list[Numbered]:
    return [event async for batch in replies.batches(LONG_SECONDS) for event in batch]


def test_events_come_in_order_with_the_number_of_their_stream() -> None:
    first, second = Stream(), Stream()

    async def work(make: Callable[..., Replies]) -> None:
        replies = make(first, second)
        for stream in (first, second):
            stream.deliver(token("a"))
            stream.deliver(FINISH)
        assert await all_of(replies) == [(0, token("a")), (0, FINISH), (1, token("a")), (1, FINISH)]

    reading(work)


def test_what_was_delivered_meanwhile_comes_as_one_batch() -> None:
    stream = Stream()

    async def work(make: Callable[..., Replies]) -> None:
        batches = make(stream).batches(LONG_SECONDS)
        for text in "abc":
            stream.deliver(token(text))
        assert [event for _, event in await anext(batches)] == [token("a"), token("b"), token("c")]

    reading(work)


def test_events_of_another_thread_are_all_seen() -> None:
    streams = [Stream() for _ in range(4)]

    def deliver() -> None:
        for number in range(500):
            for stream in streams:
                stream.deliver(token(str(number)))
        for stream in streams:
            stream.deliver(FINISH)

    async def work(make: Callable[..., Replies]) -> None:
        replies = make(*streams)
        thread = threading.Thread(target=deliver)
        thread.start()
        seen = await all_of(replies)
        for number in range(4):
            texts = [event.text for of, event in seen if of == number]
            assert texts == [*map(str, range(500)), ""]
        thread.join()

    reading(work)


def test_many_notices_are_one_wake_up() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        original = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *given, **_: calls.append(given) or original(*given)  # type: ignore
        waker, events = Waker(loop), [asyncio.Event() for _ in range(5)]
        for event in events:
            waker.wake(event)
        await asyncio.gather(*(event.wait() for event in events))
        assert len(calls) == 1
        waker.wake(events[0])
        assert len(calls) == 2

    asyncio.run(main())


def test_silence_is_an_empty_batch_now_and_then() -> None:
    stream = Stream()

    async def work(make: Callable[..., Replies]) -> None:
        batches = make(stream).batches(0.001)
        assert await anext(batches) == []
        assert await anext(batches) == []
        stream.deliver(FINISH)
        seen: list[Numbered] = []
        async for batch in batches:
            seen += batch
        assert seen == [(0, FINISH)]

    reading(work)


def test_failure_is_raised() -> None:
    stream = Stream()

    async def work(make: Callable[..., Replies]) -> None:
        replies = make(stream)
        stream.deliver(FailureEvent("The engine's process was ended.", "Again."))
        with pytest.raises(EngineFailedError, match="The engine's process was ended"):
            await all_of(replies)

    reading(work)


def test_replies_that_are_checked_are_waited_for_elsewhere() -> None:
    constraint = Constraint.json_schema({"type": "array", "uniqueItems": True})
    answers = iter(["[1,1]", "[1,2]"])

    def submit(request: Request) -> Stream:
        stream = Stream()
        text = next(answers)
        stream.deliver(token(text))
        stream.deliver(FINISH)
        return stream

    async def work(make: Callable[..., Replies]) -> None:
        checked = submit_checked(Request((1,), constraint=constraint), submit)
        assert isinstance(checked, CheckedStream)
        assert await all_of(make(checked)) == [(0, token("[1,2]")), (0, FINISH)]

    reading(work)


def test_error_of_a_checked_reply_keeps_its_kind() -> None:
    class Failing:
        def __iter__(self) -> object:
            raise EdgeError("None was valid.", hint="Ask.")

        def cancel(self) -> None:
            pass

    async def work(make: Callable[..., Replies]) -> None:
        with pytest.raises(EdgeError, match="None was valid") as failed:
            await all_of(make(Failing()))
        assert type(failed.value) is EdgeError

    reading(work)


def test_defect_in_a_checked_reply_leaves_nobody_waiting() -> None:
    class Failing:
        def __iter__(self) -> object:
            raise ZeroDivisionError("secret")

        def cancel(self) -> None:
            pass

    async def work(make: Callable[..., Replies]) -> None:
        with pytest.raises(EngineFailedError) as failed:
            await all_of(make(Failing()))
        assert failed.value.message == "The answer could not be read: ZeroDivisionError."

    reading(work)


def test_cancelling_reaches_every_stream() -> None:
    streams = [Stream(), Stream()]

    async def work(make: Callable[..., Replies]) -> None:
        make(*streams).cancel()

    reading(work)
    assert all(stream.is_cancelled for stream in streams)


def test_notice_after_the_loop_has_ended_does_no_harm() -> None:
    stream = Stream()

    async def work(make: Callable[..., Replies]) -> None:
        make(stream)

    reading(work)
    stream.deliver(FINISH)
    assert stream.take() == [FINISH]
