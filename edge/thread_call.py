"""A function that one thread asks another to run."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class ThreadCall(Generic[Result]):
    """Made by the one that waits for the result; run, or refused, by the other."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._outcome: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            self._outcome.put((self._function(), None))
        except Exception as error:
            self._outcome.put((None, error))

    def refuse(self, error: Exception) -> None:
        self._outcome.put((None, error))

    def result(self) -> Result:
        result, error = self._outcome.get()
        if error:
            raise error
        return result  # type: ignore[return-value]  # there is no error, so there is a result
