"""Threads that work through a list of tasks, and the progress they make."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge.devices import physical_cores
from edge.errors import EdgeError

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

    `size_bytes` is a task's share of the progress' `total_bytes`; `threads` defaults to the cores that may be used: a
    second thread of a core would share the units that all the work is done in.
    """
    count = physical_cores() if threads is None else threads
    if count < 1:
        raise EdgeError(f"{count} threads cannot do any work.", hint="Give --threads a number from 1 on.")
    queue = _TaskQueue(tasks)
    workers = [threading.Thread(target=queue.work_off, args=(work, size_bytes)) for _ in range(count)]
    try:
        for worker in workers:
            worker.start()
        is_done = False
        while not is_done:
            is_done = _wait(workers, _REPORT_SECONDS)
            if progress:
                progress(Progress(queue.done_bytes, total_bytes))
    except BaseException as error:
        queue.fail(error)  # so that the workers take no more tasks
        raise
    finally:
        for worker in workers:
            if worker.ident is not None:
                worker.join()
    if queue.failure:
        raise queue.failure


def _wait(workers: Sequence[threading.Thread], seconds: float) -> bool:
    """Wait for all workers to end; False if the time ran out first."""
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    return not any(worker.is_alive() for worker in workers)


class _TaskQueue(Generic[Task]):
    """Tasks handed out to threads one by one, and the count of bytes they have done."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()
        self.done_bytes = 0
        self.failure: BaseException | None = None

    def work_off(self, work: Callable[[Task], None], size_bytes: Callable[[Task], int]) -> None:
        """Work until there are no tasks left, or until one has failed in any thread."""
        try:
            while (task := self._take()) is not None:
                work(task)
                with self._lock:
                    self.done_bytes += size_bytes(task)
        except BaseException as error:  # handed to the thread that started this one
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Keep the first error; no task is handed out after it."""
        with self._lock:
            self.failure = self.failure or error

    def _take(self) -> Task | None:
        with self._lock:
            return None if self.failure else next(self._tasks, None)
