"""The consumer's end of a request: iterate over its events, in a thread or in an event loop."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from edge.errors import EdgeError
from edge.request import Completion, Delivery, Event, FailureEvent, FinishEvent, TokenEvent


class Stream:
    """Events of one request, ending with a FinishEvent.

    Leaving a loop over it early cancels the request, as does `cancel`. One consumer at a time.
    """

    def __init__(self) -> None:
        self._deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._on_delivery: Callable[[], None] | None = None
        self._is_finished = False

    def __iter__(self) -> Iterator[Event]:
        try:
            while not self._is_finished:
                yield self._accept(self._deliveries.get())
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Event]:
        import asyncio  # whoever iterates asynchronously has it loaded; nobody else should wait for it

        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed while the engine was still at work
                loop.call_soon_threadsafe(arrived.set)

        self._on_delivery = notify
        try:
            while not self._is_finished:
                arrived.clear()
                try:
                    delivery = self._deliveries.get_nowait()
                except queue.Empty:
                    await arrived.wait()
                else:
                    yield self._accept(delivery)
        finally:
            self._on_delivery = None
            self.cancel()

    def text(self) -> Iterator[str]:
        """The completion's text as it grows, without empty pieces."""
        return texts_of(self)

    def result(self) -> Completion:
        """Wait for the end. EdgeError if the engine had to give the request up."""
        return completion_of(self)

    def cancel(self) -> None:
        """Let the engine drop the request at its next step. No effect once it is finished."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def deliver(self, delivery: Delivery) -> None:
        """For the engine: hand an event over. Called from its thread."""
        self._deliveries.put(delivery)
        notify = self._on_delivery
        if notify:
            notify()

    def _accept(self, delivery: Delivery) -> Event:
        if isinstance(delivery, FailureEvent):
            self._is_finished = True
            raise EdgeError(delivery.message, hint=delivery.hint)
        if isinstance(delivery, FinishEvent):
            self._is_finished = True
        return delivery


def texts_of(events: Iterable[Event]) -> Iterator[str]:
    """The text of events as it grows, without empty pieces."""
    for event in events:
        if event.text:
            yield event.text


def completion_of(events: Iterable[Event]) -> Completion:
    """What events come to. EdgeError if the last one is missing."""
    pieces: list[str] = []
    tokens: list[TokenEvent] = []
    for event in events:
        pieces.append(event.text)
        if isinstance(event, TokenEvent):
            tokens.append(event)
        else:
            logprobs = tuple(token.logprobs for token in tokens if token.logprobs)
            ids = tuple(token.token for token in tokens)
            return Completion("".join(pieces), ids, event.reason, event.usage, event.timing, logprobs, event.is_valid)
    raise EdgeError("The stream was read to its end before.", hint="Ask for the result of a stream only once.")
