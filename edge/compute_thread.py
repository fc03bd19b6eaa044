"""The thread that decodes, for as many engines as there are.

Each thread that ever decoded keeps helpers of its own, and where there are more of them than processors, they sleep
between any two operations instead of waiting for the next: small models then take twice as long. So the engines of a
process share one thread. Those that are busy at once have the same share of its time, and not of its steps, which
differ as models do.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Stepper(Protocol):
    """What computes in steps. No method may raise."""

    @property
    def is_busy(self) -> bool:
        """Whether there is a step to make."""
        ...

    def step(self) -> None: ...

    def hand_over(self) -> None:
        """Pass on what the last step brought: something else comes before the next."""
        ...


@dataclass(eq=False)
class _Place:
    """A stepper, and how long it has computed beside those that are busy with it."""

    stepper: Stepper
    spent_seconds: float = 0.0


class ComputeThread:
    """A thread for steppers. All but `run` and `interrupt` are for its owner; these may be called from any thread."""

    def __init__(self) -> None:
        self._functions: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.interruption = bytearray(1)
        """1 once something is to be done before the next step: who makes several in one leaves it at those made."""
        self._places: list[_Place] = []
        self._thread = threading.Thread(target=self._run, name="edge-engine", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], object]) -> None:
        """Have a function, which must not raise, run in the thread between two steps; all in the order of the calls."""
        self._functions.put(function)
        self.interrupt()

    def interrupt(self) -> None:
        """Let a stepper that makes several steps in one look around before the next. For any thread."""
        self.interruption[0] = 1

    def add(self, stepper: Stepper) -> None:
        """Have a stepper's steps made in the thread from now on."""
        self.run(lambda: self._places.append(_Place(stepper)))

    def remove(self, stepper: Stepper) -> None:
        """Make no further step; returns when none is being made."""
        is_removed = threading.Event()

        def remove() -> None:
            self._places[:] = [place for place in self._places if place.stepper is not stepper]
            is_removed.set()

        self.run(remove)
        is_removed.wait()

    def close(self) -> None:
        """End the thread, after all that it was asked to run."""
        self._functions.put(None)
        self._thread.join()

    def _run(self) -> None:
        last: _Place | None = None
        together: list[_Place] = []
        while True:
            self.interruption[0] = 0  # before the question whether there is anything
            busy = [place for place in self._places if place.stepper.is_busy]
            if not busy or not self._functions.empty():
                if last:
                    last.stepper.hand_over()
                function = self._functions.get()
                if function is None:
                    return
                function()
                continue
            if len(busy) == 1:
                place = busy[0]
            else:
                if busy != together:  # who comes later need not make up for what others had before
                    for each in busy:
                        each.spent_seconds = 0.0
                place = min(busy, key=lambda each: each.spent_seconds)
            together = busy
            if last and last is not place:
                last.stepper.hand_over()
            last = place
            started = time.perf_counter()
            place.stepper.step()
            place.spent_seconds += time.perf_counter() - started


_lock = threading.Lock()
_shared: ComputeThread | None = None
_users = 0


@contextmanager
def shared_thread() -> Iterator[ComputeThread]:
    """The thread that all of this process share. The last one to leave the block ends it."""
    global _shared, _users
    with _lock:
        thread = _shared = _shared or ComputeThread()
        _users += 1
    try:
        yield thread
    finally:
        with _lock:
            _users -= 1
            is_last = not _users
            if is_last:
                _shared = None
        if is_last:
            thread.close()
