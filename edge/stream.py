"""The consumer's end of a request: iterate over its events, in a thread or in an event loop."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from edge.errors import EdgeError
from edge.request import Completion, Delivery, Event, FailureEvent, FinishEvent, TokenEvent


class Stream:
    """Events of one request, ending with a FinishEvent.

    Leaving a loop over it early cancels the request, as does `cancel`. One consumer at a time. `on_cancel` is called
    once if the consumer cancels before it has seen the end.
    """

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._deliveries: deque[Delivery] = deque()
        self._is_complete = False
        """Whether the last delivery is there."""
        self.has_text = False
        """Whether any text was delivered."""
        self._bell = _Bell()
        self._is_cancelled = False
        self._on_cancel = on_cancel
        self._on_delivery: Callable[[], None] | None = None
        self._is_finished = False

    def __iter__(self) -> Iterator[Event]:
        try:
            while not self._is_finished:
                self._bell.wait(lambda: bool(self._deliveries))
                yield self._accept(self._deliveries.popleft())
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
                if self._deliveries:
                    yield self._accept(self._deliveries.popleft())
                else:
                    await arrived.wait()
        finally:
            self._on_delivery = None
            self.cancel()

    def text(self) -> Iterator[str]:
        """The completion's text as it grows, without empty pieces."""
        return texts_of(self)

    def result(self) -> Completion:
        """Wait for the end. EdgeError if the engine had to give the request up."""
        with self._cancelling():
            self._bell.wait(lambda: self._is_complete)  # once, and not for each token
        return completion_of(self)

    def cancel(self) -> None:
        """Let the engine drop the request at its next step. No effect once it is finished."""
        was_cancelled, self._is_cancelled = self._is_cancelled, True
        if self._on_cancel and not was_cancelled and not self._is_finished:
            self._on_cancel()

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    @property
    def is_complete(self) -> bool:
        """Whether the last event was delivered; it may not have been read yet."""
        return self._is_complete

    def deliver(self, delivery: Delivery) -> None:
        """For the engine: hand an event over. Called from its thread."""
        self._deliveries.append(delivery)
        if not isinstance(delivery, TokenEvent):
            self._is_complete = True
        elif delivery.text:
            self.has_text = True
        self._bell.ring()
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
        while self._deliveries:
            taken.append(self._deliveries.popleft())
        return taken

    @contextlib.contextmanager
    def _cancelling(self) -> Iterator[None]:
        """Whatever ends the block early cancels the request."""
        try:
            yield
        except BaseException:
            self.cancel()
            raise

    def _accept(self, delivery: Delivery) -> Event:
        if isinstance(delivery, FailureEvent):
            self._is_finished = True
            raise delivery.error()
        if isinstance(delivery, FinishEvent):
            self._is_finished = True
        return delivery


class _Bell:
    """Wakes one thread, only when what it waits for has come: waking costs more than handing over a token."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._has_come: Callable[[], bool] | None = None

    def wait(self, has_come: Callable[[], bool]) -> None:
        """Return when this is true."""
        while not has_come():
            self._has_come = has_come
            if has_come():  # between the question and the wish to be woken
                break
            self._lock.acquire()
        self._has_come = None

    def ring(self) -> None:
        """Something has come. For the one thread that brings it."""
        has_come = self._has_come
        if has_come and has_come():
            self._has_come = None
            if self._lock.locked():
                self._lock.release()


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
