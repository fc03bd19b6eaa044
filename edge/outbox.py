"""What the loop has to tell its consumers, handed over while the next step is computed.

To wake a waiting thread takes longer than to choose a token, and the one that is woken wants the interpreter's lock at
once. So where several are to be woken after a step, a thread of its own does that: the loop wakes this one only, and is
in the decode, without the lock, when the others come for it.
"""

from __future__ import annotations

import queue
import threading

from edge.request import Delivery
from edge.stream import Stream

_Letters = list[tuple[Stream, Delivery]]


class Outbox:
    """For the loop's thread; each stream gets its deliveries in order."""

    def __init__(self) -> None:
        self._letters: _Letters = []
        self._bags: queue.SimpleQueue[_Letters | None] = queue.SimpleQueue()
        self._handed_bags = self._carried_bags = 0
        self._carrier: threading.Thread | None = None

    def put(self, stream: Stream, delivery: Delivery) -> None:
        self._letters.append((stream, delivery))

    def deliver(self) -> None:
        """Hand over, or have handed over soon, what was put in since the last time."""
        letters = self._letters
        if not letters:
            return
        self._letters = []
        is_for_one = all(stream is letters[0][0] for stream, _ in letters)
        if is_for_one and self._handed_bags == self._carried_bags:
            _hand_over(letters)
            return
        if self._carrier is None:
            self._carrier = threading.Thread(target=self._carry, name="edge-outbox", daemon=True)
            self._carrier.start()
        self._handed_bags += 1
        self._bags.put(letters)

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
