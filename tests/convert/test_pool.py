"""Threads that work through tasks: all of them once, the first error, an end to every thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from convert.pool import Progress, ProgressCallback, work_through
from edge.errors import EdgeError


def run(
    tasks: Iterator[int],
    work: Callable[[int], None],
    *,
    threads: int | None = 3,
    progress: ProgressCallback | None = None,
) -> None:
    work_through(tasks, work, size_bytes=lambda task: 10 * task, threads=threads, total_bytes=450, progress=progress)


@pytest.mark.parametrize("threads", [None, 1, 2, 20])
def test_every_task_is_done_once(threads: int | None) -> None:
    done: list[int] = []
    run(iter(range(1, 200)), done.append, threads=threads)
    assert sorted(done) == list(range(1, 200))


def test_threads_default_to_the_cores_and_not_to_what_shares_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.pool.physical_cores", lambda: 3)
    names = set()
    barrier = threading.Barrier(3)

    def work(task: int) -> None:
        barrier.wait(timeout=60)  # passes only when that many threads work at once
        names.add(threading.current_thread().name)

    run(iter(range(1, 3 + 1)), work, threads=None)
    assert len(names) == 3


def test_no_tasks_are_done_at_once() -> None:
    reports: list[Progress] = []
    run(iter([]), lambda task: None, progress=reports.append)
    assert reports == [Progress(0, 450)]


@pytest.mark.parametrize("threads", [0, -3])
def test_no_threads_would_leave_the_tasks_undone_and_are_refused(threads: int) -> None:
    with pytest.raises(EdgeError) as caught:
        run(iter([1]), lambda task: None, threads=threads)
    assert caught.value.message == f"{threads} threads cannot do any work."
    assert caught.value.hint == "Give --threads a number from 1 on."


def test_progress_counts_what_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.pool._REPORT_SECONDS", 0.001)
    reports: list[Progress] = []
    reported = threading.Event()

    def report(progress: Progress) -> None:
        reports.append(progress)
        reported.set()

    def work(task: int) -> None:
        reported.clear()
        assert reported.wait(timeout=60)  # so that there is a report during each task

    run(iter(range(1, 10)), work, threads=1, progress=report)
    done = [progress.done_bytes for progress in reports]
    assert done == sorted(done)
    assert {0, 10, 30, 60, 100, 150, 210, 280, 360, 450} >= set(done)
    assert len(set(done)) > 5
    assert reports[-1] == Progress(450, 450)


def test_error_of_a_task_is_raised_and_the_tasks_after_it_are_not_begun() -> None:
    begun: list[int] = []

    def work(task: int) -> None:
        begun.append(task)
        if task == 3:
            raise EdgeError("three")

    with pytest.raises(EdgeError, match="three"):
        run(iter(range(1, 100)), work, threads=1)
    assert begun == [1, 2, 3]


def test_error_of_the_tasks_themselves_is_raised() -> None:
    def tasks() -> Iterator[int]:
        yield 1
        raise EdgeError("no more tasks")

    with pytest.raises(EdgeError, match="no more tasks"):
        run(tasks(), lambda task: None)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EdgeError("the bar broke")])
def test_no_thread_outlives_an_interrupt(error: BaseException) -> None:
    """Whoever cleans up after it must not have a thread write on."""
    workers: set[threading.Thread] = set()

    def work(task: int) -> None:
        workers.add(threading.current_thread())

    def progress(progress: Progress) -> None:
        raise error

    with pytest.raises(type(error)):
        run(itertools.count(1), work, progress=progress)
    assert workers
    assert not any(worker.is_alive() for worker in workers)


def test_interrupt_while_threads_start_ends_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    original = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if len(started) == 2:
            raise KeyboardInterrupt
        original(self)
        started.append(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        run(itertools.count(1), lambda task: None)
    assert [thread.is_alive() for thread in started] == [False, False]
