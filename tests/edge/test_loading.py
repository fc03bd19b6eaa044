"""An engine that is still being opened."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edge.errors import EdgeError
from edge.loading import LoadingEngine
from edge.prompt import Message
from edge.request import Request
from tests.edge.fake_engine import FakeEngine


class Gate:
    """Opens an engine once it is let through."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.is_open = threading.Event()

    def __call__(self) -> FakeEngine:
        assert self.is_open.wait(10)
        return self.engine


def test_engine_is_waited_for_by_who_needs_it_only() -> None:
    gate = Gate(FakeEngine(["Hello."], context_tokens=99))
    loading = LoadingEngine(gate)
    assert not loading.is_ready
    threading.Timer(0.01, gate.is_open.set).start()
    assert loading.context_tokens == 99
    assert loading.is_ready


def test_everything_that_an_engine_does_is_done_by_it(tmp_path: Path) -> None:
    engine = FakeEngine(["Hello."])
    loading = LoadingEngine(lambda: engine)
    tokens = loading.chat_tokens([Message("user", "Hi")])
    assert tokens == engine.chat_tokens([Message("user", "Hi")])
    assert loading.text_tokens("Hi") == engine.text_tokens("Hi")
    assert loading.default_sampling is engine.default_sampling
    assert "".join(event.text for event in loading.submit(Request(tokens))) == "Hello."
    assert loading.save_prefix(tokens, tmp_path / "a.prefix") == loading.load_prefix(tmp_path / "a.prefix")
    loading.close()
    assert engine.is_closed


def test_failure_is_raised_where_the_engine_is_needed_and_the_next_time_it_is_opened_again() -> None:
    outcomes = iter([EdgeError("There is no memory."), FakeEngine(context_tokens=99)])

    def open_engine() -> FakeEngine:
        outcome = next(outcomes)
        if isinstance(outcome, EdgeError):
            raise outcome
        return outcome

    loading = LoadingEngine(open_engine)
    with pytest.raises(EdgeError, match="There is no memory"):
        _ = loading.context_tokens
    assert loading.context_tokens == 99


def test_engine_that_is_closed_while_it_is_being_opened_is_closed_when_it_is() -> None:
    gate = Gate(FakeEngine())
    closed = threading.Event()
    gate.engine.close = closed.set  # type: ignore[method-assign]
    loading = LoadingEngine(gate)
    loading.close()
    with pytest.raises(EdgeError, match="The engine is closed"):
        _ = loading.context_tokens
    gate.is_open.set()
    assert closed.wait(10)
