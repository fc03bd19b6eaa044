"""The thread that several engines share: each has its part of the time, and none waits for another's end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.compute_thread import ComputeThread, shared_thread
from edge.local_engine import LocalEngine
from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings


class Steps:
    """Makes so many steps that take so long, and writes down what it was asked to do."""

    def __init__(self, name: str, log: list[str], *, count: int = 0, seconds: float = 0.0) -> None:
        self.name = name
        self.log = log
        self.count = count
        self.seconds = seconds
        self.threads: set[int] = set()
        self.is_done = threading.Event()

    @property
    def is_busy(self) -> bool:
        return self.count > 0

    def step(self) -> None:
        self.threads.add(threading.get_ident())
        self.log.append(self.name)
        time.sleep(self.seconds)
        self.count -= 1
        if not self.count:
            self.is_done.set()

    def hand_over(self) -> None:
        self.log.append(f"{self.name} hands over")


@pytest.fixture
def thread() -> Iterator[ComputeThread]:
    thread = ComputeThread()
    yield thread
    thread.close()


def test_a_function_that_waits_interrupts_the_step_that_is_made(thread: ComputeThread) -> None:
    seen: list[int] = []
    is_run = threading.Event()

    class Patient(Steps):
        def step(self) -> None:
            seen.append(thread.interruption[0])
            if len(seen) == 2:
                thread.run(is_run.set)
                seen.append(thread.interruption[0])
            super().step()

    thread.add(Patient("patient", [], count=3))
    assert is_run.wait(10)
    assert seen[:3] == [0, 0, 1]
    while thread.interruption[0]:  # until it looked around
        time.sleep(0.001)


def test_those_who_are_busy_together_have_the_same_share_of_the_time(thread: ComputeThread) -> None:
    log: list[str] = []
    large, small = Steps("large", log, count=4, seconds=0.05), Steps("small", log, count=20, seconds=0.01)
    is_ready = threading.Event()
    thread.run(is_ready.wait)
    for steps in (large, small):
        thread.add(steps)
    is_ready.set()
    for steps in (large, small):
        assert steps.is_done.wait(timeout=30)
    turns = [name for name in log if "hands" not in name]
    assert (
        3 <= turns[: turns.index("large", 1)].count("small") <= 7
    )  # about the five that a step of the large one takes
    assert large.threads == small.threads
    assert len(large.threads) == 1


def test_what_a_step_brought_is_handed_over_before_another_steps_or_nobody_does(thread: ComputeThread) -> None:
    log: list[str] = []
    is_ready = threading.Event()
    thread.run(is_ready.wait)
    first, second = Steps("first", log, count=1), Steps("second", log, count=2)
    thread.add(first)
    thread.add(second)
    is_ready.set()
    assert first.is_done.wait(timeout=30)
    assert second.is_done.wait(timeout=30)
    thread.run(lambda: log.append("function"))
    thread.remove(first)
    assert log[: log.index("function") + 1] == [
        "first",
        "first hands over",
        "second",
        "second",
        "second hands over",
        "function",
    ]


def test_nothing_is_made_of_who_was_removed(thread: ComputeThread) -> None:
    steps = Steps("one", [], count=10**9)
    thread.add(steps)
    thread.remove(steps)
    left = steps.count
    thread.run(lambda: None)
    time.sleep(0.05)
    assert steps.count == left > 0


def test_the_shared_thread_ends_with_the_last_who_uses_it() -> None:
    with shared_thread() as outer:
        with shared_thread() as inner:
            assert inner is outer
        has_run, threads = threading.Event(), list[threading.Thread]()
        outer.run(lambda: threads.append(threading.current_thread()))
        outer.run(has_run.set)
        assert has_run.wait(timeout=30)
    assert not threads[0].is_alive()
    with shared_thread() as later:
        assert later is not outer


def test_engines_of_one_process_answer_at_the_same_time_in_one_thread(tiny_gguf: Path) -> None:
    settings = ModelSettings(context_tokens=256, threads=1)
    with LocalEngine(tiny_gguf, settings) as one, LocalEngine(tiny_gguf, settings) as other:
        assert one.compute(threading.get_ident) == other.compute(threading.get_ident) != threading.get_ident()
        request = Request(
            one.text_tokens("Bees"), sampling=SamplingSettings(temperature=0), max_tokens=40, ignore_eos=True
        )
        streams = [engine.submit(request) for engine in (one, other)]
        texts = [stream.result().text for stream in streams]
        assert texts[0] == texts[1]
        one.close()
        assert other.submit(request).result().text == texts[0]
