"""The consumer's end of a request: iterate over its events, in a thread or in an event loop."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from edge.errors import EdgeError
from edge.request import Completion, Delivery, Event, FailureEvent, FinishEvent, TokenEvent


class Stream:
    """Events of one request, ending with a FinishEvent.

    Leaving a loop over it early cancels the request, as does `cancel`. One consumer at a time. `on_cancel` is called
    once if the consumer cancels before it has seen the end.
    """

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._is_cancelled = False
        self._on_cancel = on_cancel
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
        was_cancelled, self._is_cancelled = self._is_cancelled, True
        if self._on_cancel and not was_cancelled and not self._is_finished:
            self._on_cancel()

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def deliver(self, delivery: Delivery) -> None:
        """For the engine: hand an event over. Called from its thread."""
        self._deliveries.put(delivery)
        notify = self._on_delivery
        if notify:
            notify()

    def notify_by(self, notify: Callable[[], None]) -> None:
        """For who passes events on instead of iterating: `notify` is called now and after each delivery.

        It is called from the engine's thread, and should only say to another one that there is something to take.
        """
        self._on_delivery = notify
        notify()

    def take(self) -> list[Delivery]:
        """What was delivered and not consumed yet, without waiting."""
        taken: list[Delivery] = []
        while not self._deliveries.empty():
            taken.append(self._deliveries.get())
        return taken

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
