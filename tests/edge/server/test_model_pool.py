"""Models are loaded when they are asked for, and closed when their memory is needed or nobody uses them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from edge.errors import EdgeError
from edge.server.errors import RefusedError
from edge.server.model_pool import LoadedModel, ModelPool, ModelSource
from tests.edge.fake_engine import FakeEngine
from tests.edge.server.conftest import eventually

T = TypeVar("T")
GB = 10**9


class Shelf:
    """Models that are opened in no time, and a memory of what was opened and closed."""

    def __init__(self, **sizes: int) -> None:
        self.sources = [ModelSource(name, Path(name), memory_bytes=size) for name, size in sizes.items()]
        self.opened: list[str] = []
        self.engines: dict[str, FakeEngine] = {}
        self.may_open = threading.Event()
        self.may_open.set()
        self.failures: list[EdgeError] = []
        self.now = 0.0

    def open(self, source: ModelSource) -> LoadedModel:
        self.may_open.wait(10)
        self.opened.append(source.name)
        if self.failures:
            raise self.failures.pop()
        self.engines[source.name] = FakeEngine()
        return LoadedModel(source, self.engines[source.name], "fp")

    def pool(self, **settings: Any) -> ModelPool:
        return ModelPool(self.sources, self.open, clock=lambda: self.now, **settings)


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    return asyncio.run(main())


async def use(pool: ModelPool, name: str | None) -> str:
    async with pool.lease(name) as model:
        return model.source.name


def loaded(pool: ModelPool) -> list[str]:
    return [model.source.name for model in pool.loaded]


def test_model_is_opened_once_and_kept() -> None:
    shelf = Shelf(a=1, b=1)

    async def work() -> None:
        pool = shelf.pool()
        assert loaded(pool) == []
        assert [await use(pool, name) for name in ("a", None, "b", "a")] == ["a", "a", "b", "a"]

    run(work)
    assert shelf.opened == ["a", "b"]


def test_many_who_ask_at_once_wait_for_one_load() -> None:
    shelf = Shelf(a=1)

    async def work() -> None:
        pool = shelf.pool()
        assert await asyncio.gather(*(use(pool, "a") for _ in range(20))) == ["a"] * 20

    run(work)
    assert shelf.opened == ["a"]


def test_load_goes_on_when_who_asked_has_left() -> None:
    shelf = Shelf(a=1)

    async def work() -> None:
        pool = shelf.pool()
        shelf.may_open.clear()
        asking = asyncio.create_task(use(pool, "a"))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        shelf.may_open.set()
        assert await use(pool, "a") == "a"

    run(work)
    assert shelf.opened == ["a"]


def test_failure_to_load_is_told_and_the_next_one_tries_again() -> None:
    shelf = Shelf(a=1)
    shelf.failures.append(EdgeError("The file is broken.", hint="Get another."))

    async def work() -> None:
        pool = shelf.pool()
        with pytest.raises(EdgeError, match="The file is broken"):
            await use(pool, "a")
        assert await use(pool, "a") == "a"

    run(work)


def test_longest_unused_model_makes_room() -> None:
    shelf = Shelf(a=4 * GB, b=4 * GB, c=4 * GB)

    async def work() -> None:
        pool = shelf.pool(memory_bytes=8 * GB)
        for shelf.now, name in enumerate(("a", "b", "a")):
            await use(pool, name)
        shelf.now = 9
        await use(pool, "c")
        assert loaded(pool) == ["a", "c"]

    run(work)
    assert shelf.engines["b"].is_closed
    assert not shelf.engines["a"].is_closed


def test_model_in_use_is_not_closed_for_another() -> None:
    shelf = Shelf(a=4 * GB, b=6 * GB)

    async def work() -> None:
        pool = shelf.pool(memory_bytes=8 * GB)
        async with pool.lease("a"):
            with pytest.raises(RefusedError) as refused:
                await use(pool, "b")
            assert refused.value.message == "There is no memory for b (6.00 GB) while a is in use."
            assert (refused.value.status, refused.value.retry_seconds) == (503, 5)
        assert await use(pool, "b") == "b"
        assert loaded(pool) == ["b"]

    run(work)


def test_model_that_nobody_uses_is_closed_after_its_time() -> None:
    shelf = Shelf(a=1, b=1)

    async def work() -> None:
        pool = shelf.pool(idle_seconds=60)
        await use(pool, "a")
        shelf.now = 30
        await use(pool, "b")
        shelf.now = 61
        await pool.close_idle()
        assert loaded(pool) == ["b"]
        async with pool.lease("b"):
            shelf.now = 1000
            await pool.close_idle()
            assert loaded(pool) == ["b"]
        await pool.close_idle()
        assert loaded(pool) == ["b"]  # it was used just now
        assert await use(pool, "a") == "a"

    run(work)
    assert shelf.opened == ["a", "b", "a"]


def test_idle_models_are_looked_for_again_and_again() -> None:
    shelf = Shelf(a=1)

    async def work() -> None:
        pool = shelf.pool(idle_seconds=0.01)
        looking = asyncio.create_task(pool.keep_closing_idle())
        await use(pool, "a")
        shelf.now = 1
        while loaded(pool):
            await asyncio.sleep(0.005)
        looking.cancel()

    run(work)
    assert shelf.engines["a"].is_closed


def test_closing_waits_for_a_load_and_closes_all() -> None:
    shelf = Shelf(a=1, b=1)

    async def work() -> None:
        pool = shelf.pool()
        await use(pool, "a")
        shelf.may_open.clear()
        asking = asyncio.create_task(use(pool, "b"))
        await asyncio.sleep(0.01)
        asking.cancel()
        shelf.may_open.set()
        await pool.close()
        assert loaded(pool) == []
        eventually(lambda: set(shelf.engines) == {"a", "b"} and all(each.is_closed for each in shelf.engines.values()))

    run(work)


def test_closing_does_not_wait_for_a_load_that_takes_its_time() -> None:
    shelf = Shelf(a=1)
    shelf.may_open.clear()

    async def work() -> None:
        pool = shelf.pool()
        asking = asyncio.create_task(use(pool, "a"))
        await asyncio.sleep(0.01)
        await pool.close()
        with pytest.raises(asyncio.CancelledError):
            await asking

    run(work)
    shelf.may_open.set()
    eventually(lambda: "a" in shelf.engines and shelf.engines["a"].is_closed)


def test_names_have_to_differ() -> None:
    source = ModelSource("a", Path("a"))
    with pytest.raises(EdgeError) as refused:
        ModelPool([source, source], Shelf().open)
    assert str(refused.value) == "The models are called: a, a.\nGive one or more, each with a name of its own."
    with pytest.raises(EdgeError, match="The models are called: none"):
        ModelPool([], Shelf().open)
