"""What the loop has to tell its consumers, handed over while the next step is computed.

A consumer that is woken for a token costs a small model more than the choice of that token. So in the midst of answers
tokens are handed over as often as a screen shows them anew; what somebody waits for goes at once, as do all tokens
where a step takes longer than that.

To wake a waiting thread takes longer than to choose a token, and the one that is woken wants the interpreter's lock at
once. So where several are to be woken after a step, a thread of its own does that: the loop wakes this one only, and is
in the decode, without the lock, when the others come for it.
"""

from __future__ import annotations

import queue
import threading
import time
from math import inf

from edge.request import Delivery, TokenEvent
from edge.stream import Stream

DELIVERY_SECONDS = 0.016
"""Time between two frames of a screen."""

_Letters = list[tuple[Stream, Delivery]]


class Outbox:
    """For the loop's thread; each stream gets its deliveries in order.

    `interval_seconds` is how long a token may wait for others to go with; 0 for not at all.
    """

    def __init__(self, interval_seconds: float = DELIVERY_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._letters: _Letters = []
        self._is_urgent = False
        self._last_time = -inf
        self._bags: queue.SimpleQueue[_Letters | None] = queue.SimpleQueue()
        self._handed_bags = self._carried_bags = 0
        self._carrier: threading.Thread | None = None

    def put(self, stream: Stream, delivery: Delivery) -> None:
        """What somebody waits for, the first text of an answer and its end, lets all that is there go at once."""
        self._letters.append((stream, delivery))
        self._is_urgent = self._is_urgent or not stream.has_text or not isinstance(delivery, TokenEvent)

    def deliver(self, until_next: float = inf) -> None:
        """Hand over, or have handed over soon, what was put in since the last time.

        Tokens may be kept until the next call if that comes in time: `until_next` are the seconds until then.
        """
        letters = self._letters
        if not letters:
            return
        now = time.perf_counter()
        if not self._is_urgent and now + until_next < self._last_time + self._interval_seconds:
            return
        self._letters = []
        self._is_urgent = False
        self._last_time = now
        is_for_one = all(stream is letters[0][0] for stream, _ in letters)
        if is_for_one and self._handed_bags == self._carried_bags:
            _hand_over(letters)
            return
        if self._carrier is None:
            self._carrier = threading.Thread(target=self._carry, name="edge-outbox", daemon=True)
            self._carrier.start()
        self._handed_bags += 1
        self._bags.put(letters)

    @property
    def unhurried_seconds(self) -> float:
        """How long nothing need be handed over, if nothing urgent is put in."""
        return 0.0 if self._is_urgent else self._last_time + self._interval_seconds - time.perf_counter()

    def close(self) -> None:
        """Hand over everything, and end the thread."""
        self.deliver()
        if self._carrier:
            self._bags.put(None)
            self._carrier.join()
            self._carrier = None

    def _carry(self) -> None:
        while letters := self._bags.get():
            _hand_over(letters)
            self._carried_bags += 1


def _hand_over(letters: _Letters) -> None:
    for stream, delivery in letters:
        stream.deliver(delivery)
