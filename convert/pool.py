"""Threads that work through a list of tasks, and the progress they make."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

Task = TypeVar("Task")

_REPORT_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """How far the work is, in bytes of the source."""

    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[Progress], None]


def work_through(
    tasks: Iterator[Task],
    work: Callable[[Task], None],
    *,
    size_bytes: Callable[[Task], int],
    threads: int | None,
    total_bytes: int,
    progress: ProgressCallback | None,
) -> None:
    """Call `work` for every task, in several threads; raises the first error once all threads have ended.

    `size_bytes` is a task's share of the progress' `total_bytes`; `threads` defaults to the cores that may be used.
    """
    queue = _TaskQueue(tasks)

    def run() -> None:
        try:
            while (task := queue.take()) is not None:
                work(task)
                queue.finish(size_bytes(task))
        except BaseException as error:  # handed to the caller's thread
            queue.fail(error)

    with _Threads(threads or usable_threads(), run, queue) as running:
        is_done = False
        while not is_done:
            is_done = running.wait(_REPORT_SECONDS)
            if progress:
                progress(Progress(queue.done_bytes, total_bytes))
    if queue.failure:
        raise queue.failure


def usable_threads() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _TaskQueue(Generic[Task]):
    """Tasks handed out to threads one by one, and the count of bytes they have done."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()
        self.done_bytes = 0
        self.failure: BaseException | None = None

    def take(self) -> Task | None:
        with self._lock:
            return None if self.failure else next(self._tasks, None)

    def finish(self, done_bytes: int) -> None:
        with self._lock:
            self.done_bytes += done_bytes

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.failure = self.failure or error


class _Threads(Generic[Task]):
    """Threads that work off a queue; leaving the block ends them."""

    def __init__(self, count: int, work: Callable[[], None], queue: _TaskQueue[Task]) -> None:
        self._queue = queue
        self._threads = [threading.Thread(target=work, name=f"convert-{index}") for index in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._queue.fail(error)
        for thread in self._threads:
            thread.join()

    def wait(self, seconds: float) -> bool:
        """Wait for all threads to end; False if the time ran out first."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
