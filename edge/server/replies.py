"""Streams of an engine, read in an event loop: no thread waits for a token.

The engine's threads only say that there is something; what was said since the last look is one wake-up of the loop, of
however many requests it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor

from edge.checked import CheckedStream
from edge.errors import EdgeError
from edge.request import Event, FailureEvent, FinishEvent
from edge.stream import Stream

Numbered = tuple[int, Event]
"""An event, and the number of the stream it is from."""


class Waker:
    """Sets events of one loop from other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[asyncio.Event] = deque()
        self._is_coming = False

    def wake(self, event: asyncio.Event) -> None:
        self._due.append(event)
        if not self._is_coming:
            self._is_coming = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
                self._loop.call_soon_threadsafe(self._set_due)

    def _set_due(self) -> None:
        self._is_coming = False  # before the look: what is added after it comes with a call of its own
        while self._due:
            self._due.popleft().set()


class Replies:
    """The events of some streams, all that have arrived at a time. To be cancelled if they are not read to their ends.

    Streams that have to be waited for, as those of replies that are checked, are iterated in threads of `threads`.
    """

    def __init__(self, streams: Sequence[Stream | CheckedStream], waker: Waker, threads: Executor) -> None:
        self._arrived = asyncio.Event()
        self._errors: dict[int, EdgeError] = {}
        self._streams = [self._followed(number, stream, threads) for number, stream in enumerate(streams)]
        self._open = dict(enumerate(self._streams))

        def notify() -> None:
            waker.wake(self._arrived)

        for stream in self._streams:
            stream.notify_by(notify)

    async def batches(self, pause_seconds: float) -> AsyncIterator[list[Numbered]]:
        """What has arrived, again and again; an empty list whenever nothing has for that long.

        Raises the EdgeError with which a stream failed.
        """
        loop = asyncio.get_running_loop()
        while self._open:
            self._arrived.clear()
            batch = self._take()
            if batch:
                yield batch
                continue
            pause = loop.call_later(pause_seconds, self._arrived.set)
            await self._arrived.wait()
            pause.cancel()
            if loop.time() >= pause.when():
                yield self._take()

    def cancel(self) -> None:
        """Let the engine drop what has not ended."""
        for stream in self._streams:
            stream.cancel()

    def _take(self) -> list[Numbered]:
        batch: list[Numbered] = []
        for number, stream in list(self._open.items()):
            for delivery in stream.take():
                if isinstance(delivery, FailureEvent):
                    raise self._errors.get(number) or delivery.error()
                if isinstance(delivery, FinishEvent):
                    del self._open[number]
                batch.append((number, delivery))
        return batch

    def _followed(self, number: int, stream: Stream | CheckedStream, threads: Executor) -> Stream:
        """The stream itself if it says when it has something, else one that a thread passes its events on to."""
        if isinstance(stream, Stream):
            return stream
        followed = Stream(on_cancel=stream.cancel)
        threads.submit(self._pass_on, number, stream, followed.deliver)
        return followed

    def _pass_on(self, number: int, stream: CheckedStream, deliver: Callable[[Event | FailureEvent], None]) -> None:
        try:
            for event in stream:
                deliver(event)
        except EdgeError as error:
            self._errors[number] = error
            deliver(FailureEvent.of(error))
        except Exception as error:  # a defect of ours: nobody may be left waiting for the end
            deliver(FailureEvent(f"The answer could not be read: {type(error).__name__}.", "Report it."))
